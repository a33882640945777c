package store_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/storetest"
)

func digest(c string) string { return "sha256:" + strings.Repeat(c, 64) }

var day = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func score(f float64) *float64 { return &f }

func scanOf(image, c string, at time.Time, ids ...string) api.Scan {
	s := api.Scan{Image: image, Digest: digest(c), Platform: "linux/amd64", Source: "registry", ScannedAt: at, Packages: 3,
		Database: &api.ScanDatabase{Built: day, Checksum: "xxh64:1"}}
	for i, id := range ids {
		s.Vulnerabilities = append(s.Vulnerabilities, api.Vulnerability{ID: id, Aliases: []string{"GHSA-aaaa-bbbb-" + id[len(id)-4:]}, Package: "openssl", Version: "3." + id[len(id)-1:], Type: "deb",
			CVSS: score(9.8 - float64(i)), Severity: "Critical", Fix: api.Fix{State: "fixed"}, EPSS: score(0.5)})
	}
	return s
}

// said is a verdict that is the same in all views.
func said(task store.Task, result api.Result, highest *float64) store.Verdict {
	v := store.Verdict{Task: task}
	for range task.Views {
		v.Said = append(v.Said, store.Said{Result: result, MaxCVSS: highest})
	}
	return v
}

func write(t *testing.T, s *store.Store, fn func(*store.Tx) error) {
	t.Helper()
	if err := s.Write(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

func TestScans(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		s := storetest.Open(t, url(), nil)
		ctx := t.Context()
		add := func(scan api.Scan) (a store.Added) {
			t.Helper()
			write(t, s, func(tx *store.Tx) (err error) { a, err = tx.AddScan(ctx, scan); return err })
			return a
		}
		first := add(scanOf("nginx:1", "a", day, "CVE-2024-0001", "CVE-2024-0002"))
		if !first.New {
			t.Fatal("not new")
		}
		if again := add(scanOf("nginx:1", "a", day, "CVE-2024-0001", "CVE-2024-0002")); again.New || again.ID != first.ID {
			t.Fatalf("the same scan again: %+v", again)
		}
		add(scanOf("docker.io/library/nginx@"+digest("a"), "a", day.Add(time.Hour), "CVE-2024-0001", "CVE-2024-0003"))
		got, _, err := s.Scan(ctx, digest("a"), "", "")
		if err != nil || len(got.Vulnerabilities) != 2 || got.Vulnerabilities[1].ID != "CVE-2024-0003" {
			t.Fatalf("%+v %v", got, err)
		}
		history, err := s.History(ctx, digest("a"), 0, 10)
		if err != nil || len(history) != 2 {
			t.Fatalf("%+v %v", history, err)
		}
		var head int64
		write(t, s, func(tx *store.Tx) (err error) { head, err = tx.Head(ctx); return err })
		write(t, s, func(tx *store.Tx) error {
			tasks, done, err := tx.Tasks(ctx, head, 100, nil)
			if err != nil {
				return err
			}
			if len(tasks) != 2 || len(done) != 3 {
				t.Errorf("tasks %+v done %v", tasks, done)
			}
			var verdicts []store.Verdict
			for _, task := range tasks {
				verdicts = append(verdicts, said(task, api.Fail, score(9.8)))
			}
			return tx.Classified(ctx, verdicts, done)
		})
		write(t, s, func(tx *store.Tx) error {
			if n, err := tx.Waiting(ctx, head); n != 0 || err != nil {
				t.Errorf("%d wait, %v", n, err)
			}
			if err := tx.Reclassify(ctx, head); err != nil {
				return err
			}
			return tx.SetInstances(ctx, "prod", "n1", []store.Instance{
				{Instance: api.Instance{Namespace: "web", Pod: "p", Container: "c"}, Image: "nginx:1", Digest: digest("a")},
				{Instance: api.Instance{Namespace: "web", Pod: "q", Container: "c"}, Image: "redis:7", Digest: digest("c")}})
		})
		write(t, s, func(tx *store.Tx) error {
			head, err := tx.Head(ctx)
			if err != nil {
				return err
			}
			tasks, done, err := tx.Tasks(ctx, head, 100, nil)
			if err != nil || len(tasks) != 3 {
				t.Errorf("tasks %+v %v", tasks, err)
			}
			var verdicts []store.Verdict
			for _, task := range tasks {
				verdicts = append(verdicts, said(task, api.Warned, score(8)))
			}
			return tx.Classified(ctx, verdicts, done)
		})
		write(t, s, func(tx *store.Tx) error {
			err := tx.AddExceptions(ctx, []api.VulnerabilityException{{Metadata: api.ObjectMeta{Name: "e"}, Spec: api.VulnerabilityExceptionSpec{CVE: "ghsa-aaaa-bbbb-0001", Scope: "any", Justification: "x"}}}, false)
			if err != nil {
				return err
			}
			tasks, _, err := tx.Tasks(ctx, 1<<40, 100, nil)
			if len(tasks) != 2 {
				t.Errorf("tasks %+v", tasks)
			}
			return err
		})
		err = s.View(ctx, func(tx *store.Tx) error {
			changes, first, err := tx.Changes(ctx, 0, 100)
			if first != 1 || len(changes) < 5 {
				t.Errorf("%+v %d", changes, first)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Scan(context.Background(), digest("f"), "", ""); err != store.ErrNotFound {
			t.Fatal(err)
		}
	})
}

// A full disk gives errors, damages nothing, and is forgotten once there is room.
func TestFull(t *testing.T) {
	s := storetest.Open(t, filepath.Join(t.TempDir(), "assay.db"), nil)
	add := func(n int) error {
		return s.Write(t.Context(), func(tx *store.Tx) error {
			scan := scanOf("nginx:1", "a", day.Add(time.Duration(n)*time.Minute), "CVE-2024-0001")
			scan.Vulnerabilities[0].Description = strings.Repeat(strconv.Itoa(n)+rand.Text(), 2000)
			_, err := tx.AddScan(t.Context(), scan)
			return err
		})
	}
	limit := func(pages int) {
		t.Helper()
		if _, err := s.SQLiteDB().ExecContext(t.Context(), "PRAGMA max_page_count = "+strconv.Itoa(pages)); err != nil {
			t.Fatal(err)
		}
	}
	if err := add(0); err != nil {
		t.Fatal(err)
	}
	limit(1) // as many as there are
	var err error
	stored := 0
	for n := 1; err == nil && n < 1000; n++ {
		if err = add(n); err == nil {
			stored++
		}
	}
	if !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("a full disk: %v", err)
	}
	if _, _, err := s.Scan(t.Context(), digest("a"), "", ""); err != nil {
		t.Fatalf("reading with a full disk: %v", err)
	}
	limit(1_000_000)
	if err := add(2000); err != nil {
		t.Fatalf("with room again: %v", err)
	}
	history, err := s.History(t.Context(), digest("a"), 0, 1000)
	if err != nil || len(history) != stored+2 {
		t.Errorf("%d scans, want %d: %v", len(history), stored+2, err)
	}
}

// A schema of a newer program is left as it is.
func TestNewerSchema(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		at := url()
		s := storetest.Open(t, at, nil)
		db := s.SQLiteDB()
		statement := "INSERT INTO assay_schema (version_id, is_applied) VALUES (999999, TRUE)"
		if db == nil {
			if _, err := s.Pool().Exec(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
		} else if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Open(t.Context(), store.Config{URL: at}); !errors.Is(err, store.ErrNewerSchema) {
			t.Errorf("a newer schema: %v", err)
		}
	})
}

// What is too old goes, and never the newest scan of an image.
func TestRetain(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		now := day
		s := storetest.Open(t, url(), func() time.Time { return now })
		ctx := t.Context()
		for n := range 5 {
			now = day.Add(time.Duration(n) * 24 * time.Hour)
			write(t, s, func(tx *store.Tx) error {
				if _, err := tx.AddScan(ctx, scanOf("nginx:1", "a", now, fmt.Sprintf("CVE-2024-000%d", n))); err != nil {
					return err
				}
				tasks, done, err := tx.Tasks(ctx, 1<<40, 10, nil)
				if err != nil {
					return err
				}
				if err := tx.AddDecisions(ctx, []api.AdmissionRecord{{UID: fmt.Sprint(n), At: now}}); err != nil {
					return err
				}
				return tx.Classified(ctx, []store.Verdict{said(tasks[0], api.Fail, nil)}, done)
			})
		}
		if err := s.Retain(ctx, store.Retention{}); err != nil {
			t.Fatal(err)
		}
		count := func(table string) (n int) {
			t.Helper()
			if err := s.SelectRows(ctx, "SELECT COUNT(*) FROM "+table, nil, func(scan func(...any) error) error { return scan(&n) }); err != nil {
				t.Fatal(err)
			}
			return n
		}
		if count("scans") != 5 || count("events") != 5 || count("decisions") != 5 || count("contents") != 5 {
			t.Fatal("without a retention something is gone")
		}
		now = day.Add(365 * 24 * time.Hour)
		year := store.Retention{Scans: time.Hour, Events: 363 * 24 * time.Hour, Decisions: time.Hour}
		if err := s.Retain(ctx, year); err != nil {
			t.Fatal(err)
		}
		if got := []int{count("scans"), count("contents"), count("events"), count("decisions")}; fmt.Sprint(got) != "[1 1 3 0]" {
			t.Errorf("scans, contents, events, decisions: %v", got)
		}
		if scan, _, err := s.Scan(ctx, digest("a"), "", ""); err != nil || scan.Vulnerabilities[0].ID != "CVE-2024-0004" {
			t.Errorf("the newest scan: %+v %v", scan, err)
		}
	})
}

// A scan that fails again and again for the same reason is told once, and never takes the place of evidence.
func TestFailures(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		s := storetest.Open(t, url(), nil)
		ctx := t.Context()
		fails := func(at time.Time, why string) (a store.Added) {
			t.Helper()
			scan := scanOf("nginx:1", "a", at)
			scan.Packages, scan.Error = 0, why
			write(t, s, func(tx *store.Tx) (err error) { a, err = tx.AddFailure(ctx, scan); return err })
			return a
		}
		if got := []bool{fails(day, "too large").New, fails(day.Add(time.Hour), "too large").New, fails(day.Add(2*time.Hour), "too slow").New}; fmt.Sprint(got) != "[true false true]" {
			t.Errorf("told are %v", got)
		}
		write(t, s, func(tx *store.Tx) error {
			_, err := tx.AddScan(ctx, scanOf("nginx:1", "a", day.Add(3*time.Hour), "CVE-2024-0001"))
			return err
		})
		if !fails(day.Add(4*time.Hour), "too slow").New {
			t.Error("after a good scan the same fault is not told")
		}
		if scan, _, err := s.Scan(ctx, digest("a"), "", ""); err != nil || len(scan.Vulnerabilities) != 1 {
			t.Errorf("the evidence is gone: %+v %v", scan, err)
		}
	})
}
