package daemon_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"

	"github.com/assay-dev/assay/server/daemon"
	"github.com/assay-dev/assay/server/reports"
)

// cluster answers what the reports ask a cluster's API server: whose certificate the
// front proxy shows, and what alice may do. Until it is up, it answers nothing.
func cluster(t *testing.T, proxy []byte) (kubeconfig string, up *atomic.Bool) {
	t.Helper()
	list := func(name string) string { return fmt.Sprintf("%q", []string{name}) }
	text, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "extension-apiserver-authentication", "namespace": "kube-system", "resourceVersion": "1"},
		"data": map[string]string{"client-ca-file": string(proxy), "requestheader-client-ca-file": string(proxy), "requestheader-allowed-names": list("front-proxy"), "requestheader-username-headers": list("X-Remote-User"),
			"requestheader-group-headers": list("X-Remote-Group"), "requestheader-extra-headers-prefix": list("X-Remote-Extra-")}})
	if err != nil {
		t.Fatal(err)
	}
	up = &atomic.Bool{}
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case !up.Load():
			w.WriteHeader(http.StatusServiceUnavailable)
		case strings.HasSuffix(r.URL.Path, "/subjectaccessreviews"):
			var review authorizationv1.SubjectAccessReview
			if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
				t.Error(err)
			}
			review.Status.Allowed = review.Spec.User == "alice" && review.Spec.ResourceAttributes != nil && review.Spec.ResourceAttributes.Verb == "list"
			_ = json.NewEncoder(w).Encode(review)
		case r.URL.Query().Get("sendInitialEvents") != "":
			w.WriteHeader(http.StatusUnprocessableEntity) // as an older API server
		case r.URL.Query().Get("watch") != "":
			<-r.Context().Done()
		case strings.HasSuffix(r.URL.Path, "/configmaps/extension-apiserver-authentication"):
			_, _ = w.Write(text)
		case strings.HasSuffix(r.URL.Path, "/configmaps"):
			fmt.Fprintf(w, `{"apiVersion":"v1","kind":"ConfigMapList","metadata":{"resourceVersion":"1"},"items":[%s]}`, text)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(func() { api.CloseClientConnections(); api.Close() })
	kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, fmt.Appendf(nil, `{apiVersion: v1, kind: Config, current-context: c, clusters: [{name: c, cluster: {server: %q}}], contexts: [{name: c, context: {cluster: c}}]}`, api.URL), 0o600); err != nil {
		t.Fatal(err)
	}
	return kubeconfig, up
}

// pair makes a certificate that signs itself.
func pair(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	made, err := certutil.NewSelfSignedCACert(certutil.Config{CommonName: name, AltNames: certutil.AltNames{DNSNames: []string{name}}}, private)
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = certutil.EncodeCertificates(made); err != nil {
		t.Fatal(err)
	}
	if key, err = keyutil.MarshalPrivateKeyToPEM(private); err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// The server serves reports to whom the cluster lets in, with the certificate of the
// moment, and is there while the cluster is not.
func TestReports(t *testing.T) {
	proxy, proxyKey := pair(t, "front-proxy")
	kubeconfig, up := cluster(t, proxy)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := reports.Config{Listener: l, CertFile: filepath.Join(t.TempDir(), "tls.crt"), KeyFile: filepath.Join(t.TempDir(), "tls.key"), Kubeconfig: kubeconfig}
	roots := x509.NewCertPool()
	renew := func() {
		cert, key := pair(t, "assay-reports.assay.svc")
		roots = x509.NewCertPool()
		roots.AppendCertsFromPEM(cert)
		for file, text := range map[string][]byte{c.CertFile: cert, c.KeyFile: key} {
			if err := os.WriteFile(file, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	renew()
	w := start(t, "", func(d *daemon.Config) { d.Reports = &c })
	w.want(201, "POST", "/api/v1/scans", report("nginx:1", 1, clock, map[string]float64{"CVE-2026-0001": 9.8}))

	client, err := tls.X509KeyPair(proxy, proxyKey)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(user string, certificates ...tls.Certificate) (status int, text string) {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "assay-reports.assay.svc", Certificates: certificates}}
		defer transport.CloseIdleConnections()
		r, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+l.Addr().String()+"/apis/reports.assay.dev/v1alpha1/imagescansummaries", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Remote-User", user)
		answer, err := (&http.Client{Transport: transport, Timeout: time.Second}).Do(r)
		if err != nil {
			return 0, err.Error()
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(body)
	}
	if status, text := ask("alice", client); status != 0 {
		t.Errorf("without a cluster: %d %s", status, text)
	}
	up.Store(true)
	w.until("the cluster", func() bool { status, _ := ask("alice", client); return status == http.StatusOK })
	if _, text := ask("alice", client); !strings.Contains(text, `"result":"Fail"`) {
		t.Errorf("alice reads %s", text)
	}
	if status, text := ask("bob", client); status != http.StatusForbidden {
		t.Errorf("bob: %d %s", status, text)
	}
	if status, text := ask("alice"); status != http.StatusForbidden || !strings.Contains(text, "system:anonymous") {
		t.Errorf("not by the front proxy: %d %s", status, text)
	}
	renew()
	w.until("the new certificate", func() bool { status, _ := ask("alice", client); return status == http.StatusOK })
}
