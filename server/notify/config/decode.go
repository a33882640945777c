package config

import (
	"errors"
	"slices"

	"github.com/assay-dev/assay/stream"
)

// MaxFile is the largest document, in bytes.
const MaxFile = 1 << 20

// Messages must not quote: what stands in the wrong place may be a secret.
var bounds = stream.Config{Document: MaxFile, Total: MaxFile, Nodes: 50_000, Depth: 16, Secret: true}

// Diagnostic is one thing wrong with a file, Diagnostics an error of all of them.
type (
	Diagnostic  = stream.Diagnostic
	Diagnostics = stream.Diagnostics
)

// maxDiags bounds what is told.
const maxDiags = 200

// decoder checks a document.
type decoder struct {
	doc    *stream.Document
	diags  Diagnostics
	places stream.Places // what was given
}

// decode reads the only document of a file into v, a pointer to a struct. Without one,
// places are nil.
func (d *decoder) decode(file string, text []byte, v any) {
	doc, err := stream.One(file, text, bounds)
	if err == nil {
		node, nodeErr := doc.Node()
		if err = nodeErr; err == nil {
			d.doc, d.places = doc, doc.Decode(node, v, &d.diags)
		}
	}
	var bad Diagnostics
	if errors.As(err, &bad) {
		d.diags = append(d.diags, bad...)
	}
}

// at reports what is wrong with a member, at the nearest place that was given. A
// member of the wrong type was reported already.
func (d *decoder) at(path, format string, args ...any) {
	if !slices.ContainsFunc(d.diags, func(diag Diagnostic) bool { return diag.Path == path }) {
		n, _ := d.places.At(path)
		d.diags = append(d.diags, d.doc.Fault(n, path, format, args...))
	}
}

func (d *decoder) err() error {
	if len(d.diags) > maxDiags {
		d.diags = d.diags[:maxDiags]
	}
	return d.diags.Err()
}
