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

// faultsOf says what has the wrong shape in a request, sorted.
func faultsOf(request map[string]any, run places) []string {
	s := &shape{}
	present := isObject(request, "object")
	if !present {
		s.add("the object is missing")
	}
	if wrong(run.object, "metadata", "object") {
		s.add("metadata is no object")
	}
	s.labels("", member(run.object, "metadata"))
	for _, m := range run.misfits {
		s.add("%s", m)
	}
	switch {
	case !present || len(run.templates)+len(run.images) > 0 || run.refers():
	case run.of.One():
		s.add("the pod template is missing")
	default:
		s.add("none of its pod templates and images is there")
	}
	for _, t := range run.templates {
		s.template(t, run.of.One())
	}
	for _, i := range run.images {
		if typeName(i.value) != "string" {
			s.add("%s is no string", i.place)
		}
	}
	return s.faults()
}

func (s *shape) template(t spot, one bool) {
	at := t.place + ": "
	if one {
		at = ""
	}
	template, ok := t.value.(map[string]any)
	if !ok {
		s.add("%sthe pod template is missing", at)
		return
	}
	if wrong(template, "metadata", "object") {
		s.add("%s", dotted(t.place, "metadata is no object"))
	}
	s.labels(t.place, member(template, "metadata"))
	spec, ok := template["spec"].(map[string]any)
	if !ok {
		s.add("%sthe pod spec is missing", at)
		return
	}
	s.podSpec(at, spec)
}

// labels looks at those of an object, or of what is at a place in it.
func (s *shape) labels(place string, metadata map[string]any) {
	if wrong(metadata, "labels", "object") || len(labelsOf(metadata)) < len(member(metadata, "labels")) {
		s.add("%s", dotted(place, "metadata.labels must map strings to strings"))
	}
}

func (s *shape) podSpec(at string, spec map[string]any) {
	if typeName(spec["containers"]) != "array" {
		s.add("%sthe pod spec has no list of containers", at)
	}
	for _, list := range []string{"initContainers", "ephemeralContainers", "volumes"} {
		if wrong(spec, list, "array") {
			s.add("%s%s is no list", at, list)
		}
	}
	for _, list := range append(slices.Clone(containerLists), "volumes") {
		for i, c := range items(spec, list) {
			if typeName(c) != "object" {
				s.add("%s%s[%d] is no object", at, list, i)
			}
			if list != "volumes" && wrong(c, "image", "string") {
				s.add("%s%s[%d].image is no string", at, list, i)
			}
		}
	}
	for i, v := range items(spec, "volumes") {
		if wrong(v, "image", "object") {
			s.add("%svolumes[%d].image is no object", at, i)
		}
		if wrong(member(v, "image"), "reference", "string") {
			s.add("%svolumes[%d].image.reference is no string", at, i)
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
