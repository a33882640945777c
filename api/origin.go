package api

import "time"

// Way says how evidence came to be known.
type Way string

// Ways of evidence.
const (
	// Attested is an SBOM that was found beside the image, signed.
	Attested Way = "attested"
	// FromServer is what the server scanned itself.
	FromServer Way = "server"
	// FromNode is what an agent found on its node.
	FromNode Way = "node"
	// Uploaded is what somebody handed in.
	Uploaded Way = "upload"
)

// Ways are all of them.
func Ways() []Way { return []Way{Attested, FromServer, FromNode, Uploaded} }

// Evidence is the scope within which evidence of an identity counts: that of its group where
// there is one, whatever its cluster.
func (s Scope) Evidence() Scope {
	if s.Group != "" {
		s.Cluster = ""
	}
	return s
}

// Tags is the scope within which what an identity says of a tag counts: its cluster alone where
// there is one. Its registry is checked against the name when a tag is observed.
func (s Scope) Tags() Scope {
	if s.Cluster != "" {
		s.Group = ""
	}
	s.Registry = ""
	return s
}

// FoundAt is when the packages of the scan were determined: Found, or ScannedAt where that is
// absent. Of the evidence that speaks of an image, the one that was found last counts.
func (s Scan) FoundAt() time.Time {
	if s.Found.IsZero() {
		return s.ScannedAt
	}
	return s.Found
}

// EvidenceUsed is the evidence that a classification rests on, as explanations show it.
type EvidenceUsed struct {
	// Scope is the one within which it counts.
	Scope Scope `json:"scope"`
	// Way is absent where it is not known.
	Way Way `json:"way,omitempty"`
	// Found is when the packages were determined, RFC 3339.
	Found string `json:"found"`
}
