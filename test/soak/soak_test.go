// Package soak ends a server by kill -9 at random moments, while scans and SBOMs come
// in, exceptions change and alerts are delivered, and looks that nothing is lost.
package soak

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles/source"
	"github.com/assay-dev/assay/scanner/vulndb"
	"github.com/assay-dev/assay/server/daemon"
	"github.com/assay-dev/assay/test/postgresql"
)

// TestMain is the server itself in the processes that the test starts.
func TestMain(m *testing.M) {
	if os.Getenv("ASSAY_SOAK_DATA") == "" {
		os.Exit(m.Run())
	}
	if err := child(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func child() error {
	l, err := net.Listen("tcp", os.Getenv("ASSAY_SOAK_ADDRESS"))
	if err != nil {
		return err
	}
	databases, err := vulndb.New(vulndb.Config{MaxAge: -1})
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	data := os.Getenv("ASSAY_SOAK_DATA")
	return daemon.Run(context.Background(), daemon.Config{
		Data: data, Database: os.Getenv("ASSAY_SOAK_DATABASE"), Listener: l, Vulnerabilities: databases, VulnerabilityPath: filepath.Join(data, "db"),
		Source: source.Folder{Path: filepath.Join(data, "policies"), Log: log}, Notifications: filepath.Join(data, "notifications.yaml"), Log: log, JobTimeout: 5 * time.Second,
	})
}

// rounds is how often the server is killed: 10 times, or ASSAY_SOAK times.
func rounds() int {
	if n, err := strconv.Atoi(os.Getenv("ASSAY_SOAK")); err == nil && n > 0 {
		return n
	}
	return 10
}

// told is what a receiver of webhooks was told: the ids of each alert's notifications.
type told struct {
	mu  sync.Mutex
	ids map[string]map[string]int
}

func (r *told) ServeHTTP(_ http.ResponseWriter, q *http.Request) {
	text, err := io.ReadAll(q.Body)
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	// The body's form is package receiver's; all that counts here is of whom it speaks.
	if key := string(alerted.Find(text)); key != "" {
		if r.ids[key] == nil {
			r.ids[key] = map[string]int{}
		}
		r.ids[key][q.Header.Get("webhook-id")]++
	}
}

var alerted = regexp.MustCompile(`registry\.example\.com/app/a[0-9]+:1`)

const rules = `
apiVersion: projectcalico.org/v3
kind: GlobalAlert
metadata: {name: fails}
spec:
  description: ${image} fails
  severity: 80
  dataSet: vulnerability
  query: result = Fail
  aggregateBy: [image]
  metric: count
  condition: gte
  threshold: 1
  period: 1s
  lookback: 2h
`

type server struct {
	t       *testing.T
	data    string
	address string
	env     []string
	cmd     *exec.Cmd
	log     bytes.Buffer
}

func (s *server) start() {
	s.t.Helper()
	s.cmd = exec.Command(os.Args[0])
	s.cmd.Env = append(os.Environ(), s.env...)
	s.cmd.Stderr, s.cmd.Stdout = &s.log, &s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) kill() {
	_ = s.cmd.Process.Kill() // SIGKILL
	_ = s.cmd.Wait()
}

func (s *server) ready() {
	s.t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if r, err := http.Get("http://" + s.address + "/readyz"); err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the server is not ready\n%s", s.log.String())
		}
	}
}

// send gives 0 when no answer came.
func (s *server) send(method, path string, body string) (status int, text []byte) {
	token, err := os.ReadFile(filepath.Join(s.data, daemon.AdminToken))
	if err != nil {
		return 0, nil
	}
	r, err := http.NewRequest(method, "http://"+s.address+path, strings.NewReader(body))
	if err != nil {
		s.t.Error(err)
		return 0, nil
	}
	r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	client := http.Client{Timeout: 30 * time.Second}
	answer, err := client.Do(r)
	if err != nil {
		return 0, nil
	}
	defer answer.Body.Close()
	if text, err = io.ReadAll(answer.Body); err != nil {
		return 0, nil
	}
	return answer.StatusCode, text
}

func digest(n int) string { return fmt.Sprintf("sha256:%064x", n+1) }

func TestKill(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) { soak(t, "", rounds()) })
	t.Run("postgresql", func(t *testing.T) { soak(t, postgresql.Start(t), max(3, rounds()/5)) })
}

// prepare makes what a server needs; its receiver is at hook.
func prepare(t *testing.T, database, hook string) *server {
	t.Helper()
	data := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(data, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(data, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("policies/alerts.yaml", rules)
	write("secret", strings.Repeat("x", 32))
	write("notifications.yaml", fmt.Sprintf("apiVersion: assay.dev/v1alpha1\nkind: Notifications\nspec:\n  receivers:\n  - name: hook\n    webhook: {url: %q, signingKeyFrom: {file: %q}}\n", hook, filepath.Join(data, "secret")))
	if _, err := vulndb.Build(t.Context(), []string{"../../examples/quickstart/advisories"}, filepath.Join(data, "db"), time.Now()); err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, data: data, address: free.Addr().String()}
	free.Close()
	s.env = []string{"ASSAY_SOAK_DATA=" + data, "ASSAY_SOAK_ADDRESS=" + s.address, "ASSAY_SOAK_DATABASE=" + database}
	return s
}

func soak(t *testing.T, database string, kills int) {
	receiver := &told{ids: map[string]map[string]int{}}
	hook := httptest.NewServer(receiver)
	defer hook.Close()
	s := prepare(t, database, hook.URL)
	s.start()
	defer func() { s.kill() }()
	s.ready()

	// Three clients send while the server dies and comes back.
	ctx, end := context.WithCancel(t.Context())
	var mu sync.Mutex
	scans, sboms := map[int]float64{}, map[int]bool{} // acknowledged
	var clients sync.WaitGroup
	client := func(do func(n int)) {
		clients.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				do(n)
			}
		})
	}
	client(func(n int) {
		score := []float64{9.8, 7.5, 2.0}[n%3]
		scan := api.Scan{Image: fmt.Sprintf("registry.example.com/app/a%d:1", n), Digest: digest(n), Source: "registry", ScannedAt: time.Now().UTC(), Packages: 1,
			Vulnerabilities: []api.Vulnerability{{ID: "CVE-2026-0001", Package: "p", Version: "1", Type: "deb", CVSS: &score, Severity: "High"}}}
		text, err := json.Marshal(scan)
		if err != nil {
			t.Error(err)
			return
		}
		if status, _ := s.send("POST", "/api/v1/scans", string(text)); status/100 == 2 {
			mu.Lock()
			scans[n] = score
			mu.Unlock()
		} else if status != 0 && status != http.StatusServiceUnavailable {
			t.Errorf("a scan: %d", status)
		}
	})
	client(func(n int) {
		sbom := fmt.Sprintf(`{"bomFormat":"CycloneDX","specVersion":"1.5","version":1,"serialNumber":"urn:uuid:3e671687-395b-41f5-a30f-%012d","components":[{"type":"library","bom-ref":"u","name":"urllib3","version":"1.26.16","purl":"pkg:pypi/urllib3@1.26.16"}]}`, n)
		path := fmt.Sprintf("/api/v1/sboms?image=registry.example.com/sbom/s%d:1&digest=%s", n, digest(1_000_000+n))
		if status, text := s.send("POST", path, sbom); status/100 == 2 {
			mu.Lock()
			sboms[n] = true
			mu.Unlock()
		} else if status != 0 && status != http.StatusServiceUnavailable {
			t.Errorf("an SBOM: %d %s", status, text)
		}
		time.Sleep(20 * time.Millisecond)
	})
	client(func(n int) {
		// The exception is there, and gone, and there again.
		if n%2 == 0 {
			s.send("PUT", "/api/v1/exceptions/e", `{"spec":{"cve":"CVE-2026-0001","scope":"repo","registry":"registry.example.com/app","repository":"a0","justification":"x"}}`)
		} else {
			s.send("DELETE", "/api/v1/exceptions/e", "")
		}
		time.Sleep(30 * time.Millisecond)
	})
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	for range kills {
		time.Sleep(time.Duration(r.IntN(1200)) * time.Millisecond)
		s.kill()
		s.start()
		if r.IntN(3) > 0 { // else it is killed while it starts
			s.ready()
		}
	}
	s.ready()
	enough := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(scans) >= kills && len(sboms) >= kills
	}
	for deadline := time.Now().Add(time.Minute); !enough() && time.Now().Before(deadline); { // on a busy machine
		time.Sleep(100 * time.Millisecond)
	}
	end()
	clients.Wait()
	if status, _ := s.send("PUT", "/api/v1/exceptions/last", `{"spec":{"cve":"CVE-2026-9999","scope":"any","justification":"x"}}`); status/100 != 2 {
		t.Fatalf("the last change: %d", status)
	}

	if len(scans) < kills || len(sboms) < kills {
		t.Fatalf("only %d scans and %d SBOMs were acknowledged\n%s", len(scans), len(sboms), s.log.String())
	}
	find := func(image string) (result string, ok bool) {
		status, text := s.send("GET", "/api/v1/images?search="+image, "")
		var list struct {
			Items []struct{ Image, Result string } `json:"items"`
		}
		if status != 200 || json.Unmarshal(text, &list) != nil {
			t.Fatalf("images: %d %s", status, text)
		}
		for _, i := range list.Items {
			if i.Image == image {
				return i.Result, true
			}
		}
		return "", false
	}
	want := map[float64]string{9.8: "Fail", 7.5: "Warn", 2.0: "Pass"}
	for n, score := range scans {
		image := fmt.Sprintf("registry.example.com/app/a%d:1", n)
		got, ok := find(image)
		if !ok {
			t.Errorf("%s was acknowledged, and is lost", image)
			continue
		}
		expected := want[score]
		if n == 0 { // the exception may be there
			text, err := json.Marshal(map[string]string{"image": image, "digest": digest(n)})
			if err != nil {
				t.Fatal(err)
			}
			_, answer := s.send("POST", "/api/v1/classify", string(text))
			var said struct{ Result string }
			if err := json.Unmarshal(answer, &said); err != nil {
				t.Fatal(err)
			}
			expected = said.Result
		}
		if got != expected {
			t.Errorf("%s is %s, want %s", image, got, expected)
		}
	}
	deadline := time.Now().Add(2 * time.Minute)
	for n := range sboms {
		image := fmt.Sprintf("registry.example.com/sbom/s%d:1", n)
		for {
			got, ok := find(image)
			if !ok {
				t.Fatalf("%s was acknowledged, and is lost", image)
			}
			if got == "Warn" { // urllib3 1.26.16
				break
			}
			if time.Now().After(deadline) {
				_, text := s.send("GET", "/api/v1/jobs?kind=match&limit=5", "")
				t.Fatalf("%s was never matched: %s\n%s\n%s", image, got, text, s.log.String())
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	for n, score := range scans {
		if score != 9.8 || n == 0 {
			continue
		}
		image := fmt.Sprintf("registry.example.com/app/a%d:1", n)
		for {
			receiver.mu.Lock()
			ids := len(receiver.ids[image])
			receiver.mu.Unlock()
			if ids == 1 {
				break
			}
			if ids > 1 {
				t.Fatalf("%s: %d notifications of one alert: %v", image, ids, receiver.ids[image])
			}
			if time.Now().After(deadline) {
				t.Fatalf("nobody was told that %s fails\n%s", image, s.log.String())
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	t.Logf("%d kills: %d scans and %d SBOMs acknowledged, none lost", kills, len(scans), len(sboms))
}
