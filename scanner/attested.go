package scanner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/anchore/syft/syft/sbom"
	"github.com/anchore/syft/syft/source"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/scanner/attestation"
)

// ErrNotAttested is wrapped when a trusted signer's SBOM is required, and there is none.
var ErrNotAttested = errors.New("no SBOM of a trusted signer")

func notAttested(k Kind) error {
	return fmt.Errorf("%w: attestations are found in registries, and this was read from %s; registry:REFERENCE asks the registry", ErrNotAttested, k)
}

// attested takes an SBOM that a trusted signer attached to the image, if that is wanted
// and there is one. What was ignored is among the warnings of o, or in the error where an
// attested SBOM is required.
func (s *Scanner) attested(ctx context.Context, f *found, o *Outcome) (bool, error) {
	v := s.cfg.Attestations
	if v == nil {
		return false, nil
	}
	if f.repository == nil {
		if v.Required() {
			return false, notAttested(f.source)
		}
		o.Scan.Warnings = append(o.Scan.Warnings, fmt.Sprintf("attestations were not looked for: they are in registries, and the image was read from %s", f.source))
		return false, nil
	}
	host := f.repository.RegistryStr()
	taken, ignored, err := v.Find(ctx, attestation.Image{
		Repository: *f.repository, Options: s.remoteOptions(host), Transport: s.transport(host), Digest: f.digest, Index: f.index,
	}, func(a *attestation.Found) error {
		bom, format, err := DecodeSBOM(bytes.NewReader(a.Document))
		if err != nil {
			return err
		}
		if _, err := assess(bom); err != nil {
			return err
		}
		if d := describeSBOM(bom).digest; d != "" && d != f.digest && (f.index == nil || d != f.index.Digest) {
			return fmt.Errorf("the SBOM says that it is of %s", d)
		}
		a.SBOM.Format = string(format)
		bom.Source = attestedSource(bom.Source, f, o.Scan.Image)
		writeOrigin(bom, a.SBOM)
		o.SBOM, o.SBOMFormat, o.Scan.SBOM = bom, format, &a.SBOM
		return nil
	})
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err != nil {
		err = registryError(host, "attestation", err)
	}
	if taken || !v.Required() {
		o.Scan.Warnings = append(o.Scan.Warnings, ignored...)
		if !taken && err != nil {
			o.Scan.Warnings = append(o.Scan.Warnings, scrub(fmt.Sprintf("attestations could not be looked for: %v", err)))
		}
		return taken, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for attestations, which are required: %w", err)
	}
	if len(ignored) == 0 {
		return false, fmt.Errorf("%w is attached to it", ErrNotAttested)
	}
	o.Scan.Warnings = append(o.Scan.Warnings, ignored...)
	return false, fmt.Errorf("%w is attached to it; the warnings say what was ignored", ErrNotAttested)
}

// attestedSource says of which image an SBOM is, for what another tool wrote may not name
// it, or name an index. The layers of a Syft SBOM of this very image stay.
func attestedSource(was source.Description, f *found, image string) source.Description {
	if m, ok := was.Metadata.(source.ImageMetadata); ok && m.ManifestDigest == f.digest {
		return was
	}
	m := source.ImageMetadata{UserInput: image, ID: f.configDigest().String(), ManifestDigest: f.digest}
	if f.config != nil {
		m.OS, m.Architecture, m.Variant = f.config.OS, f.config.Architecture, f.config.Variant
	}
	return source.Description{ID: was.ID, Name: image, Version: f.digest, Metadata: m}
}

// originKey is where an SBOM keeps its origin among the configuration of what made it, so
// that it is still known where the SBOM is stored and matched again.
const originKey = "assay.dev/attestation"

func writeOrigin(s *sbom.SBOM, origin api.AttestedSBOM) {
	s.Descriptor.Configuration = map[string]any{originKey: origin}
}

// readOrigin gives the origin that an SBOM in Syft JSON was given, or nil.
func readOrigin(s *sbom.SBOM) *api.AttestedSBOM {
	// Whatever it was, it is plain JSON once it was read from a file.
	text, err := json.Marshal(s.Descriptor.Configuration)
	if err != nil {
		return nil
	}
	var held map[string]json.RawMessage
	if json.Unmarshal(text, &held) != nil || held[originKey] == nil {
		return nil
	}
	var origin api.AttestedSBOM
	if json.Unmarshal(held[originKey], &origin) != nil || origin.Origin != api.OriginAttestation {
		return nil
	}
	return &origin
}
