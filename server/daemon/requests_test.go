package daemon_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

// fuzzed is how many requests are made of the description. One in three is as it says,
// the others are wrong in one way at least.
const fuzzed = 20_000

// TestRequestsOfTheDescription makes requests out of openapi.json, good ones and broken ones. None is
// answered by 500, each answer is as the description has it (world.send holds it to that), and what is
// broken changes nothing that people set.
func TestRequestsOfTheDescription(t *testing.T) {
	t.Parallel()
	w := start(t, filepath.Join(t.TempDir(), "assay.db"), nil)
	w.want(201, "POST", "/api/v1/scans", report("registry.example.com/shop/web:1", 1, clock, map[string]float64{"CVE-2026-0001": 9}))
	_, _, text := w.send("GET", "/api/v1/openapi.json", "", nil, nil)
	doc, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		t.Fatal(err)
	}
	g := &generator{r: rand.New(rand.NewPCG(1, 2)), digest: digest(1)}
	// What has long answers, ends the server's own work, or ends the token that asks is asked in tests of its own.
	left := []string{"/api/v1/stream", "/api/v1/downloads/assay", "/api/v1/openapi.json", "/api/v1/policies/test"}
	statuses := map[int]int{}
	paths := slices.Sorted(maps.Keys(doc.Paths.Map()))
	settings := func() string {
		_, _, a := w.send("GET", "/api/v1/thresholds", w.admin, nil, nil)
		_, _, b := w.send("GET", "/api/v1/runtime-view", w.admin, nil, nil)
		_, _, c := w.send("GET", "/api/v1/exceptions?limit=1000", w.admin, nil, nil)
		return string(a) + string(b) + string(c)
	}
	asked := map[string]int{}
	before := settings()
	told := map[string]bool{}
	for n := 0; n < fuzzed && len(told) < 20; {
		address := paths[g.r.IntN(len(paths))]
		item := doc.Paths.Value(address)
		methods := slices.Sorted(maps.Keys(item.Operations()))
		method := methods[g.r.IntN(len(methods))]
		if slices.Contains(left, address) || strings.HasPrefix(address, "/api/v1/tokens/") && method == http.MethodDelete {
			continue
		}
		n++
		q := g.request(method, address, item.Operations()[method])
		status, h, answer := w.send(q.method, q.path, w.admin, q.header, q.body)
		statuses[status]++
		asked[method+" "+address]++
		fault := func(format string, args ...any) {
			if kind := fmt.Sprint(method, address, status, q.broken); !told[kind] {
				told[kind] = true
				t.Errorf(format, args...)
			}
		}
		at := fmt.Sprintf("request %d: %s %s %v %.2000s", n, q.method, q.path, q.header, q.body)
		switch {
		case status >= 500:
			fault("%s: %d: %s", at, status, answer)
		case status >= 400 && h.Get("Content-Type") != "application/problem+json":
			fault("%s: %d as %s: %.300s", at, status, h.Get("Content-Type"), answer)
		case q.broken != "" && status < 300:
			fault("%s: %d although %s", at, status, q.broken)
		case q.broken == "" && (status == 400 && !q.words || status == 405 || status == 415):
			fault("%d: %s to %s", status, answer, at)
		}
		if method == http.MethodGet {
			continue
		}
		after := settings()
		if status >= 400 && after != before {
			fault("%s: %d, and it changed\n%s\nto\n%s", at, status, before, after)
		}
		before = after
	}
	if len(asked) < 70 || statuses[200]+statuses[201]+statuses[202]+statuses[204] < fuzzed/4 {
		t.Errorf("only %d routes were asked, or too little came through: %v", len(asked), statuses)
	}
	t.Logf("%d routes; answers by status: %v", len(asked), statuses)
}

// generator makes requests.
type generator struct {
	r      *rand.Rand
	digest string
}

type request struct {
	method, path string
	header       map[string]string
	body         []byte
	broken       string // why it must be refused
	words        bool   // it has parameters of any text, which may be none that the route can read
}

func (g *generator) one(of ...string) string { return of[g.r.IntN(len(of))] }

func (g *generator) request(method, address string, op *openapi3.Operation) request {
	q := request{method: method, header: map[string]string{}}
	breaks := "" // what to break
	if g.r.IntN(3) > 0 {
		breaks = g.one("parameter", "unknown parameter", "body", "body", "body", "type", "twice")
	}
	values := url.Values{}
	path := address
	for _, p := range op.Parameters {
		switch p.Value.In {
		case "path":
			path = strings.Replace(path, "{"+p.Value.Name+"}", url.PathEscape(g.segment(p.Value.Name)), 1)
		case "query":
			if breaks == "parameter" {
				if bad, ok := g.wrong(p.Value.Schema.Value); ok {
					values.Set(p.Value.Name, bad)
					q.broken = "the parameter " + p.Value.Name + " is " + bad
					breaks = ""
					continue
				}
			}
			if p.Value.Required || g.r.IntN(4) == 0 && p.Value.Name != "sort" && p.Value.Name != "after" && p.Value.Name != "below" {
				values.Set(p.Value.Name, g.parameter(p.Value.Schema.Value))
				q.words = q.words || p.Value.Schema.Value.Type.Is("string")
			}
		}
	}
	reads := method == http.MethodGet && address != "/api/v1/version"
	switch {
	case breaks == "unknown parameter" && reads:
		values.Set("nothing", "1")
		q.broken = "a parameter is unknown"
	case breaks == "twice" && reads && len(values) > 0:
		for name := range values {
			values.Add(name, values.Get(name))
			break
		}
		q.broken = "a parameter is given twice"
	}
	q.path = path
	if len(values) > 0 {
		q.path += "?" + values.Encode()
	}
	if op.RequestBody == nil {
		return q
	}
	content := op.RequestBody.Value.Content
	if content["application/json"] == nil {
		q.header["Content-Type"] = "text/csv"
		q.body = []byte(g.one("", "CVE,Scope\n", "a,b\n\"", "\xff\xfe,\n", "CVE,Scope,Registry,Repository,Tag,Digest,Justification,Expires\nCVE-2026-1,any,,,,,,\n"))
		return q
	}
	schema := content["application/json"].Schema.Value
	value := g.value(schema, 0)
	if breaks == "body" {
		if broken, why, ok := g.breakObject(schema, value); ok {
			value, q.broken = broken, why
		}
	}
	q.body, _ = json.Marshal(value)
	switch breaks {
	case "type":
		q.header["Content-Type"], q.broken = g.one("text/csv", "application/xml", "text/plain"), "it is not JSON by its type"
	case "twice":
		q.body, q.broken = append(q.body, q.body...), "there are two documents"
	}
	return q
}

// segment is a part of a path.
func (g *generator) segment(name string) string {
	known := map[string]string{"digest": g.digest, "id": g.one("1", "CVE-2026-0001")}
	if g.r.IntN(2) == 0 && known[name] != "" {
		return known[name]
	}
	return g.one("x", "e1", "0", "-1", "9223372036854775807", "99999999999999999999", "a/b", "%", "a b", "ä", "\x00", "\x7f", strings.Repeat("a", 300), "sha256:zz", "'; DROP TABLE scans --")
}

// parameter is a good value.
func (g *generator) parameter(s *openapi3.Schema) string {
	switch {
	case len(s.Enum) > 0:
		return fmt.Sprint(s.Enum[g.r.IntN(len(s.Enum))])
	case s.Pattern != "":
		return g.one("Pass", "Fail,Unknown")
	case s.Type.Is("boolean"):
		return g.one("true", "false")
	case s.Type.Is("integer"), s.Type.Is("number"):
		return g.one(fmt.Sprint(*s.Min), fmt.Sprint(int64(min(*s.Max, 1e6))))
	case s.Format == "date-time":
		return g.one("2026-01-01T00:00:00Z", "2026-01-01T00:00:00+02:00", "9999-12-31T23:59:59Z")
	}
	return g.one("x", "nginx", "ä", "%", "_", "'", "\\", "a\x00b", strings.Repeat("a", 4000), "registry.example.com/shop", g.digest, "CVE-2026-0001")
}

// wrong is a value that the schema does not have, if there is one.
func (g *generator) wrong(s *openapi3.Schema) (string, bool) {
	switch {
	case len(s.Enum) > 0, s.Pattern != "":
		return g.one("x", "pass", "Pass;Fail", ",Fail"), true
	case s.Type.Is("boolean"):
		return g.one("x", "2", "yes", "null"), true
	case s.Type.Is("integer"):
		return g.one("x", "1.5", "-1", "1e3", "99999999999999999999", "0x1"), true
	case s.Type.Is("number"):
		return g.one("x", "-1", "NaN", "Inf", "1e400", "10.1"), true
	case s.Format == "date-time":
		return g.one("x", "2026-01-01", "yesterday", "2026-13-01T00:00:00Z"), true
	}
	return strings.Repeat("a", 5000), true
}

// value is one that fits a schema.
func (g *generator) value(s *openapi3.Schema, depth int) any {
	switch {
	case len(s.AllOf) == 1:
		if s.Nullable && g.r.IntN(2) == 0 {
			return nil
		}
		return g.value(s.AllOf[0].Value, depth)
	case s.Type.Is("object") && len(s.Properties) > 0:
		o := map[string]any{}
		for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
			if slices.Contains(s.Required, name) || depth < 4 && g.r.IntN(3) == 0 {
				o[name] = g.member(name, s.Properties[name].Value, depth+1)
			}
		}
		return o
	case s.Type.Is("object"):
		o := map[string]any{}
		if s.AdditionalProperties.Schema != nil {
			o["a"] = g.value(s.AdditionalProperties.Schema.Value, depth+1)
		}
		return o
	case s.Type.Is("array"):
		list := []any{}
		for range g.r.IntN(3) {
			list = append(list, g.value(s.Items.Value, depth+1))
		}
		return list
	case s.Type.Is("boolean"):
		return g.r.IntN(2) == 0
	case s.Type.Is("integer"):
		return g.r.IntN(100)
	case s.Type.Is("number"):
		return float64(g.r.IntN(100)) / 10
	case s.Format == "date-time":
		return clock
	case s.Format == "scope":
		return g.one("all", "cluster=prod", "group=eu,registry=registry.example.com")
	case s.Format == "byte":
		return []byte("x")
	case s.Type.Is("string"):
		return g.one("x", "", "prod", "nginx:1", "registry.example.com/shop/web:1", g.digest, "CVE-2026-0001", "any", "viewer", "a reason", "2030-01-01T00:00:00Z", "/images", "ä\x00", "\x1b[31m", strings.Repeat("b", 1000))
	}
	return g.one("x", "1")
}

// sensible are values of members that routes take, so that some requests come through.
var sensible = map[string][]string{
	"schema": {"assay.dev/scan/v1"}, "image": {"registry.example.com/shop/web:1", "nginx:1"}, "digest": {digest(1), digest(2)}, "cve": {"CVE-2026-0001"}, "scope": {"any", ""},
	"justification": {"it is not reached"}, "role": {"viewer", "editor"}, "name": {"one", "two"}, "reason": {"seen"}, "from": {"Published", "FixAvailable"}, "address": {"/images"},
	"cluster": {"prod"}, "node": {"n"}, "namespace": {"n"}, "pod": {"p"}, "container": {"c"}, "epoch": {"e"}, "expires": {"2030-01-01T00:00:00Z"}, "platform": {"linux/amd64"},
}

// member is the value of a member: mostly one that routes take.
func (g *generator) member(name string, s *openapi3.Schema, depth int) any {
	if of := sensible[name]; of != nil && s.Type.Is("string") && s.Format == "" && g.r.IntN(8) > 0 {
		return g.one(of...)
	}
	return g.value(s, depth)
}

// breakObject leaves a member out, makes it null or of another type, or adds one.
func (g *generator) breakObject(s *openapi3.Schema, value any) (any, string, bool) {
	o, ok := value.(map[string]any)
	if !ok || len(s.Properties) == 0 {
		return value, "", false
	}
	name := ""
	if len(s.Required) > 0 {
		name = s.Required[g.r.IntN(len(s.Required))]
	}
	switch way := g.r.IntN(5); {
	case way == 0:
		return nil, "the body is null", true
	case way == 1 || name == "":
		return []any{o}, "the body is a list", true
	case way == 2:
		delete(o, name)
		return o, name + " is missing", true
	case way == 3:
		o[name] = nil
		return o, name + " is null", true
	}
	switch t := s.Properties[name].Value.Type; {
	case t.Is("string"):
		o[name] = 1
	default:
		o[name] = "x"
	}
	return o, name + " is of another type", true
}
