package corpus

import (
	_ "embed"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/assay-dev/assay/api"
)

//go:embed shapes.yaml
var shapesText string

// Manifest is one of a kind of another project, or of an old version, and the images that were
// put into it. It says nothing of where they are.
type Manifest struct {
	Object map[string]any
	Images []string
}

// Manifests makes some of each shape in turn, all images of which differ. The same seed gives the same.
func Manifests(seed uint64, n int) []Manifest {
	var shapes []object
	for _, text := range strings.Split(shapesText, "\n---\n") {
		var shape object
		if err := yaml.UnmarshalStrict([]byte(text), &shape); err != nil {
			panic(fmt.Sprintf("%v\n%s", err, text))
		}
		shapes = append(shapes, shape)
	}
	g := &shaper{Rand: rand.New(rand.NewPCG(seed, 0x5a9e))}
	all := make([]Manifest, n)
	for i := range all {
		shape := shapes[i%len(shapes)]
		g.images, g.workflow = []string{}, strings.HasPrefix(shape["apiVersion"].(string), "argoproj.io/")
		o := g.fill(shape).(object)
		o["metadata"] = object{"name": fmt.Sprintf("it-%d", i), "namespace": "shop", "annotations": object{"image": "not/an-image:1"}}
		all[i] = Manifest{Object: o, Images: g.images}
	}
	return all
}

// KnownKinds are settings that name each known kind, and say no more.
func KnownKinds() (kinds []api.CustomKind) {
	for _, w := range api.KnownWorkloads() {
		kinds = append(kinds, api.CustomKind{APIGroup: w.Group, Kind: w.Kind})
	}
	return kinds
}

type shaper struct {
	*rand.Rand
	images   []string
	n        int
	workflow bool
}

// image is a reference as people write them, or a parameter, each another one.
func (g *shaper) image() string {
	forms := []string{
		"it-%d", "nginx:%d", "ghcr.io/org/app-%d", "quay.io/a/b/c:v%d-rc.1", "registry.example.com:5000/x:%d", "docker.io/library/redis@sha256:%064x",
		"Registry.Example.com/It:%d", "$(params.image-%d)", "auto:%d",
	}
	if g.workflow {
		forms = append(forms, "{{inputs.parameters.image-%d}}")
	}
	g.n++
	g.images = append(g.images, fmt.Sprintf(forms[g.IntN(len(forms))], g.n))
	return g.images[len(g.images)-1]
}

// fill makes a value of a shape.
func (g *shaper) fill(shape any) any {
	switch shape := shape.(type) {
	case string:
		switch shape {
		case "IMAGE":
			return g.image()
		case "POD":
			return g.podSpec()
		}
	case object:
		o := object{}
		for _, name := range slices.Sorted(maps.Keys(shape)) {
			member, optional := strings.CutSuffix(name, "_")
			if !optional || g.IntN(2) == 0 {
				o[member] = g.fill(shape[name])
			}
		}
		return o
	case []any:
		list := []any{}
		for _, item := range shape {
			before := len(g.images)
			list = append(list, g.fill(item))
			for _, isObject := item.(object); isObject && len(g.images) > before && g.IntN(3) == 0; {
				list = append(list, g.fill(item))
			}
		}
		return list
	}
	return shape
}

func (g *shaper) podSpec() object {
	container := func(i int) any {
		return object{
			"name": fmt.Sprintf("c%d", i), "image": g.image(), "args": []any{"--image=not/an-image:1"},
			"env": []any{object{"name": "IMAGE", "value": "not/an-image:1"}},
		}
	}
	spec := object{"restartPolicy": "Never", "imagePullSecrets": []any{object{"name": "pull"}}}
	containers := []any{}
	for i := range 1 + g.IntN(3) {
		containers = append(containers, container(i))
	}
	spec["containers"] = containers
	if g.IntN(3) == 0 {
		spec["initContainers"] = []any{container(0)}
	}
	if g.IntN(6) == 0 {
		spec["volumes"] = []any{object{"name": "m", "image": object{"reference": g.image()}}, object{"name": "e", "emptyDir": object{}}}
	}
	return spec
}
