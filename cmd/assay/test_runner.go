package main

import (
	"context"
	"fmt"

	"github.com/assay-dev/assay/policies"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"
)

// runTests runs the Rego tests of a set against its bundle.
func runTests(ctx context.Context, set *policies.Set, b *bundle.Bundle, pattern string) ([]testResult, error) {
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
	store := inmem.NewFromObject(b.Data)
	txn, err := store.NewTransaction(ctx, storage.WriteParams)
	if err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	defer store.Abort(ctx, txn)
	ch, err := tester.NewRunner().SetCompiler(ast.NewCompiler().WithCapabilities(testCapabilities())).
		SetStore(store).SetModules(modules).Filter(pattern).RunTests(ctx, txn)
	if err != nil {
		return nil, err
	}
	var results []testResult
	for r := range ch {
		results = append(results, newTestResult(r))
	}
	return results, nil
}

// testCapabilities are those of the linked OPA with no network.
func testCapabilities() *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion()
	c.AllowNet = []string{}
	return c
}
