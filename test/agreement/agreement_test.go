// Package agreement_test holds that every way to a verdict gives the same one,
// over a generated corpus: the plain reference, the embedded engine on reviews
// flattened in Go, and stock OPA on the bundle and the AdmissionReview.
package agreement_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/review"
	"github.com/assay-dev/assay/test/corpus"
	"github.com/assay-dev/assay/test/reference"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/rego"
)

// cases is how many worlds are generated; each has several reviews.
func cases(t testing.TB) uint64 {
	n, err := strconv.ParseUint(os.Getenv("ASSAY_CASES"), 10, 64)
	if err != nil {
		n = 400
	}
	return n
}

// world is a case, loaded as a user would load it.
type world struct {
	corpus.Case
	set    *policies.Set
	bundle *bundle.Bundle
	engine *engine.Engine
}

func load(t *testing.T, seed uint64) world {
	t.Helper()
	return loadCase(t, seed, corpus.Generate(seed))
}

func loadCase(t *testing.T, seed uint64, c corpus.Case) world {
	t.Helper()
	w := world{Case: c}
	dir := t.TempDir()
	if err := corpus.WriteFolder(dir, w.Case); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.set, err = policies.LoadDir(filepath.Join(dir, "policies")); err != nil {
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
	if w.bundle, err = bundles.Build(bundles.Content{Policies: w.set, Scans: report.Images}); err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	w.engine = engine.New(engine.Config{})
	if err := w.engine.Load(context.Background(), w.bundle); err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	return w
}

// verdict is what must agree: everything but texts.
func verdict(d api.Decision) api.Decision {
	v := api.Decision{Allowed: d.Allowed, Judged: d.Judged, Images: []api.ImageDecision{}, Warnings: make([]string, len(d.Warnings)), Audit: make([]string, len(d.Audit))}
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

func show(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func TestEngineAgreesWithReference(t *testing.T) {
	ctx := context.Background()
	decided, rejected, fired := 0, 0, 0
	for seed := range cases(t) {
		w := load(t, seed)
		for i, r := range w.Reviews {
			want := verdict(reference.Admit(w.World, r, w.Now))
			in, err := review.FromAdmissionReview(r, review.KindsOf(w.set.Settings))
			if err != nil {
				t.Fatalf("seed %d review %d: %v", seed, i, err)
			}
			d, err := w.engine.Admit(ctx, in.Review, w.Now)
			if err != nil {
				t.Fatalf("seed %d review %d: %v", seed, i, err)
			}
			if got := verdict(d); show(got) != show(want) {
				t.Errorf("seed %d review %d:\n   engine %s\nreference %s", seed, i, show(got), show(want))
			}
			if !d.Allowed && d.Message == "" {
				t.Errorf("seed %d review %d is rejected without a message", seed, i)
			}
			decided++
			if !d.Allowed {
				rejected++
			}
		}
		for _, s := range w.World.Scans {
			if _, err := api.ParseReference(s.Image); err != nil || s.Digest == "" {
				continue
			}
			want, max := reference.Classify(w.World, s.Image, s.Digest, w.Now)
			got, err := w.engine.Classify(ctx, s.Image, s.Digest, w.Now)
			if err != nil || got.Result != want || !reflect.DeepEqual(got.MaxCVSS, max) {
				t.Errorf("seed %d: %s at %s is %s %v, the reference says %s %v (%v)", seed, s.Image, s.Digest, got.Result, show(got.MaxCVSS), want, show(max), err)
			}
		}
		fired += alerts(t, seed, w)
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d decisions agree, %d of them rejections, and %d alerts", decided, rejected, fired)
	if decided < 2000 && cases(t) >= 400 || rejected*10 < decided || fired < 10 {
		t.Errorf("the corpus is too thin: %d decisions, %d rejections, %d alerts", decided, rejected, fired)
	}
}

// alerts holds the alerts of a world against the reference; it returns how many fire.
func alerts(t *testing.T, seed uint64, w world) int {
	t.Helper()
	want := reference.Alerts(w.World, w.Events, w.Now)
	got, err := w.engine.Alerts(context.Background(), w.Events, w.Now)
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	if want == nil {
		want = []api.Alert{}
	}
	if show(got) != show(want) {
		t.Errorf("seed %d:\n   engine %s\nreference %s", seed, show(got), show(want))
	}
	return len(got)
}

// The review flattened in Go is the review flattened in Rego.
func TestReviewTwins(t *testing.T) {
	for seed := range min(cases(t), 60) {
		w := load(t, seed)
		w.twins(t, seed)
	}
}

// So are those of the kinds of other projects.
func TestReviewTwinsOfKinds(t *testing.T) {
	for seed := range min(cases(t), 3) {
		c := corpus.Generate(seed)
		c.World.Settings = &api.AdmissionSettings{TypeMeta: api.TypeMeta{APIVersion: api.GroupAssay, Kind: api.KindAdmissionSettings}}
		c.World.Settings.Metadata.Name = "default"
		c.World.Settings.Spec.CustomKinds = corpus.KnownKinds()
		c.Reviews = nil
		for _, m := range corpus.Manifests(seed, 150) {
			c.Reviews = append(c.Reviews, json.RawMessage(show(creationOf(m.Object, c.Now))))
		}
		w := loadCase(t, seed, c)
		w.twins(t, seed)
	}
}

// twins compares both of each review, and of versions of it with values of other types.
func (w world) twins(t *testing.T, seed uint64) {
	t.Helper()
	ctx := t.Context()
	compiler := ast.NewCompiler()
	modules := map[string]*ast.Module{}
	for _, m := range w.bundle.Modules {
		modules[m.Path] = m.Parsed
	}
	if compiler.Compile(modules); compiler.Failed() {
		t.Fatal(compiler.Errors)
	}
	q, err := rego.New(rego.Query("data.assay.review.flat"), rego.Compiler(compiler)).PrepareForEval(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range w.Reviews {
		for n, mutant := range mutants(r, seed) {
			in, err := review.FromAdmissionReview(mutant, review.KindsOf(w.set.Settings))
			var input any
			if err := json.Unmarshal(mutant, &input); err != nil {
				t.Fatal(err)
			}
			input.(map[string]any)["now"] = w.Now.Format(time.RFC3339Nano)
			rs, evalErr := q.Eval(ctx, rego.EvalInput(input))
			if evalErr != nil {
				t.Fatal(evalErr)
			}
			if err != nil {
				// What Go refuses must give no decision in Rego, or a refusal.
				if len(rs) > 0 && !hasMalformed(rs[0].Expressions[0].Value) {
					t.Errorf("seed %d review %d mutant %d: Go says %v, Rego accepts it", seed, i, n, err)
				}
				continue
			}
			if len(rs) == 0 {
				t.Fatalf("seed %d review %d mutant %d: Rego flattens nothing of %s", seed, i, n, mutant)
			}
			want := normal(t, api.FlatReview{Schema: api.SchemaReview, Now: documents.Time(w.Now), Review: in.Review})
			if got := normal(t, rs[0].Expressions[0].Value); got != want {
				t.Fatalf("seed %d review %d mutant %d\n  Go %s\nRego %s\n%s", seed, i, n, want, got, mutant)
			}
		}
	}
}

func hasMalformed(v any) bool {
	list, _ := v.(map[string]any)["malformed"].([]any)
	return len(list) > 0
}

// normal is a JSON text with sorted members.
func normal(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var any any
	if err := json.Unmarshal(text, &any); err != nil {
		t.Fatal(err)
	}
	text, err = json.Marshal(any)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// mutants are a review and versions of it with one value replaced by another type.
func mutants(r json.RawMessage, seed uint64) []json.RawMessage {
	out := []json.RawMessage{r}
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

// opa builds the stock opa command of the module's version.
func opa(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "opa")
	if out, err := exec.Command("go", "build", "-o", bin, "github.com/open-policy-agent/opa").CombinedOutput(); err != nil {
		t.Fatalf("building opa: %v\n%s", err, out)
	}
	return bin
}

// Stock `opa eval` on the bundle gives the engine's verdicts, and stock `opa check
// --strict` and `opa fmt` find nothing in what is generated.
func TestStockOPAAgrees(t *testing.T) {
	bin := opa(t)
	dir := t.TempDir()
	decided, pairs := 0, 0
	for seed := range min(cases(t), 100) {
		w := load(t, seed)
		text, err := bundles.Bytes(w.bundle)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "bundle.tar.gz")
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
		if seed < 20 {
			checkWithOPA(t, bin, w.bundle)
		}
		// One process judges all reviews of the case: each is an input of its own.
		var inputs []map[string]any
		for _, r := range w.Reviews {
			var input map[string]any
			if err := json.Unmarshal(r, &input); err != nil {
				t.Fatal(err)
			}
			input["now"] = w.Now.Format(time.RFC3339Nano)
			inputs = append(inputs, input)
		}
		inputFile := filepath.Join(dir, "input.json")
		writeJSON(t, inputFile, inputs)
		out, err := exec.Command(bin, "eval", "-b", file, "-i", inputFile, "--format", "json",
			"[d | some i; r := input[i]; d := data.assay.admission.decision with input as r]").CombinedOutput()
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, out)
		}
		var result struct {
			Result []struct {
				Expressions []struct{ Value []api.Decision }
			}
		}
		if err := json.Unmarshal(out, &result); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		decisions := result.Result[0].Expressions[0].Value
		if len(decisions) != len(w.Reviews) {
			t.Fatalf("seed %d: %d decisions for %d reviews", seed, len(decisions), len(w.Reviews))
		}
		for i, r := range w.Reviews {
			in, err := review.FromAdmissionReview(r, review.KindsOf(w.set.Settings))
			if err != nil {
				t.Fatal(err)
			}
			d, err := w.engine.Admit(context.Background(), in.Review, w.Now)
			if err != nil {
				t.Fatal(err)
			}
			if show(decisions[i]) != show(d) {
				t.Errorf("seed %d review %d:\n   opa %s\nengine %s", seed, i, show(decisions[i]), show(d))
			}
			decided++
			pairs += len(w.World.Policies)
		}
	}
	t.Logf("%d decisions, over %d pairs of policy and review, agree with opa eval, texts included", decided, pairs)
	if pairs < 2000 && cases(t) >= 100 {
		t.Errorf("the corpus is too thin: %d pairs of policy and review", pairs)
	}
}

func writeJSON(t *testing.T, name string, v any) {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, text, 0o644); err != nil {
		t.Fatal(err)
	}
}

func checkWithOPA(t *testing.T, bin string, b *bundle.Bundle) {
	t.Helper()
	dir := t.TempDir()
	for _, m := range b.Modules {
		path := filepath.Join(dir, filepath.FromSlash(m.Path))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, m.Raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"check", "--strict", dir}, {"fmt", "--fail", "--diff", dir}} {
		if out, err := exec.Command(bin, args...).CombinedOutput(); err != nil {
			t.Errorf("opa %s: %v\n%s", args[0], err, out)
		}
	}
}
