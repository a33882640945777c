package reference

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/assay-dev/assay/api"
)

// places are the paths of a kind to what it runs.
type places struct{ templates, images, references []string }

// a spot is what is at a place.
type spot struct {
	place string
	value any
}

// runs is what an object runs.
type runs struct {
	containers []api.Container
	labels     []map[string]string // of each template
}

// follow gives what is at a path. Where a list, or an item of one, has the wrong type,
// there is an error, beside what there is elsewhere.
func follow(value any, path, place string) (out []spot, err error) {
	if value == nil {
		return nil, nil
	}
	if path == "" {
		return []spot{{place, value}}, nil
	}
	if rest, ok := strings.CutPrefix(path, "[]"); ok {
		rest = strings.TrimPrefix(rest, ".")
		each := func(key string, item any) {
			if _, isObject := item.(object); !isObject && rest != "" && !strings.HasPrefix(rest, "[]") {
				err = fmt.Errorf("%s[%s] is no object", place, key)
				return
			}
			more, fault := follow(item, rest, place+"["+key+"]")
			out = append(out, more...)
			if fault != nil {
				err = fault
			}
		}
		switch list := value.(type) {
		case []any:
			for i, item := range list {
				each(fmt.Sprint(i), item)
			}
		case object:
			for _, key := range slices.Sorted(maps.Keys(list)) {
				each(key, list[key])
			}
		default:
			err = fmt.Errorf("%s is no list", place)
		}
		return out, err
	}
	o, _ := value.(object)
	name := path[:strings.IndexAny(path+".", ".[")]
	if place != "" {
		place += "."
	}
	return follow(o[name], strings.TrimPrefix(path[len(name):], "."), place+name)
}

func followAll(o object, paths []string) (out []spot, err error) {
	for _, p := range paths {
		more, fault := follow(o, p, "")
		out = append(out, more...)
		if fault != nil {
			err = fault
		}
	}
	return out, err
}

// values are what an update must leave as it is for nothing to be judged.
func (p places) values(o object) [2][]spot {
	if o == nil {
		o = object{}
	}
	templates, _ := followAll(o, p.templates)
	images, _ := followAll(o, p.images)
	return [2][]spot{templates, images}
}

// find lists what an object runs.
func (p places) find(o object) (out runs, err error) {
	if o == nil {
		return out, fmt.Errorf("no object")
	}
	templates, err := followAll(o, p.templates)
	if err != nil {
		return runs{}, err
	}
	images, err := followAll(o, p.images)
	if err != nil {
		return runs{}, err
	}
	if len(templates)+len(images) == 0 {
		for _, r := range p.references {
			if found, _ := follow(o, r, ""); len(found) > 0 {
				return out, nil
			}
		}
		return out, fmt.Errorf("nothing to run")
	}
	for _, t := range templates {
		template, ok := t.value.(object)
		if !ok {
			return runs{}, fmt.Errorf("%s is no object", t.place)
		}
		prefix := t.place + "/"
		if len(p.templates) == 1 && len(p.images) == 0 && !strings.Contains(p.templates[0], "[]") {
			prefix = ""
		}
		containers, err := containersOf(template, prefix)
		if err != nil {
			return runs{}, err
		}
		out.containers = append(out.containers, containers...)
		meta, _ := template["metadata"].(object)
		if template["metadata"] != nil && meta == nil {
			return runs{}, fmt.Errorf("metadata of %s", t.place)
		}
		labels, _ := meta["labels"].(object)
		if meta["labels"] != nil && labels == nil || len(stringMap(labels)) < len(labels) {
			return runs{}, fmt.Errorf("labels of %s", t.place)
		}
		out.labels = append(out.labels, stringMap(labels))
	}
	for _, i := range images {
		image, ok := i.value.(string)
		if !ok {
			return runs{}, fmt.Errorf("%s is no string", i.place)
		}
		out.containers = append(out.containers, api.NewContainer(i.place, image))
	}
	return out, nil
}

// named are the images that an owner names, whatever else is wrong with it.
func (p places) named(o object) (images []string, known bool) {
	templates, _ := followAll(o, p.templates)
	for _, t := range templates {
		template, _ := t.value.(object)
		spec, ok := template["spec"].(object)
		known = known || ok
		for _, field := range []string{"initContainers", "containers", "ephemeralContainers", "volumes"} {
			list, _ := spec[field].([]any)
			for _, x := range list {
				c, _ := x.(object)
				image := text(c, "image")
				if field == "volumes" {
					v, _ := c["image"].(object)
					image = text(v, "reference")
				}
				if image != "" {
					images = append(images, image)
				}
			}
		}
	}
	list, _ := followAll(o, p.images)
	for _, i := range list {
		image, ok := i.value.(string)
		known = known || ok
		if image != "" {
			images = append(images, image)
		}
	}
	return images, known
}
