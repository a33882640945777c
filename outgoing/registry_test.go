package outgoing_test

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/assay-dev/assay/outgoing"
)

type sent []string

func (s *sent) RoundTrip(r *http.Request) (*http.Response, error) {
	*s = append(*s, r.URL.String())
	return &http.Response{StatusCode: 200, Body: http.NoBody, Request: r}, nil
}

func TestRegistry(t *testing.T) {
	realms, err := outgoing.ParseRealms([]string{"registry.example.com=login.example.com", "Registry.example.com:443=tokens.example.net:8443"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		host, url string
		secret    string // "header", "cookie", "user" or "body"
		plain     bool
		want      error
	}{
		{"registry.example.com", "https://registry.example.com/v2/", "header", false, nil},
		{"registry.example.com", "https://REGISTRY.example.com:443/v2/", "header", false, nil},
		{"registry.example.com:5000", "https://registry.example.com:5001/token", "header", false, nil},
		{"registry.example.com", "http://registry.example.com/v2/", "", false, outgoing.ErrPlainHTTP},
		{"127.0.0.1:5000", "http://127.0.0.1:5000/v2/", "", false, outgoing.ErrPlainHTTP},
		{"localhost:5000", "http://localhost:5000/v2/", "", false, outgoing.ErrPlainHTTP},
		{"10.0.0.1", "http://10.0.0.1/v2/", "", false, outgoing.ErrPlainHTTP},
		{"127.0.0.1:5000", "http://127.0.0.1:5000/v2/", "header", true, nil},
		{"registry.example.com", "ftp://registry.example.com/", "", true, outgoing.ErrPlainHTTP},
		{"registry.example.com", "https://blobs.example.net/x?signature=y", "", false, nil},
		{"registry.example.com", "https://evil.example.net/token", "header", false, outgoing.ErrRealm},
		{"registry.example.com", "https://evil.example.net/token", "body", false, outgoing.ErrRealm},
		{"registry.example.com", "https://evil.example.net/token", "cookie", false, outgoing.ErrRealm},
		{"registry.example.com", "https://evil.example.net/token", "user", false, outgoing.ErrRealm},
		{"registry.example.com", "https://registry.example.com.evil.example.net/token", "header", false, outgoing.ErrRealm},
		{"registry.example.com", "https://sub.registry.example.com/token", "header", false, outgoing.ErrRealm},
		{"registry.example.com", "https://login.example.com/token", "header", false, nil},
		{"registry.example.com", "https://tokens.example.net/token", "body", false, nil},
		{"registry.example.com", "http://login.example.com/token", "header", false, outgoing.ErrPlainHTTP},
		{"other.example.com", "https://login.example.com/token", "header", false, outgoing.ErrRealm},
		{"index.docker.io", "https://auth.docker.io/token", "header", false, nil},
		{"docker.io", "https://registry-1.docker.io/v2/", "header", false, nil},
		{"index.docker.io", "https://auth.docker.io.evil.example.net/token", "header", false, outgoing.ErrRealm},
		{"registry.gitlab.com", "https://gitlab.com/jwt/auth", "header", false, nil},
		{"gitlab.com", "https://registry.gitlab.com/v2/", "header", false, outgoing.ErrRealm},
	} {
		var s sent
		r, err := http.NewRequest("GET", c.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		switch c.secret {
		case "header":
			r.Header.Set("Authorization", "Basic c2VjcmV0OnBhc3N3b3Jk")
		case "cookie":
			r.Header.Set("Cookie", "a=b")
		case "user":
			r.URL.User = url.UserPassword("user", "password")
		case "body":
			r.Method, r.Body = "POST", io.NopCloser(strings.NewReader("refresh_token=secret"))
		}
		_, err = (&outgoing.Registry{Base: &s, Host: c.host, PlainHTTP: c.plain, Realms: realms}).RoundTrip(r)
		if !errors.Is(err, c.want) || (err == nil) != (len(s) == 1) {
			t.Errorf("%s, to %s with %q: %v, want %v; sent %v", c.host, c.url, c.secret, err, c.want, s)
		}
		if err != nil && strings.Contains(err.Error(), "c2VjcmV0") {
			t.Errorf("the error tells the secret: %v", err)
		}
	}
	for _, bad := range []string{"", "a", "=b", "a=", "a=b/c", "https://a=b", "a=b c", "u@a=b"} {
		if _, err := outgoing.ParseRealms([]string{bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
