// Package regotest runs the Rego tests of policies (*_test.rego), with OPA's own runner.
package regotest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"

	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/policies/capabilities"
)

// Result is one test.
type Result struct {
	Name  string `json:"name"`
	File  string `json:"file"`
	Line  int    `json:"line"`
	Pass  bool   `json:"pass"`
	Error string `json:"error,omitempty"`
}

// Config bounds a run.
type Config struct {
	// Pattern is a regular expression; only tests whose name matches it are run. Empty: all.
	Pattern string
	// Deadline is for all tests together, Memory by how many bytes the heap may grow. Zero: no bound.
	Deadline time.Duration
	Memory   uint64
}

// Run runs the tests of a set against its bundle, and gives the results by file and line. Tests have no
// network. A test that cannot be parsed or compiled, and a run that exceeds its
// bounds, are errors.
func Run(ctx context.Context, set *policies.Set, b *bundle.Bundle, c Config) ([]Result, error) {
	modules := map[string]*ast.Module{}
	for _, m := range b.Modules {
		modules[m.Path] = m.Parsed
	}
	for name, text := range set.Tests {
		module, err := ast.ParseModuleWithOpts(name, text, ast.ParserOptions{RegoVersion: ast.RegoV1})
		if err != nil {
			return nil, err
		}
		modules[name] = module
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	if c.Deadline > 0 {
		timer := time.AfterFunc(c.Deadline, func() { end(fmt.Errorf("the tests took longer than %v", c.Deadline)) })
		defer timer.Stop()
	}
	if c.Memory > 0 {
		defer engine.Guard(c.Memory, end)()
	}
	store := inmem.NewFromObject(b.Data)
	txn, err := store.NewTransaction(ctx, storage.WriteParams)
	if err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	defer store.Abort(ctx, txn)
	ch, err := tester.NewRunner().SetCompiler(ast.NewCompiler().WithCapabilities(capabilities.OfPrograms())).
		SetStore(store).SetModules(modules).Filter(c.Pattern).RunTests(ctx, txn)
	if err != nil {
		return nil, err
	}
	results := []Result{}
	for r := range ch {
		results = append(results, newResult(r))
	}
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	slices.SortStableFunc(results, func(a, b Result) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), strings.Compare(a.Name, b.Name))
	})
	return results, nil
}

func newResult(r *tester.Result) Result {
	t := Result{Name: strings.TrimPrefix(r.Package, "data.") + "." + r.Name, Pass: r.Pass()}
	if r.Location != nil {
		t.File, t.Line = r.Location.File, r.Location.Row
	}
	if r.Error != nil {
		t.Error = r.Error.Error()
	}
	return t
}
