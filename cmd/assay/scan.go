package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/outgoing"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/priority"
	"github.com/assay-dev/assay/scanner"
	"github.com/assay-dev/assay/scanner/attestation"
	"github.com/assay-dev/assay/scanner/vulndb"
	"github.com/assay-dev/assay/server/client"
	"github.com/assay-dev/assay/stream"
	"github.com/spf13/cobra"
)

// scanFlags are the flags of `assay scan`. Names may be written with '_' or '-'.
type scanFlags struct {
	inputs
	registryFlags
	attestationFlags
	outputs    []string
	template   string
	apiURL     string
	apiCA      string
	token      string
	warn, fail float64
	database   string
	maxAge     time.Duration
	inputFile  string
	config     string
	failOn     string
	as         string
	platform   string
	distro     string
	parallel   int
	quiet      bool
	insecure   bool
	realms     outgoing.RealmsFlag
	timeout    time.Duration
	maxBytes   int64
	cacheDir   string
	every      time.Duration
	now        moment
	given      map[string]bool // flags set by any means
	trust      *attestation.Verifier
}

func (a *app) scanCommand() *cobra.Command {
	f := &scanFlags{}
	c := &cobra.Command{
		Use:   "scan INPUT... | scan --registry HOST[/PATH]",
		Short: "Scan images, or a whole registry, and classify each Pass, Warn, Fail or Unknown",
		Long: `Finds the packages of images, matches them against the vulnerability database,
and classifies each image by thresholds and exceptions.

An INPUT is a reference (nginx:1.27: from a local daemon where one has it, else
its registry), or one of
  docker:REF containerd:REF registry:REF
  docker-archive:FILE oci-archive:FILE oci-dir:DIR dir:DIR
  sbom:FILE (Syft JSON, CycloneDX JSON or SPDX JSON; sbom:- is standard input)

-o takes a format (table, json, sarif, cyclonedx, spdx-json, template), which goes
to standard output, or FORMAT=FILE; anything else is a file for the JSON. It may
be repeated.

Packages of Debian, Red Hat, Alpine and the like are looked up by their distribution.
Where none is known that they are of, or the vulnerability database does not have it, an
image that nothing makes Fail is Unknown: --distro debian:12 says what it is, by ID and
VERSION_ID of an /etc/os-release; unplaced: Ignore in the Thresholds leaves them out.

--registry scans all repositories and tags of a registry, or those that
--repository, --include and --exclude leave. Each image is scanned once, however
many tags lead to it, and noted in the file --state: the next run scans what is
new or changed, what failed, and, where no --apiurl is given, everything when the
vulnerability database is another (a server matches the SBOMs that it has by
itself). A run that is killed goes on with the next one. The report has all
names, also the unchanged; its formats are table and json. docs/registries.md
tells of credentials and of registries that do not list their repositories.

With --attestation-key, or --attestation-identity with its issuer and root, an SBOM
that was attested by one of them and attached to the image in its registry is used
instead of one made here; what is not verified is ignored, and a warning says so.
--attestations require scans no image without (docs/attestations.md).

With --apiurl the results are the server's, by its thresholds and exceptions, and the
exit status follows them: what it has not judged is Unknown. Any of --policies,
--exceptions, --warn-threshold and --fail-threshold has images judged here instead,
by what these say alone.

Every flag can be set in the environment, as CC_WARN_THRESHOLD for
--warn_threshold, or in $HOME/.assay.yaml (else $HOME/.tigera-scanner.yaml);
flags win over the environment, and that over the file.

Exit status: 0; 1 an image is Fail (--fail-on chooses); 2 usage or bad input;
3 an image could not be scanned or is Unknown (it is in the output all the same),
or a registry and its filters leave none.`,
		Example: `  assay scan nginx:1.27
  assay scan registry.example.com/shop/web:1.4 -o table -o json=scan.json -o sarif=scan.sarif
  assay scan oci-archive:web.tar --as registry.example.com/shop/web:1.4 --exceptions exceptions.csv
  assay scan -i images.json -w 7 -f 9 -o results.json
  assay scan --registry registry.example.com --exclude '^scratch/' -o json=scans.json
  assay scan registry.example.com/shop/web:1.4 --attestation-key cosign.pub --attestations require
  assay scan --registry quay.io/example --rate 10 -a https://assay.example.com -t "$TOKEN"`,
		ValidArgsFunction: cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault),
	}
	f.register(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := f.complete(c, a); err != nil {
			return err
		}
		return a.scan(c.Context(), f, args)
	}
	return c
}

func (f *scanFlags) register(c *cobra.Command) {
	fs := c.Flags()
	f.policyFlags(c)
	f.registryFlags.register(fs)
	f.attestationFlags.register(c)
	fs.StringArrayVarP(&f.outputs, "output", "o", nil, "FORMAT, FORMAT=FILE, or a FILE for the JSON; may be repeated (default table)")
	fs.StringVar(&f.template, "template", "", "Go template file for -o template, over the JSON document")
	fs.StringVarP(&f.apiURL, "apiurl", "a", "", "URL of an Assay server, to which results and SBOMs are uploaded")
	fs.StringVar(&f.apiCA, "api-ca", "", "further certificates to trust for the Assay server, in PEM")
	fs.StringVarP(&f.token, "token", "t", "", "token for the Assay server")
	fs.Float64VarP(&f.warn, "warn-threshold", "w", api.DefaultWarn, "CVSS score from which an image is Warn; without it no more than --fail-threshold")
	fs.Float64VarP(&f.fail, "fail-threshold", "f", api.DefaultFail, "CVSS score from which an image is Fail; without it no less than --warn-threshold")
	fs.StringVarP(&f.database, "vulnerability-db-path", "p", "", "vulnerability database: a folder, a database file or an archive; also --db")
	fs.DurationVar(&f.maxAge, "max-db-age", vulndb.DefaultMaxAge, "age from which the vulnerability database is refused; 0 for any age")
	fs.StringVarP(&f.inputFile, "input-file", "i", "", `JSON file {"images": ["…"]} with more inputs`)
	fs.StringVar(&f.config, "config", "", "configuration file instead of $HOME/.assay.yaml")
	fs.StringVar(&f.failOn, "fail-on", "fail", "result from which the exit status is 1: fail, warn or never")
	fs.StringVar(&f.as, "as", "", "reference that names an input without a name")
	fs.StringVar(&f.platform, "platform", "", "platform to take of an index, such as linux/arm64 (default linux/amd64)")
	fs.StringVar(&f.distro, "distro", "", "distribution that the packages are of, such as debian:12, whatever the input says of itself")
	fs.IntVar(&f.parallel, "parallel", 2, "images scanned side by side")
	fs.BoolVarP(&f.quiet, "quiet", "q", false, "no progress")
	fs.BoolVar(&f.insecure, "insecure-http", false, "talk plain HTTP to registries")
	fs.Var(&f.realms, "token-realm", outgoing.RealmUsage)
	fs.DurationVar(&f.timeout, "timeout", scanner.DefaultTimeout, "bound on one scan")
	fs.Int64Var(&f.maxBytes, "max-image-bytes", scanner.DefaultMaxImageBytes, "bound on an image's layers, unpacked")
	fs.StringVar(&f.cacheDir, "cache-dir", "", "folder that keeps layers pulled from registries (default none)")
	fs.DurationVar(&f.every, "every", 0, "repeat the scan at this interval until stopped, such as 24h")
	fs.Var(&f.now, "now", "moment for exceptions to be in force, instead of the clock")
	fs.SetNormalizeFunc(calicoNames)
	must(c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formatNames(), cobra.ShellCompDirectiveDefault)))
	must(c.RegisterFlagCompletionFunc("fail-on", cobra.FixedCompletions([]string{"fail", "warn", "never"}, cobra.ShellCompDirectiveNoFileComp)))
}

func (a *app) scan(ctx context.Context, f *scanFlags, args []string) error {
	once, err := a.scanOf(f, args)
	if err != nil {
		return err
	}
	set, err := a.set(f)
	if err != nil {
		return err
	}
	extra, err := a.readExceptions(f.exceptions)
	if err != nil {
		return err
	}
	if f.trust, err = f.verifier(); err != nil {
		return err
	}
	to, err := a.uploader(f)
	if err != nil {
		return err
	}
	for {
		code, err := once(ctx, bundles.Content{Policies: set, Exceptions: extra}, to)
		if err != nil {
			return err
		}
		if f.every == 0 {
			if code != exitOK {
				return answer(code)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(f.every):
		}
	}
}

// scanOf is one round of what the flags and arguments name; it returns the exit code.
func (a *app) scanOf(f *scanFlags, args []string) (func(context.Context, bundles.Content, *client.Client) (int, error), error) {
	registry, err := f.wanted(args)
	if err != nil {
		return nil, err
	}
	if registry {
		source, err := f.source()
		if err != nil {
			return nil, err
		}
		outputs, err := f.registryOutputs()
		return func(ctx context.Context, content bundles.Content, to *client.Client) (int, error) {
			return a.scanRegistry(ctx, f, source, outputs, content, to)
		}, err
	}
	images, err := a.readImages(f, args)
	if err != nil {
		return nil, err
	}
	outputs, err := f.plan()
	return func(ctx context.Context, content bundles.Content, to *client.Client) (int, error) {
		return a.scanOnce(ctx, f, images, outputs, content, to)
	}, err
}

// set is the policies folder, if any, with the thresholds of the flags.
func (a *app) set(f *scanFlags) (*policies.Set, error) {
	set := &policies.Set{}
	var err error
	if f.policies != "" {
		if set, err = a.folder(f.policies, f.options); err != nil {
			return nil, err
		}
	}
	if f.given["warn-threshold"] {
		set.Thresholds.Warn = &f.warn
	}
	if f.given["fail-threshold"] {
		set.Thresholds.Fail = &f.fail
	}
	warn, fail := policies.Limits(set.Thresholds)
	if !(0 <= warn && warn <= fail && fail <= 10) {
		return nil, fmt.Errorf("thresholds must be 0.0 ≤ warn ≤ fail ≤ 10.0: warn is %v, fail is %v", warn, fail)
	}
	set.Thresholds.Warn, set.Thresholds.Fail = &warn, &fail
	return set, nil
}

// scanOnce scans, classifies and writes the outputs; it returns the exit code.
func (a *app) scanOnce(ctx context.Context, f *scanFlags, images []string, outputs []output, content bundles.Content, to *client.Client) (int, error) {
	db, err := a.openDatabase(ctx, f.database, f.maxAge)
	if err != nil {
		return exitUsage, err
	}
	defer db.close()
	s, err := scanner.New(scanner.Config{
		Matcher: db.matcher, Database: db.info, Platform: f.platform, Distro: f.distro, As: f.as, InsecureHTTP: f.insecure, Realms: f.realms.Realms,
		Timeout: f.timeout, MaxImageBytes: f.maxBytes, CacheDir: f.cacheDir, Stdin: a.in, Log: a.log, UserAgent: "assay/" + version(), Attestations: f.trust,
	})
	if err != nil {
		return exitUsage, err
	}
	progress, finish := a.progress(f.quiet, images)
	outcomes := s.ScanAll(ctx, images, f.parallel, progress)
	finish()
	if ctx.Err() != nil {
		return exitUnscaned, ctx.Err()
	}
	report := api.ScanReport{Schema: api.SchemaScan}
	for _, o := range outcomes {
		report.Images = append(report.Images, o.Scan)
	}
	if err := classify(ctx, report.Images, content, f.now.or(time.Now())); err != nil {
		return exitUsage, err
	}
	for i, base := range findBases(report.Images) {
		priority.Annotate(&report.Images[i], base)
	}
	var failed error
	if to != nil {
		failed = a.upload(ctx, to, f, report.Images, outcomes)
	}
	if failed != nil && !f.judgedHere() {
		for i := range report.Images {
			unjudged(&report.Images[i], "the server did not judge it, since the upload failed; "+judgeHere)
		}
	}
	for _, o := range outputs {
		if err := a.write(o, report, outcomes); err != nil {
			return exitUsage, errors.Join(err, failed)
		}
	}
	if failed != nil {
		return exitUsage, failed
	}
	return exitCode(report.Images, f.failOn), nil
}

// classify computes each image's result with the engine, each image by itself:
// two inputs of one name do not decide for one another.
func classify(ctx context.Context, scans []api.Scan, content bundles.Content, now time.Time) error {
	for i := range scans {
		s := &scans[i]
		s.Result = api.Unknown
		if s.Error != "" {
			continue
		}
		// What has no digest or no name still needs one to be a document.
		one := *s
		digest := one.Digest
		if digest == "" {
			digest = "sha256:" + fmt.Sprintf("%064x", i)
		}
		one.Digest, one.Index = digest, nil
		name := one.Image
		if _, err := api.ParseReference(name); err != nil {
			name = "unnamed.invalid/image"
		}
		content.Scans = []api.Scan{one}
		b, err := bundles.Build(content)
		if err != nil {
			return err
		}
		e := engine.New(engine.Config{})
		if err := e.Load(ctx, b); err != nil {
			return err
		}
		if err := e.Annotate(ctx, name, digest, s, now); err != nil {
			return err
		}
	}
	return nil
}

func exitCode(scans []api.Scan, failOn string) int {
	has := func(r api.Result) bool {
		return slices.ContainsFunc(scans, func(s api.Scan) bool { return s.Result == r })
	}
	switch {
	case failOn != "never" && has(api.Fail), failOn == "warn" && has(api.Warned):
		return exitNo
	case has(api.Unknown):
		return exitUnscaned
	}
	return exitOK
}

// maxInputs bounds the images of one run.
const maxInputs = 100_000

// readImages are the inputs of the command line and of the input file.
func (a *app) readImages(f *scanFlags, args []string) ([]string, error) {
	images := slices.Clone(args)
	if f.inputFile != "" {
		before := len(images)
		if err := a.documents(f.inputFile, smallBounds, func(d *stream.Document) error {
			var list struct {
				Images []string `json:"images"`
			}
			if err := d.Unmarshal(&list); err != nil {
				return err
			}
			if len(list.Images) == 0 {
				return errors.New("\"images\" is empty or missing, as in {\"images\": [\"nginx:1.27\"]}")
			}
			images = append(images, list.Images...)
			return nil
		}); err != nil {
			return nil, err
		}
		if len(images) == before {
			return nil, fmt.Errorf("%s: there is nothing in it", f.inputFile)
		}
	}
	if len(images) == 0 {
		return nil, fmt.Errorf("there is nothing to scan: name an image, such as nginx:1.27 or oci-archive:FILE, or give --input-file\nSee 'assay scan --help'")
	}
	if len(images) > maxInputs {
		return nil, fmt.Errorf("there are %d inputs; at most %d are scanned in one run", len(images), maxInputs)
	}
	for _, i := range images {
		in, err := scanner.ParseInput(i)
		if err == nil && in.Kind != scanner.Reference {
			continue
		}
		hint := schemeFor(i)
		switch {
		case err != nil && hint != "":
			return nil, fmt.Errorf("%w; did you mean %s:%s?", err, hint, i)
		case err != nil:
			return nil, err
		case hint != "" && strings.ContainsAny(filepath.Ext(i), "abcdefghijklmnopqrstuvwxyz") && !strings.Contains(i, ":"):
			// x.tar is a reference too, but nobody means that one.
			return nil, fmt.Errorf("%s is a file or a folder; did you mean %s:%s? For the image of that name write registry:%s", i, hint, i, i)
		}
	}
	if f.distro != "" && len(images) > 1 {
		return nil, fmt.Errorf("--distro says what one input is, and there are %d inputs", len(images))
	}
	if f.as != "" && len(images) > 1 {
		return nil, fmt.Errorf("--as names one image, and there are %d inputs", len(images))
	}
	return images, nil
}

// schemeFor guesses the scheme of a path that was given without one.
func schemeFor(path string) string {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return ""
	case info.IsDir():
		if _, err := os.Stat(filepath.Join(path, "oci-layout")); err == nil {
			return "oci-dir"
		}
		return "dir"
	case filepath.Ext(path) == ".json":
		return "sbom"
	}
	return "oci-archive"
}
