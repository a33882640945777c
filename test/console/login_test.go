package console_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/assay-dev/assay/server/auth"
	"github.com/assay-dev/assay/server/daemon"
)

// issuer is an OpenID provider over TLS with a page where people say who they are.
type issuer struct {
	*httptest.Server
	key *ecdsa.PrivateKey

	mu    sync.Mutex
	codes map[string]url.Values // what each code was asked for with
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{key: key, codes: map[string]url.Values{}}
	mux := http.NewServeMux()
	reply := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, map[string]any{"issuer": i.URL, "jwks_uri": i.URL + "/keys", "authorization_endpoint": i.URL + "/authorize", "token_endpoint": i.URL + "/token",
			"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"ES256"}})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "1", Algorithm: "ES256", Use: "sig"}}})
	})
	mux.HandleFunc("GET /authorize", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `<!doctype html><html lang="en"><head><title>The issuer</title><link rel="icon" href="data:,"></head><body><main><h1>The issuer</h1><form method="post" action="/authorize?%s">
			<label>User<input name="user"></label><button>Sign in</button></form></main></body></html>`, html.EscapeString(r.URL.RawQuery))
	})
	mux.HandleFunc("POST /authorize", func(w http.ResponseWriter, r *http.Request) {
		asked := r.URL.Query()
		if asked.Get("client_id") != "assay" || asked.Get("response_type") != "code" || asked.Get("code_challenge_method") != "S256" {
			http.Error(w, "bad request", http.StatusBadRequest)
			return
		}
		asked.Set("user", r.PostFormValue("user"))
		code := rand.Text()
		i.mu.Lock()
		i.codes[code] = asked
		i.mu.Unlock()
		http.Redirect(w, r, asked.Get("redirect_uri")+"?"+url.Values{"code": {code}, "state": {asked.Get("state")}}.Encode(), http.StatusFound)
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		asked, ok := i.codes[r.PostFormValue("code")]
		delete(i.codes, r.PostFormValue("code"))
		i.mu.Unlock()
		sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
		id, secret, _ := r.BasicAuth()
		if !ok || base64.RawURLEncoding.EncodeToString(sum[:]) != asked.Get("code_challenge") || id != "assay" || secret != "secret" || r.PostFormValue("redirect_uri") != asked.Get("redirect_uri") {
			http.Error(w, `{"error":"invalid_grant"}`, http.StatusBadRequest)
			return
		}
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "1"}}, nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		groups := map[string][]string{"alice": {"platform"}, "mallory": {"visitors"}}[asked.Get("user")]
		token, err := jwt.Signed(signer).Claims(map[string]any{"iss": i.URL, "aud": "assay", "sub": asked.Get("user"), "groups": groups, "nonce": asked.Get("nonce"),
			"iat": time.Now().Add(-time.Minute).Unix(), "exp": time.Now().Add(time.Hour).Unix()}).Serialize()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		reply(w, map[string]any{"access_token": "a", "token_type": "Bearer", "id_token": token})
	})
	i.Server = httptest.NewTLSServer(mux)
	t.Cleanup(i.Close)
	return i
}

// TestLogin signs in at an issuer, comes back to the page that was asked for, and out again. Who has no
// role there has none here.
func TestLogin(t *testing.T) {
	i := newIssuer(t)
	certificate := filepath.Join(t.TempDir(), "ca.pem")
	write(t, certificate, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.Certificate().Raw})))
	w := serve(t, "", func(c *daemon.Config) {
		c.Auth.OIDC = &auth.OIDC{Issuer: i.URL, ClientID: "assay", CAFile: certificate}
		c.Auth.Login = &auth.Login{ClientSecret: "secret", RedirectURL: "http://" + c.Listener.Addr().String() + "/signin/callback"}
		c.Auth.Bindings = []auth.Binding{{Role: auth.Editor, Groups: []string{"oidc:platform"}}}
	})
	b := w.tab()
	b.open("/images?search=web")
	b.at("Sign in")
	b.click(link("Sign in at your identity provider"))
	b.see("The issuer")
	b.fill("User", "alice")
	b.click(button("Sign in"))
	b.at("Images")
	b.see("oidc:alice")
	if at := b.address(); at != "/images?search=web" {
		t.Errorf("after the login it is at %s", at)
	}
	b.click(button("Sign out"))
	b.at("Sign in")
	b.open("/settings")
	b.at("Sign in")

	other := w.tab()
	other.open("/")
	other.click(link("Sign in at your identity provider"))
	other.fill("User", "mallory")
	other.click(button("Sign in"))
	other.see("Not signed in", `"oidc:mallory" has no role here`)
}
