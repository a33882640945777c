package api

// Admission is the document of `assay admit -o json`: one decision for each resource.
type Admission struct {
	Schema    string     `json:"schema"`
	Allowed   bool       `json:"allowed"`
	Revision  string     `json:"revision"`
	Resources []Decision `json:"resources"`
	Warnings  []string   `json:"warnings"`
}

// Decision is what admission says of one resource. It is the value of
// data.assay.admission.decision in any OPA.
type Decision struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	Allowed   bool   `json:"allowed"`
	// Judged is false where the lifecycle rules let the request pass without
	// looking at an image; Reason says which one.
	Judged bool            `json:"judged"`
	Reason string          `json:"reason,omitempty"`
	Images []ImageDecision `json:"images"`
	// Message is what a rejected user reads; empty when allowed.
	Message string `json:"message,omitempty"`
	// Warnings and Audit report what policies in these modes would have done.
	Warnings []string `json:"warnings,omitempty"`
	Audit    []string `json:"audit,omitempty"`
	Revision string   `json:"revision,omitempty"`
	// Now is the moment that was decided for.
	Now string `json:"now,omitempty"`
}

// ImageDecision is what admission says of one container's image.
type ImageDecision struct {
	Container string `json:"container"`
	Image     string `json:"image"`
	// Digest is that of the platform manifest judged; absent when not known.
	Digest string `json:"digest,omitempty"`
	Action string `json:"action"` // Allow or Reject
	// Policy and Rule (from 1) decided; absent when none did.
	Policy  string   `json:"policy,omitempty"`
	Rule    int      `json:"rule,omitempty"`
	Result  Result   `json:"result"`
	MaxCVSS *float64 `json:"max_cvss,omitempty"`
	// CVEs are the uncovered ones at or over the threshold, the highest first, at most 10.
	CVEs []string `json:"cves"`
	// MoreCVEs is how many there are beyond CVEs.
	MoreCVEs  int    `json:"more_cves,omitempty"`
	ScannedAt string `json:"scanned_at,omitempty"`
	Message   string `json:"message,omitempty"`
}
