package scanner

import "golang.org/x/sys/unix"

// isOpaque says whether overlayfs hides what the folders below hold. Where the process
// may not see it, it is false.
func isOpaque(folder string) bool {
	b := make([]byte, 1)
	for _, name := range []string{"trusted.overlay.opaque", "user.overlay.opaque"} {
		if n, err := unix.Lgetxattr(folder, name, b); err == nil && n == 1 && b[0] == 'y' {
			return true
		}
	}
	return false
}

// seesOpaque says whether the kernel shows trusted attributes to this process.
func seesOpaque() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}
