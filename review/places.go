package review

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/assay-dev/assay/api"
)

// spot is a value, and where it stands: spec.jobs[0].template.
type spot struct {
	place string
	value any
}

// places are what an object has at the places of its kind. A template or image of the wrong
// type is among them.
type places struct {
	of                api.Places
	object            map[string]any
	templates, images []spot
	misfits           []string // what a path cannot follow
}

func placesIn(object map[string]any, of api.Places) places {
	p := places{of: of, object: object}
	for _, path := range of.Templates {
		p.templates = append(p.templates, p.follow(path, spot{value: object})...)
	}
	for _, path := range of.Images {
		p.images = append(p.images, p.follow(path, spot{value: object})...)
	}
	return p
}

// follow gives what is at a path from some value. What is absent or null is not there.
func (p *places) follow(path api.Path, from spot) (found []spot) {
	from = spot{dotted(from.place, path[0]...), walk(from.value, path[0])}
	switch {
	case from.value == nil:
		return nil
	case len(path) == 1:
		return []spot{from}
	}
	item := func(key, value any) {
		at := spot{fmt.Sprintf("%s[%v]", from.place, key), value}
		if _, ok := value.(map[string]any); !ok && len(path[1]) > 0 {
			p.misfits = append(p.misfits, at.place+" is no object")
			return
		}
		found = append(found, p.follow(path[1:], at)...)
	}
	switch list := from.value.(type) {
	case []any:
		for i, value := range list {
			item(i, value)
		}
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(list)) {
			item(name, list[name])
		}
	default:
		p.misfits = append(p.misfits, from.place+" is no list")
	}
	return found
}

// equal says that nothing differs that runs.
func (p places) equal(q places) bool {
	same := func(a, b spot) bool { return a.place == b.place && equal(a.value, b.value) }
	return slices.EqualFunc(p.templates, q.templates, same) && slices.EqualFunc(p.images, q.images, same)
}

// refers says that the object says that it runs something else.
func (p places) refers() bool {
	return slices.ContainsFunc(p.of.References, func(path api.Path) bool { return walk(p.object, path[0]) != nil })
}

// labels are those of each template.
func (p places) labels() []map[string]string {
	all := []map[string]string{}
	for _, t := range p.templates {
		all = append(all, labelsOf(member(t.value, "metadata")))
	}
	return all
}

// containers are those of the templates, and then the images.
func (p places) containers() []api.Container {
	all := []api.Container{}
	for _, t := range p.templates {
		prefix := t.place + "/"
		if p.of.One() {
			prefix = ""
		}
		all = append(all, containersOf(member(t.value, "spec"), prefix)...)
	}
	for _, i := range p.images {
		if image, ok := i.value.(string); ok {
			all = append(all, api.NewContainer(i.place, image))
		}
	}
	return all
}

// namesImages says that it is known what runs, were it nothing.
func (p places) namesImages() bool {
	return slices.ContainsFunc(p.templates, func(t spot) bool { return isObject(t.value, "spec") }) ||
		slices.ContainsFunc(p.images, func(i spot) bool { return typeName(i.value) == "string" })
}

// walk is the value of a member within members, nil where it is not there.
func walk(x any, members []string) any {
	for _, name := range members {
		m, _ := x.(map[string]any)
		x = m[name]
	}
	return x
}

// dotted is the place of a member within members.
func dotted(place string, members ...string) string {
	if place != "" {
		members = append([]string{place}, members...)
	}
	return strings.Join(members, ".")
}
