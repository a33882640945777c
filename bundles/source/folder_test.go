package source_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/assay-dev/assay/bundles/source"
	"github.com/assay-dev/assay/policies"
)

// patience bounds what a test waits for; nothing is asserted to be faster. It is
// below the resync of a minute, which would hide that a change was not seen.
const patience = 50 * time.Second

func policy(name string) string {
	return fmt.Sprintf(`apiVersion: containersecurity.tigera.io/v1beta1
kind: ContainerAdmissionPolicy
metadata: {name: %s}
spec: {rules: [{action: Reject}]}
`, name)
}

// run starts a source and gives its updates; the test ends it.
func run(t *testing.T, s source.Source) <-chan source.Update {
	t.Helper()
	updates := make(chan source.Update, 1000)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, func(u source.Update) { updates <- u }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return updates
}

// until waits for an update that is as wanted; what came before was a state in
// between, such as half of an editor's save.
func until(t *testing.T, updates <-chan source.Update, what string, ok func(source.Update) bool) source.Update {
	t.Helper()
	var seen []string
	for end := time.After(patience); ; {
		select {
		case u := <-updates:
			if (u.Set == nil) == (u.Err == nil) {
				t.Fatalf("an update has both or neither of policies and error: %+v", u)
			}
			if ok(u) {
				return u
			}
			seen = append(seen, fmt.Sprintf("%v %v", names(u), u.Err))
		case <-end:
			t.Fatalf("%s: not within %s; seen: %s", what, patience, strings.Join(seen, "\n"))
		}
	}
}

func names(u source.Update) string {
	var all []string
	if u.Set != nil {
		for _, p := range u.Set.Policies {
			all = append(all, p.Metadata.Name)
		}
	}
	return strings.Join(all, " ")
}

func holds(want string) func(source.Update) bool {
	return func(u source.Update) bool { return u.Err == nil && names(u) == want }
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func folder(path string) source.Folder {
	return source.Folder{Path: path, Log: slog.New(slog.DiscardHandler)}
}

func TestFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "policies")
	write(t, dir+"/one.yaml", policy("one"))
	updates := run(t, folder(dir))
	first := until(t, updates, "the first state", holds("one"))

	write(t, dir+"/two.yaml", policy("two"))
	until(t, updates, "a new file", holds("one two"))

	write(t, dir+"/deep/er/three.yaml", policy("three"))
	until(t, updates, "a file in new folders", holds("one three two"))
	write(t, dir+"/deep/er/three.yaml", policy("trois"))
	until(t, updates, "a change in a new folder", holds("one trois two"))
	must(t, os.RemoveAll(dir+"/deep"))
	until(t, updates, "a folder removed", holds("one two"))

	write(t, dir+"/two.yaml", strings.Replace(policy("two"), "Reject", "Regret", 1))
	bad := until(t, updates, "a fault", func(u source.Update) bool { return u.Err != nil })
	var diags policies.Diagnostics
	if !errors.As(bad.Err, &diags) || diags[0].File != "two.yaml" || diags[0].Line != 4 || bad.Revision == first.Revision {
		t.Errorf("got %+v", bad)
	}

	// Editors write beside the file and rename over it.
	write(t, dir+"/.two.yaml.swp", policy("uno"))
	must(t, os.Rename(dir+"/.two.yaml.swp", dir+"/one.yaml"))
	must(t, os.Rename(dir+"/two.yaml", dir+"/two.yaml~"))
	until(t, updates, "renames", holds("uno"))

	must(t, os.Remove(dir+"/one.yaml"))
	until(t, updates, "an empty folder", holds(""))
	write(t, dir+"/one.yaml", policy("one"))
	again := until(t, updates, "the file again", holds("one"))
	if again.Revision != first.Revision || !strings.HasPrefix(first.Revision, "sha256:") {
		t.Errorf("revision %s, then %s for the same files", first.Revision, again.Revision)
	}

	// The folder, and one above it, are removed and made again.
	for _, gone := range []string{dir, filepath.Dir(dir)} {
		must(t, os.RemoveAll(gone))
		until(t, updates, "no folder", func(u source.Update) bool { return errors.Is(u.Err, os.ErrNotExist) })
		write(t, dir+"/one.yaml", policy("new"))
		until(t, updates, "the folder again", holds("new"))
	}
	must(t, os.RemoveAll(dir))
	write(t, dir, "")
	until(t, updates, "a file in its place", func(u source.Update) bool {
		return u.Err != nil && strings.Contains(u.Err.Error(), "is no folder")
	})
}

// The kubelet writes a new folder and swaps the link ..data to it; the files
// themselves are links that stay.
func TestConfigMap(t *testing.T) {
	dir := t.TempDir()
	swap := func(version int, files map[string]string) {
		data := fmt.Sprintf("..2026_%d", version)
		must(t, os.Mkdir(filepath.Join(dir, data), 0o755))
		for name, text := range files {
			write(t, filepath.Join(dir, data, name), text)
		}
		must(t, os.Symlink(data, dir+"/..data_tmp"))
		must(t, os.Rename(dir+"/..data_tmp", dir+"/..data"))
		must(t, os.RemoveAll(filepath.Join(dir, fmt.Sprintf("..2026_%d", version-1))))
	}
	swap(0, map[string]string{"p.yaml": policy("v0")})
	must(t, os.Symlink("..data/p.yaml", dir+"/p.yaml"))
	updates := run(t, folder(dir))
	until(t, updates, "the first state", holds("v0"))
	for v := 1; v < 5; v++ {
		swap(v, map[string]string{"p.yaml": policy(fmt.Sprintf("v%d", v))})
		until(t, updates, "a swap", holds(fmt.Sprintf("v%d", v)))
	}
}

// git-sync and the like swap a link on the way to the folder, or the folder
// itself is a link.
func TestLinkedFolder(t *testing.T) {
	dir := t.TempDir()
	link := func(to, name string) {
		must(t, os.Symlink(to, dir+"/tmp"))
		must(t, os.Rename(dir+"/tmp", dir+"/"+name))
	}
	write(t, dir+"/v1/policies/p.yaml", policy("one"))
	write(t, dir+"/v2/policies/p.yaml", policy("two"))
	link("v1", "current")
	within := run(t, folder(dir+"/current/policies"))
	until(t, within, "the first state", holds("one"))
	link("v2", "current")
	until(t, within, "a swap above", holds("two"))

	link("v1/policies", "direct")
	itself := run(t, folder(dir+"/direct"))
	until(t, itself, "the first state", holds("one"))
	link("v2/policies", "direct")
	until(t, itself, "a swap", holds("two"))
	write(t, dir+"/v2/policies/deep/q.yaml", policy("q"))
	until(t, itself, "a change behind the link", holds("q two"))
	write(t, dir+"/v2/policies/deep/q.yaml", policy("r"))
	until(t, itself, "a change further behind the link", holds("r two"))
}

// A pipe does not block the source.
func TestPipe(t *testing.T) {
	dir := t.TempDir()
	must(t, syscall.Mkfifo(dir+"/p.yaml", 0o644))
	updates := run(t, folder(dir))
	until(t, updates, "the fault", func(u source.Update) bool {
		return u.Err != nil && strings.Contains(u.Err.Error(), "p.yaml: is no regular file")
	})
}

// A file that is watched alone: atomic saves, and a ConfigMap's file.
func TestWatchFiles(t *testing.T) {
	dir := t.TempDir()
	name := dir + "/scans.json"
	ctx, cancel := context.WithCancel(t.Context())
	calls := make(chan string, 1000)
	done := make(chan error, 1)
	go func() {
		done <- source.Watch(ctx, slog.New(slog.DiscardHandler), []string{name, dir + "/none"}, func() {
			text, _ := os.ReadFile(name)
			calls <- string(text)
		})
	}()
	wait := func(want string) {
		t.Helper()
		for end := time.After(patience); ; {
			select {
			case got := <-calls:
				if got == want {
					return
				}
			case <-end:
				t.Fatalf("%q was not seen", want)
			}
		}
	}
	wait("")
	write(t, name, "1")
	wait("1")
	write(t, dir+"/tmp", "2")
	must(t, os.Rename(dir+"/tmp", name))
	wait("2")
	write(t, dir+"/..a/scans.json", "3")
	must(t, os.Symlink("..a", dir+"/..data"))
	must(t, os.Remove(name))
	must(t, os.Symlink("..data/scans.json", name))
	wait("3")
	write(t, dir+"/..b/scans.json", "4")
	must(t, os.Symlink("..b", dir+"/..tmp"))
	must(t, os.Rename(dir+"/..tmp", dir+"/..data"))
	wait("4")
	cancel()
	must(t, <-done)
}
