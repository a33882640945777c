package scanner

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/anchore/syft/syft/linux"
)

var distroPattern = regexp.MustCompile(`^([a-z][a-z0-9._-]{0,39})(?::([A-Za-z0-9][A-Za-z0-9._-]{0,39}))?$`)

// parseDistro reads a distribution as its os-release has it, ID:VERSION or, where it has no
// versions, ID: debian:12, alpine:3.19, debian:sid, wolfi.
func parseDistro(s string) (*linux.Release, error) {
	m := distroPattern.FindStringSubmatch(s)
	if m == nil {
		return nil, fmt.Errorf("%w: %.80q is no distribution, such as debian:12: ID and VERSION_ID of its /etc/os-release", ErrInput, s)
	}
	r := &linux.Release{ID: m[1], PrettyName: strings.TrimSpace(m[1] + " " + m[2])}
	if strings.ContainsAny(m[2], "0123456789") {
		r.VersionID = m[2]
	} else {
		r.VersionCodename = m[2]
	}
	return r, nil
}

// saysDistro writes into the SBOM what distribution its packages are of, so that it is
// still known where the SBOM is stored and matched again.
func (o *Outcome) saysDistro(s string) error {
	r, err := parseDistro(s)
	if err != nil {
		return err
	}
	was := distroText(o.SBOM)
	o.SBOM.Artifacts.LinuxDistribution = r
	if is := distroText(o.SBOM); was != "" && was != is {
		o.Scan.Warnings = append(o.Scan.Warnings, fmt.Sprintf("it says that it is %s; its packages are taken for those of %s, as was asked", was, is))
	}
	return nil
}
