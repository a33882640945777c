// Package scan_test runs the assay command on images, good and hostile, and
// compares what it finds with the grype command of the module's own version.
package scan_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/examples/quickstart/shop"
)

// shared is the folder of what the tests make once: the command, images, databases.
var shared string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if shared, err = os.MkdirTemp("", "assay-e2e-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(shared)
		return m.Run()
	}())
}

func executable(name string) string {
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	return name
}

var assayBinary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(shared, executable("assay"))
	if out, err := exec.Command("go", "build", "-o", path, "github.com/assay-dev/assay/cmd/assay").CombinedOutput(); err != nil {
		return "", fmt.Errorf("building assay: %w\n%s", err, out)
	}
	return path, nil
})

// grypeBinary is the grype command, built once per machine (the tests of
// scanner/match share it).
var grypeBinary = sync.OnceValues(func() (string, error) {
	version, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", "github.com/anchore/grype").Output()
	if err != nil {
		return "", fmt.Errorf("finding the version of grype: %w", err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(cache, "assay-test", executable("grype-"+strings.TrimSpace(string(version))))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	partial := fmt.Sprintf("%s.%d", path, os.Getpid())
	if out, err := exec.Command("go", "build", "-o", partial, "github.com/anchore/grype/cmd/grype").CombinedOutput(); err != nil {
		return "", fmt.Errorf("building grype: %w\n%s", err, out)
	}
	return path, os.Rename(partial, path)
})

// shopImage is an image of the quickstart, and its OCI archive.
type shopImage struct {
	image   v1.Image
	archive string
}

var shopImages = sync.OnceValues(func() (map[string]shopImage, error) {
	images := map[string]shopImage{}
	for _, i := range shop.Images() {
		img, err := i.Build(context.Background(), filepath.Join("..", "..", "examples", "quickstart", "image"))
		if err != nil {
			return nil, err
		}
		s := shopImage{img, filepath.Join(shared, i.File())}
		f, err := os.Create(s.archive)
		if err != nil {
			return nil, err
		}
		if err := errors.Join(shop.Write(f, img, i.Reference()), f.Close()); err != nil {
			return nil, err
		}
		images[i.Name] = s
	}
	return images, nil
})

func shopImageOf(t testing.TB, name string) shopImage {
	t.Helper()
	return must(shopImages())(t)[name]
}

// must is value, once err is nil.
func must[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// environment is that of the machine without what configures the commands, with
// folders of their own.
func environment(home, tmp string, more ...string) []string {
	var env []string
	for _, e := range os.Environ() {
		name, _, _ := strings.Cut(e, "=")
		switch prefix, _, _ := strings.Cut(name, "_"); prefix {
		case "ASSAY", "CC", "GRYPE", "SYFT", "DOCKER", "XDG", "CONTAINERD":
		default:
			env = append(env, e)
		}
	}
	return append(append(env, "HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_CACHE_HOME="+home, "DOCKER_CONFIG="+home,
		"TMPDIR="+tmp, "TMP="+tmp, "TEMP="+tmp), more...)
}

// database is one vulnerability database, installed for each command.
type database struct{ assay, grype string }

var installed = struct {
	sync.Mutex
	of map[string]database
}{of: map[string]database{}}

// install imports an archive with each command's own import.
func install(t testing.TB, archive string) database {
	t.Helper()
	installed.Lock()
	defer installed.Unlock()
	if db, ok := installed.of[archive]; ok {
		return db
	}
	dir, err := os.MkdirTemp(shared, "db-")
	if err != nil {
		t.Fatal(err)
	}
	db := database{filepath.Join(dir, "assay"), filepath.Join(dir, "grype")}
	for _, c := range []*exec.Cmd{
		exec.Command(must(assayBinary())(t), "db", "import", archive, "--dir", db.assay, "--max-age", "0"),
		exec.Command(must(grypeBinary())(t), "db", "import", archive),
	} {
		c.Env = environment(dir, dir, grypeSettings(db)...)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", c, err, out)
		}
	}
	installed.of[archive] = db
	return db
}

func grypeSettings(db database) []string {
	return []string{"GRYPE_DB_CACHE_DIR=" + db.grype, "GRYPE_DB_AUTO_UPDATE=false", "GRYPE_DB_VALIDATE_AGE=false", "GRYPE_CHECK_FOR_APP_UPDATE=false"}
}

var quickstartArchive = sync.OnceValues(func() (string, error) {
	bin, err := assayBinary()
	if err != nil {
		return "", err
	}
	path := filepath.Join(shared, "quickstart.tar.zst")
	out, err := exec.Command(bin, "db", "build", filepath.Join("..", "..", "examples", "quickstart", "advisories"), "-o", path, "--built", "2026-01-05T12:00:00Z").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building the database: %w\n%s", err, out)
	}
	return path, nil
})

func quickstart(t testing.TB) database {
	t.Helper()
	return install(t, must(quickstartArchive())(t))
}

// run is what one `assay scan … -o json` did.
type run struct {
	exit   int
	raw    []byte
	report api.ScanReport
	stderr string
	took   time.Duration
	disk   int64 // most bytes seen in TMPDIR
	rss    int64 // most memory, as the system counts it; 0 where it does not
}

// scan runs `assay scan -o json`. Whatever the scan gives, it must end within a
// minute with a document on standard output and nothing in TMPDIR.
func scan(t testing.TB, db database, args ...string) run {
	t.Helper()
	bin := must(assayBinary())(t)
	tmp := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, bin, append([]string{"scan", "--db", db.assay, "--max-db-age", "0", "-q", "-o", "json"}, args...)...)
	c.Dir = t.TempDir()
	c.Env = environment(c.Dir, tmp)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr

	var disk atomic.Int64
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			disk.Store(max(disk.Load(), bytesIn(tmp)))
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	begin := time.Now()
	err := c.Run()
	r := run{took: time.Since(begin), raw: stdout.Bytes(), stderr: stderr.String()}
	timeout := ctx.Err()
	cancel()
	<-watched
	r.disk = disk.Load()
	var exit *exec.ExitError
	switch {
	case timeout != nil:
		t.Fatalf("assay scan %q did not end within a minute", args)
	case errors.As(err, &exit):
		r.exit = exit.ExitCode()
	case err != nil:
		t.Fatal(err)
	}
	if usage := reflect.Indirect(reflect.ValueOf(c.ProcessState.SysUsage())); usage.Kind() == reflect.Struct {
		if f := usage.FieldByName("Maxrss"); f.IsValid() && f.CanInt() {
			r.rss = f.Int()
		}
	}
	if err := json.Unmarshal(r.raw, &r.report); err != nil {
		t.Fatalf("assay scan %q (exit status %d): standard output is no JSON: %v\n%s%s", args, r.exit, err, r.raw, r.stderr)
	}
	left, err := os.ReadDir(tmp)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		t.Errorf("assay scan %q left %s in TMPDIR", args, e.Name())
	}
	return r
}

func bytesIn(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // it went while we looked
		}
		if info, err := d.Info(); err == nil {
			n += info.Size()
		}
		return nil
	})
	return n
}

// only is the one image of a run.
func (r run) only(t testing.TB) api.Scan {
	t.Helper()
	if len(r.report.Images) != 1 {
		t.Fatalf("the document has %d images:\n%s", len(r.report.Images), r.raw)
	}
	return r.report.Images[0]
}

// sure says that the image was scanned and has at least min packages.
func sure(t testing.TB, s api.Scan, min int) {
	t.Helper()
	if s.Error != "" || s.Result == api.Unknown || s.Packages < min {
		t.Fatalf("%s: result %s, %d packages, error %q", s.Image, s.Result, s.Packages, s.Error)
	}
}

// refused says what is wrong with the entry of an image that cannot be scanned.
func refused(s api.Scan, want string) error {
	switch {
	case s.Result != api.Unknown || s.Error == "":
		return fmt.Errorf("%s: result %s, error %q; want Unknown and an error", s.Image, s.Result, s.Error)
	case len(s.Vulnerabilities) > 0 || s.MaxCVSS != nil:
		return fmt.Errorf("%s: %d vulnerabilities beside the error %q", s.Image, len(s.Vulnerabilities), s.Error)
	case !strings.Contains(s.Error, want):
		return fmt.Errorf("%s: error %q does not say %q", s.Image, s.Error, want)
	}
	return nil
}

// mustRefuse scans one input that cannot be scanned.
func mustRefuse(t testing.TB, db database, want string, args ...string) run {
	t.Helper()
	r := scan(t, db, args...)
	if r.exit != 3 {
		t.Errorf("assay scan %q: exit status %d, want 3", args, r.exit)
	}
	if err := refused(r.only(t), want); err != nil {
		t.Error(err)
	}
	return r
}

// essence is all of a scan but its moment, and but the name and the source that
// differ between two ways to one image.
func essence(t testing.TB, s api.Scan) string {
	t.Helper()
	s.Image, s.Source, s.ScannedAt = "", "", time.Time{}
	text, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var scannedAt = regexp.MustCompile(`"scanned_at": ?"[^"]*"`)

// TestRepeatable holds that a second run writes the same bytes.
func TestRepeatable(t *testing.T) {
	db := quickstart(t)
	args := []string{"oci-archive:" + shopImageOf(t, "frontend").archive, "oci-archive:" + shopImageOf(t, "backend").archive}
	var texts []string
	for range 2 {
		r := scan(t, db, args...)
		for _, s := range r.report.Images {
			sure(t, s, 10)
		}
		if n := len(scannedAt.FindAll(r.raw, -1)); n != len(args) {
			t.Fatalf("%d moments in a document of %d images", n, len(args))
		}
		texts = append(texts, scannedAt.ReplaceAllString(string(r.raw), `"scanned_at": ""`))
	}
	if texts[0] != texts[1] {
		t.Errorf("two runs differ:\n%s\n\n%s", texts[0], texts[1])
	}
}
