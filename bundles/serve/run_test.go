package serve_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/bundles/serve"
	"github.com/assay-dev/assay/bundles/source"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/review"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/util"
)

func policy(name, action, results string) string {
	return fmt.Sprintf(`apiVersion: containersecurity.tigera.io/v1beta1
kind: ContainerAdmissionPolicy
metadata: {name: %s}
spec:
  namespaceSelector: environment == 'production'
  rules: [{action: %s, imageScanStatus: {operator: IsOneOf, values: [%s]}}]
`, name, action, results)
}

func scans() []api.Scan {
	score := 9.8
	return []api.Scan{
		{Image: "registry.example.com/bad:1", Digest: "sha256:" + strings.Repeat("a", 64), ScannedAt: time.Unix(1e9, 0),
			Vulnerabilities: []api.Vulnerability{{ID: "CVE-2026-1", CVSS: &score}}},
		{Image: "registry.example.com/good:1", Digest: "sha256:" + strings.Repeat("b", 64), ScannedAt: time.Unix(1e9, 0)},
	}
}

// reviews are AdmissionReviews that the policies decide differently on.
func reviews() []string {
	var all []string
	for _, image := range []string{"bad", "good", "unknown"} {
		for _, environment := range []string{"production", "test"} {
			all = append(all, fmt.Sprintf(`{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "now": "2026-06-01T12:00:00Z",
				"namespaceLabels": {"environment": %q},
				"request": {"uid": "1", "operation": "CREATE", "namespace": "shop", "name": "web",
					"kind": {"group": "", "version": "v1", "kind": "Pod"}, "resource": {"group": "", "version": "v1", "resource": "pods"},
					"userInfo": {"username": "erin"},
					"object": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "shop"},
						"spec": {"containers": [{"name": "web", "image": "registry.example.com/%s:1"}]}}}}`, environment, image))
		}
	}
	return all
}

func build(set *policies.Set) (map[string]*bundle.Bundle, error) {
	return bundles.Split(bundles.Content{Policies: set, Scans: scans()})
}

// content is what a folder of policies and the scans are.
func content(t *testing.T, folder string) bundles.Content {
	t.Helper()
	set, err := policies.LoadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	return bundles.Content{Policies: set, Scans: scans()}
}

// packed are the bytes of one bundle without policies.
func packed(t *testing.T) string {
	t.Helper()
	b, err := bundles.Data("x", map[string]any{"names": map[string]any{}})
	if err != nil {
		t.Fatal(err)
	}
	text, err := bundles.Bytes(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// replace writes a file beside and renames it over.
func replace(t *testing.T, name string, text []byte) {
	t.Helper()
	write(t, name+".tmp", string(text))
	if err := os.Rename(name+".tmp", name); err != nil {
		t.Fatal(err)
	}
}

// record keeps what is logged.
type record struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// start runs a server on an address, "" for any. It is stopped by stop, or at
// the end of the test.
func start(t *testing.T, address string, c serve.Config) (url string, log *record, stop func()) {
	t.Helper()
	if address == "" {
		address = "127.0.0.1:0"
	}
	var err error
	if c.Listener, err = net.Listen("tcp", address); err != nil {
		t.Fatal(err)
	}
	log = &record{}
	c.Log = slog.New(slog.NewTextHandler(log, nil))
	if f, ok := c.Source.(source.Folder); ok {
		f.Log = c.Log
		c.Source = f
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve.Run(ctx, c) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Errorf("no shutdown within %s", patience)
		}
	})
	t.Cleanup(stop)
	return "http://" + c.Listener.Addr().String(), log, stop
}

func status(t *testing.T, url string, header ...string) int {
	t.Helper()
	r, err := request(t.Context(), "GET", url, header...)
	if err != nil {
		t.Fatal(err)
	}
	return r.status
}

func signer(t *testing.T) (key *bundles.SigningKey, public string) {
	t.Helper()
	private, pub, err := bundles.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	if key, err = bundles.ParseSigningKey(private); err != nil {
		t.Fatal(err)
	}
	return key, string(pub)
}

// buildOPA builds the stock command of the module's version.
func buildOPA(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "opa")
	if out, err := exec.Command("go", "build", "-o", bin, "github.com/open-policy-agent/opa").CombinedOutput(); err != nil {
		t.Fatalf("building opa: %v\n%s", err, out)
	}
	return bin
}

// opa is a stock OPA server.
type opa struct {
	t    *testing.T
	url  string
	log  *record
	stop func()
}

// documented is the configuration that docs/bundles.md gives.
func documented(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/bundles.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(services:.*?)```").FindAllSubmatch(text, -1)
	if len(blocks) != 1 {
		t.Fatalf("docs/bundles.md has %d configurations, want one", len(blocks))
	}
	return string(blocks[0][1])
}

// runOPA starts stock OPA in a folder that holds its configuration, keys and
// token. Its own polling is set to an hour: what it sees comes by long polling.
func runOPA(t *testing.T, bin, dir, url string, keys ...string) *opa {
	t.Helper()
	args := []string{"--config-file", "opa.yaml", "--set", "services.assay.url=" + url}
	for _, part := range bundles.Parts() {
		args = append(args, "--set", fmt.Sprintf("bundles.%[1]s.polling.min_delay_seconds=3600,bundles.%[1]s.polling.max_delay_seconds=3600", part))
	}
	for _, k := range keys {
		args = append(args, "--set-file", "keys."+k+".key="+k+".pub")
	}
	return startOPA(t, bin, dir, args...)
}

// startOPA starts stock OPA on a free port. It is stopped by stop, or at the end
// of the test.
func startOPA(t *testing.T, bin, dir string, args ...string) *opa {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	cmd := exec.Command(bin, append([]string{"run", "--server", "--addr", address}, args...)...)
	cmd.Dir = dir
	o := &opa{t: t, url: "http://" + address, log: &record{}}
	cmd.Stdout, cmd.Stderr = o.log, o.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	o.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(o.stop)
	return o
}

// decide asks OPA for a decision; nil while it has no policies.
func (o *opa) decide(review string) *api.Decision {
	resp, err := http.Post(o.url+"/v1/data/assay/admission/decision", "application/json", strings.NewReader(`{"input": `+review+`}`))
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	var answer struct{ Result *api.Decision }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		o.t.Fatal(err)
	}
	return answer.Result
}

// revisions are those of the parts in force, by name; nil while there are none.
func (o *opa) revisions() map[string]string {
	r, err := request(o.t.Context(), "GET", o.url+"/v1/data/assay/revisions")
	if err != nil {
		return nil // not up yet
	}
	var answer struct{ Result map[string]string }
	if err := json.Unmarshal([]byte(r.body), &answer); err != nil {
		o.t.Fatal(err)
	}
	return answer.Result
}

// decidesAs waits until OPA has the parts of a content, and holds its decisions to
// those of an engine with all of it as one bundle.
func (o *opa) decidesAs(what string, c bundles.Content) {
	o.t.Helper()
	b, err := bundles.Build(c)
	if err != nil {
		o.t.Fatal(err)
	}
	e := engine.New(engine.Config{})
	if err := e.Load(o.t.Context(), b); err != nil {
		o.t.Fatal(err)
	}
	started := time.Now()
	for end := started.Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if maps.Equal(o.revisions(), e.Revisions()) {
			break
		}
		if time.Now().After(end) {
			o.t.Fatalf("%s: stock OPA does not have it within %s:\n%s", what, patience, o.log)
		}
	}
	o.t.Logf("%s: seen after %s", what, time.Since(started).Round(time.Millisecond))
	rejected := 0
	for _, text := range reviews() {
		in, err := review.FromAdmissionReview([]byte(text), review.KindsOf(c.Policies.Settings))
		if err != nil {
			o.t.Fatal(err)
		}
		now, err := in.Now(time.Time{})
		if err != nil {
			o.t.Fatal(err)
		}
		want, err := e.Admit(o.t.Context(), in.Review, now)
		if err != nil {
			o.t.Fatal(err)
		}
		if got, want := show(o.t, o.decide(text)), show(o.t, want); got != want {
			o.t.Errorf("%s:\n   opa %s\nengine %s", what, got, want)
		}
		if !want.Allowed {
			rejected++
		}
	}
	if rejected == 0 || rejected == len(reviews()) {
		o.t.Errorf("%s: %d of %d rejected shows nothing", what, rejected, len(reviews()))
	}
}

func show(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The documentation's configuration follows every part, and the head.
func TestDocumentedBundles(t *testing.T) {
	var config struct {
		Bundles map[string]struct{ Service, Resource string }
	}
	if err := util.Unmarshal([]byte(documented(t)), &config); err != nil {
		t.Fatal(err)
	}
	if got, want := slices.Sorted(maps.Keys(config.Bundles)), slices.Sorted(slices.Values(append(bundles.Parts(), bundles.PartHead))); !slices.Equal(got, want) {
		t.Errorf("it follows %v, want %v", got, want)
	}
}

// Stock OPA, configured as the documentation says, follows our bundles, decides
// as the engine does, and outlives us.
func TestStockOPAFollows(t *testing.T) {
	bin := buildOPA(t)
	key, public := signer(t)
	dir, folder := t.TempDir(), t.TempDir()
	write(t, dir+"/opa.yaml", documented(t))
	write(t, dir+"/assay.pub", public)
	write(t, dir+"/token", "secret")
	write(t, folder+"/p.yaml", policy("fails", "Reject", "Fail"))
	config := serve.Config{Source: source.Folder{Path: folder}, Build: build, Key: key, TokenFile: dir + "/token"}

	url, log, stop := start(t, "", config)
	o := runOPA(t, bin, dir, url, "assay")
	o.decidesAs("the first bundles", content(t, folder))

	write(t, folder+"/p.yaml", policy("fails", "Reject", "Fail, Unknown"))
	o.decidesAs("a change", content(t, folder))

	write(t, folder+"/p.yaml", policy("fails", "Regret", "Fail"))
	eventually(t, "the fault is logged", func() bool { return strings.Contains(log.String(), "p.yaml:6:") })
	if d := o.decide(reviews()[0]); d == nil || d.Allowed {
		t.Errorf("after a fault: %+v", d)
	}
	write(t, folder+"/p.yaml", policy("unknown", "Reject", "Unknown"))
	o.decidesAs("a change after a fault", content(t, folder))

	// We are gone: OPA decides on, even when it starts anew.
	stop()
	o.decidesAs("without us", content(t, folder))
	o.stop()
	o = runOPA(t, bin, dir, url, "assay")
	o.decidesAs("started without us", content(t, folder))
	write(t, folder+"/p.yaml", policy("fails", "Reject", "Fail"))
	start(t, strings.TrimPrefix(url, "http://"), config)
	o.decidesAs("a change after our restart", content(t, folder))
}

// files are the parts on disk, signed and served as they are.
type files struct {
	t   *testing.T
	dir string
}

func (f files) served() map[string]string {
	named := map[string]string{}
	for _, name := range bundles.Parts() {
		named[name] = filepath.Join(f.dir, name+".tar.gz")
	}
	return named
}

// publish writes the parts of a content; sign says how.
func (f files) publish(c bundles.Content, sign func(name string, b *bundle.Bundle) ([]byte, error)) {
	f.t.Helper()
	parts, err := bundles.Split(c)
	if err != nil {
		f.t.Fatal(err)
	}
	for name, file := range f.served() {
		text, err := sign(name, parts[name])
		if err != nil {
			f.t.Fatal(err)
		}
		replace(f.t, file, text)
	}
}

// Stock OPA takes signed parts from disk, as the documentation says.
func TestPartsOnDisk(t *testing.T) {
	bin := buildOPA(t)
	key, public := signer(t)
	dir, folder := t.TempDir(), t.TempDir()
	write(t, dir+"/assay.pub", public)
	write(t, folder+"/p.yaml", policy("fails", "Reject", "Fail"))
	c := content(t, folder)
	files{t, dir + "/parts"}.publish(c, func(_ string, b *bundle.Bundle) ([]byte, error) { return bundles.Pack(b, key) })
	names, err := filepath.Glob(dir + "/parts/*.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	command := "$ opa run --server -b parts/*.tar.gz "
	text, err := os.ReadFile("../../docs/bundles.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), command)
	if !ok {
		t.Fatalf("docs/bundles.md has no %s", command)
	}
	rest, _, _ = strings.Cut(rest, "\n")
	args := append([]string{"-b"}, names...)
	o := startOPA(t, bin, dir, append(args, strings.Fields(rest)...)...)
	o.decidesAs("from disk", c)
}

// OPA refuses a bundle that we did not sign, and goes on with its last good one
// beside the new ones of the others.
func TestBadSignatures(t *testing.T) {
	bin := buildOPA(t)
	key, public := signer(t)
	other, _ := signer(t)
	dir, folder := t.TempDir(), t.TempDir()
	write(t, dir+"/opa.yaml", documented(t))
	write(t, dir+"/assay.pub", public)
	write(t, dir+"/token", "secret")
	write(t, folder+"/p.yaml", policy("fails", "Reject", "Fail"))
	f := files{t, t.TempDir()}
	good := func(_ string, b *bundle.Bundle) ([]byte, error) { return bundles.Pack(b, key) }
	held := content(t, folder)
	f.publish(held, func(name string, b *bundle.Bundle) ([]byte, error) {
		if name == bundles.PartImages(3) {
			return bundles.Pack(b, other)
		}
		return bundles.Pack(b, key)
	})
	url, log, _ := start(t, "", serve.Config{Files: f.served(), Key: key})
	o := runOPA(t, bin, dir, url, "assay")
	eventually(t, "all but one", func() bool { return len(o.revisions()) == len(bundles.Parts())-1 })
	if got := status(t, o.url+"/health?bundles"); got == 200 {
		t.Error("OPA is ready without one of the bundles")
	}
	f.publish(held, good)
	o.decidesAs("good signatures", held)
	eventually(t, "OPA is ready", func() bool { return status(t, o.url+"/health?bundles") == 200 })

	write(t, folder+"/p.yaml", policy("fails", "Reject", "Fail, Unknown"))
	next := content(t, folder)
	next.Scans[0].Vulnerabilities, next.Scans[1].Vulnerabilities = nil, next.Scans[0].Vulnerabilities
	mixed := bundles.Content{Policies: held.Policies, Scans: next.Scans}
	for _, bad := range []struct {
		what, logged string
		key          *bundles.SigningKey
	}{{"another key", "failed to verify JWT signature", other}, {"no signature", "bundle missing .signatures.json", nil}} {
		before := strings.Count(o.log.String(), bad.logged)
		f.publish(next, func(name string, b *bundle.Bundle) ([]byte, error) {
			if name == bundles.PartPolicies {
				return bundles.Pack(b, bad.key)
			}
			return bundles.Pack(b, key)
		})
		eventually(t, bad.what+" is refused", func() bool { return strings.Count(o.log.String(), bad.logged) > before })
		o.decidesAs(bad.what, mixed)
	}
	f.publish(next, func(name string, b *bundle.Bundle) ([]byte, error) {
		text, err := bundles.Pack(b, key)
		if name == bundles.PartPolicies {
			text = text[:1000]
		}
		return text, err
	})
	eventually(t, "half a bundle is not served", func() bool { return strings.Contains(log.String(), "is no bundle") })
	o.decidesAs("half a bundle", mixed)
	f.publish(next, good)
	o.decidesAs("good signatures again", next)
}

// The key is changed as the documentation says: OPA has both, and the
// signature names its own.
func TestKeyRotation(t *testing.T) {
	bin := buildOPA(t)
	dir, folder := t.TempDir(), t.TempDir()
	config := strings.Replace(documented(t), "\n      keyid: assay", " {}", 1)
	config = strings.Replace(config, "  assay:\n    algorithm: ES256", "  first:\n    algorithm: ES256\n  second:\n    algorithm: ES256", 1)
	if !strings.Contains(config, "signing: {}") || !strings.Contains(config, "second:") {
		t.Fatalf("the configuration is written otherwise than this test expects:\n%s", config)
	}
	write(t, dir+"/opa.yaml", config)
	write(t, dir+"/token", "secret")
	write(t, folder+"/p.yaml", policy("p", "Reject", "Fail"))
	c := content(t, folder)
	f := files{t, t.TempDir()}
	publish := func(id string, key *bundles.SigningKey) {
		t.Helper()
		key.ID = id
		f.publish(c, func(_ string, b *bundle.Bundle) ([]byte, error) { return bundles.Pack(b, key) })
	}
	first, public := signer(t)
	write(t, dir+"/first.pub", public)
	second, public := signer(t)
	write(t, dir+"/second.pub", public)
	publish("first", first)
	url, _, _ := start(t, "", serve.Config{Files: f.served()})
	o := runOPA(t, bin, dir, url, "first", "second")
	parts := len(bundles.Parts())
	activated := func(n int) func() bool {
		return func() bool { return strings.Count(o.log.String(), "Bundle loaded and activated successfully") == n }
	}
	eventually(t, "the first key is taken", activated(parts))
	publish("second", second)
	eventually(t, "the second key is taken", activated(2*parts))
	publish("third", second)
	eventually(t, "an unknown name is refused", func() bool {
		return strings.Contains(o.log.String(), "verification key corresponding to ID third not found")
	})
	o.decidesAs("after it", c)
}

func TestTokens(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	write(t, token, "one\ntwo\n")
	folder := t.TempDir()
	url, log, _ := start(t, "", serve.Config{Source: source.Folder{Path: folder}, Build: build, TokenFile: token})
	eventually(t, "ready", func() bool { return status(t, url+"/readyz") == 200 })
	for header, want := range map[string]int{
		"": 401, "Bearer": 401, "Bearer ": 401, "Bearer three": 401, "Bearer one two": 401, "Basic one": 401, "one": 401,
		"Bearer one": 200, "bearer two": 200,
	} {
		if got := status(t, url+"/bundles/policies", "Authorization", header); got != want {
			t.Errorf("%q: status %d, want %d", header, got, want)
		}
	}
	if got := status(t, url+"/bundles/none"); got != 401 {
		t.Errorf("which bundles there are is told without a token: %d", got)
	}
	write(t, token, "three")
	if status(t, url+"/bundles/policies", "Authorization", "Bearer one") != 401 || status(t, url+"/bundles/policies", "Authorization", "Bearer three") != 200 {
		t.Error("changed tokens do not count")
	}
	if err := os.Remove(token); err != nil {
		t.Fatal(err)
	}
	if got := status(t, url+"/bundles/policies", "Authorization", "Bearer three"); got != 503 {
		t.Errorf("without the file: %d", got)
	}
	for path, want := range map[string]int{"/healthz": 200, "/": 404, "/bundles": 404} {
		r := do(t, "GET", url+path)
		if path == "/bundles" && r.status/100 == 3 {
			continue // to /bundles/
		}
		if r.status != want {
			t.Errorf("%s: status %d, want %d", path, r.status, want)
		}
	}
	if strings.Contains(log.String(), "three") {
		t.Error("a token is in the log")
	}
}

func TestReadiness(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "later")
	file := filepath.Join(t.TempDir(), "bundle.tar.gz")
	url, _, _ := start(t, "", serve.Config{Source: source.Folder{Path: folder}, Build: build, Files: map[string]string{"other": file}})
	eventually(t, "healthy", func() bool { return status(t, url+"/healthz") == 200 })
	write(t, folder+"/p.yaml", policy("p", "Reject", "Fail"))
	eventually(t, "policies", func() bool { return status(t, url+"/bundles/policies") == 200 })
	if got := status(t, url+"/readyz"); got != 503 {
		t.Errorf("ready without the file: %d", got)
	}
	text := packed(t)
	replace(t, file, []byte(text))
	eventually(t, "ready", func() bool { return status(t, url+"/readyz") == 200 })
	if got := do(t, "GET", url+"/bundles/other.tar.gz"); got.body != text {
		t.Error("the file is not served as it is")
	}
}

// A change of an input builds again; a failed build keeps what was, and bundles
// that are built no more are gone.
func TestInputs(t *testing.T) {
	input := filepath.Join(t.TempDir(), "input")
	write(t, input, "a b")
	url, log, _ := start(t, "", serve.Config{
		Source: source.Folder{Path: t.TempDir()}, Inputs: []string{input},
		Build: func(*policies.Set) (map[string]*bundle.Bundle, error) {
			text, err := os.ReadFile(input)
			made := map[string]*bundle.Bundle{}
			for _, name := range strings.Fields(string(text)) {
				made[name] = &bundle.Bundle{Data: map[string]any{"of": string(text)}}
			}
			return made, err
		},
	})
	body := func(path, want string) func() bool {
		text, err := bundles.Bytes(&bundle.Bundle{Data: map[string]any{"of": want}})
		if err != nil {
			t.Fatal(err)
		}
		return func() bool { return do(t, "GET", url+path).body == string(text) }
	}
	eventually(t, "two bundles", body("/bundles/b", "a b"))
	write(t, input, "a")
	eventually(t, "one bundle", body("/bundles/a", "a"))
	eventually(t, "the other is gone", func() bool { return status(t, url+"/bundles/b") == 404 })
	if err := os.Remove(input); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the failure is logged", func() bool { return strings.Contains(log.String(), "cannot be built") })
	if !body("/bundles/a", "a")() {
		t.Error("after a failure another bundle is served")
	}
}

// A renewed certificate is served to the next client.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	first := certificate(t, dir)
	file := filepath.Join(dir, "bundle")
	text := packed(t)
	replace(t, file, []byte(text))
	url, _, _ := start(t, "", serve.Config{CertFile: dir + "/cert.pem", KeyFile: dir + "/key.pem", Files: map[string]string{"a": file}})
	get := func(trust *x509.Certificate) (*http.Response, error) {
		pool := x509.NewCertPool()
		pool.AddCert(trust)
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
		defer transport.CloseIdleConnections()
		resp, err := (&http.Client{Transport: transport, Timeout: patience}).Get(strings.Replace(url, "http:", "https:", 1) + "/readyz")
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		return resp, err
	}
	if resp, err := get(first); err != nil || resp.ProtoMajor != 2 {
		t.Fatalf("%+v %v", resp, err)
	}
	second := certificate(t, dir)
	if _, err := get(second); err != nil {
		t.Errorf("the new certificate: %v", err)
	}
	write(t, dir+"/key.pem", "half")
	if _, err := get(second); err != nil {
		t.Errorf("while the key is written: %v", err)
	}
}

// certificate writes a certificate for 127.0.0.1 with its key.
func certificate(t *testing.T, dir string) *x509.Certificate {
	t.Helper()
	cert, key := selfSigned(t)
	write(t, dir+"/cert.pem", cert)
	write(t, dir+"/key.pem", key)
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf
}

// A shutdown answers who waits, instead of cutting the connection.
func TestRunShutdown(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bundle")
	text := packed(t)
	replace(t, file, []byte(text))
	h := serve.New(serve.Limits{})
	url, _, stop := start(t, "", serve.Config{Files: map[string]string{"a": file}, Handler: h})
	eventually(t, "ready", func() bool { return status(t, url+"/readyz") == 200 })
	answers := pollers(t, h, url+"/bundles/a", etag(text), 5)
	stop()
	for range 5 {
		if r := <-answers; r.status != 304 {
			t.Errorf("status %d: %s", r.status, r.body)
		}
	}
}

// What cannot work ends at once.
func TestRefusedAtOnce(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/empty", "\n")
	for name, c := range map[string]serve.Config{
		"no certificate": {CertFile: dir + "/none", KeyFile: dir + "/none"},
		"no token file":  {TokenFile: dir + "/none"},
		"no tokens":      {TokenFile: dir + "/empty"},
	} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		c.Listener, c.Log = listener, slog.New(slog.DiscardHandler)
		if err := serve.Run(t.Context(), c); err == nil {
			t.Errorf("%s: it ran", name)
		}
		if _, err := listener.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: the listener is open", name)
		}
	}
}

func selfSigned(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text}))
}
