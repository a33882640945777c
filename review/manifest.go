package review

import (
	"encoding/json"
	"fmt"
	"strings"
)

// maxItems bounds the objects of one list.
const maxItems = 100_000

// FromManifest flattens a manifest, given as JSON, as if an ordinary user created
// it in its namespace, or in the given one where it names none. A List gives one
// input for each of its items, nested lists included. Namespace labels are none
// but the namespace's name until the caller sets others.
func FromManifest(text []byte, kinds Kinds, namespace string) ([]Input, error) {
	if len(text) > MaxReview {
		return nil, fmt.Errorf("%w: it has %d bytes; at most %d are read", ErrInput, len(text), MaxReview)
	}
	v, err := decodeJSON(text)
	if err != nil {
		return nil, fmt.Errorf("%w: not JSON: %w", ErrInput, err)
	}
	return manifest(v, kinds, namespace, 0)
}

func manifest(v any, kinds Kinds, namespace string, depth int) ([]Input, error) {
	object, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%w: a manifest must be an object with apiVersion and kind", ErrInput)
	}
	version, kind := text(object, "apiVersion"), text(object, "kind")
	if version == "" || kind == "" {
		return nil, fmt.Errorf("%w: a manifest needs apiVersion and kind", ErrInput)
	}
	if list, ok := object["items"].([]any); ok && strings.HasSuffix(kind, "List") {
		if len(list) > maxItems || depth > 2 {
			return nil, fmt.Errorf("%w: a list has more than %d items, or lists in lists in lists", ErrInput, maxItems)
		}
		var inputs []Input
		for i, item := range list {
			more, err := manifest(item, kinds, namespace, depth+1)
			if err != nil {
				return nil, fmt.Errorf("items[%d]: %w", i, err)
			}
			inputs = append(inputs, more...)
		}
		return inputs, nil
	}
	group, _, found := strings.Cut(version, "/")
	if !found {
		group = ""
	}
	if own := text(member(object, "metadata"), "namespace"); own != "" {
		namespace = own
	}
	r := flatten(map[string]any{
		"operation": "CREATE",
		"kind":      map[string]any{"group": group, "kind": kind},
		"namespace": namespace,
		"object":    object,
	}, kinds)
	if len(r.Malformed) > 0 {
		return nil, fmt.Errorf("%w: %s %s: %s", ErrInput, kind, r.Name, strings.Join(r.Malformed, "; "))
	}
	r.NamespaceLabels = WithName(map[string]string{}, namespace)
	return []Input{{Review: r}}, nil
}

// IsAdmissionReview tells an AdmissionReview from a manifest.
func IsAdmissionReview(text []byte) bool {
	var probe struct {
		Kind    string          `json:"kind"`
		Request json.RawMessage `json:"request"`
	}
	return json.Unmarshal(text, &probe) == nil && (probe.Kind == "AdmissionReview" || probe.Kind == "" && probe.Request != nil)
}
