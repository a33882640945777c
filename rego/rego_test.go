package rego

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"
	oparego "github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"

	"github.com/assay-dev/assay/api"
)

// texts are all modules of this directory, tests among them.
func texts(t *testing.T) map[string]string {
	t.Helper()
	entries, err := files.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, e := range entries {
		text, err := files.ReadFile(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(text)
	}
	return all
}

// TestRego runs every test of the *_test.rego files as a sub-test.
func TestRego(t *testing.T) {
	modules := map[string]*ast.Module{}
	for name, text := range texts(t) {
		module, err := ast.ParseModuleWithOpts(name, text, ast.ParserOptions{ProcessAnnotation: true})
		if err != nil {
			t.Fatal(err)
		}
		modules[name] = module
	}
	ctx := context.Background()
	store := inmem.New()
	txn := storage.NewTransactionOrDie(ctx, store, storage.WriteParams)
	defer store.Abort(ctx, txn)
	results, err := tester.NewRunner().
		SetCompiler(ast.NewCompiler().WithStrict(true)).
		SetStore(store).
		SetModules(modules).
		RunTests(ctx, txn)
	if err != nil {
		t.Fatal(err)
	}
	tested := map[string]int{}
	for r := range results {
		tested[filepath.Base(r.Location.File)]++
		t.Run(strings.TrimPrefix(r.Package, "data.assay.")+"."+r.Name, func(t *testing.T) {
			switch {
			case r.Error != nil:
				t.Error(r.Error)
			case r.Skip:
				t.Skip("a todo_ test")
			case !r.Pass():
				t.Errorf("%s: failed at %v\n%s", r.Location, r.FailedAt, r.Output)
			}
		})
	}
	if len(tested) == 0 {
		t.Fatal("no Rego test ran")
	}
	for name, module := range modules {
		if strings.HasPrefix(module.Package.Path.String(), "data.assay.generated") {
			continue // stands in for what a compilation generates
		}
		if strings.HasSuffix(name, "_test.rego") && tested[name] == 0 {
			t.Errorf("%s: no test of it ran", name)
		}
	}
}

// The built-in kinds of the library are those of the table, with their templates.
func TestWorkloads(t *testing.T) {
	value := func(query string) any {
		options := []func(*oparego.Rego){oparego.Query(query)}
		for name, text := range Library() {
			options = append(options, oparego.Module(name, text))
		}
		found, err := oparego.New(options...).Eval(context.Background())
		if err != nil || len(found) != 1 {
			t.Fatalf("%s: %d values, %v", query, len(found), err)
		}
		return found[0].Expressions[0].Value
	}
	want, ids := map[string]any{}, []any{}
	for _, w := range api.BuiltinWorkloads() {
		p := w.Places()
		if !p.One() || len(p.References) > 0 {
			t.Errorf("%s has more than one template: the library has room for one", w.ID())
		}
		path := []any{}
		for _, member := range p.Templates[0][0] {
			path = append(path, member)
		}
		want[w.ID()], ids = path, append(ids, w.ID())
	}
	if got := value("data.assay.review.template_paths"); !reflect.DeepEqual(got, want) {
		t.Errorf("review.rego has %v, the table %v", got, want)
	}
	if got := value("sort(data.assay.judge.builtin_kinds)"); !reflect.DeepEqual(got, ids) {
		t.Errorf("judge.rego has %v, the table %v", got, ids)
	}
}

func TestLibrary(t *testing.T) {
	onDisk, err := filepath.Glob("*.rego")
	if err != nil {
		t.Fatal(err)
	}
	onDisk = slices.DeleteFunc(onDisk, func(name string) bool { return strings.HasSuffix(name, "_test.rego") })
	library := Library()
	if got := slices.Sorted(maps.Keys(library)); len(got) == 0 || !slices.Equal(got, onDisk) {
		t.Errorf("the library is %v, the directory has %v", got, onDisk)
	}
	packages := map[string]bool{}
	titled := map[string]bool{}
	for name, text := range library {
		module, err := ast.ParseModuleWithOpts(name, text, ast.ParserOptions{ProcessAnnotation: true})
		if err != nil {
			t.Error(err)
			continue
		}
		path := module.Package.Path.String()
		packages[path] = true
		if !strings.HasPrefix(path, "data.assay.") {
			t.Errorf("%s: package %s lies outside data.assay", name, path)
		}
		for _, a := range module.Annotations {
			if a.Scope == "package" && a.Title != "" {
				titled[path] = true
			}
		}
	}
	// A package has its METADATA once, in whichever of its files.
	for path := range packages {
		if !titled[path] {
			t.Errorf("%s has no METADATA with a title", path)
		}
	}
}

func TestFormat(t *testing.T) {
	for name, text := range texts(t) {
		formatted, err := format.SourceWithOpts(name, []byte(text), format.Opts{RegoVersion: ast.RegoV1})
		if err != nil {
			t.Error(err)
		} else if string(formatted) != text {
			t.Errorf("%s is not as opa fmt writes it", name)
		}
	}
}

// references are those of the test of api.ParseReference.
var references = []string{
	"nginx", "nginx:1.27", "library/nginx", "docker.io/nginx", "index.docker.io/nginx", "index.docker.io/library/nginx:1",
	"quay.io/tigera/node:v3.1", "localhost/x", "localhost:5000/x/y:z", "LOCALHOST/x", "Foo/bar", "foo/Bar", "a.b/c", "a:1/c",
	"nginx@sha256:" + strings.Repeat("a", 64), "nginx:1@sha256:" + strings.Repeat("a", 64), "nginx@sha256:abc", "",
	strings.Repeat("a", 64), "a//b", "a/", "/a", "nginx:", "nginx:-x", "[::1]:5000/x", "[fe80::1]/x", "a__b", "a___b", "a..b", "a.-b", "a---b",
	"nginx:" + strings.Repeat("t", 128), "nginx:" + strings.Repeat("t", 129), "x.io/" + strings.Repeat("p", 255), "x.io/" + strings.Repeat("p", 256),
	"library/" + strings.Repeat("p", 247), strings.Repeat("p", 247), strings.Repeat("p", 248),
	"docker.io/a/b", "docker.io", "docker.io/", "a.b:x/c", "localhost", "registry.example.com", "ex_ample.com/x", " nginx", "nginx ", "nginx\n",
	"nginx@sha512:" + strings.Repeat("a", 128), "nginx@sha384:" + strings.Repeat("a", 96), "nginx@md5:" + strings.Repeat("a", 32),
	"nginx@sha256:" + strings.Repeat("A", 64), "nginx@@", "nginx@", "@", ":", "/", "x:80", "x:80/y", "-a.b/c", "É/x", "é/x", "ß/x", "nginx:é", "a\x00b",
	"registry-1.docker.io/nginx", "Registry-1.Docker.IO:0443/nginx:1", "registry.hub.docker.com/library/nginx", "docker.io:443/a/b", "docker.io:80/nginx",
	"Registry.Example.COM/shop", "registry.example.com:443/shop", "registry.example.com:0443/shop:1", "registry.example.com:4430/shop", "a.b:0/c", "a.b:000/c",
	"foo:443/bar", "FOO/bar", "Foo:0080/bar", "LOCALHOST:443/x", "[FE80::1]:443/x", "[fe80::443]/x", "registry-1.docker.io/" + strings.Repeat("p", 248), "registry-1.docker.io/" + strings.Repeat("p", 247),
	"Index.docker.io/x", "index.docker.io", "index.docker.io/a/b", "a/b:c:d", "a/b:c/d", "ǅ/x",
}

// random are strings that are likely to be references, or nearly so.
func random(n int) []string {
	r := rand.New(rand.NewPCG(1, 2))
	pieces := strings.Split("ab01./:@-_A[]", "")
	pieces = append(pieces, "localhost", "docker.io", "index.docker.io", "registry-1.docker.io", "Registry.hub.docker.com", ":443/", ":0443/", "a.b:443/", "A.b/", "Foo/", "@sha256:"+strings.Repeat("0a", 32), "sha256:"+strings.Repeat("b1", 32),
		"a", "b", "a", "b", "/", "/", ".", ":", "a.b", "a/b", "b:1", "[::1]")
	var list []string
	for range n {
		var b strings.Builder
		for range 1 + r.IntN(9) {
			b.WriteString(pieces[r.IntN(len(pieces))])
		}
		list = append(list, b.String())
	}
	return list
}

// TestReferenceAgreesWithGo holds data.assay.reference to api.ParseReference, the identity of an
// image to api.NewContainer, and the form that patterns see to Canonical.
func TestReferenceAgreesWithGo(t *testing.T) {
	ctx := context.Background()
	options := []func(*oparego.Rego){
		oparego.Query(`parsed := {s: p | some s in input; p := data.assay.reference.parse(s)}; identified := {s: p | some s in input; p := data.assay.reference.identity(s)};
			canonical := {s: data.assay.judge.canonical(object.union({"normal": s}, p)) | some s, p in identified}`),
		oparego.StrictBuiltinErrors(true),
	}
	for name, text := range Library() {
		options = append(options, oparego.Module(name, text))
	}
	query, err := oparego.New(options...).PrepareForEval(ctx)
	if err != nil {
		t.Fatal(err)
	}
	inputs := append(random(6000), references...)
	var valid int
	for batch := range slices.Chunk(inputs, 1000) {
		list := make([]any, len(batch))
		for i, s := range batch {
			list[i] = s
		}
		results, err := query.Eval(ctx, oparego.EvalInput(list))
		if err != nil {
			t.Fatal(err)
		}
		parsed := results[0].Bindings["parsed"].(map[string]any)
		identified := results[0].Bindings["identified"].(map[string]any)
		canonical := results[0].Bindings["canonical"].(map[string]any)
		for _, s := range batch {
			want, wantIdentity := map[string]any{}, map[string]any{}
			if ref, err := api.ParseReference(s); err == nil {
				valid++
				c := api.NewContainer("", s)
				want = members("name", ref.Name(), "normal", ref.String(), "tag", ref.Tag, "digest", ref.Digest)
				wantIdentity = members("name", c.Name, "normal", c.Normal, "tag", c.Tag, "digest", c.Digest)
				if canonical[s] != ref.Canonical() {
					t.Errorf("canonical(%q): Rego says %v, Go says %q", s, canonical[s], ref.Canonical())
				}
			}
			agree(t, "parse", s, parsed[s], want)
			agree(t, "identity", s, identified[s], wantIdentity)
		}
	}
	if valid < len(inputs)/10 {
		t.Errorf("only %d of %d inputs are references", valid, len(inputs))
	}
}

func agree(t *testing.T, function, s string, got any, want map[string]any) {
	t.Helper()
	object, _ := got.(map[string]any)
	if fmt.Sprint(len(object), object) != fmt.Sprint(len(want), want) {
		t.Errorf("%s(%q): Rego says %v, Go says %v", function, s, object, want)
	}
}

// members makes an object of the members that are not empty.
func members(pairs ...string) map[string]any {
	m := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			m[pairs[i]] = pairs[i+1]
		}
	}
	return m
}
