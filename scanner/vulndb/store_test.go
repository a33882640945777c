package vulndb

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

func builtAt() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

const advisories = "testdata/advisories.json"

func testStore(t testing.TB, change ...func(*Config)) *Store {
	t.Helper()
	c := Config{Dir: filepath.Join(t.TempDir(), "db"), Now: func() time.Time { return builtAt().Add(time.Hour) }}
	for _, f := range change {
		f(&c)
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func testArchive(t testing.TB, built time.Time) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "db.tar.zst")
	if _, err := Build(t.Context(), []string{advisories}, out, built); err != nil {
		t.Fatal(err)
	}
	return out
}

func write(t testing.TB, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "archive")
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func unzstd(t testing.TB, packed []byte) []byte {
	t.Helper()
	z, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	content, err := z.DecodeAll(packed, nil)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func gzipped(t testing.TB, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func tarOf(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		content := bytes.Repeat([]byte("x"), int(h.Size))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestImportFormats(t *testing.T) {
	packed := read(t, testArchive(t, builtAt()))
	plain := unzstd(t, packed)
	var x bytes.Buffer
	w, err := xz.NewWriter(&x)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"zst": packed, "gz": gzipped(t, plain), "xz": x.Bytes(), "tar": plain} {
		t.Run(name, func(t *testing.T) {
			s := testStore(t)
			st, err := s.Import(t.Context(), write(t, content))
			if err != nil {
				t.Fatal(err)
			}
			if !st.Built.Equal(builtAt()) || st.Age != time.Hour || st.Schema != "v6.1.10" || !strings.HasPrefix(st.Checksum, "xxh64:") || st.Err != nil {
				t.Errorf("status: %+v", st)
			}
			db, err := s.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !db.Info.Built.Equal(builtAt()) || db.Info.Checksum != st.Checksum {
				t.Errorf("info: %+v", db.Info)
			}
			if err := errors.Join(db.Close(), db.Close()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestImportRefuses(t *testing.T) {
	packed := read(t, testArchive(t, builtAt()))
	plain := unzstd(t, packed)
	flip := func(b []byte, at int) []byte {
		c := bytes.Clone(b)
		c[at] ^= 0x40
		return c
	}
	dbFile := func(size int64) tar.Header {
		return tar.Header{Name: v6.VulnerabilityDBFileName, Typeflag: tar.TypeReg, Size: size, Mode: 0o644}
	}
	var many []tar.Header
	for i := range maxEntries + 1 {
		many = append(many, tar.Header{Name: fmt.Sprint(i), Typeflag: tar.TypeReg})
	}
	for name, c := range map[string]struct {
		content []byte
		want    error
		text    string
	}{
		"empty":            {nil, ErrCorrupt, "no .tar.zst"},
		"garbage":          {[]byte("certainly no archive"), ErrCorrupt, "no .tar.zst"},
		"truncated":        {packed[:len(packed)/2], ErrCorrupt, ""},
		"last byte gone":   {packed[:len(packed)-1], ErrCorrupt, ""},
		"flipped":          {flip(packed, len(packed)/2), ErrCorrupt, ""},
		"flipped inside":   {gzipped(t, flip(plain, 100_000)), ErrCorrupt, "checksum"},
		"truncated tar":    {gzipped(t, plain[:len(plain)/3]), ErrCorrupt, ""},
		"no database":      {tarOf(t, tar.Header{Name: "readme", Typeflag: tar.TypeReg, Size: 3}), ErrCorrupt, "holds no"},
		"no SQLite":        {tarOf(t, dbFile(100)), ErrCorrupt, "no SQLite"},
		"twice":            {tarOf(t, dbFile(1), dbFile(1)), ErrCorrupt, "twice"},
		"slip":             {tarOf(t, tar.Header{Name: "../vulnerability.db", Typeflag: tar.TypeReg, Size: 3}), ErrCorrupt, "leads out"},
		"absolute":         {tarOf(t, tar.Header{Name: "/tmp/vulnerability.db", Typeflag: tar.TypeReg, Size: 3}), ErrCorrupt, "leads out"},
		"symlink":          {tarOf(t, tar.Header{Name: v6.VulnerabilityDBFileName, Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}), ErrCorrupt, "no file"},
		"bomb":             {gzipped(t, tarOf(t, dbFile(8<<20))), ErrTooLarge, ""},
		"too many entries": {tarOf(t, many...), ErrTooLarge, "entries"},
	} {
		t.Run(name, func(t *testing.T) {
			s := testStore(t, func(c *Config) { c.MaxBytes = 4 << 20 })
			before, err := s.Import(t.Context(), testArchive(t, builtAt()))
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Import(t.Context(), write(t, c.content))
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("error: %v", err)
			}
			after, err := s.Status(t.Context())
			if err != nil || *after != *before {
				t.Errorf("the database before does not serve any more: %+v, %v", after, err)
			}
			left, _ := filepath.Glob(filepath.Join(s.cfg.Dir, workPrefix+"*"))
			if len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
	if _, err := testStore(t).Import(t.Context(), "/nowhere/db.tar.zst"); err == nil || !strings.Contains(err.Error(), "there is no") {
		t.Errorf("absent: %v", err)
	}
}

func TestOtherSchema(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	if _, err := Build(t.Context(), []string{advisories}, dir, builtAt()); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, v6.VulnerabilityDBFileName)
	gdb, err := v6.NewLowLevelDB(file, false, true, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := gdb.Exec("UPDATE db_metadata SET model = 7").Error; err != nil {
		t.Fatal(err)
	}
	sqlDB, err := gdb.DB()
	if err != nil {
		t.Fatal(err)
	}
	if err := sqlDB.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, v6.ImportMetadataFileName)); err != nil {
		t.Fatal(err)
	}
	if _, err := testStore(t).OpenPath(t.Context(), file); !errors.Is(err, ErrSchema) {
		t.Errorf("file: %v", err)
	}
	out := filepath.Join(t.TempDir(), "packed")
	if err := os.WriteFile(filepath.Join(dir, v6.ImportMetadataFileName), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := pack(t.Context(), dir, out, builtAt()); err != nil {
		t.Fatal(err)
	}
	if _, err := testStore(t).Import(t.Context(), out); !errors.Is(err, ErrCorrupt) {
		t.Errorf("an archive with an empty checksum: %v", err)
	}
}

func TestMissingExpiredCorrupt(t *testing.T) {
	s := testStore(t)
	_, err := s.Open(t.Context())
	if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "assay db update") || !strings.Contains(err.Error(), "assay db build") {
		t.Errorf("missing: %v", err)
	}
	if _, err := s.Status(t.Context()); !errors.Is(err, ErrMissing) {
		t.Errorf("missing: %v", err)
	}
	st, err := s.Import(t.Context(), testArchive(t, builtAt()))
	if err != nil {
		t.Fatal(err)
	}
	at := func(age, maxAge time.Duration) *Store {
		return testStore(t, func(c *Config) {
			c.Dir, c.MaxAge, c.Now = s.cfg.Dir, maxAge, func() time.Time { return builtAt().Add(age) }
		})
	}
	_, err = at(121*time.Hour, 0).Open(t.Context())
	var expired *ExpiredError
	if !errors.Is(err, ErrExpired) || !errors.As(err, &expired) || expired.Age != 121*time.Hour || !strings.Contains(err.Error(), "121h ago, and may be 120h old") {
		t.Errorf("expired: %v", err)
	}
	if st, err := at(121*time.Hour, 0).Status(t.Context()); err != nil || !errors.Is(st.Err, ErrExpired) {
		t.Errorf("status of an expired database: %+v, %v", st, err)
	}
	for _, fine := range []*Store{at(119*time.Hour, 0), at(1e5*time.Hour, -1)} {
		db, err := fine.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
	content := read(t, st.Path)
	flipped := bytes.Clone(content)
	flipped[len(flipped)/2] ^= 1
	for name, damaged := range map[string][]byte{
		"flipped": flipped, "truncated": content[:len(content)/2], "garbage": []byte("garbage"), "empty": {}, "header only": content[:100],
	} {
		if err := os.WriteFile(st.Path, damaged, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Open(t.Context()); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
		// Without a checksum the content itself is read through.
		bare := filepath.Join(t.TempDir(), "bare.db")
		if err := os.WriteFile(bare, damaged, 0o644); err != nil {
			t.Fatal(err)
		}
		if db, err := s.OpenPath(t.Context(), bare); name != "flipped" && !errors.Is(err, ErrCorrupt) {
			t.Errorf("bare %s: %v", name, err)
		} else if err == nil {
			_ = db.Close()
		}
	}
}

func TestOpenPath(t *testing.T) {
	archive := testArchive(t, builtAt())
	dir := filepath.Join(t.TempDir(), "6")
	if _, err := Build(t.Context(), []string{advisories}, dir, builtAt()); err != nil {
		t.Fatal(err)
	}
	s := testStore(t)
	if _, err := s.Import(t.Context(), archive); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, v6.VulnerabilityDBFileName)
	other := filepath.Join(t.TempDir(), "other.db")
	if err := os.WriteFile(other, read(t, file), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{archive, dir, filepath.Dir(dir), file, other, s.cfg.Dir} {
		db, err := testStore(t).OpenPath(t.Context(), path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(db.Path); (err == nil) != (path != archive && path != other) {
			t.Errorf("%s: after closing: %v", path, err)
		}
	}
	for _, path := range []string{t.TempDir(), "/nowhere"} {
		if _, err := s.OpenPath(t.Context(), path); !errors.Is(err, ErrMissing) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestGenerations(t *testing.T) {
	s := testStore(t)
	first, err := s.Import(t.Context(), testArchive(t, builtAt()))
	if err != nil {
		t.Fatal(err)
	}
	db, err := s.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s.cfg.Now = func() time.Time { return builtAt().Add(2 * time.Hour) }
	second, err := s.Import(t.Context(), testArchive(t, builtAt().Add(time.Minute)))
	if err != nil {
		t.Fatal(err)
	}
	if first.Path == second.Path || !exists(first.Path) || !exists(second.Path) {
		t.Errorf("generations: %s and %s", first.Path, second.Path)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Import(ctx, testArchive(t, builtAt())); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	// The bound is kept by removing the oldest that nobody is about to open.
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Dir(first.Path), old, old); err != nil {
		t.Fatal(err)
	}
	s.cfg.Keep = 2
	s.cfg.Now = func() time.Time { return builtAt().Add(3 * time.Hour) }
	if _, err := s.Import(t.Context(), testArchive(t, builtAt().Add(2*time.Minute))); err != nil {
		t.Fatal(err)
	}
	if exists(first.Path) || !exists(second.Path) {
		t.Error("the generation before the last should be gone, the last one stay")
	}
}

// published serves a listing and an archive, as Grype's distribution does.
func published(t *testing.T, archive []byte, built time.Time, change func(string) string) string {
	t.Helper()
	mux := http.NewServeMux()
	listing := fmt.Sprintf(`{"status":"active","schemaVersion":"v6.1.10","built":%q,"path":"db.tar.zst","checksum":"sha256:%x"}`,
		built.Format(time.RFC3339), sha256.Sum256(archive))
	if change != nil {
		listing = change(listing)
	}
	mux.HandleFunc("/databases/v6/latest.json", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, listing) })
	mux.HandleFunc("/databases/v6/db.tar.zst", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(archive) })
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv.URL + "/databases"
}

func TestUpdate(t *testing.T) {
	archive := read(t, testArchive(t, builtAt()))
	url := published(t, archive, builtAt(), nil)
	for _, u := range []string{url, url + "/", url + "/v6/latest.json"} {
		s := testStore(t, func(c *Config) { c.LatestURL = u })
		res, err := s.Update(t.Context())
		if err != nil || !res.Updated || !res.Status.Built.Equal(builtAt()) {
			t.Fatalf("%s: %+v, %v", u, res, err)
		}
		if res, err = s.Update(t.Context()); err != nil || res.Updated || res.Status == nil {
			t.Errorf("again: %+v, %v", res, err)
		}
		// A damaged database is replaced by the same one.
		if err := os.WriteFile(res.Status.Path, []byte("garbage"), 0o644); err != nil {
			t.Fatal(err)
		}
		if res, err = s.Update(t.Context()); err != nil || !res.Updated {
			t.Errorf("repair: %+v, %v", res, err)
		}
	}
	replace := func(old, new string) func(string) string {
		return func(s string) string { return strings.ReplaceAll(s, old, new) }
	}
	spoil := func(s string) string {
		at := strings.Index(s, "sha256:") + len("sha256:")
		return s[:at] + strings.Repeat("0", 64) + s[at+64:]
	}
	for name, c := range map[string]struct {
		url  string
		want error
		text string
	}{
		"wrong checksum": {published(t, archive, builtAt(), spoil), ErrCorrupt, "checksum"},
		"no checksum":    {published(t, archive, builtAt(), replace("sha256:", "")), nil, "no sha256"},
		"wrong time":     {published(t, archive, builtAt().Add(time.Hour), nil), ErrCorrupt, "the listing says"},
		"other schema":   {published(t, archive, builtAt(), replace("v6.1.10", "v7.0.0")), ErrSchema, ""},
		"garbage":        {published(t, archive, builtAt(), func(string) string { return "garbage" }), nil, "parse"},
		"empty listing":  {published(t, archive, builtAt(), func(string) string { return "{}" }), nil, "names no database"},
		"no such path":   {published(t, archive, builtAt(), replace("db.tar.zst", "none.tar.zst")), nil, "404"},
		"nowhere":        {published(t, archive, builtAt(), nil) + "/none", nil, "404"},
	} {
		t.Run(name, func(t *testing.T) {
			s := testStore(t, func(cfg *Config) { cfg.LatestURL = c.url })
			_, err := s.Update(t.Context())
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("error: %v", err)
			}
			if _, err := s.Status(t.Context()); !errors.Is(err, ErrMissing) {
				t.Errorf("a refused update left a database: %v", err)
			}
		})
	}
	s := testStore(t, func(c *Config) {
		c.LatestURL = published(t, archive, builtAt(), replace("active", "deprecated"))
	})
	if res, err := s.Update(t.Context()); err != nil || res.Warning == "" {
		t.Errorf("deprecated: %+v, %v", res, err)
	}
}
