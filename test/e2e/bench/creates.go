package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"crypto/tls"
	"encoding/pem"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/test/e2e/cluster"
)

type bench struct {
	config
	ctx     context.Context
	dir     string
	program string
	cluster *cluster.Cluster
	cleanup []func()
	cert    certificate
}

// certificate is that of every webhook here.
type certificate struct {
	certFile, keyFile string
	ca                []byte
	pair              tls.Certificate
}

func (b *bench) stop() {
	for i := len(b.cleanup) - 1; i >= 0; i-- {
		b.cleanup[i]()
	}
}

// contender is one way to admit, registered for namespaces with its label.
type contender struct {
	name      string
	namespace string
}

func (b *bench) creates() ([]Create, error) {
	if err := b.makeCertificate(); err != nil {
		return nil, err
	}
	var all []contender
	add := func(name string, err error) error {
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		n, err := b.cluster.Client.CoreV1().Namespaces().Create(b.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"bench": name}}}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		all = append(all, contender{name, n.Name})
		return nil
	}
	if err := add("none", nil); err != nil {
		return nil, err
	}
	if err := add("empty", b.empty("empty")); err != nil {
		return nil, err
	}
	for _, c := range []struct {
		name string
		n    int
		all  bool
	}{{"1", 1, false}, {"50", 50, false}, {"200", 200, false}, {"50-all", 50, true}} {
		if err := add("assay-"+c.name, b.assay("assay-"+c.name, rulebook(c.n, c.all))); err != nil {
			return nil, err
		}
		if err := add("vap-"+c.name, b.vap("vap-"+c.name, c.n, c.all)); err != nil {
			return nil, err
		}
	}
	time.Sleep(2 * time.Second) // registrations come into force
	for _, c := range all {
		for range 50 { // its ServiceAccount
			if _, err := b.cluster.Client.CoreV1().ServiceAccounts(c.namespace).Get(b.ctx, "default", metav1.GetOptions{}); err == nil {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	var out []Create
	for _, clients := range []int{1, 8} {
		times := map[string][]time.Duration{}
		for round := range b.rounds {
			for _, i := range rand.Perm(len(all)) {
				took, err := b.block(all[i], clients)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", all[i].name, err)
				}
				if round > 0 {
					times[all[i].name] = append(times[all[i].name], took...)
				}
			}
		}
		base := quantile(times["empty"], 0.5)
		for _, c := range all {
			p50 := quantile(times[c.name], 0.5)
			out = append(out, Create{c.name, clients, len(times[c.name]), p50, quantile(times[c.name], 0.99), p50 / base})
		}
	}
	return out, nil
}

// block creates Pods, and takes them away outside of the time that counts.
func (b *bench) block(c contender, clients int) ([]time.Duration, error) {
	pods := b.cluster.Client.CoreV1().Pods(c.namespace)
	var mu sync.Mutex
	var took []time.Duration
	var failed error
	var all sync.WaitGroup
	for n := range clients {
		all.Go(func() {
			for i := range b.pods {
				p := realPod(fmt.Sprintf("p-%d-%d", n, i))
				begun := time.Now()
				_, err := pods.Create(b.ctx, p, metav1.CreateOptions{FieldManager: "kubectl-client-side-apply"})
				t := time.Since(begun)
				mu.Lock()
				took = append(took, t)
				if err != nil {
					failed = err
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	now := int64(0)
	if err := pods.DeleteCollection(b.ctx, metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{}); err != nil {
		return nil, err
	}
	return took, failed
}

// realPod has the size that the API server sends of a usual one: some 4.9 KB once it is
// defaulted and has its managedFields.
func realPod(name string) *corev1.Pod {
	probe := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}}, PeriodSeconds: 10}
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name:        name,
			Labels:      map[string]string{"app.kubernetes.io/name": "web", "app.kubernetes.io/instance": "web-prod", "app.kubernetes.io/version": "1.4.2", "team": "shop"},
			Annotations: map[string]string{"prometheus.io/scrape": "true", "prometheus.io/port": "8080"},
		},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{{
				Name: "web", Image: "registry.example.com/prod/web:1", Args: []string{"--listen=:8080", "--config=/etc/web/config.yaml"},
				Ports:          []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
				LivenessProbe:  probe,
				ReadinessProbe: probe,
				Resources: corev1.ResourceRequirements{
					Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("256Mi")},
					Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi")},
				},
				VolumeMounts: []corev1.VolumeMount{{Name: "config", MountPath: "/etc/web"}, {Name: "tmp", MountPath: "/tmp"}},
			}},
			Volumes: []corev1.Volume{
				{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "web"}}}},
				{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			},
		},
	}
	for i := range 4 {
		p.Spec.Containers[0].Env = append(p.Spec.Containers[0].Env, corev1.EnvVar{Name: fmt.Sprintf("SETTING_%d", i), Value: strings.Repeat("x", 20)})
	}
	return p
}

func (b *bench) makeCertificate() error {
	// httptest has a certificate for 127.0.0.1 and its key.
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	b.cert.pair = s.TLS.Certificates[0]
	b.cert.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	key, err := marshalKey(b.cert.pair)
	if err != nil {
		return err
	}
	b.cert.certFile, b.cert.keyFile = filepath.Join(b.dir, "tls.crt"), filepath.Join(b.dir, "tls.key")
	if err := os.WriteFile(b.cert.certFile, b.cert.ca, 0o600); err != nil {
		return err
	}
	return os.WriteFile(b.cert.keyFile, key, 0o600)
}

// empty is the least that a webhook can do: read, take the uid, allow.
func (b *bench) empty(name string) error {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review struct {
			Request struct {
				UID string `json:"uid"`
			} `json:"request"`
		}
		text, err := io.ReadAll(r.Body)
		if err == nil {
			err = json.Unmarshal(text, &review)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":%q,"allowed":true}}`, review.Request.UID)
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	b.cleanup = append(b.cleanup, s.Close)
	return b.register(name, s.URL+"/admit", b.cert.ca)
}

// assay runs the webhook's program by these policies.
func (b *bench) assay(name, policies string) error {
	h, err := b.start(name, policies)
	if err != nil {
		return err
	}
	return b.register(name, h.url+"/admit", b.cert.ca)
}

// hook is a webhook that runs.
type hook struct {
	url, dir string
	cmd      *exec.Cmd
}

func (b *bench) start(name, policies string, args ...string) (*hook, error) {
	dir := filepath.Join(b.dir, name)
	if err := os.MkdirAll(filepath.Join(dir, "policies"), 0o700); err != nil {
		return nil, err
	}
	if policies != "" {
		if err := os.WriteFile(filepath.Join(dir, "policies", "policies.yaml"), []byte(policies), 0o600); err != nil {
			return nil, err
		}
		low := 2.0
		scans := api.ScanReport{Schema: api.SchemaScan, Images: []api.Scan{{
			Image: "registry.example.com/prod/web:1", Digest: "sha256:" + strings.Repeat("a", 64), Source: "registry", ScannedAt: time.Now().UTC(), Packages: 1,
			Vulnerabilities: []api.Vulnerability{{ID: "CVE-2026-0001", Package: "p", Version: "1", Type: "deb", CVSS: &low, Severity: "Low"}},
		}}}
		text, err := json.Marshal(scans)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, "scans.json"), text, 0o600); err != nil {
			return nil, err
		}
		args = append(args, "--policies", filepath.Join(dir, "policies"), "--scans", filepath.Join(dir, "scans.json"))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		return nil, err
	}
	logFile, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	h := &hook{url: "https://" + address, dir: dir}
	h.cmd = exec.Command(b.program, append([]string{"--listen", address, "--tls-cert", b.cert.certFile, "--tls-key", b.cert.keyFile, "--kubeconfig", b.cluster.Kubeconfig, "--log-level", "warn", "--shutdown-delay", "0s"}, args...)...)
	h.cmd.Stderr, h.cmd.Stdout = logFile, logFile
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := h.cmd.Start(); err != nil {
		return nil, err
	}
	b.cleanup = append(b.cleanup, func() {
		_ = h.cmd.Process.Kill()
		_ = h.cmd.Wait()
	})
	return h, b.ready(h)
}

func (b *bench) ready(h *hook) error {
	client := b.client(1)
	defer client.CloseIdleConnections()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		r, err := client.Get(h.url + "/readyz")
		if err == nil {
			_ = r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("%s", r.Status)
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(filepath.Join(h.dir, "log"))
			return fmt.Errorf("not ready: %w\n%s", err, text)
		}
	}
}

func (b *bench) register(name, url string, ca []byte) error {
	fail, none := admissionregistrationv1.Fail, admissionregistrationv1.SideEffectClassNoneOnDryRun
	_, err := b.cluster.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(b.ctx, &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: "workloads.assay.dev", AdmissionReviewVersions: []string{"v1"}, FailurePolicy: &fail, SideEffects: &none,
			ClientConfig:      admissionregistrationv1.WebhookClientConfig{URL: &url, CABundle: ca},
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"bench": name}},
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
				Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
			}},
		}},
	}, metav1.CreateOptions{})
	return err
}

// vap makes n ValidatingAdmissionPolicies that say of references what the others say; they
// know no results.
func (b *bench) vap(name string, n int, all bool) error {
	client := b.cluster.Client.AdmissionregistrationV1()
	for i := range n {
		expression := fmt.Sprintf(`object.spec.containers.all(c, !c.image.matches('^registry\\.example\\.com/team-%d/'))`, i)
		if all {
			expression = fmt.Sprintf(`object.spec.containers.all(c, !(c.image.matches('/prod/w.*%d?') && c.image.contains('fail')))`, i)
		}
		id := fmt.Sprintf("%s-%d", name, i)
		fail := admissionregistrationv1.Fail
		if _, err := client.ValidatingAdmissionPolicies().Create(b.ctx, &admissionregistrationv1.ValidatingAdmissionPolicy{
			ObjectMeta: metav1.ObjectMeta{Name: id},
			Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
				FailurePolicy: &fail,
				MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: admissionregistrationv1.RuleWithOperations{
					Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
					Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
				}}}},
				Validations: []admissionregistrationv1.Validation{{Expression: expression}},
			},
		}, metav1.CreateOptions{}); err != nil {
			return err
		}
		if _, err := client.ValidatingAdmissionPolicyBindings().Create(b.ctx, &admissionregistrationv1.ValidatingAdmissionPolicyBinding{
			ObjectMeta: metav1.ObjectMeta{Name: id},
			Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
				PolicyName: id, ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny},
				MatchResources: &admissionregistrationv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"bench": name}}},
			},
		}, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	return nil
}
