package vulndb

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// importAll imports databases that were built a minute apart, on a clock that goes on.
func importAll(t *testing.T, s *Store, n int) []*Status {
	t.Helper()
	var out []*Status
	for i := range n {
		s.cfg.Now = func() time.Time { return builtAt().Add(time.Hour + time.Duration(i)*time.Second) }
		st, err := s.Import(t.Context(), testArchive(t, builtAt().Add(time.Duration(i)*time.Minute)))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, st)
	}
	return out
}

func TestRollback(t *testing.T) {
	s := testStore(t)
	if _, err := s.Rollback(t.Context(), ""); !errors.Is(err, ErrMissing) {
		t.Errorf("without a database: %v", err)
	}
	came := importAll(t, s, 3)
	list, err := s.Generations(t.Context())
	if err != nil || len(list) != 3 || !list[0].Current || list[1].Current || list[0].Checksum != came[2].Checksum ||
		!list[2].Built.Equal(builtAt()) || list[0].Bytes == 0 || list[0].Err != nil {
		t.Fatalf("generations: %+v, %v", list, err)
	}
	st, err := s.Rollback(t.Context(), "")
	if err != nil || st.Checksum != came[1].Checksum {
		t.Fatalf("back: %+v, %v", st, err)
	}
	now, err := s.Status(t.Context())
	if err != nil || *now != *st {
		t.Fatalf("current after going back: %+v, %v", now, err)
	}
	// What was left is not fetched again; what is newer is.
	left := builtAt().Add(2 * time.Minute)
	s.cfg.LatestURL = published(t, read(t, testArchive(t, left)), left, nil)
	if res, err := s.Update(t.Context()); err != nil || res.Updated || !res.Held.Equal(left) || res.Status.Checksum != st.Checksum {
		t.Errorf("an update fetched what was left: %+v, %v", res, err)
	}
	if st, err = s.Rollback(t.Context(), list[2].Name); err != nil || st.Checksum != came[0].Checksum {
		t.Fatalf("further back: %+v, %v", st, err)
	}
	if res, err := s.Update(t.Context()); err != nil || res.Updated || !res.Held.Equal(left) {
		t.Errorf("going back twice forgot what was left first: %+v, %v", res, err)
	}
	if _, err := s.Rollback(t.Context(), ""); !errors.Is(err, ErrNoGeneration) {
		t.Errorf("before the first: %v", err)
	}
	for _, name := range []string{"none", list[0].Name[:1], "../" + list[0].Name} {
		if _, err := s.Rollback(t.Context(), name); !errors.Is(err, ErrNoGeneration) {
			t.Errorf("%s: %v", name, err)
		}
	}
	newer := left.Add(time.Minute)
	s.cfg.LatestURL = published(t, read(t, testArchive(t, newer)), newer, nil)
	if res, err := s.Update(t.Context()); err != nil || !res.Updated || !res.Status.Built.Equal(newer) {
		t.Errorf("a newer one: %+v, %v", res, err)
	}
}

func TestRollbackForward(t *testing.T) {
	s := testStore(t)
	came := importAll(t, s, 2)
	list, err := s.Generations(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Rollback(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if st, err := s.Rollback(t.Context(), list[0].Name); err != nil || st.Checksum != came[1].Checksum {
		t.Fatalf("forward: %+v, %v", st, err)
	}
	if held := s.held(); !held.IsZero() {
		t.Errorf("held: %v", held)
	}
	// A damaged generation is not gone back to, and the current one goes on.
	if err := os.WriteFile(came[0].Path, []byte("garbage"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Rollback(t.Context(), list[1].Name); !errors.Is(err, ErrCorrupt) {
		t.Errorf("damaged: %v", err)
	}
	if st, err := s.Status(t.Context()); err != nil || st.Checksum != came[1].Checksum {
		t.Errorf("current: %+v, %v", st, err)
	}
}

func TestPrune(t *testing.T) {
	s := testStore(t)
	came := importAll(t, s, 4)
	list, err := s.Generations(t.Context())
	if err != nil || len(list) != 4 {
		t.Fatalf("young generations stay until they settle: %d, %v", len(list), err)
	}
	if _, err := s.Rollback(t.Context(), list[3].Name); err != nil {
		t.Fatal(err)
	}
	// What an interrupted removal left is no generation, and goes.
	half := filepath.Join(s.cfg.Dir, removedPrefix+"half")
	if err := os.Mkdir(half, 0o755); err != nil {
		t.Fatal(err)
	}
	removed, err := s.Prune(t.Context(), 1)
	if err != nil || len(removed) != 2 || exists(came[1].Path) || exists(came[2].Path) || !exists(came[3].Path) || exists(half) {
		t.Errorf("removed: %+v, %v", removed, err)
	}
	if st, err := s.Status(t.Context()); err != nil || st.Checksum != came[0].Checksum {
		t.Errorf("the current one does not serve: %+v, %v", st, err)
	}
	if _, err := s.Prune(t.Context(), 0); err == nil {
		t.Error("all was pruned")
	}
}

// Stores of several processes share a directory; each has its own lock.
func TestGenerationsAtOnce(t *testing.T) {
	s := testStore(t)
	importAll(t, s, 2)
	archive := testArchive(t, builtAt())
	var wg sync.WaitGroup
	for range 3 {
		other, err := New(s.cfg)
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range []func() error{
			func() error { _, err := other.Import(t.Context(), archive); return err },
			func() error { _, err := other.Rollback(t.Context(), ""); return err },
			func() error { _, err := other.Prune(t.Context(), 2); return err },
		} {
			wg.Go(func() {
				if err := step(); err != nil && !errors.Is(err, ErrNoGeneration) {
					t.Error(err)
				}
				if st, err := other.Status(t.Context()); err != nil || st.Err != nil {
					t.Errorf("nothing serves: %+v, %v", st, err)
				}
			})
		}
	}
	wg.Wait()
}
