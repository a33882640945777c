// Package review flattens AdmissionReviews and manifests into [api.Review].
// What a review means is decided in Rego alone; this package only says what
// there is. Its twin for stock OPA is rego/review.rego, and a differential test
// holds the two together.
package review

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
)

// MaxReview bounds an AdmissionReview in bytes: objects in etcd have 1.5 MiB,
// and a review carries two of them.
const MaxReview = 8 << 20

// Input is one resource to decide on, with what the input says beside it.
type Input struct {
	Review api.Review
	// Version is the apiVersion that the review has, "" where it says none.
	Version string
	// UID and DryRun are those of an AdmissionReview's request.
	UID    string
	DryRun bool
	// Requester is who asks; its name is the review's User.
	Requester Requester
	// Owner is the controlling owner reference; nil without one.
	Owner *Owner
	// Unread are images of what looks like containers in the object, beyond the review's
	// Containers, sorted. They are not judged.
	Unread []string

	now      time.Time
	nowFault error
}

// Owner names an object. Group and kind are those of the review's Owner.
type Owner struct {
	APIVersion, Kind, Name, UID string
}

// Now is the moment to decide for: the one that the input carries, else that of the
// clock. The error is that the input carries something else.
func (in Input) Now(clock time.Time) (time.Time, error) {
	if in.now.IsZero() && in.nowFault == nil {
		return clock, nil
	}
	return in.now, in.nowFault
}

func (in *Input) setNow(value any) {
	s, _ := value.(string)
	if in.now, in.nowFault = time.Parse(time.RFC3339, s); in.nowFault != nil {
		in.nowFault = fmt.Errorf("%w: now must be RFC 3339, not %.60v", ErrInput, value)
	}
}

// Requester is what the API server says of a user beside the name.
type Requester struct {
	UID    string
	Groups []string
	Extra  map[string][]string
}

// Kinds maps "group/Kind" to where objects of the kind have what they run.
type Kinds map[string]api.Places

// KindsOf are the built-in kinds and the custom ones of the settings. A custom kind of which
// nobody says where its images are has no place, so that its objects are malformed.
func KindsOf(s api.AdmissionSettingsSpec) Kinds {
	kinds := Kinds{}
	for _, w := range api.BuiltinWorkloads() {
		kinds[w.ID()] = w.Places()
	}
	for _, k := range s.CustomKinds {
		w, _ := k.Workload()
		kinds[w.ID()] = w.Places()
	}
	return kinds
}

// ErrInput is wrapped by every error that lies in the input.
var ErrInput = errors.New("bad review")

// decodeJSON reads one JSON value, case-sensitive as Rego does, numbers as written.
func decodeJSON(text []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("there is more after the JSON value, which ends at byte %d", dec.InputOffset())
	}
	return v, nil
}

// versions are the forms of AdmissionReviews, whose members are the same.
var versions = []string{"admission.k8s.io/v1", "admission.k8s.io/v1beta1"}

// KnownVersion tells what is an AdmissionReview by its apiVersion and kind; "" is what
// says nothing of itself.
func KnownVersion(version, kind string) bool {
	return (version == "" || slices.Contains(versions, version)) && (kind == "" || kind == "AdmissionReview")
}

// FromAdmissionReview flattens an AdmissionReview (admission.k8s.io/v1 or v1beta1), which may
// carry "now", "namespaceLabels", "overrideGranted" and "owner" beside "request". Namespace labels that
// it does not carry are none but kubernetes.io/metadata.name; null is not known. The owner is the object
// that the controlling owner reference names; without it the images of its template are not known.
func FromAdmissionReview(body []byte, kinds Kinds) (Input, error) {
	if len(body) > MaxReview {
		return Input{}, fmt.Errorf("%w: it has %d bytes; at most %d are read", ErrInput, len(body), MaxReview)
	}
	v, err := decodeJSON(body)
	if err != nil {
		return Input{}, fmt.Errorf("%w: not JSON: %w", ErrInput, err)
	}
	doc, ok := v.(map[string]any)
	if !ok {
		return Input{}, fmt.Errorf("%w: it is no JSON object", ErrInput)
	}
	if _, given := doc["schema"]; given {
		return Input{}, fmt.Errorf("%w: it has a schema, and is no flat review", ErrInput)
	}
	in := Input{Version: text(doc, "apiVersion")}
	kind := text(doc, "kind")
	_, saysVersion := doc["apiVersion"]
	_, saysKind := doc["kind"]
	if saysVersion && in.Version == "" || saysKind && kind == "" || !KnownVersion(in.Version, kind) {
		return in, fmt.Errorf("%w: it must be an AdmissionReview of %s, not a %.60q of %.60q", ErrInput, strings.Join(versions, " or "), kind, in.Version)
	}
	request, ok := doc["request"].(map[string]any)
	if !ok {
		return Input{}, fmt.Errorf("%w: it has no request", ErrInput)
	}
	if now, given := doc["now"]; given {
		in.setNow(now)
	}
	in.Review = flatten(request, kinds)
	in.Unread = unread(member(request, "object"), in.Review)
	if o := in.Review.Override; o != nil {
		o.Granted = doc["overrideGranted"] == true
	}
	in.about(request)
	if in.Owner != nil {
		in.Review.OwnerImages = in.OwnerImages(member(doc, "owner"), kinds)
	}
	labels, given := doc["namespaceLabels"]
	if !given {
		labels = map[string]any{}
	}
	if in.Review.NamespaceLabels, err = namespaceLabels(labels, in.Review.Namespace); err != nil {
		return Input{}, err
	}
	return in, nil
}

// about keeps what an API server says beside what is reviewed.
func (in *Input) about(request map[string]any) {
	in.UID, in.DryRun = text(request, "uid"), request["dryRun"] == true
	if ref := controllingRef(member(member(request, "object"), "metadata")); ref != nil {
		in.Owner = &Owner{APIVersion: text(ref, "apiVersion"), Kind: text(ref, "kind"), Name: text(ref, "name"), UID: text(ref, "uid")}
	}
	in.Requester = requester(member(request, "userInfo"))
}

// OwnerImages are the images that the owner names, sorted: nil where the object is not the one
// that the owner reference names, or has neither pod template nor image.
func (in *Input) OwnerImages(object map[string]any, kinds Kinds) []string {
	r, metadata := in.Review, member(object, "metadata")
	_, judged := kinds[r.Group+"/"+r.Kind]
	if !judged || !isJudged(r) || in.Owner == nil || in.Owner.UID == "" ||
		groupOf(text(object, "apiVersion")) != r.Owner.Group || text(object, "kind") != r.Owner.Kind ||
		text(metadata, "uid") != in.Owner.UID || text(metadata, "name") != in.Owner.Name ||
		!slices.Contains([]string{"", r.Namespace}, text(metadata, "namespace")) {
		return nil
	}
	places, judged := kinds[r.Owner.Group+"/"+r.Owner.Kind]
	if !judged {
		return nil
	}
	run := placesIn(object, places)
	if !run.namesImages() {
		return nil
	}
	return slices.DeleteFunc(imagesOf(run.containers()), func(image string) bool { return image == "" })
}

func requester(user map[string]any) Requester {
	r := Requester{UID: text(user, "uid"), Groups: texts(items(user, "groups")), Extra: map[string][]string{}}
	for k := range member(user, "extra") {
		r.Extra[k] = texts(items(member(user, "extra"), k))
	}
	return r
}

func texts(list []any) []string {
	var out []string
	for _, x := range list {
		if s, ok := x.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

func namespaceLabels(given any, namespace string) (map[string]string, error) {
	labels := map[string]string{}
	switch m := given.(type) {
	case nil:
		labels = nil
	case map[string]any:
		for k, v := range m {
			s, ok := v.(string)
			if !ok {
				return nil, fmt.Errorf("%w: namespaceLabels.%s must be a string", ErrInput, k)
			}
			labels[k] = s
		}
	default:
		return nil, fmt.Errorf("%w: namespaceLabels must be an object or null", ErrInput)
	}
	return WithName(labels, namespace), nil
}

// WithName completes namespace labels: those that are known have the
// namespace's name, and a resource without namespace has none.
func WithName(labels map[string]string, namespace string) map[string]string {
	if namespace == "" {
		return map[string]string{}
	}
	if labels == nil {
		return nil
	}
	const key = "kubernetes.io/metadata.name"
	if _, ok := labels[key]; !ok {
		out := map[string]string{key: namespace}
		for k, v := range labels {
			out[k] = v
		}
		return out
	}
	return labels
}

func flatten(request map[string]any, kinds Kinds) api.Review {
	kind := member(request, "kind")
	object, old := member(request, "object"), member(request, "oldObject")
	metadata := member(object, "metadata")
	r := api.Review{
		Operation:      text(request, "operation"),
		Group:          text(kind, "group"),
		Kind:           text(kind, "kind"),
		Subresource:    text(request, "subResource"),
		Namespace:      text(request, "namespace"),
		Name:           firstText(text(request, "name"), text(metadata, "name"), text(metadata, "generateName")),
		Labels:         labelsOf(metadata),
		TemplateLabels: []map[string]string{},
		User:           text(member(request, "userInfo"), "username"),
		Owner:          controllingOwner(metadata),
		Containers:     []api.Container{},
		OldImages:      []string{},
		OldContainers:  []api.Container{},
		Override:       override(metadata),
		Malformed:      []string{},
	}
	_, r.HasOld = request["oldObject"].(map[string]any)
	r.OldDeleting = member(old, "metadata")["deletionTimestamp"] != nil

	places, judged := kinds[r.Group+"/"+r.Kind]
	if !judged {
		return r
	}
	run, ran := placesIn(object, places), placesIn(old, places)
	r.TemplateChanged = !run.equal(ran)
	if !isJudged(r) {
		return r
	}
	r.Malformed = faultsOf(request, run)
	r.TemplateLabels = run.labels()
	r.Containers = run.containers()
	r.OldContainers = ran.containers()
	r.OldImages = imagesOf(r.OldContainers)
	return r
}

// isJudged says whether a review of a judged kind is of an operation that can bring images.
func isJudged(r api.Review) bool {
	return (r.Operation == "CREATE" || r.Operation == "UPDATE") && (r.Subresource == "" || r.Subresource == "ephemeralcontainers")
}

// imagesOf are the images of containers, sorted, without repeats.
func imagesOf(containers []api.Container) []string {
	images := make([]string, 0, len(containers))
	for _, c := range containers {
		images = append(images, c.Image)
	}
	slices.Sort(images)
	return slices.Compact(images)
}

// containersOf are the containers of a pod spec, each named after the prefix.
func containersOf(spec map[string]any, prefix string) []api.Container {
	out := []api.Container{}
	for _, list := range containerLists {
		for _, c := range items(spec, list) {
			if c, ok := c.(map[string]any); ok {
				out = append(out, api.NewContainer(prefix+text(c, "name"), text(c, "image")))
			}
		}
	}
	for _, v := range items(spec, "volumes") {
		if isObject(v, "image") {
			out = append(out, api.NewContainer(prefix+"volume/"+text(v, "name"), text(member(v, "image"), "reference")))
		}
	}
	return out
}

// override is the break-glass of an object, which says nothing of who asks.
func override(metadata map[string]any) *api.Override {
	annotations := member(metadata, "annotations")
	reason, until := text(annotations, api.OverrideReasonAnnotation), text(annotations, api.OverrideUntilAnnotation)
	if reason == "" && until == "" {
		return nil
	}
	o := &api.Override{Reason: reason}
	if t, err := time.Parse(time.RFC3339, until); err == nil {
		o.Until = t.UTC().Format(api.TimeLayout)
	}
	return o
}

var containerLists = []string{"initContainers", "containers", "ephemeralContainers"}

func controllingOwner(metadata map[string]any) *api.Owner {
	ref := controllingRef(metadata)
	if ref == nil {
		return nil
	}
	return &api.Owner{Group: groupOf(text(ref, "apiVersion")), Kind: text(ref, "kind")}
}

func controllingRef(metadata map[string]any) map[string]any {
	for _, o := range items(metadata, "ownerReferences") {
		if ref, ok := o.(map[string]any); ok && ref["controller"] == true {
			return ref
		}
	}
	return nil
}

func groupOf(apiVersion string) string {
	group, _, found := strings.Cut(apiVersion, "/")
	if !found {
		return ""
	}
	return group
}

// text, member and items read a member of an object; "", nil where it has another type.
func text(x any, key string) string {
	m, _ := x.(map[string]any)
	s, _ := m[key].(string)
	return s
}

func isObject(x any, key string) bool {
	m, _ := x.(map[string]any)
	_, ok := m[key].(map[string]any)
	return ok
}

func member(x any, key string) map[string]any {
	m, _ := x.(map[string]any)
	sub, _ := m[key].(map[string]any)
	return sub
}

func items(x any, key string) []any {
	m, _ := x.(map[string]any)
	list, _ := m[key].([]any)
	return list
}

func firstText(list ...string) string {
	for _, s := range list {
		if s != "" {
			return s
		}
	}
	return ""
}

// labelsOf are the labels of some metadata; what is no text is left out.
func labelsOf(metadata map[string]any) map[string]string {
	labels := map[string]string{}
	for k, v := range member(metadata, "labels") {
		if s, ok := v.(string); ok {
			labels[k] = s
		}
	}
	return labels
}

// equal compares JSON values as Rego does: numbers by value, not by spelling.
func equal(a, b any) bool {
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for k, v := range x {
			w, ok := y[k]
			if !ok || !equal(v, w) {
				return false
			}
		}
		return true
	case []any:
		y, ok := b.([]any)
		return ok && slices.EqualFunc(x, y, equal)
	case json.Number:
		y, ok := b.(json.Number)
		if !ok || x == y {
			return ok
		}
		if len(x) > 30 || len(y) > 30 {
			return false // no number of a pod template; an exponent could cost gigabytes
		}
		p, ok1 := new(big.Float).SetString(string(x))
		q, ok2 := new(big.Float).SetString(string(y))
		return ok1 && ok2 && p.Cmp(q) == 0
	}
	return a == b
}
