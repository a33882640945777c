package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	registryname "github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/rogpeppe/go-internal/testscript"
)

// The scripts in testdata/script run the real main, as users do, and document it.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"assay": func() {
			os.Exit(run(context.Background(), os.Args[1:], streams{in: os.Stdin, out: os.Stdout, err: os.Stderr}))
		},
	})
}

const registryUser, registryPassword = "example+robot", "pw"

// startRegistry serves a registry with a few images, and gives its host.
func startRegistry(t *testing.T) string {
	t.Helper()
	inner, closed := registry.New(registry.Logger(log.New(io.Discard, "", 0))), atomic.Bool{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if strings.HasPrefix(r.URL.Path, "/v2/secret/") && closed.Load() && (user != registryUser || password != registryPassword) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	host := strings.TrimPrefix(s.URL, "http://")
	push := func(name string, image v1.Image) {
		t.Helper()
		ref, err := registryname.ParseReference(host + "/" + name)
		if err == nil {
			err = remote.Write(ref, image)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	web := npmImage(t, "lodash", "4.17.11")
	push("shop/web:1.4", web)
	push("shop/web:latest", web)
	push("shop/web:sha256-"+strings.Repeat("a", 64)+".sig", empty.Image)
	push("shop/api:1.0", npmImage(t, "lodash", "4.17.21"))
	push("secret/app:1", npmImage(t, "own", "1.0.0"))
	closed.Store(true)
	return host
}

// npmImage is an image with one package.
func npmImage(t *testing.T, name, version string) v1.Image {
	t.Helper()
	var text bytes.Buffer
	w := tar.NewWriter(&text)
	content := fmt.Sprintf(`{"name": %q, "version": %q}`, name, version)
	err := w.WriteHeader(&tar.Header{Name: "app/node_modules/" + name + "/package.json", Mode: 0o644, Size: int64(len(content))})
	if err == nil {
		_, err = io.WriteString(w, content)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err == nil {
		config = config.DeepCopy()
		config.OS, config.Architecture = "linux", "amd64"
		image, err = mutate.ConfigFile(image, config)
	}
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// mirror publishes what a script puts in its folder mirror, db.tar.zst and the time
// in built, as Grype's databases are; it gives the URL of the folder above the listing.
func mirror(e *testscript.Env) string {
	dir := filepath.Join(e.WorkDir, "mirror")
	mux := http.NewServeMux()
	mux.HandleFunc("/v6/latest.json", func(w http.ResponseWriter, _ *http.Request) {
		built, err := os.ReadFile(filepath.Join(dir, "built"))
		archive, err2 := os.ReadFile(filepath.Join(dir, "db.tar.zst"))
		if err := errors.Join(err, err2); err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		fmt.Fprintf(w, `{"status":"active","schemaVersion":"v6.1.10","built":%q,"path":"db.tar.zst","checksum":"sha256:%x"}`,
			strings.TrimSpace(string(built)), sha256.Sum256(archive))
	})
	mux.Handle("/v6/", http.StripPrefix("/v6/", http.FileServer(http.Dir(dir))))
	s := httptest.NewServer(mux)
	e.Defer(s.Close)
	return s.URL
}

func TestScripts(t *testing.T) {
	examples, err := filepath.Abs("../../examples")
	if err != nil {
		t.Fatal(err)
	}
	host := startRegistry(t)
	testscript.Run(t, testscript.Params{
		Setup: func(e *testscript.Env) error {
			e.Setenv("EXAMPLES", examples)
			e.Setenv("HOST", host)
			e.Setenv("MIRROR", mirror(e))
			// The user of the registry's one repository that asks for credentials.
			config := fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, host, base64.StdEncoding.EncodeToString([]byte(registryUser+":"+registryPassword)))
			return errors.Join(os.Mkdir(filepath.Join(e.WorkDir, "docker"), 0o755), os.WriteFile(filepath.Join(e.WorkDir, "docker", "config.json"), []byte(config), 0o600))
		},
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "server": server},
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
	})
}

// exits is a command of the scripts, "exits 3 assay scan …": exec that holds a program
// to its exit status.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS PROGRAM [ARGUMENT...]")
	}
	status := "0"
	var ended *exec.ExitError
	switch err := ts.Exec(args[1], args[2:]...); {
	case errors.As(err, &ended):
		status = strconv.Itoa(ended.ExitCode())
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if status != args[0] {
		ts.Fatalf("exit status %s, not %s", status, args[0])
	}
}

// server is a command of the scripts that runs `assay serve` until the script ends, with
// the data in a folder and the vulnerability database in another. It sets SERVER to its
// URL, and TOKEN to the first token.
func server(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: server DATA DB")
	}
	data := ts.MkAbs(args[0])
	base, stop, err := startServer("serve", "-o", "json", "--listen", "127.0.0.1:0", "--data", data, "--db", ts.MkAbs(args[1]), "--db-max-age", "0")
	if err != nil {
		ts.Fatalf("%v", err)
	}
	ts.Defer(func() {
		if err := stop(); err != nil {
			ts.Logf("%v", err)
		}
	})
	token, err := os.ReadFile(filepath.Join(data, "admin.token"))
	if err != nil {
		ts.Fatalf("%v", err)
	}
	ts.Setenv("SERVER", base)
	ts.Setenv("TOKEN", strings.TrimSpace(string(token)))
}
