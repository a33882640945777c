// Package install_test applies the plain manifests to a real API server, runs the webhook
// with exactly the rights that they give, and takes each right away in turn.
package install_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/assay-dev/assay/test/e2e/cluster"
)

var (
	shared  *cluster.Cluster
	program string // assay-webhook
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (status int) {
	dir, err := os.MkdirTemp("", "assay-install")
	if err != nil {
		log.Print(err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "assay-webhook")
	build := exec.Command("go", "build", "-C", "../../..", "-trimpath", "-o", program, "./cmd/assay-webhook")
	if out, err := build.CombinedOutput(); err != nil {
		log.Printf("building the webhook: %v\n%s", err, out)
		return 1
	}
	if shared, err = cluster.New(cluster.Config{}); err != nil {
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

// installation is that of the manifests, with this machine in the place of the Pods.
type installation struct {
	t    *testing.T
	port int
	log  bytes.Buffer
	mu   sync.Mutex
	cmd  *exec.Cmd
	// tenants are namespaces that were there before the webhook, which is asked about new ones.
	tenants []string
}

// tenants makes namespaces that policies look at.
func tenants(t *testing.T) (names []string) {
	t.Helper()
	for n := range 80 {
		made, err := shared.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("tenant-%d", n), Labels: map[string]string{"environment": "production"}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, made.Name)
	}
	return names
}

func (i *installation) Write(p []byte) (int, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.log.Write(p)
}

const namespace = "assay-system"

// install applies the definitions and the manifests as they are, and then leads the Service here.
func install(t *testing.T) *installation {
	t.Helper()
	files, err := filepath.Glob("../../../deploy/crds/*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatal(err, files)
	}
	for _, name := range append(files, "../../../deploy/kubernetes/assay.yaml") {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		shared.Apply(t, string(text))
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	i := &installation{t: t, port: free.Addr().(*net.TCPAddr).Port}
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if err := shared.Client.CoreV1().Services(namespace).Delete(ctx, "assay-webhook", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	shared.Service(t, namespace, "assay-webhook", i.port)
	configurations := shared.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	c, err := configurations.Get(ctx, "assay", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	port := int32(i.port)
	for n := range c.Webhooks {
		c.Webhooks[n].ClientConfig.Service.Port = &port
	}
	if _, err := configurations.Update(ctx, c, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	return i
}

// run starts the webhook as the manifests' ServiceAccount, with the arguments of their container.
func (i *installation) run() {
	i.t.Helper()
	ctx := i.t.Context()
	d, err := shared.Client.AppsV1().Deployments(namespace).Get(ctx, "assay-webhook", metav1.GetOptions{})
	if err != nil {
		i.t.Fatal(err)
	}
	token, err := shared.Client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, d.Spec.Template.Spec.ServiceAccountName, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		i.t.Fatal(err)
	}
	user := rest.AnonymousClientConfig(shared.Config)
	user.BearerToken = token.Status.Token
	args := slices.DeleteFunc(slices.Clone(d.Spec.Template.Spec.Containers[0].Args), func(a string) bool { return strings.HasPrefix(a, "--listen=") || strings.HasPrefix(a, "--persist=") })
	i.cmd = exec.Command(program, append(args, fmt.Sprintf("--listen=127.0.0.1:%d", i.port), "--kubeconfig="+shared.KubeconfigFor(i.t, user), "--shutdown-delay=0s")...)
	i.cmd.Stderr, i.cmd.Stdout = i, i
	i.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := i.cmd.Start(); err != nil {
		i.t.Fatal(err)
	}
}

func (i *installation) stop() {
	if i.cmd != nil {
		_ = i.cmd.Process.Kill()
		_ = i.cmd.Wait()
	}
}

// within waits a moment for a check to succeed.
func within(ctx context.Context, patience time.Duration, check func() error) error {
	for deadline := time.Now().Add(patience); ; {
		err := check()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

var policyResource = schema.GroupVersionResource{Group: "containersecurity.tigera.io", Version: "v1beta1", Resource: "containeradmissionpolicies"}

func pod(name string, annotations map[string]string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "registry.example.com/shop/web:1"}}}}
}

// capabilities are what the webhook can do, each with what it proves; the error says why not.
func (i *installation) capabilities(patience time.Duration) map[string]error {
	ctx := i.t.Context()
	client := shared.Client
	name := i.tenants[0]
	i.tenants = i.tenants[1:]
	create := func(p *corev1.Pod) error {
		_, err := client.CoreV1().Pods(name).Create(ctx, p, metav1.CreateOptions{})
		return err
	}
	prometheus, err := client.CoreV1().ServiceAccounts("default").CreateToken(ctx, "prometheus", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		i.t.Fatal(err)
	}
	oncall, err := kubernetes.NewForConfig(shared.As("oncall", "on-call"))
	if err != nil {
		i.t.Fatal(err)
	}
	plain := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // the API server's trust is what is tested
	get := func(path, token string) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d%s", i.port, path), nil)
		if err != nil {
			return err
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		answer, err := plain.Do(r)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		var text bytes.Buffer
		_, _ = text.ReadFrom(answer.Body)
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", answer.Status, &text)
		}
		return nil
	}
	compiled := func(group, version, resource, object string) error {
		o, err := shared.Dynamic.Resource(schema.GroupVersionResource{Group: group, Version: version, Resource: resource}).Get(ctx, object, metav1.GetOptions{})
		if err != nil {
			return err
		}
		status, _ := o.Object["status"].(map[string]any)
		if status["compiled"] != true {
			return fmt.Errorf("%s %s: status %v", resource, object, status)
		}
		return nil
	}
	checks := map[string]func() error{
		"ready": func() error { return get("/readyz", "") },
		"judges": func() error {
			if err := create(pod("judged", nil)); err == nil || !strings.Contains(err.Error(), "denied the request") || !strings.Contains(err.Error(), "policy seed rule 1") {
				return fmt.Errorf("not refused by the policy: %v", err)
			}
			return nil
		},
		"events": func() error {
			_ = create(pod(fmt.Sprintf("told-%d", time.Now().UnixNano()), nil))
			list, err := client.CoreV1().Events(name).List(ctx, metav1.ListOptions{FieldSelector: "reason=ImageRejected"})
			if err != nil || len(list.Items) == 0 {
				return fmt.Errorf("no Event: %v", err)
			}
			return nil
		},
		"repeated events": func() error {
			_ = create(pod("again", nil))
			list, err := client.CoreV1().Events(name).List(ctx, metav1.ListOptions{FieldSelector: "reason=ImageRejected,involvedObject.name=again"})
			if err != nil || !slices.ContainsFunc(list.Items, func(e corev1.Event) bool { return e.Count > 1 }) {
				return fmt.Errorf("no Event counts: %v", err)
			}
			return nil
		},
		"override": func() error {
			p := pod(fmt.Sprintf("glass-%d", time.Now().UnixNano()), map[string]string{"assay.dev/override-reason": "test", "assay.dev/override-until": "2999-01-01T00:00:00Z"})
			_, err := oncall.CoreV1().Pods(name).Create(ctx, p, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			return err
		},
		"metrics": func() error { return get("/metrics", prometheus.Status.Token) },
		"statuses": func() error {
			return errors.Join(compiled("containersecurity.tigera.io", "v1beta1", "containeradmissionpolicies", "seed"))
		},
		"other statuses": func() error {
			return errors.Join(compiled("assay.dev", "v1alpha1", "thresholds", "default"), compiled("assay.dev", "v1alpha1", "admissionsettings", "default"),
				compiled("assay.dev", "v1alpha1", "vulnerabilityexceptions", "one"), compiled("assay.dev", "v1alpha1", "verdictalerts", "one"))
		},
		"certificate": func() error {
			s, err := client.CoreV1().Secrets(namespace).Get(ctx, "assay-webhook-tls", metav1.GetOptions{})
			if err != nil {
				return err
			}
			_, err = tls.X509KeyPair(s.Data["tls.crt"], s.Data["tls.key"])
			return err
		},
		"published": func() error {
			c, err := client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Get(ctx, "assay", metav1.GetOptions{})
			if err != nil || len(c.Webhooks[0].ClientConfig.CABundle) == 0 {
				return fmt.Errorf("no authority: %v", err)
			}
			return nil
		},
	}
	for _, resource := range []string{"containeradmissionpolicies", "thresholds", "admissionsettings", "vulnerabilityexceptions", "verdictalerts"} {
		checks["follows "+resource] = func() error { return i.followed(resource, get) }
	}
	checks["follows namespaces"] = func() error { return i.followedNamespace(get) }
	found := map[string]error{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for name, check := range checks {
		all.Go(func() {
			err := within(ctx, patience, check)
			mu.Lock()
			defer mu.Unlock()
			found[name] = err
		})
	}
	all.Wait()
	if err := client.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		i.t.Error(err)
	}
	return found
}

// objects are what the webhook needs to be able to show all of it.
const objects = `
apiVersion: containersecurity.tigera.io/v1beta1
kind: ContainerAdmissionPolicy
metadata: {name: seed}
spec: {namespaceSelector: "environment == 'production'", rules: [{action: Reject}]}
---
apiVersion: containersecurity.tigera.io/v1beta1
kind: ContainerAdmissionPolicy
metadata: {name: other}
spec: {selector: "never == 'there'"}
---
apiVersion: v1
kind: Namespace
metadata: {name: known, labels: {environment: staging}}
---
apiVersion: assay.dev/v1alpha1
kind: Thresholds
metadata: {name: default}
spec: {warn: 5}
---
apiVersion: assay.dev/v1alpha1
kind: AdmissionSettings
metadata: {name: default}
spec: {}
---
apiVersion: assay.dev/v1alpha1
kind: VulnerabilityException
metadata: {name: one}
spec: {cve: CVE-2026-0001, scope: any, justification: test}
---
apiVersion: assay.dev/v1alpha1
kind: VerdictAlert
metadata: {name: one}
spec: {description: test, severity: 10}
---
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
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: on-call}
rules:
- {apiGroups: [containersecurity.tigera.io], resources: [containeradmissionpolicies], verbs: [override]}
- {apiGroups: [""], resources: [pods], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: on-call}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: on-call}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: on-call}]
`

// The manifests are accepted, and the webhook does all that it should with the rights that they
// give: and each of these is needed for something that is named.
func TestRights(t *testing.T) {
	// Policies come before the webhook that would be asked about them.
	for _, name := range []string{"containeradmissionpolicies.containersecurity.tigera.io", "vulnerabilityexceptions.assay.dev", "thresholds.assay.dev", "admissionsettings.assay.dev", "verdictalerts.assay.dev"} {
		text, err := os.ReadFile(filepath.Join("../../../deploy/crds", name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		shared.Apply(t, string(text))
	}
	shared.Apply(t, objects)
	there := tenants(t)
	i := install(t)
	i.tenants = there
	ctx := t.Context()
	i.run()
	defer func() { i.stop() }()
	for name, err := range i.capabilities(2 * time.Minute) {
		if err != nil {
			t.Errorf("with all rights, %s: %v", name, err)
		}
	}
	i.stop()
	if t.Failed() {
		t.Fatalf("the webhook's log:\n%s", i.log.String())
	}

	roles, clusterRoles := shared.Client.RbacV1().Roles(namespace), shared.Client.RbacV1().ClusterRoles()
	role, err := roles.Get(ctx, "assay-webhook", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	clusterRole, err := clusterRoles.Get(ctx, "assay-webhook", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	put := func(rules, clusterRules []rbacv1.PolicyRule) {
		t.Helper()
		r, c := role.DeepCopy(), clusterRole.DeepCopy()
		r.Rules, c.Rules, r.ResourceVersion, c.ResourceVersion = rules, clusterRules, "", ""
		if _, err := roles.Update(ctx, r, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := clusterRoles.Update(ctx, c, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, right := range rightsOf(append(slices.Clone(clusterRole.Rules), role.Rules...)) {
		t.Run(right.String(), func(t *testing.T) {
			// What an earlier run left would hide what is missing.
			secrets := shared.Client.CoreV1().Secrets(namespace)
			_ = secrets.Delete(ctx, "assay-webhook-tls", metav1.DeleteOptions{})
			if right == (rightTo{"", "secrets", "update"}) { // which is for what is there, and wrong
				if _, err := secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "assay-webhook-tls"}, Data: map[string][]byte{"tls.crt": []byte("damaged")}}, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			i.forget(t)
			missing := []rightTo{right}
			switch right.verb {
			case "list", "watch":
				// Either would do: who cannot watch lists again and again, and a cluster that can stream
				// lists need not be asked for them. An older one must, and watching is what spares it.
				missing = []rightTo{{right.group, right.resource, "list"}, {right.group, right.resource, "watch"}}
			case "get":
				if right.resource == "namespaces" { // one that is followed is not looked up
					missing = append(missing, rightTo{"", "namespaces", "watch"}, rightTo{"", "namespaces", "list"})
				}
			}
			put(without(role.Rules, missing...), without(clusterRole.Rules, missing...))
			i.run()
			defer func() { i.stop() }()
			broken := map[string]error{}
			for name, err := range i.capabilities(4 * time.Second) {
				if err != nil {
					broken[name] = err
				}
			}
			want := needs[right.String()]
			if right.verb == "watch" {
				want = "ready"
			}
			if want == "" {
				t.Fatalf("no test is named that needs this right; without it, broken is: %v", broken)
			}
			if broken[want] == nil {
				t.Errorf("%s works without it; broken is: %v", want, broken)
			}
		})
	}
	put(role.Rules, clusterRole.Rules)
}

// needs names what breaks without each right.
var needs = map[string]string{
	"get namespaces":                           "judges",
	"list namespaces":                          "ready",
	"create events":                            "events",
	"patch events":                             "repeated events",
	"create subjectaccessreviews":              "override",
	"create tokenreviews":                      "metrics",
	"list containeradmissionpolicies":          "ready",
	"list vulnerabilityexceptions":             "ready",
	"list thresholds":                          "ready",
	"list admissionsettings":                   "ready",
	"list verdictalerts":                       "ready",
	"update containeradmissionpolicies/status": "statuses",
	"update vulnerabilityexceptions/status":    "other statuses",
	"update thresholds/status":                 "other statuses",
	"update admissionsettings/status":          "other statuses",
	"update verdictalerts/status":              "other statuses",
	"get validatingwebhookconfigurations":      "published",
	"update validatingwebhookconfigurations":   "published",
	"get secrets":                              "certificate",
	"update secrets":                           "certificate",
	"create secrets":                           "certificate",
}

// followed changes an object once the webhook runs, and wants the change taken up.
func (i *installation) followed(resource string, get func(path, token string) error) error {
	ctx := i.t.Context()
	if err := get("/readyz", ""); err != nil {
		return err
	}
	group, version, name, patch := "assay.dev", "v1alpha1", "default", ""
	n := time.Now().UnixNano()
	switch resource {
	case "containeradmissionpolicies":
		group, version, name, patch = policyResource.Group, policyResource.Version, "other", fmt.Sprintf(`{"spec":{"order":%d}}`, n%1000)
	case "thresholds":
		patch = fmt.Sprintf(`{"spec":{"warn":%d.%d}}`, 1+n%5, n%1000)
	case "admissionsettings":
		patch = fmt.Sprintf(`{"spec":{"excludedNamespaces":["kube-system","x%d"]}}`, n)
	case "vulnerabilityexceptions":
		name, patch = "one", fmt.Sprintf(`{"spec":{"justification":"test %d"}}`, n)
	case "verdictalerts":
		name, patch = "one", fmt.Sprintf(`{"spec":{"description":"test %d"}}`, n)
	}
	client := shared.Dynamic.Resource(schema.GroupVersionResource{Group: group, Version: version, Resource: resource})
	o, err := client.Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		return err
	}
	return within(ctx, 3*time.Second, func() error {
		now, err := client.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		status, _ := now.Object["status"].(map[string]any)
		if seen, _ := status["observedGeneration"].(int64); seen < o.GetGeneration() {
			return fmt.Errorf("%s: generation %d, seen %v", name, o.GetGeneration(), status["observedGeneration"])
		}
		return nil
	})
}

// followedNamespace changes the label of a namespace that the webhook knows.
func (i *installation) followedNamespace(get func(path, token string) error) error {
	ctx := i.t.Context()
	if err := get("/readyz", ""); err != nil {
		return err
	}
	namespaces := shared.Client.CoreV1().Namespaces()
	if _, err := namespaces.Patch(ctx, "known", types.MergePatchType, []byte(`{"metadata":{"labels":{"environment":"production"}}}`), metav1.PatchOptions{}); err != nil {
		return err
	}
	return within(ctx, 3*time.Second, func() error {
		_, err := shared.Client.CoreV1().Pods("known").Create(ctx, pod("p", nil), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err == nil || !strings.Contains(err.Error(), "policy seed rule 1") {
			return fmt.Errorf("the label is not known: %v", err)
		}
		return nil
	})
}

// forget takes away what the webhook wrote into the cluster.
func (i *installation) forget(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	configurations := shared.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	c, err := configurations.Get(ctx, "assay", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for n := range c.Webhooks {
		c.Webhooks[n].ClientConfig.CABundle = nil
	}
	if _, err := configurations.Update(ctx, c, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	for resource, name := range map[string]string{"thresholds": "default", "admissionsettings": "default", "vulnerabilityexceptions": "one", "verdictalerts": "one"} {
		forgetStatus(t, schema.GroupVersionResource{Group: "assay.dev", Version: "v1alpha1", Resource: resource}, name)
	}
	forgetStatus(t, policyResource, "seed")
	forgetStatus(t, policyResource, "other")
	// The webhook does not run: nobody is asked about the label.
	i.unasked(t, func() error {
		_, err := shared.Client.CoreV1().Namespaces().Patch(ctx, "known", types.MergePatchType, []byte(`{"metadata":{"labels":{"environment":"staging"}}}`), metav1.PatchOptions{})
		return err
	})
}

// unasked does something while the API server asks no webhook.
func (i *installation) unasked(t *testing.T, do func() error) {
	t.Helper()
	ctx := t.Context()
	configurations := shared.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	c, err := configurations.Get(ctx, "assay", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := configurations.Delete(ctx, "assay", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, do)
	c.ResourceVersion, c.UID = "", ""
	if _, err := configurations.Create(ctx, c, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func forgetStatus(t *testing.T, resource schema.GroupVersionResource, name string) {
	t.Helper()
	o, err := shared.Dynamic.Resource(resource).Get(t.Context(), name, metav1.GetOptions{})
	if err == nil {
		o.Object["status"] = map[string]any{}
		_, err = shared.Dynamic.Resource(resource).UpdateStatus(t.Context(), o, metav1.UpdateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// rightTo is one verb on one resource.
type rightTo struct{ group, resource, verb string }

func (r rightTo) String() string { return r.verb + " " + r.resource }

// optional are rights about kinds that this cluster does not define.
var optional = []string{"globalalerts"}

func rightsOf(rules []rbacv1.PolicyRule) (list []rightTo) {
	for _, r := range rules {
		for _, g := range r.APIGroups {
			for _, resource := range r.Resources {
				for _, verb := range r.Verbs {
					if x := (rightTo{g, resource, verb}); !slices.Contains(list, x) && !slices.Contains(optional, resource) {
						list = append(list, x)
					}
				}
			}
		}
	}
	return list
}

// without splits rules so that some rights are missing.
func without(rules []rbacv1.PolicyRule, missing ...rightTo) (out []rbacv1.PolicyRule) {
	for _, r := range rules {
		for _, g := range r.APIGroups {
			for _, resource := range r.Resources {
				verbs := slices.DeleteFunc(slices.Clone(r.Verbs), func(v string) bool { return slices.Contains(missing, rightTo{g, resource, v}) })
				if len(verbs) > 0 {
					out = append(out, rbacv1.PolicyRule{APIGroups: []string{g}, Resources: []string{resource}, Verbs: verbs, ResourceNames: r.ResourceNames})
				}
			}
		}
	}
	return out
}
