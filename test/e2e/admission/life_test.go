package admission_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/bundles/serve"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/test/e2e/cluster"
)

// load creates Pods without end, good and bad, and says how many answers were failed or wrong.
type load struct {
	stop  context.CancelFunc
	done  sync.WaitGroup
	mu    sync.Mutex
	wrong []string
	right int
}

func begin(t *testing.T, namespace string, clients int) *load {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	l := &load{stop: stop}
	for c := range clients {
		l.done.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				image, allowed := at("good:1"), true
				if n%2 == 0 {
					image, allowed = at("bad:1"), false
				}
				err := dryRun(t, pod(fmt.Sprintf("load-%d-%d", c, n), image), namespace)
				if ctx.Err() != nil {
					return
				}
				l.mu.Lock()
				if allowed == (err == nil) && (err == nil || refused(err) && strings.Contains(err.Error(), "CVE-2026-0001")) {
					l.right++
				} else {
					l.wrong = append(l.wrong, fmt.Sprintf("%s: %v", image, err))
				}
				l.mu.Unlock()
			}
		})
	}
	return l
}

// end wants that many right answers or more, and no other.
func (l *load) end(t *testing.T, least int) {
	t.Helper()
	l.stop()
	l.done.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.wrong) > 0 {
		t.Errorf("%d of %d answers were failed or wrong, such as %s", len(l.wrong), len(l.wrong)+l.right, l.wrong[0])
	}
	if l.right < least {
		t.Errorf("only %d answers prove little", l.right)
	}
}

// Policies and certificates change under load, without one failed or wrong answer.
func TestChangesUnderLoad(t *testing.T) {
	h, namespace := production(t, seed, scans())
	l := begin(t, namespace, 4)
	for n := range 6 {
		h.policies(seed + fmt.Sprintf("---\napiVersion: containersecurity.tigera.io/v1beta1\nkind: ContainerAdmissionPolicy\nmetadata: {name: other}\nspec: {selector: \"app == '%d'\"}\n", n))
		h.cert.Rotate(t)
		time.Sleep(500 * time.Millisecond)
	}
	// Policies that do not compile change nothing.
	h.policies(strings.Replace(seed, "Reject", "Refuse", 1))
	time.Sleep(time.Second)
	l.end(t, 200)
	if !strings.Contains(h.logged(), "spec.rules[1].action: must be Allow or Reject") {
		t.Error("nobody is told of the policies that do not compile")
	}
}

// front is what a Service is: it gives each connection to a replica that is ready.
// Replicas end by rolling restarts, and by kill -9.
func TestReplicas(t *testing.T) {
	one := start(t, seed, scans())
	two := start(t, seed, scans())
	f := newFront(t, one, two)
	register(t, one, "replicas", func(w *admissionregistrationv1.ValidatingWebhook) {
		url := "https://" + f.address + "/admit"
		w.ClientConfig.URL = &url
		w.ClientConfig.CABundle = append(append([]byte{}, one.cert.CA...), two.cert.CA...)
	})
	namespace := shared.Namespace(t, map[string]string{"e2e": "replicas", "environment": "production"})
	inForce(t, namespace)
	l := begin(t, namespace, 4)
	for _, h := range []*hook{one, two} { // a rolling restart
		f.leave(h) // its endpoint goes, and then it is told to end
		h.stop(syscall.SIGTERM)
		h.run()
		h.ready()
		f.join(h)
		time.Sleep(500 * time.Millisecond)
	}
	l.end(t, 100)

	// Killed at once, it answers no one wrongly: what was on its way fails, and is tried again.
	l = begin(t, namespace, 4)
	time.Sleep(300 * time.Millisecond)
	one.stop(syscall.SIGKILL)
	f.leave(one)
	time.Sleep(time.Second)
	l.stop()
	l.done.Wait()
	for _, w := range l.wrong {
		if strings.HasSuffix(w, "<nil>") || !strings.Contains(w, "failed calling webhook") {
			t.Errorf("a wrong answer: %s", w)
		}
	}
	if l.right < 50 || len(l.wrong) > 8 {
		t.Errorf("%d right answers, %d failed", l.right, len(l.wrong))
	}
}

// bundleServer serves signed bundles, as assay serve does.
type bundleServer struct {
	t       *testing.T
	handler *serve.Handler
	server  *httptest.Server
	key     *bundles.SigningKey
	public  string // its file
}

func newBundleServer(t *testing.T) *bundleServer {
	t.Helper()
	private, public, err := bundles.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	b := &bundleServer{t: t, handler: serve.New(serve.Limits{}), public: filepath.Join(t.TempDir(), "assay.pub")}
	if b.key, err = bundles.ParseSigningKey(private); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.public, public, 0o600); err != nil {
		t.Fatal(err)
	}
	b.server = httptest.NewServer(b.handler)
	t.Cleanup(b.close)
	return b
}

func (b *bundleServer) close() {
	b.handler.Close()
	b.server.CloseClientConnections()
	b.server.Close()
}

func (b *bundleServer) set(text string, list []api.Scan, key *bundles.SigningKey) {
	b.t.Helper()
	set, err := policies.Parse("policies.yaml", []byte(text))
	if err != nil {
		b.t.Fatal(err)
	}
	parts, err := bundles.Split(bundles.Content{Policies: set, Scans: list})
	if err != nil {
		b.t.Fatal(err)
	}
	for name, part := range parts {
		packed, err := bundles.Pack(part, key)
		if err != nil {
			b.t.Fatal(err)
		}
		b.handler.Set(name, packed)
	}
	now := time.Now()
	head := bundles.Head{Store: "e2e", Sequence: now.UnixMicro(), Time: now, Until: now.Add(time.Hour)}
	if err := b.handler.Issue(head, key, bundles.Parts()); err != nil {
		b.t.Fatal(err)
	}
}

// follow runs a webhook that follows a server.
func follow(t *testing.T, b *bundleServer) *hook {
	t.Helper()
	h := newHook(t)
	h.args = []string{"--server", b.server.URL, "--verification-key", b.public, "--persist", filepath.Join(h.dir, "bundles"),
		"--decision-log", h.dir + "/decisions.jsonl", "--kubeconfig", shared.Kubeconfig}
	h.run()
	return h
}

// A webhook that follows a server has its changes at once, outlives it, and takes
// nothing that the server did not sign.
func TestServer(t *testing.T) {
	b := newBundleServer(t)
	b.set(seed, scans(), b.key)
	h := follow(t, b)
	h.ready()
	register(t, h, "server")
	namespace := shared.Namespace(t, map[string]string{"e2e": "server", "environment": "production"})
	inForce(t, namespace)
	if err := dryRun(t, pod("p", at("good:1")), namespace); err != nil {
		t.Fatal(err)
	}

	// A change of thresholds is in force within two seconds.
	changed := time.Now()
	b.set(seed+"---\napiVersion: assay.dev/v1alpha1\nkind: Thresholds\nmetadata: {name: default}\nspec: {warn: 1, fail: 2}\n", scans(), b.key)
	cluster.Eventually(t, func() error {
		if err := dryRun(t, pod("p", at("good:1")), namespace); !refused(err) {
			return fmt.Errorf("the thresholds are not in force")
		}
		return nil
	})
	t.Logf("a change of thresholds was in force after %s", time.Since(changed).Round(time.Millisecond))
	if took := time.Since(changed); took > 2*time.Second {
		t.Errorf("a change took %s", took)
	}
	b.set(seed, scans(), b.key)
	cluster.Eventually(t, func() error { return dryRun(t, pod("p", at("good:1")), namespace) })

	// What another signed changes nothing, and is told.
	foreign, _, err := bundles.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := bundles.ParseSigningKey(foreign)
	if err != nil {
		t.Fatal(err)
	}
	const open = "apiVersion: containersecurity.tigera.io/v1beta1\nkind: ContainerAdmissionPolicy\nmetadata: {name: open}\nspec: {rules: [{action: Allow}]}\n"
	b.set(open, nil, key)
	cluster.Eventually(t, func() error {
		if !strings.Contains(h.logged(), "no key given made it") {
			return fmt.Errorf("nobody is told of the bad signature:\n%s", h.logged())
		}
		return nil
	})
	wantRefused(t, dryRun(t, pod("p", at("bad:1")), namespace), "CVE-2026-0001")
	b.set(seed, scans(), b.key)

	// The server goes, under load; so does the webhook, and comes back without it.
	l := begin(t, namespace, 2)
	time.Sleep(300 * time.Millisecond)
	b.close()
	time.Sleep(time.Second)
	l.end(t, 50)
	h.stop(syscall.SIGKILL)
	begun := time.Now()
	h.run()
	h.ready()
	t.Logf("ready from disk after %s", time.Since(begun).Round(time.Millisecond))
	wantRefused(t, dryRun(t, pod("p", at("bad:1")), namespace), "CVE-2026-0001")
	if err := dryRun(t, pod("p", at("good:1")), namespace); err != nil {
		t.Error(err)
	}

	// On disk too, only what is signed counts: nothing is decided by what was changed there.
	h.stop(syscall.SIGKILL)
	set, err := policies.Parse("policies.yaml", []byte(open))
	if err != nil {
		t.Fatal(err)
	}
	built, err := bundles.Policies(set)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := bundles.Pack(built, key)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(h.dir, "bundles", "policies-*.tar.gz"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := os.WriteFile(files[0], packed, 0o600); err != nil {
		t.Fatal(err)
	}
	h.run()
	cluster.Eventually(t, func() error {
		r, err := h.client().Get(h.url + "/readyz")
		if err != nil {
			return err
		}
		defer r.Body.Close()
		if r.StatusCode == http.StatusOK {
			return fmt.Errorf("it is ready")
		}
		return nil
	})
	cluster.Eventually(t, func() error {
		err := dryRun(t, pod("p", at("good:1")), namespace)
		if err == nil || !strings.Contains(err.Error(), "nothing could be decided: the bundles of the server are not loaded yet") {
			return fmt.Errorf("without policies: %v", err)
		}
		return nil
	})
}
