package reference

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
)

func pol(name string, order *float64, mode string, rules ...api.Rule) api.ContainerAdmissionPolicy {
	p := api.ContainerAdmissionPolicy{Spec: api.ContainerAdmissionPolicySpec{Order: order, Rules: rules}}
	p.Metadata.Name = name
	if mode != "" {
		p.Metadata.Annotations = map[string]string{api.EnforcementAnnotation: mode}
	}
	return p
}

var allow, reject = api.Rule{Action: api.Allow}, api.Rule{Action: api.Reject}

// review is the JSON of a review with the members given.
func review(extra string, format string, args ...any) json.RawMessage {
	return json.RawMessage(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview",` + extra + `"request":` + fmt.Sprintf(format, args...) + `}`)
}

func podObject(meta string, images ...string) string {
	s := `{"metadata":{` + meta + `},"spec":{"containers":[`
	for i, image := range images {
		if i > 0 {
			s += ","
		}
		s += fmt.Sprintf(`{"name":"c%d","image":%q}`, i, image)
	}
	return s + `]}}`
}

func create(meta, user string, images ...string) json.RawMessage {
	return review("", `{"operation":"CREATE","kind":{"group":"","version":"v1","kind":"Pod"},"namespace":"prod","userInfo":{"username":%q},"object":%s}`,
		user, podObject(meta, images...))
}

func one(t *testing.T, what string, d api.Decision, action, policy string, rule int) {
	t.Helper()
	if !d.Judged || len(d.Images) != 1 {
		t.Fatalf("%s: %+v", what, d)
	}
	i := d.Images[0]
	if i.Action != action || i.Policy != policy || i.Rule != rule || d.Allowed != (action == api.Allow) {
		t.Errorf("%s: %s by %q rule %d, allowed %v", what, i.Action, i.Policy, i.Rule, d.Allowed)
	}
}

func TestPolicyOrder(t *testing.T) {
	never := api.Rule{Action: api.Reject, ImagePath: &api.ValuesCriterion{Operator: api.IsNoneOf, Values: []string{"nginx"}}}
	w := World{Policies: []api.ContainerAdmissionPolicy{pol("absent", nil, "", reject), pol("b", ptr(1.5), "", allow), pol("a", ptr(1.5), "", never, reject)}}
	one(t, "ties by name", Admit(w, create("", "alice", "nginx"), now), api.Reject, "a", 2)
	w.Policies[2].Spec.Rules = []api.Rule{never}
	one(t, "passed on", Admit(w, create("", "alice", "nginx"), now), api.Allow, "b", 1)
	w.Policies = nil
	one(t, "no decision", Admit(w, create("", "alice", "nginx"), now), api.Allow, "", 0)
	w.Settings = &api.AdmissionSettings{Spec: api.AdmissionSettingsSpec{DefaultAction: api.Reject}}
	one(t, "default Reject", Admit(w, create("", "alice", "nginx"), now), api.Reject, "", 0)
}

func TestModesNeverDecide(t *testing.T) {
	w := World{Policies: []api.ContainerAdmissionPolicy{
		pol("a", nil, api.Warn, allow), pol("b", nil, api.Warn, reject), pol("c", nil, api.Audit, reject, allow), pol("d", nil, api.Enforce, reject), pol("e", nil, api.Warn, reject),
	}}
	d := Admit(w, create("", "alice", "nginx"), now)
	one(t, "enforced", d, api.Reject, "d", 1)
	if len(d.Warnings) != 1 || len(d.Audit) != 1 {
		t.Errorf("warnings %q, audit %q", d.Warnings, d.Audit)
	}
}

func TestUnknownNamespaceLabels(t *testing.T) {
	p := pol("p", nil, "")
	p.Spec.NamespaceSelector = "all() || has(x)"
	w := World{Policies: []api.ContainerAdmissionPolicy{p}}
	body := `{"operation":"CREATE","kind":{"group":"","kind":"Pod"},%s"object":` + podObject(`"labels":{"a":"x"}`, "nginx") + `}`
	one(t, "null", Admit(w, review(`"namespaceLabels":null,`, body, `"namespace":"prod",`), now), api.Reject, "p", 0)
	one(t, "absent", Admit(w, review("", body, `"namespace":"prod",`), now), api.Allow, "", 0)
	if d := Admit(w, review(`"namespaceLabels":null,`, body, ""), now); d.Allowed || d.Message != "malformed: no namespace" {
		t.Errorf("no namespace: %+v", d)
	}
	w.Policies[0].Spec.Selector = "a != 'x'"
	one(t, "selector does not match", Admit(w, review(`"namespaceLabels":null,`, body, `"namespace":"prod",`), now), api.Allow, "", 0)
	w.Policies[0].Spec.Selector, w.Policies[0].Spec.NamespaceSelector = "", "kubernetes.io/metadata.name == 'prod'"
	w.Policies[0].Spec.Rules = []api.Rule{reject}
	one(t, "name label", Admit(w, review(`"namespaceLabels":{"x":"y"},`, body, `"namespace":"prod",`), now), api.Reject, "p", 1)
	w.Policies[0].Spec.NamespaceSelector = "global()"
	w.Settings = &api.AdmissionSettings{Spec: api.AdmissionSettingsSpec{CustomKinds: []api.CustomKind{{APIGroup: "example.com", Kind: "Fleet", PodTemplatePath: "spec.template"}}}}
	fleet := `{"operation":"CREATE","kind":{"group":"example.com","kind":"Fleet"},"object":{"metadata":{},"spec":{"template":` + podObject("", "nginx") + `}}}`
	one(t, "global", Admit(w, review("", "%s", fleet), now), api.Reject, "p", 1)
}

func TestCriteria(t *testing.T) {
	status := func(op string, v ...string) api.Rule {
		return api.Rule{Action: api.Reject, ImageScanStatus: &api.ValuesCriterion{Operator: op, Values: v}}
	}
	path := func(op string, v ...string) api.Rule {
		return api.Rule{Action: api.Reject, ImagePath: &api.ValuesCriterion{Operator: op, Values: v}}
	}
	last := func(op string, d api.Duration) api.Rule {
		return api.Rule{Action: api.Reject, ImageLastScan: &api.TimeCriterion{Operator: op, Duration: &d}}
	}
	day := 24 * time.Hour
	for _, c := range []struct {
		what string
		rule api.Rule
		ago  time.Duration
		want bool
	}{
		{"as written", path(api.IsOneOf, "^nginx$"), 0, true},
		{"as normalised", path(api.IsOneOf, "x", `^docker\.io/library/nginx:latest$`), 0, true},
		{"none of is the negation", path(api.IsNoneOf, "^docker", "x"), 0, false},
		{"status", status(api.IsOneOf, "Pass"), 0, true},
		{"status none", status(api.IsNoneOf, "Fail", "Unknown"), 0, true},
		{"gt 3 days, 2 days ago", last("gt", api.Duration{Days: 3}), 2 * day, true},
		{"gt 3 days, 4 days ago", last("gt", api.Duration{Days: 3}), 4 * day, false},
		{"gt is strict", last("gt", api.Duration{Days: 3}), 3 * day, false},
		{"lt is strict", last("lt", api.Duration{Days: 3}), 3 * day, false},
		{"lt", last("lt", api.Duration{Days: 3}), 3*day + time.Second, true},
		{"31 March less a month is 3 March", last("lt", api.Duration{Months: 1}), 28*day + time.Second, true},
		{"31 March less a month", last("gt", api.Duration{Months: 1}), 28*day - time.Second, true},
		{"hour of one digit", api.Rule{Action: api.Reject, ImageLastScan: &api.TimeCriterion{Operator: "gt", Time: "2026-03-31T0:00:00Z"}}, 0, true},
	} {
		w := World{Policies: []api.ContainerAdmissionPolicy{pol("p", nil, "", c.rule)}, Scans: []api.Scan{scan("nginx", dig("a"), c.ago)}}
		if d := Admit(w, create("", "alice", "nginx"), now); d.Allowed == c.want {
			t.Errorf("%s: matches %v", c.what, !c.want)
		}
	}
	for image, forms := range map[string][]string{
		"Registry-1.docker.io:443/nginx:1": {`^Registry-1\.docker\.io:443/nginx:1$`, `^docker\.io/library/nginx:1$`},
		"index.docker.io/nginx":            {`^index\.docker\.io/nginx$`, `^docker\.io/library/nginx:latest$`},
		"Foo/x@" + dig("a"):                {`^Foo/x@`, `^foo:443/x@sha256:a+$`},
	} {
		for _, form := range forms {
			w := World{Policies: []api.ContainerAdmissionPolicy{pol("p", nil, "", path(api.IsOneOf, form))}}
			if Admit(w, create("", "alice", image), now).Allowed {
				t.Errorf("%s does not match %s", form, image)
			}
		}
	}
	w := World{Policies: []api.ContainerAdmissionPolicy{pol("p", nil, "", last("lt", api.Duration{Days: 1}), last("gt", api.Duration{Days: 1}))}}
	one(t, "never scanned", Admit(w, create("", "alice", "nginx"), now), api.Allow, "", 0)
}

func TestOwners(t *testing.T) {
	owner := `"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","controller":%v}]`
	const controller = "system:serviceaccount:kube-system:replicaset-controller"
	for _, c := range []struct {
		what, meta, user string
		judged           bool
	}{
		{"real", fmt.Sprintf(owner, true), controller, false},
		{"forged", fmt.Sprintf(owner, true), "alice", true},
		{"no controlling owner", fmt.Sprintf(owner, false), controller, true},
		{"no owner", "", controller, true},
		{"owner of a kind that is not judged", `"ownerReferences":[{"apiVersion":"v1","kind":"Node","controller":true}]`, controller, true},
	} {
		if d := Admit(World{}, create(c.meta, c.user, "nginx"), now); d.Judged != c.judged {
			t.Errorf("%s: judged %v", c.what, d.Judged)
		}
	}
}

func TestUpdates(t *testing.T) {
	pod := func(old, obj string) json.RawMessage {
		return review("", `{"operation":"UPDATE","kind":{"group":"","kind":"Pod"},"namespace":"prod","object":%s,"oldObject":%s}`, obj, old)
	}
	deploy := func(old, obj string) json.RawMessage {
		return review("", `{"operation":"UPDATE","kind":{"group":"apps","kind":"Deployment"},"namespace":"prod","object":{"spec":{"template":%s}},"oldObject":{"metadata":{%s},"spec":{"template":%s}}}`,
			obj, `"deletionTimestamp":null`, old)
	}
	for _, c := range []struct {
		what   string
		r      json.RawMessage
		judged bool
		images int
	}{
		{"only the new images", pod(podObject("", "a", "b"), podObject("", "b", "c")), true, 1},
		{"no new image", pod(podObject("", "a", "b"), podObject("", "b")), false, 0},
		{"no old object", pod("null", podObject("", "a", "b")), true, 2},
		{"being deleted", pod(podObject(`"deletionTimestamp":"2026-01-01T00:00:00Z"`, "a"), podObject("", "a")), false, 0},
		{"being deleted, new image", pod(podObject(`"deletionTimestamp":"2026-01-01T00:00:00Z"`, "a"), podObject("", "a", "b")), true, 1},
		{"restart: judged whole", deploy(podObject("", "a", "b"), podObject(`"annotations":{"x":"y"}`, "a", "b")), true, 2},
		{"same template", deploy(podObject("", "a"), podObject("", "a")), false, 0},
	} {
		if d := Admit(World{}, c.r, now); d.Judged != c.judged || len(d.Images) != c.images || !d.Allowed {
			t.Errorf("%s: %+v", c.what, d)
		}
	}
	for _, obj := range []string{"null", "{}", `{"spec":{}}`, `{"spec":{"containers":"nginx"}}`, `{"spec":{"containers":[],"volumes":{}}}`} {
		r := review("", `{"operation":"CREATE","kind":{"group":"","kind":"Pod"},"namespace":"prod","object":%s}`, obj)
		if d := Admit(World{}, r, now); d.Allowed || !d.Judged {
			t.Errorf("malformed %s is allowed", obj)
		}
	}
	if d := Admit(World{}, create("", "alice"), now); !d.Allowed || !d.Judged {
		t.Error("no containers: not allowed")
	}
}

func TestListsTheHighestFirst(t *testing.T) {
	var vs []api.Vulnerability
	for i := range 12 {
		vs = append(vs, vuln(fmt.Sprintf("CVE-2024-%04d", i), 9))
	}
	vs = append(vs, vuln("CVE-2025-0001", 10), vuln("CVE-2025-0002", 8.9))
	w := World{Scans: []api.Scan{scan("nginx", dig("a"), 0, vs...)}}
	if i := Admit(w, create("", "alice", "nginx"), now).Images[0]; len(i.CVEs) != 0 {
		t.Errorf("an image that is allowed lists %v", i.CVEs)
	}
	w.Settings = &api.AdmissionSettings{Spec: api.AdmissionSettingsSpec{DefaultAction: api.Reject}}
	i := Admit(w, create("", "alice", "nginx"), now).Images[0]
	if len(i.CVEs) != 10 || i.MoreCVEs != 3 || i.CVEs[0] != "CVE-2025-0001" || i.CVEs[1] != "CVE-2024-0000" {
		t.Errorf("%+v", i)
	}
}
