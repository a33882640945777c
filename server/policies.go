package server

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/engine/regotest"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/review"
	"github.com/assay-dev/assay/server/auth"
	"github.com/assay-dev/assay/server/jobs"
	"github.com/assay-dev/assay/store"
)

// PolicyRow is a policy in lists.
type PolicyRow struct {
	Name  string   `json:"name"`
	Order *float64 `json:"order,omitempty"`
	Mode  string   `json:"mode"`
	Rules int      `json:"rules"`
	Place string   `json:"place"` // file:line
}

// PolicyList are the policies in force, in the order that they apply.
type PolicyList struct {
	Revision string `json:"revision"`
	// Refused says why a newer state of the source was not taken.
	Refused []Fault     `json:"refused,omitempty"`
	Items   []PolicyRow `json:"items"`
	// Tests is the number of *_test.rego files that came with the policies.
	Tests int `json:"tests"`
	// Modules is the Rego of all of it, by file.
	Modules map[string]string `json:"modules,omitempty"`
}

// policies are those in force.
func (s *Server) policies() (*policies.Set, string, error, error) {
	set, revision, refused := s.Live.Policies()
	if set == nil {
		return nil, "", nil, &refusedPolicies
	}
	return set, revision, refused, nil
}

var refusedPolicies = refused{status: http.StatusServiceUnavailable, detail: "no policies are loaded yet"}

func (s *Server) getPolicies(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r)
	modules := q.flag("modules")
	if err := q.err(); err != nil {
		return err
	}
	set, revision, fault, err := s.policies()
	if err != nil {
		return err
	}
	list := PolicyList{Revision: revision, Items: []PolicyRow{}, Tests: len(set.Tests)}
	var diagnostics policies.Diagnostics
	switch {
	case fault == nil:
	case errors.As(fault, &diagnostics):
		for _, d := range diagnostics {
			list.Refused = append(list.Refused, Fault{Pointer: strings.TrimSuffix(d.File+": "+d.Path, ": "), Line: d.Line, Column: d.Column, Detail: d.Message})
		}
	default:
		list.Refused = []Fault{{Detail: fault.Error()}}
	}
	for _, p := range set.Policies {
		list.Items = append(list.Items, rowOf(p))
	}
	if modules != nil && *modules {
		if list.Modules, err = set.Compile(); err != nil {
			return err
		}
	}
	return answer(w, http.StatusOK, list)
}

// PolicyTests are the results of the tests that came with the policies in force.
type PolicyTests struct {
	Revision string            `json:"revision"`
	Tests    []regotest.Result `json:"tests"`
}

// Bounds of a run of tests, all of them together.
const (
	testDeadline = 30 * time.Second
	testMemory   = 512 << 20
)

// postPolicyTests runs the tests, one run at a time.
func (s *Server) postPolicyTests(w http.ResponseWriter, r *http.Request) error {
	set, revision, _, err := s.policies()
	if err != nil {
		return err
	}
	if !s.testing.TryLock() {
		return &refused{status: http.StatusTooManyRequests, detail: "the tests are run for somebody else: try again in a moment"}
	}
	defer s.testing.Unlock()
	b, err := bundles.Build(bundles.Content{Policies: set})
	if err != nil {
		return err
	}
	results, err := regotest.Run(r.Context(), set, b, regotest.Config{Deadline: testDeadline, Memory: testMemory})
	if err != nil {
		if r.Context().Err() != nil {
			return r.Context().Err()
		}
		return &refused{status: http.StatusUnprocessableEntity, detail: "the tests could not be run: " + err.Error()}
	}
	return answer(w, http.StatusOK, PolicyTests{Revision: revision, Tests: results})
}

func rowOf(p policies.Policy) PolicyRow {
	return PolicyRow{Name: p.Metadata.Name, Order: p.Spec.Order, Mode: p.Mode, Rules: len(p.Spec.Rules), Place: p.Origin.String()}
}

// PolicyView is one policy with its Rego, compiled by itself, and its last decisions.
type PolicyView struct {
	PolicyRow
	Policy    api.ContainerAdmissionPolicy `json:"policy"`
	Rego      map[string]string            `json:"rego"`
	Decisions []store.StoredDecision       `json:"decisions"`
	// Hits say how often each rule decided, in recorded decisions; rules that never did are left out.
	Hits []store.RuleHit `json:"hits"`
}

func (s *Server) getPolicy(w http.ResponseWriter, r *http.Request) error {
	set, _, _, err := s.policies()
	if err != nil {
		return err
	}
	name := r.PathValue("name")
	i := slices.IndexFunc(set.Policies, func(p policies.Policy) bool { return p.Metadata.Name == name })
	if i < 0 {
		return store.ErrNotFound
	}
	p := set.Policies[i]
	view := PolicyView{PolicyRow: rowOf(p), Policy: p.ContainerAdmissionPolicy}
	compiled, err := (&policies.Set{Policies: []policies.Policy{p}, Thresholds: set.Thresholds, Settings: set.Settings}).Compile()
	if err != nil {
		return err
	}
	view.Rego = map[string]string{}
	for file, text := range compiled {
		if strings.Contains(file, "polic") {
			view.Rego[file] = text
		}
	}
	if view.Decisions, err = s.Store.Decisions(r.Context(), store.DecisionFilter{Policy: name}, 0, 20); err != nil {
		return err
	}
	if view.Decisions == nil {
		view.Decisions = []store.StoredDecision{}
	}
	if view.Hits, err = s.Store.RuleHits(r.Context(), name); err != nil {
		return err
	}
	if view.Hits == nil {
		view.Hits = []store.RuleHit{}
	}
	return answer(w, http.StatusOK, view)
}

// Question asks what the engine says of an image now.
type Question struct {
	Image  string `json:"image"`
	Digest string `json:"digest,omitempty"`
}

func (s *Server) postClassify(w http.ResponseWriter, r *http.Request) error {
	cluster, err := s.cluster(r)
	if err != nil {
		return err
	}
	var q Question
	if err := s.decode(w, r, &q); err != nil {
		return err
	}
	if _, err := api.ParseReference(q.Image); err != nil {
		return unprocessable("image: %v", err)
	}
	if scope := identity(r).Scope; !scope.AllowsImage(q.Image) || scope.Group != "" && scope.Cluster == "" {
		return forbidden("the token is for %s", scope)
	}
	raw, err := s.Live.Engine().In(cluster).ExplainClassification(r.Context(), q.Image, q.Digest, s.Now())
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, raw)
}

// postAdmit decides an AdmissionReview as the webhook would. The namespace's labels stand
// beside request, as namespaceLabels: without them they are none but its name, and null is
// not known.
func (s *Server) postAdmit(w http.ResponseWriter, r *http.Request) error {
	cluster, err := s.cluster(r)
	if err != nil {
		return err
	}
	in, now, err := s.reviewOf(w, r)
	if err != nil {
		return err
	}
	e := s.Live.Engine().In(cluster)
	decision, err := e.Admit(r.Context(), in.Review, now)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, api.Answer{Decision: decision, NotJudged: in.NotJudged(decision, e.Settings().Excluded)})
}

// cluster is the one that a question is asked for: the scope's own, and without a scope what the query names.
// No body names it. Without one only what all clusters share counts.
func (s *Server) cluster(r *http.Request) (string, error) {
	q := queryOf(r)
	cluster := q.text("cluster")
	if err := q.err(); err != nil {
		return "", err
	}
	scope := identity(r).Scope
	if cluster == "" {
		return readerOf(r), nil
	}
	if len(cluster) > maxName || strings.Contains(cluster, ",") {
		return "", bad("cluster: %.80q is no name of a cluster", cluster)
	}
	if scope.Cluster != "" && scope.Cluster != cluster || scope.Cluster == "" && scope.Group != "" {
		return "", forbidden("the token is for %s", scope)
	}
	return cluster, nil
}

// reviewOf reads an AdmissionReview, or its flat form, as records have it, and the moment to decide
// for: the one that it carries, else the clock's. What is said of it is of all images of the review,
// so that who is bound to a registry is told nothing.
func (s *Server) reviewOf(w http.ResponseWriter, r *http.Request) (review.Input, time.Time, error) {
	var in review.Input
	var none time.Time
	if scope := identity(r).Scope; scope.Registry != "" {
		return in, none, forbidden("the token is for %s, and a decision is about all images of a review", scope)
	}
	text, err := s.text(w, r)
	if err != nil {
		return in, none, err
	}
	set, _, _, err := s.policies()
	if err != nil {
		return in, none, err
	}
	if review.IsFlat(text) {
		in, err = review.FromFlat(text)
	} else {
		in, err = review.FromAdmissionReview(text, review.KindsOf(set.Settings))
	}
	now, nowErr := in.Now(s.Now())
	if err := cmp.Or(err, nowErr); err != nil {
		return in, none, unprocessable("%v", err)
	}
	return in, now, nil
}

// AlertRow is an alert rule, with what is known of its evaluation.
type AlertRow struct {
	Name      string     `json:"name"`
	Kind      string     `json:"kind"`
	Severity  int        `json:"severity"`
	Period    string     `json:"period"`
	Query     string     `json:"query,omitempty"`
	Place     string     `json:"place,omitempty"`
	Evaluated *time.Time `json:"evaluated,omitempty"`
	Error     string     `json:"error,omitempty"`
	// Rule is, of a GlobalAlertTemplate, the GlobalAlert that it offers, as YAML. A template fires nothing.
	Rule string `json:"rule,omitempty"`
}

func (s *Server) getAlertRules(w http.ResponseWriter, r *http.Request) error {
	set, _, _, err := s.policies()
	if err != nil {
		return err
	}
	var known map[string]store.AlertRule
	if err := s.Store.View(r.Context(), func(t *store.Tx) (err error) {
		known, err = t.AlertRules(r.Context())
		return err
	}); err != nil {
		return err
	}
	rows := []AlertRow{}
	add := func(kind string, a policies.Alert) {
		row := AlertRow{Name: a.Metadata.Name, Kind: kind, Severity: a.Spec.Severity, Period: cmp.Or(a.Spec.Period, api.DefaultPeriod), Query: a.Spec.Query, Place: a.Origin.String()}
		if k, ok := known[row.Name]; ok {
			row.Evaluated, row.Error = &k.Evaluated, k.Error
		}
		rows = append(rows, row)
	}
	for _, a := range set.Alerts {
		add(api.KindGlobalAlert, a)
	}
	for _, v := range set.VerdictAlerts {
		add(api.KindVerdictAlert, v.Alert)
	}
	for _, t := range set.Templates {
		text, err := yaml.Marshal(api.GlobalAlert{TypeMeta: api.TypeMeta{APIVersion: api.GroupAlert, Kind: api.KindGlobalAlert}, Metadata: api.ObjectMeta{Name: t.Metadata.Name}, Spec: t.Spec})
		if err != nil {
			return err
		}
		rows = append(rows, AlertRow{Name: t.Metadata.Name, Kind: api.KindGlobalAlertTemplate, Severity: t.Spec.Severity, Period: cmp.Or(t.Spec.Period, api.DefaultPeriod), Query: t.Spec.Query, Rule: string(text)})
	}
	return answer(w, http.StatusOK, itemsOf(rows))
}

func (s *Server) getAlerts(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r)
	firing, rule, before, limit := q.flag("firing"), q.text("rule"), q.older(), q.integer("limit", 1, 1000)
	if err := q.err(); err != nil {
		return err
	}
	list, err := s.Store.Episodes(r.Context(), firing != nil && *firing, rule, before, int(cmp.Or(limit, 100)))
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, itemsOf(list))
}

func (s *Server) getDeliveries(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r)
	limit := q.integer("limit", 1, 1000)
	if err := q.err(); err != nil {
		return err
	}
	list, err := s.Store.Deliveries(r.Context(), int(cmp.Or(limit, 100)))
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, itemsOf(list))
}

func (s *Server) getDecisions(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r)
	f := store.DecisionFilter{Cluster: q.text("cluster"), Namespace: q.text("namespace"), Kind: q.text("kind"), Name: q.text("name"), Policy: q.text("policy"), Allowed: q.flag("allowed")}
	before, limit := q.older(), q.integer("limit", 1, 1000)
	if scope := identity(r).Scope; !scope.AllowsCluster(scope.Cluster) {
		q.denied = forbidden("decisions are of whole clusters; the token is for %s", scope)
	}
	f.Cluster = q.within(identity(r), f.Cluster)
	if err := q.err(); err != nil {
		return err
	}
	list, err := s.Store.Decisions(r.Context(), f, before, int(cmp.Or(limit, 100)))
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, itemsOf(list))
}

// maxDecisions bounds the records of one request.
const maxDecisions = 1000

// postDecisions keeps the records of a webhook; one whose uid is known changes nothing.
func (s *Server) postDecisions(w http.ResponseWriter, r *http.Request) error {
	var list Items[api.AdmissionRecord]
	if err := s.decode(w, r, &list); err != nil {
		return err
	}
	if len(list.Items) > maxDecisions {
		return unprocessable("at most %d decisions are taken at a time", maxDecisions)
	}
	for i, d := range list.Items {
		switch {
		case d.UID == "" || len(d.UID) > 200:
			return unprocessable("items[%d].uid is missing or longer than 200 bytes", i)
		case d.At.IsZero():
			return unprocessable("items[%d].at is missing", i)
		case d.Record.Schema != api.SchemaRecord:
			return unprocessable("items[%d].record: its schema is %.60q, not %s", i, d.Record.Schema, api.SchemaRecord)
		case !identity(r).Scope.AllowsCluster(d.Cluster):
			return forbidden("the token is for %s", identity(r).Scope)
		}
	}
	if err := s.Store.Write(r.Context(), func(t *store.Tx) error { return t.AddDecisions(r.Context(), list.Items) }); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// number is the id in a path.
func number(r *http.Request) (int64, error) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil || id <= 0 {
		return 0, store.ErrNotFound
	}
	return id, nil
}

func (s *Server) getJobs(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r)
	f := jobs.Filter{Kind: q.oneOf("kind", jobs.Kinds()...), State: q.oneOf("state", jobs.States()...), Limit: int(q.integer("limit", 1, 1000))}
	if err := q.err(); err != nil {
		return err
	}
	list, err := s.Jobs.List(r.Context(), f)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, itemsOf(list))
}

// changeJob tells the audit log first: a job changes in a transaction of River's, and who did it must be known.
func (s *Server) changeJob(action string, change func(Jobs, context.Context, int64) (jobs.Job, error)) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		id, err := number(r)
		if err != nil || id == math.MaxInt64 {
			return cmp.Or(err, store.ErrNotFound)
		}
		was, err := s.Jobs.List(r.Context(), jobs.Filter{After: id + 1, Limit: 1})
		if err != nil {
			return err
		}
		if len(was) == 0 || was[0].ID != id {
			return jobs.ErrNotFound
		}
		if err := s.change(r, func(a *audited) error {
			return a.note(action, auditJob, strings.TrimSpace(fmt.Sprintf("%d %s %s", id, was[0].Kind, was[0].Subject)), was[0], nil)
		}); err != nil {
			return err
		}
		job, err := change(s.Jobs, r.Context(), id)
		if err != nil {
			return err
		}
		return answer(w, http.StatusOK, job)
	}
}

// VersionView says what answers.
type VersionView struct {
	Version  string            `json:"version"`
	Database *api.ScanDatabase `json:"database,omitempty"` // absent when there is none
	Policies string            `json:"policies,omitempty"` // their revision
	// Revisions are those of the data in force.
	Revisions map[string]string `json:"revisions"`
}

func (s *Server) getVersion(w http.ResponseWriter, r *http.Request) error {
	_, revision, _ := s.Live.Policies()
	v := VersionView{Version: s.Version, Policies: revision, Revisions: s.Live.Engine().Revisions()}
	for part := range v.Revisions { // a copy
		if scope := identity(r).Scope; !scope.All() && strings.HasPrefix(part, auth.ClusterPart) && part != auth.ClusterPart+scope.Cluster {
			delete(v.Revisions, part)
		}
	}
	if s.Database != nil {
		v.Database = s.Database()
	}
	return answer(w, http.StatusOK, v)
}

func (s *Server) getDatabase(w http.ResponseWriter, r *http.Request) error {
	st := &api.DatabaseState{Schema: api.SchemaDatabaseState, Generations: []api.DatabaseGeneration{}}
	if s.Databases != nil {
		var err error
		if st, err = s.Databases(r.Context()); err != nil {
			return err
		}
	} else if s.Database != nil {
		st.InUse = s.Database()
	}
	return answer(w, http.StatusOK, st)
}

func (s *Server) getOpenAPI(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, http.StatusOK, json.RawMessage(openAPI))
}
