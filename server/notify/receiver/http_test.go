package receiver_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/server/notify"
	"github.com/assay-dev/assay/server/notify/receiver"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// opened is a notification as the tracker and the dispatcher make it.
func opened(a api.Alert) notify.Notification {
	n := notify.Tracker{}.Evaluate(start, []api.Alert{a}, nil).Notifications[0]
	n.Sent = start.Add(time.Second)
	return n
}

func resolved(a api.Alert) notify.Notification {
	before := notify.Tracker{}.Evaluate(start, []api.Alert{a}, nil).States
	n := notify.Tracker{}.Evaluate(start.Add(time.Minute), nil, before).Notifications[0]
	n.Sent = start.Add(2 * time.Minute)
	return n
}

func alert() api.Alert {
	value := 3.5
	return api.Alert{Name: "kev-in-production", Severity: 80, Summary: "2 images with <known> & exploited CVEs",
		Description: "They run in production.", Key: map[string]string{"namespace": "shop", "pod": "web-1"}, Value: &value, Count: 2}
}

// secretFile writes a secret with a line end, as editors do.
func secretFile(t *testing.T, text string) receiver.Secret {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return receiver.Secret{File: file}
}

const (
	token      = "s3cr3t-t0ken-value"
	signingKey = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYqr"
)

// senders are one of each receiver that speaks HTTP, towards a server's URL, with
// the secrets that nothing may show.
func senders(t *testing.T, url string) map[string]notify.Receiver {
	t.Helper()
	secretURL := secretFile(t, url+"/services/"+token)
	alertmanager, err1 := receiver.NewAlertmanager(receiver.AlertmanagerConfig{URL: url, Auth: receiver.Auth{TokenFrom: secretFile(t, token)}})
	webhook, err2 := receiver.NewWebhook(receiver.WebhookConfig{URLFrom: secretURL, SigningKeyFrom: secretFile(t, signingKey),
		Auth: receiver.Auth{Username: "assay", PasswordFrom: secretFile(t, token)}})
	slack, err3 := receiver.NewSlack(receiver.SlackConfig{URLFrom: secretURL})
	kubernetes, err4 := receiver.NewKubernetes(receiver.KubernetesConfig{URL: url, TokenFrom: secretFile(t, token), Namespace: "assay"})
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	return map[string]notify.Receiver{"alertmanager": alertmanager, "webhook": webhook, "slack": slack, "kubernetes": kubernetes}
}

// checkSecrets fails when a text has one of the secrets, or how they are sent.
func checkSecrets(t *testing.T, text string) {
	t.Helper()
	for _, secret := range []string{token, signingKey, strings.TrimPrefix(signingKey, "whsec_"), base64.StdEncoding.EncodeToString([]byte("assay:" + token))} {
		if strings.Contains(text, secret) {
			t.Errorf("%q has the secret %q", text, secret)
		}
	}
}

// echo answers with all that it was sent, as a hostile server may.
func echo(w http.ResponseWriter, r *http.Request, status int) {
	w.WriteHeader(status)
	io.WriteString(w, r.URL.String()+"\n")
	r.Header.Write(w)
}

func TestFaults(t *testing.T) {
	reset := func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}
	}
	noise := func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			io.WriteString(conn, "HTTP/1.1 "+r.Header.Get("Authorization")+r.URL.Path+"\r\n\r\n")
			conn.Close()
		}
	}
	status := func(code int, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			echo(w, r, code)
		}
	}
	tests := []struct {
		name      string
		handler   http.HandlerFunc
		temporary bool
		after     time.Duration
		want      string
	}{
		{"internal error", status(500), true, 0, "500"},
		{"unavailable for a time", status(503, "Retry-After", "7"), true, 7 * time.Second, "503"},
		{"too many", status(429, "Retry-After", "120"), true, 2 * time.Minute, "429"},
		{"too many until", status(429, "Retry-After", "Sun, 01 Mar 2026 12:01:00 GMT", "Date", "Sun, 01 Mar 2026 12:00:00 GMT"), true, time.Minute, "429"},
		{"too many, malformed", status(429, "Retry-After", "soon"), true, 0, "429"},
		{"too many, negative", status(429, "Retry-After", "-5"), true, 0, "429"},
		{"bad request", status(400), false, 0, "400"},
		{"forbidden", status(403), false, 0, "403"},
		{"gone", status(410), false, 0, "410"},
		{"reset", reset, true, 0, "connect"},
		{"noise", noise, true, 0, "connection failed"},
		{"huge body", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(500)
			for range 1000 {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}, true, 0, "500"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(test.handler)
			defer server.Close()
			for name, r := range senders(t, server.URL) {
				err := r.Send(t.Context(), opened(alert()))
				if err == nil {
					t.Fatalf("%s: no error", name)
				}
				var again *notify.Temporary
				if errors.As(err, &again) != test.temporary {
					t.Errorf("%s: %v: temporary is %v, want %v", name, err, again != nil, test.temporary)
				}
				if again != nil && again.After != test.after {
					t.Errorf("%s: to be left alone for %s, want %s", name, again.After, test.after)
				}
				if !strings.Contains(err.Error(), test.want) {
					t.Errorf("%s: %q lacks %q", name, err, test.want)
				}
				checkSecrets(t, err.Error())
			}
		})
	}
}

// A server that does not answer ends with the deadline, and is tried again.
func TestHang(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer server.Close()
	defer close(release)
	for name, r := range senders(t, server.URL) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err := r.Send(ctx, opened(alert()))
		cancel()
		var again *notify.Temporary
		if !errors.As(err, &again) || !strings.Contains(err.Error(), "no answer in time") {
			t.Errorf("%s: %v", name, err)
		}
		checkSecrets(t, err.Error())
	}
}

// Nobody listens; no TLS where it should be; a name that is none.
func TestUnreachable(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := listener.Addr().String()
	listener.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	untrusted := httptest.NewUnstartedServer(http.NotFoundHandler())
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0)
	untrusted.StartTLS()
	defer untrusted.Close()
	for _, url := range []string{"http://" + closed, strings.Replace(plain.URL, "http", "https", 1), untrusted.URL, "http://assay.invalid"} {
		for name, r := range senders(t, url) {
			err := r.Send(t.Context(), opened(alert()))
			var again *notify.Temporary
			if !errors.As(err, &again) {
				t.Errorf("%s to %s: %v", name, url, err)
			}
			checkSecrets(t, err.Error())
		}
	}
}

// A redirect is refused: nothing reaches where it points, on this host or another.
func TestRedirects(t *testing.T) {
	for _, code := range []int{301, 302, 303, 307, 308} {
		var mu sync.Mutex
		reached := 0
		other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			reached++
		}))
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL+"/elsewhere?from="+token, code)
		}))
		for name, r := range senders(t, server.URL) {
			err := r.Send(t.Context(), opened(alert()))
			var again *notify.Temporary
			if err == nil || errors.As(err, &again) || !strings.Contains(err.Error(), "redirects are not followed") {
				t.Errorf("%s: %d: %v", name, code, err)
				continue
			}
			checkSecrets(t, err.Error())
		}
		server.Close()
		other.Close()
		if reached > 0 {
			t.Errorf("%d: %d requests followed the redirect", code, reached)
		}
	}
}

// Secrets are read at each attempt; one that is missing or malformed is named by
// its place, and may be there at the next attempt.
func TestSecrets(t *testing.T) {
	var got http.Header
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header }))
	defer server.Close()
	send := func(s receiver.Secret) error {
		r, err := receiver.NewAlertmanager(receiver.AlertmanagerConfig{URL: server.URL, Auth: receiver.Auth{TokenFrom: s}})
		if err != nil {
			t.Fatal(err)
		}
		return r.Send(t.Context(), opened(alert()))
	}
	file := secretFile(t, "first")
	if err := send(file); err != nil || got.Get("Authorization") != "Bearer first" {
		t.Errorf("%v, Authorization %q", err, got.Get("Authorization"))
	}
	t.Setenv("ASSAY_TEST_TOKEN", token)
	if err := send(receiver.Secret{Env: "ASSAY_TEST_TOKEN"}); err != nil || got.Get("Authorization") != "Bearer "+token {
		t.Errorf("%v, Authorization %q", err, got.Get("Authorization"))
	}
	for name, bad := range map[string]receiver.Secret{
		"missing": {File: filepath.Join(t.TempDir(), "none")}, "unset": {Env: "ASSAY_TEST_UNSET"}, "empty": secretFile(t, ""),
		"two lines": secretFile(t, token+"\r\nX-Injected: 1"), "binary": secretFile(t, token+"\x00"), "large": secretFile(t, strings.Repeat(token, 10000)),
	} {
		err := send(bad)
		var again *notify.Temporary
		if !errors.As(err, &again) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		checkSecrets(t, err.Error())
	}
	for _, key := range []string{"whsec_short", "not base64 " + token, strings.Repeat("QUFB", 40)} {
		r, err := receiver.NewWebhook(receiver.WebhookConfig{URL: server.URL, SigningKeyFrom: secretFile(t, key)})
		if err != nil {
			t.Fatal(err)
		}
		var again *notify.Temporary
		if err := r.Send(t.Context(), opened(alert())); !errors.As(err, &again) || strings.Contains(err.Error(), key) {
			t.Errorf("with the key %q: %v", key, err)
		}
	}
	for _, url := range []string{"http://%zz/" + token, "://" + token, "file:///" + token} {
		r, err := receiver.NewSlack(receiver.SlackConfig{URLFrom: secretFile(t, url)})
		if err != nil {
			t.Fatal(err)
		}
		if err = r.Send(t.Context(), opened(alert())); err == nil {
			t.Errorf("%s: no error", url)
			continue
		}
		checkSecrets(t, err.Error())
	}
}

// decode reads a request's body as JSON.
func decode(t *testing.T, body []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(body, v); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
}

// capture keeps the last request of a receiver.
type capture struct {
	path   string
	header http.Header
	body   []byte
}

func (c *capture) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.path, c.header = r.URL.Path, r.Header
	c.body, _ = io.ReadAll(r.Body)
}
