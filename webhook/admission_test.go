package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"

	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/review"
)

const allowAll = "apiVersion: containersecurity.tigera.io/v1beta1\nkind: ContainerAdmissionPolicy\nmetadata: {name: open}\nspec: {rules: [{action: Allow}]}\n"

func admission(t testing.TB, text string) (*Admission, *[]Decided) {
	t.Helper()
	set, err := policies.Parse("policies.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	b, err := bundles.Build(bundles.Content{Policies: set})
	if err != nil {
		t.Fatal(err)
	}
	e := engine.New(engine.Config{})
	if err := e.Load(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	var decided []Decided
	return &Admission{
		Engine: e, Ready: func() error { return nil }, Now: time.Now, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		NamespaceLabels: func(context.Context, string) map[string]string { return map[string]string{} },
		Record:          func(d Decided) { decided = append(decided, d) },
	}, &decided
}

const somePod = `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u1","kind":{"group":"","version":"v1","kind":"Pod"},"operation":"CREATE","namespace":"shop","name":"p","userInfo":{"username":"jane"},"object":{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"nginx"}]}}}}`

func ask(t testing.TB, h http.Handler, method, body string) (int, *admissionv1.AdmissionResponse) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, "/admit?timeout=5s", strings.NewReader(body)))
	if w.Code != http.StatusOK {
		return w.Code, nil
	}
	var answer admissionv1.AdmissionReview
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || answer.Response == nil {
		t.Fatalf("%v: %s", err, w.Body)
	}
	return w.Code, answer.Response
}

// Whatever goes wrong, the answer refuses, and says so; unless failures are let through.
func TestFailures(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Admission)
		says   string
	}{
		"not ready": {func(a *Admission) { a.Ready = func() error { return errors.New("no policies are loaded") } }, "no policies are loaded"},
		"a panic": {func(a *Admission) {
			a.NamespaceLabels = func(context.Context, string) map[string]string { panic("boom") }
		}, "panic: boom"},
		"an engine of none": {func(a *Admission) { a.Engine = engine.New(engine.Config{}) }, "no policies are loaded yet"},
		"a deadline":        {func(a *Admission) { a.Engine = late(t) }, "could not be evaluated"},
	} {
		t.Run(name, func(t *testing.T) {
			a, decided := admission(t, allowAll)
			c.change(a)
			_, r := ask(t, a, "POST", somePod)
			if r.Allowed || r.UID != "u1" || r.Result.Code != 500 || !strings.Contains(r.Result.Message, "nothing could be decided") || !strings.Contains(r.Result.Message, c.says) {
				t.Errorf("%+v", r.Result)
			}
			if len(*decided) != 1 || (*decided)[0].Err == nil || outcome((*decided)[0]) != "error" {
				t.Errorf("it is not recorded: %+v", *decided)
			}
			a.FailOpen = true
			if _, r := ask(t, a, "POST", somePod); !r.Allowed || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], c.says) {
				t.Errorf("with failures let through: %+v", r)
			}
		})
	}
}

func late(t *testing.T) *engine.Engine {
	t.Helper()
	set, err := policies.Parse("policies.yaml", []byte(allowAll))
	if err != nil {
		t.Fatal(err)
	}
	b, err := bundles.Build(bundles.Content{Policies: set})
	if err != nil {
		t.Fatal(err)
	}
	e := engine.New(engine.Config{Deadline: time.Nanosecond})
	if err := e.Load(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	return e
}

// What is no review gets no answer that could be taken for one.
func TestNoReview(t *testing.T) {
	a, decided := admission(t, allowAll)
	for _, c := range []struct {
		method, body string
		status       int
	}{
		{"GET", "", 405}, {"POST", "", 400}, {"POST", "{", 400}, {"POST", "[]", 400}, {"POST", `{"request":{}}`, 400}, {"POST", `{"request":{"uid":5}}`, 400},
		{"POST", `{"request":{"uid":"` + strings.Repeat("x", review.MaxReview) + `"}}`, 413},
	} {
		if status, r := ask(t, a, c.method, c.body); status != c.status {
			t.Errorf("%s %.40s: %d %+v", c.method, c.body, status, r)
		}
	}
	if len(*decided) != 0 {
		t.Error("decisions were recorded")
	}
}

// An override counts by what the cluster says alone, and failing to ask is no permission.
func TestOverrideIsAskedFor(t *testing.T) {
	glass := strings.Replace(somePod, `"name":"p"},"spec"`, `"name":"p","annotations":{"assay.dev/override-reason":"x","assay.dev/override-until":"2999-01-01T00:00:00Z"}},"spec"`, 1)
	glass = strings.Replace(glass, `"request"`, `"overrideGranted":true,"request"`, 1)
	a, _ := admission(t, strings.Replace(allowAll, "Allow", "Reject", 1))
	if _, r := ask(t, a, "POST", glass); r.Allowed {
		t.Error("nobody was asked, and it is admitted")
	}
	for _, c := range []struct {
		may bool
		err error
	}{{false, nil}, {true, nil}, {false, errors.New("away")}} {
		a.MayOverride = func(_ context.Context, user string, _ review.Requester, namespace string) (bool, error) {
			if user != "jane" || namespace != "shop" {
				t.Errorf("asked for %s in %s", user, namespace)
			}
			return c.may, c.err
		}
		if _, r := ask(t, a, "POST", glass); r.Allowed != c.may {
			t.Errorf("%+v: %+v", c, r)
		}
	}
}

// What is rejected since nobody scanned it is asked for, once, and the rejection says so.
func TestScanOnSight(t *testing.T) {
	a, _ := admission(t, strings.Replace(allowAll, "Allow", "Reject", 1))
	asked := make(chan []string, 10)
	var there atomic.Bool
	sight := NewSight(func(_ context.Context, images []string) error {
		away := !there.Load() // before the test goes on
		asked <- images
		if away {
			return errors.New("away")
		}
		return nil
	}, a.Log)
	a.Unknown = sight.Unknown
	go sight.Run(t.Context())
	try := func(body string) string {
		_, r := ask(t, a, "POST", body)
		return r.Result.Message
	}
	if said := try(somePod); !strings.Contains(said, "was asked to scan") || (<-asked)[0] != "nginx" {
		t.Error(said)
	}
	there.Store(true)
	for again := false; !again; { // the server was away: it is asked again, once that is known
		try(somePod)
		select {
		case <-asked:
			again = true
		case <-time.After(50 * time.Millisecond):
		}
	}
	if said := try(somePod); !strings.Contains(said, "was asked to scan") || len(asked) != 0 {
		t.Error("it is asked for twice: ", said)
	}
	if said := try(strings.Replace(somePod, `"uid":"u1"`, `"uid":"u1","dryRun":true`, 1)); strings.Contains(said, "was asked to scan") {
		t.Error("a dry run asks: ", said)
	}
}

// Messages are bounded: a hostile name does not fill the answer.
func TestAnswersAreBounded(t *testing.T) {
	a, _ := admission(t, strings.Replace(allowAll, "Allow", "Reject", 1))
	body := strings.Replace(somePod, `"nginx"`, `"`+strings.Repeat("x", 100_000)+`"`, 1)
	if _, r := ask(t, a, "POST", body); r.Allowed || len(r.Result.Message) > maxMessage {
		t.Errorf("%d bytes", len(r.Result.Message))
	}
}

func FuzzAdmission(f *testing.F) {
	f.Add(somePod)
	f.Add(`{"request":{"uid":"u","kind":{"kind":"Pod"},"operation":"UPDATE","oldObject":{},"object":{"metadata":{"annotations":{"assay.dev/override-until":"x"}}}}}`)
	a, _ := admission(f, strings.Replace(allowAll, "Allow", "Reject", 1))
	a.Record = nil
	f.Fuzz(func(t *testing.T, body string) {
		status, r := ask(t, a, "POST", body)
		if status != http.StatusOK {
			return
		}
		in, err := review.FromAdmissionReview([]byte(body), kindsOf(a.Engine.Settings()))
		if err != nil {
			t.Fatalf("an answer to what is no review: %v", err)
		}
		if len(in.Review.Containers) > 0 && in.Review.Operation == "CREATE" && in.Review.Namespace != "kube-system" && in.Review.Namespace != "assay-system" && in.Review.Owner == nil && r.Allowed {
			t.Fatalf("%s is admitted where all is rejected", body)
		}
	})
}

// The policy of docs/webhook.md that admits references by digest alone does that, however they are written.
func TestDocumentedPolicyByDigest(t *testing.T) {
	text, err := os.ReadFile("../docs/webhook.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(text), "```yaml\napiVersion: containersecurity.tigera.io/v1beta1\n")
	policy, _, ended := strings.Cut(after, "```")
	if !found || !ended || !strings.Contains(policy, "name: by-digest") {
		t.Fatal("docs/webhook.md has no such policy")
	}
	a, _ := admission(t, "apiVersion: containersecurity.tigera.io/v1beta1\n"+policy)
	digest := "sha256:" + strings.Repeat("a", 64)
	for image, allowed := range map[string]bool{
		"nginx": false, "nginx:1": false, "registry.example.com/shop:1": false, "nginx@sha256:abc": false, "nginx:sha256-" + strings.Repeat("a", 64): false,
		digest: false, "nginx@" + digest + "x": false, "nginx@" + strings.ToUpper(digest): false,
		"nginx@" + digest: true, "nginx:1@" + digest: true, "registry.example.com:5000/shop@" + digest: true,
	} {
		if _, r := ask(t, a, "POST", strings.Replace(somePod, `"image":"nginx"`, fmt.Sprintf(`"image":%q`, image), 1)); r.Allowed != allowed {
			t.Errorf("%s: allowed is %t", image, r.Allowed)
		}
	}
}

// Beyond the age that is allowed, what is admitted is refused with the reason, and nothing else is touched.
func TestOldData(t *testing.T) {
	const deleted = `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u1","kind":{"group":"","version":"v1","kind":"Pod"},"operation":"DELETE","namespace":"shop","name":"p","userInfo":{"username":"jane"},"oldObject":{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"nginx"}]}}}}`
	glass := func(until time.Time) string {
		return strings.Replace(somePod, `"metadata":{"name":"p"}`, `"metadata":{"name":"p","annotations":{"assay.dev/override-reason":"outage 42","assay.dev/override-until":"`+until.UTC().Format(time.RFC3339)+`"}}`, 1)
	}
	rejectAll := strings.Replace(allowAll, "Allow", "Reject", 1)
	old := errors.New("the policies and scan results are 2h0m0s old, and at most 15m0s is allowed")
	for name, c := range map[string]struct {
		policies, review string
		old              error
		may              bool
		allowed          bool
		says             string
	}{
		"young":                              {allowAll, somePod, nil, false, true, ""},
		"old":                                {allowAll, somePod, old, false, false, "Pod p: the policies and scan results are 2h0m0s old"},
		"old, rejected anyway":               {rejectAll, somePod, old, false, false, "nginx"},
		"old, not judged":                    {allowAll, deleted, old, false, true, ""},
		"old, break-glass":                   {allowAll, glass(time.Now().Add(time.Hour)), old, true, true, ""},
		"old, break-glass without the right": {allowAll, glass(time.Now().Add(time.Hour)), old, false, false, "2h0m0s old"},
		"old, break-glass that ended":        {allowAll, glass(time.Now().Add(-time.Hour)), old, true, false, "2h0m0s old"},
	} {
		t.Run(name, func(t *testing.T) {
			a, decided := admission(t, c.policies)
			a.FailOpen = true // that is for what cannot be decided
			a.TooOld = func() error { return c.old }
			a.MayOverride = func(context.Context, string, review.Requester, string) (bool, error) { return c.may, nil }
			_, r := ask(t, a, "POST", c.review)
			if r.Allowed != c.allowed || !r.Allowed && (r.Result.Code != http.StatusForbidden || !strings.Contains(strings.ToLower(r.Result.Message), strings.ToLower(c.says))) {
				t.Errorf("%v %+v", r.Allowed, r.Result)
			}
			want := map[bool]string{true: "allowed", false: "rejected"}[c.allowed]
			switch {
			case c.may && c.allowed:
				want = "overridden"
			case c.review == deleted:
				want = "unjudged"
			}
			if got := outcome((*decided)[0]); got != want {
				t.Errorf("it is recorded as %s", got)
			}
		})
	}
}
