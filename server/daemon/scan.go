package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/outgoing"
	"github.com/assay-dev/assay/scanner"
	"github.com/assay-dev/assay/server/jobs"
	"github.com/assay-dev/assay/server/rematch"
	"github.com/assay-dev/assay/store"
)

// mayScan says which images this server scans from their registries; nil for none.
// Whoever may create a workload has the server ask the registry that it names, so
// the names are limited.
func (c Config) mayScan() func(image string) error {
	if len(c.ScanImages)+len(c.Registries) == 0 {
		return nil
	}
	return func(image string) error {
		ref, err := api.ParseReference(image)
		if err != nil {
			return err
		}
		if c.registryOf(ref) != nil {
			return nil
		}
		for _, name := range c.ScanImages {
			name = strings.TrimSuffix(name, "/")
			if name == "*" || ref.Name() == name || strings.HasPrefix(ref.Name(), name+"/") {
				return nil
			}
		}
		return fmt.Errorf("this server does not scan images of %s", ref.Name())
	}
}

// scan pulls an image, and stores its SBOM to be matched; nil where the server scans none.
func (c Config) scan(s *store.Store, match func(ctx context.Context, digest string)) func(ctx context.Context, image string) error {
	may := c.mayScan()
	if may == nil {
		return nil
	}
	return func(ctx context.Context, image string) error {
		if err := may(image); err != nil {
			return jobs.Permanent(err)
		}
		config := scanner.Config{NoDaemons: true, UserAgent: "assay/" + c.Version, Log: c.Log, Attestations: c.Attestations,
			InsecureHTTP: c.InsecureHTTP, Realms: c.Realms, Networks: outgoing.Networks{Public: true, Allowed: c.RegistryNetworks}}
		if ref, err := api.ParseReference(image); err == nil {
			if r := c.registryOf(ref); r != nil {
				config.Transport, config.InsecureHTTP = r.source.Transport, r.InsecureHTTP
			}
		}
		pull, err := scanner.New(config)
		if err != nil {
			return jobs.Permanent(err)
		}
		outcome := pull.Scan(ctx, "registry:"+image, nil)
		for _, warning := range outcome.Scan.Warnings {
			c.Log.Warn("scanning an image", "image", image, "warning", warning)
		}
		if errors.As(outcome.Err, new(*outgoing.Refused)) || errors.Is(outcome.Err, scanner.ErrNoImage) || errors.Is(outcome.Err, scanner.ErrNotAssessed) || errors.Is(outcome.Err, scanner.ErrNotAttested) {
			return jobs.Permanent(outcome.Err)
		}
		if outcome.SBOM == nil {
			return outcome.Err
		}
		if outcome.Err != nil && !errors.Is(outcome.Err, scanner.ErrNotMatched) {
			return outcome.Err
		}
		var document bytes.Buffer
		if err := scanner.EncodeSBOM(&document, outcome.SBOM, scanner.SyftJSON); err != nil {
			return jobs.Permanent(err)
		}
		kept, err := rematch.Decode(&document, image, outcome.Scan.Digest)
		if err != nil {
			return jobs.Permanent(err)
		}
		kept.Scan.Index = outcome.Scan.Index // which the document does not say
		fresh := false
		if err := s.Write(ctx, func(t *store.Tx) (err error) {
			fresh, err = t.AddSBOM(ctx, kept)
			return err
		}); err != nil {
			return err
		}
		if fresh {
			match(ctx, kept.Scan.Digest)
		}
		return nil
	}
}
