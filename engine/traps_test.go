package engine

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/policies"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// These tests hold the measured traps of docs/design/002-evaluator.md: what made
// an evaluator slow or wrong once must not come back.

var trapNow = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func trapEngine(t *testing.T, yaml string, images int) (*Engine, []api.Scan) {
	t.Helper()
	set, err := policies.Load(fstest.MapFS{"p.yaml": {Data: []byte(yaml)}})
	if err != nil {
		t.Fatal(err)
	}
	var scans []api.Scan
	for i := range images {
		score := 9.8
		scans = append(scans, api.Scan{
			Image: fmt.Sprintf("registry.example.com/team/app-%d:1", i), Digest: fmt.Sprintf("sha256:%064x", i+1), ScannedAt: trapNow.Add(-time.Hour),
			Vulnerabilities: []api.Vulnerability{{ID: "CVE-2026-1", CVSS: &score}},
		})
	}
	return engineOf(t, bundles.Content{Policies: set, Scans: scans}), scans
}

func engineOf(t *testing.T, c bundles.Content) *Engine {
	t.Helper()
	b, err := bundles.Build(c)
	if err != nil {
		t.Fatal(err)
	}
	e := New(Config{})
	if err := e.Load(context.Background(), b); err != nil {
		t.Fatal(err)
	}
	return e
}

func trapReview(images ...string) api.Review {
	r := api.Review{Operation: "CREATE", Group: "apps", Kind: "Deployment", Namespace: "prod", Name: "web", NamespaceLabels: map[string]string{}, Labels: map[string]string{"team": "7"}}
	for _, image := range images {
		r.Containers = append(r.Containers, api.NewContainer("c", image))
	}
	return r
}

// steps counts what OPA evaluates: unlike time, the same on every machine.
type steps struct{ n int }

func (s *steps) Enabled() bool               { return true }
func (s *steps) Config() topdown.TraceConfig { return topdown.TraceConfig{} }
func (s *steps) TraceEvent(e topdown.Event) {
	if e.Op == topdown.EvalOp {
		s.n++
	}
}

func stepsOf(t *testing.T, e *Engine, query string, input ast.Value) int {
	t.Helper()
	var s steps
	if _, err := e.within(context.Background(), e.current.Load(), query, input, &s); err != nil {
		t.Fatal(err)
	}
	return s.n
}

// rulebook makes policies of ten rules; the pattern gets the numbers of both.
func rulebook(n int, pattern, extra string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "---\napiVersion: containersecurity.tigera.io/v1beta1\nkind: ContainerAdmissionPolicy\nmetadata: {name: p%d}\nspec:\n  order: %d\n%s  rules:\n", i, i, extra)
		for j := range 10 {
			fmt.Fprintf(&b, "  - action: Reject\n    imagePath: {operator: IsOneOf, values: ['"+pattern+"']}\n", i, j)
		}
	}
	return b.String()
}

// Policies that do not apply cost nothing, however many there are: by a literal at
// the start of their patterns, by one behind an unescaped dot, by a label.
func TestPoliciesThatDoNotApplyCostNothing(t *testing.T) {
	for name, c := range map[string]struct{ pattern, extra string }{
		"escaped dot":   {`^registry\.example\.com/squad-%d-%d/`, ""},
		"unescaped dot": {`^registry.example.com/squad-%d-%d/`, ""},
		"label":         {`squad-%d-%d/`, "  selector: team == '8'\n"},
	} {
		var counts []int
		for _, n := range []int{1, 50, 200} {
			e, scans := trapEngine(t, rulebook(n, c.pattern, c.extra), 3)
			counts = append(counts, stepsOf(t, e, queryDecision, reviewInput(trapReview(scans[0].Image, scans[1].Image, scans[2].Image), trapNow)))
		}
		if counts[0] != counts[1] || counts[1] != counts[2] {
			t.Errorf("%s: 1, 50 and 200 policies take %v steps", name, counts)
		}
	}
}

// A decision and a classification take few steps; each is about a microsecond. The
// bounds are a little over what there is, so that growth is a decision.
func TestStepsOfADecision(t *testing.T) {
	e, scans := trapEngine(t, "", 3)
	if n := stepsOf(t, e, queryClassify, classifyInput(scans[0].Image, "", trapNow)); n > 68 {
		t.Errorf("a classification takes %d steps", n)
	}
	one := stepsOf(t, e, queryDecision, reviewInput(trapReview(scans[0].Image), trapNow))
	three := stepsOf(t, e, queryDecision, reviewInput(trapReview(scans[0].Image, scans[1].Image, scans[2].Image), trapNow))
	if one > 179 || (three-one)/2 > 85 {
		t.Errorf("a decision takes %d steps for one container and %d for three", one, three)
	}
	for i := range scans {
		scans[i].Scope = api.Scope{Cluster: "prod"}
	}
	e = engineOf(t, bundles.Content{Policies: &policies.Set{}, Scans: scans, Cluster: "prod"})
	one = stepsOf(t, e, queryDecision, reviewInput(trapReview(scans[0].Image), trapNow))
	three = stepsOf(t, e, queryDecision, reviewInput(trapReview(scans[0].Image, scans[1].Image, scans[2].Image), trapNow))
	if one > 210 || (three-one)/2 > 98 {
		t.Errorf("where all is of a cluster's scope a decision takes %d steps for one container and %d for three", one, three)
	}
}

// A writer in the middle of its work makes no reader wait, as a waiting commit of
// OPA's own store would.
func TestReadersNeverWaitForAWriter(t *testing.T) {
	e, scans := trapEngine(t, "", 1)
	e.write.Lock()
	defer e.write.Unlock()
	done := make(chan error, 1)
	go func() {
		_, err := e.Admit(context.Background(), trapReview(scans[0].Image), trapNow)
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("a reader waits for the writer")
	}
}

// What a caller does to a value after Update changes nothing.
func TestValuesAreTaken(t *testing.T) {
	ctx := context.Background()
	e, scans := trapEngine(t, "", 1)
	document := map[string]any{"CVE-2026-1": documents.Never}
	if err := e.Update(ctx, Change{Path: []string{"exceptions", "ends", "*"}, Value: document}); err != nil {
		t.Fatal(err)
	}
	document["CVE-2026-1"] = ""
	if c, err := e.Classify(ctx, scans[0].Image, "", trapNow); err != nil || c.Result != api.Pass {
		t.Errorf("%+v %v", c, err)
	}
}

// An update copies the objects on its way and shares the rest; images are in
// shards, so that one has few siblings.
func TestUpdateSharesWhatDoesNotChange(t *testing.T) {
	e, _ := trapEngine(t, "", 600)
	before := e.current.Load()
	if err := e.Update(context.Background(), Change{Path: []string{"images", "00", "sha256:" + strings.Repeat("0", 64)}, Value: map[string]any{}}); err != nil {
		t.Fatal(err)
	}
	for _, path := range [][]string{{"assay", "names"}, {"assay", "exceptions"}} {
		was, _ := before.data.Read(context.Background(), reading{}, path)
		is, err := e.current.Load().data.Read(context.Background(), reading{}, path)
		if err != nil || was != is {
			t.Errorf("%v was copied (%v)", path, err)
		}
	}
}

// Every pattern stays compiled from one evaluation to the next: OPA's own cache
// holds 100, and evicts at random.
func TestPatternsStayCompiled(t *testing.T) {
	e, scans := trapEngine(t, rulebook(40, `(squad|team)-%d-%d/.*x`, ""), 1)
	for range 2 {
		if _, err := e.Admit(context.Background(), trapReview(scans[0].Image), trapNow); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 40 {
		for j := range 10 {
			if _, ok := e.current.Load().program.patterns.Get(ast.String(fmt.Sprintf(`(squad|team)-%d-%d/.*x`, i, j))); !ok {
				t.Fatalf("pattern %d of policy %d is not kept", j, i)
			}
		}
	}
}

// A function whose first argument is a literal makes the rule index quadratic.
func TestNoFunctionWithLiteralArguments(t *testing.T) {
	e, _ := trapEngine(t, rulebook(2, `a|squad-%d-%d`, "  selector: '!(has(a) || b in {\"c\", \"d\"})'\n"), 1)
	helpers := 0
	for _, m := range e.current.Load().program.compiler.Modules {
		if !strings.HasPrefix(m.Package.Path.String(), "data.assay.generated.") {
			continue
		}
		for _, r := range m.Rules {
			helpers++
			for _, arg := range r.Head.Args {
				if _, ok := arg.Value.(ast.Var); !ok {
					t.Errorf("%s: %s has the literal argument %s", r.Location, r.Head.Name, arg)
				}
			}
		}
	}
	if helpers == 0 {
		t.Error("no generated rule was looked at")
	}
}
