package daemon

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/outgoing"
	"github.com/assay-dev/assay/scanner"
	"github.com/assay-dev/assay/scanner/child"
	"github.com/assay-dev/assay/scanner/pace"
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
			name = api.CanonicalPrefix(strings.TrimSuffix(name, "/"))
			if name == "*" || ref.Name() == name || strings.HasPrefix(ref.Name(), name+"/") {
				return nil
			}
		}
		return fmt.Errorf("this server does not scan images of %s", ref.Name())
	}
}

// Scans bounds the scans that the server makes, each in a process of its own; zero members
// have the values named at each.
type Scans struct {
	Memory   int64         // bytes; 512 MiB
	Disk     int64         // bytes of an image's layers, unpacked, with all that is in them; 2 GiB
	CPU      time.Duration // of one scan; 10 minutes
	Timeout  time.Duration // of one scan; 15 minutes
	Parallel int           // at a time; 2
	// Dir is for their files, and is emptied at the start; "" is one below Data, else the system's
	// for temporary files.
	Dir string
	// Command is a program that calls child.Run, with its first arguments; nil is this one with "scan-one".
	Command []string
}

func (c Scans) withDefaults(data string) (Scans, error) {
	c.Memory, c.Disk, c.Parallel = cmp.Or(c.Memory, 512<<20), cmp.Or(c.Disk, 2<<30), cmp.Or(c.Parallel, 2)
	c.CPU, c.Timeout = cmp.Or(c.CPU, 10*time.Minute), cmp.Or(c.Timeout, scanner.DefaultTimeout)
	if c.Dir == "" && data != "" {
		c.Dir = filepath.Join(data, "scans")
	}
	if c.Dir != "" {
		var err error
		if c.Dir, err = filepath.Abs(c.Dir); err != nil { // a child begins elsewhere
			return c, err
		}
		if err := errors.Join(os.RemoveAll(c.Dir), os.MkdirAll(c.Dir, 0o700)); err != nil {
			return c, fmt.Errorf("preparing the folder for scans: %w", err)
		}
	}
	if c.Command == nil {
		self, err := os.Executable()
		if err != nil {
			return c, fmt.Errorf("finding this program: %w", err)
		}
		c.Command = []string{self, "scan-one"}
	}
	return c, nil
}

// scan pulls an image, and stores its SBOM to be matched; nil where the server scans none. What
// is in an image can end the process that reads it, but never the server.
func (c Config) scan(s *store.Store, match func(ctx context.Context, digest string)) (func(ctx context.Context, image string) error, error) {
	may := c.mayScan()
	if may == nil {
		return nil, nil
	}
	bounds, err := c.Scans.withDefaults(c.Data)
	if err != nil {
		return nil, err
	}
	runner := &child.Runner{Command: bounds.Command, CPU: 1, MemoryFlag: "--scan-memory", DiskFlag: "--scan-disk", Log: c.Log}
	slots := make(chan struct{}, bounds.Parallel)
	return func(ctx context.Context, image string) error {
		if err := may(image); err != nil {
			return jobs.Permanent(err)
		}
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		case <-ctx.Done():
			return ctx.Err()
		}
		kept, err := c.scanOne(ctx, runner, bounds, image)
		var failed *failedScan
		if errors.As(err, &failed) && ctx.Err() == nil {
			return errors.Join(err, c.keepFailure(ctx, s, image, failed))
		}
		if err != nil {
			return err
		}
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
	}, nil
}

// scanOne has a child make the SBOM of an image.
func (c Config) scanOne(ctx context.Context, runner *child.Runner, bounds Scans, image string) (kept store.SBOM, err error) {
	dir, err := os.MkdirTemp(bounds.Dir, "scan-")
	if err != nil {
		return kept, fmt.Errorf("preparing a scan: %w", err)
	}
	defer os.RemoveAll(dir)
	task := child.Task{Name: image, Registry: &child.Registry{UserAgent: "assay/" + c.Version}, Dir: dir,
		Memory: bounds.Memory, Disk: bounds.Disk, CPU: bounds.CPU, Timeout: bounds.Timeout}
	if c.Attestations != nil {
		trusted := c.Attestations.Config()
		task.Registry.Attestations = &trusted
	}
	task.Registry.Realms = c.Realms
	network, insecure := c.network(image)
	task.Registry.InsecureHTTP = insecure
	result, used, err := runner.Run(ctx, task, network)
	if err != nil {
		return kept, err
	}
	for _, warning := range result.Scan.Warnings {
		c.Log.Warn("scanning an image", "image", image, "warning", warning)
	}
	if result.Error != "" {
		err := error(&failedScan{image: image, why: result.Error})
		if result.Final {
			err = jobs.Permanent(err)
		}
		return kept, err
	}
	c.Log.Debug("an image was scanned", "image", image, "cpu", used.CPU, "memory", used.Memory, "took", used.Duration)
	document, err := c.readSBOM(filepath.Join(dir, child.SBOMFile))
	if err != nil {
		return kept, jobs.Permanent(&failedScan{image: image, why: "reading its SBOM: " + err.Error()})
	}
	if kept, err = rematch.Decode(bytes.NewReader(document), image, result.Scan.Digest); err != nil {
		return kept, jobs.Permanent(&failedScan{image: image, why: err.Error()})
	}
	kept.Scan.Index, kept.Scan.Manifest, kept.Scan.Way = result.Scan.Index, result.Scan.Manifest, api.FromServer // which the document does not say
	if result.Scan.SBOM != nil {
		kept.Scan.Way = api.Attested
	}
	return kept, nil
}

// network is how the registry of an image is asked, and whether by plain HTTP.
func (c Config) network(image string) (http.RoundTripper, bool) {
	if ref, err := api.ParseReference(image); err == nil {
		if r := c.registryOf(ref); r != nil {
			return r.source.Transport, r.InsecureHTTP
		}
	}
	return pace.New(pace.Config{Base: outgoing.Networks{Public: true, Allowed: c.RegistryNetworks}.Transport()}), c.InsecureHTTP
}

// failedScan is a scan that failed for its image's sake, or was ended at a bound.
type failedScan struct{ image, why string }

func (f *failedScan) Error() string { return f.image + ": " + f.why }

// keepFailure has the image show why it could not be scanned. What the registry tells no digest of is left to its job: of
// names that lead nowhere, which any Pod may have, there is no end.
func (c Config) keepFailure(ctx context.Context, s *store.Store, image string, failed *failedScan) error {
	network, insecure := c.network(image)
	finder, err := scanner.New(scanner.Config{NoDaemons: true, UserAgent: "assay/" + c.Version, Transport: network, InsecureHTTP: insecure, Realms: c.Realms, Log: c.Log})
	if err != nil {
		return err
	}
	found, err := finder.Find(ctx, image)
	if err != nil || found.Digest == "" {
		c.Log.Debug("the digest of an image that could not be scanned is not known", "image", image, "error", err)
		return nil
	}
	scan := api.Scan{Image: image, Digest: found.Digest, Index: found.Index, Platform: found.Platform, ConfigDigest: found.ConfigDigest, Source: string(scanner.Registry), Way: api.FromServer,
		ScannedAt: time.Now().UTC(), Error: failed.why, Vulnerabilities: []api.Vulnerability{}}
	return s.Write(ctx, func(t *store.Tx) error {
		_, err := t.AddFailure(ctx, scan)
		return err
	})
}

// readSBOM reads what a child wrote, within the bounds of an upload.
func (c Config) readSBOM(file string) ([]byte, error) {
	packed, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	open := func() (*zstd.Decoder, error) {
		return zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderConcurrency(1))
	}
	z, err := open()
	if err != nil {
		return nil, err
	}
	err = c.Limits.FitsSBOM(z)
	z.Close()
	if err != nil {
		return nil, err
	}
	if z, err = open(); err != nil {
		return nil, err
	}
	defer z.Close()
	return io.ReadAll(z)
}
