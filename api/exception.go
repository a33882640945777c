package api

import "encoding/json"

// VulnerabilityException says that a CVE does not count for an image, a
// repository or everywhere (assay.dev/v1alpha1, cluster-scoped).
type VulnerabilityException struct {
	TypeMeta
	Metadata ObjectMeta                 `json:"metadata"`
	Spec     VulnerabilityExceptionSpec `json:"spec"`
	Status   json.RawMessage            `json:"status,omitempty"`
}

// VulnerabilityExceptionSpec is one exception. Each exception is in force, or
// not, on its own.
type VulnerabilityExceptionSpec struct {
	// CVE is the id of a vulnerability or any alias of it.
	CVE string `json:"cve"`
	// Scope is ScopeAny, ScopeRepo or ScopeImage.
	Scope string `json:"scope"`
	// Registry and Repository split a name as Calico does: for
	// quay.io/tigera/node they are "quay.io/tigera" and "node". A blank
	// registry is Docker Hub.
	Registry   string `json:"registry,omitempty"`
	Repository string `json:"repository,omitempty"`
	// Tags or Digest name the images of ScopeImage.
	Tags   []string `json:"tags,omitempty"`
	Digest string   `json:"digest,omitempty"`
	// Justification is required.
	Justification string `json:"justification"`
	Author        string `json:"author,omitempty"`
	// Created and Expires are RFC 3339. At Expires the exception no longer counts.
	Created string `json:"created,omitempty"`
	Expires string `json:"expires,omitempty"`
	// Until ends the exception on a condition.
	Until *Until `json:"until,omitempty"`
	// Packages limits the exception to vulnerabilities of these packages
	// (package URLs, with or without version), as OpenVEX statements do. The CVE
	// still counts through any other package. Empty means every package.
	Packages []string `json:"packages,omitempty"`
}

// Until ends an exception as soon as any of its conditions holds for the vulnerability.
type Until struct {
	// Fixable: a fixed version appears.
	Fixable bool `json:"fixable,omitempty"`
	// KEV: it is listed among the known exploited vulnerabilities.
	KEV bool `json:"kev,omitempty"`
	// CVSSAbove and EPSSAbove: its score or probability is over this.
	CVSSAbove *float64 `json:"cvssAbove,omitempty"`
	EPSSAbove *float64 `json:"epssAbove,omitempty"`
}

// Scopes of an exception.
const (
	ScopeAny   = "any"
	ScopeRepo  = "repo"
	ScopeImage = "image"
)
