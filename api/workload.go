package api

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Workload is a kind of objects that run images, in every version of its API group, and
// where its images stand. Paths are as in [CustomKind].
type Workload struct {
	Group, Kind string
	// Resource is its plural name, as rules of webhooks and of RBAC have it.
	Resource   string
	Templates  []string
	Images     []string
	References []string
}

// ID is "group/Kind".
func (w Workload) ID() string { return w.Group + "/" + w.Kind }

// Places are the paths, taken apart. It panics for paths that [ParsePath] refuses.
func (w Workload) Places() Places {
	return Places{Templates: parsed(w.Templates), Images: parsed(w.Images), References: parsed(w.References)}
}

// Places are where the objects of a kind have what they run: pod templates, images, and
// members that say that they run something else.
type Places struct {
	Templates  []Path `json:"templates"`
	Images     []Path `json:"images"`
	References []Path `json:"references"`
}

// One says that there is one template, which is in no list, and nothing else: then
// containers are named as they are, and not after their place.
func (p Places) One() bool {
	return len(p.Templates) == 1 && len(p.Templates[0]) == 1 && len(p.Images) == 0
}

// Path is a path in parts. Each is of members, one in the other; between two parts stands
// each item of a list, or member of an object. The object itself is one part without members.
type Path [][]string

// MaxLists is how many lists a path goes through at most.
const MaxLists = 4

var pathForm = regexp.MustCompile(`^[A-Za-z0-9_-]+(\[\])*(\.[A-Za-z0-9_-]+(\[\])*)*$`)

// ParsePath takes a path apart: names of members joined by dots, with [] after each that is
// a list, such as spec.replicatedJobs[].template. "" is the object itself.
func ParsePath(text string) (Path, error) {
	if text == "" {
		return Path{{}}, nil
	}
	if !pathForm.MatchString(text) {
		return nil, fmt.Errorf("must be member names joined by dots, each with [] behind it where it is a list, such as spec.template or spec.jobs[].template")
	}
	path := Path{}
	for _, part := range strings.Split(text, "[]") {
		members := []string{}
		if part = strings.TrimPrefix(part, "."); part != "" {
			members = strings.Split(part, ".")
		}
		path = append(path, members)
	}
	if n := len(path) - 1; n > MaxLists {
		return nil, fmt.Errorf("goes through %d lists; at most %d are followed", n, MaxLists)
	}
	return path, nil
}

func parsed(texts []string) []Path {
	paths := []Path{}
	for _, text := range texts {
		p, err := ParsePath(text)
		if err != nil {
			panic(fmt.Sprintf("path %q %v", text, err))
		}
		paths = append(paths, p)
	}
	return paths
}

// BuiltinWorkloads are the kinds that are always judged. The REST path of each is namespaced.
func BuiltinWorkloads() []Workload {
	of := func(group, kind, template string) Workload {
		return Workload{Group: group, Kind: kind, Resource: strings.ToLower(kind) + "s", Templates: []string{template}}
	}
	return []Workload{
		of("", "Pod", ""),
		of("", "ReplicationController", "spec.template"),
		of("apps", "DaemonSet", "spec.template"),
		of("apps", "Deployment", "spec.template"),
		of("apps", "ReplicaSet", "spec.template"),
		of("apps", "StatefulSet", "spec.template"),
		of("batch", "CronJob", "spec.jobTemplate.spec.template"),
		of("batch", "Job", "spec.template"),
		of("extensions", "DaemonSet", "spec.template"),
		of("extensions", "Deployment", "spec.template"),
		of("extensions", "ReplicaSet", "spec.template"),
	}
}

// IsBuiltinWorkload says whether "group/Kind" is always judged.
func IsBuiltinWorkload(id string) bool {
	return slices.ContainsFunc(BuiltinWorkloads(), func(w Workload) bool { return w.ID() == id })
}

// KnownWorkload is a kind that AdmissionSettings may name without saying where its images are.
func KnownWorkload(group, kind string) (Workload, bool) {
	i := slices.IndexFunc(known, func(w Workload) bool { return w.Group == group && w.Kind == kind })
	if i < 0 {
		return Workload{}, false
	}
	return known[i], true
}

// KnownWorkloads are all such kinds.
func KnownWorkloads() []Workload { return slices.Clone(known) }

// Workload is where a custom kind has its images: where the settings say, else where the
// table of known kinds does. Not ok where neither says it. Settings that say of the images
// what the table says, and nothing of references, have those of the table.
func (k CustomKind) Workload() (w Workload, ok bool) {
	w, ok = KnownWorkload(k.APIGroup, k.Kind)
	w.Group, w.Kind = k.APIGroup, k.Kind
	templates := k.PodTemplatePaths
	if k.PodTemplatePath != "" {
		templates = append([]string{k.PodTemplatePath}, templates...)
	}
	if len(templates)+len(k.ImagePaths) == 0 {
		return w, ok
	}
	if !slices.Equal(templates, w.Templates) || !slices.Equal(k.ImagePaths, w.Images) || len(k.ReferencePaths) > 0 {
		w.References = k.ReferencePaths
	}
	w.Templates, w.Images = templates, k.ImagePaths
	return w, true
}
