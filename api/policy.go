package api

import "encoding/json"

// ContainerAdmissionPolicy admits or rejects container images
// (containersecurity.tigera.io/v1beta1, cluster-scoped).
type ContainerAdmissionPolicy struct {
	TypeMeta
	Metadata ObjectMeta                   `json:"metadata"`
	Spec     ContainerAdmissionPolicySpec `json:"spec"`
	Status   json.RawMessage              `json:"status,omitempty"` // accepted, ignored
}

// ContainerAdmissionPolicySpec selects resources and lists the rules for their images.
type ContainerAdmissionPolicySpec struct {
	// Order sorts policies: the lowest applies first, ties by name, absent last.
	Order *float64 `json:"order,omitempty"`
	// Selector is over the labels of the resource under review; "" is all().
	Selector string `json:"selector,omitempty"`
	// NamespaceSelector is over the labels of its namespace; "" is all().
	NamespaceSelector string `json:"namespaceSelector,omitempty"`
	// Rules apply in order: the first one that matches an image decides.
	Rules []Rule `json:"rules,omitempty"`
}

// Rule allows or rejects the images that satisfy all of its criteria. A rule
// without criteria matches every image.
type Rule struct {
	// Action is "Allow" or "Reject".
	Action          string           `json:"action"`
	ImagePath       *ValuesCriterion `json:"imagePath,omitempty"`
	ImageScanStatus *ValuesCriterion `json:"imageScanStatus,omitempty"`
	ImageLastScan   *TimeCriterion   `json:"imageLastScan,omitempty"`
}

// Actions of a rule.
const (
	Allow  = "Allow"
	Reject = "Reject"
)

// ValuesCriterion compares with a list of values: RE2 regular expressions for
// imagePath, results for imageScanStatus.
type ValuesCriterion struct {
	// Operator is "IsOneOf" or "IsNoneOf".
	Operator string   `json:"operator"`
	Values   []string `json:"values"`
}

// Operators of a ValuesCriterion.
const (
	IsOneOf  = "IsOneOf"
	IsNoneOf = "IsNoneOf"
)

// TimeCriterion compares the time of an image's last scan, strictly, with a
// moment: Duration before now, or Time. Exactly one of the two is set.
type TimeCriterion struct {
	// Operator is "gt" (scanned later than) or "lt" (scanned earlier than).
	Operator string    `json:"operator"`
	Duration *Duration `json:"duration,omitempty"`
	// Time is RFC 3339 as Go's parser takes it.
	Time string `json:"time,omitempty"`
}

// Duration is a span of the calendar, subtracted from now in UTC by the rules
// of Go's time.AddDate.
type Duration struct {
	Days   int `json:"days,omitempty"`
	Months int `json:"months,omitempty"`
	Years  int `json:"years,omitempty"`
}

// Thresholds sets the CVSS scores from which an image is Warn and Fail
// (assay.dev/v1alpha1, cluster-scoped). At most one object of the kind is in force.
type Thresholds struct {
	TypeMeta
	Metadata ObjectMeta      `json:"metadata"`
	Spec     ThresholdsSpec  `json:"spec"`
	Status   json.RawMessage `json:"status,omitempty"`
}

// Default thresholds.
const (
	DefaultWarn = 7.0
	DefaultFail = 9.0
)

// ThresholdsSpec: 0.0 ≤ Warn ≤ Fail ≤ 10.0. The other fields switch on what
// goes beyond Calico and are off by default.
type ThresholdsSpec struct {
	Warn *float64 `json:"warn,omitempty"` // absent: DefaultWarn, or Fail where that is less
	Fail *float64 `json:"fail,omitempty"` // absent: DefaultFail, or Warn where that is more

	// ScoreBySeverity gives a vulnerability without a CVSS v3 score the lowest
	// score of its severity word: Critical 9.0, High 7.0, Medium 4.0, Low 0.1.
	ScoreBySeverity bool `json:"scoreBySeverity,omitempty"`
	// FailOnKEV makes any uncovered vulnerability of CISA's catalogue of known
	// exploited vulnerabilities a Fail.
	FailOnKEV bool `json:"failOnKEV,omitempty"`
	// FailOnEPSS makes an uncovered vulnerability whose EPSS probability
	// (0.0–1.0) is at least this a Fail.
	FailOnEPSS *float64 `json:"failOnEPSS,omitempty"`
	// OnlyFixable counts only vulnerabilities that have a fixed version.
	OnlyFixable bool `json:"onlyFixable,omitempty"`
	// Unplaced says what packages of no known distribution make of an image that nothing
	// makes Fail: UnplacedUnknown (default) or UnplacedIgnore. See [Scan.Unplaced].
	Unplaced string `json:"unplaced,omitempty"`
	// Grace leaves a vulnerability out until Days days (24 h each) after an
	// event of its life. A vulnerability whose date is not known gets no grace.
	Grace *Grace `json:"grace,omitempty"`
}

// What packages of which nothing could be looked up make of an image.
const (
	// UnplacedUnknown is Unknown: that they have no vulnerabilities is not known.
	UnplacedUnknown = "Unknown"
	// UnplacedIgnore is what the other packages make of it.
	UnplacedIgnore = "Ignore"
)

// Grace is a number of days after a vulnerability's publication or after the
// availability of its fix.
type Grace struct {
	Days int `json:"days"`
	// From is "Published" or "FixAvailable".
	From string `json:"from"`
}

// Origins of a Grace.
const (
	FromPublished    = "Published"
	FromFixAvailable = "FixAvailable"
)

// AdmissionSettings (assay.dev/v1alpha1, cluster-scoped, named "default")
// configures the admission decision. It is part of the policy bundle.
type AdmissionSettings struct {
	TypeMeta
	Metadata ObjectMeta            `json:"metadata"`
	Spec     AdmissionSettingsSpec `json:"spec"`
	Status   json.RawMessage       `json:"status,omitempty"`
}

// AdmissionSettingsSpec: absent fields mean the defaults named at each.
type AdmissionSettingsSpec struct {
	// DefaultAction decides an image that no policy decides: "Allow" (default) or "Reject".
	DefaultAction string `json:"defaultAction,omitempty"`
	// Controllers are the user names whose creations by a judged owner are not
	// judged again. Absent: DefaultControllers.
	Controllers []string `json:"controllers,omitempty"`
	// CustomKinds are further workload kinds to judge.
	CustomKinds []CustomKind `json:"customKinds,omitempty"`
	// ExcludedNamespaces are not judged. Absent: DefaultExcludedNamespaces.
	// An empty list excludes none.
	ExcludedNamespaces *[]string `json:"excludedNamespaces,omitempty"`
	// Platforms are those of the cluster's nodes, such as "linux/arm64" or
	// "linux/arm/v7": an index takes the worst of them. Absent: "linux/amd64".
	Platforms []string `json:"platforms,omitempty"`
	// AllowNoWorse lets an update through where a rule rejects an image for its result or
	// time, but would reject the image that it replaces too: in the same container,
	// of the same repository, with no better result and no lower maximum.
	AllowNoWorse bool `json:"allowNoWorse,omitempty"`
	// Children says what is judged of the creations of Controllers for a judged owner:
	// ChildrenTrusted (default), ChildrenSameImages or ChildrenJudged.
	Children string `json:"children,omitempty"`
	// TemplateLabels has the selectors of policies look at the labels of pod templates too: a policy applies
	// where its selector matches the labels of the object, or those of one of its templates.
	TemplateLabels bool `json:"templateLabels,omitempty"`
	// Evidence are the ways that count for what is known of an image's packages; what came
	// another way is as if it were not there. Absent: all, what came an unknown way among them.
	Evidence []Way `json:"evidence,omitempty"`
}

// What is judged of what controllers create for an owner that is itself judged.
const (
	// ChildrenTrusted is nothing.
	ChildrenTrusted = "trusted"
	// ChildrenSameImages are images that the owner's pod template does not name; all where the
	// owner cannot be read.
	ChildrenSameImages = "sameImages"
	// ChildrenJudged is everything.
	ChildrenJudged = "judged"
)

// CustomKind is a workload kind by its API group and kind, in any version. Where its images
// are, the paths say; without any, the table of known kinds does (KnownWorkloads).
// A path is of member names joined by dots, each with [] behind it where it is a list, or an
// object of which each member counts: "spec.template", "spec.jobs[].template".
type CustomKind struct {
	APIGroup string `json:"apiGroup"`
	Kind     string `json:"kind"`
	// PodTemplatePath and PodTemplatePaths lead to pod templates.
	PodTemplatePath  string   `json:"podTemplatePath,omitempty"`
	PodTemplatePaths []string `json:"podTemplatePaths,omitempty"`
	// ImagePaths lead to references of images, such as "spec.image" or "spec.steps[].image".
	ImagePaths []string `json:"imagePaths,omitempty"`
	// ReferencePaths lead, through no list, to members that say that an object runs something else:
	// one that has neither template nor image is malformed without such a member. Absent, where the
	// other paths are those of the table: the table's.
	ReferencePaths []string `json:"referencePaths,omitempty"`
	// Controllers are the user names that create resources for owners of this kind.
	Controllers []string `json:"controllers,omitempty"`
}

// DefaultControllers are the identities of Kubernetes' own workload controllers.
func DefaultControllers() []string {
	return []string{
		"system:kube-controller-manager",
		"system:serviceaccount:kube-system:cronjob-controller",
		"system:serviceaccount:kube-system:daemon-set-controller",
		"system:serviceaccount:kube-system:deployment-controller",
		"system:serviceaccount:kube-system:job-controller",
		"system:serviceaccount:kube-system:replicaset-controller",
		"system:serviceaccount:kube-system:replication-controller",
		"system:serviceaccount:kube-system:statefulset-controller",
	}
}

// DefaultExcludedNamespaces are not judged unless AdmissionSettings says otherwise.
func DefaultExcludedNamespaces() []string { return []string{"assay-system", "kube-system"} }

// DefaultPlatform is the platform judged of an index when none is configured.
const DefaultPlatform = "linux/amd64"
