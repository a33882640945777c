package review

import (
	"fmt"
	"slices"
)

// shape collects what has the wrong shape in an object under review.
type shape struct{ found []string }

func (s *shape) add(format string, args ...any) {
	s.found = append(s.found, fmt.Sprintf(format, args...))
}

func (s *shape) faults() []string {
	slices.Sort(s.found)
	return append([]string{}, slices.Compact(s.found)...)
}

func (s *shape) request(request, object map[string]any, template any) {
	present := object != nil || isEmptyObject(request["object"])
	if !present {
		s.add("the object is missing")
	}
	if wrong(object, "metadata", "object") {
		s.add("metadata is no object")
	}
	s.labels(member(object, "metadata"))
	if present && typeName(template) != "object" {
		s.add("the pod template is missing")
	}
	t, ok := template.(map[string]any)
	if !ok {
		return
	}
	spec, ok := t["spec"].(map[string]any)
	if !ok {
		s.add("the pod spec is missing")
		return
	}
	s.podSpec(spec)
}

func (s *shape) labels(metadata map[string]any) {
	if wrong(metadata, "labels", "object") {
		s.add("metadata.labels must map strings to strings")
	}
	for _, v := range member(metadata, "labels") {
		if typeName(v) != "string" {
			s.add("metadata.labels must map strings to strings")
		}
	}
}

func (s *shape) podSpec(spec map[string]any) {
	if typeName(spec["containers"]) != "array" {
		s.add("the pod spec has no list of containers")
	}
	for _, list := range []string{"initContainers", "ephemeralContainers", "volumes"} {
		if wrong(spec, list, "array") {
			s.add("%s is no list", list)
		}
	}
	for _, list := range append(slices.Clone(containerLists), "volumes") {
		for i, c := range items(spec, list) {
			if typeName(c) != "object" {
				s.add("%s[%d] is no object", list, i)
			}
			if list != "volumes" && wrong(c, "image", "string") {
				s.add("%s[%d].image is no string", list, i)
			}
		}
	}
	for i, v := range items(spec, "volumes") {
		if wrong(v, "image", "object") {
			s.add("volumes[%d].image is no object", i)
		}
		if wrong(member(v, "image"), "reference", "string") {
			s.add("volumes[%d].image.reference is no string", i)
		}
	}
}

// wrong holds when a member is there, is not null, and has another type.
func wrong(x any, key, want string) bool {
	m, ok := x.(map[string]any)
	if !ok || m[key] == nil {
		return false
	}
	return typeName(m[key]) != want
}

func isEmptyObject(x any) bool {
	m, ok := x.(map[string]any)
	return ok && len(m) == 0
}

// typeName names JSON types as Rego's type_name does.
func typeName(x any) string {
	switch x.(type) {
	case map[string]any:
		return "object"
	case []any:
		return "array"
	case string:
		return "string"
	case nil:
		return "null"
	case bool:
		return "boolean"
	}
	return "number"
}
