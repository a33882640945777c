package documents

import (
	"fmt"
	"net/url"
	"strings"
)

// ParsePURL splits a package URL (https://github.com/package-url/purl-spec)
// into the part that names the package, "type/namespace/name" with its
// percent-encoding undone, and the version, which may be empty. Qualifiers and
// subpath are dropped.
func ParsePURL(s string) (name, version string, err error) {
	rest, ok := strings.CutPrefix(s, "pkg:")
	if !ok {
		return "", "", fmt.Errorf("%.80q is no package URL: it has no pkg: in front", s)
	}
	rest, _, _ = strings.Cut(rest, "#")
	rest, _, _ = strings.Cut(rest, "?")
	rest = strings.Trim(rest, "/")
	if i := strings.LastIndexByte(rest, '@'); i > strings.LastIndexByte(rest, '/') {
		if version, err = url.PathUnescape(rest[i+1:]); err != nil {
			return "", "", fmt.Errorf("%.80q is no package URL: %w", s, err)
		}
		rest = rest[:i]
	}
	if name, err = url.PathUnescape(rest); err != nil {
		return "", "", fmt.Errorf("%.80q is no package URL: %w", s, err)
	}
	kind, path, found := strings.Cut(name, "/")
	if !found || kind == "" || path == "" {
		return "", "", fmt.Errorf("%.80q is no package URL: it needs a type and a name, as in pkg:npm/lodash", s)
	}
	return strings.ToLower(kind) + "/" + path, version, nil
}
