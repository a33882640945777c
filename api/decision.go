package api

import "time"

// Admission is the document of `assay admit -o json`: one decision for each resource.
type Admission struct {
	Schema string `json:"schema"`
	// Allowed says that every resource is, and that every document was read.
	Allowed bool `json:"allowed"`
	// Revisions are those of the bundles, by name.
	Revisions map[string]string `json:"revisions"`
	Resources []Resource        `json:"resources"`
	// NotJudged are the resources with images that were not judged.
	NotJudged []NotJudged `json:"not_judged"`
	// Unreadable are the documents, and objects in them, that could not be read.
	Unreadable []Unreadable `json:"unreadable"`
	Warnings   []string     `json:"warnings"`
	// Explanations are those of the resources, in their order, where they were asked for.
	Explanations []Explanation `json:"explanations,omitempty"`
}

// FilePlace is where something stands in an input.
type FilePlace struct {
	File     string `json:"file"`
	Document int    `json:"document"` // from 1
	Line     int    `json:"line"`     // from 1
	// Path is that of an item of a list, such as items[3].
	Path string `json:"path,omitempty"`
}

// Resource is the decision on a resource, and where it stands.
type Resource struct {
	FilePlace
	Decision
}

// NotJudged is a resource with images that were not judged.
type NotJudged struct {
	FilePlace
	Kind      string `json:"kind"` // group/Kind
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	Unjudged
}

// Unjudged are the images of a resource that were not judged, and why: those of a kind or a
// namespace that is not judged, or at places that are none of the kind's.
type Unjudged struct {
	Reason string   `json:"reason"`
	Images []string `json:"images"` // as written, sorted, at least one
}

// Answer is what the server says to an AdmissionReview: the decision, and what it does not cover,
// null where that is nothing.
type Answer struct {
	Decision
	NotJudged *Unjudged `json:"not_judged"`
}

// Unreadable is what could not be read.
type Unreadable struct {
	FilePlace
	Column  int    `json:"column,omitempty"` // in bytes, from 1
	Message string `json:"message"`
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
	// Override is set where the request was admitted by break-glass alone.
	Override *Overridden `json:"override,omitempty"`
	// Revisions are those of the bundles that the decision saw, by name.
	Revisions map[string]string `json:"revisions,omitempty"`
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
	// CVEs of a rejected image are the uncovered ones at or over the threshold, the
	// highest first, at most 10; an image that is allowed lists none.
	CVEs []string `json:"cves"`
	// MoreCVEs is how many there are beyond CVEs.
	MoreCVEs  int    `json:"more_cves,omitempty"`
	ScannedAt string `json:"scanned_at,omitempty"`
	// Database is when the vulnerability database of the scan was built.
	Database string `json:"database,omitempty"`
	Message  string `json:"message,omitempty"`
	// Reason says why an image is allowed that a rule would reject.
	Reason string `json:"reason,omitempty"`
}

// SchemaReview marks the flat form of an AdmissionReview.
const SchemaReview = "assay.dev/review/v1"

// Review is the flat form of an AdmissionReview: what the admission decision
// looks at, and nothing else. Package review makes it in Go, and
// data.assay.review.flat in Rego.
type Review struct {
	Operation   string            `json:"operation"` // CREATE, UPDATE, DELETE or CONNECT
	Group       string            `json:"group"`
	Kind        string            `json:"kind"`
	Subresource string            `json:"subresource"`
	Namespace   string            `json:"namespace"` // "" for what is cluster-scoped
	Name        string            `json:"name"`
	Labels      map[string]string `json:"labels"`
	// TemplateLabels are those of each pod template. Nil is not known, as opposed to none.
	TemplateLabels []map[string]string `json:"templateLabels"`
	// NamespaceLabels is nil when the labels are not known, as opposed to none.
	NamespaceLabels map[string]string `json:"namespaceLabels"`
	User            string            `json:"user"`
	// Owner is the controlling owner reference, nil without one.
	Owner *Owner `json:"owner"`
	// OwnerImages are those that the pod template of the owner names, as written, sorted,
	// without repeats. Nil is not known, as opposed to none.
	OwnerImages []string `json:"ownerImages"`
	// HasOld, OldDeleting and TemplateChanged tell of an update: whether the old
	// object is there, has a deletionTimestamp, and has other pod templates or images.
	HasOld          bool        `json:"hasOld"`
	OldDeleting     bool        `json:"oldDeleting"`
	TemplateChanged bool        `json:"templateChanged"`
	Containers      []Container `json:"containers"`
	// OldImages are the images of the old object, sorted, without repeats.
	OldImages []string `json:"oldImages"`
	// OldContainers are those of the old object.
	OldContainers []Container `json:"oldContainers"`
	// Override is the break-glass that the object asks for, nil without one.
	Override *Override `json:"override"`
	// Malformed says what has the wrong shape; such a review is refused.
	Malformed []string `json:"malformed"`
}

// Annotations of break-glass. Both must be given, and the requester must have the
// verb override on ContainerAdmissionPolicies in the namespace.
const (
	OverrideReasonAnnotation = "assay.dev/override-reason"
	OverrideUntilAnnotation  = "assay.dev/override-until" // RFC 3339
)

// Override asks for a workload to be admitted whatever the policies say.
type Override struct {
	Reason string `json:"reason"`
	// Until has the form of TimeLayout; "" where it was none.
	Until string `json:"until"`
	// Granted says that the requester may.
	Granted bool `json:"granted"`
}

// Overridden says who admitted what the policies reject.
type Overridden struct {
	By     string `json:"by"`
	Reason string `json:"reason"`
	Until  string `json:"until"`
}

// TimeLayout is RFC 3339 of fixed width in UTC.
const TimeLayout = "2006-01-02T15:04:05.000000000Z"

// FlatReview is a review as an input of its own for any OPA, with the moment to
// decide for (documents.Time).
type FlatReview struct {
	Schema string `json:"schema"` // SchemaReview
	Now    string `json:"now"`
	// Cluster is the one that is decided for, where the data is of several. An AdmissionReview
	// never sets it.
	Cluster string `json:"cluster,omitempty"`
	Review
}

// SchemaRecord marks a [Record].
const SchemaRecord = "assay.dev/record/v1"

// Record is a receipt of one decision: with the bundles of the revisions that it
// names, anyone can make the decision again. Its Input is what `opa eval -i` reads.
type Record struct {
	Schema   string     `json:"schema"`
	Input    FlatReview `json:"input"`
	Decision Decision   `json:"decision"`
	// Caller is who brought the review to a webhook. Absent where no webhook made the record, or one that
	// does not say: then nobody is known to have been authenticated.
	Caller *Caller `json:"caller,omitempty"`
}

// Caller is who called the webhook. Where it is not authenticated, anyone who reaches the port of
// the webhook can have made up the whole review, user and object included.
type Caller struct {
	// Authenticated says that the caller showed a client certificate that the webhook demands.
	Authenticated bool `json:"authenticated"`
	// Name is the common name of the certificate.
	Name string `json:"name,omitempty"`
}

// SchemaReplay marks a [Replay].
const SchemaReplay = "assay.dev/replay/v1"

// Replay is the document of `assay replay -o json`.
type Replay struct {
	Schema  string     `json:"schema"`
	Same    bool       `json:"same"` // all of them
	Records []Replayed `json:"records"`
}

// Replayed is a recorded decision beside the one that is made now.
type Replayed struct {
	Same     bool     `json:"same"`
	Recorded Decision `json:"recorded"`
	Replayed Decision `json:"replayed"`
}

// Owner is an owner reference by API group and kind.
type Owner struct {
	Group string `json:"group"`
	Kind  string `json:"kind"`
}

// Container is a container of any sort, or an image volume as "volume/NAME".
type Container struct {
	Container string `json:"container"`
	// Image is the reference as written, Normal as normalised; they are the same
	// for what does not parse, which has no Name either. Name is the canonical one: see
	// [Reference.Name].
	Image  string `json:"image"`
	Normal string `json:"normal"`
	Name   string `json:"name,omitempty"`
	// Tag is empty beside a digest, which alone identifies the image.
	Tag    string `json:"tag,omitempty"`
	Digest string `json:"digest,omitempty"`
}

// NewContainer parses the reference of a container.
func NewContainer(name, image string) Container {
	c := Container{Container: name, Image: image, Normal: image}
	ref, err := ParseReference(image)
	if err != nil {
		return c
	}
	c.Normal, c.Name, c.Digest = ref.String(), ref.Name(), ref.Digest
	if ref.Digest == "" {
		c.Tag = ref.Tag
	}
	return c
}

// AdmissionRecord is a receipt as webhooks send it to the server.
type AdmissionRecord struct {
	UID     string    `json:"uid"` // of the request; unique
	Cluster string    `json:"cluster,omitempty"`
	At      time.Time `json:"at"`
	Record  Record    `json:"record"`
}
