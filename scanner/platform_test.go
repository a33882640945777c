package scanner

import (
	"testing"

	"github.com/containerd/platforms"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The normal form of platforms is that of containerd.
func TestPlatformsAreThoseOfContainerd(t *testing.T) {
	for _, os := range []string{"linux", "Linux", "macos", "windows"} {
		for _, arch := range []string{"amd64", "x86_64", "x86-64", "i386", "386", "arm64", "aarch64", "ARM64", "arm", "armhf", "armel", "s390x", "riscv64"} {
			for _, variant := range []string{"", "v1", "V2", "5", "6", "7", "8", "v7", "v8", "v8.0", "9", "9.0", "v9.0"} {
				want := platforms.Format(platforms.Normalize(ocispec.Platform{OS: os, Architecture: arch, Variant: variant}))
				if got := platformText(&v1.Platform{OS: os, Architecture: arch, Variant: variant}); got != want {
					t.Errorf("%s/%s/%s: %s, containerd says %s", os, arch, variant, got, want)
				}
			}
		}
	}
}
