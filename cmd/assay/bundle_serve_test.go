package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-dev/assay/bundles"
)

// logged is written by a command that runs on.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *logged) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *logged) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

var address = regexp.MustCompile(`"msg":"serving bundles","address":"([^"]+)"`)

// serveBundles runs `assay bundle serve` on a free port, until the test ends.
func serveBundles(t *testing.T, args ...string) (url string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var log logged
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, append([]string{"bundle", "serve", "--listen", "127.0.0.1:0", "-o", "json"}, args...),
			streams{in: strings.NewReader(""), out: &log, err: &log})
	}()
	t.Cleanup(func() {
		cancel()
		if code := <-done; code != exitOK || t.Failed() {
			t.Errorf("exit status %d:\n%s", code, log.String())
		}
	})
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if m := address.FindStringSubmatch(log.String()); m != nil {
			return "http://" + m[1]
		}
	}
	t.Fatalf("it does not serve:\n%s", log.String())
	return ""
}

// get repeats a request until the answer is as wanted.
func get(t *testing.T, url, token string, ok func(status int, body []byte) bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if ok(resp.StatusCode, body) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: last status %d", url, resp.StatusCode)
		}
	}
}

// The documentation's commands sign bundles, and what is served of the same files
// and key are the parts.
func TestBundleServe(t *testing.T) {
	commands := documentedCommands(t, "../../docs/bundles.md")
	t.Chdir(t.TempDir())
	for name, text := range map[string]string{
		"policies/p.yaml": "apiVersion: containersecurity.tigera.io/v1beta1\nkind: ContainerAdmissionPolicy\nmetadata: {name: x}\nspec: {rules: [{action: Reject}]}\n",
		"scans.json":      `{"schema": "assay.dev/scan/v1", "images": []}`,
		"exceptions.csv":  "CVE,Registry,Repository,Tags,Justification,Scope\n",
		"token":           "secret\n",
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var serveArgs []string
	for _, args := range commands {
		if args[1] == "serve" {
			serveArgs = args[2:]
			continue
		}
		args = expanded(t, args)
		var out bytes.Buffer
		if code := run(t.Context(), args, streams{in: strings.NewReader(""), out: &out, err: &out}); code != exitOK {
			t.Fatalf("assay %v: exit status %d\n%s", args, code, out.String())
		}
	}
	if serveArgs == nil {
		t.Fatal("no assay bundle serve in the documentation")
	}
	signed, err := os.ReadFile("bundle.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	url := serveBundles(t, append(serveArgs, "--bundle", "copy=bundle.tar.gz")...)
	get(t, url+"/bundles/policies", "", func(status int, _ []byte) bool { return status == 401 })
	get(t, url+"/bundles/copy.tar.gz", "secret", func(status int, body []byte) bool { return status == 200 && bytes.Equal(body, signed) })
	parts := map[string][]byte{}
	for _, name := range bundles.Parts() {
		if parts[name], err = os.ReadFile("parts/" + name + ".tar.gz"); err != nil {
			t.Fatal(err)
		}
		get(t, url+"/bundles/"+name, "secret", func(status int, body []byte) bool { return status == 200 && bytes.Equal(body, parts[name]) })
	}

	public, err := os.ReadFile("assay.pub")
	if err != nil {
		t.Fatal(err)
	}
	key, err := bundles.ParseVerificationKey(public)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("exceptions.csv", []byte("CVE,Registry,Repository,Tags,Justification,Scope\nCVE-2026-1,registry.example.com,web,,not reached,repo\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	get(t, url+"/bundles/exceptions", "secret", func(status int, body []byte) bool {
		if status != 200 || bytes.Equal(body, parts["exceptions"]) {
			return false
		}
		if _, err := bundles.Verify(body, time.Now(), key); err != nil {
			t.Fatal(err)
		}
		return true
	})
}

// Policies come from a repository, too.
func TestBundleServeGit(t *testing.T) {
	dir := t.TempDir()
	commit := func(name string) {
		t.Helper()
		text := "apiVersion: containersecurity.tigera.io/v1beta1\nkind: ContainerAdmissionPolicy\nmetadata: {name: " + name + "}\nspec: {rules: [{action: Reject}]}\n"
		if err := errors.Join(os.MkdirAll(dir+"/p", 0o755), os.WriteFile(dir+"/p/p.yaml", []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"init", "-q"}, {"add", "-A"}, {"-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-q", "--allow-empty", "-m", "x"}} {
			if out, err := exec.Command("git", append([]string{"-C", dir}, args...)...).CombinedOutput(); err != nil {
				t.Fatalf("git %v: %v\n%s", args, err, out)
			}
		}
	}
	commit("first")
	url := serveBundles(t, "--git", "file://"+dir, "--git-folder", "p", "--git-every", "20ms")
	for _, name := range []string{"first", "second"} {
		commit(name)
		get(t, url+"/bundles/policies", "", func(status int, body []byte) bool {
			if status != 200 {
				return false
			}
			b, err := bundles.Read(bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range b.Modules {
				if strings.Contains(m.Path, "generated") && strings.Contains(string(m.Raw), `"`+name+`"`) {
					return true
				}
			}
			return false
		})
	}
}

// expanded are arguments with the files that patterns name, as a shell has them.
func expanded(t *testing.T, args []string) []string {
	t.Helper()
	var all []string
	for _, arg := range args {
		if strings.Contains(arg, "*") {
			names, err := filepath.Glob(arg)
			if err != nil || len(names) == 0 {
				t.Fatalf("%s names no files (%v)", arg, err)
			}
			all = append(all, names...)
			continue
		}
		all = append(all, arg)
	}
	return all
}

// documentedCommands are the assay command lines of a page, in order.
func documentedCommands(t *testing.T, page string) [][]string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var all [][]string
	for _, m := range regexp.MustCompile(`(?m)^\$ assay (.*?)(?:\s{2,}#.*)?$`).FindAllStringSubmatch(string(text), -1) {
		all = append(all, strings.Fields(m[1]))
	}
	return all
}
