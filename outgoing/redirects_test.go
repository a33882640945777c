package outgoing_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/assay-dev/assay/outgoing"
)

func TestRedirects(t *testing.T) {
	asked := 0
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
	defer plain.Close()
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to := map[string]string{"/plain": plain.URL, "/again": "/again", "/once": "/here"}[r.URL.Path]
		if to != "" {
			http.Redirect(w, r, to, http.StatusFound)
		}
	}))
	defer secure.Close()
	client := secure.Client()
	client.CheckRedirect = outgoing.StaySecure
	for path, ok := range map[string]bool{"/plain": false, "/again": false, "/once": true} {
		r, err := client.Get(secure.URL + path)
		if err == nil {
			r.Body.Close()
		}
		if (err == nil) != ok || path == "/plain" && !errors.Is(err, outgoing.ErrPlainHTTP) {
			t.Errorf("%s: %v", path, err)
		}
	}
	client.CheckRedirect = outgoing.NoRedirects
	r, err := client.Get(secure.URL + "/plain")
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusFound || asked != 0 {
		t.Errorf("%d, the other host was asked %d times", r.StatusCode, asked)
	}
	for host, want := range map[string]bool{"localhost": true, "127.0.0.1": true, "127.9.9.9": true, "::1": true, "::ffff:127.0.0.1": true, "localhost.example.com": false, "10.0.0.1": false, "": false, "127.1": false} {
		if outgoing.IsLoopback(host) != want {
			t.Errorf("%s is loopback: %t", host, !want)
		}
	}
}
