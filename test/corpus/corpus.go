// Package corpus makes random worlds that hit the edges of the specification,
// for the reference judge and the compiled policies to be held against each other.
package corpus

import (
	"encoding/json"
	"math/rand/v2"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/test/reference"
)

// Case is a world with what is asked of it at one moment.
type Case struct {
	World   reference.World
	Reviews []json.RawMessage
	Events  []api.Event
	Now     time.Time
	// Bytes are those of manifests and indexes by digest, in a world of scopes.
	Bytes map[string][]byte `json:"-"`
}

// Generate makes the case of a seed; the same seed gives the same case.
func Generate(seed uint64) Case {
	g := &gen{Rand: rand.New(rand.NewPCG(seed, 0xa55a))}
	g.now = one(g, moments)
	g.images()
	c := Case{Now: g.now}
	c.World.Settings = g.settings()
	c.World.Thresholds = g.thresholds()
	c.World.Policies = g.policies()
	c.World.Scans = g.scans()
	c.World.Exceptions = g.exceptions(c.World.Scans)
	c.World.Alerts = g.alerts()
	c.Events = g.events()
	for range 6 + g.IntN(5) {
		c.Reviews = append(c.Reviews, g.review())
	}
	detections(seed, &c)
	return c
}

// gen is a source of choices and what the parts of one case share.
type gen struct {
	*rand.Rand
	now       time.Time
	manifests []string
	indexes   []api.Index
}

func one[T any](g *gen, from []T) T { return from[g.IntN(len(from))] }

// some takes n of the values, in their order, without repeats.
func some[T any](g *gen, n int, from []T) []T {
	var out []T
	for i, v := range from {
		if len(out) < n && g.IntN(len(from)-i) < n-len(out) {
			out = append(out, v)
		}
	}
	return out
}

// chance is true in percent of the calls.
func (g *gen) chance(percent int) bool { return g.IntN(100) < percent }

func ptr[T any](v T) *T { return &v }

// moments are the nows of the cases: month ends and leap days among them.
var moments = []time.Time{
	time.Date(2026, 3, 31, 12, 0, 0, 0, time.UTC),
	time.Date(2028, 2, 29, 0, 0, 0, 0, time.UTC),
	time.Date(2026, 7, 1, 23, 59, 59, 0, time.UTC),
	time.Date(2027, 1, 1, 0, 0, 1, 0, time.UTC),
	time.Date(2026, 12, 31, 8, 30, 0, 0, time.UTC),
}

// durations are those of imageLastScan; scans lie just beside them.
var durations = []api.Duration{
	{Days: 1}, {Days: 3}, {Days: 30}, {Months: 1}, {Months: 1, Days: 1}, {Years: 1}, {Years: 1, Months: 1, Days: 1},
}

// absolute are the times of imageLastScan, as Go's parser takes them.
var absolute = []string{
	"2026-03-30T12:00:00Z", "2026-03-30T14:00:00+02:00", "2026-06-30T0:00:00Z", "2026-01-01T9:30:00Z", "2027-06-01T00:00:00.5Z",
}

// around is the moment, or one second before or after it.
func (g *gen) around(t time.Time) time.Time {
	return t.Add(time.Duration(g.IntN(3)-1) * time.Second)
}

func (g *gen) settings() *api.AdmissionSettings {
	if g.chance(30) {
		return nil
	}
	s := &api.AdmissionSettings{TypeMeta: api.TypeMeta{APIVersion: api.GroupAssay, Kind: api.KindAdmissionSettings}}
	s.Metadata.Name = "default"
	switch g.IntN(4) {
	case 0:
		s.Spec.DefaultAction = api.Allow
	case 1:
		s.Spec.DefaultAction = api.Reject
	}
	if g.chance(25) {
		s.Spec.Controllers = some(g, 1+g.IntN(3), users)
	}
	if g.chance(75) {
		s.Spec.CustomKinds = []api.CustomKind{
			{APIGroup: "argoproj.io", Kind: "Rollout", PodTemplatePath: "spec.template", Controllers: []string{"system:serviceaccount:argo:rollouts"}},
			{APIGroup: "example.com", Kind: "Pair", PodTemplatePath: "spec.first", PodTemplatePaths: []string{"spec.more[].template"}, ImagePaths: []string{"spec.image", "spec.steps[].image"}, ReferencePaths: []string{"spec.ref"}, Controllers: []string{"fleet-controller"}},
			{APIGroup: "serving.knative.dev", Kind: "Service"},
			{APIGroup: "example.com", Kind: "Fleet", PodTemplatePath: "spec.workload.podTemplate", Controllers: []string{"fleet-controller", "alice"}},
		}[:1+g.IntN(4)]
	}
	s.Spec.AllowNoWorse = g.chance(60)
	s.Spec.TemplateLabels = g.chance(60)
	s.Spec.Children = one(g, []string{"", api.ChildrenTrusted, api.ChildrenSameImages, api.ChildrenSameImages, api.ChildrenJudged})
	switch g.IntN(4) {
	case 0:
		s.Spec.ExcludedNamespaces = &[]string{}
	case 1:
		s.Spec.ExcludedNamespaces = ptr(some(g, 1, namespaces))
	}
	if g.chance(60) {
		s.Spec.Platforms = some(g, 1+g.IntN(3), platforms)
		g.Shuffle(len(s.Spec.Platforms), func(i, j int) {
			p := s.Spec.Platforms
			p[i], p[j] = p[j], p[i]
		})
	}
	return s
}

func (g *gen) score() float64 {
	if g.chance(40) {
		return one(g, []float64{0, 0.1, 4, 6.9, 7, 7.1, 8.9, 9, 9.1, 10})
	}
	return float64(g.IntN(101)) / 10
}

func (g *gen) probability() float64 {
	if g.chance(40) {
		return one(g, []float64{0, 0.1, 0.5, 1})
	}
	return float64(g.IntN(101)) / 100
}

func (g *gen) thresholds() *api.Thresholds {
	if g.chance(40) {
		return nil
	}
	t := &api.Thresholds{TypeMeta: api.TypeMeta{APIVersion: api.GroupAssay, Kind: api.KindThresholds}}
	t.Metadata.Name = "default"
	switch g.IntN(4) {
	case 0:
		a, b := g.score(), g.score()
		t.Spec.Warn, t.Spec.Fail = ptr(min(a, b)), ptr(max(a, b))
	case 1:
		t.Spec.Fail = ptr(one(g, []float64{8, 5}))
	case 2:
		t.Spec.Warn = ptr(one(g, []float64{0, 4, 9, 9.5}))
	}
	t.Spec.Unplaced = one(g, []string{"", "", api.UnplacedUnknown, api.UnplacedIgnore})
	if !g.chance(55) { // a third of all cases
		return t
	}
	t.Spec.ScoreBySeverity = g.chance(40)
	t.Spec.FailOnKEV = g.chance(50)
	t.Spec.OnlyFixable = g.chance(30)
	if g.chance(50) {
		t.Spec.FailOnEPSS = ptr(one(g, []float64{0.1, 0.5, 1}))
	}
	if g.chance(40) {
		t.Spec.Grace = &api.Grace{Days: one(g, graceDays), From: one(g, []string{api.FromPublished, api.FromFixAvailable})}
	}
	return t
}

var graceDays = []int{1, 7, 30}
