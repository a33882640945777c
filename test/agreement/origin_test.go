package agreement_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/review"
	"github.com/assay-dev/assay/test/corpus"
	"github.com/assay-dev/assay/test/reference"
)

// forCluster is the content of a world for its cluster alone.
func forCluster(w world) bundles.Content {
	return bundles.Content{Policies: w.set, Scans: w.World.Scans, Cluster: w.World.Cluster, Groups: w.World.Groups}
}

// With scopes, the reference agrees with an engine that decides for several clusters, and with one
// whose data is of one alone.
func TestScopedEngineAgreesWithReference(t *testing.T) {
	ctx := context.Background()
	decided, differ := 0, 0
	for seed := range (cases(t) + 2) / 3 { // each is decided by three engines
		w := loadCase(t, seed, corpus.GenerateScoped(seed))
		b, err := bundles.Build(forCluster(w))
		if err != nil {
			t.Fatal(err)
		}
		alone := engine.New(engine.Config{})
		if err := alone.Load(ctx, b); err != nil {
			t.Fatal(err)
		}
		engines := map[string]*engine.Engine{"alone": alone, "alone, asked for another": alone.In("dev")}
		if len(w.World.Groups) == 0 {
			engines["of several"] = w.engine.In(w.World.Cluster)
		}
		if w.World.Cluster == "" {
			delete(engines, "alone, asked for another")
		}
		for name, e := range engines {
			for i, r := range w.Reviews {
				want := verdict(reference.Admit(w.World, r, w.Now))
				in, err := review.FromAdmissionReview(r, review.KindsOf(w.set.Settings))
				if err != nil {
					t.Fatal(err)
				}
				d, err := e.Admit(ctx, in.Review, w.Now)
				if err != nil {
					t.Fatalf("seed %d review %d: %v", seed, i, err)
				}
				if got := verdict(d); show(got) != show(want) {
					t.Errorf("seed %d review %d, cluster %q, %s:\n   engine %s\nreference %s", seed, i, w.World.Cluster, name, show(got), show(want))
				}
				decided++
			}
			for _, s := range w.World.Scans {
				if _, err := api.ParseReference(s.Image); err != nil || s.Digest == "" {
					continue
				}
				for _, digest := range []string{s.Digest, ""} {
					want, max := reference.Classify(w.World, s.Image, digest, w.Now)
					got, err := e.Classify(ctx, s.Image, digest, w.Now)
					if err != nil || got.Result != want || !reflect.DeepEqual(got.MaxCVSS, max) {
						t.Errorf("seed %d: %s at %q in %q, %s, is %s %v, the reference says %s %v (%v)", seed, s.Image, digest, w.World.Cluster, name, got.Result, show(got.MaxCVSS), want, show(max), err)
					}
					other := w.World
					other.Cluster = "elsewhere"
					if result, _ := reference.Classify(other, s.Image, digest, w.Now); result != want {
						differ++
					}
				}
			}
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d decisions agree; %d classifications are of this cluster alone", decided, differ)
	if differ == 0 {
		t.Error("the corpus is too thin: no cluster differs from another")
	}
}

// judges are engines with policies alone, and what the reference has of these.
func judges(t *testing.T) (engines []*engine.Engine, worlds []reference.World) {
	t.Helper()
	for _, yaml := range []string{
		"",
		"apiVersion: assay.dev/v1alpha1\nkind: AdmissionSettings\nmetadata: {name: default}\nspec: {platforms: [linux/amd64, linux/arm64]}\n",
		"apiVersion: assay.dev/v1alpha1\nkind: AdmissionSettings\nmetadata: {name: default}\nspec: {evidence: [node, attested, server]}\n",
		"apiVersion: assay.dev/v1alpha1\nkind: Thresholds\nmetadata: {name: default}\nspec: {failOnKEV: true}\n",
	} {
		set, err := policies.Parse("p.yaml", []byte(yaml))
		if err != nil {
			t.Fatal(err)
		}
		b, err := bundles.Policies(set)
		if err != nil {
			t.Fatal(err)
		}
		e := engine.New(engine.Config{})
		if err := e.Load(context.Background(), b); err != nil {
			t.Fatal(err)
		}
		engines = append(engines, e)
		worlds = append(worlds, reference.World{Settings: &api.AdmissionSettings{Spec: set.Settings}, Thresholds: &api.Thresholds{Spec: set.Thresholds}})
	}
	return engines, worlds
}

// give puts scans and exceptions in the place of an engine's data.
func give(t *testing.T, e *engine.Engine, w reference.World) {
	t.Helper()
	data := documents.Data(w.Scans, w.Exceptions, documents.Needs{All: true})
	clusters := map[string]any{}
	for cluster, group := range corpus.GroupOf {
		clusters[cluster] = documents.SpacesDocument(cluster, []string{group})
	}
	data["clusters"] = clusters
	paths := map[string]any{}
	for _, root := range []string{"images", "details", "names", "indexes", "exceptions", "spaces", "clusters"} {
		paths[root] = data[root]
	}
	b, err := bundles.Documents("data", "r", paths)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Replace(context.Background(), b); err != nil {
		t.Fatal(err)
	}
}

// subject is what a verdict is of.
type subject struct{ cluster, image, digest string }

// subjects are some of a world: by tag, by digest and by index.
func subjects(c corpus.Case, r *rand.Rand) (list []subject) {
	for range 12 {
		s := c.World.Scans[r.IntN(len(c.World.Scans))]
		at := subject{cluster: corpus.Clusters[r.IntN(len(corpus.Clusters))], image: s.Image}
		switch r.IntN(3) {
		case 0:
			at.digest = s.Digest
		case 1:
			if s.Index != nil {
				at.digest = s.Index.Digest
			}
		}
		list = append(list, at)
	}
	return list
}

// spoken says whether a scope speaks of a subject.
func spoken(s api.Scope, of subject) bool {
	ref, err := api.ParseReference(of.image)
	if err != nil {
		return false
	}
	groups := []string{corpus.GroupOf[of.cluster]}
	evidence := s.Evidence().SpeaksOf(of.cluster, groups, ref.Name())
	tags := s.AllowsName(ref.Name()) && s.Tags().SpeaksOf(of.cluster, groups, ref.Name())
	return evidence || tags
}

// sequences is how many are tried.
const sequences = 5000

// Whatever somebody of a scope hands in changes no verdict of a subject that the scope does not
// speak of, for better and for worse.
func TestNoScopeReachesBeyondItself(t *testing.T) {
	ctx := context.Background()
	engines, worlds := judges(t)
	compared, moved := 0, 0
	var c corpus.Case
	for n := range uint64(sequences) {
		if n%10 == 0 { // several sequences in each world
			c = corpus.GenerateScoped(n)
		}
		r := rand.New(rand.NewPCG(n, 0x5e9))
		e, w := engines[n%4], worlds[n%4]
		w.Scans, w.Exceptions = c.World.Scans, c.World.Exceptions
		tried := subjects(c, r)
		ask := func() (out []string) {
			for _, s := range tried {
				in := w
				in.Cluster, in.Groups = s.cluster, []string{corpus.GroupOf[s.cluster]}
				result, max := reference.Classify(in, s.image, s.digest, c.Now)
				got, err := e.In(s.cluster).Classify(ctx, s.image, s.digest, c.Now)
				if err != nil || got.Result != result || !reflect.DeepEqual(got.MaxCVSS, max) {
					t.Fatalf("sequence %d: %+v: the engine says %s %s, the reference %s %s (%v)", n, s, got.Result, show(got.MaxCVSS), result, show(max), err)
				}
				out = append(out, show(got))
			}
			return out
		}
		give(t, e, w)
		before := ask()
		reached := make([]bool, len(tried))
		for range 1 + r.IntN(3) {
			s := corpus.Submission(c, r)
			w.Scans = append(slices.Clone(w.Scans), s)
			for i, of := range tried {
				reached[i] = reached[i] || spoken(s.Scope, of)
			}
		}
		give(t, e, w)
		for i, after := range ask() {
			switch {
			case reached[i] && after != before[i]:
				moved++
			case !reached[i] && after != before[i]:
				t.Fatalf("sequence %d: %+v was %s and is %s", n, tried[i], before[i], after)
			case !reached[i]:
				compared++
			}
		}
	}
	t.Logf("%d sequences: %d verdicts out of scope stay; %d within are others", sequences, compared, moved)
	if compared < sequences || moved < sequences/50 {
		t.Errorf("the corpus is too thin: %d, %d", compared, moved)
	}
}

// Stock `opa eval` on the bundle of a cluster gives the engine's verdicts, and neither changes when
// somebody of another scope hands something in.
func TestStockOPAAgreesOnScopes(t *testing.T) {
	bin := opa(t)
	dir := t.TempDir()
	held := 0
	for seed := range min(cases(t), 100) {
		w := loadCase(t, seed, corpus.GenerateScoped(seed))
		r := rand.New(rand.NewPCG(seed, 0x09a))
		after := w
		after.World.Scans = slices.Clone(w.World.Scans)
		foreign := api.Scope{Cluster: "evil-cluster", Registry: "evil.example.com"}
		s := corpus.Submission(w.Case, r)
		s.Scope = []api.Scope{foreign, {Cluster: foreign.Cluster}, {Registry: foreign.Registry}}[r.IntN(3)]
		after.World.Scans = append(after.World.Scans, s)
		first := evalOPA(t, bin, dir, w)
		if second := evalOPA(t, bin, dir, after); show(first) != show(second) {
			t.Fatalf("seed %d: %s changes\n%s\nto\n%s", seed, show(s), show(first), show(second))
		}
		b, err := bundles.Build(forCluster(w))
		if err != nil {
			t.Fatal(err)
		}
		e := engine.New(engine.Config{})
		if err := e.Load(context.Background(), b); err != nil {
			t.Fatal(err)
		}
		for i, r := range w.Reviews {
			in, err := review.FromAdmissionReview(r, review.KindsOf(w.set.Settings))
			if err != nil {
				t.Fatal(err)
			}
			d, err := e.Admit(context.Background(), in.Review, w.Now)
			if err != nil {
				t.Fatal(err)
			}
			d.Revisions = nil
			if show(first[i]) != show(d) {
				t.Fatalf("seed %d review %d:\n   opa %s\nengine %s", seed, i, show(first[i]), show(d))
			}
			held++
		}
	}
	t.Logf("%d decisions of clusters agree with opa eval", held)
}

// evalOPA decides the reviews of a world in the opa binary, each with a cluster in its body that
// must not be read.
func evalOPA(t *testing.T, bin, dir string, w world) []api.Decision {
	t.Helper()
	b, err := bundles.Build(forCluster(w))
	if err != nil {
		t.Fatal(err)
	}
	text, err := bundles.Bytes(b)
	if err != nil {
		t.Fatal(err)
	}
	file, inputFile := filepath.Join(dir, "bundle.tar.gz"), filepath.Join(dir, "input.json")
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	var inputs []map[string]any
	for _, r := range w.Reviews {
		var input map[string]any
		if err := json.Unmarshal(r, &input); err != nil {
			t.Fatal(err)
		}
		input["now"], input["cluster"] = documents.Time(w.Now), "dev"
		inputs = append(inputs, input)
	}
	writeJSON(t, inputFile, inputs)
	out, err := exec.Command(bin, "eval", "-b", file, "-i", inputFile, "--format", "json",
		"[d | some i; r := input[i]; d := data.assay.admission.decision with input as r]").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
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
		t.Fatal(fmt.Errorf("%d decisions for %d reviews", len(decisions), len(w.Reviews)))
	}
	for i := range decisions {
		decisions[i].Revisions = nil
	}
	return decisions
}
