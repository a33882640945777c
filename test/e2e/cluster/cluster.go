// Package cluster runs a real Kubernetes on loopback for tests: etcd, kube-apiserver, kube-controller-manager and,
// where asked for, kube-scheduler with Nodes that no kubelet stands behind. It is up in a few seconds.
//
// The API server is set up as a cluster's is: RBAC, ServiceAccounts, every default admission plugin, aggregation.
// Two things differ. Services have no network: one that a webhook or an aggregated API is reached by is made
// with [Cluster.Service]. And Pods never run: they stay Pending, bound to a Node at most.
package cluster

import (
	"context"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/assay-dev/assay/test/e2e/process"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/keyutil"
)

// WebhookUser is the user as which the API server calls webhooks, if it is told to show who it is.
const WebhookUser = "kube-apiserver"

// Config says how a cluster differs from the plainest one.
type Config struct {
	// Scheduler runs kube-scheduler, so that Pods are bound to Nodes.
	Scheduler bool

	// Nodes are the platforms, such as linux/amd64, of Nodes that are made, named node-0 and so on. They are
	// Ready, and stay so.
	Nodes []string

	// APIServerArgs are flags of kube-apiserver, without their dashes, beside or instead of those set here.
	APIServerArgs map[string]string

	// WebhookCertificate makes the API server show webhooks a client certificate
	// for WebhookUser, signed by the authority in ClientCAFile.
	WebhookCertificate bool

	// WebhookToken is a bearer token that the API server sends to webhooks. It says in a TokenReview
	// that it is WebhookUser's.
	WebhookToken string
}

// Cluster is a running Kubernetes. All its methods may be called at the same time.
type Cluster struct {
	Config     *rest.Config // of the user admin in the group system:masters, without client-side rate limits
	Client     kubernetes.Interface
	Dynamic    dynamic.Interface
	Kubeconfig string // of the same user, a file

	Dir              string // holds everything below, and the programs' output as NAME.log
	CAFile           string // the authority of the API server's certificate
	ClientCAFile     string // the authority of its users, and of itself towards webhooks
	FrontProxyCAFile string // the authority of itself towards aggregated API servers, as front-proxy-client

	clients   *authority
	processes []*process.Process
	mapper    *restmapper.DeferredDiscoveryRESTMapper
}

// Start starts a cluster that ends with the test.
func Start(tb testing.TB, config Config) *Cluster {
	tb.Helper()
	c, err := New(config)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := c.Close(); err != nil {
			tb.Error(err)
		}
	})
	return c
}

// New starts a cluster: for a TestMain, when all tests of a package share one. The caller closes it.
func New(config Config) (*Cluster, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "assay-cluster")
	if err != nil {
		return nil, err
	}
	c := &Cluster{
		Dir:              dir,
		CAFile:           filepath.Join(dir, "ca.crt"),
		ClientCAFile:     filepath.Join(dir, "client-ca.crt"),
		FrontProxyCAFile: filepath.Join(dir, "front-proxy-ca.crt"),
	}
	if err := c.start(bin, config); err != nil {
		_ = c.Close() // what ended, and why, is in err
		return nil, fmt.Errorf("starting Kubernetes: %w", err)
	}
	return c, nil
}

// Close ends the cluster. That one of its programs had ended before is an error.
func (c *Cluster) Close() error {
	var errs []error
	for len(c.processes) > 0 { // each before what it depends on
		last := len(c.processes) - 1
		errs = append(errs, c.processes[last].Kill())
		c.processes = c.processes[:last]
	}
	return errors.Join(append(errs, os.RemoveAll(c.Dir))...)
}

func (c *Cluster) start(bin string, config Config) error {
	etcd, err := c.startEtcd(bin)
	if err != nil {
		return err
	}
	if err := c.startAPIServer(bin, etcd, config); err != nil {
		return err
	}
	for i, platform := range config.Nodes {
		if err := c.createNode(fmt.Sprintf("node-%d", i), platform); err != nil {
			return err
		}
	}
	if err := c.startControllerManager(bin); err != nil {
		return err
	}
	if config.Scheduler {
		return c.startScheduler(bin)
	}
	return nil
}

func (c *Cluster) startEtcd(bin string) (url string, err error) {
	port, err := freePort()
	if err != nil {
		return "", err
	}
	url = fmt.Sprintf("http://127.0.0.1:%d", port)
	return url, c.run(bin, "etcd", map[string]string{
		"data-dir":              c.file("etcd"),
		"listen-client-urls":    url,
		"advertise-client-urls": url,
		"listen-peer-urls":      "http://127.0.0.1:0",
		"unsafe-no-fsync":       "true",
	}, func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			text, err := io.ReadAll(response.Body)
			return errors.Join(fmt.Errorf("%s: %s", response.Status, text), err)
		}
		return nil
	})
}

func (c *Cluster) startAPIServer(bin, etcd string, config Config) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	flags := map[string]string{
		"etcd-servers":       etcd,
		"bind-address":       "127.0.0.1",
		"secure-port":        fmt.Sprint(port),
		"authorization-mode": "RBAC",
		"allow-privileged":   "true",

		"service-cluster-ip-range":         "10.0.0.0/24",
		"service-account-issuer":           "https://kubernetes.default.svc",
		"service-account-key-file":         c.file("sa.key"),
		"service-account-signing-key-file": c.file("sa.key"),

		// The endpoints of the Service kubernetes must not be on loopback, and nothing uses them.
		"advertise-address":        "127.0.0.1",
		"endpoint-reconciler-type": "none",

		"tls-cert-file":                      c.file("apiserver.crt"),
		"tls-private-key-file":               c.file("apiserver.key"),
		"client-ca-file":                     c.ClientCAFile,
		"proxy-client-cert-file":             c.file("front-proxy-client.crt"),
		"proxy-client-key-file":              c.file("front-proxy-client.key"),
		"requestheader-client-ca-file":       c.FrontProxyCAFile,
		"requestheader-allowed-names":        "front-proxy-client",
		"requestheader-username-headers":     "X-Remote-User",
		"requestheader-group-headers":        "X-Remote-Group",
		"requestheader-extra-headers-prefix": "X-Remote-Extra-",
	}
	ca, err := c.writeCredentials()
	if err != nil {
		return err
	}
	if config.WebhookCertificate || config.WebhookToken != "" {
		if err := c.writeWebhookCredentials(config); err != nil {
			return err
		}
		flags["admission-control-config-file"] = c.file("admission.yaml")
	}
	if config.WebhookToken != "" {
		if err := c.write("tokens.csv", fmt.Appendf(nil, "%s,%s,%[2]s\n", config.WebhookToken, WebhookUser)); err != nil {
			return err
		}
		flags["token-auth-file"] = c.file("tokens.csv")
	}
	maps.Copy(flags, config.APIServerArgs)

	c.Config = &rest.Config{
		Host:            fmt.Sprintf("https://127.0.0.1:%d", port),
		TLSClientConfig: rest.TLSClientConfig{CAData: ca},
		QPS:             -1,
	}
	c.Config = c.As("admin", "system:masters")
	client, err := kubernetes.NewForConfig(c.Config)
	if err != nil {
		return err
	}
	c.Client, c.mapper = client, newMapper(client.Discovery())
	if c.Dynamic, err = dynamic.NewForConfig(c.Config); err != nil {
		return err
	}
	if c.Kubeconfig, err = c.writeKubeconfig("admin", c.Config); err != nil {
		return err
	}
	return c.run(bin, "kube-apiserver", flags, func(ctx context.Context) error {
		return c.Client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
}

func (c *Cluster) startControllerManager(bin string) error {
	kubeconfig, err := c.writeKubeconfig("kube-controller-manager", c.As("system:kube-controller-manager"))
	if err != nil {
		return err
	}
	return c.run(bin, "kube-controller-manager", map[string]string{
		"kubeconfig":                       kubeconfig,
		"leader-elect":                     "false",
		"secure-port":                      "0",
		"kube-api-qps":                     "1000", // by itself it takes seconds to give each controller its credentials
		"kube-api-burst":                   "1000",
		"use-service-account-credentials":  "true",
		"service-account-private-key-file": c.file("sa.key"),
		"root-ca-file":                     c.CAFile,
		"node-monitor-grace-period":        "24h0m0s", // no kubelet says that a Node is alive
	}, func(ctx context.Context) error {
		_, err := c.Client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

func (c *Cluster) startScheduler(bin string) error {
	kubeconfig, err := c.writeKubeconfig("kube-scheduler", c.As("system:kube-scheduler"))
	if err != nil {
		return err
	}
	return c.run(bin, "kube-scheduler", map[string]string{
		"kubeconfig":   kubeconfig,
		"leader-elect": "false",
		"secure-port":  "0",
	}, func(context.Context) error { return nil }) // Pods wait for it
}

// run starts a program and waits until it is ready.
func (c *Cluster) run(bin, name string, flags map[string]string, ready func(context.Context) error) error {
	var args []string
	for _, flag := range slices.Sorted(maps.Keys(flags)) {
		args = append(args, "--"+flag+"="+flags[flag])
	}
	p, err := process.Start(c.Dir, filepath.Join(bin, name), args...)
	if err != nil {
		return err
	}
	c.processes = append(c.processes, p)
	return p.Ready(ready)
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// writeCredentials makes the authorities, and what the API server serves with, shows to aggregated API servers and signs
// ServiceAccounts' tokens with. It gives the authority of its serving certificate.
func (c *Cluster) writeCredentials() ([]byte, error) {
	serving, err := newAuthority("kubernetes")
	if err != nil {
		return nil, err
	}
	frontProxy, err := newAuthority("front-proxy")
	if err != nil {
		return nil, err
	}
	if c.clients, err = newAuthority("client"); err != nil {
		return nil, err
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	accounts, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return nil, err
	}
	cert, certKey, err := serving.issue(pkix.Name{CommonName: "kube-apiserver"}, "localhost", "127.0.0.1", "kubernetes.default.svc")
	if err != nil {
		return nil, err
	}
	proxy, proxyKey, err := frontProxy.issue(pkix.Name{CommonName: "front-proxy-client"})
	if err != nil {
		return nil, err
	}
	return serving.pem(), errors.Join(
		c.write(filepath.Base(c.CAFile), serving.pem()),
		c.write(filepath.Base(c.ClientCAFile), c.clients.pem()),
		c.write(filepath.Base(c.FrontProxyCAFile), frontProxy.pem()),
		c.write("sa.key", accounts),
		c.write("apiserver.crt", cert), c.write("apiserver.key", certKey),
		c.write("front-proxy-client.crt", proxy), c.write("front-proxy-client.key", proxyKey),
	)
}

// writeWebhookCredentials writes what the API server shows to every webhook.
func (c *Cluster) writeWebhookCredentials(config Config) error {
	user := &clientcmdapi.AuthInfo{Token: config.WebhookToken}
	if config.WebhookCertificate {
		as := c.sign(WebhookUser)
		user.ClientCertificateData, user.ClientKeyData = as.CertData, as.KeyData
	}
	kubeconfig := clientcmdapi.NewConfig()
	kubeconfig.AuthInfos["*"] = user
	if err := clientcmd.WriteToFile(*kubeconfig, c.file("webhooks.kubeconfig")); err != nil {
		return err
	}
	var text strings.Builder
	text.WriteString("apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n")
	for _, plugin := range []string{"ValidatingAdmissionWebhook", "MutatingAdmissionWebhook"} {
		fmt.Fprintf(&text, `- name: %s
  configuration:
    apiVersion: apiserver.config.k8s.io/v1
    kind: WebhookAdmissionConfiguration
    kubeConfigFile: %s
`, plugin, c.file("webhooks.kubeconfig"))
	}
	return c.write("admission.yaml", []byte(text.String()))
}

// createNode makes a Node on which any number of Pods have a place.
func (c *Cluster) createNode(name, platform string) error {
	system, architecture, ok := strings.Cut(platform, "/")
	if !ok {
		return fmt.Errorf("node %s: platform %q is not like linux/amd64", name, platform)
	}
	ctx, nodes := context.Background(), c.Client.CoreV1().Nodes()
	node, err := nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
		corev1.LabelOSStable: system, corev1.LabelArchStable: architecture, corev1.LabelHostname: name,
	}}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	resources := corev1.ResourceList{
		corev1.ResourceCPU:    resource.MustParse("1000"),
		corev1.ResourceMemory: resource.MustParse("1Ti"),
		corev1.ResourcePods:   resource.MustParse("100000"),
	}
	node.Status = corev1.NodeStatus{
		Capacity: resources, Allocatable: resources,
		NodeInfo: corev1.NodeSystemInfo{OperatingSystem: system, Architecture: architecture},
		Conditions: []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Made", Message: "made for a test",
			LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now(),
		}},
	}
	_, err = nodes.UpdateStatus(ctx, node, metav1.UpdateOptions{})
	return err
}

func (c *Cluster) file(name string) string { return filepath.Join(c.Dir, name) }

func (c *Cluster) write(name string, text []byte) error {
	return os.WriteFile(c.file(name), text, 0o600)
}
