package corpus

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
)

var lookbacks = []string{"", "5m", "1h", "90s", "24h", "1h30m"}

// eventTime lies at an edge of a window, or within one.
func (g *gen) eventTime() string {
	ago := one(g, []time.Duration{0, 30 * time.Second, 90 * time.Second, 5 * time.Minute, 10 * time.Minute, time.Hour, 24 * time.Hour})
	t := g.now.Add(-ago)
	switch {
	case g.chance(50):
		t = g.around(t)
	case g.chance(60):
		t = g.now.Add(-time.Duration(g.IntN(3600)) * time.Second)
	}
	if g.chance(10) {
		t = t.In(time.FixedZone("", 5*3600+1800))
	}
	if g.chance(5) {
		t = t.Add(500 * time.Millisecond)
	}
	return t.Format(time.RFC3339Nano)
}

var results = []api.Result{api.Pass, api.Warned, api.Fail, api.Unknown}

func (g *gen) instance() api.Instance {
	i := api.Instance{Cluster: one(g, []string{"east", "west"}), Namespace: one(g, []string{"prod", "dev", ""}), Container: one(g, []string{"c", "init"})}
	i.Pod = fmt.Sprintf("%s-%d", one(g, []string{"web", "db"}), g.IntN(3))
	if g.chance(10) {
		i.Cluster = ""
	}
	return i
}

// events have each a (image, digest, moment) of their own.
func (g *gen) events() []api.Event {
	var out []api.Event
	seen := map[string]bool{}
	for range g.IntN(24) {
		name := one(g, names)
		ref, err := api.ParseReference(name)
		if err != nil {
			panic(err)
		}
		e := api.Event{
			Time: g.eventTime(), Registry: ref.Registry(), Repository: ref.Repository(), Image: ref.Name(),
			CVE: []string{}, Package: []string{}, Instances: []api.Instance{},
			Result: one(g, results), Fixable: g.chance(50), KEV: g.chance(20), Changed: g.chance(40),
		}
		if g.chance(75) {
			e.Tag = one(g, tags)
			e.Image += ":" + e.Tag
		}
		if g.chance(90) {
			e.Digest = one(g, g.manifests)
		}
		if g.chance(60) {
			e.PreviousResult = one(g, results)
		}
		if g.chance(80) {
			e.MaxCVSSScore = ptr(g.score())
		}
		if g.chance(60) {
			e.EPSS = ptr(g.probability())
		}
		for _, f := range some(g, g.IntN(4), flaws) {
			e.CVE = append(e.CVE, f.id)
		}
		for _, p := range some(g, g.IntN(3), packages) {
			e.Package = append(e.Package, p.name)
		}
		if g.chance(70) {
			e.Source = one(g, []string{"registry", "cluster", "pipeline"})
		}
		if e.Result == api.Unknown {
			e.Error = "no such image"
			e.MaxCVSSScore, e.EPSS = nil, nil
		}
		for range g.IntN(4) {
			e.Instances = append(e.Instances, g.instance())
		}
		t, err := time.Parse(time.RFC3339, e.Time)
		if err != nil {
			panic(err)
		}
		key := fmt.Sprint(e.Image, e.Digest, t.UnixNano())
		if !seen[key] {
			out = append(out, e)
		}
		seen[key] = true
	}
	return out
}

func (g *gen) alerts() []api.GlobalAlert {
	var out []api.GlobalAlert
	for _, name := range some(g, 1+g.IntN(4), []string{"a", "a-b", "a.b", "b", "fails", "z"}) {
		a := api.GlobalAlert{TypeMeta: api.TypeMeta{APIVersion: api.GroupAlert, Kind: api.KindGlobalAlert}}
		a.Metadata.Name = name
		s := api.GlobalAlertSpec{Severity: one(g, []int{1, 50, 100}), DataSet: "vulnerability", Lookback: one(g, lookbacks)}
		if g.chance(50) {
			s.Type = "RuleBased"
		}
		if g.chance(30) {
			s.Period = "1m"
		}
		for _, name := range []string{"wanted", "known"} {
			if g.chance(60) {
				var values []string
				for range 1 + g.IntN(3) {
					values = append(values, g.pattern())
				}
				s.Substitutions = append(s.Substitutions, api.Substitution{Name: name, Values: values})
			}
		}
		if g.chance(80) {
			s.Query = g.query(g.IntN(3), s.Substitutions)
		}
		if g.chance(60) {
			s.AggregateBy = some(g, 1+g.IntN(3), []string{
				"result", "image", "cve", "package", "namespace", "cluster", "pod", "container", "registry", "repository",
				"tag", "digest", "kev", "changed", "source", "previous_result", "error",
			})
		}
		fields := append([]string{}, s.AggregateBy...)
		if g.chance(65) {
			s.Metric = one(g, []string{"count", "count", "min", "max", "sum", "avg"})
			s.Condition = one(g, []string{"eq", "not_eq", "lt", "lte", "gt", "gte"})
			if s.Metric != "count" {
				s.Field = one(g, []string{"max_cvss_score", "epss"})
			}
			if !g.chance(15) {
				s.Threshold = ptr(one(g, []float64{0, 1, 2, 3, 0.5, 7, 9, 7.5, 0.333333, -1, 10}))
			}
			fields = append(fields, s.Metric)
		} else if len(fields) == 0 {
			fields = []string{"image", "cve", "package", "result", "max_cvss_score", "epss", "kev", "tag", "time", "previous_result", "error", "digest"}
		}
		s.Description = g.template(fields)
		if g.chance(70) {
			s.Summary = g.template(fields)
		}
		a.Spec = s
		out = append(out, a)
	}
	return out
}

func (g *gen) template(fields []string) string {
	parts := []string{"alert"}
	for _, f := range some(g, min(len(fields), g.IntN(4)), fields) {
		parts = append(parts, f+" is ${"+f+"}")
	}
	return strings.Join(parts, "; ")
}

// pattern is a value for IN, with wildcards at times.
func (g *gen) pattern() string {
	return one(g, []string{
		"CVE-2025-*", "CVE-2025-01?0", "*", "GHSA-*", "CVE-2021-44228", "nginx", "docker.io/*", "*/nginx:*", "Fa?l", "Fail", "Pass",
		"prod", "web", "Fai", "ngin", "CVE-2025-01", "*-2025-*5", "web-?", "web-*", "open*", "openssl", "*1.0", "east", "a.b", "NGINX",
	})
}

func (g *gen) value(v string) string {
	plain := v != "" && strings.Trim(v, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
	if plain && g.chance(50) {
		return v
	}
	return `"` + v + `"`
}

// query is a query of the depth over all sorts of fields.
func (g *gen) query(depth int, subs []api.Substitution) string {
	if depth > 0 {
		and, or, not := one(g, []string{"AND", "and"}), one(g, []string{"OR", "or"}), one(g, []string{"NOT", "not"})
		left, right := g.query(depth-1, subs), g.query(depth-1, subs)
		switch g.IntN(5) {
		case 0:
			return left + " " + and + " " + right
		case 1:
			return left + " " + or + " " + right
		case 2:
			return not + " (" + left + ")"
		case 3:
			return "(" + left + " " + or + " " + right + ")"
		}
		return "( " + left + " ) " + and + " " + not + " " + g.query(0, subs)
	}
	ops := []string{"=", "!=", "<", "<=", ">", ">="}
	in := one(g, []string{"IN", "NOTIN", "IN", "in", "notin"})
	sp := one(g, []string{" ", " ", ""})
	switch g.IntN(12) {
	case 0, 1:
		v := strconv.FormatFloat(g.score(), 'f', -1, 64)
		if g.chance(20) {
			v = `"` + v + `"`
		}
		return "max_cvss_score" + sp + one(g, ops) + sp + v
	case 2:
		return "epss" + sp + one(g, ops) + sp + strconv.FormatFloat(g.probability(), 'f', -1, 64)
	case 3:
		return one(g, []string{"fixable", "kev", "changed"}) + sp + one(g, ops[:2]) + sp + g.value(one(g, []string{"true", "false"}))
	case 4:
		return "time " + one(g, ops[2:]) + ` "` + g.around(g.now.Add(-5*time.Minute)).Format(time.RFC3339) + `"`
	case 5, 6:
		field := one(g, []string{"result", "previous_result"})
		return field + sp + one(g, ops[:2]) + sp + g.value(string(one(g, results)))
	case 7:
		field := one(g, []string{"cve", "package", "tag", "repository", "registry", "digest", "source", "error", "image"})
		return field + sp + one(g, ops) + sp + g.value(one(g, []string{"CVE-2021-44228", "openssl", "1.0", "nginx", "registry", "no such image", "docker.io/library", "CVE-2025-0105", "lib*"}))
	case 8, 9:
		field := one(g, instanceFields)
		return field + sp + one(g, ops[:2]) + sp + g.value(one(g, []string{"prod", "dev", "east", "west", "web-0", "web-1", "init"}))
	}
	field := one(g, append([]string{"cve", "cve", "package", "image", "result", "tag", "repository", "error"}, instanceFields...))
	if len(subs) > 0 && g.chance(40) {
		return field + " " + in + " ${" + one(g, subs).Name + "}"
	}
	var values []string
	for range 1 + g.IntN(3) {
		values = append(values, g.value(g.pattern()))
	}
	return field + " " + in + " {" + strings.Join(values, ","+sp) + "}"
}

var instanceFields = []string{"cluster", "namespace", "pod", "container"}

// vendorNames are those that Calico has for fields.
var vendorNames = map[string]string{"tag": "image_tag", "cluster": "cluster_name", "node": "node_name"}

// detections give events types and nodes, and alerts the fields and names that are about these, from choices of
// their own: all else of a case stays what it was before there were any.
func detections(seed uint64, c *Case) {
	g := &gen{Rand: rand.New(rand.NewPCG(seed, 0xde7ec7))}
	for i := range c.Events {
		e := &c.Events[i]
		if g.chance(80) {
			e.Type = one(g, []api.EventType{api.ImageDetection, api.PodDetection})
		}
		for k := range e.Instances {
			if g.chance(70) {
				e.Instances[k].Node = one(g, []string{"n1", "n2"})
			}
		}
	}
	for i := range c.World.Alerts {
		s := &c.World.Alerts[i].Spec
		if g.chance(40) {
			term := one(g, []string{
				`type = pod_detection`, `NOT type = "image_detection"`, `type IN {"*_detection"}`, `type NOTIN {image_detection}`, `image_tag = "1.0"`, `image_tag IN {"1*", latest}`,
				`cluster_name = east`, `NOT cluster_name IN {"w*st"}`, `node_name = n1`, `node != n1`, `node IN {"n?"} AND namespace = prod`,
			})
			if s.Query != "" {
				term = "(" + s.Query + ")" + one(g, []string{" AND ", " OR "}) + "(" + term + ")"
			}
			s.Query = term
		}
		names := s.AggregateBy
		for k, f := range names {
			if other, is := vendorNames[f]; is && g.chance(50) {
				names[k] = other
				s.Summary = strings.ReplaceAll(s.Summary, "${"+f+"}", "${"+one(g, []string{f, other})+"}")
			}
		}
		if len(names) > 0 && g.chance(30) {
			f := one(g, []string{"type", "node", "node_name"})
			s.AggregateBy = append(names, f)
			s.Summary += " ${" + f + "}"
		}
		if len(names) == 0 && s.Metric == "" && g.chance(50) {
			s.Summary += " ${" + one(g, []string{"type", "node_name", "cluster_name", "image_tag", "namespace", "pod"}) + "}"
		}
	}
}
