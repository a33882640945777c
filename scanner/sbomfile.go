package scanner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/anchore/syft/syft/format"
	"github.com/anchore/syft/syft/format/cyclonedxjson"
	"github.com/anchore/syft/syft/format/spdxjson"
	"github.com/anchore/syft/syft/format/syftjson"
	"github.com/anchore/syft/syft/sbom"
	"github.com/anchore/syft/syft/source"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/assay-dev/assay/api"
)

// SBOMFormat is a format that SBOMs are read from and written to.
type SBOMFormat string

// Formats of SBOMs.
const (
	SyftJSON      SBOMFormat = "syft-json"
	CycloneDXJSON SBOMFormat = "cyclonedx-json"
	SPDXJSON      SBOMFormat = "spdx-json"
)

// EncodeSBOM writes s to w. Of the three formats only Syft JSON holds all that
// matching uses.
func EncodeSBOM(w io.Writer, s *sbom.SBOM, f SBOMFormat) error {
	var encoder sbom.FormatEncoder
	var err error
	switch f {
	case SyftJSON:
		encoder, err = syftjson.NewFormatEncoderWithConfig(syftjson.DefaultEncoderConfig())
	case CycloneDXJSON:
		encoder, err = cyclonedxjson.NewFormatEncoderWithConfig(cyclonedxjson.DefaultEncoderConfig())
	case SPDXJSON:
		encoder, err = spdxjson.NewFormatEncoderWithConfig(spdxjson.DefaultEncoderConfig())
	default:
		return fmt.Errorf("%w: there is no SBOM format %.40q", ErrInput, f)
	}
	if err != nil {
		return fmt.Errorf("preparing %s: %w", f, err)
	}
	if err := encoder.Encode(w, *s); err != nil {
		return fmt.Errorf("writing %s: %w", f, err)
	}
	return nil
}

// DecodeSBOM reads Syft JSON, CycloneDX JSON or SPDX JSON, and says which it
// was. It reads all of r unless r is an io.Seeker; bounds are the caller's.
func DecodeSBOM(r io.Reader) (s *sbom.SBOM, f SBOMFormat, err error) {
	defer func() {
		if e := recover(); e != nil {
			s, err = nil, fmt.Errorf("%w: reading the SBOM: %v", ErrCorrupt, e)
		}
	}()
	s, id, _, err := format.NewDecoderCollection(syftjson.NewFormatDecoder(), cyclonedxjson.NewFormatDecoder(), spdxjson.NewFormatDecoder()).Decode(r)
	if err != nil {
		return nil, "", fmt.Errorf("it is no SBOM in Syft JSON, CycloneDX JSON or SPDX JSON: %w", err)
	}
	switch id {
	case cyclonedxjson.ID:
		f = CycloneDXJSON
	case spdxjson.ID:
		f = SPDXJSON
	default:
		f = SyftJSON
	}
	if s == nil || s.Artifacts.Packages == nil {
		return nil, "", errors.New("the SBOM is empty")
	}
	return s, f, nil
}

// readSBOM reads an SBOM from a file, or from standard input for "-".
func (s *Scanner) readSBOM(ctx context.Context, path, dir string) (*sbom.SBOM, SBOMFormat, error) {
	limit := byteLimit("MaxSBOMBytes", "the SBOM has", s.cfg.MaxSBOMBytes)
	var in io.Reader = s.cfg.Stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, "", err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return nil, "", err
		}
		if info.IsDir() {
			return nil, "", fmt.Errorf("%s is a directory", path)
		}
		if info.Mode().IsRegular() && info.Size() > s.cfg.MaxSBOMBytes {
			return nil, "", limit
		}
		in = f
	}
	// A copy of bounded size, for a file may grow and a pipe has no size.
	f, err := spool(ctx, in, dir, s.cfg.MaxSBOMBytes, limit)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	return DecodeSBOM(f)
}

var sha256Digest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// describeSBOM takes what an SBOM says of the image that it describes.
func describeSBOM(s *sbom.SBOM) *found {
	f := &found{source: SBOM}
	m, ok := s.Source.Metadata.(source.ImageMetadata)
	if !ok {
		return f
	}
	if sha256Digest.MatchString(m.ManifestDigest) {
		f.digest = m.ManifestDigest
	}
	f.platform = platformText(&v1.Platform{OS: m.OS, Architecture: m.Architecture, Variant: m.Variant})
	if sha256Digest.MatchString(m.ID) {
		f.configID = m.ID
	}
	for _, name := range append(append([]string{m.UserInput}, m.Tags...), m.RepoDigests...) {
		if name = imageName(name); name != "" {
			f.name = name
			break
		}
	}
	f.name = withVersion(f.name, m.ManifestDigest)
	return f
}

// withVersion adds what CycloneDX keeps apart from the name, a tag or a
// digest, for a bare name would mean the tag latest.
func withVersion(name, version string) string {
	ref, err := api.ParseReference(name)
	if err != nil || version == "" || ref.Digest != "" || ref.Tag != "latest" || strings.HasSuffix(name, ":latest") {
		return name
	}
	for _, full := range []string{name + "@" + version, name + ":" + version} {
		if _, err := api.ParseReference(full); err == nil {
			return full
		}
	}
	return name
}

// imageName is the reference in what a user gave another scanner, or empty:
// a path of an archive names nothing.
func imageName(s string) string {
	// SPDX joins name and version by a colon, also where the version is a digest.
	s = strings.Replace(s, ":sha256:", "@sha256:", 1)
	in, err := ParseInput(s)
	if err != nil || strings.HasPrefix(s, "sha256:") || strings.HasSuffix(s, ".tar") {
		return ""
	}
	switch in.Kind {
	case Registry, Docker, Containerd, Reference:
		return in.Value
	}
	return ""
}

// Describe is the scan of an SBOM before it is matched: what the SBOM says of its
// image, which as names where it is given. It is [ErrNotAssessed] where an SBOM says
// too little to be matched.
func Describe(s *sbom.SBOM, as string) (api.Scan, error) {
	o := Outcome{SBOM: s}
	if err := o.describe(describeSBOM(s), Input{Kind: SBOM, Value: "-"}, as); err != nil {
		return o.Scan, err
	}
	warnings, err := assess(s)
	if err != nil {
		return o.Scan, err
	}
	o.Scan.Warnings = append(o.Scan.Warnings, warnings...)
	o.Scan.Packages, o.Scan.Distro = s.Artifacts.Packages.PackageCount(), distroText(s)
	o.Scan.Layers, o.Scan.Base = describeLayers(s)
	o.Scan.SBOM = readOrigin(s)
	return o.Scan, nil
}
