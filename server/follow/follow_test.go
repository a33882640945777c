package follow_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles/source"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/server/follow"
	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/storetest"
)

// clock is set by the test.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.now }
func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// states is a source that the test feeds.
type states chan source.Update

func (s states) Run(ctx context.Context, emit func(source.Update)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case u := <-s:
			emit(u)
		}
	}
}

func (s states) put(t *testing.T, revision, text string) {
	t.Helper()
	set, err := policies.Parse("policies.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	s <- source.Update{Set: set, Revision: revision}
}

func start(t *testing.T, c follow.Config) *follow.Follower {
	t.Helper()
	c.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	f := follow.New(c)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return f
}

func settle(t *testing.T, f *follow.Follower) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for f.Ready() != nil {
		select {
		case <-ctx.Done():
			t.Fatal(f.Ready())
		case <-time.After(5 * time.Millisecond):
		}
	}
	if err := f.Settle(ctx); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, s *store.Store, fn func(*store.Tx) error) {
	t.Helper()
	if err := s.Write(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

func digest(n int) string { return fmt.Sprintf("sha256:%064x", uint64(n)*0x9e3779b97f4a7c15) }

func number(f float64) *float64 { return &f }

var day = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func vulnerability(id string, score float64) api.Vulnerability {
	return api.Vulnerability{ID: id, Package: "p-" + id, Version: "1", Type: "deb", CVSS: number(score), Severity: "High", PURL: "pkg:deb/debian/p-" + id + "@1"}
}

func scanOf(image string, n int, at time.Time, list ...api.Vulnerability) api.Scan {
	return api.Scan{Image: image, Digest: digest(n), Source: "registry", ScannedAt: at, Vulnerabilities: list, Packages: 1, Database: &api.ScanDatabase{Built: day, Checksum: "c"}}
}

func exception(name, cve, expires string) api.VulnerabilityException {
	e := api.VulnerabilityException{Spec: api.VulnerabilityExceptionSpec{CVE: cve, Scope: "any", Justification: "j", Expires: expires}}
	e.Metadata.Name = name
	return e
}

// results are what the store's lists show: "reference digest" to result and score.
func results(t *testing.T, s *store.Store) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := s.SelectRows(t.Context(), "SELECT image, digest, result, COALESCE(max_cvss, -1) FROM listings", nil, func(scan func(...any) error) error {
		var image, digest, result string
		var score float64
		err := scan(&image, &digest, &result, &score)
		found[image+" "+digest] = fmt.Sprintf("%s %v", result, score)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// told are the events, oldest first, as "image previous>result changed".
func told(t *testing.T, s *store.Store) (list []string) {
	t.Helper()
	err := s.SelectRows(t.Context(), "SELECT repository, previous_result, result, changed FROM events ORDER BY id", nil, func(scan func(...any) error) error {
		var image, before, after string
		var changed bool
		err := scan(&image, &before, &after, &changed)
		list = append(list, fmt.Sprintf("%s %s>%s %v", image, before, after, changed))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestAtOnce(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		c := &clock{now: day}
		s := storetest.Open(t, url(), c.Now)
		in := make(states)
		f := start(t, follow.Config{Store: s, Source: in, Now: c.Now})
		if f.Ready() == nil {
			t.Fatal("ready without policies")
		}
		in.put(t, "one", "")
		settle(t, f)
		expect := func(what, want string, event ...string) {
			t.Helper()
			before := len(told(t, s)) - len(event)
			settle(t, f)
			if got := results(t, s)["docker.io/library/nginx:1 "+digest(1)]; got != want {
				t.Errorf("%s: the store has %s, want %s", what, got, want)
			}
			decided, err := f.Engine().Classify(t.Context(), "nginx:1", "", c.Now())
			if err != nil || string(decided.Result) != strings.Fields(want)[0] {
				t.Errorf("%s: the engine has %+v %v, want %s", what, decided, err, want)
			}
			all := told(t, s)
			if got := strings.Join(all[max(0, before):], ", "); len(event) > 0 && got != strings.Join(event, ", ") {
				t.Errorf("%s: events %s, want %s", what, got, strings.Join(event, ", "))
			}
		}
		write(t, s, func(tx *store.Tx) error {
			_, err := tx.AddScan(t.Context(), scanOf("nginx:1", 1, day, vulnerability("CVE-2026-0001", 9.8), vulnerability("CVE-2026-0002", 7.5)))
			return err
		})
		settle(t, f)
		expect("a scan", "Fail 9.8", "nginx >Fail true")
		write(t, s, func(tx *store.Tx) error {
			return tx.AddExceptions(t.Context(), []api.VulnerabilityException{exception("e1", "cve-2026-0001", "2026-11-01T13:00:00Z")}, false)
		})
		settle(t, f)
		expect("an exception", "Warn 7.5", "nginx Fail>Warn true")
		write(t, s, func(tx *store.Tx) error {
			return tx.SetSetting(t.Context(), follow.SettingThresholds, api.ThresholdsSpec{Warn: number(7.6), Fail: number(9)})
		})
		settle(t, f)
		expect("a threshold", "Pass 7.5", "nginx Warn>Pass true")
		if _, origin := f.Thresholds(); origin != "api" {
			t.Errorf("origin %s", origin)
		}
		in.put(t, "two", "apiVersion: assay.dev/v1alpha1\nkind: Thresholds\nmetadata: {name: default}\nspec: {warn: 7.0, fail: 7.2}\n")
		for set, revision, _ := f.Policies(); set == nil || revision != "two"; set, revision, _ = f.Policies() {
			time.Sleep(time.Millisecond)
		}
		settle(t, f)
		expect("the folder's threshold goes before", "Fail 7.5", "nginx Pass>Fail true")
		in <- source.Update{Err: errors.New("policies.yaml:1:1: no good"), Revision: "three"}
		for _, _, refused := f.Policies(); refused == nil; _, _, refused = f.Policies() {
			time.Sleep(time.Millisecond)
		}
		expect("refused policies change nothing", "Fail 7.5")
		in.put(t, "four", "")
		for _, revision, _ := f.Policies(); revision != "four"; _, revision, _ = f.Policies() {
			time.Sleep(time.Millisecond)
		}
		settle(t, f)
		expect("back", "Pass 7.5", "nginx Fail>Pass true")
		c.add(time.Hour) // to the very second
		deadline := time.Now().Add(3 * time.Minute)
		for results(t, s)["docker.io/library/nginx:1 "+digest(1)] != "Fail 9.8" && time.Now().Before(deadline) {
			time.Sleep(5 * time.Millisecond)
		}
		expect("the exception ends", "Fail 9.8", "nginx Pass>Fail true")
		write(t, s, func(tx *store.Tx) error {
			_, err := tx.AddScan(t.Context(), scanOf("nginx:1", 1, day.Add(time.Hour), vulnerability("CVE-2026-0001", 9.8), vulnerability("CVE-2026-0002", 7.5)))
			return err
		})
		settle(t, f)
		expect("a rescan that finds the same", "Fail 9.8", "nginx Fail>Fail false")
		failed := scanOf("nginx:1", 1, day.Add(2*time.Hour))
		failed.Error = "the registry is away"
		write(t, s, func(tx *store.Tx) error { _, err := tx.AddScan(t.Context(), failed); return err })
		settle(t, f)
		expect("a scan that failed", "Fail 9.8", "nginx Fail>Unknown false")
	})
}

// After any changes, by several replicas, all engines and the lists of the store say what an engine
// says that loads everything anew.
func TestReplicas(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		c := &clock{now: day}
		address := url()
		var replicas []*follow.Follower
		var stores []*store.Store
		for range 3 {
			s := storetest.Open(t, address, c.Now)
			stores = append(stores, s)
			in := make(states, 1)
			in.put(t, "one", "")
			replicas = append(replicas, start(t, follow.Config{Store: s, Source: in, Now: c.Now, Every: 20 * time.Millisecond}))
		}
		r := rand.New(rand.NewPCG(1, 2))
		pick := func(n int) int { return r.IntN(n) }
		names := 0
		for range 150 {
			s := stores[pick(len(stores))]
			write(t, s, func(tx *store.Tx) error {
				switch pick(8) {
				case 0:
					return tx.SetSetting(t.Context(), follow.SettingThresholds, api.ThresholdsSpec{Warn: number(float64(3 + pick(3))), Fail: number(float64(7 + pick(3))), FailOnKEV: pick(4) == 0, OnlyFixable: pick(6) == 0})
				case 1:
					names++
					e := exception(fmt.Sprintf("e%d", names), fmt.Sprintf("CVE-2026-%04d", pick(20)), "")
					switch pick(5) {
					case 0:
						e.Spec.Expires = c.Now().Add(time.Duration(pick(100)) * time.Minute).Format(time.RFC3339)
					case 1:
						e.Spec.Scope, e.Spec.Repository, e.Spec.Tags = "image", fmt.Sprintf("r%d", pick(6)), []string{"1"}
					case 2:
						e.Spec.Scope, e.Spec.Repository = "repo", fmt.Sprintf("r%d", pick(6))
					case 3:
						e.Spec.Until = &api.Until{Fixable: true}
					}
					return tx.AddExceptions(t.Context(), []api.VulnerabilityException{e}, false)
				case 2:
					if names > 0 {
						if err := tx.RemoveException(t.Context(), fmt.Sprintf("e%d", 1+pick(names))); !errors.Is(err, store.ErrNotFound) {
							return err
						}
					}
				case 3:
					c.add(time.Duration(pick(30)) * time.Minute)
				case 4:
					return tx.SetInstances(t.Context(), "prod", "", []store.Instance{{Instance: api.Instance{Namespace: "n", Pod: "p", Container: "c"}, Image: fmt.Sprintf("r%d:2", pick(6)), Digest: digest(pick(12))}})
				default:
					var list []api.Vulnerability
					for i := range 20 {
						if pick(3) == 0 {
							v := vulnerability(fmt.Sprintf("CVE-2026-%04d", i), float64(pick(101))/10)
							v.KEV = pick(5) == 0
							if pick(2) == 0 {
								v.Fix.State = "fixed"
							}
							if pick(4) == 0 {
								v.Aliases = []string{fmt.Sprintf("GHSA-aaaa-bbbb-%04d", i)}
							}
							list = append(list, v)
						}
					}
					c.add(time.Second)
					_, err := tx.AddScan(t.Context(), scanOf(fmt.Sprintf("r%d:%d", pick(6), 1+pick(2)), pick(12), c.Now(), list...))
					return err
				}
				return nil
			})
		}
		for _, f := range replicas {
			settle(t, f)
		}
		// Another second, so that what ended at this one is done everywhere.
		for _, f := range replicas {
			settle(t, f)
		}
		in := make(states, 1)
		in.put(t, "one", "")
		fresh := start(t, follow.Config{Store: storetest.Open(t, address, c.Now), Source: in, Now: c.Now})
		settle(t, fresh)
		time.Sleep(100 * time.Millisecond)
		settle(t, fresh)
		listed := results(t, stores[0])
		if len(listed) < 20 {
			t.Fatalf("only %d listings", len(listed))
		}
		for key, got := range listed {
			image, digest, _ := strings.Cut(key, " ")
			for i, f := range append(replicas, fresh) {
				said, err := f.Engine().Classify(t.Context(), image, digest, c.Now())
				if err != nil {
					t.Fatal(err)
				}
				score := -1.0
				if said.MaxCVSS != nil {
					score = *said.MaxCVSS
				}
				if want := fmt.Sprintf("%s %v", said.Result, score); want != got {
					t.Errorf("%s: replica %d says %s, the store %s", key, i, want, got)
				}
			}
		}
		for i, f := range replicas {
			a, b := f.Engine().Revisions(), fresh.Engine().Revisions()
			for name := range b {
				if a[name] != b[name] {
					t.Errorf("replica %d: revision of %s is %s, that of a fresh one %s", i, name, a[name], b[name])
				}
			}
		}
	})
}
