// Package bundles packs policies, exceptions and scans into OPA bundles: the
// library of package rego, the modules that package policies compiles, and the
// data documents of package documents. The same bytes feed the engine, a bundle
// server and `opa eval -b`.
package bundles

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/rego"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
)

// MaxBundle bounds a bundle that is read, in bytes.
const MaxBundle = 2 << 30

// Content is what goes into a bundle.
type Content struct {
	Policies *policies.Set
	// Exceptions are in force beside those of the policies.
	Exceptions []api.VulnerabilityException
	Scans      []api.Scan
}

// Names of the parts of the content. Each part has a revision of its own below
// data.assay.revisions, and is a bundle of its own where many follow a server.
const (
	PartPolicies   = "policies"   // the library and all modules
	PartExceptions = "exceptions" // data.assay.exceptions
	PartImages     = "images"     // images, details, names and indexes
)

// Build compiles and packs the content as one bundle. Equal content gives equal
// bytes and an equal revision.
func Build(c Content) (*bundle.Bundle, error) {
	modules, err := modulesOf(c.Policies)
	if err != nil {
		return nil, err
	}
	exceptions := slices.Concat(c.Policies.Exceptions, c.Exceptions)
	data := documents.Data(c.Scans, exceptions, documents.NeedsOf(c.Policies.Thresholds, exceptions))
	revisions := map[string]any{}
	for part, content := range map[string]any{
		PartPolicies:   texts(modules),
		PartExceptions: data["exceptions"],
		PartImages:     []any{data["images"], data["details"], data["names"], data["indexes"]},
	} {
		if revisions[part], err = revisionOf(content); err != nil {
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

// Policies packs the library and the modules of a set alone, as the bundle of
// [PartPolicies]: images and exceptions come in bundles beside it.
func Policies(set *policies.Set) (*bundle.Bundle, error) {
	modules, err := modulesOf(set)
	if err != nil {
		return nil, err
	}
	revision, err := revisionOf(texts(modules))
	if err != nil {
		return nil, err
	}
	return part(PartPolicies, revision, modules, nil, roots(modules)...), nil
}

// Data packs documents as a bundle of their own, by their paths below data.assay,
// which are its roots: for example {"exceptions": …} as [PartExceptions], or
// {"images/0a": …} as one of many bundles of images.
func Data(name string, documents map[string]any) (*bundle.Bundle, error) {
	revision, err := revisionOf(documents)
	if err != nil {
		return nil, err
	}
	var roots []string
	data := map[string]any{}
	for _, path := range slices.Sorted(maps.Keys(documents)) {
		roots = append(roots, "assay/"+path)
		keys := strings.Split(path, "/")
		object := data
		for _, key := range keys[:len(keys)-1] {
			next, ok := object[key].(map[string]any)
			if !ok {
				next = map[string]any{}
				object[key] = next
			}
			object = next
		}
		object[keys[len(keys)-1]] = documents[path]
	}
	return part(name, revision, nil, data, roots...), nil
}

func part(name, revision string, modules []bundle.ModuleFile, data map[string]any, roots ...string) *bundle.Bundle {
	if data == nil {
		data = map[string]any{}
	}
	data["revisions"] = map[string]any{name: revision}
	return &bundle.Bundle{
		Manifest: manifest(revision, append(roots, "assay/revisions/"+name)...),
		Data:     map[string]any{"assay": data},
		Modules:  modules,
	}
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

func texts(modules []bundle.ModuleFile) map[string]string {
	out := map[string]string{}
	for _, m := range modules {
		out[m.Path] = string(m.Raw)
	}
	return out
}

// revisionOf is the SHA-256 of any content in canonical form.
func revisionOf(content any) (string, error) {
	h := sha256.New()
	if err := json.NewEncoder(h).Encode(content); err != nil {
		return "", fmt.Errorf("computing the revision: %w", err)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

// Write packs a bundle as a gzipped tar, byte for byte the same each time.
func Write(w io.Writer, b *bundle.Bundle) error {
	if err := bundle.NewWriter(w).Write(*b); err != nil {
		return fmt.Errorf("writing the bundle: %w", err)
	}
	return nil
}

// Read unpacks a bundle of at most [MaxBundle] bytes.
func Read(r io.Reader) (*bundle.Bundle, error) {
	b, err := bundle.NewCustomReader(bundle.NewTarballLoaderWithBaseURL(r, "")).
		WithSizeLimitBytes(MaxBundle).WithProcessAnnotations(true).WithRegoVersion(ast.RegoV1).Read()
	if err != nil {
		return nil, fmt.Errorf("reading the bundle: %w", err)
	}
	return &b, nil
}

// Bytes is [Write] into memory.
func Bytes(b *bundle.Bundle) ([]byte, error) {
	var buf bytes.Buffer
	err := Write(&buf, b)
	return buf.Bytes(), err
}
