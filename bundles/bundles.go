// Package bundles packs policies, exceptions and scans into OPA bundles: the
// library of package rego, the modules that package policies compiles, and the
// data documents of package documents. The same bytes feed the engine, a bundle
// server and `opa eval -b`.
package bundles

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/rego"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
)

// Content is what goes into a bundle.
type Content struct {
	Policies *policies.Set
	// Exceptions are in force beside those of the policies.
	Exceptions []api.VulnerabilityException
	Scans      []api.Scan
	// Cluster is the one that the data is for: what only others are told is left out. Without
	// it the data is of all clusters that the scopes of scans name.
	Cluster string
	// Groups are trust groups of the cluster beside those that scopes name together with it.
	Groups []string
}

// Build compiles and packs the content as one bundle: that of the parts of [Split], with
// their revisions; without a cluster, with all that clusters are told, too. Equal content gives equal bytes and an equal revision.
func Build(c Content) (*bundle.Bundle, error) {
	modules, err := modulesOf(c.Policies)
	if err != nil {
		return nil, err
	}
	data := c.data()
	parts, err := c.parts(data)
	if err != nil {
		return nil, err
	}
	if c.Cluster == "" && data["spaces"] != nil {
		parts["clusters"] = map[string]any{"clusters": data["clusters"], "spaces": data["spaces"]}
	}
	revisions := map[string]any{}
	if revisions[PartPolicies], err = revisionOf(texts(modules)); err != nil {
		return nil, err
	}
	for name, content := range parts {
		if revisions[documents.RevisionKey(name)], err = revisionOf(content); err != nil {
			return nil, err
		}
	}
	whole, err := revisionOf(revisions)
	if err != nil {
		return nil, err
	}
	data["revisions"] = revisions
	return &bundle.Bundle{
		Manifest: manifest(whole, "assay"),
		Data:     map[string]any{"assay": data},
		Modules:  modules,
	}, nil
}

// data are the documents of the content below data.assay.
func (c Content) data() map[string]any {
	exceptions := slices.Concat(c.Policies.Exceptions, c.Exceptions)
	data := documents.Data(c.Scans, exceptions, documents.NeedsOf(c.Policies.Thresholds, exceptions))
	if c.Cluster != "" {
		documents.ForCluster(data, c.Cluster, c.groups())
	}
	return data
}

func manifest(revision string, roots ...string) bundle.Manifest {
	regoVersion := 1
	return bundle.Manifest{Revision: revision, Roots: &roots, RegoVersion: &regoVersion}
}

// modulesOf are the library, the generated modules and the user's own, by name.
func modulesOf(set *policies.Set) ([]bundle.ModuleFile, error) {
	generated, err := set.Compile()
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for name, text := range rego.Library() {
		all["/assay/library/"+name] = text
	}
	for name, text := range generated {
		all["/assay/"+name] = text
	}
	var modules []bundle.ModuleFile
	for _, name := range slices.Sorted(maps.Keys(all)) {
		module, err := ast.ParseModuleWithOpts(name, all[name], ast.ParserOptions{ProcessAnnotation: true, RegoVersion: ast.RegoV1})
		if err != nil {
			return nil, fmt.Errorf("compiling %s: %w", name, err)
		}
		modules = append(modules, bundle.ModuleFile{URL: name, Path: name, Raw: []byte(all[name]), Parsed: module})
	}
	return modules, nil
}

// roots are the packages of modules, one below another left out.
func roots(modules []bundle.ModuleFile) []string {
	found := map[string]bool{}
	for _, m := range modules {
		path := m.Parsed.Package.Path // data.assay.X…
		found["assay/"+string(path[2].Value.(ast.String))] = true
	}
	return slices.Sorted(maps.Keys(found))
}

func texts(modules []bundle.ModuleFile) map[string]any {
	out := map[string]any{}
	for _, m := range modules {
		out[m.Path] = string(m.Raw)
	}
	return out
}

// revisionOf is the SHA-256 of any content in canonical form.
func revisionOf(content any) (string, error) {
	text, err := canonical(nil, content)
	if err != nil {
		return "", fmt.Errorf("computing the revision: %w", err)
	}
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}
