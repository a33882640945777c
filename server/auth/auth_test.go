package auth

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
)

var routes = Routes{
	"GET /view":    needs(Viewer),
	"POST /edit":   needs(Editor),
	"DELETE /all":  needs(Admin),
	"POST /upload": needs(Scanner, Editor),
	"GET /db":      needs(Scanner, Viewer),
	"GET /healthz": needs(Public),
	"POST /login":  needs(Public),
}

func TestZeroConfigRefusesEverybody(t *testing.T) {
	a, err := New(context.Background(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	s := serveTLS(t, a)
	cert := newAuthority(t, "any", nil).client(t, "admin", "system:masters")
	for _, q := range []request{
		{path: "/"}, {path: "/view", token: "x"}, {path: "/view", token: NewToken()}, {path: "/healthz"}, {path: "/view", cert: &cert},
		{path: "/view", header: http.Header{"Cookie": {cookieName + "=x"}}}, {path: "/view", header: http.Header{"Authorization": {"Basic YTpi"}}},
	} {
		if got := send(t, s.URL, q); got.status != http.StatusUnauthorized {
			t.Errorf("%+v: %d", q, got.status)
		}
	}
}

// Every authenticator, with no, a good, a wrong, an expired, a revoked and a too
// weak credential, beside all the others.
func TestCredentials(t *testing.T) {
	root := newAuthority(t, "root", nil)
	intermediate := newAuthority(t, "intermediate", root)
	stranger := newAuthority(t, "root", nil) // the same name, another key
	chained := intermediate.client(t, "carol", "auditors")
	chained.Certificate = append(chained.Certificate, intermediate.cert.Raw)
	expired := root.issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "carol"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour),
	})
	forServers := root.issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "carol"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	nameless := root.client(t, "", "auditors")
	foreign := stranger.client(t, "carol", "auditors")
	unbound := root.client(t, "nobody")
	direct := root.client(t, "dave", "sales")

	provider, k8s, store := newIssuer(t), newCluster(t), &memory{}
	past, future := time.Now().Add(-time.Second), time.Now().Add(time.Hour)
	inScope := Scope{Cluster: "prod-eu"}
	scanner := store.add(StoredToken{Name: "scanner", Role: Scanner, Scope: inScope, Expires: future})
	admin := store.add(StoredToken{Name: "root", Role: Admin})
	old := store.add(StoredToken{Name: "old", Role: Admin, Expires: past})
	revoked := store.add(StoredToken{Name: "gone", Role: Admin, Revoked: true})
	k8s.users["service-account"] = authenticationv1.UserInfo{Username: "system:serviceaccount:assay:node", Groups: []string{"system:serviceaccounts"}}
	k8s.users["other-account"] = authenticationv1.UserInfo{Username: "system:serviceaccount:default:default"}
	alice := provider.token(t, nil)
	tampered := strings.Split(alice, ".")
	tampered[1] = base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"iss":%q,"aud":"assay","sub":"root","groups":["admins"],"tenant":"acme","exp":%d}`, provider.URL, future.Unix()))
	unsigned := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + tampered[1] + "."

	tokens := tempFile(t, "file-token-of-bob,bob,1,\"dev,ops\"\nfile-token-of-eve,eve,2\n")
	a := newAuth(t, Config{
		Routes: routes,
		Bindings: []Binding{
			{Users: []string{"bob"}, Role: Editor},
			{Groups: []string{"auditors", "oidc:platform"}, Role: Viewer},
			{Users: []string{"system:serviceaccount:assay:node"}, Role: Scanner, Scope: inScope},
			{Groups: []string{"ops", "oidc:admins"}, Role: Admin},
			{Users: []string{"dave"}, Role: Admin},
		},
		TokenFile: tokens, Tokens: store, ClientCAFile: tempFile(t, pemOf(root.cert)),
		OIDC: &OIDC{
			Issuer: provider.URL, ClientID: "assay", CAFile: tempFile(t, pemOf(provider.Certificate())),
			RequiredClaims: map[string]string{"tenant": "acme"},
		},
		TokenReview:       &TokenReview{Kubeconfig: k8s.kubeconfig(t), Audiences: []string{"assay"}},
		FailuresPerMinute: 1000,
	})
	s := serveTLS(t, a)
	settle(t, s.URL, alice)

	wrongStore := NewToken()
	badSum := scanner[:len(scanner)-1] + "~"
	jwtOf := func(change map[string]any) string { return provider.token(t, change) }
	cases := []struct {
		name     string
		token    string
		cert     *tls.Certificate
		view     int
		upload   int
		all      int
		identity Identity
	}{
		{name: "none", view: 401, upload: 401, all: 401},

		{name: "file", token: "file-token-of-bob", view: 200, upload: 200, all: 403,
			identity: Identity{Name: "bob", Groups: []string{"dev", "ops"}, Role: Editor, Via: "token-file"}},
		{name: "file, no role", token: "file-token-of-eve", view: 403, upload: 403, all: 403},
		{name: "file, wrong", token: "file-token-of-boc", view: 401, upload: 401, all: 401},
		{name: "file, the hash instead", token: fmt.Sprintf("%x", Hash("file-token-of-bob")), view: 401, upload: 401, all: 401},

		{name: "store, scanner", token: scanner, view: 403, upload: 200, all: 403,
			identity: Identity{Name: "scanner", Role: Scanner, Scope: inScope, Via: "store"}},
		{name: "store, admin", token: admin, view: 200, upload: 200, all: 200, identity: Identity{Name: "root", Role: Admin, Via: "store"}},
		{name: "store, expired", token: old, view: 401, upload: 401, all: 401},
		{name: "store, revoked", token: revoked, view: 401, upload: 401, all: 401},
		{name: "store, wrong", token: wrongStore, view: 401, upload: 401, all: 401},
		{name: "store, checksum", token: badSum, view: 401, upload: 401, all: 401},

		{name: "oidc", token: alice, view: 200, upload: 403, all: 403,
			identity: Identity{Name: "oidc:alice", Groups: []string{"oidc:platform"}, Role: Viewer, Via: "oidc"}},
		{name: "oidc, no role", token: jwtOf(map[string]any{"groups": nil}), view: 403, upload: 403, all: 403},
		{name: "oidc, a group of others", token: jwtOf(map[string]any{"groups": []string{"ops", "auditors"}}), view: 403, upload: 403, all: 403},
		{name: "oidc, a user of others", token: jwtOf(map[string]any{"sub": "bob", "groups": nil}), view: 403, upload: 403, all: 403},
		{name: "oidc, expired", token: jwtOf(map[string]any{"exp": time.Now().Add(-time.Minute).Unix()}), view: 401, upload: 401, all: 401},
		{name: "oidc, other client", token: jwtOf(map[string]any{"aud": "other"}), view: 401, upload: 401, all: 401},
		{name: "oidc, other issuer", token: jwtOf(map[string]any{"iss": "https://example.com"}), view: 401, upload: 401, all: 401},
		{name: "oidc, claim missing", token: jwtOf(map[string]any{"tenant": nil}), view: 401, upload: 401, all: 401},
		{name: "oidc, claim wrong", token: jwtOf(map[string]any{"tenant": "other"}), view: 401, upload: 401, all: 401},
		{name: "oidc, no subject", token: jwtOf(map[string]any{"sub": nil}), view: 401, upload: 401, all: 401},
		{name: "oidc, other key", token: signed(t, newKey(t), provider.claims(nil)), view: 401, upload: 401, all: 401},
		{name: "oidc, tampered", token: strings.Join(tampered, "."), view: 401, upload: 401, all: 401},
		{name: "oidc, unsigned", token: unsigned, view: 401, upload: 401, all: 401},

		{name: "review", token: "service-account", view: 403, upload: 200, all: 403,
			identity: Identity{Name: "system:serviceaccount:assay:node", Groups: []string{"system:serviceaccounts"}, Role: Scanner, Scope: inScope, Via: "token-review"}},
		{name: "review, no role", token: "other-account", view: 403, upload: 403, all: 403},
		{name: "review, wrong", token: "third-account", view: 401, upload: 401, all: 401},

		{name: "certificate", cert: &chained, view: 200, upload: 403, all: 403,
			identity: Identity{Name: "carol", Groups: []string{"auditors"}, Role: Viewer, Via: "certificate"}},
		{name: "certificate, by user", cert: &direct, view: 200, upload: 200, all: 200,
			identity: Identity{Name: "dave", Groups: []string{"sales"}, Role: Admin, Via: "certificate"}},
		{name: "certificate, no role", cert: &unbound, view: 403, upload: 403, all: 403},
		{name: "certificate, expired", cert: &expired, view: 401, upload: 401, all: 401},
		{name: "certificate, for servers", cert: &forServers, view: 401, upload: 401, all: 401},
		{name: "certificate, nameless", cert: &nameless, view: 401, upload: 401, all: 401},
		{name: "certificate, other authority", cert: &foreign, view: 401, upload: 401, all: 401},
		{name: "certificate beside a wrong token", cert: &direct, token: "token-of-nobody", view: 401, upload: 401, all: 401},
		{name: "wrong certificate beside a token", cert: &foreign, token: admin, view: 200, upload: 200, all: 200,
			identity: Identity{Name: "root", Role: Admin, Via: "store"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for _, q := range []struct {
				method, path string
				want         int
			}{
				{"GET", "/view", c.view}, {"POST", "/upload", c.upload}, {"DELETE", "/all", c.all},
				{"GET", "/healthz", 200},
			} {
				got := send(t, s.URL, request{method: q.method, path: q.path, token: c.token, cert: c.cert})
				if got.status != q.want {
					t.Errorf("%s %s: %d, want %d: %s", q.method, q.path, got.status, q.want, got.body)
				}
				if got.status == 200 && q.path != "/healthz" && fmt.Sprint(got.id) != fmt.Sprint(c.identity) {
					t.Errorf("%s %s: %+v, want %+v", q.method, q.path, got.id, c.identity)
				}
				if c.token != "" && strings.Contains(got.body+fmt.Sprint(got.header), c.token) {
					t.Errorf("%s %s: the answer repeats the token", q.method, q.path)
				}
				if got.proto != 2 {
					t.Errorf("HTTP/%d", got.proto)
				}
			}
			// What is not in the table is for nobody, and only who has a role is told so.
			want := 404
			if c.view == 401 {
				want = 401
			} else if c.view == 403 && c.upload == 403 {
				want = 403
			}
			if got := send(t, s.URL, request{path: "/unlisted", token: c.token, cert: c.cert}); got.status != want {
				t.Errorf("unlisted: %d, want %d", got.status, want)
			}
		})
	}

	for _, token := range k8s.reviewed {
		if strings.HasPrefix(token, TokenPrefix) || token == alice || token == "file-token-of-bob" {
			t.Errorf("the API server was shown the token %s", token)
		}
	}
	log := logs.String()
	for _, c := range cases {
		if c.token != "" && strings.Contains(log, c.token) {
			t.Errorf("%s: the token is in the log", c.name)
		}
	}
	if !strings.Contains(log, "token is expired") || !strings.Contains(log, "invalid token [token]") {
		t.Error("the log does not say why tokens were refused")
	}
}

// Each role on each route, against the table itself.
func TestRolesGrantWhatTheTableSays(t *testing.T) {
	store := &memory{}
	a := newAuth(t, Config{Routes: routes, Tokens: store})
	h := a.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	grants := map[Role]string{
		Scanner: "POST /upload, GET /db",
		Node:    "",
		Viewer:  "GET /view, GET /db",
		Editor:  "GET /view, GET /db, POST /edit, POST /upload",
		Admin:   "GET /view, GET /db, POST /edit, POST /upload, DELETE /all",
	}
	for role, may := range grants {
		token := store.add(StoredToken{Name: string(role), Role: role})
		for route := range routes {
			for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
				_, path, _ := strings.Cut(route, " ")
				want := http.StatusForbidden
				as := strings.Replace(method, "HEAD", "GET", 1) + " " + path
				if len(routes[as].Roles) == 0 {
					want = http.StatusMethodNotAllowed
				}
				if strings.Contains(", "+may+",", ", "+as+",") || len(routes[as].Roles) > 0 && routes[as].Roles[0] == Public {
					want = http.StatusOK
				}
				r := httptest.NewRequest(method, path, nil)
				r.Header.Set("Authorization", "Bearer "+token)
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if w.Code != want {
					t.Errorf("%s %s as %s: %d, want %d", method, path, role, w.Code, want)
				}
			}
		}
	}
}

func TestRevocationCountsAtOnce(t *testing.T) {
	store, seen := &memory{}, &counts{}
	now := time.Now()
	var mu sync.Mutex
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	a := newAuth(t, Config{Routes: routes, Tokens: store, Observe: seen.observe, Now: clock})
	s := serveTLS(t, a)
	token := store.add(StoredToken{Name: "a", Role: Viewer, Expires: now.Add(time.Minute)})
	status := func() int { return send(t, s.URL, request{path: "/view", token: token}).status }
	if got := status(); got != 200 {
		t.Fatal(got)
	}
	store.set(token, StoredToken{Name: "a", Role: Viewer, Revoked: true})
	if got := status(); got != 401 {
		t.Errorf("after the revocation: %d", got)
	}
	store.set(token, StoredToken{Name: "a", Role: Viewer, Expires: now.Add(time.Minute)})
	mu.Lock()
	now = now.Add(time.Minute)
	mu.Unlock()
	if got := status(); got != 401 {
		t.Errorf("at the second of its end: %d", got)
	}
	for key, want := range map[string]int{"store ok": 1, "store revoked": 1, "store expired": 1} {
		if got := seen.get(key); got != want {
			t.Errorf("observed %q %d times", key, got)
		}
	}
}

func TestUnknownTokensAreRemembered(t *testing.T) {
	store := &memory{}
	a := newAuth(t, Config{Routes: routes, Tokens: store})
	s := serveTLS(t, a)
	token := NewToken()
	for range 5 {
		send(t, s.URL, request{path: "/view", token: token})
	}
	send(t, s.URL, request{path: "/view", token: token[:len(token)-1] + "~"})
	if n := store.lookups(); n != 1 {
		t.Errorf("the store was asked %d times", n)
	}
}

// What cannot be checked lets nobody in, is told apart from what is wrong, and
// does not count as an attempt.
func TestOutage(t *testing.T) {
	provider, k8s, store, seen := newIssuer(t), newCluster(t), &memory{}, &counts{}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := "https://" + listener.Addr().String()
	listener.Close()
	a := newAuth(t, Config{
		Routes: routes, Bindings: []Binding{{Users: []string{"oidc:alice", "sa"}, Role: Admin}}, Tokens: store, Observe: seen.observe, FailuresPerMinute: 1,
		OIDC:        &OIDC{Issuer: dead, ClientID: "assay", CAFile: tempFile(t, pemOf(provider.Certificate()))},
		TokenReview: &TokenReview{Kubeconfig: k8s.kubeconfig(t)},
	})
	s := serveTLS(t, a)
	stored := store.add(StoredToken{Name: "a", Role: Admin})
	store.fail(errors.New("disk is gone"))
	k8s.set(func() { k8s.broken = true })
	for name, token := range map[string]string{"store": stored, "oidc": provider.token(t, map[string]any{"iss": dead}), "token-review": "token-of-sa"} {
		for range 3 {
			got := send(t, s.URL, request{path: "/view", token: token})
			if got.status != 503 || got.header.Get("Retry-After") == "" {
				t.Errorf("%s: %d %s", name, got.status, got.body)
			}
		}
		if seen.get(name+" unavailable") != 3 {
			t.Errorf("%s: not observed", name)
		}
		if strings.Contains(logs.String(), token) {
			t.Errorf("%s: the token is in the log", name)
		}
	}
	if !strings.Contains(logs.String(), "disk is gone") {
		t.Error("the failure of the store is not in the log")
	}
	store.fail(nil)
	k8s.set(func() { k8s.broken, k8s.users["token-of-sa"] = false, authenticationv1.UserInfo{Username: "sa"} })
	for _, token := range []string{stored, "token-of-sa"} {
		if got := send(t, s.URL, request{path: "/view", token: token}); got.status != 200 {
			t.Errorf("after the outage: %d", got.status)
		}
	}
}

func TestTokenReviewAudience(t *testing.T) {
	k8s := newCluster(t)
	k8s.users["sa"] = authenticationv1.UserInfo{Username: "sa"}
	a := newAuth(t, Config{
		Routes: routes, Bindings: []Binding{{Users: []string{"sa"}, Role: Admin}},
		TokenReview: &TokenReview{Kubeconfig: k8s.kubeconfig(t), Audiences: []string{"assay"}},
	})
	s := serveTLS(t, a)
	k8s.set(func() { k8s.audience = "https://kubernetes.default.svc" })
	if got := send(t, s.URL, request{path: "/view", token: "sa"}); got.status != 401 {
		t.Errorf("a token for another audience: %d", got.status)
	}
	k8s.set(func() { k8s.audience = "assay" })
	for range 3 {
		if got := send(t, s.URL, request{path: "/view", token: "sa"}); got.status != 200 {
			t.Errorf("a token for us: %d", got.status)
		}
	}
	if n := len(k8s.reviewed); n != 2 {
		t.Errorf("%d reviews, want one of each kind", n)
	}
}

// Tokens and authorities change in their files while requests run: what stays
// is never refused, what was taken out is from then on.
func TestFilesChangeWhileRequestsRun(t *testing.T) {
	first, second := newAuthority(t, "first", nil), newAuthority(t, "second", nil)
	stays, goes := first.client(t, "bob"), second.client(t, "bob")
	tokens, authorities := tempFile(t, "the-token-that-stays,bob,1\n"), tempFile(t, pemOf(first.cert))
	a := newAuth(t, Config{
		Routes: routes, Bindings: []Binding{{Users: []string{"bob"}, Role: Viewer}}, TokenFile: tokens, ClientCAFile: authorities, FailuresPerMinute: 1 << 20,
	})
	s := serveTLS(t, a)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if got := send(t, s.URL, request{path: "/view", token: "the-token-that-stays"}); got.status != 200 {
					t.Errorf("the token that stays: %d", got.status)
				}
				if got := send(t, s.URL, request{path: "/view", cert: &stays}); got.status != 200 {
					t.Errorf("the certificate that stays: %d", got.status)
				}
			}
		})
	}
	expect := func(want int, goingToken string) {
		t.Helper()
		if got := send(t, s.URL, request{path: "/view", token: goingToken}); got.status != want {
			t.Errorf("the token that comes and goes: %d, want %d", got.status, want)
		}
		if got := send(t, s.URL, request{path: "/view", cert: &goes}); got.status != want {
			t.Errorf("the certificate that comes and goes: %d, want %d", got.status, want)
		}
	}
	for i := range 30 {
		going := fmt.Sprintf("token-%06d", i) // files of one size
		replace(t, tokens, "the-token-that-stays,bob,1\n"+going+",bob,1\n")
		replace(t, authorities, pemOf(first.cert, second.cert))
		expect(200, going)
		replace(t, tokens, "the-token-that-stays,bob,1\n")
		replace(t, authorities, pemOf(first.cert))
		expect(401, going)
	}
	cancel()
	wg.Wait()
}

// A connection that is open loses its authority with the bundle.
func TestOpenConnectionLosesItsAuthority(t *testing.T) {
	first, second := newAuthority(t, "first", nil), newAuthority(t, "second", nil)
	cert := first.client(t, "bob")
	bundle := tempFile(t, pemOf(first.cert))
	s := serveTLS(t, newAuth(t, Config{Routes: routes, Bindings: []Binding{{Users: []string{"bob"}, Role: Viewer}}, ClientCAFile: bundle}))
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	if got := sendOver(t, client, s.URL, request{path: "/view"}); got.status != 200 {
		t.Fatal(got.status)
	}
	replace(t, bundle, pemOf(second.cert))
	var hints [][]byte
	connection, err := tls.Dial("tcp", s.Listener.Addr().String(), &tls.Config{
		InsecureSkipVerify: true,
		GetClientCertificate: func(q *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			hints = q.AcceptableCAs
			return &tls.Certificate{}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	connection.Close()
	if len(hints) != 1 || !bytes.Equal(hints[0], second.cert.RawSubject) {
		t.Errorf("the server asks for certificates of %q", hints)
	}
	if got := sendOver(t, client, s.URL, request{path: "/view"}); got.status != 401 {
		t.Errorf("after the change: %d", got.status)
	}
	if err := os.Remove(bundle); err != nil {
		t.Fatal(err)
	}
	if got := sendOver(t, client, s.URL, request{path: "/view"}); got.status != 401 {
		t.Errorf("without bundle: %d", got.status)
	}
}

func TestAnonymous(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := newAuth(t, Config{Routes: routes, Anonymous: Editor, Listener: listener.Addr()})
	s := httptest.NewUnstartedServer(a.Handler(whoami(t)))
	s.Listener.Close()
	s.Listener = listener
	s.Start()
	defer s.Close()
	port := s.URL[strings.LastIndex(s.URL, ":"):]
	for _, c := range []struct {
		name string
		q    request
		host string
		want int
	}{
		{name: "plain", q: request{path: "/view"}, want: 200},
		{name: "by name", q: request{path: "/view"}, host: "localhost" + port, want: 200},
		{name: "unsafe", q: request{method: "POST", path: "/edit"}, want: 200},
		{name: "too weak", q: request{method: "DELETE", path: "/all"}, want: 403},
		{name: "unlisted", q: request{path: "/x"}, want: 404},
		{name: "a wrong token", q: request{path: "/view", token: "token-of-nobody"}, want: 401},
		{name: "a wrong scheme", q: request{path: "/view", header: http.Header{"Authorization": {"Basic YTpi"}}}, want: 401},
		{name: "an empty header", q: request{path: "/view", header: http.Header{"Authorization": {""}}}, want: 401},
		{name: "through a proxy", q: request{path: "/view", header: http.Header{"X-Forwarded-For": {"10.0.0.1"}}}, want: 401},
		{name: "a rebound name", q: request{path: "/view"}, host: "evil.example" + port, want: 401},
		{name: "another site", q: request{method: "POST", path: "/edit", header: http.Header{"Sec-Fetch-Site": {"cross-site"}}}, want: 403},
		{name: "another origin", q: request{method: "POST", path: "/edit", header: http.Header{"Origin": {"https://evil.example"}}}, want: 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
				if c.host != "" {
					r.Host = c.host
				}
				return http.DefaultTransport.RoundTrip(r)
			})}
			got := sendOver(t, client, s.URL, c.q)
			if got.status != c.want {
				t.Errorf("%d, want %d: %s", got.status, c.want, got.body)
			}
			if want := (Identity{Name: "anonymous", Role: Editor, Via: "anonymous"}); got.status == 200 && fmt.Sprint(got.id) != fmt.Sprint(want) {
				t.Errorf("%+v", got.id)
			}
		})
	}
	// Both ends must be on loopback, by the server's own word.
	for _, c := range []struct {
		local  net.Addr
		remote string
		want   int
	}{
		{&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, "127.0.0.1:1", 200},
		{&net.TCPAddr{IP: net.IPv6loopback}, "[::1]:1", 200},
		{&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, "192.0.2.1:1", 401},
		{&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}, "127.0.0.1:1", 401},
		{&net.UnixAddr{Name: "/run/assay.sock"}, "@", 401},
		{nil, "127.0.0.1:1", 401},
	} {
		r := httptest.NewRequest("GET", "http://localhost/view", nil)
		if c.local != nil {
			r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, c.local))
		}
		r.RemoteAddr = c.remote
		w := httptest.NewRecorder()
		a.Handler(whoami(t)).ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("from %s to %v: %d, want %d", c.remote, c.local, w.Code, c.want)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestNewRefuses(t *testing.T) {
	wide := &net.TCPAddr{IP: net.IPv4zero, Port: 80}
	local := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80}
	for want, c := range map[string]Config{
		"listen on 127.0.0.1":                  {Anonymous: Viewer, Listener: wide},
		"anonymous access is for trials":       {Anonymous: Viewer},
		"unknown role \"public\"":              {Anonymous: Public, Listener: local},
		"binding 1: unknown role":              {Bindings: []Binding{{Role: "root"}}},
		"no such file":                         {TokenFile: "nowhere"},
		"found 1 columns":                      {TokenFile: tempFile(t, "a")},
		"no certificate in PEM form":           {ClientCAFile: tempFile(t, "a")},
		"OIDC: ":                               {OIDC: &OIDC{Issuer: "http://plain.example", ClientID: "a"}},
		"TokenReview: ":                        {TokenReview: &TokenReview{Kubeconfig: "nowhere"}},
		"at least 32 bytes":                    {Sessions: &Sessions{}},
		"key 2 has 3 bytes":                    {Sessions: &Sessions{Keys: [][]byte{make([]byte, 32), []byte("abc")}}},
		"trusted origin":                       {TrustedOrigins: []string{"example.com"}},
		"table of routes: \"/a\" names no met": {Routes: Routes{"/a": needs(Viewer)}},
	} {
		if _, err := New(context.Background(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// A handler's response is not touched, streams included.
func TestHandlerKeepsTheWriter(t *testing.T) {
	store := &memory{}
	token := store.add(StoredToken{Name: "a", Role: Viewer})
	a := newAuth(t, Config{Routes: routes, Tokens: store})
	more := make(chan struct{})
	s := httptest.NewServer(a.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "one")
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		<-more
	})))
	defer s.Close()
	r, err := http.NewRequest("GET", s.URL+"/view", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	one := make([]byte, 3)
	if _, err := io.ReadFull(response.Body, one); err != nil || string(one) != "one" {
		t.Errorf("%q, %v", one, err)
	}
	close(more)
}

func BenchmarkHandler(b *testing.B) {
	store := &memory{}
	authority := newAuthority(b, "root", nil)
	cert := authority.client(b, "bob")
	a := newAuth(b, Config{
		Routes: routes, Tokens: store, TokenFile: tempFile(b, "token-of-bob-in-file,bob,1\n"), ClientCAFile: tempFile(b, pemOf(authority.cert)),
		Bindings: []Binding{{Users: []string{"bob"}, Role: Viewer}}, Sessions: &Sessions{Keys: [][]byte{key()}},
	})
	stored := store.add(StoredToken{Name: "a", Role: Viewer})
	w := httptest.NewRecorder()
	if _, err := a.SignIn(w, httptest.NewRequest("POST", "/login", nil), stored); err != nil {
		b.Fatal(err)
	}
	session := w.Result().Cookies()[0]
	for name, prepare := range map[string]func(*http.Request){
		"token-file":  func(r *http.Request) { r.Header.Set("Authorization", "Bearer token-of-bob-in-file") },
		"store":       func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+stored) },
		"session":     func(r *http.Request) { r.Header["Cookie"] = []string{session.Name + "=" + session.Value} },
		"certificate": func(r *http.Request) { r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert.Leaf}} },
	} {
		b.Run(name, func(b *testing.B) {
			passed := 0
			h := a.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { passed++ }))
			r, w := httptest.NewRequest("GET", "/view", nil), httptest.NewRecorder()
			b.ReportAllocs()
			for b.Loop() {
				prepare(r)
				h.ServeHTTP(w, r)
			}
			if passed != b.N {
				b.Errorf("%d of %d requests passed", passed, b.N)
			}
		})
	}
}
