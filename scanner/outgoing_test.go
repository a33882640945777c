package scanner

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/assay-dev/assay/outgoing"
)

// thief is a registry that wants its credentials sent to another host: in the challenge, or
// by a redirect from its own realm, or from a blob.
type thief struct {
	*httptest.Server
	mu     sync.Mutex
	stolen []string // what the other host got of credentials
	asked  int
}

func newThief(t *testing.T, way string) *thief {
	th := &thief{}
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		th.mu.Lock()
		defer th.mu.Unlock()
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		if text := r.Header.Get("Authorization") + r.PostForm.Encode(); text != "" {
			th.stolen = append(th.stolen, text)
		}
		fmt.Fprint(w, `{"token": "of-the-other-host"}`)
	}))
	t.Cleanup(other.Close)
	elsewhere := strings.Replace(other.URL, "127.0.0.1", "localhost", 1)
	th.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		th.mu.Lock()
		th.asked++
		th.mu.Unlock()
		realm := map[string]string{"realm": elsewhere + "/token", "redirected realm": "http://" + r.Host + "/token"}[way]
		switch {
		case r.URL.Path == "/token":
			http.Redirect(w, r, elsewhere+"/token", http.StatusTemporaryRedirect)
		case way == "redirect" && r.URL.Path != "/v2/":
			http.Redirect(w, r, elsewhere+r.URL.Path, http.StatusTemporaryRedirect)
		case realm != "" && r.Header.Get("Authorization") == "":
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+realm+`",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		case realm == "" && r.Header.Get("Authorization") == "":
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(th.Close)
	return th
}

type secrets struct{ authn.AuthConfig }

func (s secrets) Resolve(authn.Resource) (authn.Authenticator, error) {
	return authn.FromConfig(s.AuthConfig), nil
}

func TestCredentialsGoToNoOtherHost(t *testing.T) {
	for _, way := range []string{"realm", "redirected realm", "redirect"} {
		for what, config := range map[string]authn.AuthConfig{"a password": {Username: "robot", Password: "SECRET"}, "an identity token": {IdentityToken: "SECRET"}} {
			th := newThief(t, way)
			host := strings.TrimPrefix(th.URL, "http://")
			s := newScanner(t, func(c *Config) { c.Keychain = secrets{config} })
			o := s.Scan(t.Context(), "registry:"+host+"/shop/web:1", nil)
			if o.Err == nil || len(th.stolen) > 0 {
				t.Errorf("%s, %s: %v; the other host got %q", way, what, o.Err, th.stolen)
			}
			if way == "realm" && (!errors.Is(o.Err, outgoing.ErrRealm) || !strings.Contains(o.Err.Error(), "--token-realm "+host+"=localhost") || strings.Contains(o.Err.Error(), "SECRET")) {
				t.Errorf("%s, %s: %v", way, what, o.Err)
			}
		}
	}
	// What is told goes there.
	th := newThief(t, "realm")
	host := strings.TrimPrefix(th.URL, "http://")
	s := newScanner(t, func(c *Config) {
		c.Keychain, c.Realms = secrets{authn.AuthConfig{Username: "robot", Password: "SECRET"}}, outgoing.Realms{host: {"localhost"}}
	})
	if o := s.Scan(t.Context(), "registry:"+host+"/shop/web:1", nil); len(th.stolen) == 0 || errors.Is(o.Err, outgoing.ErrRealm) {
		t.Errorf("a realm that is told: %v, %q", o.Err, th.stolen)
	}
}

func TestNoPlainHTTP(t *testing.T) {
	th := newThief(t, "")
	host := strings.TrimPrefix(th.URL, "http://")
	s := newScanner(t, func(c *Config) { c.InsecureHTTP = false })
	for _, name := range []string{host, strings.Replace(host, "127.0.0.1", "localhost", 1)} {
		if o := s.Scan(t.Context(), "registry:"+name+"/shop/web:1", nil); !errors.Is(o.Err, outgoing.ErrPlainHTTP) || th.asked > 0 {
			t.Errorf("%s: %v, asked %d times", name, o.Err, th.asked)
		}
	}
}

// What others name is asked for at public addresses alone.
func TestNetworks(t *testing.T) {
	th := newThief(t, "")
	host := strings.TrimPrefix(th.URL, "http://")
	s := newScanner(t, func(c *Config) { c.Networks = outgoing.Networks{Public: true} })
	for _, name := range []string{host, strings.Replace(host, "127.0.0.1", "localhost", 1), strings.Replace(host, "127.0.0.1", "127.1", 1), "169.254.169.254", "10.0.0.1:5000", "[::1]:5000"} {
		o := s.Scan(t.Context(), "registry:"+name+"/shop/web:1", nil)
		if !errors.Is(o.Err, outgoing.ErrAddress) || th.asked > 0 || !strings.Contains(o.Err.Error(), "is not asked: ") {
			t.Errorf("%s: %v, asked %d times", name, o.Err, th.asked)
		}
	}
}
