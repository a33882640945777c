package bundles

import (
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/bundle"
)

// Documents is [Data] with a revision that the caller knows to name the content.
func Documents(name, revision string, documents map[string]any) (*bundle.Bundle, error) {
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
