package mutation

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/review"
	"github.com/assay-dev/assay/test/corpus"
	"github.com/assay-dev/assay/test/reference"
	"github.com/open-policy-agent/opa/v1/ast"
	oparego "github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
)

// world is a case of the corpus as stock OPA sees it, with the answers of the plain reference.
type world struct {
	seed      uint64
	c         corpus.Case
	set       *policies.Set
	custom    bool                   // with the module [refusing]
	modules   map[string]*ast.Module // by short name: "judge.rego", "generated/policies.rego"
	texts     map[string]string      // of the generated modules
	store     storage.Store
	questions []question
	rows      map[string]row // by "policy/rule"
}

// row is what explanations say of a rule.
type row struct {
	Policy, Action, Source string
	Rule                   int
	Criteria               []string
}

// question is an input, and what judges the answer: the reason why it is wrong, or "".
type question struct {
	entry string
	input any
	wrong func(value any, defined bool) string
}

const (
	entryExplain = "data.assay.admission.explain"
	entryFlat    = "data.assay.review.flat"
	entryResult  = "data.assay.classification.result"
	entryAlerts  = "data.assay.alerts.firing"
)

// worlds are those of the seeds from, and on to before to.
func worlds(t *testing.T, from, to uint64) []*world {
	t.Helper()
	var all []*world
	for seed := from; seed < to; seed++ {
		all = append(all, newWorld(t, seed))
	}
	return all
}

// refusing is a user's own Rego. The reference does not know it: see [refused].
const refusing = `package assay.custom.web

reject contains "no web here" if input.labels.app == "web"

reject contains {"message": "not known", "container": c.container} if {
	input.labels.tier == "db"
	some c in input.containers
	c.result == "Unknown"
}
`

// newWorld is a case that is loaded, with its questions.
func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	w := load(t, seed, corpus.Generate(seed))
	w.ask(t)
	return w
}

// inner is a policy with patterns whose literals lie within references alone.
func inner() api.ContainerAdmissionPolicy {
	p := api.ContainerAdmissionPolicy{TypeMeta: api.TypeMeta{APIVersion: api.GroupPolicy, Kind: api.KindContainerAdmissionPolicy}}
	p.Metadata.Name = "inner"
	order := -20.0
	p.Spec.Order = &order
	for _, values := range [][]string{{`^.....r\.io/library/r`}, {`^.{6}.io/tigera`, `^.{4}.io/acme/a`}} {
		p.Spec.Rules = append(p.Spec.Rules, api.Rule{Action: api.Reject, ImagePath: &api.ValuesCriterion{Operator: api.IsOneOf, Values: values}})
	}
	return p
}

// scanned is the first image of the case that was scanned by its digest.
func scanned(c corpus.Case) (reference string, at time.Time) {
	for _, s := range c.World.Scans {
		if ref, err := api.ParseReference(s.Image); err == nil && s.Error == "" && s.Index == nil && s.Digest != "" {
			newest := s.ScannedAt
			for _, other := range c.World.Scans {
				if other.Digest == s.Digest && other.Error == "" && other.ScannedAt.After(newest) {
					newest = other.ScannedAt
				}
			}
			return ref.Name() + "@" + s.Digest, newest
		}
	}
	return "", time.Time{}
}

// atEdge is a policy on the very moment of a scan, or at three days from it.
func atEdge(c corpus.Case, seed uint64) api.ContainerAdmissionPolicy {
	p := api.ContainerAdmissionPolicy{TypeMeta: api.TypeMeta{APIVersion: api.GroupPolicy, Kind: api.KindContainerAdmissionPolicy}}
	p.Metadata.Name = "edge"
	order := -30.0
	p.Spec.Order = &order
	_, moment := scanned(c)
	criterion := &api.TimeCriterion{Operator: []string{"gt", "lt"}[seed/3%2]}
	if seed/6%2 == 0 {
		criterion.Time = moment.UTC().Format(time.RFC3339Nano)
	} else {
		criterion.Duration = &api.Duration{Days: 3}
	}
	p.Spec.Rules = []api.Rule{{Action: api.Reject, ImageLastScan: criterion}}
	return p
}

// edges are alerts that compare with the very values of events.
func edges(c corpus.Case) []api.GlobalAlert {
	var terms []string
	for _, e := range c.Events {
		if e.MaxCVSSScore != nil {
			terms = append(terms, "max_cvss_score %s "+strconv.FormatFloat(*e.MaxCVSSScore, 'f', -1, 64))
			break
		}
	}
	for _, e := range c.Events {
		if len(e.CVE) > 0 {
			terms = append(terms, `cve %s "`+e.CVE[0]+`"`)
			break
		}
	}
	var out []api.GlobalAlert
	for i, term := range terms {
		for k, op := range []string{"<", "<=", ">", ">="} {
			a := api.GlobalAlert{TypeMeta: api.TypeMeta{APIVersion: api.GroupAlert, Kind: api.KindGlobalAlert}}
			a.Metadata.Name = fmt.Sprintf("edge-%d-%d", i, k)
			a.Spec = api.GlobalAlertSpec{Severity: 1, DataSet: "vulnerability", Lookback: "9000h", Description: "d", Query: fmt.Sprintf(term, op)}
			out = append(out, a)
		}
	}
	return out
}

// pod is the review of a Pod with labels and one container.
func pod(labels map[string]string, image string) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"request": {"operation": "CREATE", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "namespace": "prod",
		"name": "p", "userInfo": {"username": "alice"}, "object": {"metadata": {"name": "p", "labels": %s}, "spec": {"containers": [{"name": "c", "image": %q}]}}}}`, show(labels), image))
}

// load compiles a case as a user would have it compiled.
func load(t *testing.T, seed uint64, c corpus.Case) *world {
	t.Helper()
	dir, custom := t.TempDir(), seed%4 == 1
	switch seed % 3 {
	case 0:
		c.World.Policies = append(c.World.Policies, inner())
	case 1:
		c.World.Policies = append(c.World.Policies, atEdge(c, seed))
		c.World.Alerts = append(c.World.Alerts, edges(c)...)
	}
	if err := corpus.WriteFolder(dir, c); err != nil {
		t.Fatal(err)
	}
	if custom {
		if err := os.WriteFile(filepath.Join(dir, "policies", "web.rego"), []byte(refusing), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	set, err := policies.LoadDir(filepath.Join(dir, "policies"))
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "scans.json"))
	if err != nil {
		t.Fatal(err)
	}
	var report api.ScanReport
	if err := json.Unmarshal(text, &report); err != nil {
		t.Fatal(err)
	}
	b, err := bundles.Build(bundles.Content{Policies: set, Scans: report.Images})
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	w := &world{seed: seed, c: c, custom: custom, set: set, modules: map[string]*ast.Module{}, texts: map[string]string{}, rows: map[string]row{}}
	for _, m := range b.Modules {
		name := strings.TrimPrefix(strings.TrimPrefix(m.Path, "/assay/"), "library/")
		w.modules[name] = m.Parsed
		if path.Dir(name) == "generated" {
			w.texts[name] = string(m.Raw)
		}
	}
	w.store = inmem.NewFromObject(plain(t, b.Data).(map[string]any))
	for _, p := range set.Policies {
		w.rows[p.Metadata.Name+"/0"] = row{p.Metadata.Name, api.Reject, p.Origin.String(), 0, []string{}}
		for i, r := range p.Spec.Rules {
			criteria := []string{}
			if r.ImagePath != nil {
				criteria = append(criteria, map[string]string{api.IsOneOf: "path", api.IsNoneOf: "path not"}[r.ImagePath.Operator])
			}
			if r.ImageScanStatus != nil {
				criteria = append(criteria, "status")
			}
			if r.ImageLastScan != nil {
				criteria = append(criteria, map[string]string{"lt": "time", "gt": "time after"}[r.ImageLastScan.Operator])
			}
			w.rows[fmt.Sprintf("%s/%d", p.Metadata.Name, i+1)] = row{p.Metadata.Name, r.Action, p.RuleOrigins[i].String(), i + 1, criteria}
		}
	}
	return w
}

// ask makes the questions of the world, each with the answer of the reference.
func (w *world) ask(t *testing.T) {
	t.Helper()
	c := w.c
	for i, r := range c.Reviews {
		w.askReview(t, r, c.Now)
		w.askFlat(t, r)
		if i == int(w.seed)%len(c.Reviews) {
			for _, m := range misshapen(r, w.seed) {
				w.askFlat(t, m)
			}
		}
	}
	for i, r := range w.perturbed(t) {
		w.askReview(t, r, c.Now.Add(time.Duration(i%3-1)*time.Second))
	}
	if image, moment := scanned(c); image != "" {
		w.askReview(t, pod(map[string]string{"app": "web"}, image), c.Now)
		w.askReview(t, pod(map[string]string{"tier": "db"}, "nginx:unknown"), c.Now)
		for shift := range 3 {
			w.askReview(t, pod(map[string]string{}, image), moment.AddDate(0, 0, 3).Add(time.Duration(shift-1)*time.Second))
		}
	}
	for _, s := range c.World.Scans {
		if _, err := api.ParseReference(s.Image); err == nil && s.Digest != "" {
			w.askClassification(s)
		}
	}
	w.askAlerts(t)
	if why := w.wrong(context.Background(), compile(w.modules, nil), func(string) bool { return true }); why != "" {
		t.Fatalf("seed %d without any mutation: %s", w.seed, why)
	}
}

// plain is a value as JSON has it.
func plain(t testing.TB, v any) any {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out any
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func show(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// decode reads an answer of OPA as the type that it has in Go.
func decode[T any](v any) (out T, err error) {
	text, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	return out, err
}

// verdict is what the reference says of a decision: all but texts, with those of
// warnings in the words of the reference.
func verdict(d api.Decision) api.Decision {
	v := api.Decision{Allowed: d.Allowed, Judged: d.Judged, Images: []api.ImageDecision{}, Warnings: reworded(d.Warnings), Audit: reworded(d.Audit)}
	if d.Override != nil {
		v.Override = &api.Overridden{By: d.Override.By, Reason: d.Override.Reason}
	}
	for _, i := range d.Images {
		i.Message, i.ScannedAt, i.Database = "", "", ""
		if i.Reason != "" {
			i.Reason = "no worse"
		}
		if i.CVEs == nil {
			i.CVEs = []string{}
		}
		v.Images = append(v.Images, i)
	}
	return v
}

var warning = regexp.MustCompile(`^(.*) \(container (.*)\): policy (\S+) \((?:Warn|Audit)\) would reject it(?: by rule (\d+))?(?s:.*)$`)

func reworded(list []string) []string {
	out := []string{}
	for _, s := range list {
		if m := warning.FindStringSubmatch(s); m != nil {
			s = fmt.Sprintf("%s: policy %s rule %s would reject %s", m[2], m[3], cmp.Or(m[4], "0"), m[1])
		}
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

// refused is what the decision becomes when a user's own Rego refuses some images,
// or the whole: they are rejected, by no policy, unless an override admits them.
func refused(w reference.World, d api.Decision, r json.RawMessage, now time.Time, labels map[string]string) api.Decision {
	whole, unknown := labels["app"] == "web", labels["tier"] == "db"
	if !d.Judged || !whole && !unknown {
		return d
	}
	w.Policies = nil
	w.Settings = &api.AdmissionSettings{Spec: settingsOf(w)}
	w.Settings.Spec.DefaultAction = api.Reject
	all := reference.Admit(w, r, now)
	d.Allowed = d.Allowed && !whole
	for i, image := range all.Images {
		if whole || image.Result == api.Unknown {
			d.Allowed, d.Images[i] = false, image
		}
	}
	if !d.Allowed && all.Override != nil {
		d.Allowed, d.Override = true, all.Override
	}
	return d
}

func settingsOf(w reference.World) api.AdmissionSettingsSpec {
	if w.Settings == nil {
		return api.AdmissionSettingsSpec{}
	}
	return w.Settings.Spec
}

func (w *world) askReview(t *testing.T, r json.RawMessage, now time.Time) {
	t.Helper()
	d := reference.Admit(w.c.World, r, now)
	in, err := review.FromAdmissionReview(r, review.KindsOf(w.set.Settings))
	if err != nil {
		t.Fatal(err)
	}
	if w.custom && len(in.Review.Malformed) == 0 {
		d = refused(w.c.World, d, r, now, in.Review.Labels)
	}
	want := show(verdict(d))
	var input map[string]any
	if err := json.Unmarshal(r, &input); err != nil {
		t.Fatal(err)
	}
	input["now"] = now.Format(time.RFC3339Nano)
	w.questions = append(w.questions, question{entryExplain, input, func(v any, ok bool) string {
		d, err := decode[api.Decision](v)
		if got := show(verdict(d)); !ok || err != nil || got != want {
			return fmt.Sprintf("decision %s, not %s", got, want)
		}
		return w.misexplained(v)
	}})
}

// misexplained says what texts and explanations have other than the decision.
func (w *world) misexplained(v any) string {
	x, err := decode[struct {
		api.Decision
		Explain []struct{ Matched, Noted []row } `json:"explain"`
	}](v)
	if err != nil || len(x.Explain) != len(x.Images) {
		return "not explained"
	}
	for i, image := range x.Images {
		matched := x.Explain[i].Matched
		refusing := map[string]bool{}
		for _, r := range append(slices.Clone(matched), x.Explain[i].Noted...) {
			if !reflect.DeepEqual(r, w.rows[fmt.Sprintf("%s/%d", r.Policy, r.Rule)]) || refusing[r.Policy] {
				return fmt.Sprintf("no such rule matches: %v", r)
			}
			// Where namespace labels are not known, no rule of the policy is looked at.
			refusing[r.Policy] = refusing[r.Policy] || r.Rule == 0
		}
		action := image.Action
		if image.Reason != "" { // the rule would reject it
			action = api.Reject
		}
		switch {
		case image.Policy == "":
		case len(matched) == 0 || matched[0].Policy != image.Policy || matched[0].Rule != image.Rule || matched[0].Action != action:
			return "the first rule that matched is another"
		case image.Action == api.Reject && image.Rule > 0 && !strings.Contains(image.Message, fmt.Sprintf("policy %s rule %d rejects it: ", image.Policy, image.Rule)):
			return "the message names another rule"
		}
		if strings.Count(image.Message, " (package ") != strings.Count(image.Message, " (package assay.custom.web)") {
			return "the message names another package"
		}
	}
	return ""
}

// askFlat holds the review flattened in Rego to the one flattened in Go.
func (w *world) askFlat(t *testing.T, r json.RawMessage) {
	t.Helper()
	now := w.c.Now
	var input map[string]any
	if err := json.Unmarshal(r, &input); err != nil {
		t.Fatal(err)
	}
	input["now"] = now.Format(time.RFC3339Nano)
	in, refusal := review.FromAdmissionReview(r, review.KindsOf(w.set.Settings))
	want := plain(t, api.FlatReview{Schema: api.SchemaReview, Now: documents.Time(now), Review: in.Review})
	w.questions = append(w.questions, question{entryFlat, input, func(v any, ok bool) string {
		if refusal != nil {
			flat, _ := v.(map[string]any)
			if list, _ := flat["malformed"].([]any); ok && len(list) == 0 {
				return "flattened what Go refuses"
			}
			return ""
		}
		if got, err := decode[any](v); !ok || err != nil || !reflect.DeepEqual(got, want) {
			return fmt.Sprintf("flat %s, not %s", show(v), show(want))
		}
		return ""
	}})
}

func (w *world) askClassification(s api.Scan) {
	c := w.c
	result, highest := reference.Classify(c.World, s.Image, s.Digest, c.Now)
	input := map[string]any{"image": s.Image, "digest": s.Digest, "now": documents.Time(c.Now)}
	w.questions = append(w.questions, question{entryResult, input, func(v any, ok bool) string {
		got, err := decode[struct {
			Result  api.Result `json:"result"`
			MaxCVSS *float64   `json:"max_cvss"`
		}](v)
		if !ok || err != nil || got.Result != result || !reflect.DeepEqual(got.MaxCVSS, highest) {
			return fmt.Sprintf("%s is %s, not %s", s.Image, show(v), result)
		}
		return ""
	}})
}

func (w *world) askAlerts(t *testing.T) {
	c := w.c
	want := reference.Alerts(c.World, c.Events, c.Now)
	if want == nil {
		want = []api.Alert{}
	}
	events := plain(t, c.Events)
	if events == nil {
		events = []any{}
	}
	input := map[string]any{"events": events, "now": documents.Time(c.Now)}
	w.questions = append(w.questions, question{entryAlerts, input, func(v any, ok bool) string {
		got, err := decode[[]api.Alert](v)
		if !ok || err != nil || show(got) != show(want) {
			return fmt.Sprintf("alerts %s, not %s", show(got), show(want))
		}
		return ""
	}})
}

// judged is what the questions that are asked make of the world with some modules changed.
func (w *world) judged(ctx context.Context, changed map[string]string, asked func(entry string) bool) outcome {
	c := compile(w.modules, changed)
	if c == nil {
		return stillborn
	}
	if w.wrong(ctx, c, asked) != "" {
		return caughtByCorpus
	}
	return survived
}

// wrong is the first of the answers asked for that the compiled modules get wrong, or "".
func (w *world) wrong(ctx context.Context, c *ast.Compiler, asked func(entry string) bool) string {
	prepared := map[string]oparego.PreparedEvalQuery{}
	for _, q := range w.questions {
		if !asked(q.entry) {
			continue
		}
		query, ok := prepared[q.entry]
		if !ok {
			var err error
			if query, err = oparego.New(oparego.Query(q.entry), oparego.Compiler(c), oparego.Store(w.store)).PrepareForEval(ctx); err != nil {
				return err.Error()
			}
			prepared[q.entry] = query
		}
		rs, err := query.Eval(ctx, oparego.EvalInput(q.input))
		if err != nil {
			return err.Error()
		}
		var v any
		if len(rs) > 0 {
			v = rs[0].Expressions[0].Value
		}
		if why := q.wrong(v, len(rs) > 0); why != "" {
			return why
		}
	}
	return ""
}

var (
	labelKeys   = regexp.MustCompile(`input\.(labels|namespaceLabels)(?:\.(\w+)|\["([^"]*)"\])(.*)`)
	labelValues = regexp.MustCompile(`"([^"]*)"`)
)

// perturbed are reviews of the case with other labels, of the object and of its
// namespace: at and beside the values that the generated conditions name; and
// with other images.
func (w *world) perturbed(t *testing.T) []json.RawMessage {
	t.Helper()
	c := w.c
	r := rand.New(rand.NewPCG(w.seed, 0x3a7a))
	values := map[string]map[string][]string{"labels": {}, "namespaceLabels": {}}
	for _, m := range labelKeys.FindAllStringSubmatch(w.texts["generated/policies.rego"], -1) {
		key, list := m[2]+m[3], []string{""}
		for _, v := range labelValues.FindAllStringSubmatch(m[4], -1) {
			list = append(list, v[1], "x"+v[1], v[1]+"x")
		}
		values[m[1]][key] = append(values[m[1]][key], list...)
	}
	random := func(of map[string][]string) map[string]any {
		labels := map[string]any{}
		for _, k := range slices.Sorted(maps.Keys(of)) {
			if r.IntN(3) > 0 {
				labels[k] = of[k][r.IntN(len(of[k]))]
			}
		}
		return labels
	}
	var images []string
	for _, s := range c.World.Scans {
		images = append(images, s.Image)
	}
	var out []json.RawMessage
	for range 12 {
		var doc map[string]any
		if err := json.Unmarshal(c.Reviews[r.IntN(len(c.Reviews))], &doc); err != nil {
			t.Fatal(err)
		}
		request := doc["request"].(map[string]any)
		object, ok := request["object"].(map[string]any)
		if !ok || request["operation"] == "DELETE" {
			continue
		}
		object["metadata"].(map[string]any)["labels"] = random(values["labels"])
		switch r.IntN(4) {
		case 0:
			doc["namespaceLabels"] = nil
		default:
			doc["namespaceLabels"] = random(values["namespaceLabels"])
		}
		if namespace, _ := request["namespace"].(string); r.IntN(3) == 0 && namespace == "kube-system" {
			request["namespace"] = "prod"
		}
		text := show(doc)
		if r.IntN(2) == 0 && len(images) > 0 {
			text = reviewImages.ReplaceAllStringFunc(text, func(string) string {
				return `"image":` + show(images[r.IntN(len(images))])
			})
		}
		out = append(out, json.RawMessage(text))
	}
	return out
}

var reviewImages = regexp.MustCompile(`"image":"(?:[^"\\]|\\.)*"`)

// misshapen are versions of a review with one value replaced by another type.
func misshapen(r json.RawMessage, seed uint64) []json.RawMessage {
	var out []json.RawMessage
	for k, swap := range []struct{ from, to string }{
		{`"containers":[`, `"containers":7,"x":[`}, {`"image":"`, `"image":{},"x":"`}, {`"template":{`, `"template":[],"x":{`}, {`"labels":{`, `"labels":"l","x":{`},
		{`"object":{`, `"object":null,"x":{`}, {`"spec":{`, `"spec":"s","x":{`}, {`"name":"`, `"name":5,"x":"`}, {`"ownerReferences":[`, `"ownerReferences":{},"x":[`},
		{`"kind":{`, `"kind":"k","x":{`}, {`"userInfo":{`, `"userInfo":[],"x":{`}, {`"oldObject":{`, `"oldObject":[],"x":{`}, {`"reference":"`, `"reference":1,"x":"`},
		{`"metadata":{`, `"metadata":[],"x":{`}, {`"volumes":[`, `"volumes":{},"x":[`}, {`"operation":"`, `"operation":null,"x":"`},
	} {
		var compact bytes.Buffer
		if json.Compact(&compact, r) != nil {
			continue
		}
		text := compact.String()
		if n := strings.Count(text, swap.from); n > 0 {
			at := int(seed+uint64(k)) % n
			parts := strings.SplitN(text, swap.from, at+2)
			out = append(out, json.RawMessage(strings.Join(parts[:at+1], swap.from)+swap.to+parts[at+1]))
		}
	}
	return out
}
