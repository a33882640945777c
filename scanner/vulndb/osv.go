package vulndb

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	gocvss30 "github.com/pandatix/go-cvss/30"
	gocvss31 "github.com/pandatix/go-cvss/31"
)

// osvAdvisory is what is read of an advisory in OSV's format.
type osvAdvisory struct {
	ID               string         `json:"id"`
	Aliases          []string       `json:"aliases"`
	Upstream         []string       `json:"upstream"`
	Summary          string         `json:"summary"`
	Details          string         `json:"details"`
	Published        string         `json:"published"`
	Modified         string         `json:"modified"`
	Withdrawn        string         `json:"withdrawn"`
	Severity         []osvSeverity  `json:"severity"`
	Affected         []osvAffected  `json:"affected"`
	References       []osvReference `json:"references"`
	DatabaseSpecific struct {
		Severity string          `json:"severity"`
		EPSS     *osvEPSS        `json:"epss"`
		KEV      json.RawMessage `json:"kev"`
		CVSS     struct {
			Source string `json:"source"`
		} `json:"cvss"`
	} `json:"database_specific"`
}

type osvSeverity struct {
	Type  string `json:"type"`
	Score string `json:"score"`
}

type osvReference struct {
	Type string `json:"type"`
	URL  string `json:"url"`
}

type osvEPSS struct {
	Probability *float64 `json:"probability"`
	Percentile  float64  `json:"percentile"`
	Date        string   `json:"date"`
}

type osvKEV struct {
	DateAdded  string `json:"date_added"`
	DueDate    string `json:"due_date"`
	Vendor     string `json:"vendor"`
	Product    string `json:"product"`
	Ransomware string `json:"ransomware"`
}

type osvAffected struct {
	Package struct {
		Ecosystem string `json:"ecosystem"`
		Name      string `json:"name"`
	} `json:"package"`
	Severity         []osvSeverity `json:"severity"`
	Ranges           []osvRange    `json:"ranges"`
	Versions         []string      `json:"versions"`
	DatabaseSpecific struct {
		FixAvailable string `json:"fix_available"`
	} `json:"database_specific"`
}

type osvRange struct {
	Type   string     `json:"type"`
	Events []osvEvent `json:"events"`
}

type osvEvent struct {
	Introduced   string `json:"introduced"`
	Fixed        string `json:"fixed"`
	LastAffected string `json:"last_affected"`
	Limit        string `json:"limit"`
}

// parseOSV reads a file of one advisory or an array of them. Those that are
// withdrawn are left out. Every advisory that cannot be used has an error.
func parseOSV(file string, content []byte) ([]*advisory, []error) {
	bad := func(id string, err error) error { return &AdvisoryError{File: file, ID: id, Err: err} }
	content = bytes.TrimPrefix(content, []byte("\xef\xbb\xbf"))
	if len(bytes.TrimSpace(content)) == 0 {
		return nil, []error{bad("", errors.New("the file is empty"))}
	}
	raw := []json.RawMessage{content}
	if bytes.TrimSpace(content)[0] == '[' {
		raw = nil
		if err := json.Unmarshal(content, &raw); err != nil {
			return nil, []error{&AdvisoryError{File: file, Line: lineOf(content, 0, err), Err: fmt.Errorf("it is no JSON: %w", err)}}
		}
	}
	var out []*advisory
	var errs []error
	start, end := 0, 0
	for i, r := range raw {
		// What an array holds comes back as it stands in the file, in order.
		start = end + max(bytes.Index(content[end:], r), 0)
		end = start + len(r)
		var o *osvAdvisory
		if err := json.Unmarshal(r, &o); err != nil {
			errs = append(errs, &AdvisoryError{
				File: file, Line: lineOf(content, start, err), ID: nth(i, len(raw)), Err: fmt.Errorf("it is no advisory in OSV's format: %w", err),
			})
			continue
		}
		if o == nil {
			errs = append(errs, bad(nth(i, len(raw)), errors.New("it is null")))
			continue
		}
		if o.Withdrawn != "" {
			continue
		}
		a, problems := o.resolve()
		id := o.ID
		if !validID(id) {
			id = nth(i, len(raw))
		}
		for _, err := range problems {
			errs = append(errs, bad(id, err))
		}
		if len(problems) == 0 {
			a.file, a.raw = file, r
			out = append(out, a)
		}
	}
	return out, errs
}

// lineOf says in which line of a file an error of JSON is, 0 when it does not
// tell; start is where in the file the text begins that was read.
func lineOf(content []byte, start int, err error) int {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	at := int64(start)
	switch {
	case errors.As(err, &syntax):
		at += syntax.Offset
	case errors.As(err, &kind):
		at += kind.Offset
	default:
		return 0
	}
	before := content[:min(max(at-1, 0), int64(len(content)))]
	return 1 + bytes.Count(before, []byte("\n"))
}

func nth(i, of int) string {
	if of == 1 {
		return ""
	}
	return "advisory " + strconv.Itoa(i+1)
}

// advisory is one that was checked, in the terms of the builder.
type advisory struct {
	file                string
	raw                 json.RawMessage
	id                  string
	aliases             []string
	cves                []string
	text                string
	published, modified string
	vectors             []string
	source              string // who gave the vectors, such as nvd@nist.gov
	severity            string
	urls                []string
	epss                *osvEPSS
	kev                 *osvKEV
	affected            []affected
}

// resolve checks an advisory and gives all that is wrong with it.
func (o *osvAdvisory) resolve() (*advisory, []error) {
	var errs []error
	check := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	a := &advisory{id: o.ID, text: strings.TrimSpace(o.Summary), epss: o.DatabaseSpecific.EPSS, source: strings.TrimSpace(o.DatabaseSpecific.CVSS.Source)}
	if !validID(o.ID) {
		check(fmt.Errorf("the id %q is none", o.ID))
	}
	if a.text == "" {
		a.text = strings.TrimSpace(o.Details)
	}
	a.setAliases(append(append([]string{}, o.Aliases...), o.Upstream...), check)
	var err error
	a.published, err = moment("published", o.Published)
	check(err)
	a.modified, err = moment("modified", o.Modified)
	check(err)
	severities := o.Severity
	if len(severities) == 0 {
		for _, af := range o.Affected {
			severities = append(severities, af.Severity...)
		}
	}
	check(a.setScore(severities, o.DatabaseSpecific.Severity))
	for _, advisories := range []bool{true, false} {
		for _, r := range o.References {
			if u := strings.TrimSpace(r.URL); u != "" && strings.EqualFold(r.Type, "ADVISORY") == advisories {
				a.urls = appendNew(a.urls, u)
			}
		}
	}
	check(a.setEPSS())
	check(a.setKEV(o.DatabaseSpecific.KEV))
	if len(o.Affected) == 0 {
		check(errors.New("it names no affected package"))
	}
	usable := false
	for i := range o.Affected {
		if o.Affected[i].onlyGit() {
			continue
		}
		usable = true
		af, err := o.Affected[i].resolve()
		if err != nil {
			check(fmt.Errorf("affected[%d]: %w", i, err))
			continue
		}
		a.affected = append(a.affected, af)
	}
	if len(o.Affected) > 0 && !usable {
		check(errors.New("it names affected commits but no affected package"))
	}
	return a, errs
}

// validID accepts the ids that databases use: no spaces, no control characters.
func validID(id string) bool {
	return id != "" && len(id) <= 200 && !strings.ContainsFunc(id, func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r)
	})
}

func cvePattern() *regexp.Regexp { return regexp.MustCompile(`(?i)^CVE-\d{4}-\d{4,}$`) }

func (a *advisory) setAliases(ids []string, check func(error)) {
	isCVE := cvePattern()
	for _, id := range append([]string{a.id}, ids...) {
		if isCVE.MatchString(id) {
			a.cves = appendNew(a.cves, strings.ToUpper(id))
		}
		switch {
		case id == a.id:
		case !validID(id):
			check(fmt.Errorf("the alias %q is no id", id))
		default:
			a.aliases = appendNew(a.aliases, id)
		}
	}
}

func appendNew(list []string, s string) []string {
	for _, l := range list {
		if l == s {
			return list
		}
	}
	return append(list, s)
}

// moment checks a time or day and gives it in UTC.
func moment(what, s string) (string, error) {
	if s == "" {
		return "", nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			if y := t.UTC().Year(); y < 1 || y > 9999 {
				break
			}
			return t.UTC().Format(time.RFC3339), nil
		}
	}
	return "", fmt.Errorf("%s is no time: %q", what, s)
}

// setScore takes the CVSS v3 vectors, and a severity that is given or follows from them.
func (a *advisory) setScore(severities []osvSeverity, given string) error {
	best := -1.0
	for _, s := range severities {
		if s.Type != "CVSS_V3" {
			continue
		}
		score, err := scoreV3(s.Score)
		if err != nil {
			return err
		}
		a.vectors = appendNew(a.vectors, s.Score)
		best = math.Max(best, score)
	}
	switch strings.ToUpper(strings.TrimSpace(given)) {
	case "":
		a.severity = severityOf(best)
	case "CRITICAL", "HIGH", "MEDIUM", "LOW", "NEGLIGIBLE", "UNKNOWN":
		a.severity = strings.ToLower(strings.TrimSpace(given))
	case "MODERATE":
		a.severity = "medium"
	default:
		return fmt.Errorf("the severity %q is none of CRITICAL, HIGH, MEDIUM, LOW and NEGLIGIBLE", given)
	}
	return nil
}

// scoreV3 is the base score of a CVSS v3.0 or v3.1 vector.
func scoreV3(vector string) (float64, error) {
	if strings.HasPrefix(vector, "CVSS:3.0/") {
		v, err := gocvss30.ParseVector(vector)
		if err != nil {
			return 0, fmt.Errorf("the CVSS vector %q: %w", vector, err)
		}
		return v.BaseScore(), nil
	}
	v, err := gocvss31.ParseVector(vector)
	if err != nil {
		return 0, fmt.Errorf("the CVSS vector %q: %w", vector, err)
	}
	return v.BaseScore(), nil
}

func severityOf(score float64) string {
	switch {
	case score >= 9:
		return "critical"
	case score >= 7:
		return "high"
	case score >= 4:
		return "medium"
	case score > 0:
		return "low"
	}
	return ""
}

func (a *advisory) setEPSS() error {
	if a.epss == nil {
		return nil
	}
	if len(a.cves) == 0 {
		return errors.New("epss is about a CVE, and the advisory names none")
	}
	if p := a.epss.Probability; p == nil || *p < 0 || *p > 1 || a.epss.Percentile < 0 || a.epss.Percentile > 1 {
		return errors.New("epss: probability and percentile are between 0 and 1")
	}
	var err error
	a.epss.Date, err = moment("epss.date", a.epss.Date)
	return err
}

func (a *advisory) setKEV(raw json.RawMessage) error {
	kev := &osvKEV{}
	switch text := string(bytes.TrimSpace(raw)); {
	case text == "" || text == "null" || text == "false":
		return nil
	case text == "true":
	case text[0] == '{':
		if err := json.Unmarshal(raw, kev); err != nil {
			return fmt.Errorf("kev: %w", err)
		}
	default:
		return errors.New(`kev is true, false or {"date_added": "2021-12-10"}`)
	}
	if len(a.cves) == 0 {
		return errors.New("kev is about a CVE, and the advisory names none")
	}
	a.kev = kev
	var added, due error
	kev.DateAdded, added = moment("kev.date_added", kev.DateAdded)
	kev.DueDate, due = moment("kev.due_date", kev.DueDate)
	return errors.Join(added, due)
}
