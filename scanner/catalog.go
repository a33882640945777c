package scanner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"sync"
	"time"

	async "github.com/anchore/go-sync"
	"github.com/anchore/stereoscope/pkg/image"
	"github.com/anchore/syft/syft"
	"github.com/anchore/syft/syft/cataloging"
	"github.com/anchore/syft/syft/file"
	"github.com/anchore/syft/syft/pkg"
	"github.com/anchore/syft/syft/sbom"
	"github.com/anchore/syft/syft/source"
	"github.com/anchore/syft/syft/source/directorysource"
	"github.com/anchore/syft/syft/source/stereoscopesource"
)

// catalogConfig is what Grype's command gives Syft, so that the matches are
// Grype's, but for records of single files, which matching does not read.
func catalogConfig() *syft.CreateSBOMConfig {
	c := syft.DefaultCreateSBOMConfig()
	c.Search.Scope = source.SquashedScope
	c.Files.Selection = file.NoFilesSelection
	c.Compliance.MissingVersion = cataloging.ComplianceActionDrop
	c.Packages.Golang = c.Packages.Golang.WithCaptureSymbols(cataloging.SymbolScopeAll)
	return c
}

// catalogImage unpacks the layers into dir and finds the packages.
func (s *Scanner) catalogImage(ctx context.Context, f *found, name, dir string, r *reporter) (*sbom.SBOM, error) {
	unpacked, err := os.MkdirTemp(dir, "layers-")
	if err != nil {
		return nil, fmt.Errorf("making room for the layers: %w", err)
	}
	var metadata []image.AdditionalMetadata
	if f.rawManifest != nil {
		metadata = append(metadata, image.WithManifest(f.rawManifest))
	}
	metadata = append(metadata, image.WithTags(f.tags...), image.WithRepoDigests(f.repoDigests...))
	b := &budget{maxBytes: s.cfg.MaxImageBytes, maxFiles: s.cfg.MaxFiles}
	s.licenses.start()
	defer s.licenses.wait()
	img := image.New(guard(ctx, f, b, r), nil, unpacked, metadata...)
	// One download at a time, as Grype's registry source does: more only share the link.
	fetch := ctx
	if f.source == Registry {
		fetch = async.SetContextExecutor(ctx, image.LayerFetchExecutor, async.NewExecutor(1))
	}
	if err := img.Read(fetch); err != nil {
		_ = img.Cleanup()
		return nil, innermost(err)
	}
	src := stereoscopesource.New(img, stereoscopesource.ImageConfig{Reference: name})
	defer src.Close()
	r.stage(Cataloging, nil)
	return s.catalog(ctx, src, dir, s.cfg.MaxImageBytes-b.bytes.Load())
}

// innermost prefers the error of a bound or of damage to what was wrapped around it.
func innermost(err error) error {
	var limit *LimitError
	if errors.As(err, &limit) {
		return limit
	}
	return err
}

// catalogDir finds the packages in a directory of the scanner's own machine.
func (s *Scanner) catalogDir(ctx context.Context, path, name, dir string, r *reporter) (*sbom.SBOM, error) {
	if info, err := os.Stat(path); err != nil {
		return nil, err
	} else if !info.IsDir() {
		return nil, fmt.Errorf("%s is no directory", path)
	}
	var files int64
	err := filepath.WalkDir(path, func(string, fs.DirEntry, error) error {
		if files++; files > s.cfg.MaxFiles {
			return &LimitError{Field: "MaxFiles", What: fmt.Sprintf("the directory holds more than %d files", s.cfg.MaxFiles)}
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	src, err := directorysource.New(directorysource.Config{Path: path, Base: path, Alias: source.Alias{Name: name}})
	if err != nil {
		return nil, err
	}
	defer src.Close()
	r.stage(Cataloging, nil)
	return s.catalog(ctx, src, dir, s.cfg.MaxImageBytes)
}

// catalog runs Syft, which may unpack so many bytes below dir. When ctx ends early, Syft returns at once and leaves its
// tasks running; catalog waits for them, so that nobody reads from what is
// about to be removed.
func (s *Scanner) catalog(ctx context.Context, src source.Source, dir string, room int64) (*sbom.SBOM, error) {
	licenses, err := s.licenses.wait()
	if err != nil {
		return nil, fmt.Errorf("preparing to read licenses: %w", err)
	}
	ctx, unpacked, err := watchNested(ctx, dir, room, s.cfg.MaxImageBytes)
	if err != nil {
		return nil, err
	}
	defer unpacked.end()
	limit := runtime.NumCPU() * 4
	cpu, files := newExecutor(ctx, limit), newExecutor(ctx, limit)
	with := async.SetContextExecutor(valuesOf{ctx, licenses}, cataloging.ExecutorCPU, cpu)
	with = async.SetContextExecutor(with, cataloging.ExecutorFile, files)
	made, err := syft.CreateSBOM(with, src, catalogConfig())
	cpu.stop()
	files.stop()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("finding the packages: %w", err)
	}
	if err := cutShort(made); err != nil {
		return nil, err
	}
	return made, nil
}

// licenseReader is Syft's reader of license texts. Making it takes half a
// second of CPU, so that it is made once, while the first layers are pulled.
type licenseReader struct {
	once sync.Once
	done chan struct{}
	ctx  context.Context
	err  error
}

func (l *licenseReader) start() {
	l.once.Do(func() {
		go func() {
			defer close(l.done)
			l.ctx, l.err = syft.SetContextLicenseScanner(context.Background(), catalogConfig().Licenses)
		}()
	})
}

// wait gives a context that carries the reader, which is how Syft takes it.
func (l *licenseReader) wait() (context.Context, error) {
	l.start()
	<-l.done
	return l.ctx, l.err
}

// valuesOf is a context with the values of another behind its own.
type valuesOf struct {
	context.Context
	behind context.Context
}

func (v valuesOf) Value(key any) any {
	if own := v.Context.Value(key); own != nil {
		return own
	}
	return v.behind.Value(key)
}

// executor runs Syft's tasks side by side, at most so many on one level, and
// none that would begin after its context ended. A task may start tasks on the
// level below it.
type executor struct {
	ctx   context.Context
	slots chan struct{}
	group *taskGroup
	once  sync.Once
	child *executor
}

// taskGroup counts the running tasks of all levels.
type taskGroup struct {
	mu      sync.Mutex
	stopped bool
	wg      sync.WaitGroup
}

func newExecutor(ctx context.Context, limit int) *executor {
	return &executor{ctx: ctx, slots: make(chan struct{}, limit), group: &taskGroup{}}
}

// Go runs f in a goroutine once a slot is free. After the end it calls f at
// once: f looks at its context, does nothing, and its caller waits for it.
func (e *executor) Go(f func()) {
	select {
	case e.slots <- struct{}{}:
	case <-e.ctx.Done():
		f()
		return
	}
	if !e.group.begin() {
		<-e.slots
		f()
		return
	}
	go func() {
		defer e.group.wg.Done()
		defer func() { <-e.slots }()
		f()
	}()
}

// begin counts one more task, unless the end has come.
func (g *taskGroup) begin() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.stopped {
		g.wg.Add(1)
	}
	return !g.stopped
}

// Wait waits for the running tasks or for the end of ctx.
func (e *executor) Wait(ctx context.Context) {
	done := make(chan struct{})
	go func() { e.group.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// ChildExecutor is the level below, for tasks that tasks start.
func (e *executor) ChildExecutor() async.Executor {
	e.once.Do(func() {
		e.child = &executor{ctx: e.ctx, slots: make(chan struct{}, cap(e.slots)), group: e.group}
	})
	return e.child
}

// stopWait is how long a cancelled scan waits for catalogers to notice.
const stopWait = 30 * time.Second

// stop takes no more tasks and waits for the running ones.
func (e *executor) stop() {
	e.group.mu.Lock()
	e.group.stopped = true
	e.group.mu.Unlock()
	wait, cancel := context.WithTimeout(context.Background(), stopWait)
	defer cancel()
	e.Wait(wait)
}

// packageDatabases are the paths of the databases of distributions' package
// managers, by the type of their packages.
var packageDatabases = map[pkg.Type][]string{
	pkg.RpmPkg:  {"/var/lib/rpm/", "/usr/lib/sysimage/rpm/", "/usr/share/rpm/"},
	pkg.DebPkg:  {"/var/lib/dpkg/"},
	pkg.ApkPkg:  {"/lib/apk/db/"},
	pkg.AlpmPkg: {"/var/lib/pacman/"},
}

const maxUnknowns = 20

// assess refuses an SBOM that says nothing about the image, and tells what
// could not be read.
func assess(s *sbom.SBOM) (warnings []string, err error) {
	n := s.Artifacts.Packages.PackageCount()
	if n == 0 && s.Artifacts.LinuxDistribution == nil {
		return nil, fmt.Errorf("%w: neither a package nor a Linux distribution was found in it", ErrNotAssessed)
	}
	var unread []string
	for c, reasons := range s.Artifacts.Unknowns {
		for typ, paths := range packageDatabases {
			for _, p := range paths {
				if strings.Contains("/"+strings.TrimPrefix(c.RealPath, "/"), p) && len(s.Artifacts.Packages.Sorted(typ)) == 0 {
					return nil, fmt.Errorf("%w: the package database %s could not be read: %s", ErrNotAssessed, c.RealPath, strings.Join(reasons, "; "))
				}
			}
		}
		unread = append(unread, fmt.Sprintf("%s could not be read: %.300s", c.RealPath, strings.Join(reasons, "; ")))
	}
	// A distribution without one package is an image whose package database
	// was taken away: that it has no vulnerabilities is not known.
	if n == 0 {
		return nil, fmt.Errorf("%w: no package was found in it, though it is %s", ErrNotAssessed, distroText(s))
	}
	sort.Strings(unread)
	if more := len(unread) - maxUnknowns; more > 0 {
		unread = append(unread[:maxUnknowns], fmt.Sprintf("and %d more files could not be read", more))
	}
	return append(warnings, unread...), nil
}

// distroText is the distribution as "debian 12", or empty.
func distroText(s *sbom.SBOM) string {
	d := s.Artifacts.LinuxDistribution
	if d == nil {
		return ""
	}
	id := firstOf(d.ID, strings.ToLower(d.Name))
	return strings.TrimSpace(id + " " + firstOf(d.VersionID, d.VersionCodename))
}
