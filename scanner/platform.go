package scanner

import (
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/assay-dev/assay/api"
)

// parsePlatform normalises "linux/arm64", "linux/arm/v7" or "arm64" (Linux).
func parsePlatform(s string) (string, error) {
	parts := strings.Split(s, "/")
	if len(parts) == 1 {
		parts = []string{"linux", s}
	}
	p := v1.Platform{}
	ok := len(parts) == 2 || len(parts) == 3
	for _, part := range parts {
		ok = ok && part != "" && !strings.ContainsFunc(part, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-", r)
		})
	}
	if !ok {
		return "", fmt.Errorf("%w: platform %.40q: it is written as linux/amd64 or linux/arm/v7", ErrInput, s)
	}
	p.OS, p.Architecture = parts[0], parts[1]
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return platformText(&p), nil
}

// platformText is the normal form of a platform: linux/arm64/v8 is
// linux/arm64, and linux/arm is linux/arm/v7. It is empty when the platform
// is not known.
func platformText(p *v1.Platform) string {
	if p == nil {
		return ""
	}
	return api.PlatformText(p.OS, p.Architecture, p.Variant)
}

func configPlatform(c *v1.ConfigFile) *v1.Platform {
	return &v1.Platform{OS: c.OS, Architecture: c.Architecture, Variant: c.Variant}
}
