// Package bundles packs policies, exceptions and scans into an OPA bundle: the
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

// Build compiles and packs the content. Equal content gives equal bytes and an
// equal revision.
func Build(c Content) (*bundle.Bundle, error) {
	generated, err := c.Policies.Compile()
	if err != nil {
		return nil, err
	}
	texts := map[string]string{}
	for name, text := range rego.Library() {
		texts["/assay/library/"+name] = text
	}
	for name, text := range generated {
		texts["/assay/"+name] = text
	}
	exceptions := slices.Concat(c.Policies.Exceptions, c.Exceptions)
	data := documents.Data(c.Scans, exceptions, documents.NeedsOf(c.Policies.Thresholds, exceptions))
	revision, err := revisionOf(texts, data)
	if err != nil {
		return nil, err
	}
	data["revision"] = revision

	regoVersion := 1
	b := &bundle.Bundle{
		Manifest: bundle.Manifest{Revision: revision, Roots: &[]string{"assay"}, RegoVersion: &regoVersion},
		Data:     map[string]any{"assay": data},
	}
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		module, err := ast.ParseModuleWithOpts(name, texts[name], ast.ParserOptions{ProcessAnnotation: true, RegoVersion: ast.RegoV1})
		if err != nil {
			return nil, fmt.Errorf("compiling %s: %w", name, err)
		}
		b.Modules = append(b.Modules, bundle.ModuleFile{URL: name, Path: name, Raw: []byte(texts[name]), Parsed: module})
	}
	return b, nil
}

// revisionOf is the SHA-256 of the modules and data in canonical form.
func revisionOf(texts map[string]string, data map[string]any) (string, error) {
	h := sha256.New()
	if err := json.NewEncoder(h).Encode([]any{texts, data}); err != nil {
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
