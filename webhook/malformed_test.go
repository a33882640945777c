package webhook

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/review"
)

// A review that does not say what is asked is refused, though everything is allowed, and
// whatever would not be judged.
func TestMalformedReviews(t *testing.T) {
	const service = `{"request":{"uid":"u1","kind":{"group":"","kind":"Service"},"operation":"CREATE","namespace":"shop","name":"p"}}`
	for name, c := range map[string]struct{ from, old, new, says string }{
		"no operation":                 {somePod, `"operation":"CREATE",`, ``, "the operation must be"},
		"an operation of another type": {somePod, `"CREATE"`, `["CREATE"]`, "the operation must be"},
		"an unknown operation":         {service, `"CREATE"`, `"PATCH"`, "the operation must be"},
		"no operation on a Service":    {service, `"CREATE"`, `""`, "the operation must be"},
		"no kind":                      {somePod, `"kind":{"group":"","version":"v1","kind":"Pod"},`, ``, "the kind is missing"},
		"a kind that is a text":        {somePod, `{"group":"","version":"v1","kind":"Pod"}`, `"Pod"`, "the kind is missing"},
		"no kind in the kind":          {somePod, `,"kind":"Pod"}`, `}`, "the kind is missing"},
		"no kind in kube-system":       {service, `"kind":{"group":"","kind":"Service"},"operation":"CREATE","namespace":"shop"`, `"operation":"CREATE","namespace":"kube-system"`, "the kind is missing"},
		"no object":                    {somePod, `"object":`, `"x":`, "the object is missing"},
		"an object that is null":       {somePod, `"object":{"metadata"`, `"object":null,"x":{"metadata"`, "the object is missing"},
		"no namespace":                 {somePod, `"namespace":"shop",`, ``, "the namespace is missing"},
		"a namespace that is no text":  {somePod, `"namespace":"shop"`, `"namespace":7`, "the namespace is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			body := strings.Replace(c.from, c.old, c.new, 1)
			if body == c.from {
				t.Fatal("nothing is changed")
			}
			a, decided := admission(t, allowAll)
			a.FailOpen = true // is for what goes wrong here, not for what is wrong in the review
			_, r := ask(t, a, "POST", body)
			if r.Allowed || r.UID != "u1" || !strings.Contains(r.Result.Message, "malformed: "+c.says) {
				t.Errorf("%+v", r)
			}
			if len(*decided) != 1 || (*decided)[0].Decision.Allowed {
				t.Errorf("it is not recorded: %+v", *decided)
			}
		})
	}
}

// An answer has the version of its question; no other is answered.
func TestVersionsOfReviews(t *testing.T) {
	a, _ := admission(t, allowAll)
	v := &Validation{Engine: a.Engine, Log: a.Log}
	const policies = `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u1","kind":{"group":"containersecurity.tigera.io","version":"v1beta1","kind":"ContainerAdmissionPolicy"},"resource":{"group":"containersecurity.tigera.io","version":"v1beta1","resource":"containeradmissionpolicies"},"operation":"DELETE","name":"p"}}`
	for name, c := range map[string]struct {
		handler http.Handler
		body    string
	}{"/admit": {a, somePod}, "/validate": {v, policies}} {
		for version, want := range map[string]string{"admission.k8s.io/v1": "admission.k8s.io/v1", "admission.k8s.io/v1beta1": "admission.k8s.io/v1beta1", "admission.k8s.io/v2": "", "v1": "", "": "admission.k8s.io/v1"} {
			body := strings.Replace(c.body, `"apiVersion":"admission.k8s.io/v1",`, `"apiVersion":"`+version+`",`, 1)
			if version == "" {
				body = strings.Replace(c.body, `"apiVersion":"admission.k8s.io/v1",`, "", 1)
			}
			w := httptest.NewRecorder()
			c.handler.ServeHTTP(w, httptest.NewRequest("POST", "/", strings.NewReader(body)))
			var answer struct {
				APIVersion, Kind string
				Response         struct{ Allowed bool }
			}
			if want == "" {
				if w.Code != http.StatusBadRequest {
					t.Errorf("%s, %q: %d %s", name, version, w.Code, w.Body)
				}
				continue
			}
			if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || answer.APIVersion != want || answer.Kind != "AdmissionReview" || !answer.Response.Allowed {
				t.Errorf("%s, %q: %d %s", name, version, w.Code, w.Body)
			}
		}
	}
}

// Who sends a review does not choose the moment that is decided for.
func TestNowOfAReviewDoesNotCount(t *testing.T) {
	a, decided := admission(t, allowAll)
	clock := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	a.Now = func() time.Time { return clock }
	for _, now := range []string{`"2020-01-01T00:00:00Z"`, `"yesterday"`, `7`, `null`} {
		_, r := ask(t, a, "POST", strings.Replace(somePod, `{`, `{"now":`+now+`,`, 1))
		if last := (*decided)[len(*decided)-1]; !r.Allowed || last.Decision.Now != "2026-06-01T12:00:00.000000000Z" {
			t.Errorf("%s: %+v", now, last.Decision)
		}
	}
}

func TestMalformedValidations(t *testing.T) {
	a, _ := admission(t, allowAll)
	v := &Validation{Engine: a.Engine, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		MayOverride: func(context.Context, string, review.Requester, string) (bool, error) {
			t.Error("somebody was asked")
			return true, nil
		}}
	const policy = `{"request":{"uid":"u","kind":{"group":"containersecurity.tigera.io","version":"v1beta1","kind":"ContainerAdmissionPolicy"},"resource":{"group":"containersecurity.tigera.io","version":"v1beta1","resource":"containeradmissionpolicies"},"operation":"CREATE","name":"p",` +
		`"object":{"apiVersion":"containersecurity.tigera.io/v1beta1","kind":"ContainerAdmissionPolicy","metadata":{"name":"p"},"spec":{"rules":[{"action":"Allow"}]}}}}`
	if _, r := ask(t, v, "POST", policy); !r.Allowed {
		t.Fatalf("%+v", r.Result)
	}
	for name, c := range map[string]struct{ old, new, says string }{
		"no operation":         {`"operation":"CREATE",`, ``, "the operation must be"},
		"an unknown operation": {`"CREATE"`, `"PATCH"`, "the operation must be"},
		"a number for it":      {`"CREATE"`, `5`, "malformed: "},
		"no kind":              {`"kind":{"group":"containersecurity.tigera.io","version":"v1beta1","kind":"ContainerAdmissionPolicy"},"resource"`, `"resource"`, "the kind or the resource is missing"},
		"a kind that is text":  {`{"group":"containersecurity.tigera.io","version":"v1beta1","kind":"ContainerAdmissionPolicy"}`, `"x"`, "malformed: "},
		"no resource":          {`"resource":{`, `"x":{`, "the kind or the resource is missing"},
		"no object":            {`"object":`, `"x":`, "the object cannot be read"},
	} {
		body := strings.Replace(policy, c.old, c.new, 1)
		if body == policy {
			t.Fatalf("%s: nothing is changed", name)
		}
		if _, r := ask(t, v, "POST", body); r == nil || r.Allowed || !strings.Contains(r.Result.Message, c.says) {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// A request for external data that has no keys asks nothing, which is no answer to build on.
func TestExternalDataWithoutKeys(t *testing.T) {
	a, _ := admission(t, allowAll)
	x := &ExternalData{Engine: a.Engine, Ready: a.Ready, Now: time.Now}
	for body, want := range map[string]string{
		`{"apiVersion":"externaldata.gatekeeper.sh/v1beta1","kind":"ProviderRequest","request":{}}`:              "the request has no keys",
		`{"apiVersion":"externaldata.gatekeeper.sh/v1beta1","kind":"ProviderRequest"}`:                           "the request has no keys",
		`{"apiVersion":"externaldata.gatekeeper.sh/v1beta1","kind":"ProviderRequest","request":{"keys":null}}`:   "the request has no keys",
		`{"apiVersion":"externaldata.gatekeeper.sh/v1beta1","kind":"ProviderRequest","request":{"keys":["",5]}}`: "is no JSON",
		`{"apiVersion":"externaldata.gatekeeper.sh/v1beta1","kind":"ProviderRequest","request":{"keys":[]}}`:     "",
	} {
		w := httptest.NewRecorder()
		x.ServeHTTP(w, httptest.NewRequest("POST", "/gatekeeper", strings.NewReader(body)))
		var answer providerResponse
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || want == "" && answer.Response.SystemError != "" || !strings.Contains(answer.Response.SystemError, want) {
			t.Errorf("%s: %s", body, w.Body)
		}
	}
}
