package capabilities_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/types"

	"github.com/assay-dev/assay/policies/capabilities"
)

// A new release of OPA brings new functions: each is looked at before policies have it.
func TestEveryFunctionWasLookedAt(t *testing.T) {
	text, err := os.ReadFile("testdata/allowed.txt")
	if err != nil {
		t.Fatal(err)
	}
	allowed := strings.Fields(string(text))
	known := map[string]bool{}
	for _, b := range ast.CapabilitiesForThisVersion().Builtins {
		known[b.Name] = true
		withheld := capabilities.Withheld(b.Name) != ""
		if withheld == slices.Contains(allowed, b.Name) {
			t.Errorf("%s is withheld (%t), or stands in testdata/allowed.txt: one of both", b.Name, withheld)
		}
		if b.Nondeterministic && !withheld {
			t.Errorf("%s depends on more than its arguments, and is not withheld", b.Name)
		}
	}
	for _, name := range allowed {
		if !known[name] {
			t.Errorf("testdata/allowed.txt has %s, and OPA has not", name)
		}
	}
}

const secret = "TOP-SECRET-OF-THE-HOST"

// Whatever the functions that policies have are called with, they read no file, ask no
// server and see no variable.
func TestNoWayOut(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		_, _ = w.Write([]byte(`{"const": "` + secret + `"}`))
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "secret.json")
	if err := os.WriteFile(file, []byte(`{"const": "`+secret+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("ASSAY_TEST_SECRET", secret)
	// A name that is resolved, and a name server that must not hear of it.
	resolved := 0
	resolver := net.DefaultResolver
	defer func() { net.DefaultResolver = resolver }()
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		resolved++
		return nil, errors.New("no name server")
	}}
	texts := []string{"file://" + file, file, server.URL, "../../../../../../../.." + file, "$ASSAY_TEST_SECRET", "env:ASSAY_TEST_SECRET", "name.example.com", `{"$ref": "file://` + file + `"}`}
	var strs, objects, anything []string
	for _, s := range texts {
		quoted := ast.String(s).String()
		strs = append(strs, quoted)
		for _, key := range []string{"$ref", "url", "file", "ca_cert_file", "jwks_url"} {
			objects = append(objects, `{"`+key+`": `+quoted+`}`)
		}
	}
	anything = slices.Concat(strs, objects, []string{`["` + server.URL + `"]`, "1"})
	values := func(of types.Type) []string {
		switch of.(type) {
		case types.String:
			return strs
		case *types.Object:
			return objects
		case types.Number:
			return []string{"1", "2"}
		case types.Boolean:
			return []string{"true"}
		case *types.Array:
			return []string{`["` + server.URL + `", "file://` + file + `"]`, `[["a", "file://` + file + `"]]`}
		case *types.Set:
			return []string{`{"` + server.URL + `", "file://` + file + `"}`}
		}
		return anything
	}
	tried := 0
	for _, b := range capabilities.OfPrograms().Builtins {
		if b.Infix != "" || b.Relation || strings.HasPrefix(b.Name, "internal.") {
			continue
		}
		calls := []string{""}
		for i, a := range b.Decl.FuncArgs().Args {
			var next []string
			for n, v := range values(a) {
				if i > 0 && n > 8 { // the first argument is tried in full
					break
				}
				for _, c := range calls {
					next = append(next, strings.TrimPrefix(c+", "+v, ", "))
				}
			}
			calls = next
		}
		if len(calls) > 60 {
			calls = calls[:60]
		}
		for _, arguments := range calls {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			result, err := rego.New(rego.Query("x := "+b.Name+"("+arguments+")"), rego.Capabilities(capabilities.OfPrograms()), rego.StrictBuiltinErrors(true)).Eval(ctx)
			cancel()
			tried++
			said := ""
			if len(result) > 0 {
				if text, ok := result[0].Bindings["x"].(string); ok {
					said = text
				}
			}
			if err != nil {
				said += err.Error()
			}
			if strings.Contains(said, secret) {
				t.Errorf("%s(%s) tells a secret", b.Name, arguments)
			}
		}
		if asked+resolved > 0 {
			t.Fatalf("%s asks a server or resolves a name", b.Name)
		}
	}
	if tried < 1000 {
		t.Errorf("%d calls were tried", tried)
	}

	// What is withheld does reach them: the attack is one.
	for _, call := range []string{`json.match_schema({}, {"$ref": "file://` + file + `"})`, `json.match_schema({}, {"$ref": "` + server.URL + `"})`, `http.send({"method": "GET", "url": "` + server.URL + `"})`} {
		before := asked
		result, err := rego.New(rego.Query("x := " + call)).Eval(t.Context())
		if err != nil || len(result) == 0 || strings.Contains(call, server.URL) && asked == before {
			t.Errorf("%s reaches nothing by itself: %v %v", call, result, err)
		}
	}
}

// Neither a policy nor a bundle nor a test of policies has what is withheld, and a schema
// in an annotation is not followed.
func TestWithheld(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
	defer server.Close()
	for _, call := range []string{
		`http.send({"method": "GET", "url": "http://localhost"})`, `net.lookup_ip_addr("localhost")`, `json.match_schema({}, {"$ref": "file:///etc/passwd"})`,
		`json.verify_schema({"$ref": "file:///etc/passwd"})`, `opa.runtime()`, `net.cidr_expand("::/0")`, `bits.lsh(1, 1e12)`, `strings.render_template("{{range 1000000000}}x{{end}}", {})`,
	} {
		for what, c := range map[string]*ast.Capabilities{"policies": capabilities.OfPolicies(), "programs": capabilities.OfPrograms()} {
			compiler := ast.NewCompiler().WithCapabilities(c)
			if compiler.Compile(map[string]*ast.Module{"x.rego": ast.MustParseModule("package assay.custom.x\n\nx := " + call)}); !compiler.Failed() {
				t.Errorf("%s have %s", what, call)
			}
		}
	}
	module, err := ast.ParseModuleWithOpts("x.rego", "# METADATA\n# scope: package\n# schemas:\n# - input: {\"$ref\": \""+server.URL+"\"}\npackage assay.custom.x\n\nx := input.a.b\n", ast.ParserOptions{ProcessAnnotation: true})
	if err != nil {
		t.Fatal(err)
	}
	compiler := ast.NewCompiler().WithStrict(true).WithCapabilities(capabilities.OfPolicies())
	compiler.Compile(map[string]*ast.Module{"x.rego": module})
	if asked > 0 {
		t.Error("a schema in an annotation is followed")
	}
}
