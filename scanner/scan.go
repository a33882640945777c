package scanner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"strings"

	"github.com/anchore/syft/syft/sbom"
	"golang.org/x/sync/errgroup"

	"github.com/assay-dev/assay/api"
)

// Scanner scans images. It is safe for concurrent use.
type Scanner struct {
	cfg      Config
	cache    *blobCache
	licenses *licenseReader
}

// Outcome is what a scan gave.
type Outcome struct {
	// Scan is complete but for the classification: Result is Unknown and
	// MaxCVSS absent until the engine computes them. Error is set when the
	// image could not be scanned to the end.
	Scan api.Scan
	// SBOM is there as soon as the packages were found, also when matching failed.
	SBOM *sbom.SBOM
	// SBOMFormat is that of an SBOM that was read; empty for one made here.
	SBOMFormat SBOMFormat
	// Manifest and IndexManifest are the bytes that Scan.Digest and Scan.Index.Digest are of, where
	// they are at hand and prove what the scan says: see api.Scan. They are for a server, and not
	// in the scan, whose readers have no use for them.
	Manifest, IndexManifest []byte
	// Err is the error that Scan.Error tells, for [errors.Is] and [errors.As].
	Err error
}

// Proven is the scan with the bytes that prove what it says of its digests.
func (o Outcome) Proven() api.Scan {
	scan := o.Scan
	scan.Manifest = o.Manifest
	if scan.Index != nil {
		index := *scan.Index
		index.Manifest = o.IndexManifest
		scan.Index = &index
	}
	return scan
}

// prove keeps the bytes of manifests that prove what the scan says; those that do not tell all, as of
// an index in an index, prove nothing.
func (o *Outcome) prove(f *found) {
	if scan := (api.Scan{Digest: o.Scan.Digest, ConfigDigest: o.Scan.ConfigDigest, Manifest: f.rawManifest}); scan.CheckManifest() == nil {
		o.Manifest = f.rawManifest
	}
	if x := o.Scan.Index; x != nil && (api.Index{Digest: x.Digest, Platforms: x.Platforms, Manifest: f.rawIndex}).Check() == nil {
		o.IndexManifest = f.rawIndex
	}
}

// New makes a Scanner. Errors are about the configuration.
func New(c Config) (*Scanner, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	cache, err := newBlobCache(c.CacheDir, c.MaxCacheBytes, c.Log)
	if err != nil {
		return nil, err
	}
	return &Scanner{cfg: c, cache: cache, licenses: &licenseReader{done: make(chan struct{})}}, nil
}

func (s *Scanner) resolver(c content) *resolver {
	return &resolver{content: c, platform: s.cfg.Platform, maxBytes: s.cfg.MaxImageBytes, maxLayers: s.cfg.MaxLayers}
}

// Scan scans one input, as [ParseInput] reads it. Whatever goes wrong is in
// the outcome. progress may be nil.
func (s *Scanner) Scan(ctx context.Context, input string, progress Progress) Outcome {
	return s.scan(ctx, input, &reporter{to: progress, input: scrub(input)})
}

// ScanAll scans several inputs, at most parallelism (one, when less) side by
// side. The outcomes have the order of the inputs; an image that fails stops no other.
func (s *Scanner) ScanAll(ctx context.Context, inputs []string, parallelism int, progress Progress) []Outcome {
	outcomes := make([]Outcome, len(inputs))
	var g errgroup.Group
	g.SetLimit(max(parallelism, 1))
	for i, input := range inputs {
		r := &reporter{to: progress, index: i, input: scrub(input)}
		if s.cfg.As != "" && len(inputs) > 1 {
			outcomes[i] = s.failed(input, fmt.Errorf("%w: one name (%s) cannot name %d images", ErrInput, s.cfg.As, len(inputs)))
			r.stage(Done, outcomes[i].Err)
			continue
		}
		g.Go(func() error {
			outcomes[i] = s.scan(ctx, input, r)
			return nil
		})
	}
	_ = g.Wait()
	return outcomes
}

func (s *Scanner) failed(input string, err error) Outcome {
	o := s.blank(input)
	o.fail(err)
	return o
}

func (s *Scanner) blank(input string) Outcome {
	o := Outcome{Scan: api.Scan{
		Image: scrub(input), Result: api.Unknown, ScannedAt: s.cfg.Now().UTC(), Vulnerabilities: []api.Vulnerability{},
	}}
	if s.cfg.Database != nil {
		db := *s.cfg.Database
		o.Scan.Database = &db
	}
	return o
}

// fail notes an error, in a text that holds no credentials.
func (o *Outcome) fail(err error) {
	o.Err = scrubbed(err)
	o.Scan.Error = o.Err.Error()
	o.Scan.Vulnerabilities = []api.Vulnerability{}
}

func (s *Scanner) scan(parent context.Context, input string, r *reporter) (o Outcome) {
	o = s.blank(input)
	defer func() { r.stage(Done, o.Err) }()
	ctx, cancel := context.WithTimeout(parent, s.cfg.Timeout)
	defer cancel()
	err := s.guarded(ctx, input, &o, r)
	if err == nil {
		return o
	}
	// The end of a context shows in many ways; say the one thing that happened.
	switch {
	case parent.Err() != nil:
		err = &textError{"the scan was cancelled", parent.Err()}
	case ctx.Err() != nil:
		err = &LimitError{Field: "Timeout", What: fmt.Sprintf("the scan took longer than %s", s.cfg.Timeout)}
	}
	if name := o.Scan.Image; !strings.HasPrefix(err.Error(), name+":") {
		err = fmt.Errorf("%s: %w", name, err)
	}
	o.fail(err)
	return o
}

// guarded runs a scan in a directory of its own, and makes an error of a panic.
func (s *Scanner) guarded(ctx context.Context, input string, o *Outcome, r *reporter) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	in, err := ParseInput(input)
	if err != nil {
		if hint := schemeHint(input); hint != "" {
			return fmt.Errorf("%w: %s", ErrInput, hint)
		}
		return err
	}
	dir, err := os.MkdirTemp(s.cfg.TempDir, "assay-scan-")
	if err != nil {
		return fmt.Errorf("making a directory for the scan: %w", err)
	}
	defer func() {
		if e := recover(); e != nil {
			s.cfg.Log.Error("scanning an image", "image", o.Scan.Image, "panic", e, "stack", string(debug.Stack()))
			err = fmt.Errorf("the scan failed inside: %v", e)
		}
		if e := os.RemoveAll(dir); e != nil {
			s.cfg.Log.Warn("removing the directory of a scan", "error", e)
		}
	}()
	r.stage(Resolving, nil)
	if err := s.inventory(ctx, in, dir, o, r); err != nil {
		return plainPath(err)
	}
	return s.match(ctx, o, r)
}

// plainPath words what the file system says of a path that a user gave.
func plainPath(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) && errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errAbsent) {
		return fmt.Errorf("%w: there is no %s", ErrInput, pe.Path)
	}
	return err
}

// inventory finds the image and its packages.
func (s *Scanner) inventory(ctx context.Context, in Input, dir string, o *Outcome, r *reporter) error {
	var f *found
	var err error
	if v := s.cfg.Attestations; v != nil && v.Required() && (in.Kind == Dir || in.Kind == SBOM) {
		_ = o.describe(&found{source: in.Kind}, in, s.cfg.As)
		return notAttested(in.Kind)
	}
	switch in.Kind {
	case Dir:
		_ = o.describe(&found{source: Dir}, in, s.cfg.As)
		o.SBOM, err = s.catalogDir(ctx, in.Value, s.cfg.As, dir, r)
	case SBOM:
		_ = o.describe(&found{source: SBOM}, in, s.cfg.As)
		if o.SBOM, o.SBOMFormat, err = s.readSBOM(ctx, in.Value, dir); err == nil {
			err = o.describe(describeSBOM(o.SBOM), in, s.cfg.As)
		}
	default:
		f, err = s.open(ctx, in, dir, o)
		defer f.release()
		if err != nil {
			return err
		}
		if err := o.describe(f, in, s.cfg.As); err != nil {
			return err
		}
		var taken bool
		if taken, err = s.attested(ctx, f, o); err != nil || taken {
			break
		}
		r.total = f.packed()
		r.stage(Pulling, nil)
		o.SBOM, err = s.catalogImage(ctx, f, o.Scan.Image, dir, r)
	}
	if err != nil {
		o.SBOM = nil
		return err
	}
	warnings, err := assess(o.SBOM)
	if err != nil {
		o.SBOM = nil
		return err
	}
	o.Scan.Warnings = append(o.Scan.Warnings, warnings...)
	if s.cfg.Distro != "" {
		if err := o.saysDistro(s.cfg.Distro); err != nil {
			return err
		}
	}
	o.Scan.Packages = o.SBOM.Artifacts.Packages.PackageCount()
	o.Scan.Distro = distroText(o.SBOM)
	o.Scan.Layers, o.Scan.Base = describeLayers(o.SBOM)
	return nil
}

// open finds an image by the kind of its source.
func (s *Scanner) open(ctx context.Context, in Input, dir string, o *Outcome) (*found, error) {
	_ = o.describe(&found{source: in.Kind}, in, s.cfg.As)
	switch in.Kind {
	case Registry:
		f, err := s.openRegistry(ctx, in.Value)
		return f, schemeName(in, err)
	case Docker:
		f, err := s.openDocker(ctx, in.Value, dir)
		return f, schemeName(in, err)
	case Containerd:
		f, err := s.openContainerd(ctx, in.Value)
		return f, schemeName(in, err)
	case DockerArchive:
		return s.openDockerArchive(ctx, in.Value, dir)
	case OCIArchive:
		return s.openOCIArchive(ctx, in.Value, dir)
	case OCIDir:
		return s.openOCIDir(ctx, in.Value)
	case Reference:
		return s.openReference(ctx, in.Value, dir)
	}
	return nil, fmt.Errorf("%w: no scheme %q", ErrInput, in.Kind)
}

// schemeName hints at images that bear the name of a scheme, such as registry:2.
func schemeName(in Input, err error) error {
	if err == nil || strings.ContainsAny(in.Value, "/:@") {
		return err
	}
	return fmt.Errorf("%w (for the image named %s, write docker.io/library/%s)", err, in.Kind, in)
}

// describe writes what is known of the image into the scan. The name is, in
// this order: as, what the user wrote, what the source says, the input itself.
func (o *Outcome) describe(f *found, in Input, as string) error {
	sc := &o.Scan
	sc.Source = string(f.source)
	sc.Digest, sc.Index, sc.Platform = f.digest, f.index, f.platform
	sc.Warnings = f.warnings
	sc.ConfigDigest = f.configID
	if f.rawConfig != nil {
		sc.ConfigDigest = f.configDigest().String()
	}
	o.prove(f)
	switch in.Kind {
	case Reference, Registry, Docker, Containerd:
		sc.Image = in.Value
	default:
		sc.Image = firstOf(f.name, scrub(in.String()))
	}
	if as == "" {
		return nil
	}
	sc.Image = as
	ref, err := api.ParseReference(as)
	if err != nil || ref.Digest == "" {
		return err
	}
	switch {
	case sc.Digest == "":
		sc.Digest = ref.Digest
	case sc.Digest != ref.Digest && (sc.Index == nil || sc.Index.Digest != ref.Digest):
		return fmt.Errorf("%w: the image has the digest %s, not that of %s", ErrInput, sc.Digest, as)
	}
	return nil
}

// match finds the vulnerabilities.
func (s *Scanner) match(ctx context.Context, o *Outcome, r *reporter) error {
	if s.cfg.Matcher == nil {
		return ErrNotMatched
	}
	r.stage(Matching, nil)
	vulnerabilities, unplaced, err := s.cfg.Matcher.Match(ctx, *o.SBOM)
	if err != nil {
		return fmt.Errorf("matching the packages: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	o.Scan.Unplaced = unplaced
	if vulnerabilities != nil {
		o.Scan.Vulnerabilities = vulnerabilities
	}
	return nil
}
