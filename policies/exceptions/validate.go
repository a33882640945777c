// Package exceptions validates vulnerability exceptions, and reads and writes
// them as CSV in Calico's columns and as OpenVEX documents.
package exceptions

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
)

// FieldError is one fault of an exception's spec.
type FieldError struct {
	Path    string // such as tags[0], below spec
	Message string
}

var (
	idPattern     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$`)
	tagPattern    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	digestPattern = regexp.MustCompile(`^sha256:[a-f0-9]{64}$`)
)

// Bounds of one exception: the bytes of a text, and the members of a list.
const (
	maxText = 10_000
	maxList = 1000
)

// Validate returns all that is wrong with an exception. For created and expires,
// a day such as 2026-01-31 is its first moment in UTC: at that moment an
// exception that expires then no longer counts. Tags and a digest may stand side
// by side: the exception then reaches those tags and that digest. ReadCSV is more
// tolerant in what it takes for an exception of scope any or repo.
func Validate(e api.VulnerabilityExceptionSpec) []FieldError {
	var faults []FieldError
	add := func(path, format string, args ...any) {
		faults = append(faults, FieldError{path, fmt.Sprintf(format, args...)})
	}
	if !idPattern.MatchString(e.CVE) {
		add("cve", "must be the id of a vulnerability, such as CVE-2021-44228, not %.60q", e.CVE)
	}
	if strings.TrimSpace(e.Justification) == "" {
		add("justification", "is missing")
	}
	for _, text := range []struct{ path, value string }{{"justification", e.Justification}, {"author", e.Author}} {
		if len(text.value) > maxText {
			add(text.path, "has %d bytes; at most %d are allowed", len(text.value), maxText)
		}
		if !utf8.ValidString(text.value) {
			add(text.path, "is not UTF-8")
		}
	}
	validateScope(e, add)
	for _, text := range []struct{ path, value string }{{"created", e.Created}, {"expires", e.Expires}} {
		if text.value == "" {
			continue
		}
		if _, err := parseTime(text.value); err != nil {
			add(text.path, "must be RFC 3339, such as 2026-01-31T00:00:00Z, or a day, such as 2026-01-31, not %.60q", text.value)
		}
	}
	if len(e.Packages) > maxList {
		add("packages", "has %d members; at most %d are allowed", len(e.Packages), maxList)
	}
	for i, p := range e.Packages {
		if _, _, err := documents.ParsePURL(p); err != nil {
			add(fmt.Sprintf("packages[%d]", i), "%v", err)
		}
	}
	if u := e.Until; u != nil {
		if u.CVSSAbove != nil && (*u.CVSSAbove < 0 || *u.CVSSAbove > 10) {
			add("until.cvssAbove", "must be from 0.0 to 10.0")
		}
		if u.EPSSAbove != nil && (*u.EPSSAbove < 0 || *u.EPSSAbove > 1) {
			add("until.epssAbove", "must be from 0.0 to 1.0")
		}
	}
	return faults
}

// parseTime reads RFC 3339, or a day, which is its first moment in UTC.
func parseTime(text string) (time.Time, error) {
	if t, err := time.Parse(time.DateOnly, text); err == nil {
		return t, nil
	}
	return time.Parse(time.RFC3339, text)
}

func validateScope(e api.VulnerabilityExceptionSpec, add func(path, format string, args ...any)) {
	switch e.Scope {
	case api.ScopeAny:
		if e.Repository != "" || e.Registry != "" || len(e.Tags) > 0 || e.Digest != "" {
			add("scope", "is any, which takes no registry, repository, tags or digest")
		}
		return
	case api.ScopeRepo, api.ScopeImage:
	default:
		add("scope", "must be any, repo or image, not %.60q", e.Scope)
		return
	}
	if e.Repository == "" {
		add("repository", "is missing: the scope is %s", e.Scope)
	} else if _, err := api.NormalizedName(e.Registry, e.Repository); err != nil {
		add("repository", "%v", err)
	}
	if len(e.Tags) > maxList {
		add("tags", "has %d members; at most %d are allowed", len(e.Tags), maxList)
	}
	for i, tag := range e.Tags {
		if !tagPattern.MatchString(tag) {
			add(fmt.Sprintf("tags[%d]", i), "is no tag: %.60q", tag)
		}
	}
	if e.Digest != "" && !digestPattern.MatchString(e.Digest) {
		add("digest", "must be sha256: and 64 hexadecimal digits, not %.80q", e.Digest)
	}
	if e.Scope == api.ScopeRepo && (len(e.Tags) > 0 || e.Digest != "") {
		add("scope", "is repo, which takes no tags and no digest; the scope of these is image")
	}
	if e.Scope == api.ScopeImage && len(e.Tags) == 0 && e.Digest == "" {
		add("tags", "are missing: the scope is image; for all images of the repository it is repo")
	}
}

// object wraps a spec, with a name made of what it says, so that equal exceptions
// have equal names.
func object(spec api.VulnerabilityExceptionSpec) api.VulnerabilityException {
	text, err := json.Marshal(spec)
	if err != nil {
		panic(err) // plain values: cannot fail
	}
	sum := sha256.Sum256(text)
	return api.VulnerabilityException{
		TypeMeta: api.TypeMeta{APIVersion: api.GroupAssay, Kind: api.KindVulnerabilityException},
		Metadata: api.ObjectMeta{Name: "exception-" + hex.EncodeToString(sum[:8])},
		Spec:     spec,
	}
}
