package agreement_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/engine/pushdown"
	"github.com/assay-dev/assay/engine/pushdown/pushdowntest"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/policies/query"
	"github.com/assay-dev/assay/test/corpus"
	"github.com/assay-dev/assay/test/reference"
)

// The alerts of the engine over all events are those of the reference, and those
// of both databases with the queries pushed down.
func TestPushdownAgrees(t *testing.T) {
	stores := []*pushdowntest.Store{pushdowntest.SQLite(t), pushdowntest.PostgreSQL(t)}
	modes := map[pushdown.Mode]int{}
	pairs, fired, busy := 0, 0, 0
	for seed := range min(cases(t), 300) {
		c := corpus.Generate(seed)
		g := &wild{rand.New(rand.NewPCG(seed, 0xa1e7)), c.Now, nil}
		g.events = g.hostile(c.Events)
		c.World.Alerts = append(c.World.Alerts, g.alerts(6)...)
		set := alertSet(t, c.World.Alerts)
		rules, err := pushdown.New(t.Context(), set.Alerts)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for _, m := range rules.Modes() {
			modes[m]++
		}
		want := pure(t, set, g.events, c.Now)
		if judged := reference.Alerts(c.World, g.events, c.Now); shown(judged) != shown(want) {
			t.Errorf("seed %d: the engine does not agree with the reference%s", seed, difference(c.World.Alerts, want, judged))
		}
		for _, s := range stores {
			s.Replace(t, g.events)
			got, err := rules.Firing(t.Context(), s, c.Now)
			if err != nil {
				t.Fatalf("seed %d: %s: %v", seed, s.Dialect(), err)
			}
			if show(got) != show(want) {
				t.Errorf("seed %d: %s does not agree with the engine%s", seed, s.Dialect(), difference(c.World.Alerts, got, want))
			}
		}
		pairs += len(c.World.Alerts)
		fired += len(want)
		names := map[string]bool{}
		for _, a := range want {
			names[a.Name] = true
		}
		busy += len(names)
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d alerts of %d rules agree; %d rules fire; modes: %v", fired, pairs, busy, modes)
	if cases(t) < 300 {
		return
	}
	if pairs < 2000 || busy*3 < pairs {
		t.Errorf("the corpus is too thin: %d rules, of which %d fire", pairs, busy)
	}
	if exact := modes[pushdown.Grouped] + modes[pushdown.Filtered]; exact*100 < pairs*95 || modes[pushdown.Grouped]*2 < pairs {
		t.Errorf("too little is pushed down: %v", modes)
	}
	if modes[pushdown.Prefiltered] == 0 || modes[pushdown.Unfiltered] == 0 {
		t.Errorf("nothing needs the events judged again: %v", modes)
	}
}

func alertSet(t *testing.T, alerts []api.GlobalAlert) *policies.Set {
	t.Helper()
	fsys := fstest.MapFS{}
	for _, a := range alerts {
		text, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		fsys[a.Metadata.Name+".json"] = &fstest.MapFile{Data: text}
	}
	set, err := policies.Load(fsys)
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Alerts) != len(alerts) {
		t.Fatalf("%d alerts are loaded, not %d", len(set.Alerts), len(alerts))
	}
	return set
}

// pure are the alerts of the engine, which reads all events.
func pure(t *testing.T, set *policies.Set, events []api.Event, now time.Time) []api.Alert {
	t.Helper()
	b, err := bundles.Build(bundles.Content{Policies: set})
	if err != nil {
		t.Fatal(err)
	}
	e := engine.New(engine.Config{Deadline: time.Minute})
	if err := e.Load(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	alerts, err := e.Alerts(t.Context(), events, now)
	if err != nil {
		t.Fatal(err)
	}
	return alerts
}

// shown are alerts in an order of their own: the reference compares keys as JSON,
// where a quotation mark comes after a backslash.
func shown(alerts []api.Alert) string {
	texts := make([]string, len(alerts))
	for i, a := range alerts {
		texts[i] = show(a)
	}
	slices.Sort(texts)
	return strings.Join(texts, "\n")
}

// difference tells which alerts of which rules are on one side only.
func difference(rules []api.GlobalAlert, got, want []api.Alert) string {
	var b strings.Builder
	for _, r := range rules {
		of := func(alerts []api.Alert) []api.Alert {
			return slices.DeleteFunc(slices.Clone(alerts), func(a api.Alert) bool { return a.Name != r.Metadata.Name })
		}
		if x, y := shown(of(got)), shown(of(want)); x != y {
			fmt.Fprintf(&b, "\n%s\n got %s\nwant %s", show(r.Spec), x, y)
		}
	}
	return b.String()
}

// wild makes queries over all fields, nested and negated, with values that the
// events have, or nearly have.
type wild struct {
	*rand.Rand
	now    time.Time
	events []api.Event
}

func pick[T any](g *wild, from ...T) T { return from[g.IntN(len(from))] }

func (g *wild) chance(percent int) bool { return g.IntN(100) < percent }

// texts are those that SQL, patterns, JSON or an order could take for something else.
var texts = []string{
	"it's", `say "x"`, `back\slash`, "100%", "a_b", "[a-c]", "a]b", "*", "?", "line\nbreak", "tab\t", "ß", "ä", "a\u0308", "Ä", "🦊", "\U0010ffff",
	"NULL", "null", "true", "1", "' OR 1=1 --", "$1", "?1", ":x", "@x", "<&>", "\u2028", `\u0041`, "E'x'", "{}", "a b", " a", "a ", "A", "a", "B", "b", "-",
}

// hostile puts such texts into events, and gives times the form of the store.
func (g *wild) hostile(events []api.Event) []api.Event {
	var out []api.Event
	for i, e := range events {
		at, err := time.Parse(time.RFC3339, e.Time)
		if err != nil {
			panic(err)
		}
		e.Time = documents.Time(at)
		for _, into := range []*string{&e.Registry, &e.Repository, &e.Tag, &e.Source, &e.Error} {
			if g.chance(20) {
				*into = pick(g, texts...)
			}
		}
		if g.chance(10) {
			e.Image = fmt.Sprintf("%s:%d", pick(g, texts...), i)
		}
		if g.chance(20) {
			e.CVE = append(slices.Clone(e.CVE), pick(g, texts...), pick(g, texts...))
		}
		if g.chance(20) {
			e.Package = append(slices.Clone(e.Package), pick(g, texts...), "")
		}
		if g.chance(20) {
			e.EPSS = new(pick(g, 0.00043, 0.97565, 0.000000001, 0.123456789, 0.00001, 0.000001, 0.000002, 0.000003))
		}
		for j := range e.Instances {
			if g.chance(10) {
				e.Instances[j].Namespace = pick(g, texts...)
			}
			if g.chance(10) {
				e.Instances[j].Pod = pick(g, texts...)
			}
		}
		out = append(out, e)
	}
	return out
}

func (g *wild) alerts(n int) []api.GlobalAlert {
	var out []api.GlobalAlert
	for i := range n {
		a := api.GlobalAlert{TypeMeta: api.TypeMeta{APIVersion: api.GroupAlert, Kind: api.KindGlobalAlert}}
		a.Metadata.Name = fmt.Sprintf("wild-%d", i)
		s := &a.Spec
		s.Severity, s.DataSet, s.Lookback, s.Description = 1, "vulnerability", pick(g, "5m", "1h", "24h", "24h"), "d"
		if !g.chance(5) {
			s.Query = g.query(s, g.IntN(5))
		}
		if g.chance(60) {
			for _, f := range query.Fields() {
				if g.chance(8) {
					s.AggregateBy = append(s.AggregateBy, f.Name)
					s.Description += " ${" + f.Name + "}"
				}
			}
		}
		if g.chance(60) {
			s.Metric = pick(g, "count", "min", "max", "sum", "avg")
			s.Description += " ${" + s.Metric + "}"
			s.Condition = pick(g, "eq", "not_eq", "lt", "lte", "gt", "gte")
			if s.Metric != "count" {
				s.Field = pick(g, "max_cvss_score", "epss")
			}
			s.Threshold = new(pick(g, 0, 1, 2, 0.5, 0.97565, 9.0, 0.000001))
		}
		out = append(out, a)
	}
	return out
}

func (g *wild) query(s *api.GlobalAlertSpec, depth int) string {
	if depth == 0 {
		return g.term(s)
	}
	// Wide at times: OPA multiplies ORs below ANDs out.
	width := pick(g, 2, 2, 2, 3, 4)
	op := pick(g, " AND ", " OR ")
	var parts []string
	for range width {
		part := "(" + g.query(s, g.IntN(depth)) + ")"
		if g.chance(30) {
			part = "NOT " + part
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, op)
}

func (g *wild) term(s *api.GlobalAlertSpec) string {
	fields := query.Fields()
	f := pick(g, fields...)
	switch f.Type {
	case query.Number:
		v := strconv.FormatFloat(pick(g, 0, 0.1, 0.00043, 0.97565, 0.00001, 1), 'f', -1, 64)
		if have, ok := g.value(f); ok {
			v = have
		}
		if g.chance(20) {
			return fmt.Sprintf("%s %s {%s, 0.5}", f.Name, pick(g, "IN", "NOTIN"), v)
		}
		return f.Name + pick(g, " = ", " != ", " < ", " <= ", " > ", " >= ") + v
	case query.Bool:
		if g.chance(20) {
			return f.Name + pick(g, " IN {true, false}", " NOTIN {true}")
		}
		return f.Name + pick(g, " = ", " != ") + pick(g, "true", "false")
	}
	v, ok := g.value(f)
	if !ok || f.Type == query.Text && g.chance(30) {
		v = pick(g, texts...)
	}
	if f.Type == query.Time {
		if !ok {
			v = documents.Time(g.now)
		}
		return fmt.Sprintf("time %s %q", pick(g, "=", "!=", "<", "<=", ">", ">="), v)
	}
	quote := `"`
	if strings.Contains(v, quote) {
		quote = "'"
	}
	if f.Name == "type" && g.chance(50) {
		return f.Name + " = " + pick(g, "image_detection", "pod_detection")
	}
	result := strings.HasSuffix(f.Name, "result") || f.Name == "type"
	if g.chance(50) && !strings.Contains(v, `\`) && !(result && (api.Result(v) != api.Fail || f.Name == "type")) {
		op := pick(g, " = ", " != ", " = ", " < ", " <= ", " > ", " >= ")
		return f.Name + op + quote + v + quote
	}
	name := fmt.Sprintf("s%d", len(s.Substitutions))
	sub := api.Substitution{Name: name}
	for range 1 + g.IntN(3) {
		sub.Values = append(sub.Values, g.pattern(v))
		v = pick(g, texts...)
	}
	s.Substitutions = append(s.Substitutions, sub)
	return f.Name + pick(g, " IN ", " NOTIN ") + "${" + name + "}"
}

// value is one that some event has in a field.
func (g *wild) value(f query.Field) (string, bool) {
	if len(g.events) == 0 {
		return "", false
	}
	text, err := json.Marshal(pick(g, g.events...))
	if err != nil {
		panic(err)
	}
	var members map[string]any
	if err := json.Unmarshal(text, &members); err != nil {
		panic(err)
	}
	if list, ok := members["instances"].([]any); ok && f.Instance && len(list) > 0 {
		members = pick(g, list...).(map[string]any)
	}
	switch v := members[f.Name].(type) {
	case []any:
		if len(v) > 0 {
			return pick(g, v...).(string), true
		}
	case string:
		return v, true
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), true
	}
	return "", false
}

// pattern makes wildcards of parts of a text, or leaves it, or takes what SQL cannot hold.
func (g *wild) pattern(v string) string {
	runes := []rune(v)
	if len(runes) == 0 {
		return "*"
	}
	i := g.IntN(len(runes))
	switch g.IntN(12) {
	case 0, 1:
		return string(runes[:i]) + "*"
	case 2, 3:
		return "*" + string(runes[i:])
	case 4:
		return string(runes[:i]) + "?" + string(runes[i+1:])
	case 5:
		return "*" + string(runes[i:i+1]) + "*"
	case 6:
		return string(runes[:i]) + "*" + string(runes[i:]) + "*"
	case 7:
		return strings.ToUpper(v)
	case 8:
		if g.chance(10) {
			return v + "\x00"
		}
	}
	return v
}
