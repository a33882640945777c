package reference

import (
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
)

func event(ago time.Duration, change func(*api.Event)) api.Event {
	e := api.Event{Time: now.Add(-ago).Format(time.RFC3339), Image: "docker.io/library/nginx:1", Repository: "nginx", Result: api.Fail, Digest: dig("a")}
	if change != nil {
		change(&e)
	}
	return e
}

func TestQuery(t *testing.T) {
	e := event(0, func(e *api.Event) {
		e.CVE, e.MaxCVSSScore, e.KEV, e.Tag = []string{"CVE-2024-0001", "GHSA-x"}, ptr(9.8), true, "1"
		e.Instances = []api.Instance{{Namespace: "prod", Pod: "a"}, {Namespace: "dev", Pod: "b"}}
	})
	subs := []api.Substitution{{Name: "s", Values: []string{"CVE-*", "x"}}}
	for q, want := range map[string]bool{
		"": true, "result = Fail": true, `result="Warn" or NOT kev = "false"`: true, "max_cvss_score >= 9.80": true, "max_cvss_score < 10 AND epss < 1": false,
		"epss != 1": true, `cve = "GHSA-x"`: true, `cve != "GHSA-x"`: false, `cve IN {"CVE-202?-*"}`: true, `cve = "CVE-*"`: false, "cve IN ${s}": true,
		"cve notin ${s}": false, `source NOTIN {"*"}`: true, "namespace = prod AND pod = a": true, "namespace = prod AND pod = b": false,
		"namespace != prod": true, "NOT namespace = prod AND pod = a": false, `time > "2026-03-31T13:59:59+02:00"`: true,
		"result = Pass AND result = Fail OR kev = true": true, "result = Pass AND (result = Fail OR kev = true)": false, "tag > 0": true, "result IN {fail}": false,
	} {
		p, err := parseQuery(q, subs)
		if err != nil || (len(matchingInstances(p, e)) > 0) != want {
			t.Errorf("%q: %v, want %v", q, err, want)
		}
	}
	p, err := parseQuery("namespace != prod", nil)
	if err != nil || len(matchingInstances(p, event(0, nil))) != 1 {
		t.Errorf("an event without instances is tried once with all absent: %v", err)
	}
	for _, q := range []string{"result", "result =", "= Fail", "(result = Fail", "result IN Fail", "result = Fail kev = true", "cve IN ${t}"} {
		if _, err := parseQuery(q, subs); err == nil {
			t.Errorf("%q parses", q)
		}
	}
}

func alert(change func(*api.GlobalAlertSpec)) World {
	a := api.GlobalAlert{Spec: api.GlobalAlertSpec{Description: "d ${count}", Severity: 50, DataSet: "vulnerability"}}
	a.Metadata.Name = "a"
	change(&a.Spec)
	return World{Alerts: []api.GlobalAlert{a}}
}

func TestWindow(t *testing.T) {
	w := alert(func(s *api.GlobalAlertSpec) { s.Summary = "${image} ${cve}" })
	got := Alerts(w, []api.Event{
		event(10*time.Minute, nil), event(-time.Second, nil), event(10*time.Minute-time.Second, nil),
		event(0, func(e *api.Event) { e.CVE = []string{"x", "y"} }),
	}, now)
	if len(got) != 2 || got[1].Summary != "docker.io/library/nginx:1 x, y" || got[1].Description != "d ${count}" || len(got[0].Key) != 3 {
		t.Errorf("%+v", got)
	}
}

func TestMetrics(t *testing.T) {
	scored := func(f float64) func(*api.Event) { return func(e *api.Event) { e.MaxCVSSScore = &f } }
	events := []api.Event{event(1, scored(9.8)), event(2, scored(0.1)), event(3, scored(0.2)), event(4, nil)}
	for _, c := range []struct {
		metric, condition string
		threshold, value  float64
	}{
		{"count", "eq", 4, 4}, {"min", "lte", 0.1, 0.1}, {"max", "gte", 9.8, 9.8}, {"sum", "eq", 10.1, 10.1},
		{"avg", "eq", 3.366667, 3.366667}, {"sum", "not_eq", 10, 10.1}, {"count", "lt", 5, 4}, {"count", "gt", 3, 4},
	} {
		w := alert(func(s *api.GlobalAlertSpec) {
			s.Metric, s.Condition, s.Threshold, s.Field = c.metric, c.condition, &c.threshold, "max_cvss_score"
			s.Description = "${" + c.metric + "}"
		})
		got := Alerts(w, events, now)
		if len(got) != 1 || *got[0].Value != c.value || got[0].Count != 4 || got[0].Description != formatFloat(c.value) {
			t.Errorf("%+v: %+v", c, got)
		}
	}
	for _, metric := range []string{"count", "max"} {
		w := alert(func(s *api.GlobalAlertSpec) { s.Metric, s.Condition, s.Field = metric, "eq", "epss" })
		if got := Alerts(w, nil, now); len(got) == 1 != (metric == "count") {
			t.Errorf("%s over nothing: %+v", metric, got)
		}
	}
}

func TestAggregation(t *testing.T) {
	events := []api.Event{
		event(1, func(e *api.Event) {
			e.CVE = []string{"x", "y"}
			e.Instances = []api.Instance{{Namespace: "prod", Pod: "a"}, {Namespace: "prod", Pod: "b"}, {Namespace: "dev", Pod: "c"}}
		}),
		event(2, func(e *api.Event) { e.CVE = []string{"x"} }),
		event(3, nil),
	}
	for _, c := range []struct {
		by    []string
		query string
		want  string
	}{
		{[]string{"cve"}, "", "x:2 y:1"},
		{[]string{"namespace"}, "", ":2 dev:1 prod:1"},
		{[]string{"namespace"}, "pod != b AND namespace = prod", "prod:1"},
		{[]string{"namespace"}, "pod != a", ":2 dev:1 prod:1"},
		{[]string{"cve", "namespace"}, "", "x/:1 x/dev:1 x/prod:1 y/dev:1 y/prod:1"},
		{[]string{"source"}, "", ":3"},
	} {
		w := alert(func(s *api.GlobalAlertSpec) { s.AggregateBy, s.Query = c.by, c.query })
		var got []string
		for _, a := range Alerts(w, events, now) {
			var key []string
			for _, f := range c.by {
				key = append(key, a.Key[f])
			}
			got = append(got, strings.Join(key, "/")+":"+formatFloat(float64(a.Count)))
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("by %v where %q: %s, want %s", c.by, c.query, s, c.want)
		}
	}
}
