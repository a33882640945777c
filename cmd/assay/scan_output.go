package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/scanner"
)

// output is one -o: a format, and a file or "" for standard output.
type output struct{ format, file string }

func formatNames() []string {
	return []string{"table", "json", "sarif", "cyclonedx", "spdx-json", "template"}
}

// parseOutput reads FORMAT, FORMAT=FILE, or a FILE for the JSON.
func parseOutput(s string) output {
	name, file, found := strings.Cut(s, "=")
	switch alias := strings.ToLower(name); alias {
	case "cyclonedx-json":
		name = "cyclonedx"
	case "spdx":
		name = "spdx-json"
	default:
		name = alias
	}
	if slices.Contains(formatNames(), name) && (found || file == "") {
		return output{name, file}
	}
	return output{"json", s}
}

// plan checks the outputs before anything is scanned.
func (f *scanFlags) plan() ([]output, error) {
	if len(f.outputs) == 0 {
		return []output{{format: "table"}}, nil
	}
	var outputs []output
	stdout := 0
	for _, s := range f.outputs {
		o := parseOutput(s)
		if o.file == "" {
			stdout++
		} else if info, err := os.Stat(filepath.Dir(o.file)); err != nil || !info.IsDir() {
			return nil, fmt.Errorf("-o %s: the folder %s does not exist", s, filepath.Dir(o.file))
		}
		if o.format == "template" {
			if f.template == "" {
				return nil, fmt.Errorf("-o template needs --template FILE")
			}
			text, err := os.ReadFile(f.template)
			if err != nil {
				return nil, err
			}
			if _, err := newTemplate(string(text)); err != nil {
				return nil, fmt.Errorf("%s: %w", f.template, err)
			}
			o.format = "template:" + string(text)
		}
		outputs = append(outputs, o)
	}
	if stdout > 1 {
		return nil, fmt.Errorf("%d outputs go to standard output; give all but one a file, as in -o json=scan.json", stdout)
	}
	return outputs, nil
}

// newTemplate parses a Go template over the JSON document, whose members have the
// names of the contract.
func newTemplate(text string) (*template.Template, error) {
	return template.New("output").Funcs(template.FuncMap{
		"json": func(v any) (string, error) { b, err := json.Marshal(v); return string(b), err },
		"join": func(sep string, list []any) string {
			parts := make([]string, len(list))
			for i, v := range list {
				parts[i] = fmt.Sprint(v)
			}
			return strings.Join(parts, sep)
		},
		"upper": strings.ToUpper, "lower": strings.ToLower,
	}).Option("missingkey=zero").Parse(text)
}

func (a *app) write(o output, report api.ScanReport, outcomes []scanner.Outcome) error {
	var b bytes.Buffer
	var err error
	switch name, text, _ := strings.Cut(o.format, ":"); name {
	case "table":
		w := a.out
		if o.file != "" {
			w = &b
		}
		a.printScans(w, report)
	case "json":
		err = writeJSON(&b, report)
	case "sarif":
		err = writeSARIF(&b, report)
	case "cyclonedx":
		err = a.writeSBOM(&b, scanner.CycloneDXJSON, report, outcomes)
	case "spdx-json":
		err = a.writeSBOM(&b, scanner.SPDXJSON, report, outcomes)
	case "template":
		err = executeTemplate(&b, text, report)
	}
	switch {
	case err != nil:
		return fmt.Errorf("writing %s: %w", strings.SplitN(o.format, ":", 2)[0], err)
	case o.file != "":
		return writeFile(o.file, b.Bytes())
	}
	_, err = a.out.Write(b.Bytes())
	return err
}

func executeTemplate(w io.Writer, text string, report api.ScanReport) error {
	t, err := newTemplate(text)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(report)
	if err != nil {
		return err
	}
	var doc map[string]any
	if err := json.Unmarshal(raw, &doc); err != nil {
		return err
	}
	return t.Execute(w, doc)
}

// shownVulnerabilities is how many rows the table shows of an image.
const shownVulnerabilities = 25

func (a *app) printScans(w io.Writer, report api.ScanReport) {
	t := table{}
	t.add("IMAGE", "RESULT", "MAX CVSS", "VULNERABILITIES", "EXCEPTED", "PACKAGES", "DIGEST")
	for _, s := range report.Images {
		excepted := 0
		for _, v := range s.Vulnerabilities {
			if v.Exception != nil {
				excepted++
			}
		}
		digest := strings.TrimPrefix(s.Digest, "sha256:")
		t.add(s.Image, string(s.Result), scoreText(s.MaxCVSS), strconv.Itoa(len(s.Vulnerabilities)), strconv.Itoa(excepted), strconv.Itoa(s.Packages), digest[:min(12, len(digest))])
	}
	t.write(w, a.resultColour(w))
	for _, s := range report.Images {
		a.printScan(w, s)
	}
}

func (a *app) printScan(w io.Writer, s api.Scan) {
	for _, warning := range s.Warnings {
		fmt.Fprintf(w, "\n%s %s: %s\n", a.paint(w, yellow, "Warning:"), printable(s.Image), printable(warning))
	}
	if s.Error != "" {
		fmt.Fprintf(w, "\n%s %s could not be scanned: %s\n", a.paint(w, red, "Error:"), printable(s.Image), printable(s.Error))
		return
	}
	for _, u := range s.Unplaced {
		fmt.Fprintf(w, "\n%s %s: %s\n", a.paint(w, yellow, "Warning:"), printable(s.Image), printable(u.String()))
	}
	if len(s.Unplaced) > 0 && s.Result == api.Unknown {
		fmt.Fprintln(w, "assay scan --distro debian:12 says what such packages are of; unplaced: Ignore in the Thresholds leaves them out")
	}
	if s.SBOM != nil {
		fmt.Fprintf(w, "\n%s: %s\n", printable(s.Image), printable(attestedText(s.SBOM)))
	}
	if len(s.Vulnerabilities) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s\n", printable(s.Image))
	if text := baseText(s); text != "" {
		fmt.Fprintln(w, printable(text))
	}
	t := table{}
	header := []string{"VULNERABILITY", "CVSS", "SEVERITY", "PACKAGE", "VERSION", "FIXED IN", "EPSS", "KEV", "EXCEPTION"}
	layers := layerNumbers(s)
	if len(layers) > 0 {
		header = append(header, "LAYER")
	}
	t.add(header...)
	for _, v := range s.Vulnerabilities[:min(len(s.Vulnerabilities), shownVulnerabilities)] {
		kev, exception, epss := "", "", ""
		if v.KEV {
			kev = "yes"
		}
		if v.Exception != nil {
			exception = v.Exception.Scope + ": " + clip(v.Exception.Justification, 30)
		}
		if v.EPSS != nil {
			epss = strconv.FormatFloat(100**v.EPSS, 'f', 1, 64) + "%"
		}
		row := []string{name(v), scoreText(v.CVSS), v.Severity, v.Package, clip(v.Version, 30), clip(fixText(v.Fix), 24), epss, kev, exception}
		if len(layers) > 0 {
			row = append(row, strings.TrimSpace(layers[v.Layer]+" "+string(v.Origin)))
		}
		t.add(row...)
	}
	t.write(w, nil)
	if more := len(s.Vulnerabilities) - shownVulnerabilities; more > 0 {
		fmt.Fprintf(w, "… and %d more; -o json shows all\n", more)
	}
	if s.Unscored > 0 {
		fmt.Fprintln(w, unscoredText(s.Unscored))
	}
}

// unscoredText counts what cannot make an image Warn or Fail by its score.
func unscoredText(n int) string {
	return fmt.Sprintf("%d %s no CVSS v3 score", n, plural(n, "finding has", "findings have"))
}

// attestedText says where an SBOM comes from that was not made here.
func attestedText(a *api.AttestedSBOM) string {
	who := "the key " + clip(a.Signer.Key, 19)
	if a.Signer.Key == "" {
		who = a.Signer.Identity + " (" + a.Signer.Issuer + ")"
	}
	text := "the SBOM (" + a.Format + ") was attested by " + who
	if a.SignedAt != nil {
		text += " at " + a.SignedAt.Format(time.RFC3339)
	}
	return text
}

// layerNumbers are the places of the layers, from "1" for the lowest, by diff id.
func layerNumbers(s api.Scan) map[string]string {
	numbers := map[string]string{}
	for i, l := range s.Layers {
		if _, ok := numbers[l.DiffID]; !ok {
			numbers[l.DiffID] = strconv.Itoa(i + 1)
		}
	}
	return numbers
}

// baseText says what an image is built on, and how much of what was found comes from there.
func baseText(s api.Scan) string {
	b := s.Base
	if b == nil {
		return ""
	}
	text := "base image: " + b.Name
	if b.Name == "" {
		text = "base image: not known by name"
	}
	switch b.Found {
	case api.BaseLabelled:
		text += ", as labels say"
	case api.BaseShared:
		text += ", shared with other repositories"
	}
	if b.Layers == 0 {
		return text + "; which layers are its is not known"
	}
	return fmt.Sprintf("%s: %d of %d layers, with %d of %d vulnerabilities", text, b.Layers, len(s.Layers), b.Vulnerabilities, b.Vulnerabilities+b.Own)
}

// name is the id with the CVE that it is counted under.
func name(v api.Vulnerability) string {
	if c := documents.CanonicalID(v); c != v.ID {
		return v.ID + " (" + c + ")"
	}
	return v.ID
}

func clip(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

func fixText(f api.Fix) string {
	switch {
	case len(f.Versions) > 0:
		return strings.Join(f.Versions, ", ")
	case f.State == "wont-fix":
		return "won't fix"
	}
	return "-"
}

// scoreText writes a score with one decimal, N/A when there is none.
func scoreText(score *float64) string {
	if score == nil {
		return "N/A"
	}
	return strconv.FormatFloat(*score, 'f', 1, 64)
}
