package main

import (
	"bytes"
	"context"
	"fmt"

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

// upload sends the SBOMs, which the server matches from then on, and the results.
func (a *app) upload(ctx context.Context, to *client.Client, f *scanFlags, outcomes []scanner.Outcome) error {
	report := api.ScanReport{Schema: api.SchemaScan}
	for _, o := range outcomes {
		ref, err := api.ParseReference(o.Scan.Image)
		if err != nil || o.Scan.Digest == "" && o.Scan.Error == "" {
			a.log.Warn("not uploaded: an image needs a reference, which --as gives, and a digest", "image", o.Scan.Image)
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
		report.Images = append(report.Images, scan)
	}
	if len(report.Images) == 0 {
		return nil
	}
	sent, err := to.Scans(ctx, report)
	if err != nil || f.quiet {
		return err
	}
	for _, s := range sent {
		result := string(s.Result)
		if result == "" {
			result = "stored, not yet classified"
		}
		fmt.Fprintf(a.err, "Uploaded %s: the server says %s\n", s.Image, result)
	}
	return nil
}
