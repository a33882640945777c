// Package admission_test proves the admission webhook, as its own program, on a real
// Kubernetes API server.
package admission_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/test/e2e/cluster"
)

var (
	shared  *cluster.Cluster
	program string // assay-webhook
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (status int) {
	dir, err := os.MkdirTemp("", "assay-webhook")
	if err != nil {
		log.Print(err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "assay-webhook")
	build := exec.Command("go", "build", "-C", "../../..", "-trimpath", "-o", program, "./cmd/assay-webhook") // by the product's own go.mod
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		log.Printf("building the webhook: %v\n%s", err, out)
		return 1
	}
	shared, err = cluster.New(cluster.Config{WebhookCertificate: true})
	if err != nil {
		log.Print(err)
		return 1
	}
	defer func() {
		if err := shared.Close(); err != nil {
			log.Print(err)
			status = 1
		}
	}()
	return m.Run()
}

// seed lets production run images of its own repository that pass or are warned of.
const seed = `
apiVersion: containersecurity.tigera.io/v1beta1
kind: ContainerAdmissionPolicy
metadata: {name: seed}
spec:
  namespaceSelector: environment == 'production'
  rules:
  - action: Allow
    imagePath: {operator: IsOneOf, values: ['^registry\.example\.com/prod/']}
    imageScanStatus: {operator: IsOneOf, values: [Pass, Warn]}
  - action: Reject
`

func digest(c string) string { return "sha256:" + strings.Repeat(c, 64) }

func at(name string) string { return "registry.example.com/prod/" + name }

func scan(image, digest string, scores ...float64) api.Scan {
	s := api.Scan{Image: image, Digest: digest, Source: "registry", ScannedAt: time.Now().UTC().Add(-time.Hour), Packages: 1, Vulnerabilities: []api.Vulnerability{}}
	for i, score := range scores {
		s.Vulnerabilities = append(s.Vulnerabilities, api.Vulnerability{
			ID: fmt.Sprintf("CVE-2026-%04d", i+1), Package: "openssl", Version: "1", Type: "deb", CVSS: &score, Severity: "High",
		})
	}
	return s
}

// scans are what the webhooks of tests know.
func scans() []api.Scan {
	return []api.Scan{
		scan(at("good:1"), digest("a"), 2.0),
		scan(at("warn:1"), digest("b"), 7.5),
		scan(at("bad:1"), digest("c"), 9.8, 9.1, 3.0),
		scan("registry.example.com/other/good:1", digest("d"), 1.0),
	}
}

// hook is a webhook that runs, with what it decides by.
type hook struct {
	t       testing.TB
	dir     string
	address string
	url     string
	args    []string
	cert    *cluster.Certificate

	mu  sync.Mutex
	cmd *exec.Cmd
	log bytes.Buffer
}

// Write keeps what the program logs.
func (h *hook) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.log.Write(p)
}

func (h *hook) logged() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.log.String()
}

// start runs a webhook by these policies and scans until the test ends.
func start(t testing.TB, policies string, list []api.Scan, args ...string) *hook {
	t.Helper()
	h := newHook(t)
	h.policies(policies)
	h.scans(list)
	h.args = append([]string{"--policies", filepath.Join(h.dir, "policies"), "--scans", filepath.Join(h.dir, "scans.json"),
		"--decision-log", filepath.Join(h.dir, "decisions.jsonl"), "--kubeconfig", shared.Kubeconfig}, args...)
	h.run()
	h.ready()
	return h
}

// newHook has a certificate and an address, and does not run.
func newHook(t testing.TB) *hook {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &hook{t: t, dir: t.TempDir(), address: free.Addr().String(), cert: cluster.NewCertificate(t, "127.0.0.1", "localhost")}
	h.url = "https://" + h.address
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.stop(syscall.SIGKILL)
		if t.Failed() {
			log := h.logged()
			t.Logf("the end of the webhook's log:\n%s", log[max(0, len(log)-4000):])
		}
	})
	return h
}

func (h *hook) run() {
	h.t.Helper()
	cmd := exec.Command(program, append([]string{"--listen", h.address, "--tls-cert", h.cert.CertFile, "--tls-key", h.cert.KeyFile, "--log-level", "debug", "--shutdown-delay", "500ms"}, h.args...)...)
	cmd.Stderr, cmd.Stdout = h, h
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.cmd = cmd
}

// stop ends the program and waits for it.
func (h *hook) stop(by syscall.Signal) {
	if h.cmd == nil {
		return
	}
	_ = h.cmd.Process.Signal(by)
	_ = h.cmd.Wait()
	h.cmd = nil
}

func (h *hook) client() *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(h.cert.CA)
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
}

func (h *hook) ready() {
	h.t.Helper()
	client := h.client()
	cluster.Eventually(h.t, func() error {
		r, err := client.Get(h.url + "/readyz?verbose")
		if err != nil {
			return err
		}
		defer r.Body.Close()
		if r.StatusCode != http.StatusOK {
			var text bytes.Buffer
			_, _ = text.ReadFrom(r.Body)
			return fmt.Errorf("not ready: %s\n%s", &text, h.logged())
		}
		return nil
	})
}

// replace puts a file in the place of another, as a ConfigMap does.
func (h *hook) replace(name string, text []byte) {
	h.t.Helper()
	path := filepath.Join(h.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path+".new", text, 0o600), os.Rename(path+".new", path)); err != nil {
		h.t.Fatal(err)
	}
}

func (h *hook) policies(text string) { h.replace("policies/policies.yaml", []byte(text)) }

func (h *hook) scans(list []api.Scan) {
	h.t.Helper()
	text, err := json.Marshal(api.ScanReport{Schema: api.SchemaScan, Images: list})
	if err != nil {
		h.t.Fatal(err)
	}
	h.replace("scans.json", text)
}

// register has the API server ask the webhook about workloads in namespaces with a label.
func register(t testing.TB, h *hook, label string, change ...func(*admissionregistrationv1.ValidatingWebhook)) {
	t.Helper()
	url, fail, none, timeout := h.url+"/admit", admissionregistrationv1.Fail, admissionregistrationv1.SideEffectClassNoneOnDryRun, int32(10)
	w := admissionregistrationv1.ValidatingWebhook{
		Name: "workloads.assay.dev", AdmissionReviewVersions: []string{"v1"}, FailurePolicy: &fail, SideEffects: &none, TimeoutSeconds: &timeout,
		ClientConfig:      admissionregistrationv1.WebhookClientConfig{URL: &url, CABundle: h.cert.CA},
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"e2e": label}},
	}
	for group, resources := range map[string][]string{
		"":      {"pods", "pods/ephemeralcontainers", "replicationcontrollers"},
		"apps":  {"deployments", "replicasets", "statefulsets", "daemonsets"},
		"batch": {"jobs", "cronjobs"},
	} {
		w.Rules = append(w.Rules, admissionregistrationv1.RuleWithOperations{
			Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create, admissionregistrationv1.Update},
			Rule:       admissionregistrationv1.Rule{APIGroups: []string{group}, APIVersions: []string{"*"}, Resources: resources},
		})
	}
	for _, f := range change {
		f(&w)
	}
	configure(t, label, w)
}

// configure makes a registration, and waits until it is in force.
func configure(t testing.TB, name string, webhooks ...admissionregistrationv1.ValidatingWebhook) {
	t.Helper()
	configurations := shared.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	if _, err := configurations.Create(t.Context(), &admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}, Webhooks: webhooks}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := configurations.Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
}

// inForce waits until the webhook refuses in a namespace what the seed refuses.
func inForce(t testing.TB, namespace string) {
	t.Helper()
	cluster.Eventually(t, func() error {
		if err := dryRun(t, pod("probe", at("bad:1")), namespace); !refused(err) {
			return fmt.Errorf("the webhook is not in force: %v", err)
		}
		return nil
	})
}

// refused says whether an error is a webhook's refusal.
func refused(err error) bool {
	return err != nil && strings.Contains(err.Error(), "admission webhook") && strings.Contains(err.Error(), "denied the request")
}

// decisions are the receipts, a JSON line each.
func (h *hook) decisions() string {
	h.t.Helper()
	text, err := os.ReadFile(filepath.Join(h.dir, "decisions.jsonl"))
	if err != nil {
		h.t.Fatal(err)
	}
	return string(text)
}

// registerValidation has the API server ask about Assay's own kinds, and the labels of namespaces.
func registerValidation(t testing.TB, h *hook, name string) {
	t.Helper()
	url, fail, none := h.url+"/validate", admissionregistrationv1.Fail, admissionregistrationv1.SideEffectClassNone
	update := []admissionregistrationv1.OperationType{admissionregistrationv1.Create, admissionregistrationv1.Update}
	configure(t, name, admissionregistrationv1.ValidatingWebhook{
		Name: "kinds.assay.dev", AdmissionReviewVersions: []string{"v1"}, FailurePolicy: &fail, SideEffects: &none,
		ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: &url, CABundle: h.cert.CA},
		Rules: []admissionregistrationv1.RuleWithOperations{
			{Operations: update, Rule: admissionregistrationv1.Rule{APIGroups: []string{"containersecurity.tigera.io", "assay.dev"}, APIVersions: []string{"*"}, Resources: []string{"*"}}},
			{Operations: update, Rule: admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"namespaces", "namespaces/*"}}},
		},
		MatchConditions: []admissionregistrationv1.MatchCondition{{Name: "labels-change",
			Expression: "request.resource.resource != 'namespaces' || request.operation == 'CREATE' || object.metadata.?labels != oldObject.metadata.?labels"}}, // as the chart's
	})
}

// metrics are those that the administrator reads.
func (h *hook) metrics() string {
	h.t.Helper()
	// A token of a ServiceAccount that may.
	shared.Apply(h.t, `
apiVersion: v1
kind: ServiceAccount
metadata: {name: prometheus, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: metrics}
rules: [{nonResourceURLs: [/metrics], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: metrics}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: metrics}
subjects: [{kind: ServiceAccount, name: prometheus, namespace: default}]
`)
	made, err := shared.Client.CoreV1().ServiceAccounts("default").CreateToken(h.t.Context(), "prometheus", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		h.t.Fatal(err)
	}
	get := func(token string) (int, string) {
		r, err := http.NewRequest(http.MethodGet, h.url+"/metrics", nil)
		if err != nil {
			h.t.Fatal(err)
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		answer, err := h.client().Do(r)
		if err != nil {
			h.t.Fatal(err)
		}
		defer answer.Body.Close()
		var text bytes.Buffer
		_, _ = text.ReadFrom(answer.Body)
		return answer.StatusCode, text.String()
	}
	if status, _ := get(""); status != http.StatusForbidden {
		h.t.Errorf("metrics without a token: %d", status)
	}
	status, text := 0, ""
	cluster.Eventually(h.t, func() error {
		if status, text = get(made.Status.Token); status != http.StatusOK {
			return fmt.Errorf("metrics: %d %s", status, text)
		}
		return nil
	})
	return text
}
