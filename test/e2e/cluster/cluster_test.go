package cluster_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/assay-dev/assay/test/e2e/cluster"
	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const token = "token-of-the-api-server"

var shared *cluster.Cluster

// startAndDie makes a test binary start a cluster, say so, and wait to be killed.
const startAndDie = "ASSAY_E2E_START_AND_DIE"

func TestMain(m *testing.M) {
	if os.Getenv(startAndDie) != "" {
		c, err := cluster.New(cluster.Config{})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(c.Dir)
		select {}
	}
	os.Exit(run(m))
}

func run(m *testing.M) (status int) {
	var err error
	shared, err = cluster.New(cluster.Config{
		Scheduler:          true,
		Nodes:              []string{"linux/amd64", "linux/arm64"},
		WebhookCertificate: true,
		WebhookToken:       token,
	})
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

// workloads are one of each kind that makes Pods, and a Pod.
const workloads = `
apiVersion: v1
kind: Pod
metadata: {name: pod}
spec: {containers: [{name: c, image: example.com/app:1}]}
---
apiVersion: v1
kind: ReplicationController
metadata: {name: replicationcontroller}
spec: {replicas: 1, selector: {app: rc}, template: {metadata: {labels: {app: rc}}, spec: {containers: [{name: c, image: example.com/app:1}]}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: deployment}
spec:
  replicas: 2
  selector: {matchLabels: {app: deployment}}
  template:
    metadata: {labels: {app: deployment}}
    spec:
      nodeSelector: {kubernetes.io/arch: arm64}
      containers: [{name: c, image: example.com/app:1}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: statefulset}
spec: {serviceName: s, selector: {matchLabels: {app: ss}}, template: {metadata: {labels: {app: ss}}, spec: {containers: [{name: c, image: example.com/app:1}]}}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: daemonset}
spec: {selector: {matchLabels: {app: ds}}, template: {metadata: {labels: {app: ds}}, spec: {containers: [{name: c, image: example.com/app:1}]}}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: cronjob}
spec: {schedule: "* * * * *", jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: example.com/app:1}]}}}}}
`

// TestCreators shows who makes which object, and what it says of its owner: the identities
// by which a webhook tells a controller from a user who writes an owner reference.
func TestCreators(t *testing.T) {
	namespace := shared.Namespace(t, nil)
	server := startWebhook(t, "127.0.0.1", func(*admissionv1.AdmissionRequest) error { return nil })
	url := fmt.Sprintf("https://127.0.0.1:%d/any/path", server.port)
	register(t, server, namespace, admissionregistrationv1.WebhookClientConfig{URL: &url},
		"pods", "replicationcontrollers", "deployments", "replicasets", "statefulsets", "daemonsets", "jobs", "cronjobs")
	shared.Apply(t, `
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: edit, namespace: `+namespace+`}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: developers}]
`)
	cluster.Eventually(t, func() error {
		if len(server.seen()) == 0 {
			return errors.Join(errors.New("the webhook was not called"), probe(t, namespace))
		}
		return nil
	})

	alice := shared.As("alice", "developers")
	for _, text := range strings.Split(workloads, "---\n") {
		text = strings.Replace(text, "metadata: {name", "metadata: {namespace: "+namespace+", name", 1)
		cluster.Eventually(t, func() error { return shared.ApplyAs(t.Context(), alice, text) }) // RBAC follows in a moment
	}
	// A CronJob that was due makes its Job now, not at the next full minute.
	cronJobs := shared.Client.BatchV1().CronJobs(namespace)
	cluster.Eventually(t, func() error {
		job, err := cronJobs.Get(t.Context(), "cronjob", metav1.GetOptions{})
		if err != nil {
			return err
		}
		job.Status.LastScheduleTime = &metav1.Time{Time: time.Now().Add(-2 * time.Minute)}
		_, err = cronJobs.UpdateStatus(t.Context(), job, metav1.UpdateOptions{})
		return err
	})

	const controllers = "system:serviceaccount:kube-system:"
	for _, want := range []struct{ owner, kind, user string }{
		{"", "Pod", "alice"},
		{"", "ReplicationController", "alice"},
		{"", "Deployment", "alice"},
		{"", "StatefulSet", "alice"},
		{"", "DaemonSet", "alice"},
		{"", "CronJob", "alice"},
		{"ReplicationController", "Pod", controllers + "replication-controller"},
		{"Deployment", "ReplicaSet", controllers + "deployment-controller"},
		{"ReplicaSet", "Pod", controllers + "replicaset-controller"},
		{"StatefulSet", "Pod", controllers + "statefulset-controller"},
		{"DaemonSet", "Pod", controllers + "daemon-set-controller"},
		{"CronJob", "Job", controllers + "cronjob-controller"},
		{"Job", "Pod", controllers + "job-controller"},
	} {
		cluster.Eventually(t, func() error {
			for _, call := range server.seen() {
				if call.kind == want.kind && call.owner == want.owner && call.user.Username == want.user {
					return nil
				}
			}
			return fmt.Errorf("no %s of %q made by %s among %v", want.kind, want.owner, want.user, server.seen())
		})
	}
	for _, call := range server.seen() {
		if call.user.Username == "alice" && !slices.Equal(call.user.Groups, []string{"developers", "system:authenticated"}) {
			t.Errorf("groups %v", call.user.Groups)
		}
		if fromController := strings.HasPrefix(call.user.Username, controllers); fromController != (call.owner != "") {
			t.Errorf("%+v", call)
		}
		if call.certificate != cluster.WebhookUser || call.authorization != "Bearer "+token {
			t.Errorf("the API server shows certificate %q and %q", call.certificate, call.authorization)
		}
	}

	t.Run("the scheduler binds Pods", func(t *testing.T) {
		cluster.Eventually(t, func() error {
			pods, err := shared.Client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=deployment"})
			if err != nil {
				return err
			}
			if len(pods.Items) != 2 {
				return fmt.Errorf("%d Pods", len(pods.Items))
			}
			for _, pod := range pods.Items {
				if pod.Spec.NodeName != "node-1" { // the one of its architecture
					return fmt.Errorf("%s on node %q", pod.Name, pod.Spec.NodeName)
				}
			}
			return nil
		})
	})
	t.Run("a user has what RBAC gives", func(t *testing.T) {
		err := shared.ApplyAs(t.Context(), alice, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: default}")
		if !apierrors.IsForbidden(err) {
			t.Errorf("got %v, want forbidden", err)
		}
	})
}

func TestWebhookRefuses(t *testing.T) {
	for _, by := range []string{"URL", "Service"} {
		t.Run(by, func(t *testing.T) {
			namespace := shared.Namespace(t, nil)
			host := "webhook." + namespace + ".svc"
			if by == "URL" {
				host = "localhost"
			}
			server := startWebhook(t, host, func(r *admissionv1.AdmissionRequest) error {
				return fmt.Errorf("%s refused by %s", r.Name, by)
			})
			client := admissionregistrationv1.WebhookClientConfig{}
			if by == "URL" {
				url := fmt.Sprintf("https://localhost:%d/", server.port)
				client.URL = &url
			} else {
				port := int32(server.port)
				shared.Service(t, namespace, "webhook", server.port)
				client.Service = &admissionregistrationv1.ServiceReference{Namespace: namespace, Name: "webhook", Port: &port}
			}
			register(t, server, namespace, client, "pods")
			want := "probe refused by " + by
			cluster.Eventually(t, func() error {
				if err := probe(t, namespace); err == nil || !strings.Contains(err.Error(), want) {
					return fmt.Errorf("got %v, want %q", err, want)
				}
				return nil
			})
		})
	}
}

// TestWebhookToken shows that a webhook can ask the API server whose its token is.
func TestWebhookToken(t *testing.T) {
	review, err := shared.Client.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !review.Status.Authenticated || review.Status.User.Username != cluster.WebhookUser {
		t.Errorf("%+v", review.Status)
	}
}

// TestAggregation shows that the API server passes requests on, and as whom.
func TestAggregation(t *testing.T) {
	namespace := shared.Namespace(t, nil)
	seen := make(chan *http.Request, 100)
	certificate := cluster.NewCertificate(t, "api."+namespace+".svc")
	port := serve(t, certificate, shared.FrontProxyCAFile, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/apis/e2e.assay.dev/v1/question" {
			seen <- r
		}
		writeJSON(w, metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: "e2e.assay.dev/v1"})
	})
	shared.Service(t, namespace, "api", port)
	services := shared.Dynamic.Resource(schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"})
	t.Cleanup(func() {
		if err := services.Delete(context.Background(), "v1.e2e.assay.dev", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	shared.Apply(t, fmt.Sprintf(`
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1.e2e.assay.dev}
spec:
  group: e2e.assay.dev
  version: v1
  groupPriorityMinimum: 1000
  versionPriority: 15
  service: {namespace: %s, name: api, port: %d}
  caBundle: %s
`, namespace, port, base64.StdEncoding.EncodeToString(certificate.CA)))
	cluster.Eventually(t, func() error {
		return shared.Client.Discovery().RESTClient().Get().AbsPath("/apis/e2e.assay.dev/v1/question").Do(t.Context()).Error()
	})
	r := <-seen
	if user, groups := r.Header.Get("X-Remote-User"), r.Header["X-Remote-Group"]; user != "admin" || !slices.Contains(groups, "system:masters") {
		t.Errorf("user %q, groups %q", user, groups)
	}
	if proxy := clientName(r); proxy != "front-proxy-client" {
		t.Errorf("proxy %q", proxy)
	}
}

// TestStart shows the plainest cluster, which tells webhooks nothing about itself, and a kubeconfig file.
func TestStart(t *testing.T) {
	var dir string
	t.Run("while it runs", func(t *testing.T) {
		c := cluster.Start(t, cluster.Config{APIServerArgs: map[string]string{"max-requests-inflight": "17"}})
		dir = c.Dir
		config, err := clientcmd.BuildConfigFromFlags("", c.KubeconfigFor(t, c.As("bob")))
		if err != nil {
			t.Fatal(err)
		}
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		self, err := client.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if self.Status.UserInfo.Username != "bob" {
			t.Errorf("user %q", self.Status.UserInfo.Username)
		}
		version, err := client.Discovery().ServerVersion()
		if err != nil {
			t.Fatal(err)
		}
		if version.GitVersion != "v1.37.2" || version.Minor != "37" {
			t.Errorf("version %+v", version)
		}
		if _, err := os.Stat(filepath.Join(dir, "admission.yaml")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("admission.yaml: %v", err)
		}
		if !slices.ContainsFunc(processes(t, dir), func(p process) bool { return slices.Contains(p.args, "--max-requests-inflight=17") }) {
			t.Error("kube-apiserver does not have its flag")
		}
		c.Apply(t, `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.e2e.assay.dev}
spec:
  group: e2e.assay.dev
  scope: Cluster
  names: {plural: things, kind: Thing}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
---
apiVersion: e2e.assay.dev/v1
kind: Thing
metadata: {name: x}
`)
	})
	if left := processes(t, dir); len(left) > 0 {
		t.Errorf("still running: %v", left)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v", dir, err)
	}
}

// TestNothingOutlivesTheTests kills a test binary that runs a cluster.
func TestNothingOutlivesTheTests(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), startAndDie+"=1")
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dir, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	dir = strings.TrimSpace(dir)
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if running := processes(t, dir); len(running) != 3 {
		t.Errorf("running: %v", running)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the test binary ended by itself")
	}
	cluster.Eventually(t, func() error {
		if left := processes(t, dir); len(left) > 0 {
			return fmt.Errorf("still running: %v", left)
		}
		return nil
	})
}

func TestRotate(t *testing.T) {
	certificate := cluster.NewCertificate(t, "localhost", "127.0.0.1")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certificate.CA)
	serial := func() string {
		pair, err := tls.LoadX509KeyPair(certificate.CertFile, certificate.KeyFile)
		if err != nil {
			t.Fatal(err)
		}
		for _, host := range []string{"localhost", "127.0.0.1"} {
			if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host}); err != nil {
				t.Error(err)
			}
		}
		return pair.Leaf.SerialNumber.String()
	}
	before := serial()
	certificate.Rotate(t)
	if serial() == before {
		t.Error("the same certificate after a rotation")
	}
}

// A webhook that records what it is asked.
type webhook struct {
	port        int
	certificate *cluster.Certificate

	mu    sync.Mutex
	calls []call
}

type call struct {
	kind, name, owner          string // owner is the controlling one's kind
	user                       authenticationv1.UserInfo
	certificate, authorization string // of the API server
}

func (w *webhook) seen() []call {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.calls)
}

func startWebhook(t *testing.T, host string, refuse func(*admissionv1.AdmissionRequest) error) *webhook {
	server := &webhook{certificate: cluster.NewCertificate(t, host)}
	server.port = serve(t, server.certificate, shared.ClientCAFile, func(w http.ResponseWriter, r *http.Request) {
		review := admissionv1.AdmissionReview{}
		var object metav1.PartialObjectMetadata
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			t.Error(err)
		} else if err := json.Unmarshal(review.Request.Object.Raw, &object); err != nil {
			t.Error(err)
		}
		made := call{
			kind: review.Request.Kind.Kind, name: object.Name, user: review.Request.UserInfo,
			certificate: clientName(r), authorization: r.Header.Get("Authorization"),
		}
		if owner := metav1.GetControllerOf(&object); owner != nil {
			made.owner = owner.Kind
		}
		server.mu.Lock()
		server.calls = append(server.calls, made)
		server.mu.Unlock()
		review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
		if err := refuse(review.Request); err != nil {
			review.Response.Allowed, review.Response.Result = false, &metav1.Status{Message: err.Error()}
		}
		writeJSON(w, review)
	})
	return server
}

// register has the API server ask the webhook about what is made in a namespace.
func register(t *testing.T, server *webhook, namespace string, client admissionregistrationv1.WebhookClientConfig, resources ...string) {
	client.CABundle = server.certificate.CA
	none, fail := admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.Fail
	registrations := shared.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	if _, err := registrations.Create(t.Context(), &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: namespace},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: "e2e.assay.dev", ClientConfig: client, SideEffects: &none, FailurePolicy: &fail,
			AdmissionReviewVersions: []string{"v1"},
			NamespaceSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: namespace}},
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
				Rule:       admissionregistrationv1.Rule{APIGroups: []string{"*"}, APIVersions: []string{"*"}, Resources: resources},
			}},
		}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := registrations.Delete(context.Background(), namespace, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
}

// probe asks whether a Pod could be made.
func probe(t *testing.T, namespace string) error {
	_, err := shared.Client.CoreV1().Pods(namespace).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "probe"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "example.com/app:1"}}},
	}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	return err
}

// serve serves until the test ends, to clients with a certificate of an authority.
func serve(t *testing.T, certificate *cluster.Certificate, clientCA string, handler http.HandlerFunc) (port int) {
	pair, err := tls.LoadX509KeyPair(certificate.CertFile, certificate.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(clientCA)
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(ca)
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.Listener.Addr().(*net.TCPAddr).Port
}

func clientName(r *http.Request) string { return r.TLS.PeerCertificates[0].Subject.CommonName }

func writeJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // the API server says what it did not get
}

type process struct {
	id   int
	args []string
}

// processes gives those that run in a folder.
func processes(t *testing.T, dir string) []process {
	folders, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var found []process
	for _, folder := range folders {
		if cwd, err := os.Readlink(filepath.Join(folder, "cwd")); err != nil || strings.TrimSuffix(cwd, " (deleted)") != dir {
			continue
		}
		args, err := os.ReadFile(filepath.Join(folder, "cmdline"))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it ended just now
		}
		id, idErr := strconv.Atoi(filepath.Base(folder))
		if err := errors.Join(err, idErr); err != nil {
			t.Fatal(err)
		}
		found = append(found, process{id, strings.Split(string(args), "\x00")})
	}
	return found
}
