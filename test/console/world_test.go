package console_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles/source"
	"github.com/assay-dev/assay/review"
	"github.com/assay-dev/assay/scanner/vulndb"
	"github.com/assay-dev/assay/server/daemon"
)

// world is a server of a test.
type world struct {
	t     *testing.T
	base  string
	data  string
	admin string // a token
	log   *lines
}

// lines is what a server logs.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// alerts is a rule that fires for each image that fails.
const alerts = `
apiVersion: projectcalico.org/v3
kind: GlobalAlert
metadata: {name: image-fails}
spec:
  summary: "${image} fails"
  description: "A scan of ${image} gave the result Fail within the last day"
  severity: 80
  period: 10s
  lookback: 24h
  dataSet: vulnerability
  query: result = "Fail"
  aggregateBy: [image]
  metric: count
  condition: gte
  threshold: 1
`

// serve runs a server without data until the test ends. data is its folder; "" is a new one. with gives its
// configuration more.
func serve(t *testing.T, data string, with ...func(*daemon.Config)) *world {
	t.Helper()
	if data == "" {
		data = t.TempDir()
	}
	folder := t.TempDir()
	for _, name := range []string{"production-repository.yaml", "reject-failed.yaml"} { // thresholds stay the server's
		text, err := os.ReadFile(filepath.Join("..", "..", "examples", "quickstart", "policies", name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(folder, name), string(text))
	}
	write(t, filepath.Join(folder, "alerts.yaml"), alerts)
	write(t, filepath.Join(folder, "shop_test.rego"), "package shop_test\n\ntest_rejected if not data.assay.admission.decision.allowed with input as {}\n\ntest_wrong if 1 == 2\n")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	databases, err := vulndb.New(vulndb.Config{Dir: filepath.Join(t.TempDir(), "none")})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, base: "http://" + l.Addr().String(), data: data, log: &lines{}}
	c := daemon.Config{Data: data, Listener: l, Vulnerabilities: databases, Version: "test",
		Log: slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelInfo}))}
	c.Source = source.Folder{Path: folder, Log: c.Log}
	for _, f := range with {
		f(&c)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- daemon.Run(ctx, c) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(last(w.log.String(), 4000))
		}
	})
	w.until("the server is ready", func() bool {
		r, err := http.Get(w.base + "/readyz")
		if err != nil {
			return false
		}
		r.Body.Close()
		return r.StatusCode == http.StatusOK
	})
	secret, err := os.ReadFile(filepath.Join(data, daemon.AdminToken))
	if err != nil {
		t.Fatal(err)
	}
	w.admin = strings.TrimSpace(string(secret))
	return w
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func last(s string, n int) string { return s[max(0, len(s)-n):] }

// until waits for something of the server.
func (w *world) until(what string, holds func() bool) {
	w.t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("not so: %s", what)
		}
	}
}

// send asks the API as the administrator and insists on the status; in and out are JSON.
func (w *world) send(status int, method, path string, in, out any) {
	w.t.Helper()
	got, text := w.ask(method, path, in)
	if got != status {
		w.t.Fatalf("%s %s: %d, want %d: %.500s", method, path, got, status, text)
	}
	if out != nil {
		if err := json.Unmarshal(text, out); err != nil {
			w.t.Fatalf("%s %s: %v", method, path, err)
		}
	}
}

// took is 1 where the API did what it was asked, 0 where it refused.
func (w *world) took(method, path string, in any) int {
	w.t.Helper()
	got, text := w.ask(method, path, in)
	switch {
	case got < 300:
		return 1
	case got >= 500:
		w.t.Errorf("%s %.100s: %d: %.300s", method, path, got, text)
	}
	return 0
}

// ask asks the API as the administrator; in is JSON, or its text.
func (w *world) ask(method, path string, in any) (status int, text []byte) {
	w.t.Helper()
	body, ok := in.(string)
	if !ok && in != nil {
		body = quoteAny(in)
	}
	r, err := http.NewRequest(method, w.base+"/api/v1"+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+w.admin)
	r.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer answer.Body.Close()
	if text, err = io.ReadAll(answer.Body); err != nil {
		w.t.Fatal(err)
	}
	return answer.StatusCode, text
}

// quoteAny is a value as JSON.
func quoteAny(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // values of tests only
	}
	return string(text)
}

// token makes a token of a role.
func (w *world) token(role string) (id int64, secret string) {
	w.t.Helper()
	var made struct {
		ID    int64  `json:"id"`
		Token string `json:"token"`
	}
	w.send(201, "POST", "/tokens", map[string]string{"name": "a " + role, "role": role, "scope": "all"}, &made)
	return made.ID, made.Token
}

func digest(n int) string { return fmt.Sprintf("sha256:%064x", 0x5eed0000+n*7919) }

// flaw is a vulnerability as scans find it.
type flaw struct {
	id, pkg, version, kind, fixed, severity string
	cvss, epss                              float64
	kev                                     bool
}

var flaws = []flaw{
	{"CVE-2021-44228", "log4j-core", "2.14.1", "java-archive", "2.15.0", "Critical", 10, 0.94, true},
	{"CVE-2023-38545", "curl", "7.88.1-10", "deb", "7.88.1-10+deb12u4", "Critical", 9.8, 0.26, false},
	{"CVE-2022-25315", "libexpat1", "2.4.1-2", "deb", "2.4.1-2+deb11u1", "Critical", 9.8, 0.03, false},
	{"CVE-2023-4863", "libwebp7", "1.2.4-0.1", "deb", "1.2.4-0.2", "High", 8.8, 0.93, true},
	{"CVE-2023-4911", "libc6", "2.36-9", "deb", "2.36-9+deb12u3", "High", 7.8, 0.71, true},
	{"CVE-2023-0286", "libssl3", "3.0.7-1", "deb", "3.0.8-1", "High", 7.4, 0.88, false},
	{"CVE-2024-6119", "libssl3", "3.0.7-1", "deb", "3.0.14-1~deb12u2", "High", 7.5, 0.01, false},
	{"CVE-2024-24790", "stdlib", "go1.21.4", "go-module", "1.21.11", "Critical", 9.8, 0.002, false},
	{"CVE-2023-44487", "golang.org/x/net", "v0.12.0", "go-module", "0.17.0", "High", 7.5, 0.94, true},
	{"CVE-2024-0727", "libssl3", "3.0.7-1", "deb", "3.0.13-1~deb12u1", "Medium", 5.5, 0.004, false},
	{"CVE-2023-46218", "curl", "7.88.1-10", "deb", "7.88.1-10+deb12u5", "Medium", 6.5, 0.003, false},
	{"CVE-2011-3374", "apt", "2.6.1", "deb", "", "Negligible", 3.7, 0.001, false},
	{"CVE-2019-1010022", "libc6", "2.36-9", "deb", "", "Negligible", 9.8, 0.001, false},
	{"CVE-2024-28085", "util-linux", "2.38.1-5", "deb", "2.38.1-5+deb12u1", "Low", 3.3, 0.001, false},
	{"CVE-2021-23337", "lodash", "4.17.20", "npm", "4.17.21", "High", 7.2, 0.01, false},
	{"CVE-2024-35195", "requests", "2.28.1", "python", "2.32.0", "Medium", 5.6, 0.001, false},
}

func (f flaw) vulnerability() api.Vulnerability {
	v := api.Vulnerability{ID: f.id, Package: f.pkg, Version: f.version, Type: f.kind, Severity: f.severity, CVSS: &f.cvss, EPSS: &f.epss, KEV: f.kev,
		Vector: "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", Fix: api.Fix{State: "not-fixed"}, Published: "2024-01-02",
		PURL: "pkg:" + f.kind + "/" + f.pkg + "@" + f.version, Layer: digest(9000)}
	if f.fixed != "" {
		v.Fix = api.Fix{State: "fixed", Versions: []string{f.fixed}}
	}
	return v
}

// worst has log4j, and runs; clean has nothing that counts.
const (
	worst = "registry.example.com/shop/search:3.1"
	clean = "registry.example.com/shop/frontend:2.4"
)

// seeded runs a server with some sixty images and all else that pages show.
func seeded(t *testing.T, with ...func(*daemon.Config)) *world {
	t.Helper()
	w := serve(t, "", with...)
	names := []string{worst, clean}
	for _, repository := range []string{"registry.example.com/shop/checkout", "registry.example.com/shop/payments", "quay.io/acme/reports", "quay.io/acme/mailer", "nginx", "postgres", "redis", "python", "node", "ghcr.io/acme/agent", "ghcr.io/acme/gateway"} {
		for v := range 5 {
			names = append(names, fmt.Sprintf("%s:1.%d", repository, v))
		}
	}
	at := time.Now().Add(-3 * time.Hour).UTC().Truncate(time.Second)
	report := api.ScanReport{Schema: api.SchemaScan}
	for i, name := range names {
		scan := api.Scan{Image: name, Digest: digest(i), Source: "registry", Platform: "linux/amd64", Distro: "debian 12", ScannedAt: at.Add(time.Duration(i) * time.Minute), Packages: 80 + i*3,
			Database: &api.ScanDatabase{Built: at.Add(-20 * time.Hour), Checksum: "xxh64:1"}}
		for k, f := range flaws {
			if name != clean && (k > 0 && (i*7+k*5)%6 < 2 && !(i%3 == 0 && f.cvss >= 7)) {
				scan.Vulnerabilities = append(scan.Vulnerabilities, f.vulnerability())
			}
		}
		if name == worst {
			scan.Vulnerabilities = append([]api.Vulnerability{flaws[0].vulnerability()}, flaws[12].vulnerability(), flaws[5].vulnerability())
		}
		report.Images = append(report.Images, scan)
	}
	report.Images = append(report.Images, api.Scan{Image: "quay.io/acme/broken:0.1", Digest: digest(len(names)), Source: "registry", ScannedAt: at, Error: "reading the layer: unexpected EOF"})
	w.send(201, "POST", "/scans", report, nil)

	components := []string{}
	for _, f := range flaws {
		components = append(components, fmt.Sprintf(`{"type":"library","name":%q,"version":%q,"purl":%q}`, f.pkg, f.version, "pkg:"+map[string]string{"java-archive": "maven/org.apache.logging.log4j", "deb": "deb/debian", "go-module": "golang", "npm": "npm", "python": "pypi"}[f.kind]+"/"+f.pkg+"@"+f.version))
	}
	slices.Sort(components)
	components = slices.Compact(components)
	for i, name := range names[:4] {
		w.send(202, "POST", "/sboms?image="+name+"&digest="+digest(i), `{"bomFormat":"CycloneDX","specVersion":"1.5","version":1,"components":[`+strings.Join(components[i:], ",")+`]}`, nil)
	}

	type instance map[string]string
	for cluster, of := range map[string][]int{"prod-eu": {0, 1, 2, 7, 12, 22, 27}, "staging": {0, 3, 8, 13, 32, 42}} {
		var list []instance
		for k, i := range of {
			for n := range 2 {
				short := names[i][strings.LastIndex(names[i], "/")+1:]
				short, _, _ = strings.Cut(short, ":")
				list = append(list, instance{"namespace": []string{"shop", "platform"}[k%2], "pod": fmt.Sprintf("%s-7d9f%d-x%d", short, i, n), "container": short, "node": fmt.Sprintf("node-%d", n+1), "image": names[i], "digest": digest(i)})
			}
		}
		w.send(204, "PUT", "/instances", map[string]any{"cluster": cluster, "instances": list}, nil)
	}

	day := func(n int) string { return time.Now().AddDate(0, 0, n).UTC().Format(time.RFC3339) }
	for name, spec := range map[string]map[string]any{
		"glibc": {"cve": "CVE-2019-1010022", "scope": "any", "justification": "disputed by the maintainers of glibc; no privilege boundary is crossed", "author": "sec@example.com", "expires": day(5)},
		"nginx": {"cve": "CVE-2024-28085", "scope": "repo", "repository": "nginx", "justification": "wall is not in the image", "author": "sec@example.com"},
		"old":   {"cve": "CVE-2024-35195", "scope": "any", "justification": "only until the sprint's end", "author": "dev@example.com", "expires": day(40)},
	} {
		w.send(201, "POST", "/exceptions", map[string]any{"metadata": map[string]string{"name": name}, "spec": spec}, nil)
	}

	for i, image := range []string{worst, clean, names[7]} {
		text := fmt.Sprintf(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","namespaceLabels":{"environment":"production"},"request":{"uid":"u%d","operation":"CREATE","kind":{"group":"apps","version":"v1","kind":"Deployment"},"namespace":"shop","name":"web-%[1]d","userInfo":{"username":"alice"},
 "object":{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web-%[1]d","namespace":"shop"},"spec":{"template":{"spec":{"containers":[{"name":"main","image":%[2]q}]}}}}}}`, i, image)
		var d api.Decision
		w.send(200, "POST", "/admit", text, &d)
		in, err := review.FromAdmissionReview([]byte(text), review.KindsOf(api.AdmissionSettingsSpec{}))
		if err != nil {
			t.Fatal(err)
		}
		w.send(204, "POST", "/decisions", map[string]any{"items": []api.AdmissionRecord{{UID: in.UID, Cluster: "prod-eu", At: time.Now().UTC(), Record: api.Record{Schema: api.SchemaRecord,
			Input: api.FlatReview{Schema: api.SchemaReview, Now: time.Now().UTC().Format(api.TimeLayout), Review: in.Review}, Decision: d}}}}, nil)
	}
	w.until("an alert fires", func() bool {
		var firing struct {
			Items []json.RawMessage `json:"items"`
		}
		w.send(200, "GET", "/alerts?firing=true", nil, &firing)
		return len(firing.Items) > 0
	})
	return w
}
