package ranking_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/priority"
	"github.com/assay-dev/assay/server/follow"
	"github.com/assay-dev/assay/server/ranking"
	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/storetest"
)

var day = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func digest(n int) string { return fmt.Sprintf("sha256:%064x", uint64(n+1)*0x9e3779b97f4a7c15) }

func number(f float64) *float64 { return &f }

func follower(t testing.TB, s *store.Store, now func() time.Time) *follow.Follower {
	t.Helper()
	f := follow.New(follow.Config{Store: s, Now: now, Every: 20 * time.Millisecond, Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for deadline := time.Now().Add(3 * time.Minute); f.Ready() != nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(f.Ready())
		}
	}
	return f
}

func write(t testing.TB, s *store.Store, fn func(*store.Tx) error) {
	t.Helper()
	if err := s.Write(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

// plainly makes the order from the scans, all of them annotated by the engine.
func plainly(t *testing.T, s *store.Store, f *follow.Follower, filter store.Filter, now time.Time) []api.Action {
	t.Helper()
	type row struct {
		image store.Image
		scan  api.Scan
	}
	var rows []row
	for _, dismissed := range []bool{false, true} {
		if err := s.EachScan(t.Context(), store.Filter{Dismissed: &dismissed}, func(m store.Image, scan api.Scan) error {
			if len(scan.ScannedAt.String()) > 0 && scan.Digest != "" {
				scan.Image = m.Image
				rows = append(rows, row{m, scan})
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	slices.SortFunc(rows, func(a, b row) int { return int(a.image.ID - b.image.ID) })
	book, bases := priority.NewBook(), priority.NewBases()
	known := make([]*priority.Known, len(rows))
	images := make([]*priority.Image, len(rows))
	for i := range rows {
		if err := f.Engine().Annotate(t.Context(), rows[i].image.Image, rows[i].scan.Digest, &rows[i].scan, now); err != nil {
			t.Fatal(err)
		}
		known[i] = priority.NewKnown(rows[i].image.Image, &rows[i].scan)
		bases.Add(known[i])
		images[i] = book.Image(&rows[i].scan)
	}
	fits := map[int64]bool{}
	var containers map[int64]map[string]int
	newest := map[string]string{}
	if err := s.View(t.Context(), func(tx *store.Tx) error {
		ids, err := tx.Fitting(t.Context(), filter)
		if err != nil {
			return err
		}
		for _, id := range ids {
			fits[id] = true
		}
		if containers, err = tx.Containers(t.Context(), filter.Cluster, filter.Namespace); err != nil {
			return err
		}
		return tx.NewestNames(t.Context(), nil, nil, func(o store.Observation) error {
			newest[o.Name+":"+o.Tag] = o.Digest
			return nil
		})
	}); err != nil {
		t.Fatal(err)
	}
	var items []priority.Item
	for i := range rows {
		base := bases.Find(known[i])
		var newer *priority.Contents
		if base != nil && base.Digest != newest[base.Name] {
			if n := slices.IndexFunc(rows, func(r row) bool { return r.scan.Digest == newest[base.Name] }); n >= 0 && base.Layers > 0 {
				newer = priority.NewContents(base.Name, images[n])
			}
		}
		if fits[rows[i].image.ID] {
			items = append(items, priority.Item{Image: book.On(images[i], images[i].Result, base, newer), Clusters: containers[rows[i].image.ID]})
		}
	}
	order := priority.NewOrder(items, 0)
	list, _, err := order.Page("", order.Len()+1)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// scanned is an image whose layers stand on one of three bases, with vulnerabilities by chance.
func scanned(r *rand.Rand, n int, at time.Time) api.Scan {
	name, layers := fmt.Sprintf("registry.example.com/team%d/app%d:1", n%2, n), []string{fmt.Sprint(n % 3), fmt.Sprint("app", n)}
	switch {
	case n < 3: // bases; the tag of the first two is the same
		name, layers = []string{"docker.io/library/debian:12", "docker.io/library/debian:12", "docker.io/library/alpine:3"}[n], layers[:1]
	case n%7 == 0:
		layers = nil
	}
	s := api.Scan{Image: name, Digest: digest(n), Platform: "linux/amd64", ScannedAt: at, Distro: "debian 12", Packages: 1, Vulnerabilities: []api.Vulnerability{}}
	for _, l := range layers {
		s.Layers = append(s.Layers, api.Layer{DiffID: fmt.Sprintf("sha256:%064s", l), CreatedBy: "RUN"})
	}
	for range r.IntN(8) {
		v := api.Vulnerability{ID: fmt.Sprintf("CVE-2026-%04d", r.IntN(10)), Package: fmt.Sprintf("p%d", r.IntN(3)), Version: "1.0", Type: "deb", Severity: "High", CVSS: number(float64(40+r.IntN(61)) / 10),
			EPSS: number(float64(r.IntN(200)) / 1000), KEV: r.IntN(10) == 0, Fix: api.Fix{State: "not-fixed"}, PURL: "pkg:deb/debian/x@1.0", Description: "long"}
		if r.IntN(4) == 0 {
			v.ID, v.Aliases = "GHSA-"+v.ID[4:], []string{v.ID}
		}
		if r.IntN(3) > 0 {
			v.Fix = api.Fix{State: "fixed", Versions: []string{fmt.Sprintf("1.%d", 1+r.IntN(3))}}
		}
		if len(s.Layers) > 0 {
			layer := r.IntN(len(s.Layers))
			v.Layer, v.Package = s.Layers[layer].DiffID, fmt.Sprintf("p%d-%d", layer, r.IntN(2))
		}
		s.Vulnerabilities = append(s.Vulnerabilities, v)
	}
	return s
}

// Whatever happens, the order is that of all scans annotated by the engine at that moment.
func TestFollowsTheStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		now := day
		clock := func() time.Time { return now }
		s := storetest.Open(t, url(), clock)
		f := follower(t, s, clock)
		ranked := ranking.New(ranking.Config{Store: s, Live: f, Now: clock})
		r := rand.New(rand.NewPCG(4, 2))
		hold := func(step string) {
			t.Helper()
			if err := f.Settle(t.Context()); err != nil {
				t.Fatal(err)
			}
			yes := true
			for _, filter := range []store.Filter{{}, {Cluster: "c1"}, {Cluster: "c1", Namespace: "n0"}, {Running: &yes}, {Registry: "registry.example.com/team1"}, {CVE: "CVE-2026-0003"}, {Results: []api.Result{api.Fail}}, {Digest: digest(5)}} {
				order, err := ranked.Order(t.Context(), filter, true)
				if err != nil {
					t.Fatal(err)
				}
				list, _, err := order.Page("", order.Len()+1)
				if err != nil {
					t.Fatal(err)
				}
				got, err := json.MarshalIndent(list, "", " ")
				if err != nil {
					t.Fatal(err)
				}
				want, err := json.MarshalIndent(plainly(t, s, f, filter, now), "", " ")
				if err != nil {
					t.Fatal(err)
				}
				if string(got) != string(want) {
					t.Fatalf("%s, filter %+v:\n%s\ninstead of\n%s", step, filter, got, want)
				}
			}
		}
		hold("nothing")
		rebases := 0
		for step := range 45 {
			now = now.Add(time.Hour)
			what := r.IntN(8)
			if step < 15 {
				what = 0
			}
			write(t, s, func(tx *store.Tx) error {
				switch what {
				case 0, 1:
					n := r.IntN(14)
					if step < 15 {
						n = step
					}
					scan := scanned(r, n, now)
					if n > 2 && r.IntN(4) == 0 {
						scan.Image = fmt.Sprintf("registry.example.com/other/name%d:1", n)
					}
					_, err := tx.AddScan(t.Context(), scan)
					return err
				case 2, 3:
					e := api.VulnerabilityException{Metadata: api.ObjectMeta{Name: fmt.Sprintf("e%d", r.IntN(6))}, Spec: api.VulnerabilityExceptionSpec{CVE: fmt.Sprintf("CVE-2026-%04d", r.IntN(10)), Scope: api.ScopeAny, Justification: "x"}}
					switch r.IntN(4) {
					case 0:
						e.Spec.Expires = now.Add(90 * time.Minute).Format(time.RFC3339)
					case 1:
						e.Spec.Scope, e.Spec.Registry, e.Spec.Repository = api.ScopeRepo, "registry.example.com/team1", fmt.Sprintf("app%d", r.IntN(14))
					case 2:
						e.Spec.Packages = []string{"pkg:deb/debian/x"}
					}
					return tx.AddExceptions(t.Context(), []api.VulnerabilityException{e}, true)
				case 4:
					if err := tx.RemoveException(t.Context(), fmt.Sprintf("e%d", r.IntN(6))); !errors.Is(err, store.ErrNotFound) {
						return err
					}
				case 5:
					var list []store.Instance
					for p := range r.IntN(8) {
						n := r.IntN(14)
						list = append(list, store.Instance{Instance: api.Instance{Namespace: fmt.Sprintf("n%d", r.IntN(2)), Pod: fmt.Sprintf("p%d", p), Container: "c"}, Image: scanned(r, n, now).Image, Digest: digest(n)})
					}
					return tx.SetInstances(t.Context(), fmt.Sprintf("c%d", r.IntN(3)), "node", list)
				case 6:
					threshold := api.ThresholdsSpec{Warn: number(5), Fail: number(float64(60+r.IntN(40)) / 10)}
					if r.IntN(3) == 0 {
						threshold.FailOnKEV = true
					}
					return tx.SetSetting(t.Context(), follow.SettingThresholds, threshold)
				case 7:
					if err := tx.DeleteImage(t.Context(), digest(2+r.IntN(12))); !errors.Is(err, store.ErrNotFound) {
						return err
					}
				}
				return nil
			})
			hold(fmt.Sprintf("step %d, %d", step, what))
			order, err := ranked.Order(t.Context(), store.Filter{}, true)
			if err != nil {
				t.Fatal(err)
			}
			list, _, err := order.Page("", 1000)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range list {
				if a.Rebase != nil {
					rebases++
				}
			}
		}
		if rebases == 0 {
			t.Error("no newer base was ever advised")
		}
		// Who may not see bases sees no trace of them.
		order, err := ranked.Order(t.Context(), store.Filter{}, false)
		if err != nil {
			t.Fatal(err)
		}
		list, _, err := order.Page("", 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range list {
			if a.Rebase != nil || a.FromBase > 0 {
				t.Errorf("%+v", a)
			}
		}
	})
}
