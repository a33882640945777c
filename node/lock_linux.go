package node

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// lock takes a file that one process may hold; it is free when the process ends in whatever way.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.New("another agent uses it")
		}
		return nil, err
	}
	return func() { f.Close() }, nil
}
