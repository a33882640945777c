package auth

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/klog/v2"
)

// logs is where everything is logged in the tests, by klog too.
var logs buffer

func TestMain(m *testing.M) {
	klog.SetSlogLogger(slog.New(slog.NewTextHandler(&logs, nil)))
	os.Exit(m.Run())
}

// buffer is a bytes.Buffer that many may use.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(&logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// counts are the observations of requests.
type counts struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *counts) observe(authenticator, result string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	c.n[authenticator+" "+result]++
}

func (c *counts) get(key string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[key]
}

// memory is a TokenStore.
type memory struct {
	mu     sync.Mutex
	tokens map[TokenHash]StoredToken
	asked  int
	err    error
}

func (m *memory) LookupToken(_ context.Context, hash TokenHash) (StoredToken, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked++
	t, found := m.tokens[hash]
	return t, found, m.err
}

func (m *memory) add(t StoredToken) (token string) {
	token = NewToken()
	m.set(token, t)
	return token
}

func (m *memory) set(token string, t StoredToken) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tokens == nil {
		m.tokens = map[TokenHash]StoredToken{}
	}
	m.tokens[Hash(token)] = t
}

func (m *memory) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

func (m *memory) lookups() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asked
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue makes a certificate, of itself when a has none yet.
func (a *authority) issue(t testing.TB, c *x509.Certificate) tls.Certificate {
	t.Helper()
	key := newKey(t)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber = serial
	if c.NotAfter.IsZero() {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(2*time.Hour)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func newAuthority(t testing.TB, name string, parent *authority) *authority {
	t.Helper()
	if parent == nil {
		parent = &authority{}
	}
	c := parent.issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return &authority{c.Leaf, c.PrivateKey.(crypto.Signer)}
}

func (a *authority) client(t testing.TB, name string, groups ...string) tls.Certificate {
	t.Helper()
	return a.issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name, Organization: groups}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

func pemOf(certs ...*x509.Certificate) string {
	var b strings.Builder
	for _, c := range certs {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return b.String()
}

// replace writes a file as editors and ConfigMaps do: at once.
func replace(t testing.TB, path, text string) {
	t.Helper()
	next := path + ".next"
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
}

func tempFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	replace(t, path, text)
	return path
}

// issuer is an OpenID provider over TLS.
type issuer struct {
	*httptest.Server
	key crypto.Signer
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	i := &issuer{key: newKey(t)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, map[string]any{
			"issuer": i.URL, "jwks_uri": i.URL + "/keys", "authorization_endpoint": i.URL + "/authorize", "token_endpoint": i.URL + "/token",
			"response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"},
			"id_token_signing_alg_values_supported": []string{"ES256"},
		})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.key.Public(), KeyID: "1", Algorithm: "ES256", Use: "sig"}}})
	})
	i.Server = httptest.NewTLSServer(mux)
	t.Cleanup(i.Close)
	return i
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// token signs the usual claims with some changed; a nil value takes one out.
func (i *issuer) token(t testing.TB, change map[string]any) string {
	t.Helper()
	return signed(t, i.key, i.claims(change))
}

func (i *issuer) claims(change map[string]any) map[string]any {
	claims := map[string]any{
		"iss": i.URL, "aud": "assay", "sub": "alice", "groups": []string{"platform"}, "tenant": "acme",
		"iat": time.Now().Add(-time.Minute).Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	}
	for name, value := range change {
		claims[name] = value
		if value == nil {
			delete(claims, name)
		}
	}
	return claims
}

func signed(t testing.TB, key crypto.Signer, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "1"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// cluster is the TokenReview endpoint of a Kubernetes API server over TLS.
type cluster struct {
	*httptest.Server
	mu       sync.Mutex
	users    map[string]authenticationv1.UserInfo
	audience string
	reviewed []string
	broken   bool
}

func newCluster(t testing.TB) *cluster {
	t.Helper()
	c := &cluster{users: map[string]authenticationv1.UserInfo{}, audience: "assay"}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /apis/authentication.k8s.io/v1/tokenreviews", func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if r.Header.Get("Authorization") != "Bearer credential-of-assay" {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		var review authenticationv1.TokenReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil || review.Kind != "TokenReview" {
			http.Error(w, "no TokenReview", http.StatusBadRequest)
			return
		}
		c.reviewed = append(c.reviewed, review.Spec.Token)
		if c.broken {
			http.Error(w, "etcd is gone", http.StatusServiceUnavailable)
			return
		}
		user, ok := c.users[review.Spec.Token]
		review.Status = authenticationv1.TokenReviewStatus{Authenticated: ok, User: user, Audiences: []string{c.audience}}
		if !ok {
			// As the worst of API servers, it repeats the token.
			review.Status.Error = "invalid token " + review.Spec.Token
		}
		review.Spec.Token = ""
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(review)
	})
	c.Server = httptest.NewTLSServer(mux)
	t.Cleanup(c.Close)
	return c
}

func (c *cluster) kubeconfig(t testing.TB) string {
	t.Helper()
	ca := tempFile(t, pemOf(c.Certificate()))
	return tempFile(t, fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
  - {name: c, cluster: {server: %q, certificate-authority: %q}}
users:
  - {name: u, user: {token: credential-of-assay}}
contexts:
  - {name: x, context: {cluster: c, user: u}}
current-context: x
`, c.URL, ca))
}

func (c *cluster) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

// newAuth makes an Auth that lives as long as the test.
func newAuth(t testing.TB, c Config) *Auth {
	t.Helper()
	if c.Log == nil {
		c.Log = logger()
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	a, err := New(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// whoami answers with the identity that a handler sees.
func whoami(t testing.TB) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h := r.Header.Get("Authorization"); h != "" {
			t.Errorf("the handler sees the credential %q", h)
		}
		id, _ := FromContext(r.Context())
		writeJSON(w, id)
	})
}

// serveTLS serves on loopback with a's client certificates.
func serveTLS(t testing.TB, a *Auth) *httptest.Server {
	t.Helper()
	ca := newAuthority(t, "server", nil)
	leaf := ca.issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "server"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	s := httptest.NewUnstartedServer(a.Handler(whoami(t)))
	s.TLS = a.TLSConfig(&tls.Config{Certificates: []tls.Certificate{leaf}})
	s.EnableHTTP2 = true
	s.Config.ErrorLog = slog.NewLogLogger(logger().Handler(), slog.LevelDebug)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// request is one request of a test.
type request struct {
	method, path, token string
	cert                *tls.Certificate
	header              http.Header
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
	id     Identity
	proto  int
}

// send sends a request over a connection of its own.
func send(t testing.TB, base string, q request) answer {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	if q.cert != nil {
		// Sent even when the server does not ask for its issuer.
		transport.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return q.cert, nil }
	}
	return sendOver(t, &http.Client{Transport: transport}, base, q)
}

func sendOver(t testing.TB, client *http.Client, base string, q request) answer {
	t.Helper()
	if q.method == "" {
		q.method = http.MethodGet
	}
	r, err := http.NewRequest(q.method, base+q.path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if q.header != nil {
		r.Header = q.header.Clone()
	}
	if q.token != "" {
		r.Header.Set("Authorization", "Bearer "+q.token)
	}
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	a := answer{status: response.StatusCode, header: response.Header, body: string(body), proto: response.ProtoMajor}
	if a.status == http.StatusOK {
		if err := json.Unmarshal(body, &a.id); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		return a
	}
	var problem struct {
		Type, Title, Detail string
		Status              int
	}
	if err := json.Unmarshal(body, &problem); err != nil || problem.Status != a.status || problem.Title == "" || problem.Detail == "" ||
		a.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("no problem details: %d %s %s", a.status, a.header.Get("Content-Type"), body)
	}
	if (a.status == http.StatusUnauthorized) != (a.header.Get("WWW-Authenticate") != "") {
		t.Errorf("%d with WWW-Authenticate %q", a.status, a.header.Get("WWW-Authenticate"))
	}
	return a
}

// settle waits until the authenticators have found their issuer.
func settle(t testing.TB, base, token string) {
	t.Helper()
	for send(t, base, request{path: "/view", token: token}).status == http.StatusServiceUnavailable {
		time.Sleep(10 * time.Millisecond)
	}
}
