// Package manifests reads what is to be decided on: manifests, AdmissionReviews and flat
// reviews, of any number of files. All that a file holds is read, or is a fault with its
// place; one object that cannot be read does not hide the others.
package manifests

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/review"
	"github.com/assay-dev/assay/stream"
)

// Bounds are those of a file: a list of thousands of workloads, as the API server gives
// them with managedFields, is one document.
var Bounds = stream.Config{Document: 64 << 20, Total: 1 << 30, Nodes: 5_000_000, Depth: 1000}

const (
	maxObjects = 200_000 // of all files
	maxFaults  = 1000
)

// Reader reads files. Kinds and Namespace, which is that of manifests that name none, are
// to be given. It is not to be used by several goroutines.
type Reader struct {
	Kinds     review.Kinds
	Namespace string

	found      []Found
	faults     stream.Diagnostics
	warnings   stream.Diagnostics
	namespaces map[string]map[string]string // the labels of Namespaces among the manifests
}

// Found is one object to decide on.
type Found struct {
	review.Input
	api.FilePlace
	manifest bool
}

// Place is `file:line`, and which document and item it is where there are others.
func Place(p api.FilePlace) string {
	text := fmt.Sprintf("%s:%d", p.File, p.Line)
	if p.Document > 1 {
		text += fmt.Sprintf(", document %d", p.Document)
	}
	if p.Path != "" {
		text += ", " + p.Path
	}
	return text
}

// Fault adds one.
func (r *Reader) Fault(d ...stream.Diagnostic) { r.faults = append(r.faults, d...) }

// Read reads a file of some name. The error is of reading it, or of a bound on all files.
func (r *Reader) Read(name string, in io.Reader) error {
	for documents := stream.NewReader(name, in, Bounds); ; {
		doc, err := documents.Next()
		var bad stream.Diagnostics
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.As(err, &bad):
			r.Fault(bad...)
		case err != nil:
			return fmt.Errorf("reading %s: %w", name, err)
		default:
			objects, _, err := doc.Objects()
			if errors.As(err, &bad) {
				r.Fault(bad...)
			}
			for _, o := range objects {
				r.object(doc, o)
			}
		}
		switch {
		case len(r.found) > maxObjects:
			return fmt.Errorf("%s: there are more than %d objects", name, maxObjects)
		case len(r.faults) > maxFaults:
			return fmt.Errorf("%w\nand more: there are more than %d faults", r.faults[:maxFaults].Err(), maxFaults)
		}
	}
}

// Found are the objects that could be read, in their order. A Namespace among the manifests
// gives its labels to those that are in it.
func (r *Reader) Found() []Found {
	for i := range r.found {
		in := &r.found[i].Review
		if labels, ok := r.namespaces[in.Namespace]; ok && r.found[i].manifest {
			in.NamespaceLabels = review.WithName(labels, in.Namespace)
		}
	}
	return r.found
}

// Faults are what could not be read, by place.
func (r *Reader) Faults() stream.Diagnostics {
	sorted, _ := r.faults.Err().(stream.Diagnostics)
	return sorted
}

// Warnings are of members that are given twice.
func (r *Reader) Warnings() stream.Diagnostics { return r.warnings }

// object adds an object, or what is wrong with it.
func (r *Reader) object(doc *stream.Document, o stream.Object) {
	if len(r.found) > maxObjects || len(r.faults) > maxFaults {
		return // which ends the reading
	}
	value, warnings, err := doc.Value(o.Node)
	var bad stream.Diagnostics
	if errors.As(err, &bad) {
		r.Fault(bad...)
		return
	}
	if r.warnings = append(r.warnings, warnings...); len(r.warnings) > maxFaults {
		r.warnings = r.warnings[:maxFaults]
	}
	object, ok := value.(map[string]any)
	if !ok {
		r.Fault(doc.Fault(o.Node, o.Path, "must be an object with apiVersion and kind, not %s", doc.Describe(o.Node)))
		return
	}
	found := Found{FilePlace: api.FilePlace{File: doc.File, Document: doc.Number, Line: o.Node.Line, Path: o.Path}}
	_, isRequest := object["request"].(map[string]any) // of whatever kind it says to be
	switch {
	case object["schema"] == api.SchemaReview:
		err = asJSON(&found, object, review.FromFlat)
	case o.Kind == "AdmissionReview", isRequest:
		err = asJSON(&found, object, func(text []byte) (review.Input, error) { return review.FromAdmissionReview(text, r.Kinds) })
	default:
		err = r.fromManifest(&found, object, o)
	}
	if err == nil {
		_, err = found.Now(time.Time{})
	}
	if err != nil {
		r.Fault(doc.Fault(o.Node, o.Path, "%v", err))
		return
	}
	r.found = append(r.found, found)
}

func asJSON(found *Found, object map[string]any, read func([]byte) (review.Input, error)) error {
	text, err := json.Marshal(object)
	if err == nil {
		found.Input, err = read(text)
	}
	return err
}

// groupOfWorkflows has parameters of its own in braces, which the cluster fills in. Such an
// image cannot be read, and is Unknown.
const groupOfWorkflows = "argoproj.io"

func (r *Reader) fromManifest(found *Found, object map[string]any, o stream.Object) (err error) {
	for name, text := range map[string]string{"apiVersion": o.APIVersion, "kind": o.Kind} {
		if _, given := object[name]; !given && text != "" {
			object[name] = text // which the list says
		}
	}
	if found.Input, err = review.FromManifest(object, r.Kinds, r.Namespace); err != nil {
		return err
	}
	for _, c := range found.Review.Containers {
		if strings.Contains(c.Image, "{{") && found.Review.Group != groupOfWorkflows {
			return fmt.Errorf("the image %.80q of container %.80q looks like a template: render it first, as helm template does", c.Image, c.Container)
		}
	}
	name, labels, err := review.NamespaceLabels(object)
	if err == nil && name != "" {
		if r.namespaces == nil {
			r.namespaces = map[string]map[string]string{}
		}
		r.namespaces[name] = labels
	}
	found.manifest = true
	return err
}
