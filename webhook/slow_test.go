package webhook

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"

	"github.com/assay-dev/assay/intake"
)

// served is an admission server that listens on loopback.
type served struct {
	address string
	roots   *x509.CertPool
	metrics *prometheus.Registry
}

func serve(t *testing.T, s Serving) served {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cert, key := selfSigned(t)
	if s.Certificate, err = dynamiccertificates.NewStaticCertKeyContent("test", cert, key); err != nil {
		t.Fatal(err)
	}
	out := served{address: listener.Addr().String(), roots: x509.NewCertPool(), metrics: prometheus.NewRegistry()}
	out.roots.AppendCertsFromPEM(cert)
	s.Listener, s.Metrics = listener, out.metrics
	ctx, end := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		end()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		r, err := out.client("127.0.0.1").Get("https://" + out.address + "/livez")
		if err == nil {
			r.Body.Close()
			return out
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// selfSigned is a certificate of the kind that the webhook makes for itself.
func selfSigned(t *testing.T) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: packed})
}

func (s served) dialer(from string) *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}
}

// client comes from an address of loopback.
func (s served) client(from string) *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: s.dialer(from).DialContext, TLSClientConfig: &tls.Config{RootCAs: s.roots}, MaxIdleConnsPerHost: 25}}
}

// metric is the value of a counter by its reason, or of a gauge.
func (s served) metric(t *testing.T, name, reason string) float64 {
	t.Helper()
	families, err := s.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (reason == "" || m.GetLabel()[0].GetValue() == reason) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

// Slow clients, by how far their request goes.
var slowKinds = []string{"no byte", "half the headers", "headers only", "half a body"}

// slow is one client of a kind, which comes again whenever it is sent away, until the context ends.
func (s served) slow(ctx context.Context, from string, kind int) {
	for ctx.Err() == nil {
		if c, err := s.dialer(from).DialContext(ctx, "tcp", s.address); err == nil {
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			if kind > 0 {
				c = tls.Client(c, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // it trusts nobody with anything
				headers := fmt.Sprintf("POST /admit HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", len(somePod))
				_, _ = io.WriteString(c, []string{headers[:40], headers, headers + somePod[:len(somePod)/2]}[kind-1])
			}
			_, _ = io.Copy(io.Discard, c)
			stop()
			_ = c.Close()
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// slowly starts that many slow clients in a process of their own, which takes no part of the cores
// that the server needs, as clients of other machines do not.
func (s served) slowly(t *testing.T, clients int, addresses []string) (end func()) {
	t.Helper()
	c := exec.Command("nice", "-n", "19", os.Args[0], "-test.run=^TestBeSlow$")
	c.Env = append(os.Environ(), "ASSAY_SLOW_AT="+s.address, "ASSAY_SLOW_FROM="+strings.Join(addresses, ","), "ASSAY_SLOW_CLIENTS="+strconv.Itoa(clients))
	c.Stderr = os.Stderr
	held, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return sync.OnceFunc(func() {
		_ = held.Close()
		if err := c.Wait(); err != nil {
			t.Error(err)
		}
	})
}

// TestBeSlow is the process of slowly: its clients stay until its input ends.
func TestBeSlow(t *testing.T) {
	at := os.Getenv("ASSAY_SLOW_AT")
	if at == "" {
		return // it runs within TestSlowClients
	}
	ctx, end := context.WithCancel(t.Context())
	addresses := strings.Split(os.Getenv("ASSAY_SLOW_FROM"), ",")
	var all sync.WaitGroup
	for i := range setting("ASSAY_SLOW_CLIENTS", 0) {
		all.Go(func() { served{address: at}.slow(ctx, addresses[i/len(slowKinds)%len(addresses)], i%len(slowKinds)) })
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	end()
	all.Wait()
}

// load asks for reviews, as an API server does, a hundred a second from eight at a time.
func (s served) load(t *testing.T, from string, during time.Duration) (p50, p99 time.Duration) {
	t.Helper()
	client := s.client(from)
	defer client.CloseIdleConnections()
	var mu sync.Mutex
	var took []time.Duration
	var all sync.WaitGroup
	until := time.Now().Add(during)
	for range 8 {
		all.Go(func() {
			for next := time.Now(); next.Before(until); next = next.Add(80 * time.Millisecond) {
				time.Sleep(time.Until(next))
				begun := time.Now()
				r, err := client.Post("https://"+s.address+"/admit?timeout=10s", "application/json", strings.NewReader(somePod))
				if err != nil {
					t.Error(err)
					continue
				}
				text, err := io.ReadAll(r.Body)
				r.Body.Close()
				if err != nil || r.StatusCode != 200 || !strings.Contains(string(text), `"allowed":true`) {
					t.Errorf("%s %v: %s", r.Status, err, text)
				}
				mu.Lock()
				took = append(took, time.Since(begun))
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if len(took) == 0 {
		t.Fatal("nothing was asked")
	}
	slices.Sort(took)
	return took[len(took)/2], took[len(took)*99/100]
}

func setting(name string, usual int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
		return n
	}
	return usual
}

// Clients that never send a whole review keep no review of an API server from its answer:
// neither those of other addresses nor, where addresses are translated, of its own.
// ASSAY_SLOW_CLIENTS and ASSAY_SLOW_SECONDS say how many and how long.
func TestSlowClients(t *testing.T) {
	clients, seconds := setting("ASSAY_SLOW_CLIENTS", 200), setting("ASSAY_SLOW_SECONDS", 4)
	for name, addresses := range map[string][]string{
		"of other addresses":  {"127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"},
		"of the same address": {"127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			a, _ := admission(t, allowAll)
			a.Record = nil
			s := serve(t, Serving{MaxInFlight: 16, Handlers: map[string]http.Handler{"/admit": a},
				Connections: intake.Limits{Total: clients * 3 / 4, PerClient: clients / 2, Arrive: 2 * time.Second}})
			during := time.Duration(seconds) * time.Second
			s.load(t, "127.0.0.1", time.Second) // what is made once is made
			quiet50, quiet99 := s.load(t, "127.0.0.1", during)
			end := s.slowly(t, clients, addresses)
			defer end()
			time.Sleep(3 * time.Second) // until all of them are there
			ready := make(chan error, 1)
			go func() {
				r, err := s.client("127.0.0.9").Get("https://" + s.address + "/readyz")
				if err == nil {
					defer r.Body.Close()
					if r.StatusCode != 200 {
						err = fmt.Errorf("readiness: %s", r.Status)
					}
				}
				ready <- err
			}()
			slow50, slow99 := s.load(t, "127.0.0.1", during)
			open := s.metric(t, "assay_webhook_connections", "")
			end()
			if err := <-ready; err != nil {
				t.Error(err)
			}
			t.Logf("%d slow clients for %s: p50 %v and p99 %v, quiet %v and %v; %v connections, %v slow ones and %v for others' sake closed", clients, during, slow50, slow99, quiet50, quiet99,
				open, s.metric(t, "assay_webhook_turned_away_total", intake.ReasonSlow), s.metric(t, "assay_webhook_turned_away_total", intake.ReasonConnections))
			// Other tests take their part of the cores.
			most := 2 * time.Second
			if os.Getenv("ASSAY_SLOW_CLIENTS") != "" {
				most = 2 * quiet99
			}
			if slow99 > most {
				t.Errorf("p99 is %v beside slow clients, %v without", slow99, quiet99)
			}
			if open > float64(clients)*3/4+1 {
				t.Errorf("%v connections are open", open)
			}
			if s.metric(t, "assay_webhook_turned_away_total", intake.ReasonSlow)+s.metric(t, "assay_webhook_turned_away_total", intake.ReasonConnections) == 0 {
				t.Error("nobody was sent away")
			}
		})
	}
}

// Half-sent reviews take no slot, and what is one too many is told so, which is counted and makes
// nothing unready.
func TestSlots(t *testing.T) {
	work, entered := make(chan struct{}), make(chan struct{}, 2)
	handlers := map[string]http.Handler{"/admit": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		<-work
		text, err := readBody(w, r)
		fmt.Fprintf(w, "%d %v", len(text), err)
	}), "/gatekeeper": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "answer") })}
	s := serve(t, Serving{MaxInFlight: 2, Handlers: handlers, Connections: intake.Limits{Arrive: time.Minute}})
	ctx, end := context.WithCancel(t.Context())
	defer end()
	for range 10 {
		go s.slow(ctx, "127.0.0.2", 3)
	}
	client := s.client("127.0.0.1")
	ask := func(method, path, body string) (int, string) {
		r, err := http.NewRequest(method, "https://"+s.address+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, _ := io.ReadAll(answer.Body)
		return answer.StatusCode, string(text)
	}
	answers := make(chan string, 2)
	for range 2 {
		go func() {
			_, text := ask("POST", "/admit", somePod)
			answers <- text
		}()
	}
	<-entered
	<-entered
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "/admit", somePod, 429}, {"GET", "/readyz", "", 200}, {"GET", "/metrics", "", 200}, {"POST", "/gatekeeper", "{}", 200},
		{"POST", "/readyz", "x", 400}, {"POST", "/nowhere", "x", 400}, {"GET", "/nowhere", "", 403},
		{"POST", "/admit", strings.Repeat("[", 1000), 413}, {"POST", "/admit", "[" + strings.Repeat("0,", maxElements) + "0]", 413},
	} {
		if status, text := ask(c.method, c.path, c.body); status != c.status {
			t.Errorf("%s %s: %d %.200s", c.method, c.path, status, text)
		}
	}
	close(work)
	for range 2 {
		if text := <-answers; text != fmt.Sprintf("%d <nil>", len(somePod)) {
			t.Error(text)
		}
	}
	if s.metric(t, "assay_webhook_turned_away_total", intake.ReasonBusy) == 0 {
		t.Error("it is not counted")
	}
}
