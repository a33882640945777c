package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	cyclonedx "github.com/CycloneDX/cyclonedx-go"
	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/scanner"
	"github.com/owenrumney/go-sarif/v3/pkg/report"
	"github.com/owenrumney/go-sarif/v3/pkg/report/v210/sarif"
)

// writeSARIF writes SARIF 2.1.0: a rule for each vulnerability id, a result for
// each package that has it; an exception is a suppression, and an image that
// could not be scanned a failed run.
func writeSARIF(w io.Writer, doc api.ScanReport) error {
	rep := report.NewV210Report()
	for _, s := range doc.Images {
		run := sarif.NewRunWithInformationURI("assay", "https://github.com/assay-dev/assay")
		invocation := sarif.NewInvocation().WithExecutionSuccessful(s.Error == "")
		if s.Error != "" {
			invocation.AddToolExecutionNotification(sarif.NewNotification().WithLevel("error").WithMessage(sarif.NewTextMessage(s.Image + ": " + s.Error)))
		}
		for _, u := range s.Unplaced {
			invocation.AddToolExecutionNotification(sarif.NewNotification().WithLevel("warning").WithMessage(sarif.NewTextMessage(s.Image + ": " + u.String())))
		}
		if s.Unscored > 0 {
			invocation.AddToolExecutionNotification(sarif.NewNotification().WithLevel("note").WithMessage(sarif.NewTextMessage(s.Image + ": " + unscoredText(s.Unscored))))
		}
		run.AddInvocation(invocation)
		for _, v := range s.Vulnerabilities {
			addSARIF(run, s, v)
		}
		rep.AddRun(run)
	}
	return rep.PrettyWrite(w)
}

func addSARIF(run *sarif.Run, s api.Scan, v api.Vulnerability) {
	rule := run.AddRule(v.ID)
	rule.WithDescription(cmp.Or(v.Description, v.ID))
	if strings.HasPrefix(v.DataSource, "https://") {
		rule.WithHelpURI(v.DataSource)
	}
	properties := sarif.NewPropertyBag()
	properties.Add("tags", []string{"security", "vulnerability"})
	if v.CVSS != nil {
		// The property that code scanning services sort by.
		properties.Add("security-severity", scoreText(v.CVSS))
	}
	rule.WithProperties(properties)
	text := fmt.Sprintf("%s in %s %s of %s: CVSS %s, fixed in %s", name(v), v.Package, v.Version, s.Image, scoreText(v.CVSS), fixText(v.Fix))
	path := "image"
	if len(v.Locations) > 0 {
		path = strings.TrimPrefix(v.Locations[0], "/")
	}
	result := run.CreateResultForRule(v.ID).WithLevel(sarifLevel(v)).WithMessage(sarif.NewTextMessage(text)).
		WithPartialFingerprints(map[string]string{"assay/v1": v.ID + "|" + v.PURL + "|" + s.Image})
	result.AddLocation(sarif.NewLocationWithPhysicalLocation(sarif.NewPhysicalLocation().
		WithArtifactLocation(sarif.NewSimpleArtifactLocation(path)).WithRegion(sarif.NewSimpleRegion(1, 1))))
	if e := v.Exception; e != nil {
		result.AddSuppression(sarif.NewSuppression().WithKind("external").WithJustification(e.Justification))
	}
}

func sarifLevel(v api.Vulnerability) string {
	switch {
	case v.CVSS != nil && *v.CVSS >= 7:
		return "error"
	case v.CVSS != nil && *v.CVSS >= 4:
		return "warning"
	}
	return "note"
}

// writeSBOM writes the SBOM of one image; CycloneDX with its vulnerabilities, and
// exceptions as their analysis (VEX).
func (a *app) writeSBOM(w io.Writer, format scanner.SBOMFormat, doc api.ScanReport, outcomes []scanner.Outcome) error {
	if len(outcomes) != 1 {
		return fmt.Errorf("%s holds one image, and there are %d", format, len(outcomes))
	}
	if outcomes[0].SBOM == nil {
		return fmt.Errorf("there is no SBOM: %s", doc.Images[0].Error)
	}
	if format != scanner.CycloneDXJSON {
		return scanner.EncodeSBOM(w, outcomes[0].SBOM, format)
	}
	var plain bytes.Buffer
	if err := scanner.EncodeSBOM(&plain, outcomes[0].SBOM, format); err != nil {
		return err
	}
	bom := new(cyclonedx.BOM)
	if err := cyclonedx.NewBOMDecoder(&plain, cyclonedx.BOMFileFormatJSON).Decode(bom); err != nil {
		return err
	}
	list := cyclonedxVulnerabilities(bom, doc.Images[0])
	bom.Vulnerabilities = &list
	bom.Properties = properties(bom.Properties, doc.Images[0])
	return cyclonedx.NewBOMEncoder(w, cyclonedx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false).Encode(bom)
}

// properties adds what CycloneDX has no member for: how much could not be looked up, or scored.
func properties(was *[]cyclonedx.Property, s api.Scan) *[]cyclonedx.Property {
	var more []cyclonedx.Property
	for _, u := range s.Unplaced {
		more = append(more, cyclonedx.Property{Name: "assay:unplaced", Value: u.String()})
	}
	if s.Unscored > 0 {
		more = append(more, cyclonedx.Property{Name: "assay:unscored", Value: unscoredText(s.Unscored)})
	}
	if more == nil {
		return was
	}
	if was != nil {
		more = append(*was, more...)
	}
	return &more
}

func cyclonedxVulnerabilities(bom *cyclonedx.BOM, s api.Scan) []cyclonedx.Vulnerability {
	refs := map[string][]string{}
	if bom.Components != nil {
		for _, c := range *bom.Components {
			refs[c.PackageURL] = append(refs[c.PackageURL], c.BOMRef)
		}
	}
	byKey := map[string]*cyclonedx.Vulnerability{}
	for _, v := range s.Vulnerabilities {
		key := v.ID
		if v.Exception != nil {
			key += "\x00" + v.Exception.Justification
		}
		out := byKey[key]
		if out == nil {
			out = newCycloneDX(v)
			byKey[key] = out
		}
		for _, ref := range refs[v.PURL] {
			if !slices.ContainsFunc(*out.Affects, func(x cyclonedx.Affects) bool { return x.Ref == ref }) {
				*out.Affects = append(*out.Affects, cyclonedx.Affects{Ref: ref})
			}
		}
	}
	list := []cyclonedx.Vulnerability{}
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		list = append(list, *byKey[key])
	}
	return list
}

func newCycloneDX(v api.Vulnerability) *cyclonedx.Vulnerability {
	out := &cyclonedx.Vulnerability{
		ID: v.ID, Description: v.Description, Affects: &[]cyclonedx.Affects{}, Published: v.Published,
		Source: &cyclonedx.Source{URL: v.DataSource, Name: v.Namespace},
	}
	rating := cyclonedx.VulnerabilityRating{Severity: cyclonedx.Severity(strings.ToLower(v.Severity)), Score: v.CVSS, Vector: v.Vector}
	switch {
	case strings.HasPrefix(v.Vector, "CVSS:3.1"):
		rating.Method = cyclonedx.ScoringMethodCVSSv31
	case strings.HasPrefix(v.Vector, "CVSS:3.0"):
		rating.Method = cyclonedx.ScoringMethodCVSSv3
	}
	if rating.Severity == "negligible" {
		rating.Severity = cyclonedx.SeverityInfo
	}
	out.Ratings = &[]cyclonedx.VulnerabilityRating{rating}
	if c := documents.CanonicalID(v); c != v.ID {
		out.References = &[]cyclonedx.VulnerabilityReference{{ID: c, Source: &cyclonedx.Source{Name: "NVD"}}}
	}
	if len(v.Fix.Versions) > 0 {
		out.Recommendation = "Upgrade " + v.Package + " to " + strings.Join(v.Fix.Versions, " or ")
	}
	if e := v.Exception; e != nil {
		out.Analysis = &cyclonedx.VulnerabilityAnalysis{Detail: e.Justification, Response: &[]cyclonedx.ImpactAnalysisResponse{cyclonedx.IARWillNotFix}}
		switch {
		case strings.HasPrefix(e.Justification, "OpenVEX not_affected"):
			out.Analysis.State, out.Analysis.Response = cyclonedx.IASNotAffected, nil
		case strings.HasPrefix(e.Justification, "OpenVEX fixed"):
			out.Analysis.State, out.Analysis.Response = cyclonedx.IASResolved, nil
		}
	}
	return out
}
