package pushdown_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/engine/pushdown"
	"github.com/assay-dev/assay/engine/pushdown/pushdowntest"
	"github.com/assay-dev/assay/policies"
)

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// set holds alerts, given as the specs of GlobalAlerts by name.
func set(t testing.TB, specs map[string]api.GlobalAlertSpec) *policies.Set {
	t.Helper()
	fsys := fstest.MapFS{}
	for name, s := range specs {
		s.Severity, s.DataSet = 50, policies.DataSet
		if s.Description == "" {
			s.Description = "d"
		}
		text, err := json.Marshal(api.GlobalAlert{
			TypeMeta: api.TypeMeta{APIVersion: api.GroupAlert, Kind: api.KindGlobalAlert}, Metadata: api.ObjectMeta{Name: name}, Spec: s,
		})
		if err != nil {
			t.Fatal(err)
		}
		fsys[name+".yaml"] = &fstest.MapFile{Data: text}
	}
	set, err := policies.Load(fsys)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func rules(t testing.TB, specs map[string]api.GlobalAlertSpec) *pushdown.Rules {
	t.Helper()
	r, err := pushdown.New(t.Context(), set(t, specs).Alerts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// both are a SQLite and a PostgreSQL that hold the events.
func both(t *testing.T, events ...api.Event) []*pushdowntest.Store {
	t.Helper()
	stores := []*pushdowntest.Store{pushdowntest.SQLite(t), pushdowntest.PostgreSQL(t)}
	for _, s := range stores {
		s.Replace(t, events)
	}
	return stores
}

// event is one of the last minute, told from others by its tag.
func event(tag string) api.Event {
	return api.Event{
		Time: "2026-06-01T11:59:00Z", Registry: "docker.io/library", Repository: "nginx", Tag: tag, Image: "docker.io/library/nginx:" + tag,
		Result: api.Pass, CVE: []string{}, Package: []string{}, Instances: []api.Instance{},
	}
}

// hits are the tags of the events that a query holds for.
func hits(t *testing.T, s *pushdowntest.Store, r *pushdown.Rules) string {
	t.Helper()
	alerts, err := r.Firing(t.Context(), s, now)
	if err != nil {
		t.Fatal(err)
	}
	var tags []string
	for _, a := range alerts {
		tags = append(tags, a.Summary)
	}
	return strings.Join(tags, " ")
}

func TestAbsentValues(t *testing.T) {
	full := event("full")
	full.MaxCVSSScore, full.Source, full.CVE, full.Changed = new(7.5), "registry", []string{"CVE-1", "CVE-2"}, true
	full.Type = api.PodDetection
	full.Instances = []api.Instance{{Namespace: "prod", Cluster: "east", Node: "n1"}, {Namespace: "dev", Cluster: "west"}}
	stores := both(t, full, event("none"))
	for query, want := range map[string]string{
		`source = registry`: "full", `source != registry`: "none", `NOT source = registry`: "none", `NOT source != registry`: "full",
		`source = x`: "", `source != x`: "full none", `source < z`: "full", `NOT source < z`: "none", `source IN {x, registry}`: "full",
		`source NOTIN {x}`: "full none", `source NOTIN {"reg*"}`: "none", `source NOTIN {"*x"}`: "full none", `source EMPTY`: "none", `NOT source EMPTY`: "full",
		`max_cvss_score >= 7.5`: "full", `max_cvss_score < 7.5`: "", `NOT max_cvss_score >= 7.5`: "none", `max_cvss_score != 0`: "full none", `max_cvss_score IN {7.5, 8}`: "full",
		`cve = "CVE-1"`: "full", `cve != "CVE-1"`: "none", `cve != "CVE-3"`: "full none", `cve > "CVE-1"`: "full", `cve NOTIN {"CVE-?"}`: "none", `cve EMPTY`: "none",
		`cve = "CVE-1" AND cve = "CVE-2"`: "full", `NOT (cve = "CVE-1" AND cve = "CVE-3")`: "full none",
		`changed = true`: "full", `changed != true`: "none", `changed IN {true, false}`: "full none", `kev = false`: "full none",
		`namespace = prod`: "full", `namespace != prod`: "full none", `namespace = prod AND cluster = east`: "full", `namespace = prod AND cluster = west`: "",
		`NOT (namespace = prod OR namespace = dev)`: "none", `pod = x`: "", `pod != x`: "full none", `namespace EMPTY`: "none",
		`type = pod_detection`: "full", `NOT type = pod_detection`: "none", `type IN {"image*"}`: "", `type EMPTY`: "none",
		`node_name = n1`: "full", `node = n1 AND namespace = dev`: "", `node EMPTY`: "full none", `cluster_name = east AND image_tag = full`: "full",
		`time >= "2026-06-01T11:59:00Z"`: "full none", `time > "2026-06-01T13:59:00+02:00"`: "",
		`tag = none OR source = registry AND changed = true`: "full none", `(tag = none OR source = registry) AND changed = true`: "full",
	} {
		// Of the events Rego judges the query again, of groups it does not.
		r := rules(t, map[string]api.GlobalAlertSpec{
			"events": {Query: query, Summary: "${tag}"}, "groups": {Query: query, Summary: "${count}", Metric: "count", Condition: "gte"},
		})
		if modes := r.Modes(); modes["events"] != pushdown.Filtered || modes["groups"] != pushdown.Grouped {
			t.Errorf("%s is %v", query, modes)
		}
		want = strings.TrimSpace(fmt.Sprintf("%s %d", want, len(strings.Fields(want))))
		for _, s := range stores {
			if got := hits(t, s, r); got != want {
				t.Errorf("%s: %s holds for %q, not %q", s.Dialect(), query, got, want)
			}
		}
	}
}

// Texts mean themselves, in either database, and compare by their bytes.
func TestTexts(t *testing.T) {
	texts := []string{
		"it's", `"`, `\`, `\\`, `\'`, "%", "_", "[a]", "[", "]", "^", "100%", "a_b", "aXb", "ä", "Ä", "A", "a", "B", "b", "ß", "ss", "🦊", "line\nbreak", "?", "*", "$1", "' OR '1'='1",
	}
	var events []api.Event
	for _, text := range texts {
		e := event(text)
		e.CVE, e.Instances = []string{text}, []api.Instance{{Namespace: text}}
		events = append(events, e)
	}
	stores := both(t, events...)
	for _, field := range []string{"tag", "cve", "namespace"} {
		for _, text := range texts {
			quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text)
			less := 0
			for _, other := range texts {
				if other < text {
					less++
				}
			}
			for query, want := range map[string]int{
				fmt.Sprintf(`%s = "%s"`, field, quoted): 1, fmt.Sprintf(`%s != "%s"`, field, quoted): len(texts) - 1, fmt.Sprintf(`%s < "%s"`, field, quoted): less,
				fmt.Sprintf(`%s IN {"%s*"}`, field, quoted):               matching(texts, text+"*"),
				fmt.Sprintf(`%s IN {"?%s", "%s"}`, field, quoted, quoted): matching(texts, "?"+text, text),
			} {
				r := rules(t, map[string]api.GlobalAlertSpec{"a": {Query: query, Metric: "count", Condition: "gte"}})
				for _, s := range stores {
					alerts, err := r.Firing(t.Context(), s, now)
					if err != nil || len(alerts) != 1 || int(*alerts[0].Value) != want {
						t.Errorf("%s: %s holds for %v, not %d events (%v)", s.Dialect(), query, alerts, want, err)
					}
				}
			}
		}
	}
}

func matching(texts []string, patterns ...string) int {
	n := 0
	for _, text := range texts {
		if slices.ContainsFunc(patterns, func(p string) bool { return matches([]rune(p), []rune(text)) }) {
			n++
		}
	}
	return n
}

func matches(pattern, text []rune) bool {
	switch {
	case len(pattern) == 0:
		return len(text) == 0
	case pattern[0] == '*':
		return matches(pattern[1:], text) || len(text) > 0 && matches(pattern, text[1:])
	}
	return len(text) > 0 && (pattern[0] == '?' || pattern[0] == text[0]) && matches(pattern[1:], text[1:])
}

// What SQL cannot hold, or not as much of it, is judged in Rego.
func TestWhatSQLDoesNotTake(t *testing.T) {
	var events []api.Event
	for i := range 30 {
		e := event(fmt.Sprintf("t%d", i))
		e.Source, e.Error, e.KEV = fmt.Sprintf("s%d", i%5), fmt.Sprintf("e%d", i%3), i%2 == 0
		events = append(events, e)
	}
	stores := both(t, events...)
	repeat := func(n int, part, separator string) string {
		return strings.TrimSuffix(strings.Repeat(part+separator, n), separator)
	}
	product := repeat(12, `((tag = t1 AND kev = false) OR (source != s1 AND error != e0))`, " AND ")
	for name, c := range map[string]struct {
		query string
		mode  pushdown.Mode
		hits  int
	}{
		"NUL":                {`source = "s\x00"`, pushdown.Unfiltered, 0},
		"NUL negated":        {`source NOTIN {"s\x00"} AND kev = true`, pushdown.Prefiltered, 15},
		"NUL, one of two":    {`source = "s\x00" OR kev = true`, pushdown.Unfiltered, 15},
		"long pattern":       {`source IN {"` + strings.Repeat("s", 20_000) + `*", "s1"}`, pushdown.Unfiltered, 6},
		"product":            {product, pushdown.Grouped, 17},
		"product below OR":   {`tag = t1 OR (` + product + `)`, pushdown.Unfiltered, 17},
		"product and more":   {`kev = true AND (tag = t1 OR (` + product + `))`, pushdown.Prefiltered, 8},
		"1,000 alternatives": {repeat(1000, "source = s1", " OR "), pushdown.Grouped, 6},
		"1,000 conditions":   {repeat(1000, "source = s1", " AND "), pushdown.Grouped, 6},
		"10,000 values":      {`source IN {` + repeat(10_000, "s1", ",") + `}`, pushdown.Grouped, 6},
		"8,000 patterns":     {`source IN {` + repeat(8_000, `"?1*"`, ",") + `}`, pushdown.Grouped, 6},
		"500 parentheses":    {strings.Repeat("NOT (", 500) + "source = s1" + strings.Repeat(")", 500), pushdown.Grouped, 6},
	} {
		r := rules(t, map[string]api.GlobalAlertSpec{"a": {Query: c.query, Metric: "count", Condition: "gte"}})
		if r.Modes()["a"] != c.mode {
			t.Errorf("%s is %s, not %s", name, r.Modes()["a"], c.mode)
		}
		for _, s := range stores {
			alerts, err := r.Firing(t.Context(), s, now)
			if err != nil || len(alerts) != 1 || int(*alerts[0].Value) != c.hits {
				t.Errorf("%s: %s holds for %v, not %d events (%.300v)", s.Dialect(), name, alerts, c.hits, err)
			}
		}
	}
}

// endless is a store without end: each query gives rows until the callback has enough.
type endless struct{ dialect string }

func (s endless) Dialect() string { return s.dialect }

func (endless) SelectEvents(_ context.Context, _, _ time.Time, _ string, _ []any, fn func(api.Event) error) error {
	for {
		if err := fn(event("x")); err != nil {
			return err
		}
	}
}

func (endless) SelectRows(_ context.Context, query string, _ []any, fn func(func(...any) error) error) error {
	for {
		// Without a key there is one row.
		if err := fn(func(...any) error { return nil }); err != nil || !strings.Contains(query, "GROUP BY") {
			return err
		}
	}
}

func TestBounds(t *testing.T) {
	r := rules(t, map[string]api.GlobalAlertSpec{
		"every-event": {Query: "kev = true"}, "every-image": {AggregateBy: []string{"image"}}, "total": {Metric: "count", Condition: "gte"},
	})
	alerts, err := r.Firing(t.Context(), endless{pushdown.SQLite}, now)
	if len(alerts) != 1 || alerts[0].Name != "total" {
		t.Errorf("the alert that can be judged is not: %v", alerts)
	}
	want := `alert every-event: reading events: more than 100000 events are to be read: its query must be narrower, its lookback shorter, or aggregateBy or a metric must group them
alert every-image: reading groups: there are more than 100000: aggregateBy must have fewer fields`
	if err == nil || err.Error() != want {
		t.Errorf("the error is %v", err)
	}
	if _, err := r.Firing(t.Context(), endless{"mysql"}, now); err == nil {
		t.Error("an unknown dialect is accepted")
	}
}

func TestAnEndedContext(t *testing.T) {
	r := rules(t, map[string]api.GlobalAlertSpec{"events": {}, "groups": {Metric: "count", Condition: "gte"}})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, s := range both(t, event("x")) {
		alerts, err := r.Firing(ctx, s, now)
		if !errors.Is(err, context.Canceled) || len(alerts) > 0 || strings.Count(err.Error(), "alert ") != 2 {
			t.Errorf("%s: %v, %v", s.Dialect(), alerts, err)
		}
	}
}

func TestWindow(t *testing.T) {
	var events []api.Event
	for tag, at := range map[string]string{
		"start": "2026-06-01T11:50:00Z", "inside": "2026-06-01T11:50:00.000000001Z", "now": "2026-06-01T12:00:00Z", "later": "2026-06-01T12:00:00.000000001Z", "elsewhere": "2026-06-01T13:55:00+02:00",
	} {
		e := event(tag)
		e.Time = at
		events = append(events, e)
	}
	r := rules(t, map[string]api.GlobalAlertSpec{"events": {Summary: "${tag}"}, "keys": {Summary: "${tag}", AggregateBy: []string{"tag"}}})
	for _, s := range both(t, events...) {
		if got := hits(t, s, r); got != "elsewhere inside now elsewhere inside now" {
			t.Errorf("%s: in the window are %s", s.Dialect(), got)
		}
	}
}

// An event counts once for a key, and once for every key that it has.
func TestKeys(t *testing.T) {
	e := event("x")
	e.CVE, e.Package, e.EPSS = []string{"a", "b", "a"}, []string{"p", "q"}, new(0.5)
	e.Instances = []api.Instance{{Namespace: "prod", Pod: "1", Node: "n"}, {Namespace: "prod", Pod: "2"}, {Namespace: "dev"}, {Pod: "3"}}
	bare := event("bare")
	bare.CVE, bare.Package, bare.Instances = nil, nil, nil // null, as JSON
	stores := both(t, e, bare)
	for _, c := range []struct {
		query string
		by    []string
		want  string
	}{
		{"", []string{"namespace"}, `{"namespace":""} 2 {"namespace":"dev"} 1 {"namespace":"prod"} 1`},
		{`pod = 1`, []string{"namespace"}, `{"namespace":"prod"} 1`},
		{`pod != 1`, []string{"namespace"}, `{"namespace":""} 2 {"namespace":"dev"} 1 {"namespace":"prod"} 1`},
		{`namespace = prod`, []string{"tag"}, `{"tag":"x"} 1`},
		{`namespace = prod`, []string{"pod", "cve"}, `{"cve":"a","pod":"1"} 1 {"cve":"a","pod":"2"} 1 {"cve":"b","pod":"1"} 1 {"cve":"b","pod":"2"} 1`},
		{"", []string{"cve"}, `{"cve":"a"} 1 {"cve":"b"} 1`},
		{`cve = a`, []string{"cve", "package"}, `{"cve":"a","package":"p"} 1 {"cve":"a","package":"q"} 1 {"cve":"b","package":"p"} 1 {"cve":"b","package":"q"} 1`},
		{"", []string{"image_tag", "type"}, `{"image_tag":"bare","type":""} 1 {"image_tag":"x","type":""} 1`},
		{`pod = 1`, []string{"cluster_name", "node_name"}, `{"cluster_name":"","node_name":"n"} 1`},
		{"", []string{"kev", "epss", "source"}, `{"epss":"","kev":"false","source":""} 1 {"epss":"0.5","kev":"false","source":""} 1`},
	} {
		r := rules(t, map[string]api.GlobalAlertSpec{"a": {Query: c.query, AggregateBy: c.by}})
		for _, s := range stores {
			alerts, err := r.Firing(t.Context(), s, now)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, a := range alerts {
				key, err := json.Marshal(a.Key)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, fmt.Sprintf("%s %d", key, a.Count))
			}
			if strings.Join(got, " ") != c.want || r.Modes()["a"] != pushdown.Grouped {
				t.Errorf("%s: %q by %v gives\n     %s\nnot  %s", s.Dialect(), c.query, c.by, strings.Join(got, " "), c.want)
			}
		}
	}
}

func TestMetrics(t *testing.T) {
	a, b, none := event("a"), event("b"), event("none")
	a.EPSS, b.EPSS, a.MaxCVSSScore = new(0.000000001), new(0.76), new(9.8)
	stores := both(t, a, b, none)
	for _, c := range []struct {
		query, metric, field string
		want                 string
	}{
		{"", "count", "", "3"}, {"tag = x", "count", "", "0"},
		{"", "min", "epss", "0"}, {"", "max", "epss", "0.76"}, {"", "sum", "epss", "0.76"}, {"", "avg", "epss", "0.38"},
		{"", "min", "max_cvss_score", "9.8"}, {"", "avg", "max_cvss_score", "9.8"},
		{"tag = none", "min", "epss", ""}, {"tag = none", "max", "epss", ""}, {"tag = none", "sum", "epss", ""}, {"tag = x", "avg", "epss", ""},
	} {
		r := rules(t, map[string]api.GlobalAlertSpec{"a": {Query: c.query, Metric: c.metric, Field: c.field, Condition: "gte", Summary: "${" + c.metric + "}"}})
		for _, s := range stores {
			if got := hits(t, s, r); got != c.want {
				t.Errorf("%s: the %s of %s is %q, not %q", s.Dialect(), c.metric, c.field, got, c.want)
			}
		}
	}
}

// Rules are shared by goroutines.
func TestConcurrency(t *testing.T) {
	r := rules(t, map[string]api.GlobalAlertSpec{"events": {Query: `tag IN {"a*"} AND cve != b`}, "groups": {Metric: "count", Condition: "gte", AggregateBy: []string{"image"}}})
	for _, s := range both(t, event("a"), event("b")) {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if alerts, err := r.Firing(t.Context(), s, now); err != nil || len(alerts) != 3 {
					t.Errorf("%s: %v, %v", s.Dialect(), alerts, err)
				}
			})
		}
		wg.Wait()
	}
}
