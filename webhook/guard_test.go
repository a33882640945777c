package webhook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/assay-dev/assay/review"
)

const guarded = `
apiVersion: containersecurity.tigera.io/v1beta1
kind: ContainerAdmissionPolicy
metadata: {name: p}
spec: {namespaceSelector: "environment == 'production' || kubernetes.io/metadata.name == 'shop'", rules: [{action: Reject}]}
---
apiVersion: assay.dev/v1alpha1
kind: AdmissionSettings
metadata: {name: default}
spec: {excludedNamespaces: [legacy-build]}
`

// What chooses the policies of a namespace needs the verb override, by whichever way it is changed.
func TestNamespaceGuard(t *testing.T) {
	meta := func(name, labels string) string {
		return fmt.Sprintf(`{"metadata":{"name":%q,"labels":%s}}`, name, labels)
	}
	body := func(operation, sub, object, old string) string {
		return fmt.Sprintf(`{"request":{"uid":"u","operation":%q,"subResource":%q,"name":"shop","kind":{"group":"","version":"v1","kind":"Namespace"},"resource":{"group":"","version":"v1","resource":"namespaces"},"userInfo":{"username":"mallory"},"object":%s,"oldObject":%s}}`,
			operation, sub, object, old)
	}
	production, staging, team := meta("shop", `{"environment":"production"}`), meta("shop", `{"environment":"staging"}`), meta("shop", `{"environment":"production","team":"a"}`)
	none := meta("shop", `null`)
	for name, c := range map[string]struct{ body, says string }{
		"changed":                         {body("UPDATE", "", staging, production), "labels environment of namespaces: to change them, mallory needs the verb override"},
		"changed through status":          {body("UPDATE", "status", staging, production), "labels environment"},
		"changed through finalize":        {body("UPDATE", "finalize", staging, production), "labels environment"},
		"changed through another":         {body("UPDATE", "new-in-2030", staging, production), "labels environment"},
		"removed":                         {body("UPDATE", "", none, production), "labels environment"},
		"all removed":                     {body("UPDATE", "status", `{"metadata":{}}`, production), "labels environment"},
		"emptied":                         {body("UPDATE", "", meta("shop", `{"environment":""}`), none), "labels environment"},
		"added":                           {body("UPDATE", "", production, none), "labels environment"},
		"one that the registration knows": {body("UPDATE", "", meta("shop", `{"assay":"off"}`), none), "labels assay"},
		"created with one":                {body("CREATE", "", production, "null"), "labels environment of namespaces: to make a namespace with them"},
		"created with a generated name":   {body("CREATE", "", `{"metadata":{"generateName":"shop-","labels":{"environment":"x"}}}`, "null"), "labels environment"},
		"created, excluded":               {body("CREATE", "", meta("legacy-build", `null`), "null"), "excludes the namespace legacy-build: to make it"},
		"created, perhaps excluded":       {body("CREATE", "", `{"metadata":{"generateName":"legacy-"}}`, "null"), "excludes the namespace legacy-build"},
		"an operation that is not known":  {body("REPLACE", "", staging, production), "the operation must be CREATE, UPDATE, DELETE or CONNECT"},
		"without the object":              {body("UPDATE", "", "null", production), "cannot be read: it is missing"},
		"without what was there":          {body("UPDATE", "", staging, "null"), "cannot be read: it is missing"},
		"labels of another type":          {body("CREATE", "", `{"metadata":{"labels":{"environment":7}}}`, "null"), "cannot be read"},

		"another label":         {body("UPDATE", "", team, production), ""},
		"nothing":               {body("UPDATE", "status", production, production), ""},
		"created without":       {body("CREATE", "", meta("new", `{"team":"a","kubernetes.io/metadata.name":"new"}`), "null"), ""},
		"created with another":  {body("CREATE", "", `{"metadata":{"generateName":"new-"}}`, "null"), ""},
		"an excluded one stays": {body("UPDATE", "", meta("legacy-build", `{"team":"a"}`), meta("legacy-build", `null`)), ""},
		"a deletion":            {body("DELETE", "", "null", production), ""},
		"of another resource":   {strings.Replace(body("UPDATE", "", staging, production), `"resource":"namespaces"`, `"resource":"nodes"`, 1), ""},
	} {
		t.Run(name, func(t *testing.T) {
			a, _ := admission(t, guarded)
			may, asked := false, 0
			v := &Validation{Engine: a.Engine, GuardedLabels: []string{"assay"}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
				MayOverride: func(_ context.Context, user string, _ review.Requester, namespace string) (bool, error) {
					if asked++; user != "mallory" || namespace != "" {
						t.Errorf("asked for %q in %q", user, namespace)
					}
					if !may {
						return false, errors.New("the API server does not answer")
					}
					return true, nil
				}}
			status, answer := ask(t, v, "POST", c.body)
			if status != 200 {
				t.Fatal(status)
			}
			switch {
			case c.says == "" && (!answer.Allowed || asked > 0):
				t.Errorf("refused, or somebody was asked: %+v", answer.Result)
			case c.says != "" && (answer.Allowed || !strings.Contains(answer.Result.Message, c.says)):
				t.Errorf("%+v", answer)
			}
			if may = true; asked > 0 {
				if _, answer := ask(t, v, "POST", c.body); !answer.Allowed {
					t.Errorf("with the right: %+v", answer.Result)
				}
			}
		})
	}
}

// Where a user's own Rego may look at any label, all are guarded.
func TestNamespaceGuardOfAnyLabel(t *testing.T) {
	got := relabelled(map[string]string{"a": "1", "b": "2"}, map[string]string{"a": "1", "c": "3", "kubernetes.io/metadata.name": "x"}, []string{"*", "d"})
	if strings.Join(got, " ") != "b c" {
		t.Errorf("%q", got)
	}
}
