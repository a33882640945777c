package engine_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
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

func build(t testing.TB, yaml string, scans ...api.Scan) *bundle.Bundle {
	t.Helper()
	set, err := policies.Load(fstest.MapFS{"p.yaml": {Data: []byte(yaml)}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := bundles.Build(bundles.Content{Policies: set, Scans: scans})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Whatever a writer does, a decision is that of one state: its result goes with the
// revisions that it names. Each state has two documents that must be seen together.
func TestDecisionsDuringUpdates(t *testing.T) {
	ctx := context.Background()
	s := shop(time.Hour)
	first, second := build(t, rejectFailed, s), build(t, strings.Replace(rejectFailed, "Reject", "Allow", 1), s)
	e := engine.New(engine.Config{})
	if err := e.Load(ctx, first); err != nil {
		t.Fatal(err)
	}
	policyOf := map[string]string{} // revision of the policies → action
	for b, action := range map[*bundle.Bundle]string{first: api.Reject, second: api.Allow} {
		policyOf[b.Data["assay"].(map[string]any)["revisions"].(map[string]any)[bundles.PartPolicies].(string)] = action
	}

	stop := make(chan struct{})
	var readers, writer sync.WaitGroup
	decided := make([]int, runtime.GOMAXPROCS(0)+1)
	for n := range decided {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				d, err := e.Admit(ctx, deployment("prod", s.Image), now)
				if err != nil {
					t.Error(err)
					return
				}
				want := policyOf[d.Revisions[bundles.PartPolicies]]
				// The exception and the score that it hides come and go together.
				if covered := d.Revisions[bundles.PartExceptions] == "excepted"; covered != (d.Images[0].Result == api.Pass) {
					t.Errorf("with exceptions %q the result is %s", d.Revisions[bundles.PartExceptions], d.Images[0].Result)
					return
				} else if covered {
					want = api.Allow
				}
				if d.Images[0].Action != want || d.Allowed != (want == api.Allow) {
					t.Errorf("with policies %s: %s", d.Revisions[bundles.PartPolicies], d.Images[0].Action)
					return
				}
				decided[n]++
			}
		})
	}
	writer.Go(func() {
		everything := map[string]any{}
		for _, v := range s.Vulnerabilities {
			everything[v.ID] = documents.Never
		}
		for k := range 100 {
			var err error
			switch k % 4 {
			case 0:
				err = e.Update(ctx, engine.Change{Path: []string{"exceptions", "ends", "*"}, Value: everything}, engine.Change{Path: []string{"revisions", "exceptions"}, Value: "excepted"})
			case 1:
				err = e.Update(ctx, engine.Change{Path: []string{"exceptions", "ends", "*"}}, engine.Change{Path: []string{"revisions", "exceptions"}, Value: "none"})
			case 2:
				err = e.Load(ctx, second)
			case 3:
				err = e.Load(ctx, first)
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	writer.Wait()
	close(stop)
	readers.Wait()
	for n, count := range decided {
		if count == 0 {
			t.Errorf("reader %d decided nothing", n)
		}
	}
}

// Bundles with roots of their own are replaced one by one.
func TestReplace(t *testing.T) {
	ctx := context.Background()
	s := shop(time.Hour)
	set, err := policies.Load(fstest.MapFS{"p.yaml": {Data: []byte(rejectFailed)}})
	if err != nil {
		t.Fatal(err)
	}
	whole := build(t, rejectFailed, s).Data["assay"].(map[string]any)
	part := func(name string, documents map[string]any) *bundle.Bundle {
		b, err := bundles.Data(name, documents)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	rules, err := bundles.Policies(set)
	if err != nil {
		t.Fatal(err)
	}
	images := part("images-aa", map[string]any{"images/aa": whole["images"].(map[string]any)["aa"], "names": whole["names"]})
	e := engine.New(engine.Config{})
	if err := e.Load(ctx, images); err == nil {
		t.Error("images without policies are all that is loaded")
	}
	for _, b := range []*bundle.Bundle{images, part("exceptions", map[string]any{"exceptions": whole["exceptions"]}), rules} {
		if d, err := e.Admit(ctx, deployment("prod", s.Image), now); !errors.Is(err, engine.ErrNotLoaded) || d.Allowed || e.Settings() != nil {
			t.Fatalf("without policies: %v %v", d, err)
		}
		if err := e.Replace(ctx, b); err != nil {
			t.Fatal(err)
		}
	}
	if e.Settings().DefaultAction != api.Allow {
		t.Errorf("settings: %+v", e.Settings())
	}
	result := func() api.Result {
		d, err := e.Admit(ctx, deployment("prod", s.Image), now)
		if err != nil {
			t.Fatal(err)
		}
		return d.Images[0].Result
	}
	if r := result(); r != api.Fail {
		t.Fatal(r)
	}
	before := e.Revisions()
	if len(before) != 3 || before["images-aa"] != images.Manifest.Revision {
		t.Fatal(before)
	}
	if err := e.Replace(ctx, part("images-aa", map[string]any{"images/aa": map[string]any{}, "names": whole["names"]})); err != nil {
		t.Fatal(err)
	}
	if r := result(); r != api.Unknown {
		t.Fatal(r)
	}
	if after := e.Revisions(); after["images-aa"] == before["images-aa"] || after["policies"] != before["policies"] {
		t.Error(after)
	}
	if err := e.Replace(ctx, images); err != nil || result() != api.Fail {
		t.Fatal(result(), err)
	}
}

// A user's Rego that is too slow, takes too much memory, or fails is an error, and
// the decision refuses.
func TestLimits(t *testing.T) {
	for name, c := range map[string]struct{ rego, want string }{
		"slow":   {"reject contains \"x\" if {\n\tsome i in numbers.range(1, 100000)\n\tsome j in numbers.range(1, 100000)\n\ti * j < 0\n}", "within 300ms"},
		"memory": {"reject contains \"x\" if {\n\tlists := [l | some i in numbers.range(1, 10000); l := numbers.range(i, i + 10000)]\n\tcount(lists) < 0\n}", "more than 64 MiB of memory"},
	} {
		set, err := policies.Load(fstest.MapFS{"x.rego": {Data: []byte("package assay.custom.x\n\n" + c.rego + "\n")}})
		if err != nil {
			t.Fatal(err)
		}
		b, err := bundles.Build(bundles.Content{Policies: set})
		if err != nil {
			t.Fatal(err)
		}
		limits := engine.Config{Deadline: 300 * time.Millisecond}
		if name == "memory" {
			limits = engine.Config{Deadline: time.Minute, Memory: 64 << 20}
		}
		e := engine.New(limits)
		if err := e.Load(context.Background(), b); err != nil {
			t.Fatal(err)
		}
		d, err := e.Admit(context.Background(), deployment("prod", "nginx:1"), now)
		if !errors.Is(err, engine.ErrEvaluation) || !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if d.Allowed || !strings.Contains(d.Message, "refused: ") {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

func TestLoadRefusesTooManyRules(t *testing.T) {
	b := build(t, "")
	module := ast.MustParseModule("package assay.custom.x\n\nx := 1")
	for len(module.Rules) <= 100_000 {
		module.Rules = append(module.Rules, module.Rules...)
	}
	b.Modules = append(b.Modules, bundle.ModuleFile{Path: "/x.rego", Parsed: module})
	if err := engine.New(engine.Config{}).Load(context.Background(), b); err == nil || !strings.Contains(err.Error(), "at most 100000 are compiled") {
		t.Error(err)
	}
}
