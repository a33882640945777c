// Package reports_test proves the reports of assay serve, as its own program, through a
// real Kubernetes API server: as its aggregated API, by its RBAC, and with kubectl.
package reports_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/test/e2e/built"
	"github.com/assay-dev/assay/test/e2e/cluster"
	"github.com/assay-dev/assay/test/e2e/process"
)

var (
	shared         *cluster.Cluster
	assay, kubectl string // programs

	apiServices = schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (status int) {
	dir, err := os.MkdirTemp("", "assay-reports")
	if err != nil {
		log.Print(err)
		return 1
	}
	defer os.RemoveAll(dir)
	assay, kubectl = filepath.Join(dir, "assay"), filepath.Join(dir, "kubectl")
	shared, err = cluster.New(cluster.Config{})
	if err = errors.Join(err,
		built.Go("../../..", nil, "build", "-trimpath", "-o", assay, "./cmd/assay"),
		built.Go("kubectl", nil, "build", "-trimpath", "-o", kubectl, "."),
	); err != nil {
		log.Print(err)
		status = 1
	} else {
		status = m.Run()
	}
	if shared != nil {
		if err := shared.Close(); err != nil {
			log.Print(err)
			status = 1
		}
	}
	return status
}

// server is assay serve with reports.
type server struct {
	t       *testing.T
	dir     string
	address string // of its own API
	reports string // of the aggregated one
	args    []string
	process *process.Process
	cert    *cluster.Certificate
}

// free is a port that nobody listens on.
func free(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l.Addr().(*net.TCPAddr).Port
}

// grants are all that the server needs of the cluster; it is the user assay-server.
const grants = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: assay-server}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:auth-delegator}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: assay-server}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: assay-server, namespace: kube-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: extension-apiserver-authentication-reader}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: assay-server}]
`

// start runs a server whose reports the cluster aggregates, until the test ends.
func start(t *testing.T) *server {
	t.Helper()
	namespace, port := shared.Namespace(t, nil), free(t)
	s := &server{t: t, dir: t.TempDir(), address: fmt.Sprintf("127.0.0.1:%d", free(t)), reports: fmt.Sprintf("127.0.0.1:%d", port),
		cert: cluster.NewCertificate(t, "assay-reports."+namespace+".svc")}
	shared.Apply(t, grants)
	shared.Service(t, namespace, "assay-reports", port)
	s.args = []string{"serve", "--data", s.dir, "--listen", s.address, "--reports-listen", s.reports,
		"--reports-tls-cert", s.cert.CertFile, "--reports-tls-key", s.cert.KeyFile, "--reports-kubeconfig", shared.KubeconfigFor(t, shared.As("assay-server"))}
	s.run()
	t.Cleanup(func() {
		if err := s.process.Kill(); err != nil {
			t.Error(err)
		}
		if text, err := os.ReadFile(filepath.Join(s.dir, "assay.log")); t.Failed() {
			t.Logf("the end of the server's log (%v):\n%s", err, text[max(0, len(text)-4000):])
		}
	})
	shared.Apply(t, fmt.Sprintf(`
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1alpha1.reports.assay.dev}
spec:
  group: reports.assay.dev
  version: v1alpha1
  groupPriorityMinimum: 1000
  versionPriority: 15
  service: {namespace: %s, name: assay-reports, port: %d}
  caBundle: %s
`, namespace, port, base64.StdEncoding.EncodeToString(s.cert.CA)))
	t.Cleanup(func() {
		if err := shared.Dynamic.Resource(apiServices).Delete(context.Background(), "v1alpha1.reports.assay.dev", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	s.available("True")
	return s
}

func (s *server) run() {
	s.t.Helper()
	var err error
	if s.process, err = process.Start(s.dir, assay, s.args...); err != nil {
		s.t.Fatal(err)
	}
	if err := s.process.Ready(func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, "GET", "http://"+s.address+"/readyz", nil)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return errors.New(answer.Status)
		}
		return nil
	}); err != nil {
		s.t.Fatal(err)
	}
}

// available waits until the API server has that state of the APIService.
func (s *server) available(want string) {
	s.t.Helper()
	cluster.Eventually(s.t, func() error {
		o, err := shared.Dynamic.Resource(apiServices).Get(s.t.Context(), "v1alpha1.reports.assay.dev", metav1.GetOptions{})
		if err != nil {
			return err
		}
		conditions, _, err := unstructured.NestedSlice(o.Object, "status", "conditions")
		for _, c := range conditions {
			if c := c.(map[string]any); c["type"] == "Available" && c["status"] == want {
				return nil
			}
		}
		return errors.Join(err, fmt.Errorf("conditions of the APIService: %v", conditions))
	})
}

// send sends to the server's own API as its administrator.
func (s *server) send(method, path string, body any) {
	s.t.Helper()
	token, err := os.ReadFile(filepath.Join(s.dir, "admin.token"))
	if err != nil {
		s.t.Fatal(err)
	}
	text, err := json.Marshal(body)
	if err != nil {
		s.t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(s.t.Context(), method, "http://"+s.address+"/api/v1/"+path, bytes.NewReader(text))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	r.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	if text, err := io.ReadAll(answer.Body); err != nil || answer.StatusCode >= 300 {
		s.t.Fatalf("%s %s: %s %s: %v", method, path, answer.Status, text, err)
	}
}

// secret is a package that no other part of the cluster speaks of.
const secret = "openssl-of-the-reports"

func digest(n int) string { return fmt.Sprintf("sha256:%064x", n+1) }

// fill uploads images app-0 to app-6, of which those of even numbers fail; two run in a namespace.
func (s *server) fill(namespace string) {
	var list []api.Scan
	for n := range 7 {
		score := 9.8 - 8*float64(n%2)
		list = append(list, api.Scan{Image: fmt.Sprintf("quay.io/shop/app-%d:1.0", n), Digest: digest(n), Source: "registry", ScannedAt: time.Now().UTC().Add(-time.Hour), Packages: 1,
			Vulnerabilities: []api.Vulnerability{{ID: fmt.Sprintf("CVE-2026-%04d", n+1), Package: secret, Version: "1", Type: "deb", Severity: []string{"Critical", "Low"}[n%2], CVSS: &score,
				Fix: api.Fix{State: "fixed", Versions: []string{"2"}}}}})
	}
	s.send("POST", "scans", api.ScanReport{Schema: api.SchemaScan, Images: list})
	var running []map[string]string
	for n := range 2 {
		running = append(running, map[string]string{"namespace": namespace, "pod": fmt.Sprintf("web-%d", n), "container": "c", "image": list[n].Image, "digest": digest(n)})
	}
	s.send("PUT", "instances", map[string]any{"cluster": "prod", "instances": running})
}

// client lists a resource as a user.
func client(t *testing.T, user *rest.Config, resource string) dynamic.NamespaceableResourceInterface {
	t.Helper()
	c, err := dynamic.NewForConfig(user)
	if err != nil {
		t.Fatal(err)
	}
	return c.Resource(schema.GroupVersionResource{Group: "reports.assay.dev", Version: "v1alpha1", Resource: resource})
}

// What clients of Kubernetes do with reports.
func TestReports(t *testing.T) {
	s, namespace, other := start(t), shared.Namespace(t, nil), shared.Namespace(t, nil)
	s.fill(namespace)

	t.Run("pages", func(t *testing.T) {
		var names []string
		for o := (metav1.ListOptions{Limit: 2}); ; {
			list, err := client(t, shared.Config, "imagescansummaries").List(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			for _, item := range list.Items {
				names = append(names, item.GetName())
			}
			if o.Continue = list.GetContinue(); o.Continue == "" {
				break
			}
		}
		if unique := slices.Compact(slices.Sorted(slices.Values(names))); len(names) != 7 || len(unique) != 7 {
			t.Errorf("pages hold %v", names)
		}
	})

	t.Run("RBAC", func(t *testing.T) {
		shared.Apply(t, `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: e2e-summaries}
rules: [{apiGroups: [reports.assay.dev], resources: [imagescansummaries], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: e2e-summaries}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: e2e-summaries}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: e2e-viewers}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: running, namespace: `+namespace+`}
rules: [{apiGroups: [reports.assay.dev], resources: [runningimages], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: running, namespace: `+namespace+`}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: running}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: carol}]
`)
		alice, bob, carol := shared.As("alice", "e2e-viewers"), shared.As("bob"), shared.As("carol")
		for _, x := range []struct {
			who                 string
			user                *rest.Config
			resource, namespace string
			want                int // -1 is forbidden
		}{
			{"alice", alice, "imagescansummaries", "", 7}, {"alice", alice, "imagescans", "", -1}, {"alice", alice, "runningimages", "", -1}, {"alice", alice, "runningimages", namespace, -1},
			{"bob", bob, "imagescansummaries", "", -1}, {"bob", bob, "imagescans", "", -1}, {"bob", bob, "runningimages", namespace, -1},
			{"carol", carol, "runningimages", namespace, 2}, {"carol", carol, "runningimages", other, -1}, {"carol", carol, "runningimages", "", -1}, {"carol", carol, "imagescansummaries", "", -1},
		} {
			list := func() error {
				got, err := client(t, x.user, x.resource).Namespace(x.namespace).List(t.Context(), metav1.ListOptions{})
				switch {
				case x.want < 0 && apierrors.IsForbidden(err):
					return nil
				case x.want < 0 || err != nil:
					return fmt.Errorf("%s lists %s in %q: %v", x.who, x.resource, x.namespace, err)
				case len(got.Items) != x.want:
					return fmt.Errorf("%s lists %d %s in %q, want %d", x.who, len(got.Items), x.resource, x.namespace, x.want)
				}
				return nil
			}
			if x.want < 0 {
				if err := list(); err != nil {
					t.Error(err)
				}
			} else {
				cluster.Eventually(t, list) // RBAC, and what is remembered of it, follow in a moment
			}
		}
	})

	t.Run("nothing can be written", func(t *testing.T) {
		summaries := client(t, shared.Config, "imagescansummaries")
		o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "reports.assay.dev/v1alpha1", "kind": "ImageScanSummary", "metadata": map[string]any{"name": "x"}}}
		_, created := summaries.Create(t.Context(), o, metav1.CreateOptions{})
		_, watched := summaries.Watch(t.Context(), metav1.ListOptions{})
		for verb, err := range map[string]error{"create": created, "watch": watched, "delete": summaries.Delete(t.Context(), "x", metav1.DeleteOptions{}),
			"deletecollection": summaries.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{})} {
			if !apierrors.IsMethodNotSupported(err) {
				t.Errorf("%s: %v", verb, err)
			}
		}
	})

	t.Run("kubectl", func(t *testing.T) {
		ask := func(args ...string) ([]byte, error) {
			return exec.CommandContext(t.Context(), kubectl, append([]string{"--kubeconfig", shared.Kubeconfig}, args...)...).CombinedOutput()
		}
		for _, x := range []struct{ args, want string }{
			{"get imagescans --field-selector result=Fail,image=quay.io/shop/app-0:1.0",
				`(?m)^NAME +RESULT +MAXCVSS +CRITICAL +HIGH +FIXABLE +IMAGE +AGE\napp-0-1\.0-\S+ +Fail +9\.8 +1 +0 +1 +quay\.io/shop/app-0:1\.0 +\d+s\n$`},
			{"get imgsum -l assay.dev/result=Pass,assay.dev/fixable=true -o name", `^(imagescansummary\.reports\.assay\.dev/app-[135]-1\.0-\S+\n){3}$`},
			{"get imgscan --chunk-size 2 --no-headers", `^(app-[0-6]-1\.0-.*\n){7}$`},
			{"get imagescans --field-selector cve=CVE-2026-0003 -o jsonpath={.items[*].image}", `^quay\.io/shop/app-2:1\.0$`},
			{"get runimg -A --sort-by .pod", `(?s)^NAMESPACE +NAME +RESULT +MAXCVSS +IMAGE +POD +CONTAINER +CLUSTER +AGE\n` + namespace + ` +web-0-\S+ +Fail +9\.8 .*web-1-\S+ +Pass +1\.8 .* prod +\d+s\n$`},
			{"get assay -n " + other + " --no-headers -o name", `^(imagescan\.\S+\n){7}(imagescansummary\.\S+\n){7}$`},
			{"explain imagescan.severities", `(?s)GROUP: +reports\.assay\.dev.*counted once with the worst severity.*critical`},
			{"explain runningimage.lastSeen", `When it was last reported`},
			{"get imagescans --field-selector digest=" + digest(4) + " -o yaml", `maxCVSS: 9\.8`},
			{"get imagescans --field-selector phase=x", `"phase" is no field to select ImageScans by; known are cluster, cve, digest, image,`},
			{"get imagescan unknown", `Error from server \(NotFound\): imagescans\.reports\.assay\.dev "unknown" not found`},
		} {
			cluster.Eventually(t, func() error { // the API server takes a moment to fetch what kubectl explains
				out, err := ask(strings.Fields(x.args)...)
				if !regexp.MustCompile(x.want).Match(out) {
					return fmt.Errorf("kubectl %s: %v, want %s:\n%s", x.args, err, x.want, out)
				}
				return nil
			})
		}
		name, err := ask("get", "imagescans", "--field-selector", "digest="+digest(0), "-o", "name")
		if err != nil {
			t.Fatalf("%v: %s", err, name)
		}
		if out, err := ask("describe", strings.TrimSpace(string(name))); err != nil || !strings.Contains(string(out), secret) || !strings.Contains(string(out), "CVE-2026-0001") {
			t.Errorf("kubectl describe: %v\n%s", err, out)
		}
	})

	t.Run("nothing in etcd", func(t *testing.T) {
		holds := func(text string) (n int) {
			if err := filepath.WalkDir(filepath.Join(shared.Dir, "etcd"), func(path string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() {
					return err
				}
				content, err := os.ReadFile(path)
				n += bytes.Count(content, []byte(text))
				return err
			}); err != nil {
				t.Fatal(err)
			}
			return n
		}
		if n := holds(secret) + holds("quay.io/shop/app-0"); n > 0 || holds("v1alpha1.reports.assay.dev") == 0 {
			t.Errorf("etcd holds reports %d times; the APIService %d times", n, holds("v1alpha1.reports.assay.dev"))
		}
	})
}

// What becomes of the cluster and of the reports when certificates and servers change.
func TestOutage(t *testing.T) {
	s, namespace := start(t), shared.Namespace(t, nil)
	s.fill(namespace)
	list := func() error {
		got, err := client(t, shared.Config, "imagescans").List(t.Context(), metav1.ListOptions{})
		if err == nil && len(got.Items) != 7 {
			err = fmt.Errorf("%d items", len(got.Items))
		}
		return err
	}
	cluster.Eventually(t, list)

	serial := func() string {
		c, err := tls.Dial("tcp", s.reports, &tls.Config{InsecureSkipVerify: true}) // the API server verifies it
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	before := serial()
	s.cert.Rotate(t)
	if err := os.RemoveAll(filepath.Join(filepath.Dir(s.cert.CertFile), "..1")); err != nil { // as the kubelet does: else it takes a minute
		t.Fatal(err)
	}
	cluster.Eventually(t, func() error {
		if serial() == before {
			return errors.New("the old certificate is still served")
		}
		return list()
	})

	// A namespace with reports about it goes like any other.
	gone := func(name string) error {
		_, err := shared.Client.CoreV1().Namespaces().Get(t.Context(), name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, fmt.Errorf("the namespace %s is still there", name))
	}
	remove := func(name string) {
		t.Helper()
		if err := shared.Client.CoreV1().Namespaces().Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	create := func(name string) {
		t.Helper()
		shared.Apply(t, "{apiVersion: v1, kind: Namespace, metadata: {name: "+name+"}}")
	}
	create("e2e-goes")
	remove("e2e-goes")
	cluster.Eventually(t, func() error { return gone("e2e-goes") })

	if err := s.process.Kill(); err != nil {
		t.Fatal(err)
	}
	s.available("False")
	if err := list(); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("without a server: %v", err)
	}
	// All else goes on; but a namespace is not let go of while any API is away.
	create("e2e-waits")
	if err := shared.ApplyAs(t.Context(), shared.Config, "{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: e2e-waits}}"); err != nil {
		t.Error(err)
	}
	remove("e2e-waits")
	cluster.Eventually(t, func() error {
		n, err := shared.Client.CoreV1().Namespaces().Get(t.Context(), "e2e-waits", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NamespaceDeletionDiscoveryFailure && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("the namespace waits for no API: %+v", n.Status)
	})
	s.run()
	s.available("True")
	cluster.Eventually(t, list)
	cluster.Eventually(t, func() error { return gone("e2e-waits") })
}
