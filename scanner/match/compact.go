package match

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"fmt"

	"github.com/anchore/grype/grype/distro"
	"github.com/anchore/grype/grype/pkg"
	"github.com/anchore/syft/syft/artifact"
	"github.com/anchore/syft/syft/cpe"
	syftpkg "github.com/anchore/syft/syft/pkg"
	"github.com/anchore/syft/syft/sbom"
)

// Version names what matches depend on beside the packages and the database: this
// package, Grype, and Syft, whose packages it reads. Packages of another version, and
// matches made by it, are made anew.
const Version = "2 grype/v0.120.1 syft/v1.54.1"

// Packages are what matching needs of an SBOM: some 40 KB for 670 packages once they are
// compressed, and read a hundred times faster than the SBOM.
type Packages struct {
	rows []row
	// distro is the distribution that the SBOM names, in words; "" where it names none.
	distro string
}

// kept is how Packages are written.
type kept struct {
	Rows   []row
	Distro string
}

// row is a package in an SBOM.
type row struct {
	// Content is JSON of all that its matches depend on: equal packages have equal bytes.
	Content []byte
	// Paths show the package, Layer is the lowest layer with one.
	Paths []string
	Layer string
	// Related are the packages that it is related to, by their places in the list.
	Related map[artifact.RelationshipType][]int
}

// content is a package of Grype without the place where it is.
type content struct {
	Name      string                `json:"n"`
	Version   string                `json:"v"`
	Type      syftpkg.Type          `json:"t"`
	Language  syftpkg.Language      `json:"l,omitempty"`
	PURL      string                `json:"p,omitempty"`
	Distro    *release              `json:"d,omitempty"`
	CPEs      []cpe.CPE             `json:"c,omitempty"`
	Upstreams []pkg.UpstreamPackage `json:"u,omitempty"`
	// Kind names the type of Metadata.
	Kind     string              `json:"k,omitempty"`
	Metadata json.RawMessage     `json:"m,omitempty"`
	Symbols  map[string][]string `json:"s,omitempty"` // of a Go binary
}

// release is a distribution of Grype, whose own fields are not all public.
type release struct {
	Type     distro.Type `json:"t"`
	Version  string      `json:"v,omitempty"`
	Codename string      `json:"c,omitempty"`
	Channels []string    `json:"ch,omitempty"`
	IDLike   []string    `json:"l,omitempty"`
}

// kinds are the metadata that Grype has of packages.
var kinds = map[string]func() any{
	"apk":       func() any { return new(pkg.ApkMetadata) },
	"go-binary": func() any { return new(pkg.GolangBinMetadata) },
	"go-module": func() any { return new(pkg.GolangModMetadata) },
	"go-source": func() any { return new(pkg.GolangSourceMetadata) },
	"java":      func() any { return new(pkg.JavaMetadata) },
	"jvm":       func() any { return new(pkg.JavaVMInstallationMetadata) },
	"rpm":       func() any { return new(pkg.RpmMetadata) },
}

// PackagesOf are the packages of an SBOM that are matched.
func PackagesOf(s sbom.SBOM) (Packages, error) {
	list, _ := packagesOf(s)
	places := make(map[pkg.ID]int, len(list))
	for i := range list {
		places[list[i].ID] = i
	}
	layers := layerOrder(s)
	out := Packages{rows: make([]row, len(list)), distro: releaseText(s.Artifacts.LinuxDistribution)}
	for i := range list {
		p := &list[i]
		text, err := encode(p)
		if err != nil {
			return Packages{}, fmt.Errorf("package %s %s: %w", p.Name, p.Version, err)
		}
		r := row{Content: text}
		r.Paths, r.Layer = placesOf(p, layers)
		for relation, related := range p.RelatedPackages {
			for _, other := range related {
				if at, ok := places[other.ID]; ok { // else it is not matched, and decides nothing
					if r.Related == nil {
						r.Related = map[artifact.RelationshipType][]int{}
					}
					r.Related[relation] = append(r.Related[relation], at)
				}
			}
		}
		out.rows[i] = r
	}
	return out, nil
}

func encode(p *pkg.Package) ([]byte, error) {
	c := content{
		Name: p.Name, Version: p.Version, Type: p.Type, Language: p.Language, PURL: p.PURL, CPEs: p.CPEs, Upstreams: p.Upstreams,
	}
	if d := p.Distro; d != nil {
		c.Distro = &release{Type: d.Type, Version: d.Version, Codename: d.Codename, Channels: d.Channels, IDLike: d.IDLike}
	}
	metadata := p.Metadata
	switch m := metadata.(type) {
	case nil:
	case pkg.ApkMetadata:
		c.Kind = "apk"
		m.Files = nil // they made the relations
		metadata = m
	case pkg.GolangBinMetadata:
		c.Kind, c.Symbols = "go-binary", m.Symbols
	case pkg.GolangModMetadata:
		c.Kind = "go-module"
	case pkg.GolangSourceMetadata:
		c.Kind = "go-source"
	case pkg.JavaMetadata:
		c.Kind = "java"
	case *pkg.JavaMetadata: // of a PURL; Grype's matchers do not look into a pointer
		metadata = nil
	case pkg.JavaVMInstallationMetadata:
		c.Kind = "jvm"
	case pkg.RpmMetadata:
		c.Kind = "rpm"
	default:
		return nil, fmt.Errorf("its metadata are of a kind that cannot be kept: %T", m)
	}
	if c.Kind != "" {
		var err error
		if c.Metadata, err = json.Marshal(metadata); err != nil {
			return nil, err
		}
	}
	return json.Marshal(c)
}

// decode reads what encode wrote.
func decode(text []byte) (pkg.Package, error) {
	var c content
	if err := json.Unmarshal(text, &c); err != nil {
		return pkg.Package{}, err
	}
	p := pkg.Package{
		Name: c.Name, Version: c.Version, Type: c.Type, Language: c.Language, PURL: c.PURL, CPEs: c.CPEs, Upstreams: c.Upstreams,
		Licenses: []string{},
	}
	if d := c.Distro; d != nil {
		p.Distro = distro.New(d.Type, d.Version, d.Codename, d.IDLike...)
		p.Distro.Channels = d.Channels
	}
	if c.Kind == "" {
		return p, nil
	}
	of, ok := kinds[c.Kind]
	if !ok {
		return pkg.Package{}, fmt.Errorf("unknown metadata %q", c.Kind)
	}
	metadata := of()
	if err := json.Unmarshal(c.Metadata, metadata); err != nil {
		return pkg.Package{}, err
	}
	switch m := metadata.(type) {
	case *pkg.ApkMetadata:
		p.Metadata = *m
	case *pkg.GolangBinMetadata:
		m.Symbols = c.Symbols
		p.Metadata = *m
	case *pkg.GolangModMetadata:
		p.Metadata = *m
	case *pkg.GolangSourceMetadata:
		p.Metadata = *m
	case *pkg.JavaMetadata:
		p.Metadata = *m
	case *pkg.JavaVMInstallationMetadata:
		p.Metadata = *m
	case *pkg.RpmMetadata:
		p.Metadata = *m
	}
	return p, nil
}

// MarshalBinary implements [encoding.BinaryMarshaler].
func (p Packages) MarshalBinary() ([]byte, error) {
	var out bytes.Buffer
	out.WriteString(Version + "\n")
	err := gob.NewEncoder(&out).Encode(kept{p.rows, p.distro})
	return out.Bytes(), err
}

// UnmarshalBinary implements [encoding.BinaryUnmarshaler]. Packages of another [Version]
// are an error.
func (p *Packages) UnmarshalBinary(data []byte) error {
	rest, ok := bytes.CutPrefix(data, []byte(Version+"\n"))
	if !ok {
		return fmt.Errorf("these are no packages of version %q", Version)
	}
	var k kept
	if err := gob.NewDecoder(bytes.NewReader(rest)).Decode(&k); err != nil {
		return fmt.Errorf("reading packages: %w", err)
	}
	rows := k.Rows
	for i := range rows {
		for _, related := range rows[i].Related {
			for _, at := range related {
				if at < 0 || at >= len(rows) {
					return fmt.Errorf("reading packages: there is no package %d", at)
				}
			}
		}
	}
	p.rows, p.distro = rows, k.Distro
	return nil
}
