package mutation

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	oparego "github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
)

// library is the hand-written Rego with its tests, parsed.
type library struct {
	texts   map[string]string // of the modules without tests
	modules map[string]*ast.Module
	tests   []*ast.Rule
	store   storage.Store // empty
}

func loadLibrary(t *testing.T) *library {
	t.Helper()
	files, err := filepath.Glob("../../rego/*.rego")
	if err != nil {
		t.Fatal(err)
	}
	l := &library{texts: map[string]string{}, modules: map[string]*ast.Module{}, store: inmem.New()}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(file)
		module, err := parse(name, string(text))
		if err != nil {
			t.Fatal(err)
		}
		l.modules[name] = module
		if !strings.HasSuffix(name, "_test.rego") {
			l.texts[name] = string(text)
			continue
		}
		for _, r := range module.Rules {
			if strings.HasPrefix(string(r.Head.Name), "test_") {
				l.tests = append(l.tests, r)
			}
		}
	}
	if len(l.tests) == 0 || len(l.texts) == 0 {
		t.Fatal("there is no library with tests")
	}
	return l
}

func parse(name, text string) (*ast.Module, error) {
	return ast.ParseModuleWithOpts(name, text, ast.ParserOptions{RegoVersion: ast.RegoV1})
}

// compile gives the modules with some of them replaced; nil when that does not
// compile. It is not strict: style makes no mutant stillborn.
func compile(modules map[string]*ast.Module, changed map[string]string) *ast.Compiler {
	all := maps.Clone(modules)
	for name, text := range changed {
		module, err := parse(name, text)
		if err != nil {
			return nil
		}
		all[name] = module
	}
	c := ast.NewCompiler()
	if c.Compile(all); c.Failed() {
		return nil
	}
	return c
}

// own tells the tests of the package of the named module.
func (l *library) own(name string) func(*ast.Module) bool {
	path := l.modules[name].Package.Path.String() + "_test"
	return func(m *ast.Module) bool { return m.Package.Path.String() == path }
}

// without are the modules without the tests of other packages.
func (l *library) without(own func(*ast.Module) bool) map[string]*ast.Module {
	some := maps.Clone(l.modules)
	maps.DeleteFunc(some, func(_ string, m *ast.Module) bool {
		return strings.HasSuffix(m.Package.Path.String(), "_test") && !own(m)
	})
	return some
}

// failing is the first Rego test of the chosen modules that the compiled ones fail, or "".
func (l *library) failing(ctx context.Context, c *ast.Compiler, chosen func(*ast.Module) bool) string {
	for _, r := range l.tests {
		if !chosen(r.Module) {
			continue
		}
		path := r.Module.Package.Path.String() + "." + string(r.Head.Name)
		rs, err := oparego.New(oparego.Query(path), oparego.Compiler(c), oparego.Store(l.store)).Eval(ctx)
		if err != nil || !rs.Allowed() {
			return path
		}
	}
	return ""
}

// tried is what the Rego tests make of the library with one module changed: first
// those of its package, by themselves, then the others.
func (l *library) tried(ctx context.Context, name, text string) outcome {
	own := l.own(name)
	changed := map[string]string{name: text}
	c := compile(l.without(own), changed)
	if c == nil {
		return stillborn
	}
	if l.failing(ctx, c, own) != "" || l.failing(ctx, compile(l.modules, changed), func(m *ast.Module) bool { return !own(m) }) != "" {
		return caughtByRego
	}
	return survived
}

// TestLibrary holds that the tests of the library, or the corpus, notice each
// mutant of it.
func TestLibrary(t *testing.T) {
	l := loadLibrary(t)
	ctx := context.Background()
	if failed := l.failing(ctx, compile(l.modules, nil), func(*ast.Module) bool { return true }); failed != "" {
		t.Fatalf("%s fails without any mutation", failed)
	}
	var trials []trial
	for _, name := range slices.Sorted(maps.Keys(l.texts)) {
		mutants, err := Mutants(name, l.texts[name])
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range mutants {
			text := m.Apply(l.texts[name])
			trials = append(trials, trial{
				id: m.ID, place: fmt.Sprintf("rego/%s:%d", name, m.Line),
				alone: func() outcome { return l.tried(ctx, name, text) },
				in: func(w *world) outcome {
					return w.judged(ctx, map[string]string{name: text}, asksOf(name))
				},
			})
		}
	}
	judge(t, "library", trials, 120)
}

// asksOf tells the questions that a module of the library can answer wrongly.
func asksOf(name string) func(entry string) bool {
	return func(entry string) bool {
		switch name {
		case "alerts.rego":
			return entry == entryAlerts
		case "review.rego", "reference.rego":
			return entry != entryAlerts
		}
		return entry != entryAlerts && entry != entryFlat
	}
}
