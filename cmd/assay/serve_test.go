package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var serverBlock = regexp.MustCompile("(?s)<!-- test: server -->\n```console\n(.*?)```")

var servingAt = regexp.MustCompile(`"msg":"serving","address":"([^"]+)"`)

// startServer runs `assay serve` and waits until it is ready. stop ends it, and gives an
// error with its log where its exit status is not 0.
func startServer(args ...string) (base string, stop func() error, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	var log logged
	done := make(chan int, 1)
	go func() { done <- run(ctx, args, streams{in: strings.NewReader(""), out: &log, err: &log}) }()
	stop = func() error {
		cancel()
		if code := <-done; code != exitOK {
			return fmt.Errorf("exit status %d:\n%s", code, log.String())
		}
		return nil
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if m := servingAt.FindStringSubmatch(log.String()); m != nil {
			base = "http://" + m[1]
			if r, err := http.Get(base + "/readyz"); err == nil {
				r.Body.Close()
				if r.StatusCode == http.StatusOK {
					return base, stop, nil
				}
			}
		}
	}
	return "", nil, errors.Join(fmt.Errorf("it does not serve:\n%s", log.String()), stop())
}

// The lines of the README work, one after the other.
func TestReadmeServer(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := serverBlock.FindSubmatch(readme)
	if block == nil {
		t.Fatal("the README has no lines of the server")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Chdir(dir)
	// What `make demo` leaves is made here, too.
	for _, name := range []string{"examples/server", "examples/quickstart"} {
		if err := os.MkdirAll(name, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(name, os.DirFS(filepath.Join(root, name))); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll("examples/quickstart/build"); err != nil {
		t.Fatal(err)
	}
	command := func(want int, args ...string) {
		t.Helper()
		var out bytes.Buffer
		if code := run(t.Context(), args, streams{in: strings.NewReader(""), out: &out, err: &out}); code != want {
			t.Fatalf("assay %s: exit status %d\n%s", strings.Join(args, " "), code, out.String())
		}
	}
	images := exec.Command("go", "run", "./examples/quickstart/mkimage", "-o", filepath.Join(dir, "examples/quickstart/build"))
	images.Dir = root
	if out, err := images.CombinedOutput(); err != nil {
		t.Fatalf("making the images: %v\n%s", err, out)
	}
	command(exitOK, "db", "build", "examples/quickstart/advisories", "-o", "examples/quickstart/build/db")
	command(exitNo, "scan", "oci-archive:examples/quickstart/build/frontend.oci.tar", "--db", "examples/quickstart/build/db", "-q", "-o", "json=examples/quickstart/build/scans.json")

	var script strings.Builder
	script.WriteString("set -e\n")
	var serve []string
	for line := range strings.Lines(string(block[1])) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "$ ")
		if args, ok := strings.CutPrefix(line, "assay serve "); ok {
			serve = append([]string{"serve", "-o", "json", "--listen", "127.0.0.1:0"}, strings.Fields(strings.TrimSuffix(args, "&"))...)
			continue
		}
		script.WriteString(line + "\n")
	}
	base, stop, err := startServer(serve...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	out, err := exec.Command("sh", "-c", strings.ReplaceAll(script.String(), "http://localhost:8380", base)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, script.String(), out)
	}
	for _, want := range []string{`"result":"Fail"`, `"new":true`, `"justification":"curl is not used"`, `"exceptions":12`, `"warn":6.5`, `"allowed":`, `"role":"scanner"`, `"token":"assay_`} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the lines print no %s:\n%s", want, out)
		}
	}
	if info, err := os.Stat("policies.tar.gz"); err != nil || info.Size() < 1000 {
		t.Errorf("the bundle: %v %v", info, err)
	}
	token, err := os.ReadFile("assay-data/admin.token")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("CC_API_URL", base)
	t.Setenv("CC_TOKEN", strings.TrimSpace(string(token)))
	var said bytes.Buffer
	if code := run(t.Context(), []string{"scan", "oci-archive:examples/quickstart/build/backend.oci.tar", "--db", "examples/quickstart/build/db", "-o", "json=backend.json"},
		streams{in: strings.NewReader(""), out: &said, err: &said}); code != exitNo || !strings.Contains(said.String(), "backend:2.0.0: the server says Fail") {
		t.Errorf("the upload: exit status %d: %s", code, said.String())
	}
	t.Setenv("CC_TOKEN", "wrong")
	command(exitUsage, "scan", "oci-archive:examples/quickstart/build/backend.oci.tar", "--db", "examples/quickstart/build/db", "-q", "-o", "json=backend.json")
	command(exitOK, "backup", "--data", "assay-data", "copy.db")
	command(exitUsage, "backup", "--data", "assay-data", "copy.db")
}
