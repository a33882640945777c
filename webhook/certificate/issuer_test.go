package certificate

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

var _ dynamiccertificates.CertKeyContentProvider = (*Issuer)(nil)

var begin = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

const host = "assay-webhook.assay-system.svc"

// world is a cluster with a clock that API servers and replicas share.
type world struct {
	t      *testing.T
	client *fake.Clientset
	now    time.Time
	log    bytes.Buffer
	mu     sync.Mutex

	bundle     []byte // what is in the registrations
	publishing error
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, client: fake.NewClientset(), now: begin}
	optimistic(w.client)
	t.Cleanup(w.noKeysInLog)
	return w
}

// optimistic has the fake refuse updates of what has changed since it was read, as an API server does.
func optimistic(client *fake.Clientset) {
	var mu sync.Mutex
	version := 0
	client.PrependReactor("*", "secrets", func(action k8stesting.Action) (bool, runtime.Object, error) {
		change, ok := action.(k8stesting.CreateAction) // an update is one too
		if !ok {
			return false, nil, nil
		}
		mu.Lock()
		defer mu.Unlock()
		object := change.GetObject().DeepCopyObject()
		next, err := meta.Accessor(object)
		if err != nil {
			return true, nil, err
		}
		stored, err := client.Tracker().Get(action.GetResource(), action.GetNamespace(), next.GetName())
		version++
		if action.GetVerb() == "create" {
			next.SetResourceVersion(strconv.Itoa(version))
			return true, object, client.Tracker().Create(action.GetResource(), object, action.GetNamespace())
		}
		if err != nil {
			return true, nil, err
		}
		if now, err := meta.Accessor(stored); err != nil || now.GetResourceVersion() != next.GetResourceVersion() {
			return true, nil, apierrors.NewConflict(action.GetResource().GroupResource(), next.GetName(), err)
		}
		next.SetResourceVersion(strconv.Itoa(version))
		return true, object, client.Tracker().Update(action.GetResource(), object, action.GetNamespace())
	})
}

func (w *world) issuer() *Issuer {
	return &Issuer{
		Client: w.client, Namespace: "assay-system", Secret: "tls", Names: []string{host},
		Now: func() time.Time { return w.now }, Log: slog.New(slog.NewTextHandler(w, nil)),
		Publish: func(_ context.Context, bundle []byte) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.publishing == nil {
				w.bundle = bundle
			}
			return w.publishing
		},
	}
}

func (w *world) Write(text []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(text)
}

func (w *world) noKeysInLog() {
	for _, secret := range []string{"PRIVATE", "MIGH", "BEGIN"} {
		if strings.Contains(w.log.String(), secret) {
			w.t.Errorf("the log has %q: %s", secret, w.log.String())
		}
	}
}

func (w *world) sync(i *Issuer) {
	w.t.Helper()
	if err := i.Sync(context.Background()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) secret() *corev1.Secret {
	w.t.Helper()
	s, err := w.client.CoreV1().Secrets("assay-system").Get(context.Background(), "tls", metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) damage(change func(data map[string][]byte)) {
	w.t.Helper()
	s := w.secret().DeepCopy()
	change(s.Data)
	if _, err := w.client.CoreV1().Secrets("assay-system").Update(context.Background(), s, metav1.UpdateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// trusts says that a caller with the bundle gets through to the replica.
func (w *world) trusts(bundle []byte, i *Issuer) error {
	pair, err := i.GetCertificate(nil)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(bundle)
	_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: host, CurrentTime: w.now})
	return err
}

func serial(i *Issuer) string {
	pair, err := i.GetCertificate(nil)
	if err != nil {
		return err.Error()
	}
	return pair.Leaf.SerialNumber.String()
}

func authoritiesOf(i *Issuer) []*x509.Certificate { return parseAuthorities(i.Bundle()) }

func TestReplicasAgree(t *testing.T) {
	w := newWorld(t)
	replicas := make([]*Issuer, 8)
	var group sync.WaitGroup
	for n := range replicas {
		replicas[n] = w.issuer()
		if _, err := replicas[n].GetCertificate(nil); err == nil {
			t.Error("a certificate before there is one")
		}
		group.Go(func() {
			if err := replicas[n].Sync(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for _, r := range replicas {
		if serial(r) != serial(replicas[0]) || w.trusts(w.bundle, r) != nil || !bytes.Equal(r.Bundle(), w.bundle) {
			t.Errorf("a replica serves %s, another %s", serial(r), serial(replicas[0]))
		}
	}
	if s := w.secret(); s.Type != corev1.SecretTypeTLS || len(s.Data) != 4 {
		t.Errorf("the Secret is of type %s with %d parts", s.Type, len(s.Data))
	}

	// All find the certificate due at the same time.
	before := serial(replicas[0])
	w.now = begin.Add(61 * 24 * time.Hour)
	for _, r := range replicas {
		group.Go(func() {
			if err := r.Sync(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for _, r := range replicas {
		if serial(r) != serial(replicas[0]) || serial(r) == before {
			t.Errorf("after renewal a replica serves %s, another %s", serial(r), serial(replicas[0]))
		}
	}
}

// Over years, with rounds of three replicas in any order, some left out, and API servers that
// see what is published a minute later: no call fails.
func TestNoCallFailsOverYears(t *testing.T) {
	w := newWorld(t)
	random := rand.New(rand.NewPCG(1, 2))
	replicas := []*Issuer{w.issuer(), w.issuer(), w.issuer()}
	for _, r := range replicas {
		w.sync(r)
	}
	certificates, roots, overlaps := map[string]bool{}, map[string]bool{}, 0
	seen := w.bundle
	for day := 0; day < 6*365; day += 1 + random.IntN(4) {
		w.now = begin.Add(time.Duration(day)*24*time.Hour + time.Duration(random.IntN(12))*time.Hour)
		for range 1 + random.IntN(6) {
			published := w.bundle
			for _, n := range random.Perm(len(replicas)) {
				if random.IntN(8) > 0 {
					w.sync(replicas[n])
				}
			}
			if random.IntN(50) == 0 {
				replicas[random.IntN(3)] = w.issuer() // a restart
			}
			for _, r := range replicas {
				if serial(r) == "there is no serving certificate yet" {
					w.sync(r)
				}
				for _, bundle := range [][]byte{seen, published, w.bundle} {
					if err := w.trusts(bundle, r); err != nil {
						t.Fatalf("day %d: %v\n%s", day, err, w.log.String())
					}
				}
				certificates[serial(r)] = true
				for _, ca := range authoritiesOf(r) {
					roots[ca.SerialNumber.String()] = true
				}
			}
			if len(authoritiesOf(replicas[0])) > 1 {
				overlaps++
			}
			seen = published
			w.now = w.now.Add(time.Minute)
		}
	}
	// 6 years are 2190 days: a certificate for each 60, an authority for each 16 months.
	if n := len(certificates); n < 34 || n > 42 {
		t.Errorf("%d certificates were made", n)
	}
	if n := len(roots); n != 5 {
		t.Errorf("%d authorities were made", n)
	}
	if n := len(authoritiesOf(replicas[0])); n > 2 || overlaps == 0 {
		t.Errorf("%d authorities at the end, %d rounds with more than one", n, overlaps)
	}
}

func TestNewAuthorityIsPublishedBeforeItSigns(t *testing.T) {
	w := newWorld(t)
	i := w.issuer()
	w.sync(i)
	first, firstBundle := serial(i), w.bundle

	// The authority is due at two thirds of two years; certificates have been renewed meanwhile.
	w.now = begin.Add(480 * 24 * time.Hour)
	w.sync(i)
	before := serial(i)
	if before == first || len(authoritiesOf(i)) != 1 {
		t.Fatal("the certificate is not renewed by the first authority")
	}
	w.now = begin.Add(488 * 24 * time.Hour)
	w.publishing = errors.New("no right")
	for range 10 {
		if err := i.Sync(context.Background()); err == nil || !strings.Contains(err.Error(), "no right") {
			t.Fatalf("the error is %v", err)
		}
		w.now = w.now.Add(time.Minute)
	}
	if serial(i) != before || w.trusts(firstBundle, i) != nil || len(authoritiesOf(i)) != 2 {
		t.Fatal("a new authority signs before it is published")
	}
	w.publishing = nil
	w.sync(i)
	w.now = w.now.Add(DefaultSettle - time.Second)
	w.sync(i)
	if serial(i) != before {
		t.Fatal("a new authority signs before API servers could learn of it")
	}
	w.now = w.now.Add(time.Second)
	w.sync(i)
	if serial(i) == before || w.trusts(firstBundle, i) == nil || w.trusts(w.bundle, i) != nil {
		t.Fatal("the new authority does not sign")
	}
	w.now = w.now.Add(DefaultLifetime - time.Hour)
	w.sync(i)
	if len(authoritiesOf(i)) != 2 {
		t.Fatal("the old authority is gone before its certificates are")
	}
	w.now = w.now.Add(2 * time.Hour)
	w.sync(i)
	if len(authoritiesOf(i)) != 1 || len(parseAuthorities(w.bundle)) != 1 {
		t.Fatal("the old authority stays")
	}
}

func TestDamagedSecretIsReplaced(t *testing.T) {
	other := newWorld(t)
	stranger := other.issuer()
	other.sync(stranger)
	foreign := other.secret().Data
	part := func(name string, text []byte) func(map[string][]byte) {
		return func(data map[string][]byte) { data[name] = text }
	}
	large := bytes.Repeat([]byte("x"), 500<<10)
	for name, change := range map[string]func(map[string][]byte){
		"nothing":                func(data map[string][]byte) { clear(data) },
		"no authority":           func(data map[string][]byte) { delete(data, "ca.crt") },
		"no key of it":           func(data map[string][]byte) { delete(data, "ca.key") },
		"no certificate":         func(data map[string][]byte) { delete(data, "tls.crt") },
		"no key":                 func(data map[string][]byte) { delete(data, "tls.key") },
		"large authority":        part("ca.crt", large),
		"large key of it":        part("ca.key", large),
		"large certificate":      part("tls.crt", large),
		"large key":              part("tls.key", large),
		"binary":                 part("ca.crt", []byte{0, 1, 2, 0xff}),
		"text after":             func(data map[string][]byte) { data["ca.crt"] = append(data["ca.crt"], "more"...) },
		"cut":                    func(data map[string][]byte) { data["ca.crt"] = data["ca.crt"][:200] },
		"cut key":                func(data map[string][]byte) { data["ca.key"] = data["ca.key"][:100] },
		"cut serving key":        func(data map[string][]byte) { data["tls.key"] = data["tls.key"][:100] },
		"a certificate as a key": func(data map[string][]byte) { data["ca.key"] = data["tls.crt"] },
		"a leaf as authority":    func(data map[string][]byte) { data["ca.crt"] = data["tls.crt"] },
		"another's key":          part("ca.key", foreign["ca.key"]),
		"another's authority":    part("ca.crt", foreign["ca.crt"]),
		"another's certificate": func(data map[string][]byte) {
			data["tls.crt"], data["tls.key"] = foreign["tls.crt"], foreign["tls.key"]
		},
		"another's serving key": part("tls.key", foreign["tls.key"]),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			running := w.issuer()
			w.sync(running)
			before := w.bundle
			w.damage(change)
			for range 5 {
				w.sync(running)
				if err := w.trusts(w.bundle, running); err != nil {
					t.Fatal(err)
				}
				// What the Secret lost, a replica that runs still has; nobody can tell a sound stranger from one's own.
				if err := w.trusts(before, running); err != nil && w.now.Sub(begin) < DefaultSettle && !strings.HasPrefix(name, "another's a") && name != "another's certificate" {
					t.Fatalf("those who know the old authority are turned away: %v", err)
				}
				w.now = w.now.Add(time.Minute)
			}
			fresh := w.issuer()
			w.sync(fresh)
			if serial(fresh) != serial(running) || !w.sound() {
				t.Errorf("the Secret is not repaired: %s", w.log.String())
			}

			w.damage(change)
			fresh = w.issuer()
			w.sync(fresh)
			w.now = w.now.Add(time.Minute)
			w.sync(fresh)
			if err := w.trusts(w.bundle, fresh); err != nil || !w.sound() {
				t.Errorf("a replica that starts does not repair the Secret: %v", err)
			}
			if !strings.HasPrefix(name, "another's a") && name != "another's certificate" && !strings.Contains(w.log.String(), "damaged") {
				t.Error("the log says nothing")
			}
		})
	}
}

// sound says that the Secret is as a fresh one.
func (w *world) sound() bool {
	c, faults := parse(w.secret().Data)
	return len(faults) == 0 && c.serves([]string{host}, w.now)
}

// Who deletes the Secret gets everything new, without a call that fails.
func TestDeletedSecretIsMadeAnew(t *testing.T) {
	w := newWorld(t)
	i := w.issuer()
	w.sync(i)
	first, before := serial(i), w.secret().Data
	if err := w.client.CoreV1().Secrets("assay-system").Delete(context.Background(), "tls", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	seen := w.bundle
	for range 6 {
		w.sync(i)
		if err := w.trusts(seen, i); err != nil {
			t.Fatal(err)
		}
		seen = w.bundle
		w.now = w.now.Add(time.Minute)
	}
	after := w.secret().Data
	for k := range before {
		if bytes.Equal(before[k], after[k]) {
			t.Errorf("%s is the same", k)
		}
	}
	if serial(i) == first {
		t.Error("the certificate is the same")
	}
}

func TestNamesChange(t *testing.T) {
	w := newWorld(t)
	i := w.issuer()
	w.sync(i)
	first := serial(i)
	more := w.issuer()
	more.Names = append(more.Names, "other.svc")
	w.sync(more)
	w.sync(i)
	if serial(i) == first || serial(i) != serial(more) {
		t.Errorf("replicas serve %s and %s", serial(i), serial(more))
	}
	none := w.issuer()
	none.Names = nil
	if err := none.Sync(context.Background()); err == nil {
		t.Error("a certificate for no name")
	}
}

// Short lives end with the authority's, and are renewed all the same.
func TestCertificateEndsWithItsAuthority(t *testing.T) {
	w := newWorld(t)
	i := w.issuer()
	i.Lifetime, i.AuthorityLifetime = 1000*time.Hour, 30*time.Hour
	for range 300 {
		w.sync(i)
		pair, _ := i.GetCertificate(nil)
		if pair.Leaf.NotAfter.After(authoritiesOf(i)[0].NotAfter) || w.trusts(w.bundle, i) != nil {
			t.Fatalf("the certificate ends %s, the authority %s", pair.Leaf.NotAfter, authoritiesOf(i)[0].NotAfter)
		}
		if n := len(authoritiesOf(i)); n > maxAuthorities {
			t.Fatalf("%d authorities", n)
		}
		w.now = w.now.Add(time.Hour)
	}
}

func TestClusterAway(t *testing.T) {
	w := newWorld(t)
	i := w.issuer()
	w.sync(i)
	served := serial(i)
	away := errors.New("the API server is away")
	w.client.PrependReactor("get", "secrets", func(k8stesting.Action) (bool, runtime.Object, error) { return true, nil, away })
	w.now = begin.Add(80 * 24 * time.Hour)
	if err := i.Sync(context.Background()); !errors.Is(err, away) || !strings.Contains(err.Error(), "assay-system/tls") || serial(i) != served {
		t.Errorf("the error is %v", err)
	}
	w = newWorld(t)
	i = w.issuer()
	w.client.PrependReactor("create", "secrets", func(k8stesting.Action) (bool, runtime.Object, error) { return true, nil, away })
	if err := i.Sync(context.Background()); !errors.Is(err, away) || i.Bundle() != nil {
		t.Errorf("the error is %v, and a bundle is %q", err, i.Bundle())
	}
}

// A server of k8s.io/apiserver's makes follows renewals without a restart.
func TestServedWithoutRestart(t *testing.T) {
	w := newWorld(t)
	i := w.issuer()
	i.Every, w.now = time.Millisecond, time.Now()
	w.sync(i)
	controller := dynamiccertificates.NewDynamicServingCertificateController(&tls.Config{MinVersion: tls.VersionTLS12}, nil, i, nil, nil)
	i.AddListener(controller)
	if err := controller.RunOnce(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	group.Go(func() { controller.Run(1, ctx.Done()) })

	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetConfigForClient: controller.GetConfigForClient, GetCertificate: i.GetCertificate})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	group.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				_ = c.(*tls.Conn).HandshakeContext(ctx)
				_ = c.Close()
			})
		}
	})
	connect := func() (string, error) {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(i.Bundle())
		dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: &tls.Config{RootCAs: pool, ServerName: host}}
		c, err := dialer.DialContext(ctx, "tcp", listener.Addr().String())
		if err != nil {
			return "", err
		}
		defer c.Close()
		return c.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
	}
	first, err := connect()
	if err != nil || first != serial(i) {
		t.Fatalf("%s is served, not %s: %v", first, serial(i), err)
	}
	w.damage(func(data map[string][]byte) { data["tls.crt"] = nil })
	i.adopt(content{authorities: authoritiesOf(i)}) // as if it had never served
	run, stop := context.WithCancel(ctx)
	done := make(chan error)
	go func() { done <- i.Run(run) }()
	for until := time.Now().Add(3 * time.Minute); time.Now().Before(until); {
		if now, err := connect(); err == nil && now != first {
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
			return
		}
	}
	stop()
	t.Fatalf("the first certificate is still served: %v", <-done)
}
