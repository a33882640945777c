package auth

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// provider is an issuer with the rest of the authorization code flow. Whoever comes is alice.
type provider struct {
	*issuer
	t         *testing.T
	codes     map[string]url.Values // what a code was asked for with
	change    map[string]any        // of the claims
	exchanges int
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	p := &provider{issuer: newIssuer(t), t: t, codes: map[string]url.Values{}}
	known := p.Config.Handler
	p.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/token" {
			known.ServeHTTP(w, r)
			return
		}
		p.exchanges++
		asked, ok := p.codes[r.PostFormValue("code")]
		delete(p.codes, r.PostFormValue("code"))
		sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
		id, secret, _ := r.BasicAuth()
		if !ok || base64.RawURLEncoding.EncodeToString(sum[:]) != asked.Get("code_challenge") || asked.Get("code_challenge_method") != "S256" ||
			id != "assay" || secret != "secret" || r.PostFormValue("redirect_uri") != asked.Get("redirect_uri") {
			http.Error(w, `{"error":"invalid_grant"}`, http.StatusBadRequest)
			return
		}
		claims := map[string]any{"nonce": asked.Get("nonce")}
		for k, v := range p.change {
			claims[k] = v
		}
		writeJSON(w, map[string]any{"access_token": "a", "token_type": "Bearer", "id_token": p.token(t, claims)})
	})
	return p
}

// authorize is what the issuer does with a browser that was sent to it.
func (p *provider) authorize(location string) url.Values {
	p.t.Helper()
	u, err := url.Parse(location)
	if err != nil || !strings.HasPrefix(location, p.URL+"/authorize?") || u.Query().Get("client_id") != "assay" || !strings.Contains(u.Query().Get("scope"), "openid") {
		p.t.Fatalf("the browser is sent to %s: %v", location, err)
	}
	p.codes["code-1"] = u.Query()
	return url.Values{"code": {"code-1"}, "state": {u.Query().Get("state")}}
}

func TestLogin(t *testing.T) {
	p := newProvider(t)
	now := time.Now()
	a := newAuth(t, Config{
		Routes:   Routes{"GET /view": needs(Viewer)},
		Bindings: []Binding{{Groups: []string{"oidc:platform"}, Role: Viewer}},
		OIDC:     &OIDC{Issuer: p.URL, ClientID: "assay", CAFile: tempFile(t, pemOf(p.Certificate()))},
		Login:    &Login{ClientSecret: "secret", RedirectURL: "https://assay.example.com/signin/callback"},
		Sessions: &Sessions{Keys: [][]byte{key()}},
		Now:      func() time.Time { return now },
	})
	settle(t, serveTLS(t, a).URL, p.token(t, nil))
	begin := func() (url.Values, *http.Cookie) {
		t.Helper()
		w := httptest.NewRecorder()
		if err := a.BeginLogin(w, httptest.NewRequest(http.MethodGet, "/signin/issuer", nil), "/images?result=Fail"); err != nil {
			t.Fatal(err)
		}
		c := w.Result().Cookies()[0]
		if !c.HttpOnly || !c.Secure || c.Name != loginCookie {
			t.Errorf("the cookie is %v", c)
		}
		return p.authorize(w.Header().Get("Location")), c
	}
	finish := func(q url.Values, c *http.Cookie) (*httptest.ResponseRecorder, string, error) {
		r := httptest.NewRequest(http.MethodGet, "/signin/callback?"+q.Encode(), nil)
		if c != nil {
			r.AddCookie(c)
		}
		w := httptest.NewRecorder()
		next, err := a.FinishLogin(w, r)
		return w, next, err
	}

	q, c := begin()
	w, next, err := finish(q, c)
	if err != nil || next != "/images?result=Fail" {
		t.Fatalf("%q: %v", next, err)
	}
	var session *http.Cookie
	for _, x := range w.Result().Cookies() {
		if x.Name == cookieName {
			session = x
		}
	}
	if session == nil {
		t.Fatal("there is no session")
	}
	if got := browse(t, a, http.MethodGet, "/view", session); got.Code != http.StatusOK {
		t.Errorf("with the session: %d", got.Code)
	}

	refused := func(name string, q url.Values, c *http.Cookie) {
		t.Helper()
		w, _, err := finish(q, c)
		if err == nil {
			t.Errorf("%s: signed in", name)
		}
		for _, x := range w.Result().Cookies() {
			if x.Name == cookieName && x.MaxAge >= 0 {
				t.Errorf("%s: a session", name)
			}
		}
	}
	q, _ = begin()
	refused("no cookie", q, nil)
	_, other := begin()
	refused("the cookie of another login", q, other)
	q, c = begin()
	refused("another state", url.Values{"code": q["code"], "state": {"x"}}, c)
	q, c = begin()
	refused("another code", url.Values{"code": {"x"}, "state": q["state"]}, c)
	q, c = begin()
	refused("the issuer says no", url.Values{"error": {"access_denied"}, "state": q["state"]}, c)
	q, c = begin()
	c.Value = strings.Replace(c.Value, c.Value[:4], "AAAA", 1)
	refused("a cookie that was changed", q, c)
	q, _ = begin()
	session.Name = loginCookie
	refused("a session for the cookie", q, session)
	for name, change := range map[string]map[string]any{
		"another nonce": {"nonce": "x"}, "no nonce": {"nonce": nil}, "another audience": {"aud": "x"}, "an end": {"exp": time.Now().Add(-time.Hour).Unix()}, "no role": {"groups": []string{"x"}},
	} {
		p.change = change
		q, c = begin()
		refused(name, q, c)
	}
	p.change = nil
	q, c = begin()
	now = now.Add(loginTime)
	refused("too late", q, c)
}

func TestLoginNeeds(t *testing.T) {
	for name, c := range map[string]Config{
		"an issuer": {Login: &Login{RedirectURL: "https://a/signin/callback"}, Sessions: &Sessions{Keys: [][]byte{key()}}},
		"https":     {Login: &Login{RedirectURL: "http://a.example.com/signin/callback"}, OIDC: &OIDC{Issuer: "https://i.example.com", ClientID: "x"}, Sessions: &Sessions{Keys: [][]byte{key()}}},
	} {
		if _, err := New(t.Context(), c); err == nil {
			t.Errorf("without %s it is taken", name)
		}
	}
}
