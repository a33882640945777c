package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/scanner"
	"github.com/assay-dev/assay/scanner/match"
	"github.com/assay-dev/assay/scanner/pace"
	"github.com/assay-dev/assay/scanner/registries"
	"github.com/assay-dev/assay/server/client"
	"github.com/spf13/pflag"
)

// registryFlags are the flags of `assay scan --registry`.
type registryFlags struct {
	registry         string
	repositories     []string
	include, exclude []string
	untagged         bool
	state            string
	rate             float64
	filter           string // the flag, or the variable of the environment, that include came from
}

func (f *registryFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.registry, "registry", "", "scan a registry: HOST or HOST/PATH, such as registry.example.com or quay.io/example")
	fs.StringArrayVar(&f.repositories, "repository", nil, "with --registry: a repository, such as team/app, instead of all that the registry lists; may be repeated")
	fs.StringArrayVar(&f.include, "include", nil, "with --registry: regular expression (RE2) that repository:tag must match; may be repeated, and any will do")
	fs.StringArrayVar(&f.exclude, "exclude", nil, "with --registry: regular expression of what is left out; a repository whose name it matches is not even listed; may be repeated")
	fs.BoolVar(&f.untagged, "untagged", false, "with --registry: also what has no tag, where the registry lists it (Google's)")
	fs.StringVar(&f.state, "state", "", "with --registry: file that notes what was scanned (default by registry, in the user's cache)")
	fs.Float64Var(&f.rate, "rate", 0, "with --registry: requests a second at most (default as many as it takes)")
}

// wanted says whether a registry is to be scanned, and has the environment of Calico's
// registry scanner fill in what no flag says.
func (f *scanFlags) wanted(args []string) (bool, error) {
	nothing := len(args) == 0 && f.inputFile == ""
	if f.registry == "" && nothing {
		f.registry = os.Getenv("REGISTRY")
	}
	if f.registry == "" {
		for _, name := range []string{"repository", "include", "exclude", "untagged", "state", "rate"} {
			if f.given[name] {
				return false, fmt.Errorf("--%s is for --registry", name)
			}
		}
		return false, nil
	}
	if !nothing {
		return false, errors.New("--registry scans a registry; leave out other inputs, or name them without it")
	}
	if f.as != "" {
		return false, errors.New("--as names one image, not a registry")
	}
	if f.distro != "" {
		return false, errors.New("--distro says what one image is, not a registry")
	}
	f.filter = "--include"
	if filter := os.Getenv("REGISTRY_FILTER"); filter != "" && len(f.include) == 0 {
		f.include, f.filter = []string{filter}, "REGISTRY_FILTER"
	}
	return true, nil
}

// source is the registry that the flags name.
func (f *scanFlags) source() (registries.Source, error) {
	s := registries.Source{Registry: f.registry, Untagged: f.untagged, InsecureHTTP: f.insecure, Realms: f.realms.Realms,
		UserAgent: "assay/" + version(), QuayToken: os.Getenv("QUAY_TOKEN"), Transport: pace.New(pace.Config{Rate: f.rate})}
	var errs []error
	split := func(flag string, list []string) (all []string) {
		for _, text := range list {
			parts := splitList(text)
			if len(parts) == 0 {
				errs = append(errs, fmt.Errorf("%s: %q names nothing", flag, text))
			}
			all = append(all, parts...)
		}
		return all
	}
	compile := func(flag string, list []string) (all []*regexp.Regexp) {
		for _, text := range split(flag, list) {
			r, err := regexp.Compile(text)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", flag, err))
				continue
			}
			all = append(all, r)
		}
		return all
	}
	s.Repositories = split("--repository", f.repositories)
	s.Include, s.Exclude = compile(f.filter, f.include), compile("--exclude", f.exclude)
	if f.rate < 0 {
		errs = append(errs, errors.New("--rate must not be negative"))
	}
	host, err := s.Host()
	errs = append(errs, err)
	s.Keychain = scanner.DefaultKeychain()
	if user, password := cmp.Or(os.Getenv("DOCKER_USERNAME"), os.Getenv("DOCKER_USER")), os.Getenv("DOCKER_PASSWORD"); user != "" && password != "" {
		s.Keychain = authn.NewMultiKeychain(only{host, &authn.Basic{Username: user, Password: password}}, s.Keychain)
	}
	if f.state == "" && err == nil {
		f.state, err = registries.DefaultState(host)
		errs = append(errs, err)
	}
	return s, errors.Join(errs...)
}

// splitList splits a list at its commas, as environment variables have them. Names of
// images have no comma: one that stands within brackets of a regular expression, as in
// "a{1,2}", is its own, and no expression needs another.
func splitList(text string) (list []string) {
	part := func(s string) {
		if s = strings.TrimSpace(s); s != "" {
			list = append(list, s)
		}
	}
	start, depth, class := 0, 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\':
			i++ // what follows is no bracket, and no comma of ours
		case class:
			class = c != ']'
		case c == '[':
			class = true
		case c == '(' || c == '{':
			depth++
		case (c == ')' || c == '}') && depth > 0:
			depth--
		case c == ',' && depth == 0:
			part(text[start:i])
			start = i + 1
		}
	}
	part(text[start:])
	return list
}

// only gives credentials to one registry.
type only struct {
	host string
	auth authn.Authenticator
}

func (o only) Resolve(r authn.Resource) (authn.Authenticator, error) {
	if host := r.RegistryStr(); host == o.host || o.host == "docker.io" && host == "index.docker.io" {
		return o.auth, nil
	}
	return authn.Anonymous, nil
}

// madeBy is what a scan is made with, but for the database: where it changes, images
// are scanned again.
func (f *scanFlags) madeBy() string {
	return match.Version + ", " + cmp.Or(f.platform, "any platform")
}

// registryOutputs are the outputs that can be written image by image.
func (f *scanFlags) registryOutputs() ([]output, error) {
	outputs, err := f.plan()
	if err != nil {
		return nil, err
	}
	for _, o := range outputs {
		if o.format != "table" && o.format != "json" {
			name, _, _ := strings.Cut(o.format, ":")
			return nil, fmt.Errorf("-o %s is for images that are named; a registry has table and json", name)
		}
	}
	return outputs, nil
}

// scanRegistry scans what is new or changed in a registry, and reports all of it; it
// returns the exit code.
func (a *app) scanRegistry(ctx context.Context, f *scanFlags, source registries.Source, outputs []output, content bundles.Content, to *client.Client) (code int, err error) {
	host, err := source.Host()
	if err != nil {
		return exitUsage, err
	}
	state, err := registries.OpenState(f.state, host)
	if err != nil {
		return exitUsage, err
	}
	defer func() {
		if e := state.Close(); err == nil && e != nil {
			code, err = exitUsage, e
		}
	}()
	db, err := a.openDatabase(ctx, f.database, f.maxAge)
	if err != nil {
		return exitUsage, err
	}
	defer db.close()
	s, err := scanner.New(scanner.Config{
		Matcher: db.matcher, Database: db.info, Platform: f.platform, InsecureHTTP: f.insecure, Realms: f.realms.Realms, NoDaemons: true,
		Keychain: source.Keychain, Transport: source.Transport,
		Timeout: f.timeout, MaxImageBytes: f.maxBytes, CacheDir: f.cacheDir, Log: a.log, UserAgent: source.UserAgent, Attestations: f.trust,
	})
	if err != nil {
		return exitUsage, err
	}
	source.Log = a.log
	made := registries.Made{By: f.madeBy(), Database: db.info.Checksum}
	if to != nil {
		made.Server = f.apiURL
	}
	observe, finish := a.registryProgress(f.quiet)
	summary, err := registries.Run(ctx, registries.Config{Source: source, State: state, Scanner: s, Made: made, Server: to, Parallel: f.parallel, Observe: observe})
	finish()
	if !f.quiet {
		a.printCounts(host, summary.Counts)
	}
	switch {
	case errors.Is(err, registries.ErrSource), errors.Is(err, registries.ErrState):
		return exitUsage, err
	case err != nil:
		fmt.Fprintf(a.err, "%s %v\n", a.paint(a.err, red, "Error:"), printableLines(err.Error()))
		fmt.Fprintf(a.err, "What was scanned is noted in %s: the next run goes on from there.\n", f.state)
		return exitUnscaned, nil
	}
	r := &registryReport{app: a, flags: f, server: to, state: state, summary: summary, content: content, now: f.now.or(time.Now()), results: map[api.Result]int{}}
	if err := r.write(ctx, outputs); err != nil {
		return exitUsage, err
	}
	if !f.quiet {
		var parts []string
		for _, result := range []api.Result{api.Fail, api.Warned, api.Pass, api.Unknown} {
			if n := r.results[result]; n > 0 {
				parts = append(parts, fmt.Sprintf("%d %s", n, result))
			}
		}
		if len(parts) > 0 {
			fmt.Fprintf(a.err, "Results: %s\n", strings.Join(parts, ", "))
		}
		for _, f := range summary.Failures {
			fmt.Fprintf(a.err, "%s %s\n", a.paint(a.err, red, "Failed:"), printable(f.Err.Error()))
		}
	}
	switch {
	case summary.Nothing != nil:
		fmt.Fprintf(a.err, "%s nothing was scanned: %s%s\n", a.paint(a.err, red, "Error:"), summary.Nothing, f.filters())
		return exitUnscaned, nil
	case f.failOn != "never" && r.results[api.Fail] > 0, f.failOn == "warn" && r.results[api.Warned] > 0:
		return exitNo, nil
	case r.results[api.Unknown] > 0:
		return exitUnscaned, nil
	}
	return exitOK, nil
}

// filters are those that were given, for a message.
func (f *scanFlags) filters() string {
	var given []string
	for _, of := range []struct {
		flag string
		list []string
	}{{f.filter, f.include}, {"--exclude", f.exclude}, {"--repository", f.repositories}} {
		for _, text := range of.list {
			given = append(given, of.flag+" "+text)
		}
	}
	if len(given) == 0 {
		return ""
	}
	return " (" + printable(strings.Join(given, ", ")) + ")"
}

func (a *app) printCounts(host string, c registries.Counts) {
	text := fmt.Sprintf("%s: %d names in %d repositories; %d images scanned, %d names unchanged, %d failed", host, c.Names, c.Repositories, c.Scanned, c.Unchanged, c.Failed)
	if c.NoImages > 0 {
		text += fmt.Sprintf(", %d are no images", c.NoImages)
	}
	if c.Signatures > 0 {
		text += fmt.Sprintf(", %d signatures left out", c.Signatures)
	}
	fmt.Fprintln(a.err, text)
}

// progressEvery is how often a run tells how far it is where nobody looks at a terminal.
const progressEvery = time.Minute

// registryProgress shows how far a run is: a bar, or a line from time to time.
func (a *app) registryProgress(quiet bool) (func(registries.Counts), func()) {
	if quiet {
		return nil, func() {}
	}
	if !isTerminal(a.err) {
		var mu sync.Mutex
		last := time.Now()
		return func(c registries.Counts) {
			mu.Lock()
			defer mu.Unlock()
			if now := time.Now(); now.Sub(last) >= progressEvery {
				last = now
				fmt.Fprintf(a.err, "%d of %d names so far, %d images scanned, %d failed\n", c.Done, c.Names, c.Scanned, c.Failed)
			}
		}, func() {}
	}
	var mu sync.Mutex
	var now registries.Counts
	p := mpb.New(mpb.WithOutput(a.err), mpb.WithWidth(24))
	bar := p.AddBar(0, mpb.PrependDecorators(decor.Name("names "), decor.CountersNoUnit("%d/%d")),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string {
			mu.Lock()
			defer mu.Unlock()
			return fmt.Sprintf("%d scanned, %d failed", now.Scanned, now.Failed)
		})))
	return func(c registries.Counts) {
			mu.Lock()
			now = c
			mu.Unlock()
			bar.SetTotal(int64(max(c.Names, c.Done)+1), false)
			bar.SetCurrent(int64(c.Done))
		}, func() {
			bar.Abort(true)
			p.Wait()
		}
}

// registryReport writes the report of a registry, some images at a time.
type registryReport struct {
	app     *app
	flags   *scanFlags
	server  *client.Client // nil: results are sent nowhere
	state   *registries.State
	summary registries.Summary
	content bundles.Content
	now     time.Time
	results map[api.Result]int
}

// reportChunk is how many images are in memory at once.
const reportChunk = 100

// each calls fn with every image of the report, classified, in the order of the names.
func (r *registryReport) each(ctx context.Context, fn func(api.Scan) error) error {
	failures := r.summary.Failures
	emit := func(s api.Scan) error {
		r.results[s.Result]++
		return fn(s)
	}
	for names := range slices.Chunk(r.summary.Names, reportChunk) {
		scans := make([]api.Scan, 0, len(names))
		for _, n := range names {
			scan, err := r.state.Scan(n)
			if err != nil {
				return err
			}
			scans = append(scans, *scan)
		}
		if err := classifyTogether(ctx, scans, r.content, r.now); err != nil {
			return err
		}
		if !r.flags.judgedHere() {
			if err := r.byServer(ctx, scans); err != nil {
				return err
			}
		}
		for _, s := range scans {
			for len(failures) > 0 && failures[0].Name < s.Image {
				if err := emit(failures[0].Scan(r.now)); err != nil {
					return err
				}
				failures = failures[1:]
			}
			if err := emit(s); err != nil {
				return err
			}
		}
	}
	for _, f := range failures {
		if err := emit(f.Scan(r.now)); err != nil {
			return err
		}
	}
	return nil
}

// byServer gives images the results that the server has of them.
func (r *registryReport) byServer(ctx context.Context, scans []api.Scan) error {
	images := make([]*api.Scan, len(scans))
	for i := range scans {
		images[i] = &scans[i]
	}
	return askServer(ctx, r.server, images, func(i int, seen *api.Scan) {
		if seen == nil || seen.Result == "" {
			unjudged(images[i], "the server has no scan of it; "+judgeHere)
			return
		}
		images[i].Result, images[i].MaxCVSS = seen.Result, seen.MaxCVSS
		adopt(images[i], seen)
	})
}

// classifyTogether computes the results of scans that were made of one registry: names
// of one digest share one document.
func classifyTogether(ctx context.Context, scans []api.Scan, content bundles.Content, now time.Time) error {
	content.Scans = nil
	for _, s := range scans {
		if !slices.ContainsFunc(content.Scans, func(o api.Scan) bool { return o.Digest == s.Digest }) {
			s.Index = nil
			content.Scans = append(content.Scans, s)
		}
	}
	b, err := bundles.Build(content)
	if err != nil {
		return err
	}
	e := engine.New(engine.Config{})
	if err := e.Load(ctx, b); err != nil {
		return err
	}
	for i := range scans {
		if err := e.Annotate(ctx, scans[i].Image, scans[i].Digest, &scans[i], now); err != nil {
			return err
		}
	}
	return nil
}

// sink takes the images of a report one by one.
type sink interface {
	image(api.Scan) error
	end() error
}

// write writes all outputs in one go over the images. A file appears when it is whole.
func (r *registryReport) write(ctx context.Context, outputs []output) (err error) {
	var sinks []sink
	var done []func(error) error
	defer func() {
		for _, d := range done {
			err = cmp.Or(d(err), err)
		}
	}()
	for _, o := range outputs {
		w := io.Writer(r.app.out)
		if o.file != "" {
			file, err := os.CreateTemp(filepath.Dir(o.file), "."+filepath.Base(o.file)+"-")
			if err != nil {
				return fmt.Errorf("writing %s: %w", o.format, err)
			}
			w = file
			done = append(done, func(failed error) error {
				err := errors.Join(file.Chmod(0o644), file.Close())
				if failed == nil && err == nil {
					err = os.Rename(file.Name(), o.file)
				}
				if failed != nil || err != nil {
					_ = os.Remove(file.Name())
				}
				return err
			})
		}
		if o.format == "json" {
			sinks = append(sinks, &jsonSink{w: bufio.NewWriterSize(w, 1<<16)})
		} else {
			sinks = append(sinks, newTableSink(r.app, w))
		}
	}
	err = r.each(ctx, func(s api.Scan) error {
		for _, k := range sinks {
			if err := k.image(s); err != nil {
				return err
			}
		}
		return nil
	})
	for _, k := range sinks {
		if err == nil {
			err = k.end()
		}
	}
	return err
}

// jsonSink writes an api.ScanReport image by image.
type jsonSink struct {
	w *bufio.Writer
	n int
}

func (k *jsonSink) image(s api.Scan) error {
	var text bytes.Buffer
	if err := writeJSON(&text, s); err != nil {
		return err
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, bytes.TrimSpace(text.Bytes()), "    ", "  "); err != nil {
		return err
	}
	before := ",\n    "
	if k.n == 0 {
		before = fmt.Sprintf("{\n  \"schema\": %q,\n  \"images\": [\n    ", api.SchemaScan)
	}
	k.n++
	_, err := k.w.WriteString(before + indented.String())
	return err
}

func (k *jsonSink) end() error {
	after := "\n  ]\n}\n"
	if k.n == 0 {
		after = fmt.Sprintf("{\n  \"schema\": %q,\n  \"images\": []\n}\n", api.SchemaScan)
	}
	if _, err := k.w.WriteString(after); err != nil {
		return err
	}
	return k.w.Flush()
}

// tableSink writes a row for each image; -o json shows what they have.
type tableSink struct {
	app *app
	w   io.Writer
	t   table
	// unscored are findings without a score, unplaced images with packages of which nothing
	// could be looked up.
	unscored, unplaced int
}

func newTableSink(a *app, w io.Writer) *tableSink {
	k := &tableSink{app: a, w: w}
	k.t.add("IMAGE", "RESULT", "MAX CVSS", "VULNERABILITIES", "EXCEPTED", "PACKAGES", "DIGEST")
	return k
}

func (k *tableSink) image(s api.Scan) error {
	excepted := 0
	for _, v := range s.Vulnerabilities {
		if v.Exception != nil {
			excepted++
		}
	}
	k.unscored += s.Unscored
	if len(s.Unplaced) > 0 {
		k.unplaced++
	}
	digest := strings.TrimPrefix(s.Digest, "sha256:")
	k.t.add(s.Image, string(s.Result), scoreText(s.MaxCVSS), strconv.Itoa(len(s.Vulnerabilities)), strconv.Itoa(excepted), strconv.Itoa(s.Packages), digest[:min(12, len(digest))])
	return nil
}

func (k *tableSink) end() error {
	k.t.write(k.w, k.app.resultColour(k.w))
	if k.unplaced > 0 {
		fmt.Fprintf(k.w, "%d %s packages of which nothing could be looked up; -o json says which\n", k.unplaced, plural(k.unplaced, "image has", "images have"))
	}
	if k.unscored > 0 {
		fmt.Fprintln(k.w, unscoredText(k.unscored))
	}
	return nil
}
