package reference

import (
	"errors"
	"fmt"
	"strings"

	"github.com/assay-dev/assay/api"
)

func text(o object, key string) string {
	s, _ := o[key].(string)
	return s
}

func stringMap(v any) map[string]string {
	out := map[string]string{}
	o, _ := v.(object)
	for k, x := range o {
		if s, ok := x.(string); ok {
			out[k] = s
		}
	}
	return out
}

// at walks a dotted path of objects; nil when it does not lead to one.
func at(o object, path string) object {
	if path == "" {
		return o
	}
	for _, step := range strings.Split(path, ".") {
		o, _ = o[step].(object)
	}
	return o
}

// containersOf lists the images of a pod template: init containers, containers, ephemeral
// containers, image volumes, each named after the prefix.
func containersOf(template object, prefix string) ([]api.Container, error) {
	spec, ok := template["spec"].(object)
	if !ok {
		return nil, errors.New("no pod spec")
	}
	if spec["containers"] == nil {
		return nil, errors.New("no containers")
	}
	var out []api.Container
	for _, field := range []string{"initContainers", "containers", "ephemeralContainers"} {
		list, err := objects(spec, field)
		if err != nil {
			return nil, err
		}
		for _, c := range list {
			image := text(c, "image")
			if c["image"] != nil {
				if _, ok := c["image"].(string); !ok {
					return nil, fmt.Errorf("the image in %s is no string", field)
				}
			}
			out = append(out, api.NewContainer(prefix+text(c, "name"), image))
		}
	}
	volumes, err := objects(spec, "volumes")
	if err != nil {
		return nil, err
	}
	for _, v := range volumes {
		image, ok := v["image"].(object)
		if !ok {
			if v["image"] != nil {
				return nil, errors.New("the image of a volume is no object")
			}
			continue
		}
		out = append(out, api.NewContainer(prefix+"volume/"+text(v, "name"), text(image, "reference")))
	}
	return out, nil
}

// objects is a list of objects; absent is empty.
func objects(spec object, field string) ([]object, error) {
	if spec[field] == nil {
		return nil, nil
	}
	list, ok := spec[field].([]any)
	if !ok {
		return nil, fmt.Errorf("%s is no list", field)
	}
	var out []object
	for _, x := range list {
		o, ok := x.(object)
		if !ok {
			return nil, fmt.Errorf("an item of %s is no object", field)
		}
		out = append(out, o)
	}
	return out, nil
}
