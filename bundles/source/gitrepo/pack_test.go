package gitrepo

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/storage/memory"
)

// A pack that is taken is within the bound unpacked, whatever it declares.
func FuzzPack(f *testing.F) {
	const bound = 64 << 10
	dir := f.TempDir()
	git := func(stdin string, args ...string) []byte {
		f.Helper()
		cmd := exec.Command("git", args...)
		cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
		out, err := cmd.Output()
		if err != nil {
			f.Fatalf("git %v: %v", args, err)
		}
		return out
	}
	git("", "init", "-q")
	var ids string
	for i, text := range []string{"a", strings.Repeat("some lines\n", 500), strings.Repeat("some lines\n", 500) + "more\n"} {
		name := filepath.Join(dir, string(rune('a'+i)))
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			f.Fatal(err)
		}
		ids += string(git("", "hash-object", "-w", name))
	}
	f.Add(git(ids, "pack-objects", "--stdout", "-q"))
	f.Add(git(ids, "pack-objects", "--stdout", "-q", "--delta-base-offset"))
	f.Add([]byte("PACK"))
	f.Fuzz(func(t *testing.T, text []byte) {
		store := &bounded{Storage: memory.NewStorage(), max: bound}
		w, err := store.PackfileWriter()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(text); err != nil {
			return
		}
		if err := w.Close(); err != nil {
			return
		}
		total := int64(0)
		for _, o := range store.Objects {
			total += o.Size()
		}
		if total > bound {
			t.Errorf("%d bytes unpacked", total)
		}
	})
}
