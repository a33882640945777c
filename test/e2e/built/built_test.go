package built_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/assay-dev/assay/test/e2e/built"
)

func TestOnce(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	broken := errors.New("no compiler")
	dir, err := built.Once("x", func(dir string) error {
		return errors.Join(broken, os.WriteFile(filepath.Join(dir, "half"), nil, 0o600))
	})
	if !errors.Is(err, broken) {
		t.Fatalf("%q, %v; want %v", dir, err, broken)
	}
	var builds atomic.Int32
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			dir, err := built.Once("x", func(dir string) error {
				builds.Add(1)
				return os.WriteFile(filepath.Join(dir, "whole"), nil, 0o600)
			})
			if err != nil {
				t.Error(err)
			}
			if found, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(found) != 1 || filepath.Base(found[0]) != "whole" {
				t.Errorf("%v, %v", found, err)
			}
		})
	}
	callers.Wait()
	if builds.Load() != 1 {
		t.Errorf("built %d times", builds.Load())
	}
}
