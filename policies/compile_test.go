package policies_test

import (
	"bytes"
	"flag"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/rego"
	"github.com/open-policy-agent/opa/v1/ast"
	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "write what the compiler gives into the txtar files")

// Each txtar file holds a policies folder, and below want/ either the modules
// that it compiles to, or the diagnostics. A new case needs no Go.
func TestCompile(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no test data", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			folder, want := fstest.MapFS{}, map[string]string{}
			for _, f := range archive.Files {
				if name, ok := strings.CutPrefix(f.Name, "want/"); ok {
					want[name] = string(f.Data)
					continue
				}
				folder[f.Name] = &fstest.MapFile{Data: f.Data}
			}
			got := compiled(t, folder)
			if *update {
				archive.Files = slices.DeleteFunc(archive.Files, func(f txtar.File) bool { return strings.HasPrefix(f.Name, "want/") })
				for _, name := range slices.Sorted(maps.Keys(got)) {
					archive.Files = append(archive.Files, txtar.File{Name: "want/" + name, Data: []byte(got[name])})
				}
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			for _, name := range slices.Sorted(maps.Keys(got)) {
				if got[name] != want[name] {
					t.Errorf("%s differs; got:\n%s\nwant:\n%s", name, got[name], want[name])
				}
			}
			if len(got) != len(want) {
				t.Errorf("got %d results, want %d", len(got), len(want))
			}
		})
	}
}

// compiled gives the generated modules that say something, or "errors".
func compiled(t *testing.T, folder fs.FS) map[string]string {
	t.Helper()
	set, err := policies.Load(folder)
	if err != nil {
		return map[string]string{"errors": err.Error() + "\n"}
	}
	modules, err := set.Compile()
	if err != nil {
		t.Fatal(err)
	}
	strict(t, modules)
	empty, err := new(policies.Set).Compile()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for name, text := range modules {
		if text != empty[name] && !strings.HasPrefix(name, "custom/") {
			out[name] = text
		}
	}
	return out
}

// strict compiles modules with the library, as `opa check --strict` does.
func strict(t testing.TB, modules map[string]string) {
	t.Helper()
	parsed := map[string]*ast.Module{}
	for _, set := range []map[string]string{modules, rego.Library()} {
		for name, text := range set {
			m, err := ast.ParseModuleWithOpts(name, text, ast.ParserOptions{ProcessAnnotation: true})
			if err != nil {
				t.Fatalf("%s: %v\n%s", name, err, text)
			}
			parsed[name] = m
		}
	}
	c := ast.NewCompiler().WithStrict(true)
	if c.Compile(parsed); c.Failed() {
		t.Fatal(c.Errors)
	}
}

func TestCompileIsDeterministic(t *testing.T) {
	text, err := os.ReadFile("testdata/policy.txtar")
	if err != nil {
		t.Fatal(err)
	}
	var first map[string]string
	for range 5 {
		set, err := policies.Parse("p.yaml", txtar.Parse(text).Files[0].Data)
		if err != nil {
			t.Fatal(err)
		}
		modules, err := set.Compile()
		if err != nil {
			t.Fatal(err)
		}
		if first != nil && !maps.Equal(first, modules) {
			t.Fatal("two compilations differ")
		}
		first = modules
	}
}

// Whatever the text, parsing ends with a set that compiles strictly or with diagnostics.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, a := range archive.Files {
			if strings.HasSuffix(a.Name, ".yaml") {
				f.Add(a.Data)
			}
		}
	}
	f.Add([]byte("a: &a [*a, *a]\n"))
	f.Add([]byte("<<: {a: b}\nkind: List\nitems: [{}]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if bytes.Count(text, []byte("*")) > 50 {
			return // deep aliases only cost time here: the bound on nodes has its own test
		}
		set, err := policies.Parse("f.yaml", text)
		if err != nil {
			return
		}
		modules, err := set.Compile()
		if err != nil {
			t.Fatal(err)
		}
		strict(t, modules)
	})
}
