package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/scanner"
	"github.com/assay-dev/assay/server/client"
)

// uploader is the client of the server that results are sent to; nil without one.
func (a *app) uploader(f *scanFlags) (*client.Client, error) {
	if f.apiURL == "" {
		return nil, nil
	}
	c, err := client.New(client.Config{URL: f.apiURL, Token: f.token, CAFile: f.apiCA, UserAgent: "assay/" + version(),
		Warn: func(err error) { a.log.Warn("the upload is tried again", "error", err) }})
	if err != nil {
		return nil, fmt.Errorf("--apiurl: %w", err)
	}
	return c, nil
}

// judgedHere says whether the command line says what counts. Else a server that results
// are sent to does: its thresholds and its exceptions.
func (f *scanFlags) judgedHere() bool {
	return f.apiURL == "" || slices.ContainsFunc([]string{"policies", "exceptions", "warn-threshold", "fail-threshold"}, func(flag string) bool { return f.given[flag] })
}

// judgeHere is how to have judged here what the server does not judge.
const judgeHere = "--warn-threshold and --fail-threshold have it judged here"

// settleTries is how often a server is asked for results that it has not computed yet:
// each time it waits for some seconds itself.
const (
	settleTries = 5
	settleWait  = 2 * time.Second
)

// upload sends the SBOMs, which the server matches from then on, and the results; where
// the server judges, images get its results. Those of an upload that fails stay as they were.
func (a *app) upload(ctx context.Context, to *client.Client, f *scanFlags, images []api.Scan, outcomes []scanner.Outcome) error {
	report := api.ScanReport{Schema: api.SchemaScan}
	var at []int // where the images of the report are
	for i, o := range outcomes {
		ref, err := api.ParseReference(o.Scan.Image)
		if err != nil || o.Scan.Digest == "" && o.Scan.Error == "" {
			a.log.Warn("not uploaded: an image needs a reference, which --as gives, and a digest", "image", o.Scan.Image)
			if !f.judgedHere() {
				unjudged(&images[i], "the server does not judge what was not uploaded, and an image needs a reference, which --as gives, and a digest; "+judgeHere)
			}
			continue
		}
		scan := o.Proven()
		scan.Image = ref.String()
		if o.SBOM != nil && scan.Digest != "" {
			var document bytes.Buffer
			if err := scanner.EncodeSBOM(&document, o.SBOM, scanner.SyftJSON); err != nil {
				return err
			}
			if err := to.SBOM(ctx, scan.Image, scan.Digest, document.Bytes()); err != nil {
				return err
			}
		}
		report.Images, at = append(report.Images, scan), append(at, i)
	}
	if len(report.Images) == 0 {
		return nil
	}
	sent, err := a.send(ctx, to, f, report)
	if err != nil {
		return err
	}
	var judged []*api.Scan
	for n, s := range sent {
		if !f.quiet {
			result := string(s.Result)
			if result == "" {
				result = "stored, not yet classified"
			}
			fmt.Fprintf(a.err, "Uploaded %s: the server says %s\n", printable(s.Image), result)
		}
		image := &images[at[n]]
		switch {
		case f.judgedHere():
		case s.Result == "":
			unjudged(image, "the server has not computed its result yet")
		default:
			image.Result, image.MaxCVSS = s.Result, s.MaxCVSS
			adopt(image, nil)
			judged = append(judged, image)
		}
	}
	if err := askServer(ctx, to, judged, func(i int, seen *api.Scan) { adopt(judged[i], seen) }); err != nil {
		a.log.Warn("which exceptions the server applies is not shown", "error", err)
	}
	return nil
}

// send sends a report, and again while results that count are not computed yet: what is
// sent again changes nothing.
func (a *app) send(ctx context.Context, to *client.Client, f *scanFlags, report api.ScanReport) ([]client.Uploaded, error) {
	for try := 1; ; try++ {
		sent, err := to.Scans(ctx, report)
		if err == nil && len(sent) != len(report.Images) {
			err = fmt.Errorf("the server answers for %d images, not for %d", len(sent), len(report.Images))
		}
		waits := slices.ContainsFunc(sent, func(s client.Uploaded) bool { return s.Result == "" })
		if err != nil || f.judgedHere() || !waits || try == settleTries {
			return sent, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(settleWait):
		}
	}
}

// askedTogether is how many images a server is asked for at a time.
const askedTogether = 8

// askServer asks the server for images, and calls fn with what it has of each; nil where
// it has none. fn is called by several goroutines, once for each image with a digest.
func askServer(ctx context.Context, to *client.Client, images []*api.Scan, fn func(i int, seen *api.Scan)) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(askedTogether)
	for i, s := range images {
		ref, err := api.ParseReference(s.Image)
		if err != nil || s.Digest == "" {
			continue
		}
		group.Go(func() error {
			seen, err := to.Image(ctx, ref.String(), s.Digest)
			if err == nil {
				fn(i, seen)
			}
			return err
		})
	}
	return group.Wait()
}

// unjudged says of an image that nobody judged it.
func unjudged(s *api.Scan, why string) {
	s.Result, s.MaxCVSS = api.Unknown, nil
	for i := range s.Vulnerabilities {
		s.Vulnerabilities[i].Exception, s.Vulnerabilities[i].Decides = nil, false
	}
	if s.Error == "" {
		s.Warnings = append(s.Warnings, why)
	}
}

// adopt takes over which exceptions cover what, and what decides, as the server has it.
func adopt(s, seen *api.Scan) {
	type key struct{ id, pkg, version string }
	said := map[key]api.Vulnerability{}
	if seen != nil {
		for _, v := range seen.Vulnerabilities {
			said[key{v.ID, v.Package, v.Version}] = v
		}
	}
	for i := range s.Vulnerabilities {
		v := &s.Vulnerabilities[i]
		k := key{v.ID, v.Package, v.Version}
		v.Exception, v.Decides = said[k].Exception, said[k].Decides
		delete(said, k)
	}
	var more []string
	for k, v := range said {
		if v.Decides {
			more = append(more, k.id)
		}
	}
	if slices.Sort(more); len(more) > 0 {
		more = slices.Compact(more)
		text := strings.Join(more[:min(len(more), 5)], ", ")
		if n := len(more) - 5; n > 0 {
			text += fmt.Sprintf(" and %d more", n)
		}
		s.Warnings = append(s.Warnings, "the server counts what this scan did not find: "+text)
	}
}
