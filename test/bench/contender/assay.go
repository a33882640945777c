package contender

import (
	"context"
	"fmt"
	"slices"
	"testing/fstest"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/review"
	"github.com/assay-dev/assay/test/bench/fleet"
)

// Assay is the engine behind its public API: this file alone knows that.
type Assay struct {
	engine     *engine.Engine
	set        *policies.Set
	kinds      review.Kinds
	exceptions map[string][]api.VulnerabilityException // by place
	needs      documents.Needs
}

// NewAssay loads policies with their thresholds, exceptions and scans at once, as
// one bundle.
func NewAssay(ctx context.Context, list []fleet.Policy, warn, fail float64, exceptions []api.VulnerabilityException, scans []api.Scan) (*Assay, error) {
	set, err := parse(list, warn, fail)
	if err != nil {
		return nil, err
	}
	a := &Assay{
		engine: engine.New(engine.Config{}), set: set, kinds: review.KindsOf(set.Settings),
		exceptions: map[string][]api.VulnerabilityException{}, needs: documents.NeedsOf(set.Thresholds, exceptions),
	}
	for _, e := range exceptions {
		a.exceptions[placeOf(e.Spec)] = append(a.exceptions[placeOf(e.Spec)], e)
	}
	b, err := bundles.Build(bundles.Content{Policies: set, Exceptions: exceptions, Scans: scans})
	if err != nil {
		return nil, err
	}
	return a, a.engine.Load(ctx, b)
}

func parse(list []fleet.Policy, warn, fail float64) (*policies.Set, error) {
	text, err := fleet.Text(list, warn, fail)
	if err != nil {
		return nil, err
	}
	return policies.Load(fstest.MapFS{"policies.json": {Data: text}})
}

// SetPolicies puts policies and thresholds in the place of those before, from
// their text on.
func (a *Assay) SetPolicies(ctx context.Context, list []fleet.Policy, warn, fail float64) error {
	set, err := parse(list, warn, fail)
	if err != nil {
		return err
	}
	b, err := bundles.Policies(set)
	if err != nil {
		return err
	}
	return a.engine.Replace(ctx, b)
}

// AddScans writes scans in one update.
func (a *Assay) AddScans(ctx context.Context, scans []api.Scan) error {
	var changes []engine.Change
	for _, s := range scans {
		image, _ := documents.Image(s, a.needs)
		c := api.NewContainer("", s.Image)
		changes = append(changes,
			engine.Change{Path: []string{"images", documents.Shard(s.Digest), s.Digest}, Value: image},
			engine.Change{Path: []string{"names", c.Name, c.Tag}, Value: map[string]any{"digest": s.Digest, "at": documents.Time(s.ScannedAt)}})
	}
	return a.engine.Update(ctx, changes...)
}

// AddException writes one exception beside those before: the list of its key and
// vulnerability, and the keys of its repository.
func (a *Assay) AddException(ctx context.Context, e api.VulnerabilityException) error {
	place := placeOf(e.Spec)
	a.exceptions[place] = append(a.exceptions[place], e)
	written := documents.Data(nil, a.exceptions[place], a.needs)["exceptions"].(map[string]any)
	known := written["keys"].(map[string]any)
	var changes []engine.Change
	name, keys := documents.ExceptionKeys(e.Spec)
	for _, tree := range []string{"plain", "ends"} {
		for _, key := range keys {
			value := written[tree].(map[string]any)[key].(map[string]any)[e.Spec.CVE]
			changes = append(changes, engine.Change{Path: []string{"exceptions", tree, key, e.Spec.CVE}, Value: value})
		}
	}
	if name != "" {
		changes = append(changes, engine.Change{Path: []string{"exceptions", "keys", name}, Value: known[name]})
	}
	return a.engine.Update(ctx, changes...)
}

// placeOf is a repository, or a vulnerability where the exception is for all:
// exceptions of one place are written together.
func placeOf(e api.VulnerabilityExceptionSpec) string {
	if name, _ := documents.ExceptionKeys(e); name != "" {
		return name
	}
	return e.CVE
}

// Classify classifies the image of a container.
func (a *Assay) Classify(ctx context.Context, c api.Container) (Classification, error) {
	got, err := a.engine.Classify(ctx, c.Image, "", fleet.Now)
	out := Classification{Result: got.Result}
	if got.MaxCVSS != nil {
		out.Max = *got.MaxCVSS
	}
	return out, err
}

// Alerts are how many fire over events.
func (a *Assay) Alerts(ctx context.Context, events []api.Event) (int, error) {
	fired, err := a.engine.Alerts(ctx, events, fleet.Now)
	return len(fired), err
}

// Name is "Assay".
func (a *Assay) Name() string { return "Assay" }

// Admit decides on the flat review.
func (a *Assay) Admit(ctx context.Context, r *fleet.Review) (Verdict, error) {
	return a.admit(ctx, r.Flat)
}

func (a *Assay) admit(ctx context.Context, r api.Review) (Verdict, error) {
	d, err := a.engine.Admit(ctx, r, fleet.Now)
	if err != nil {
		return Verdict{}, err
	}
	v := Verdict{Allowed: d.Allowed, Rejected: []string{}, Decided: []string{}}
	for _, i := range d.Images {
		if i.Action == api.Reject {
			v.Rejected = append(v.Rejected, i.Container)
			v.Decided = append(v.Decided, fmt.Sprintf("%s %s %d", i.Container, i.Policy, i.Rule))
		}
	}
	slices.Sort(v.Rejected)
	slices.Sort(v.Decided)
	return v, nil
}

// AssayJSON is Assay from the bytes of the AdmissionReview on.
type AssayJSON struct{ *Assay }

// Name is "Assay, from JSON".
func (a AssayJSON) Name() string { return "Assay, from JSON" }

// Admit decodes, flattens and decides.
func (a AssayJSON) Admit(ctx context.Context, r *fleet.Review) (Verdict, error) {
	in, err := review.FromAdmissionReview(r.JSON, a.kinds)
	if err != nil {
		return Verdict{}, err
	}
	return a.admit(ctx, in.Review)
}
