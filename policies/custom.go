package policies

import (
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/assay-dev/assay/policies/capabilities"
)

// customRoot is what a user's packages start with.
var customRoot = ast.MustParseRef("data.assay.custom")

// file is a user's module while it is checked.
type file struct {
	name  string
	lines []string
	diags *Diagnostics
}

func newFile(name string, text []byte, diags *Diagnostics) *file {
	return &file{name: name, lines: strings.Split(string(text), "\n"), diags: diags}
}

// report adds a diagnostic. Line and column count from 1, the column in bytes.
func (f *file) report(line, column int, path, format string, args ...any) {
	d := Diagnostic{File: f.name, Line: line, Column: column, Path: path, Message: fmt.Sprintf(format, args...)}
	if line > 0 && line <= len(f.lines) {
		d.Source = strings.TrimRight(f.lines[line-1], "\r")
	}
	*f.diags = append(*f.diags, d)
}

// parseCustom parses a user's module; it reports what does not parse.
func parseCustom(name, text string) (*ast.Module, error) {
	return ast.ParseModuleWithOpts(name, text, ast.ParserOptions{ProcessAnnotation: true, RegoVersion: ast.RegoV1})
}

// checkCustom checks what can be told of one module alone.
func checkCustom(f *file, text []byte) {
	module, err := parseCustom(f.name, string(text))
	if err != nil {
		f.regoErrors(err)
		return
	}
	if module == nil {
		return
	}
	if path := module.Package.Path; !path.HasPrefix(customRoot) || len(path) <= len(customRoot) {
		f.report(module.Package.Location.Row, module.Package.Location.Col, "",
			"the package must be below assay.custom, such as assay.custom.labels, not %s", strings.TrimPrefix(path.String(), "data."))
	}
	for _, r := range module.Rules {
		if r.Head.Name == "reject" && (r.Head.RuleKind() != ast.MultiValue || len(r.Head.Ref()) > 1) {
			f.report(r.Location.Row, r.Location.Col, "reject", "must be a set of reasons: reject contains reason if { … }")
		}
	}
	ast.WalkTerms(module, func(t *ast.Term) bool {
		ref, ok := t.Value.(ast.Ref)
		if !ok {
			return false
		}
		if why := capabilities.Withheld(ref.String()); why != "" && ast.BuiltinMap[ref.String()] != nil {
			f.report(t.Location.Row, t.Location.Col, "", "%s is not available: %s", ref, why)
		}
		return false
	})
}

// AllLabels among the labels that policies look at says that they may look at any.
const AllLabels = "*"

// customNamespaceKeys are the labels of namespaces that a user's own Rego looks at. Where it uses the
// input or the labels other than by a constant key, nobody can tell which these are: AllLabels.
func customNamespaceKeys(custom map[string]string) (keys []string) {
	for name, text := range custom {
		module, err := parseCustom(name, text)
		if err != nil {
			return []string{AllLabels}
		}
		if module != nil {
			ast.WalkNodes(module, func(n ast.Node) bool { return namespaceKeyOf(n, &keys) })
		}
	}
	return keys
}

// namespaceKeyOf adds the key that a node uses; true says that there is nothing more below it.
func namespaceKeyOf(n ast.Node, keys *[]string) bool {
	call := func(terms []*ast.Term) bool { // object.get(input.namespaceLabels, "key", default)
		if len(terms) != 4 || terms[0].String() != "object.get" || terms[1].String() != "input.namespaceLabels" {
			return false
		}
		key, ok := terms[2].Value.(ast.String)
		if ok {
			*keys = append(*keys, string(key))
			ast.WalkNodes(terms[3], func(n ast.Node) bool { return namespaceKeyOf(n, keys) })
		}
		return ok
	}
	switch n := n.(type) {
	case *ast.Expr:
		if terms, ok := n.Terms.([]*ast.Term); ok && len(n.With) == 0 {
			return call(terms)
		}
	case *ast.Term:
		switch v := n.Value.(type) {
		case ast.Call:
			return call(v)
		case ast.Var:
			if v == ast.InputRootDocument.Value {
				*keys = append(*keys, AllLabels)
			}
		case ast.Ref:
			if !v[0].Equal(ast.InputRootDocument) {
				return false
			}
			*keys = append(*keys, namespaceKey(v)...)
			for _, t := range v[1:] { // what stands in brackets
				ast.WalkNodes(t, func(n ast.Node) bool { return namespaceKeyOf(n, keys) })
			}
			return true
		}
	}
	return false
}

func namespaceKey(ref ast.Ref) []string {
	member := func(i int) (string, bool) {
		if i >= len(ref) {
			return "", false
		}
		s, ok := ref[i].Value.(ast.String)
		return string(s), ok
	}
	of, constant := member(1)
	switch key, ok := member(2); {
	case constant && of != "namespaceLabels":
		return nil
	case constant && ok:
		return []string{key}
	}
	return []string{AllLabels}
}

func (f *file) regoErrors(err error) {
	errs, ok := err.(ast.Errors)
	if !ok {
		f.report(0, 0, "", "not Rego: %v", err)
		return
	}
	for _, e := range errs {
		row, col := 0, 0
		if e.Location != nil {
			row, col = e.Location.Row, e.Location.Col
		}
		f.report(row, col, "", "%s", e.Message)
	}
}

// checkModules compiles a user's modules together, strictly, with what is withheld left out.
func checkModules(custom map[string]string) Diagnostics {
	if len(custom) == 0 {
		return nil
	}
	var diags Diagnostics
	modules := map[string]*ast.Module{}
	files := map[string]*file{}
	for name, text := range custom {
		module, err := parseCustom(name, text)
		files[name] = newFile(name, []byte(text), &diags)
		if err != nil {
			files[name].regoErrors(err)
			continue
		}
		if module != nil {
			modules[name] = module
		}
	}
	compiler := ast.NewCompiler().WithStrict(true).WithCapabilities(capabilities.OfPolicies())
	compiler.Compile(modules)
	for _, e := range compiler.Errors {
		name := ""
		if e.Location != nil {
			name = e.Location.File
		}
		if f, ok := files[name]; ok {
			f.report(e.Location.Row, e.Location.Col, "", "%s", e.Message)
		} else {
			diags = append(diags, Diagnostic{File: name, Message: e.Error()})
		}
	}
	return diags
}

// rejectPackages are the user's packages that have a reject rule, as data paths, sorted.
func rejectPackages(custom map[string]string) ([]string, error) {
	found := map[string]bool{}
	for name, text := range custom {
		module, err := parseCustom(name, text)
		if err != nil {
			return nil, fmt.Errorf("parsing %s: %w", name, err)
		}
		if module == nil {
			continue
		}
		if slices.ContainsFunc(module.Rules, func(r *ast.Rule) bool { return r.Head.Name == "reject" }) {
			found[module.Package.Path.String()] = true
		}
	}
	var paths []string
	for p := range found {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	return paths, nil
}
