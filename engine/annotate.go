package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
)

// Annotate classifies an image, and writes into a scan of it the result, the maximum, the
// number of records without score and, at each vulnerability, the exception that covers it and whether it decides the result.
func (e *Engine) Annotate(ctx context.Context, image, digest string, scan *api.Scan, now time.Time) error {
	raw, err := e.ExplainClassification(ctx, image, digest, now)
	if err != nil {
		return err
	}
	type member struct {
		Package string `json:"package"`
		Version string `json:"version"`
	}
	var said struct {
		Result          api.Result `json:"result"`
		MaxCVSS         *float64   `json:"max_cvss"`
		Vulnerabilities []struct {
			ID string `json:"id"`
		} `json:"vulnerabilities"`
		Exceptions []struct {
			api.AppliedException
			CVE      string   `json:"cve"`
			Covers   bool     `json:"covers"`
			InForce  bool     `json:"in_force"`
			Packages []member `json:"packages"`
		} `json:"exceptions"`
	}
	if err := json.Unmarshal(raw, &said); err != nil {
		return fmt.Errorf("%w: %w", ErrEvaluation, err)
	}
	scan.Result, scan.MaxCVSS = said.Result, said.MaxCVSS
	scan.Unscored = api.Unscored(scan.Vulnerabilities)
	decides := map[string]bool{}
	for _, v := range said.Vulnerabilities {
		decides[v.ID] = true
	}
	for i := range scan.Vulnerabilities {
		v := &scan.Vulnerabilities[i]
		v.Exception = nil
		id := documents.CanonicalID(*v)
		name, version, _ := documents.ParsePURL(v.PURL) // no package URL: no package-scoped exception
		for _, x := range said.Exceptions {
			if x.CVE != id {
				continue
			}
			covers := x.Covers
			for _, p := range x.Packages {
				covers = covers || x.InForce && p.Package == name && (p.Version == "" || p.Version == version)
			}
			if covers {
				applied := x.AppliedException
				v.Exception = &applied
				break
			}
		}
		v.Decides = decides[id] && v.Exception == nil
	}
	return nil
}
