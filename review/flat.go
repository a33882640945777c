package review

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/assay-dev/assay/api"
)

// flatMembers must be there, and have values of these types.
var flatMembers = map[string]string{
	"now": "string", "operation": "string", "group": "string", "kind": "string", "subresource": "string", "namespace": "string", "name": "string", "user": "string",
	"hasOld": "boolean", "oldDeleting": "boolean", "templateChanged": "boolean",
	"containers": "array", "oldImages": "array", "malformed": "array", "labels": "object",
}

// IsFlat tells a flat review from other JSON.
func IsFlat(text []byte) bool {
	var probe struct {
		Schema string `json:"schema"`
	}
	return json.Unmarshal(text, &probe) == nil && probe.Schema == api.SchemaReview
}

// FromFlat reads a flat review, as records have it. One that lacks a member is
// refused, as data.assay.admission does: it would be about less than there is. Its
// cluster is not taken: who asks says for which one.
func FromFlat(body []byte) (Input, error) {
	if len(body) > MaxReview {
		return Input{}, fmt.Errorf("%w: it has %d bytes; at most %d are read", ErrInput, len(body), MaxReview)
	}
	v, err := decodeJSON(body)
	if err != nil {
		return Input{}, fmt.Errorf("%w: not JSON: %w", ErrInput, err)
	}
	doc, _ := v.(map[string]any)
	var faults []string
	for _, name := range slices.Sorted(maps.Keys(flatMembers)) {
		if typeName(doc[name]) != flatMembers[name] {
			faults = append(faults, fmt.Sprintf("%s must be there, of type %s", name, flatMembers[name]))
		}
	}
	if now := text(doc, "now"); len(now) != len(api.TimeLayout) {
		faults = append(faults, "now must have the form of "+api.TimeLayout)
	}
	if cluster, given := doc["cluster"]; given && typeName(cluster) != "string" {
		faults = append(faults, "cluster must be a string")
	}
	if labels, given := doc["namespaceLabels"]; !given || typeName(labels) != "object" && labels != nil {
		faults = append(faults, "namespaceLabels must be there, an object or null")
	}
	for i, c := range items(doc, "containers") {
		for _, name := range []string{"container", "image", "normal"} {
			m, _ := c.(map[string]any)
			if typeName(m[name]) != "string" {
				faults = append(faults, fmt.Sprintf("containers[%d].%s must be a string", i, name))
			}
		}
	}
	var flat api.FlatReview
	exact, err := json.Marshal(exactly(doc))
	if err == nil {
		err = json.Unmarshal(exact, &flat)
	}
	if err != nil {
		faults = append(faults, err.Error())
	}
	if faults != nil {
		return Input{}, fmt.Errorf("%w: a flat review: %s", ErrInput, strings.Join(faults, "; "))
	}
	in := Input{Review: flat.Review}
	in.setNow(flat.Now)
	return in, nil
}

// exactly keeps the members as Rego reads them, by their exact names: encoding/json
// would take Owner for owner.
func exactly(doc map[string]any) map[string]any {
	out := pick(doc, slices.Collect(maps.Keys(flatMembers))...)
	maps.Copy(out, pick(doc, "namespaceLabels", "ownerImages", "templateLabels"))
	for _, list := range []string{"containers", "oldContainers"} {
		if _, ok := doc[list].([]any); ok {
			containers := []any{}
			for _, c := range items(doc, list) {
				m, _ := c.(map[string]any)
				containers = append(containers, pick(m, "container", "image", "normal", "name", "tag", "digest"))
			}
			out[list] = containers
		}
	}
	if isObject(doc, "owner") {
		out["owner"] = pick(member(doc, "owner"), "group", "kind")
	}
	if isObject(doc, "override") {
		out["override"] = pick(member(doc, "override"), "reason", "until", "granted")
	}
	return out
}

func pick(m map[string]any, names ...string) map[string]any {
	out := map[string]any{}
	for _, name := range names {
		if v, ok := m[name]; ok {
			out[name] = v
		}
	}
	return out
}
