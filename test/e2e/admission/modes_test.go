package admission_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/test/e2e/cluster"
)

// warnings keeps what the API server warns of.
type warnings struct {
	mu   sync.Mutex
	list []string
}

func (w *warnings) HandleWarningHeader(_ int, _ string, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = append(w.list, text)
}

func (w *warnings) take() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := strings.Join(w.list, "\n")
	w.list = nil
	return text
}

func warned(t *testing.T, c *rest.Config) (kubernetes.Interface, *warnings) {
	t.Helper()
	w := &warnings{}
	c = rest.CopyConfig(c)
	c.WarningHandler = w
	return client(t, c), w
}

// A policy in Warn or Audit mode decides nothing, and is heard of.
func TestModes(t *testing.T) {
	const soft = `
---
apiVersion: containersecurity.tigera.io/v1beta1
kind: ContainerAdmissionPolicy
metadata: {name: %s, annotations: {assay.dev/enforcement: %s}}
spec: {order: 1, rules: [{action: Reject, imageScanStatus: {operator: IsOneOf, values: [Warn]}}]}
`
	h, namespace := production(t, fmt.Sprintf(seed+soft+soft, "softly", "Warn", "quietly", "Audit"), scans())
	admin, said := warned(t, shared.Config)
	said.take()
	if _, err := admin.CoreV1().Pods(namespace).Create(t.Context(), pod("p", at("warn:1")), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if text := said.take(); !strings.Contains(text, "policy softly (Warn) would reject it by rule 1") || strings.Contains(text, "quietly") {
		t.Errorf("warnings: %s", text)
	}
	if d := h.decisions(); !strings.Contains(d, "policy quietly (Audit) would reject it by rule 1") {
		t.Error("the audit mode left no trace")
	}
}

// Who has the verb, a reason and an end admits what policies reject; it is recorded.
func TestOverride(t *testing.T) {
	h, namespace := production(t, seed, scans())
	shared.Apply(t, fmt.Sprintf(`
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: override, namespace: %[1]s}
rules: [{apiGroups: [containersecurity.tigera.io], resources: [containeradmissionpolicies], verbs: [override]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: override, namespace: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: override}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: on-call}]
`, namespace))
	edit(t, namespace, "oncall")
	operator, said := warned(t, shared.As("oncall", "on-call"))
	try := func(reason, until string) error {
		p := pod("glass", at("bad:1"))
		p.Annotations = map[string]string{api.OverrideReasonAnnotation: reason, api.OverrideUntilAnnotation: until}
		_, err := operator.CoreV1().Pods(namespace).Create(t.Context(), p, metav1.CreateOptions{})
		return err
	}
	soon := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	wantRefused(t, try("", soon), "assay.dev/override-reason is missing")
	wantRefused(t, try("outage 42", ""), "assay.dev/override-until must be a moment in RFC 3339")
	wantRefused(t, try("outage 42", time.Now().Add(-time.Minute).UTC().Format(time.RFC3339)), "it ended at")
	said.take()
	if err := try("outage 42", soon); err != nil {
		t.Fatal(err)
	}
	if text := said.take(); !strings.Contains(text, "admitted by an override of oncall until") {
		t.Errorf("warnings: %s", text)
	}
	if !strings.Contains(h.decisions(), `"override":{"by":"oncall","reason":"outage 42"`) {
		t.Error("it is not in the decision log")
	}
	cluster.Eventually(t, func() error {
		list, err := shared.Client.CoreV1().Events(namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "reason=PolicyOverridden"})
		if err != nil || len(list.Items) == 0 {
			return fmt.Errorf("no Event: %v", err)
		}
		return nil
	})
	if m := h.metrics(); !strings.Contains(m, `assay_admission_decisions_total{kind="Pod",outcome="overridden"} 1`) {
		t.Errorf("it is not counted: %s", m)
	}
}

// Where it is allowed, an update goes through whose image is no worse than what runs.
func TestNoWorse(t *testing.T) {
	list := append(scans(), scan(at("good:2"), digest("1"), 9.0), scan(at("good:3"), digest("2"), 9.9), scan(at("good:4"), digest("3"), 9.9))
	const settings = "---\napiVersion: assay.dev/v1alpha1\nkind: AdmissionSettings\nmetadata: {name: default}\nspec: {allowNoWorse: true}\n"
	h, namespace := production(t, seed+settings, list)
	deploy := func(image string) error {
		return shared.ApplyAs(t.Context(), shared.Config, object("Deployment", namespace, "web", at(image)))
	}
	if err := deploy("good:1"); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, deploy("good:2")) // worse than a Pass
	list[0] = scan(at("good:1"), digest("a"), 9.8)
	h.scans(list)
	cluster.Eventually(t, func() error { return deploy("good:2") }) // 9.0 in the place of 9.8
	wantRefused(t, deploy("good:3"))
	wantRefused(t, deploy("bad:1")) // another repository
	if !strings.Contains(h.decisions(), "it is no worse than "+at("good:1")) {
		t.Error("the decision does not say why")
	}
}

// A user's own Rego cannot hold up the cluster, nor be taken for a permission.
func TestCustomRego(t *testing.T) {
	h := start(t, seed, scans(), "--deadline", "300ms")
	register(t, h, "rego")
	namespace := shared.Namespace(t, map[string]string{"e2e": "rego", "environment": "production"})
	inForce(t, namespace)
	custom := func(text string) {
		h.replace("policies/custom.rego", []byte("package assay.custom.test\n\n"+text+"\n"))
	}

	custom("reject contains msg if {\n\tmsg := input.no.such.member\n}")
	inStep(t, h, namespace)
	if err := dryRun(t, pod("p", at("good:1")), namespace); err != nil {
		t.Errorf("an undefined rule refuses: %v", err)
	}
	wantRefused(t, dryRun(t, pod("p", at("bad:1")), namespace), "CVE-2026-0001")

	custom("reject contains msg if {\n\tcount([1 | some x in numbers.range(1, 100000); some y in numbers.range(1, 100000); x == y * 7]) > 0\n\tmsg := \"slow\"\n}")
	inStep(t, h, namespace)
	begun := time.Now()
	wantRefused(t, dryRun(t, pod("p", at("good:1")), namespace), "nothing could be decided", "within 300ms")
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("the refusal took %s", took)
	}

	custom("reject contains msg if {\n\tcount(input.containers) > 1\n\tmsg := \"one container only\"\n}")
	inStep(t, h, namespace)
	two := pod("p", at("good:1"))
	two.Spec.Containers = append(two.Spec.Containers, corev1.Container{Name: "second", Image: at("good:1")})
	wantRefused(t, dryRun(t, two, namespace), "one container only (package assay.custom.test)")

	custom("reject contains msg if {\n\tr := http.send({\"method\": \"GET\", \"url\": \"http://example.com\"})\n\tmsg := r.body\n}")
	cluster.Eventually(t, func() error {
		if !strings.Contains(h.logged(), "policies have no access to the network") {
			return fmt.Errorf("nobody is told")
		}
		return nil
	})
	wantRefused(t, dryRun(t, two, namespace), "one container only") // the last good policies
}

// Only the API server is answered, where its certificate is known.
func TestClientCertificate(t *testing.T) {
	h := start(t, seed, scans(), "--client-ca", shared.ClientCAFile, "--client-name", cluster.WebhookUser)
	register(t, h, "certificates")
	namespace := shared.Namespace(t, map[string]string{"e2e": "certificates", "environment": "production"})
	inForce(t, namespace)
	r, err := h.client().Post(h.url+"/admit", "application/json", strings.NewReader(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusForbidden {
		t.Errorf("without a certificate: %s", r.Status)
	}
	if !strings.Contains(h.decisions(), `"caller":{"authenticated":true,"name":"`+cluster.WebhookUser+`"}`) {
		t.Errorf("records do not say who called: %s", h.decisions())
	}
	if text := h.metrics(); !strings.Contains(text, "assay_admission_unauthenticated_total 0\n") {
		t.Error("decisions for the API server count as unauthenticated")
	}

	// Where no certificate is asked for, anyone may have made the review up: its record says so.
	open := start(t, seed, scans())
	body := fmt.Sprintf(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"made-up","kind":{"group":"","version":"v1","kind":"Pod"},"operation":"CREATE",
		"namespace":%q,"name":"p","userInfo":{"username":"system:apiserver"},"object":{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"nginx"}]}}}}`, namespace)
	if r, err = open.client().Post(open.url+"/admit", "application/json", strings.NewReader(body)); err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	cluster.Eventually(t, func() error {
		if text := open.decisions(); !strings.Contains(text, `"caller":{"authenticated":false}`) {
			return fmt.Errorf("it is not marked: %s", text)
		}
		return nil
	})
	if text := open.metrics(); !strings.Contains(text, "assay_admission_unauthenticated_total 1\n") {
		t.Error("it is not counted")
	}
}

// Gatekeeper's constraints can ask for results.
func TestGatekeeperProvider(t *testing.T) {
	h := start(t, seed, scans())
	ask := func(body string) string {
		r, err := h.client().Post(h.url+"/gatekeeper", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		var text bytes.Buffer
		if _, err := text.ReadFrom(r.Body); err != nil || r.StatusCode != http.StatusOK {
			t.Fatal(r.Status, err)
		}
		return text.String()
	}
	var answer struct {
		APIVersion, Kind string
		Response         struct {
			Items []struct {
				Key   string
				Value struct {
					Result, Digest string
					MaxCVSS        float64 `json:"max_cvss"`
				}
			}
		}
	}
	text := ask(fmt.Sprintf(`{"apiVersion":"externaldata.gatekeeper.sh/v1beta1","kind":"ProviderRequest","request":{"keys":[%q,%q,"Not An Image"]}}`, at("bad:1"), at("good:1")))
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		t.Fatal(err)
	}
	items := answer.Response.Items
	if answer.Kind != "ProviderResponse" || len(items) != 3 || items[0].Value.Result != "Fail" || items[0].Value.MaxCVSS != 9.8 || items[0].Value.Digest != digest("c") ||
		items[1].Value.Result != "Pass" || items[2].Value.Result != "Unknown" {
		t.Error(text)
	}
	for _, bad := range []string{`{`, `{"kind":"Other"}`} {
		if text := ask(bad); !strings.Contains(text, "systemError") {
			t.Errorf("%s: %s", bad, text)
		}
	}
}
