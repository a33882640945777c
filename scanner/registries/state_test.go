package registries

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/assay-dev/assay/api"
)

const example = "registry.example.com"

func digest(n int) string { return fmt.Sprintf("sha256:%064x", n) }

func openState(t *testing.T, path string) *State {
	t.Helper()
	s, err := OpenState(path, example)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// filled makes a state of some images and names.
func filled(t *testing.T, path string) {
	t.Helper()
	s := openState(t, path)
	for n := range 5 {
		scan := &api.Scan{Digest: digest(n), Packages: n, Vulnerabilities: []api.Vulnerability{{ID: fmt.Sprint("CVE-", n)}}}
		if err := s.putScan(digest(n), scan, Made{By: "1", Database: "d"}); err != nil {
			t.Fatal(err)
		}
		if err := s.putNames([]string{fmt.Sprintf("%s/a:%d", example, n), fmt.Sprintf("%s/b:%d", example, n)}, []string{digest(n), digest(n)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.putIndex(api.Index{Digest: digest(100), Platforms: map[string]string{"linux/amd64": digest(1)}}, digest(1), "1"); err != nil {
		t.Fatal(err)
	}
	if err := s.putNames([]string{example + "/multi:1"}, []string{digest(100)}); err != nil {
		t.Fatal(err)
	}
	if err := s.putScan(digest(200), nil, Made{By: "1"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "state")
	filled(t, path)
	s := openState(t, path)
	if _, err := OpenState(path, example); !errors.Is(err, ErrState) || !strings.Contains(err.Error(), "another scan of this registry runs") {
		t.Errorf("%v", err)
	}
	if scan, err := s.Scan(example + "/b:3"); err != nil || scan.Image != example+"/b:3" || scan.Packages != 3 || scan.Vulnerabilities[0].ID != "CVE-3" || scan.Index != nil {
		t.Errorf("%v %+v", err, scan)
	}
	// What one caller does to a scan, another does not see.
	scan, _ := s.Scan(example + "/b:3")
	scan.Vulnerabilities[0].ID = "changed"
	if again, err := s.Scan(example + "/a:3"); err != nil || again.Vulnerabilities[0].ID != "CVE-3" {
		t.Errorf("%v %+v", err, again)
	}
	if scan, err := s.Scan(example + "/multi:1"); err != nil || scan.Digest != digest(1) || scan.Index.Digest != digest(100) {
		t.Errorf("%v %+v", err, scan)
	}
	if _, err := s.Scan(example + "/nosuch:1"); !errors.Is(err, ErrState) {
		t.Errorf("%v", err)
	}
	for _, c := range []struct {
		image          string
		now            Made
		known, nothing bool
	}{
		{digest(1), Made{By: "1", Database: "d"}, true, false},
		{digest(1), Made{By: "2", Database: "d"}, false, false},
		{digest(1), Made{By: "1", Database: "e"}, false, false},
		{digest(1), Made{By: "1", Database: "d", Server: "https://assay"}, false, false},
		{digest(200), Made{By: "1", Database: "e", Server: "https://assay"}, true, true},
		{digest(200), Made{By: "2"}, false, true},
		{digest(9), Made{By: "1", Database: "d"}, false, false},
	} {
		if known, nothing := s.known(c.image, c.now); known != c.known || nothing != c.nothing {
			t.Errorf("%s %+v: %v %v", c.image, c.now, known, nothing)
		}
	}
	// Names that were not met are forgotten, where they would have been.
	for n := range 5 {
		s.leads(fmt.Sprintf("%s/a:%d", example, n))
	}
	if err := s.forget(func(name string) bool { return name != example+"/b:0" }); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	s = openState(t, path)
	defer s.Close()
	if len(s.names) != 6 || s.leads(example+"/b:0") != digest(0) || s.leads(example+"/b:1") != "" {
		t.Errorf("%v", s.names)
	}
}

// A file that is cut anywhere, as a killed process leaves it, opens with what whole
// lines it has, and can be written to.
func TestTornState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	filled(t, path)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		s := openState(t, path)
		lines := bytes.Count(whole[:n], []byte("\n"))
		if got := len(s.names) + len(s.scans) + len(s.indexes); got != max(0, lines-1) {
			t.Errorf("cut at %d: %d records of %d lines", n, got, lines)
		}
		if err := s.putNames([]string{example + "/later:1"}, []string{digest(7)}); err != nil {
			t.Fatal(err)
		}
		_ = s.Close()
		s = openState(t, path)
		if s.leads(example+"/later:1") != digest(7) {
			t.Errorf("cut at %d: what was written then is gone", n)
		}
		_ = s.Close()
	}
	// A crash of the machine may leave zeros.
	if err := os.WriteFile(path, append(bytes.Clone(whole), make([]byte, 5000)...), 0o600); err != nil {
		t.Fatal(err)
	}
	s := openState(t, path)
	if len(s.names) != 11 {
		t.Errorf("%d names", len(s.names))
	}
	_ = s.Close()
}

// Any other damage is an error; nothing is lost by it, and nothing counts as done.
func TestDamagedState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	filled(t, path)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		damaged := bytes.Clone(whole)
		at := random.IntN(len(damaged))
		damaged[at] ^= byte(1 + random.IntN(255))
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := OpenState(path, example)
		if at == len(whole)-1 { // the last line reads as half a line
			if err != nil || len(s.scans) != 5 {
				t.Errorf("%v", err)
			}
			_ = s.Close()
			continue
		}
		if !errors.Is(err, ErrState) || !strings.Contains(err.Error(), path) {
			t.Errorf("byte %d: %v", at, err)
		}
		if left, _ := os.ReadFile(path); !bytes.Equal(left, damaged) {
			t.Fatalf("byte %d: the file was changed", at)
		}
	}
	for what, c := range map[string]struct{ text, want string }{
		"another file":      {"hello\nworld\n", "no state file"},
		"another torn file": {"hello", "no state of this registry"},
		"another registry":  {mustLine(t, record{Schema: SchemaState, Registry: "other"}), "of the registry \"other\", not of " + example},
		"a later format":    {mustLine(t, record{Schema: "assay.dev/registry-state/v2", Registry: example}), "its format is"},
		"no header":         {mustLine(t, record{Name: "a", Digest: "b"}), "its format is"},
		"two headers":       {strings.Repeat(mustLine(t, record{Schema: SchemaState, Registry: example}), 2), "second header"},
		"an unknown record": {mustLine(t, record{Schema: SchemaState, Registry: example}) + mustLine(t, record{}), "line 2 is of a kind that is not known"},
	} {
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenState(path, example); !errors.Is(err, ErrState) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "--state") {
			t.Errorf("%s: %v", what, err)
		}
	}
	// What is damaged after it was opened is found when it is read.
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	s := openState(t, path)
	defer s.Close()
	at := s.scans[digest(2)].offset
	whole[at+40] ^= 1
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Scan(example + "/a:2"); !errors.Is(err, ErrState) {
		t.Errorf("%v", err)
	}
}

func mustLine(t testing.TB, r record) string {
	t.Helper()
	text, err := line(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A file that has grown by what later lines replace is written anew, without what
// no name leads to.
func TestCompaction(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	filled(t, path)
	s := openState(t, path)
	for n := range 1200 {
		if err := s.putNames([]string{example + "/a:1"}, []string{digest(n % 5)}); err != nil {
			t.Fatal(err)
		}
	}
	_ = s.Close()
	before, _ := os.Stat(path)
	s = openState(t, path)
	after, _ := os.Stat(path)
	if after.Size() >= before.Size()/10 || s.dead != 0 {
		t.Errorf("%d bytes became %d", before.Size(), after.Size())
	}
	if len(s.names) != 11 || len(s.scans) != 5 || len(s.indexes) != 1 {
		t.Errorf("%d names, %d scans, %d indexes", len(s.names), len(s.scans), len(s.indexes))
	}
	for _, n := range []string{"/a:1", "/b:4", "/multi:1"} {
		if _, err := s.Scan(example + n); err != nil {
			t.Error(err)
		}
	}
	names, scans := s.names, s.scans
	if err := s.putNames([]string{example + "/new:1"}, []string{digest(4)}); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	s = openState(t, path)
	defer s.Close()
	delete(names, example+"/new:1")
	delete(s.names, example+"/new:1")
	if !reflect.DeepEqual(s.names, names) || !reflect.DeepEqual(s.scans, scans) {
		t.Errorf("%v %v", s.names, s.scans)
	}
	left, _ := filepath.Glob(path + ".new-*")
	if len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}

// FuzzState reads any bytes: they are a state up to half a line, or refused.
func FuzzState(f *testing.F) {
	header := mustLine(f, record{Schema: SchemaState, Registry: example})
	f.Add([]byte(header))
	f.Add([]byte(header + mustLine(f, record{Name: example + "/a:1", Digest: digest(1)}) + mustLine(f, record{Name: example + "/a:1"})))
	f.Add([]byte(header + mustLine(f, record{Scan: &kept{Digest: digest(1), Made: Made{By: "1"}, Scan: pack([]byte(`{"image":"a"}`))}}) + "half"))
	f.Add([]byte(header + mustLine(f, record{Index: &index{Index: api.Index{Digest: digest(2)}, Image: digest(1)}})))
	f.Add([]byte("00000000 {}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var s State
		if err := s.read(bytes.NewReader(text), example); err != nil {
			return
		}
		if s.size > int64(len(text)) || s.size > 0 && text[s.size-1] != '\n' || bytes.IndexByte(text[s.size:], '\n') >= 0 {
			t.Fatalf("%d of %d bytes are whole lines", s.size, len(text))
		}
		var again State
		if err := again.read(bytes.NewReader(text[:s.size]), example); err != nil || !reflect.DeepEqual(s.names, again.names) || !reflect.DeepEqual(s.scans, again.scans) {
			t.Fatalf("%v: whole lines alone read otherwise", err)
		}
		for n, r := range s.names {
			if r.digest == "" {
				t.Fatalf("%q leads nowhere", n)
			}
		}
	})
}
