package engine_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/policies"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
)

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func load(t testing.TB, yaml string, scans ...api.Scan) *engine.Engine {
	t.Helper()
	return loadFor(t, "", yaml, scans...)
}

// loadFor has the data of one cluster.
func loadFor(t testing.TB, cluster, yaml string, scans ...api.Scan) *engine.Engine {
	t.Helper()
	set, err := policies.Load(fstest.MapFS{"p.yaml": {Data: []byte(yaml)}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := bundles.Build(bundles.Content{Policies: set, Scans: scans, Cluster: cluster})
	if err != nil {
		t.Fatal(err)
	}
	e := engine.New(engine.Config{})
	if err := e.Load(context.Background(), b); err != nil {
		t.Fatal(err)
	}
	return e
}

func score(f float64) *float64 { return &f }

func scan(image string, digit string, age time.Duration, scores ...float64) api.Scan {
	s := api.Scan{Image: image, Digest: "sha256:" + strings.Repeat(digit, 64), ScannedAt: now.Add(-age)}
	for i, f := range scores {
		s.Vulnerabilities = append(s.Vulnerabilities, api.Vulnerability{ID: "CVE-2026-" + string(rune('1'+i)), Package: "p", CVSS: score(f)})
	}
	return s
}

func deployment(namespace string, images ...string) api.Review {
	r := api.Review{
		Operation: "CREATE", Group: "apps", Kind: "Deployment", Namespace: namespace, Name: "web",
		NamespaceLabels: map[string]string{"kubernetes.io/metadata.name": namespace}, Labels: map[string]string{"app": "web"},
	}
	for i, image := range images {
		r.Containers = append(r.Containers, api.NewContainer("c"+string(rune('0'+i)), image))
	}
	return r
}

const policy = `
apiVersion: containersecurity.tigera.io/v1beta1
kind: ContainerAdmissionPolicy
metadata:
  name: reject-failed
spec:
  selector: app == 'web' && !(has(skip) || tier in {'x'})
  namespaceSelector: kubernetes.io/metadata.name == 'prod'
  order: 10
  rules:
  - action: Allow
    imagePath: {operator: IsOneOf, values: ["^registry.example.com/"]}
    imageScanStatus: {operator: IsOneOf, values: [Pass, Warn]}
    imageLastScan: {operator: gt, duration: {days: 3}}
  - action: Reject
    imageScanStatus: {operator: IsNoneOf, values: [Pass]}
`

func TestAdmit(t *testing.T) {
	e := load(t, policy, scan("registry.example.com/a:1", "a", time.Hour, 9.8, 7.1), scan("registry.example.com/b:1", "b", time.Hour, 7.1),
		scan("nginx:1", "c", time.Hour, 1.0))
	for _, c := range []struct {
		image, namespace, action string
		rule                     int
	}{
		{"registry.example.com/a:1", "prod", api.Reject, 2},
		{"registry.example.com/b:1", "prod", api.Allow, 1},
		{"nginx:1", "prod", api.Allow, 0},
		{"nginx:2", "prod", api.Reject, 2},
		{"registry.example.com/a:1", "dev", api.Allow, 0},
	} {
		d, err := e.Admit(context.Background(), deployment(c.namespace, c.image), now)
		if err != nil {
			t.Fatal(err)
		}
		i := d.Images[0]
		if i.Action != c.action || i.Rule != c.rule || d.Allowed != (c.action == api.Allow) {
			t.Errorf("%s in %s: %+v", c.image, c.namespace, d)
		}
		t.Log(d.Message)
	}
}

// Without policies everything is allowed, unless the settings say otherwise.
func TestAdmitWithoutPolicies(t *testing.T) {
	for yaml, allowed := range map[string]bool{
		"": true,
		"apiVersion: assay.dev/v1alpha1\nkind: AdmissionSettings\nmetadata: {name: default}\nspec: {defaultAction: Reject}\n": false,
	} {
		d, err := load(t, yaml).Admit(context.Background(), deployment("prod", "nginx"), now)
		if err != nil || d.Allowed != allowed || d.Images[0].Policy != "" {
			t.Errorf("%q: %+v %v", yaml, d, err)
		}
	}
}

// Before the first bundle, and after a failure, nothing is allowed.
func TestAdmitFailsClosed(t *testing.T) {
	d, err := engine.New(engine.Config{}).Admit(context.Background(), deployment("prod", "nginx"), now)
	if err == nil || d.Allowed || d.Message == "" {
		t.Errorf("%+v %v", d, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if d, err := load(t, "").Admit(ctx, deployment("prod", "nginx"), now); err == nil || d.Allowed {
		t.Errorf("a cancelled evaluation gives %+v %v", d, err)
	}
}

// What comes after the deadline does not count, be it ready by then or not.
func TestAdmitDeadline(t *testing.T) {
	set, err := policies.Load(fstest.MapFS{"slow.rego": {Data: []byte(`package assay.custom.slow

reject contains "never" if {
	some x in numbers.range(1, 3000)
	some y in numbers.range(1, 3000)
	x * y == 0
}
`)}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := bundles.Build(bundles.Content{Policies: set})
	if err != nil {
		t.Fatal(err)
	}
	for _, deadline := range []time.Duration{1, 50 * time.Millisecond} {
		e := engine.New(engine.Config{Deadline: deadline})
		if err := e.Load(context.Background(), b); err != nil {
			t.Fatal(err)
		}
		d, err := e.Admit(context.Background(), deployment("prod", "nginx"), now)
		if !errors.Is(err, engine.ErrEvaluation) || d.Allowed || d.Message == "" {
			t.Errorf("deadline %v: %+v %v", deadline, d, err)
		}
	}
	// An excluded namespace evaluates nothing slow, yet a nanosecond is too late.
	e := engine.New(engine.Config{Deadline: 1})
	if err := e.Load(context.Background(), b); err != nil {
		t.Fatal(err)
	}
	if d, err := e.Admit(context.Background(), deployment("kube-system"), now); err == nil || d.Allowed {
		t.Errorf("%+v %v", d, err)
	}
}

// A bundle that did not come from our compiler still gets no network; the one
// before it stays in force.
func TestLoadRefusesNetwork(t *testing.T) {
	e := load(t, "")
	before := e.Revisions()
	b, err := bundles.Build(bundles.Content{Policies: &policies.Set{}})
	if err != nil {
		t.Fatal(err)
	}
	for _, call := range []string{`http.send({"method": "GET", "url": "http://localhost"})`, "opa.runtime()", `net.lookup_ip_addr("localhost")`} {
		hostile := *b
		module := ast.MustParseModule("package assay.custom.x\n\nx := " + call)
		hostile.Modules = append(slices.Clone(b.Modules), bundle.ModuleFile{Path: "/x.rego", Parsed: module})
		if err := e.Load(context.Background(), &hostile); err == nil {
			t.Errorf("%s is loaded", call)
		}
	}
	if !maps.Equal(e.Revisions(), before) {
		t.Error("a refused bundle took the place of the one before")
	}
}

func TestUpdate(t *testing.T) {
	e := load(t, policy, scan("registry.example.com/a:1", "a", time.Hour, 9.8))
	ctx := context.Background()
	classify := func() api.Result {
		c, err := e.Classify(ctx, "registry.example.com/a:1", "", now)
		if err != nil {
			t.Fatal(err)
		}
		return c.Result
	}
	if r := classify(); r != api.Fail {
		t.Fatal(r)
	}
	path := []string{"exceptions", "ends", "*", "CVE-2026-1"}
	if err := e.Update(ctx, engine.Change{Path: path, Value: documents.Never}); err != nil {
		t.Fatal(err)
	}
	if r := classify(); r != api.Pass {
		t.Fatal(r)
	}
	if err := e.Update(ctx, engine.Change{Path: path}); err != nil {
		t.Fatal(err)
	}
	if r := classify(); r != api.Fail {
		t.Fatal(r)
	}
}
