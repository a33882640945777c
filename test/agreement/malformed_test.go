package agreement_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/review"
	"github.com/assay-dev/assay/test/reference"
	"github.com/assay-dev/assay/webhook"
)

// replacements are what members of a review are replaced by: new ones each time, since they are changed in turn.
func replacements() []any {
	return []any{nil, "", "x", 5.0, true, []any{}, []any{"x"}, map[string]any{}, map[string]any{"kind": "Pod"}}
}

// incomplete is a version of a review in which members are missing, have another type
// or another name. The uid stays: a review without is none for a webhook.
func incomplete(g *rand.Rand, r json.RawMessage) map[string]any {
	var doc map[string]any
	if err := json.Unmarshal(r, &doc); err != nil {
		panic(err)
	}
	for range 1 + g.IntN(2) {
		at, key := doc, one(g, doc)
		for depth := 0; depth < 6; depth++ {
			below, ok := at[key].(map[string]any)
			if list, _ := at[key].([]any); len(list) > 0 {
				below, ok = list[g.IntN(len(list))].(map[string]any)
			}
			if !ok || len(below) == 0 || g.IntN(4) == 0 && key != "request" {
				break
			}
			at, key = below, one(g, below)
		}
		if key == "uid" || key == "request" {
			continue
		}
		switch g.IntN(3) {
		case 0:
			delete(at, key)
		case 1:
			list := replacements()
			at[key] = list[g.IntN(len(list))]
		case 2:
			at[strings.ToUpper(key)] = at[key]
			delete(at, key)
		}
	}
	return doc
}

func one(g *rand.Rand, m map[string]any) string {
	keys := []string{}
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys[g.IntN(len(keys))]
}

// asWebhook answers as the webhook does where the API server knows what stands beside the request.
func (w world) asWebhook(t *testing.T, doc map[string]any) (allowed bool, message string, left *api.Unjudged) {
	t.Helper()
	text, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	a := &webhook.Admission{
		Engine: w.engine, Ready: func() error { return nil }, Now: func() time.Time { return w.Now }, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		NamespaceLabels: func(context.Context, string) map[string]string {
			given, ok := doc["namespaceLabels"].(map[string]any)
			if _, there := doc["namespaceLabels"]; there && !ok {
				return nil
			}
			labels := map[string]string{}
			for k, v := range given {
				labels[k], _ = v.(string)
			}
			return labels
		},
		MayOverride: func(context.Context, string, review.Requester, string) (bool, error) {
			return doc["overrideGranted"] == true, nil
		},
		Record: func(d webhook.Decided) { left = d.NotJudged },
		Owner: func(context.Context, review.Owner, string) (map[string]any, error) {
			if owner, ok := doc["owner"].(map[string]any); ok {
				return owner, nil
			}
			return nil, errors.New("there is none")
		},
	}
	answer := httptest.NewRecorder()
	a.ServeHTTP(answer, httptest.NewRequest("POST", "/admit", strings.NewReader(string(text))))
	if answer.Code != 200 {
		return false, answer.Body.String(), nil
	}
	var out admissionv1.AdmissionReview
	if err := json.Unmarshal(answer.Body.Bytes(), &out); err != nil || out.Response == nil {
		t.Fatalf("%v: %s", err, answer.Body)
	}
	if out.Response.Result != nil {
		message = out.Response.Result.Message
	}
	return out.Response.Allowed, message, left
}

// asOPA is what stock OPA decides of reviews, one process for all of them.
func asOPA(t *testing.T, bin, dir string, bundle []byte, docs []map[string]any) []api.Decision {
	t.Helper()
	file, inputFile := filepath.Join(dir, "bundle.tar.gz"), filepath.Join(dir, "input.json")
	if err := os.WriteFile(file, bundle, 0o644); err != nil {
		t.Fatal(err)
	}
	writeJSON(t, inputFile, docs)
	out, err := exec.Command(bin, "eval", "-b", file, "-i", inputFile, "--format", "raw",
		"[d | some i; r := input[i]; d := data.assay.admission.decision with input as r]").CombinedOutput()
	var decisions []api.Decision
	if err == nil {
		err = json.Unmarshal(out, &decisions)
	}
	if err != nil || len(decisions) != len(docs) {
		t.Fatalf("%v, %d decisions for %d reviews\n%s", err, len(decisions), len(docs), out)
	}
	return decisions
}

// What a review lacks, or has of another type, is seen alike on every way to a decision: the
// reference, the engine as commands and API ask it, the webhook and stock OPA. What cannot be
// read on one of them is admitted on none.
func TestMalformedReviewsAgree(t *testing.T) {
	bin, dir := opa(t), t.TempDir()
	compared, malformed, unread := 0, 0, 0
	for seed := range min(cases(t), 30) {
		w := load(t, seed)
		bundle, err := bundles.Bytes(w.bundle)
		if err != nil {
			t.Fatal(err)
		}
		g := rand.New(rand.NewPCG(seed, 0xbad))
		var docs []map[string]any
		for _, r := range w.Reviews {
			for range 8 {
				doc := incomplete(g, r)
				doc["now"] = w.Now.Format(time.RFC3339Nano)
				docs = append(docs, doc)
			}
		}
		byOPA := asOPA(t, bin, dir, bundle, docs)
		for i, doc := range docs {
			text, err := json.Marshal(doc)
			if err != nil {
				t.Fatal(err)
			}
			about := fmt.Sprintf("seed %d review %d, %s", seed, i, text)
			allowed, message, _ := w.asWebhook(t, doc)
			compared++
			in, err := review.FromAdmissionReview(text, review.KindsOf(w.set.Settings))
			if err != nil {
				unread++
				if byOPA[i].Allowed || allowed {
					t.Errorf("%s\nGo says %v; OPA allows: %v; the webhook: %v", about, err, byOPA[i].Allowed, allowed)
				}
				continue
			}
			now, err := in.Now(time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			d, err := w.engine.Admit(t.Context(), in.Review, now)
			if err != nil {
				t.Fatal(err)
			}
			if show(d) != show(byOPA[i]) {
				t.Errorf("%s\nengine %s\n   opa %s", about, show(d), show(byOPA[i]))
			}
			if allowed != d.Allowed || !allowed && message != d.Message {
				t.Errorf("%s\nengine  %s\nwebhook %v %s", about, show(d), allowed, message)
			}
			if want := reference.Admit(w.World, text, now); show(verdict(d)) != show(verdict(want)) {
				t.Errorf("%s\n   engine %s\nreference %s %s", about, show(verdict(d)), show(verdict(want)), want.Message)
			}
			if strings.Contains(d.Message, "malformed") {
				malformed++
			}
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d reviews are decided alike, %d of them malformed, and %d that cannot be read are refused", compared, malformed, unread)
	if cases(t) >= 30 && (compared < 1000 || malformed < 80 || unread < 50) {
		t.Error("the corpus is too thin")
	}
}
