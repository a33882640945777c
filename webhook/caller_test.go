package webhook

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	certutil "k8s.io/client-go/util/cert"

	"github.com/assay-dev/assay/api"
)

// A record says whether the caller of the webhook was authenticated. Nothing that the caller
// writes says it instead: not the review's user, not a header, not a certificate of its own making.
func TestCallersAreRecorded(t *testing.T) {
	authority, signed := clientCertificate(t, "kube-apiserver")
	_, forged := clientCertificate(t, "kube-apiserver")
	file := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		clientCA string
		shows    *tls.Certificate
		status   int
		want     *api.Caller
	}{
		"nobody is asked for a certificate":          {"", nil, 200, &api.Caller{}},
		"nobody is asked, and one is shown":          {"", &signed, 200, &api.Caller{}},
		"the API server's certificate":               {file, &signed, 200, &api.Caller{Authenticated: true, Name: "kube-apiserver"}},
		"one of the same name, of another authority": {file, &forged, 403, nil},
		"no certificate, where one is to be shown":   {file, nil, 403, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var log lockedBuffer
			records := &Records{Log: &log, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
			metrics := prometheus.NewRegistry()
			records.Start(metrics)
			a, _ := admission(t, allowAll)
			a.Record = records.Add
			url, client := serveTo(t, Serving{ClientCAFile: c.clientCA, ClientNames: []string{"kube-apiserver"}, Metrics: metrics, Handlers: map[string]http.Handler{"/admit": a}}, c.shows)
			body := strings.Replace(somePod, `"username":"jane"`, `"username":"system:apiserver","extra":{"authenticated":["true"]}`, 1)
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/admit", strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("X-Remote-User", "kube-apiserver")
			r.Header.Set("X-Client-Cert", "CN=kube-apiserver")
			answer, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			if answer.StatusCode != c.status {
				t.Fatal(answer.Status)
			}
			if _, err := io.ReadAll(answer.Body); err != nil {
				t.Fatal(err)
			}
			if c.want == nil {
				return
			}
			var record api.Record
			for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
				if err = json.Unmarshal(log.bytes(), &record); err == nil || time.Now().After(deadline) {
					break
				}
			}
			if err != nil || record.Caller == nil || *record.Caller != *c.want {
				t.Errorf("%v, %+v: %s", err, record.Caller, log.bytes())
			}
			want := 1.0
			if c.want.Authenticated {
				want = 0
			}
			if got := testutil.ToFloat64(records.strangers); got != want {
				t.Errorf("%v decisions count as unauthenticated", got)
			}
		})
	}
}

// serveTo runs a server until the test ends, and gives its URL with a client that shows a certificate.
func serveTo(t *testing.T, s Serving, shows *tls.Certificate) (url string, client *http.Client) {
	t.Helper()
	var err error
	if s.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	cert, key, err := certutil.GenerateSelfSignedCertKey("127.0.0.1", []net.IP{net.IPv4(127, 0, 0, 1)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.Certificate, err = dynamiccertificates.NewStaticCertKeyContent("test", cert, key); err != nil {
		t.Fatal(err)
	}
	s.MaxInFlight = 8
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(running.Wait)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(cert)
	config := &tls.Config{RootCAs: roots}
	if shows != nil {
		config.Certificates = []tls.Certificate{*shows}
	}
	url, client = "https://"+s.Listener.Addr().String(), &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		r, err := client.Get(url + "/readyz")
		if err == nil {
			_ = r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return url, client
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the server is not ready: %v", err)
		}
	}
}

// clientCertificate is one of an authority of its own.
func clientCertificate(t *testing.T, name string) (authority *x509.Certificate, pair tls.Certificate) {
	t.Helper()
	sign := func(template, parent *x509.Certificate, key *ecdsa.PrivateKey, by *ecdsa.PrivateKey) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
		if err != nil {
			t.Fatal(err)
		}
		made, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	newKey := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	from, to := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	root, leaf := newKey(), newKey()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: from, NotAfter: to, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	authority = sign(template, template, root, root)
	made := sign(&x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: to, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, authority, leaf, root)
	return authority, tls.Certificate{Certificate: [][]byte{made.Raw}, PrivateKey: leaf}
}

// lockedBuffer is written by one goroutine and read by another.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.text.Bytes())
}
