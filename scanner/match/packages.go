package match

import (
	"slices"
	"strings"

	"github.com/anchore/grype/grype/distro"
	"github.com/anchore/grype/grype/pkg"
	"github.com/anchore/packageurl-go"
	"github.com/anchore/syft/syft/artifact"
	syftpkg "github.com/anchore/syft/syft/pkg"
	"github.com/anchore/syft/syft/sbom"
	"github.com/anchore/syft/syft/source"
)

// packagesOf does what Grype's pkg.Provide does with an SBOM.
func packagesOf(s sbom.SBOM) ([]pkg.Package, pkg.Context) {
	channels := distro.DefaultFixChannels()
	src := s.Source
	pkgContext := pkg.Context{Source: &src, Distro: distro.FromRelease(s.Artifacts.LinuxDistribution, channels)}
	pkgContext.DistroDetectionFailed = s.Artifacts.LinuxDistribution != nil && pkgContext.Distro == nil
	if s.Artifacts.Packages == nil {
		return nil, pkgContext
	}
	// An SBOM of Syft tells distribution and source packages outright. Others tell source
	// packages, and perhaps the distribution, in the PURLs alone, where Grype then reads them.
	enhancers := []pkg.Enhancer{upstreamsFromPURL}
	if s.Artifacts.LinuxDistribution == nil {
		enhancers = append(enhancers, distroFromPURL)
	}
	packages := pkg.FromCollection(s.Artifacts.Packages, s.Relationships, pkg.SynthesisConfig{
		Distro: pkg.DistroConfig{FixChannels: channels},
	}, enhancers...)

	if pkgContext.Distro == nil {
		pkgContext.Distro = onlyDistro(packages)
	}
	if pkgContext.Distro != nil {
		for _, p := range packages {
			if p.Distro == nil {
				p.Distro = pkgContext.Distro
			}
		}
	}
	packages = slices.DeleteFunc(packages, func(p *pkg.Package) bool {
		return slices.ContainsFunc(p.RelatedPackages[artifact.OwnershipByFileOverlapRelationship], func(owner *pkg.Package) bool {
			return coveredBy(p, owner)
		})
	})
	return pkg.FromPtrs(packages), pkgContext
}

// onlyDistro is the distribution of the packages, where they agree on one.
func onlyDistro(packages []*pkg.Package) *distro.Distro {
	var one *distro.Distro
	for _, p := range packages {
		switch d := p.Distro; {
		case d == nil:
		case one == nil:
			one = d
		case one.Type != d.Type || one.Version != d.Version || one.Codename != d.Codename:
			return nil
		}
	}
	return one
}

// coveredBy says that a package is a part of an OS package whose distribution
// reports on it, such as the Python egg in a python3-… deb.
func coveredBy(p, owner *pkg.Package) bool {
	if owner == nil || owner.Distro == nil {
		return false
	}
	if !strings.HasPrefix(owner.Version, p.Version) && !strings.HasPrefix(p.Version, owner.Version) {
		return false
	}
	if comprehensive(owner.Distro) && ofSystem(owner) && !ofSystem(p) {
		return true
	}
	return p.Type == syftpkg.BinaryPkg
}

// comprehensive says that a distribution also reports what it has not fixed.
func comprehensive(d *distro.Distro) bool {
	if d.Type == distro.AmazonLinux {
		return false
	}
	names := append([]string{d.Name()}, d.IDLike...)
	for _, t := range []distro.Type{
		distro.ArchLinux, distro.Azure, distro.Debian, distro.Mariner, distro.RedHat, distro.SLES, distro.Ubuntu,
	} {
		if slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, string(t)) }) {
			return true
		}
	}
	return false
}

func ofSystem(p *pkg.Package) bool {
	switch p.Type {
	case syftpkg.DebPkg, syftpkg.RpmPkg, syftpkg.PortagePkg, syftpkg.AlpmPkg, syftpkg.ApkPkg:
		return true
	}
	return false
}

// upstreamsFromPURL reads the source package, as in "…?upstream=openssl@3.0.1".
func upstreamsFromPURL(out *pkg.Package, purl packageurl.PackageURL, p syftpkg.Package) {
	if len(out.Upstreams) > 0 {
		return
	}
	var upstreams []pkg.UpstreamPackage
	for _, q := range purl.Qualifiers {
		if q.Key != syftpkg.PURLQualifierUpstream {
			continue
		}
		u, ok := upstream(purl.Name, q.Value, p.Type)
		if ok && !slices.Contains(upstreams, u) {
			upstreams = append(upstreams, u)
		}
	}
	out.Upstreams = upstreams
}

func upstream(name, value string, t syftpkg.Type) (u pkg.UpstreamPackage, ok bool) {
	if t == syftpkg.RpmPkg {
		// name-version-release.src.rpm
		base, isRPM := strings.CutSuffix(value, ".rpm")
		if i := strings.LastIndexByte(base, '.'); isRPM && i > 0 {
			base = base[:i]
		} else {
			return u, false
		}
		r := strings.LastIndexByte(base, '-')
		if r < 0 {
			return u, false
		}
		v := strings.LastIndexByte(base[:r], '-')
		if v < 0 {
			return u, false
		}
		u = pkg.UpstreamPackage{Name: base[:v], Version: base[v+1:]}
		return u, u.Name != name
	}
	fields := strings.Split(value, "@")
	if len(fields) > 2 || fields[0] == name {
		return u, false
	}
	u.Name = fields[0]
	if len(fields) == 2 {
		u.Version = fields[1]
	}
	return u, true
}

// distroFromPURL reads the distribution, as in "…?distro=debian-12".
func distroFromPURL(out *pkg.Package, purl packageurl.PackageURL, _ syftpkg.Package) {
	if out.Distro != nil {
		return
	}
	for _, q := range purl.Qualifiers {
		if q.Key != syftpkg.PURLQualifierDistro {
			continue
		}
		if name, version := distro.ParseDistroString(q.Value); name != "" {
			out.Distro = distro.NewFromNameVersion(name, version)
		}
	}
}

// layerOrder numbers the layers of an image from the lowest.
func layerOrder(s sbom.SBOM) map[string]int {
	m, ok := s.Source.Metadata.(source.ImageMetadata)
	if !ok {
		return nil
	}
	order := make(map[string]int, len(m.Layers))
	for i, l := range m.Layers {
		if _, seen := order[l.Digest]; !seen {
			order[l.Digest] = i
		}
	}
	return order
}
