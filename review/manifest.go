package review

import (
	"fmt"
	"strings"
)

// FromManifest flattens a manifest, decoded from JSON, as if an ordinary user created
// it in its namespace, or in the given one where it names none. Namespace labels are
// none but the namespace's name until the caller sets others.
func FromManifest(object map[string]any, kinds Kinds, namespace string) (Input, error) {
	version, kind := text(object, "apiVersion"), text(object, "kind")
	if version == "" || kind == "" {
		return Input{}, fmt.Errorf("%w: a manifest needs apiVersion and kind", ErrInput)
	}
	metadata := member(object, "metadata")
	// YAML reads an n, a no and a 12 as no text: such a namespace is not the default one.
	for _, name := range []string{"name", "namespace"} {
		if value := metadata[name]; value != nil && typeName(value) != "string" {
			return Input{}, fmt.Errorf("%w: %s: metadata.%s is %v, which is no text: put it in quotes", ErrInput, kind, name, value)
		}
	}
	if own := text(metadata, "namespace"); own != "" {
		namespace = own
	}
	r := flatten(map[string]any{
		"operation": "CREATE",
		"kind":      map[string]any{"group": groupOf(version), "kind": kind},
		"namespace": namespace,
		"object":    object,
	}, kinds)
	if len(r.Malformed) > 0 {
		return Input{}, fmt.Errorf("%w: %s %s: %s", ErrInput, kind, r.Name, strings.Join(r.Malformed, "; "))
	}
	r.NamespaceLabels = WithName(map[string]string{}, namespace)
	return Input{Review: r, Unread: unread(object, r)}, nil
}

// NamespaceLabels are the name and the labels of a manifest that is a Namespace; the
// name is "" for any other.
func NamespaceLabels(object map[string]any) (name string, labels map[string]string, err error) {
	if text(object, "apiVersion") != "v1" || text(object, "kind") != "Namespace" {
		return "", nil, nil
	}
	metadata := member(object, "metadata")
	if name = text(metadata, "name"); name == "" {
		return "", nil, fmt.Errorf("%w: a Namespace needs metadata.name", ErrInput)
	}
	shape := &shape{}
	shape.labels("", metadata)
	if faults := shape.faults(); len(faults) > 0 {
		return "", nil, fmt.Errorf("%w: Namespace %s: %s", ErrInput, name, strings.Join(faults, "; "))
	}
	return name, labelsOf(metadata), nil
}
