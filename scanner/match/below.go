package match

import (
	"fmt"

	"github.com/anchore/grype/grype/pkg"
	"github.com/anchore/grype/grype/version"
	syftpkg "github.com/anchore/syft/syft/pkg"
)

// Below says whether a version of a package, of one of Syft's types, comes before another, by
// the rules of its ecosystem: the ones that matching goes by. A version that those rules cannot
// read is an error.
func Below(kind, have, limit string) (bool, error) {
	format := pkg.VersionFormat(pkg.Package{Type: syftpkg.Type(kind)})
	if kind == string(syftpkg.NpmPkg) || kind == string(syftpkg.RustPkg) {
		format = version.SemanticFormat
	}
	order, err := version.New(have, format).Compare(version.New(limit, format))
	if err != nil {
		return false, fmt.Errorf("comparing versions of a %s package: %w", kind, err)
	}
	return order < 0, nil
}
