package auth

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
)

// fakeClock is a clock that tests turn.
type fakeClock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *fakeClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *fakeClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func key() []byte {
	k := make([]byte, 32)
	_, _ = rand.Read(k)
	return k
}

// signIn opens a session and gives its cookie.
func signIn(t *testing.T, a *Auth, token string) *http.Cookie {
	t.Helper()
	w := httptest.NewRecorder()
	id, err := a.SignIn(w, httptest.NewRequest("POST", "https://assay.example/login", nil), token)
	if err != nil {
		t.Fatal(err)
	}
	c := cookie(t, w)
	if c == nil || id.Role == "" {
		t.Fatalf("no cookie for %+v", id)
	}
	return c
}

// cookie is the session cookie that an answer sets, or nil.
func cookie(t *testing.T, w *httptest.ResponseRecorder) *http.Cookie {
	t.Helper()
	cookies := w.Result().Cookies()
	if len(cookies) == 0 {
		return nil
	}
	c := cookies[0]
	if len(cookies) > 1 || c.Name != cookieName || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" {
		t.Errorf("cookies %v", cookies)
	}
	return c
}

// browse sends a request with a cookie.
func browse(t *testing.T, a *Auth, method, path string, c *http.Cookie, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, "https://assay.example"+path, nil)
	if c != nil {
		r.AddCookie(&http.Cookie{Name: c.Name, Value: c.Value})
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	a.Handler(whoami(t)).ServeHTTP(w, r)
	return w
}

func TestSession(t *testing.T) {
	clock := &fakeClock{t: time.Now()}
	store, seen := &memory{}, &counts{}
	a := newAuth(t, Config{
		Routes: routes, Tokens: store, Now: clock.now, Observe: seen.observe, TrustedOrigins: []string{"https://console.example"},
		Sessions: &Sessions{Keys: [][]byte{key()}, Idle: time.Hour, Max: 3 * time.Hour},
	})
	token := store.add(StoredToken{Name: "ed", Role: Editor, Scope: Scope{Cluster: "c"}})
	c := signIn(t, a, "  "+token+"\n")
	if strings.Contains(c.Value, token) {
		t.Error("the cookie holds the token")
	}
	w := browse(t, a, "GET", "/view", c)
	if want := `{"Name":"ed","Groups":null,"Role":"editor","Scope":"cluster=c","Via":"store","Legacy":false,"Token":0}`; w.Code != 200 || strings.TrimSpace(w.Body.String()) != want {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for _, q := range []struct {
		method, path string
		header       []string
		want         int
	}{
		{"GET", "/view", []string{"Sec-Fetch-Site", "cross-site"}, 200},
		{"POST", "/edit", []string{"Sec-Fetch-Site", "same-origin"}, 200},
		{"POST", "/edit", []string{"Sec-Fetch-Site", "none"}, 200},
		{"POST", "/edit", []string{"Sec-Fetch-Site", "same-site"}, 403},
		{"POST", "/edit", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"POST", "/edit", []string{"Origin", "https://assay.example"}, 200},
		{"POST", "/edit", []string{"Origin", "https://evil.example"}, 403},
		{"POST", "/edit", []string{"Origin", "null"}, 403},
		{"POST", "/edit", []string{"Origin", "https://console.example", "Sec-Fetch-Site", "cross-site"}, 200},
		{"DELETE", "/all", []string{"Sec-Fetch-Site", "same-origin"}, 403},
		// A login that another site sends would sign the user in as another.
		{"POST", "/login", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"POST", "/login", []string{"Sec-Fetch-Site", "same-origin"}, 200},
		// A page cannot send a token of another site: it brings its own.
		{"POST", "/edit", []string{"Sec-Fetch-Site", "cross-site", "Authorization", "Bearer " + token}, 200},
		{"POST", "/edit", []string{"Authorization", "Bearer " + NewToken()}, 401},
	} {
		if w := browse(t, a, q.method, q.path, c, q.header...); w.Code != q.want {
			t.Errorf("%s %s %v: %d, want %d", q.method, q.path, q.header, w.Code, q.want)
		}
	}
	if n := seen.get("session cross-origin"); n != 4 {
		t.Errorf("%d cross-origin requests observed", n)
	}

	// Renewed in the second half of the idle time, and no sooner.
	if renewed := cookie(t, browse(t, a, "GET", "/view", c)); renewed != nil {
		t.Error("renewed at once")
	}
	first := c
	for range 4 {
		clock.advance(40 * time.Minute)
		w := browse(t, a, "GET", "/view", c)
		next := cookie(t, w)
		if w.Code != 200 || next == nil || next.Value == c.Value {
			t.Fatalf("%d, cookie %v", w.Code, next)
		}
		c = next
	}
	if c.MaxAge != 20*60 {
		t.Errorf("the last cookie lives %d s, beyond the end of the session", c.MaxAge)
	}
	w = browse(t, a, "GET", "/view", first)
	if cleared := cookie(t, w); w.Code != 401 || cleared == nil || cleared.MaxAge >= 0 {
		t.Errorf("an idle cookie: %d, %v", w.Code, cleared)
	}
	clock.advance(20 * time.Minute)
	if w := browse(t, a, "GET", "/view", c); w.Code != 401 {
		t.Errorf("after the end: %d", w.Code)
	}
	// An old cookie does not shut one out of what is public.
	if w := browse(t, a, "GET", "/healthz", c); w.Code != 200 {
		t.Errorf("public with an old cookie: %d", w.Code)
	}
}

func TestSessionEnds(t *testing.T) {
	store := &memory{}
	tokens := tempFile(t, "token-of-bob-in-file,bob,1\n")
	a := newAuth(t, Config{
		Routes: routes, Tokens: store, TokenFile: tokens, Bindings: []Binding{{Users: []string{"bob"}, Role: Viewer}},
		Sessions: &Sessions{Keys: [][]byte{key()}},
	})
	token := store.add(StoredToken{Name: "ed", Role: Editor})
	for name, end := range map[string]func(*http.Cookie){
		"sign out": func(c *http.Cookie) {
			r := httptest.NewRequest("POST", "/logout", nil)
			r.AddCookie(c)
			w := httptest.NewRecorder()
			if err := a.SignOut(w, r); err != nil {
				t.Error(err)
			}
			if cleared := cookie(t, w); cleared == nil || cleared.MaxAge >= 0 {
				t.Errorf("the cookie stays: %v", cleared)
			}
		},
		"revoked": func(*http.Cookie) { store.set(token, StoredToken{Name: "ed", Role: Editor, Revoked: true}) },
		"expired": func(*http.Cookie) { store.set(token, StoredToken{Name: "ed", Role: Editor, Expires: time.Now()}) },
	} {
		store.set(token, StoredToken{Name: "ed", Role: Editor})
		c, other := signIn(t, a, token), signIn(t, a, token)
		end(c)
		if w := browse(t, a, "GET", "/view", c); w.Code != 401 {
			t.Errorf("%s: %d", name, w.Code)
		}
		if w := browse(t, a, "GET", "/view", other); (w.Code == 200) != (name == "sign out") {
			t.Errorf("%s: the other session gets %d", name, w.Code)
		}
	}
	store.set(token, StoredToken{Name: "ed", Role: Viewer})
	if w := browse(t, a, "POST", "/edit", signIn(t, a, token)); w.Code != 403 {
		t.Errorf("a role that was taken: %d", w.Code)
	}
	c := signIn(t, a, "token-of-bob-in-file")
	if w := browse(t, a, "GET", "/view", c); w.Code != 200 {
		t.Errorf("file: %d", w.Code)
	}
	replace(t, tokens, "other-token-of-bob,bob,1\n")
	if w := browse(t, a, "GET", "/view", c); w.Code != 401 {
		t.Errorf("taken out of the file: %d", w.Code)
	}
}

// A user whom others vouch for is bound anew at each request; only groups that
// count are kept.
func TestSessionOfReviewedUser(t *testing.T) {
	k8s := newCluster(t)
	groups := []string{"ops"}
	for i := range 2000 {
		groups = append(groups, fmt.Sprintf("group-%d", i))
	}
	k8s.users["the-token-of-kim"] = authenticationv1.UserInfo{Username: "kim", Groups: groups}
	keys := [][]byte{key()}
	config := Config{
		Routes: routes, Bindings: []Binding{{Groups: []string{"ops"}, Role: Editor}}, Sessions: &Sessions{Keys: keys},
		TokenReview: &TokenReview{Kubeconfig: k8s.kubeconfig(t)},
	}
	c := signIn(t, newAuth(t, config), "the-token-of-kim")
	if w := browse(t, newAuth(t, config), "POST", "/edit", c); w.Code != 200 || !strings.Contains(w.Body.String(), `"Groups":["ops"]`) {
		t.Errorf("another replica: %d %s", w.Code, w.Body)
	}
	config.Bindings[0].Role = Viewer
	if w := browse(t, newAuth(t, config), "POST", "/edit", c); w.Code != 403 {
		t.Errorf("bound to less: %d", w.Code)
	}
	config.TokenReview = nil
	if w := browse(t, newAuth(t, config), "GET", "/view", c); w.Code != 401 {
		t.Errorf("the authenticator is switched off: %d", w.Code)
	}
}

func TestSessionKeysRotate(t *testing.T) {
	store := &memory{}
	token := store.add(StoredToken{Name: "a", Role: Viewer})
	with := func(keys ...[]byte) *Auth {
		return newAuth(t, Config{Routes: routes, Tokens: store, Sessions: &Sessions{Keys: keys}})
	}
	old, next := key(), key()
	c := signIn(t, with(old), token)
	w := browse(t, with(next, old), "GET", "/view", c)
	renewed := cookie(t, w)
	if w.Code != 200 || renewed == nil {
		t.Fatalf("%d, cookie %v", w.Code, renewed)
	}
	if w := browse(t, with(next), "GET", "/view", renewed); w.Code != 200 {
		t.Errorf("the renewed cookie: %d", w.Code)
	}
	if w := browse(t, with(next), "GET", "/view", c); w.Code != 401 {
		t.Errorf("the old cookie without its key: %d", w.Code)
	}
}

func TestForgedSessions(t *testing.T) {
	store := &memory{}
	token := store.add(StoredToken{Name: "a", Role: Viewer})
	a := newAuth(t, Config{Routes: routes, Tokens: store, Sessions: &Sessions{Keys: [][]byte{key()}}})
	c := signIn(t, a, token)
	payload, mac, _ := strings.Cut(c.Value, ".")
	for i := range c.Value {
		forged := []byte(c.Value)
		forged[i] ^= 1
		if w := browse(t, a, "GET", "/view", &http.Cookie{Name: cookieName, Value: string(forged)}); w.Code != 401 {
			t.Errorf("changed at %d: %d", i, w.Code)
		}
	}
	for _, value := range []string{"", ".", payload, payload + ".", "." + mac, c.Value + "." + mac, strings.Repeat("A", 1<<16) + "." + mac} {
		if w := browse(t, a, "GET", "/view", &http.Cookie{Name: cookieName, Value: value}); w.Code != 401 {
			t.Errorf("%.40q: %d", value, w.Code)
		}
	}
}

func TestSignInRefuses(t *testing.T) {
	store := &memory{}
	config := Config{Routes: routes, Tokens: store, TokenFile: tempFile(t, "token-of-eve-in-file,eve,1\n"), FailuresPerMinute: 3}
	if _, err := newAuth(t, config).SignIn(httptest.NewRecorder(), httptest.NewRequest("POST", "/login", nil), "x"); err == nil {
		t.Error("a session where they are off")
	}
	config.Sessions = &Sessions{Keys: [][]byte{key()}}
	a := newAuth(t, config)
	for _, c := range []struct {
		token string
		want  int
	}{
		{"token-of-eve-in-file", 403}, {"", 401}, {"two words", 401}, {NewToken(), 401}, {NewToken(), 401}, {NewToken(), 401}, {NewToken(), 429},
	} {
		w := httptest.NewRecorder()
		_, err := a.SignIn(w, httptest.NewRequest("POST", "/login", nil), c.token)
		var refused *Error
		if !errors.As(err, &refused) || refused.Status != c.want || cookie(t, w) != nil {
			t.Errorf("%q: %v, want %d", c.token, err, c.want)
		}
	}
}

// failing is a SessionStore that is out of order.
type failing struct{}

func (failing) EndSession(context.Context, string, time.Time) error {
	return errors.New("disk is gone")
}
func (failing) SessionEnded(context.Context, string) (bool, error) {
	return false, errors.New("disk is gone")
}

func TestSessionStoreFails(t *testing.T) {
	store := &memory{}
	token := store.add(StoredToken{Name: "a", Role: Viewer})
	a := newAuth(t, Config{Routes: routes, Tokens: store, Sessions: &Sessions{Keys: [][]byte{key()}, Ended: failing{}}})
	c := signIn(t, a, token)
	w := browse(t, a, "GET", "/view", c)
	if w.Code != 503 || cookie(t, w) != nil {
		t.Errorf("%d, cookie %v", w.Code, cookie(t, w))
	}
	r := httptest.NewRequest("POST", "/logout", nil)
	r.AddCookie(c)
	if err := a.SignOut(httptest.NewRecorder(), r); err == nil {
		t.Error("a session was ended that was not")
	}
}

func FuzzSession(f *testing.F) {
	s, err := newSessions(Sessions{Keys: [][]byte{key()}}, time.Now)
	if err != nil {
		f.Fatal(err)
	}
	w := httptest.NewRecorder()
	s.write(w, session{ID: "a", Name: "b"})
	good := w.Result().Cookies()[0].Value
	f.Add(good)
	f.Add("a.b")
	f.Add("")
	f.Fuzz(func(t *testing.T, value string) {
		if _, _, ok := s.read(value); ok && value != good {
			t.Errorf("%q is taken", value)
		}
	})
}
