// Package webhook is the admission server: reviews in, decisions out. It scans
// nothing and asks no one on the way but the API server: what it decides by is in
// memory, and follows a server, a folder or the cluster's own custom resources.
package webhook

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"
	"unicode/utf8"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/intake"
	"github.com/assay-dev/assay/review"
)

// Admission answers AdmissionReviews (admission.k8s.io/v1 or v1beta1) of workloads, in the
// version that was asked in. A "now" that a review carries does not count. Whatever goes
// wrong, the answer refuses, unless FailOpen says otherwise. It may be used concurrently.
type Admission struct {
	Engine *engine.Engine
	// Ready says why nothing can be decided yet.
	Ready func() error
	// TooOld says why the policies and data are too old to admit by: what they admit is refused with
	// that. nil takes any.
	TooOld func() error
	// NamespaceLabels gives nil where the labels are not known.
	NamespaceLabels func(ctx context.Context, namespace string) map[string]string
	// MayOverride says whether the requester has the verb override; nil: nobody has.
	MayOverride func(ctx context.Context, user string, who review.Requester, namespace string) (bool, error)
	// Owner reads the object that an owner reference in a namespace names; nil reads none.
	Owner func(ctx context.Context, ref review.Owner, namespace string) (map[string]any, error)
	// Resolve adds the digests that tags mean now; nil leaves that to the data.
	Resolve func(ctx context.Context, containers []api.Container)
	// Unknown asks for scans of images that nobody scanned, and says whether it could; nil
	// asks for none.
	Unknown func(images []string) bool
	// Record is told of each decision; nil records nothing.
	Record func(Decided)
	// FailOpen admits what could not be decided, with a warning. Rejections stay.
	FailOpen bool
	Now      func() time.Time
	Log      *slog.Logger
}

// Decided is a decision with what led to it.
type Decided struct {
	Input review.Input
	// Caller is who brought the review.
	Caller   api.Caller
	At       time.Time
	Decision api.Decision
	// NotJudged is what the decision does not cover, nil where that is nothing.
	NotJudged *api.Unjudged
	// Err is why nothing could be decided, nil when something was.
	Err  error
	Took time.Duration
}

// The time that is left for the answer to reach the API server before it gives up.
const reserve = 200 * time.Millisecond

// ServeHTTP answers one review. A request that is no review gets status 400 or 413,
// which the API server takes for a failure of the webhook.
func (a *Admission) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	text, err := readBody(w, r)
	if err != nil {
		return
	}
	ctx := r.Context()
	// The API server says how long it waits.
	if t, err := time.ParseDuration(r.URL.Query().Get("timeout")); err == nil && t > 2*reserve {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t-reserve)
		defer cancel()
	}
	d, err := a.decide(ctx, text)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	d.Caller = callerOf(ctx)
	response := a.response(d)
	if !response.Allowed && a.askForScans(d) {
		response.Result.Message += "\nThe server was asked to scan what nobody has scanned: try again in some minutes."
	}
	respond(w, d.Input.Version, d.Input.UID, response)
	if a.Record != nil {
		a.Record(d)
	}
}

// readBody reads a review, and answers the request itself when it cannot.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.Method != http.MethodPost {
		http.Error(w, "an AdmissionReview must be posted", http.StatusMethodNotAllowed)
		return nil, errors.New("wrong method")
	}
	if text, ok := r.Body.(*intake.Text); ok {
		return text.Bytes, nil // it is there already
	}
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, review.MaxReview))
	if err != nil {
		status := http.StatusBadRequest
		if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
			status = http.StatusRequestEntityTooLarge
		}
		http.Error(w, err.Error(), status)
	}
	return text, err
}

// decide makes a decision of a review. The error means that it is none.
func (a *Admission) decide(ctx context.Context, text []byte) (d Decided, err error) {
	begun := time.Now()
	d.At = a.Now()
	defer func() {
		if p := recover(); p != nil {
			a.Log.Error("a panic during admission", "panic", p, "stack", string(debug.Stack()))
			d.Err = fmt.Errorf("panic: %v", p)
		}
		if d.Err != nil && err == nil {
			d.Decision = a.undecided(d)
		}
		d.Took = time.Since(begun)
	}()
	for {
		settings := a.Engine.Settings()
		d.NotJudged = nil
		if d.Input, err = review.FromAdmissionReview(text, kindsOf(settings)); err != nil {
			return d, err
		}
		if d.Input.UID == "" {
			return d, fmt.Errorf("%w: the request has no uid", review.ErrInput)
		}
		if d.Err = a.Ready(); d.Err != nil {
			return d, nil
		}
		r := &d.Input.Review
		if r.Namespace != "" {
			r.NamespaceLabels = review.WithName(a.NamespaceLabels(ctx, r.Namespace), r.Namespace)
		}
		if a.Resolve != nil {
			a.Resolve(ctx, r.Containers)
		}
		a.override(ctx, &d.Input)
		a.ownerImages(ctx, &d.Input, settings)
		if d.Decision, d.Err = a.Engine.Admit(ctx, *r, d.At); d.Err == nil {
			a.age(&d)
			if settings != nil {
				d.NotJudged = d.Input.NotJudged(d.Decision, settings.Excluded)
			}
		}
		// What was flattened by other settings than were decided by could miss a custom kind's images.
		if a.Engine.Settings() == settings {
			return d, nil
		}
	}
}

// age refuses what data that is too old admits, unless break-glass admits it. What is not judged has no need
// of data.
func (a *Admission) age(d *Decided) {
	if a.TooOld == nil || !d.Decision.Judged || !d.Decision.Allowed || d.Decision.Override != nil {
		return
	}
	old := a.TooOld()
	if old == nil {
		return
	}
	if o := d.Input.Review.Override; o != nil && o.Granted && o.Reason != "" && o.Until > documents.Time(d.At) {
		d.Decision.Override = &api.Overridden{By: d.Input.Review.User, Reason: o.Reason, Until: o.Until}
		return
	}
	d.Decision.Allowed = false
	d.Decision.Message = fmt.Sprintf("%s %s: %v", d.Decision.Kind, d.Decision.Name, old)
}

// override finds out whether the requester of break-glass has the right to it.
func (a *Admission) override(ctx context.Context, in *review.Input) {
	o := in.Review.Override
	if o == nil {
		return
	}
	o.Granted = false // whatever the review says
	if a.MayOverride == nil {
		return
	}
	var err error
	if o.Granted, err = a.MayOverride(ctx, in.Review.User, in.Requester, in.Review.Namespace); err != nil {
		a.Log.Error("break-glass", "user", in.Review.User, "error", err)
	}
}

// undecided is the decision where none could be made.
func (a *Admission) undecided(d Decided) api.Decision {
	r := d.Input.Review
	out := api.Decision{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name, Images: []api.ImageDecision{}, Now: documents.Time(d.At), Revisions: a.Engine.Revisions()}
	said := fmt.Sprintf("%s %s: nothing could be decided: %v", r.Kind, r.Name, d.Err)
	if a.FailOpen {
		out.Allowed, out.Reason, out.Warnings = true, "failure policy Ignore", []string{said}
	} else {
		out.Message = said
	}
	return out
}

func kindsOf(s *engine.Settings) review.Kinds {
	kinds := review.KindsOf(api.AdmissionSettingsSpec{})
	if s != nil {
		for id, k := range s.Kinds {
			kinds[id] = k.Places
		}
	}
	return kinds
}

// Bounds of what users are told, in bytes but for warnings of long lists, in runes: where
// all warnings of a request have more than maxRunes, the API server cuts each.
const (
	maxMessage  = 16 << 10
	maxWarning  = 1 << 10
	maxWarnings = 10
	maxRunes    = 4 << 10
	maxOfMany   = 256
)

func (a *Admission) response(d Decided) *admissionv1.AdmissionResponse {
	out := &admissionv1.AdmissionResponse{Allowed: d.Decision.Allowed, AuditAnnotations: map[string]string{}}
	if !out.Allowed {
		out.Result = refusal(lines(d.Decision.Message, maxMessage))
		if d.Err != nil {
			out.Result.Code, out.Result.Reason = http.StatusInternalServerError, metav1.StatusReasonInternalError
		}
	}
	warn := d.Decision.Warnings
	if o := d.Decision.Override; o != nil {
		warn = append([]string{fmt.Sprintf("admitted by an override of %s until %s, which is recorded: %s", o.By, o.Until, o.Reason)}, warn...)
		out.AuditAnnotations["override"] = cut(o.Reason, maxMessage)
	}
	out.Warnings = warnings(warn)
	if d.Decision.Judged {
		var digests []string
		for _, i := range d.Decision.Images {
			digests = append(digests, fmt.Sprintf("%s=%s %s", i.Container, cmp.Or(i.Digest, "?"), i.Result))
		}
		out.AuditAnnotations["images"] = cut(strings.Join(digests, ", "), maxMessage)
	}
	for key, list := range map[string][]string{"audit": d.Decision.Audit, "revisions": {d.Decision.Revisions["policies"]}} {
		if text := strings.Join(list, "\n"); text != "" {
			out.AuditAnnotations[key] = cut(text, maxMessage)
		}
	}
	return out
}

// askForScans asks for what is rejected since nobody scanned it.
func (a *Admission) askForScans(d Decided) bool {
	if a.Unknown == nil || d.Input.DryRun {
		return false
	}
	var unknown []string
	for _, i := range d.Decision.Images {
		if i.Action == api.Reject && i.Result == api.Unknown {
			unknown = append(unknown, i.Image)
		}
	}
	return len(unknown) > 0 && a.Unknown(unknown)
}

func refusal(message string) *metav1.Status {
	return &metav1.Status{Status: metav1.StatusFailure, Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden, Message: cut(message, maxMessage)}
}

// warnings are what the API server passes on whole, the last one saying how many more there are.
func warnings(list []string) (out []string) {
	total := 0
	for _, w := range list[:min(len(list), maxWarnings)] {
		w = cut(oneLine(w), maxWarning)
		total += utf8.RuneCountInString(w)
		out = append(out, w)
	}
	if n := len(list) - maxWarnings; n > 0 {
		more := fmt.Sprintf("and %d more warnings", n)
		total += len(more)
		out = append(out, more)
	}
	for i, w := range out {
		if r := []rune(w); total > maxRunes && len(r) > maxOfMany {
			out[i] = string(r[:maxOfMany-1]) + "…"
		}
	}
	return out
}

// lines is as many whole lines of a text as n bytes hold, and how many more there are; a
// first line that is longer is cut.
func lines(s string, n int) string {
	if len(s) <= n {
		return s
	}
	all := strings.Split(s, "\n")
	const room = len("\nand 18446744073709551615 more")
	size, kept := len(cut(all[0], n-room)), 1
	for kept < len(all) && size+1+len(all[kept]) <= n-room {
		size += 1 + len(all[kept])
		kept++
	}
	text := cut(strings.Join(all[:kept], "\n"), n-room)
	if more := len(all) - kept; more > 0 {
		text += fmt.Sprintf("\nand %d more", more)
	}
	return text
}

// oneLine suits an HTTP header, which a warning travels in.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n-len("…")], "") + "…"
}

// respond answers in the version that was asked in, "" for v1.
func respond(w http.ResponseWriter, version, uid string, response *admissionv1.AdmissionResponse) {
	response.UID = types.UID(uid)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: cmp.Or(version, admissionv1.SchemeGroupVersion.String()), Kind: "AdmissionReview"},
		Response: response,
	})
}
