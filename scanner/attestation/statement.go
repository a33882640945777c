package attestation

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Types of predicates.
const (
	predicateSPDX      = "https://spdx.dev/Document"
	predicateCycloneDX = "https://cyclonedx.org/bom"
	predicateSyft      = "https://syft.dev/bom"
	predicateSign      = "https://sigstore.dev/cosign/sign/v1"
	predicateVuln      = "https://cosign.sigstore.dev/attestation/vuln/v1"
	predicateVulns     = "https://in-toto.io/attestation/vulns"
)

// Bounds on statements.
const (
	maxSubjects = 1024
	maxWrapping = 3
)

// errNoSBOM says that a statement is about something else than the packages: that is
// usual, and no user needs to hear of it.
var errNoSBOM = errors.New("it is no SBOM")

// statement is an in-toto statement.
type statement struct {
	Type          string `json:"_type"`
	PredicateType string `json:"predicateType"`
	Subject       []struct {
		Digest map[string]string `json:"digest"`
	} `json:"subject"`
	Predicate json.RawMessage `json:"predicate"`
}

// readStatement reads an in-toto statement, version 0.1 or 1.
func readStatement(text []byte) (*statement, error) {
	var s statement
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("it is no in-toto statement: %w", err)
	}
	if !slices.Contains([]string{"https://in-toto.io/Statement/v0.1", "https://in-toto.io/Statement/v1"}, s.Type) {
		return nil, fmt.Errorf("it is no in-toto statement of a known version: its type is %.80q", s.Type)
	}
	if len(s.Subject) > maxSubjects {
		return nil, fmt.Errorf("the statement is about more than %d subjects", maxSubjects)
	}
	return &s, nil
}

// about says whether one of the digests, "sha256:…", is a subject of the statement.
func (s *statement) about(digests ...string) bool {
	for _, subject := range s.Subject {
		hex := subject.Digest["sha256"]
		if hex != "" && slices.Contains(digests, "sha256:"+hex) {
			return true
		}
	}
	return false
}

// versionOf says whether a predicate has a type, or a version of it, as cosign and
// BuildKit write them: https://spdx.dev/Document and https://spdx.dev/Document/v2.3.
func versionOf(predicate, family string) bool {
	rest, ok := strings.CutPrefix(predicate, family)
	return ok && (rest == "" || strings.HasPrefix(rest, "/v"))
}

// scanOnly says that a statement is the result of a scan, which is never taken for one.
func (s *statement) scanOnly() bool {
	return s.PredicateType == predicateVuln || versionOf(s.PredicateType, predicateVulns)
}

// sbom is the SBOM of the statement in the JSON of its format, as a file of it would be.
// The predicate may be the document, a text that holds it, or an object whose member
// Data is one of them, as older cosigns write it.
func (s *statement) sbom() ([]byte, error) {
	var marks []string
	switch {
	case versionOf(s.PredicateType, predicateSPDX):
		marks = []string{"spdxVersion"}
	case versionOf(s.PredicateType, predicateCycloneDX):
		marks = []string{"bomFormat"}
	case versionOf(s.PredicateType, predicateSyft):
		marks = []string{"artifacts", "schema"}
	default:
		return nil, errNoSBOM
	}
	text := []byte(s.Predicate)
	for range maxWrapping {
		text = bytes.TrimSpace(text)
		if len(text) > 0 && text[0] == '"' {
			var inner string
			if err := json.Unmarshal(text, &inner); err != nil {
				return nil, fmt.Errorf("reading the predicate: %w", err)
			}
			text = []byte(inner)
			continue
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(text, &members); err != nil {
			return nil, fmt.Errorf("the predicate is no SBOM in JSON: %w", err)
		}
		if !slices.ContainsFunc(marks, func(m string) bool { return members[m] == nil }) {
			return text, nil
		}
		if members["Data"] == nil {
			break
		}
		text = members["Data"]
	}
	return nil, fmt.Errorf("the predicate is not what its type %s promises", s.PredicateType)
}

// signedDigest is the digest in what `cosign sign` signs.
func signedDigest(payload []byte) (string, error) {
	var p struct {
		Critical struct {
			Type  string `json:"type"`
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			} `json:"image"`
		} `json:"critical"`
	}
	if err := json.Unmarshal(payload, &p); err != nil {
		return "", fmt.Errorf("what was signed cannot be read: %w", err)
	}
	if p.Critical.Type != "cosign container image signature" {
		return "", fmt.Errorf("what was signed has the type %.80q", p.Critical.Type)
	}
	return p.Critical.Image.Digest, nil
}
