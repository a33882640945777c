package api

// SchemaExplanation marks an [Explanation].
const SchemaExplanation = "assay.dev/explanation/v1"

// Explanation says why a decision is what it is, and what would change it.
type Explanation struct {
	Schema   string             `json:"schema"`
	Decision Decision           `json:"decision"`
	Images   []ImageExplanation `json:"images"`
}

// ImageExplanation explains one image of a decision, in the order of its images.
type ImageExplanation struct {
	Container string `json:"container"`
	// Image is the reference as written and Normal as normalised: the criteria of policies
	// see both, the canonical form of it ([Reference.Canonical]), and the result and time of the scan.
	Image     string   `json:"image"`
	Normal    string   `json:"normal"`
	Digest    string   `json:"digest,omitempty"`
	Result    Result   `json:"result"`
	MaxCVSS   *float64 `json:"max_cvss,omitempty"`
	ScannedAt string   `json:"scanned_at,omitempty"`
	Database  string   `json:"database,omitempty"`
	// Evidence is what the result rests on; absent where there is none.
	Evidence *EvidenceUsed `json:"evidence,omitempty"`
	// Unknown says why the result is Unknown; absent for another.
	Unknown *UnknownCause `json:"unknown,omitempty"`
	// Matched are the rules of enforcing policies that match, the one that decided first;
	// Noted are those of policies in Warn and Audit mode.
	Matched []MatchedRule `json:"matched"`
	Noted   []MatchedRule `json:"noted"`
	// Vulnerabilities are the uncovered ones at or over the threshold, the highest first.
	Vulnerabilities []ExplainedVulnerability `json:"vulnerabilities"`
	// Exceptions are those that name a vulnerability of the image, those that miss it by
	// their end, tag or digest too.
	Exceptions []ExplainedException `json:"exceptions"`
	// Counterfactual says what would admit a rejected image; absent for one that is allowed.
	Counterfactual *Counterfactual `json:"counterfactual,omitempty"`
}

// UnknownCause is why a result is Unknown, and what would make it known: parts of sentences.
type UnknownCause struct {
	Why    string `json:"why"`
	Remedy string `json:"remedy"`
}

// MatchedRule is a rule of a policy.
type MatchedRule struct {
	Policy string `json:"policy"`
	// Rule counts from 1; 0 is the refusal because namespace labels are not known.
	Rule   int    `json:"rule"`
	Action string `json:"action"`
	Mode   string `json:"mode"`
	// Criteria are what the rule asks: "path" or, for IsNoneOf, "path not"; "status";
	// "time" for lt, and "time after" for gt.
	Criteria []string `json:"criteria"`
	// Source is file:line of the rule.
	Source string `json:"source"`
	// Message is what the policy's author says to who is refused.
	Message string `json:"message,omitempty"`
}

// ExplainedVulnerability is a vulnerability that counts against an image.
type ExplainedVulnerability struct {
	ID    string   `json:"id"`
	Score *float64 `json:"score,omitempty"`
	// Packages have it; empty where the scan is not at hand.
	Packages []VulnerablePackage `json:"packages,omitempty"`
}

// VulnerablePackage is a package of an image with what fixes one of its vulnerabilities.
type VulnerablePackage struct {
	Package string   `json:"package"`
	Version string   `json:"version"`
	Type    string   `json:"type,omitempty"`
	FixedIn []string `json:"fixed_in,omitempty"`
}

// ExplainedException is an exception as it bears on an image.
type ExplainedException struct {
	AppliedException
	CVE string `json:"cve"`
	// Key is what the exception is for: *, a repository, name:tag or name@digest.
	Key string `json:"key"`
	// InForce, Reaches and Covers say whether it has not ended, is for this image, and so counts.
	InForce bool `json:"in_force"`
	Reaches bool `json:"reaches"`
	Covers  bool `json:"covers"`
}

// Counterfactual is what would admit a rejected image.
type Counterfactual struct {
	// AdmittedAs are the results with which the policies would admit the image.
	AdmittedAs []Result `json:"admitted_as"`
	// Options are sets of changes, each of which admits the image: it was applied, and
	// decided again. The first is the smallest.
	Options []ChangeSet `json:"options"`
	// Reason says why there is no option.
	Reason string `json:"reason,omitempty"`
}

// ChangeSet is a set of changes that together turn a decision. No smaller set of
// its kind does.
type ChangeSet struct {
	// Kind is upgrades, exceptions, mixed or scan.
	Kind string `json:"kind"`
	// Result is the image's with the changes; Reason says why it is then admitted, where a
	// rule still rejects that result.
	Result  Result   `json:"result"`
	Reason  string   `json:"reason,omitempty"`
	Changes []Change `json:"changes"`
}

// Change is one change: Upgrade, Exception or Scan is set.
type Change struct {
	Upgrade *Upgrade `json:"upgrade,omitempty"`
	// Exception is the id of a vulnerability to be excepted for this image.
	Exception string `json:"exception,omitempty"`
	// Scan asks for the image to be scanned (again).
	Scan bool `json:"scan,omitempty"`
	// Digest is that of the platform manifest concerned.
	Digest string `json:"digest,omitempty"`
}

// Upgrade is a package to be replaced by a version that fixes what blocks the image.
type Upgrade struct {
	Package string `json:"package"`
	Version string `json:"version"`
	Type    string `json:"type,omitempty"`
	// Fixes maps each vulnerability that blocks the image to the versions that fix it.
	Fixes map[string][]string `json:"fixes"`
}
