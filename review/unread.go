package review

import (
	"slices"

	"github.com/assay-dev/assay/api"
)

// Elsewhere is the reason where a kind is judged, but not all that looks like its containers.
const Elsewhere = "its kind is judged by other paths"

// NotJudged are the images of an input that the decision on it did not judge, nil where there are
// none. Excluded are the namespaces that are not judged. What its lifecycle makes unnecessary to
// judge was judged before.
func (in Input) NotJudged(d api.Decision, excluded []string) *api.Unjudged {
	reason, images := d.Reason, slices.Clone(in.Unread)
	switch {
	case d.Judged:
		reason = Elsewhere
	case in.Review.Namespace != "" && slices.Contains(excluded, in.Review.Namespace):
		images = append(images, imagesOf(in.Review.Containers)...)
	}
	if len(images) == 0 {
		return nil
	}
	slices.Sort(images)
	return &api.Unjudged{Reason: reason, Images: slices.Compact(images)}
}

// unread are the images of an object that its review does not have: those at the places of a
// known kind that the settings do not name, and of what looks like containers wherever it
// stands. Only requests that can bring images are looked at.
func unread(object map[string]any, r api.Review) []string {
	if !isJudged(r) || api.IsBuiltinWorkload(r.Group+"/"+r.Kind) {
		return nil
	}
	var found []string
	if w, known := api.KnownWorkload(r.Group, r.Kind); known {
		found = imagesOf(placesIn(object, w.Places()).containers())
	}
	found = append(found, looksLikeContainers(object)...)
	read := imagesOf(r.Containers)
	found = slices.DeleteFunc(found, func(image string) bool { return image == "" || slices.Contains(read, image) })
	slices.Sort(found)
	return slices.Compact(found)
}

// listsOfContainers are the names of lists whose items are containers, in the workloads of
// Kubernetes and of others; holders those of members that are one.
var (
	listsOfContainers = append(slices.Clone(containerLists), "steps", "sidecars")
	holders           = []string{"container", "containerDisk", "script", "stepTemplate"}
)

func looksLikeContainers(x any) (images []string) {
	add := func(image string) {
		if image != "" {
			images = append(images, image)
		}
	}
	switch x := x.(type) {
	case map[string]any:
		for _, list := range listsOfContainers {
			for _, c := range items(x, list) {
				add(text(c, "image"))
			}
		}
		for _, holder := range holders {
			add(text(member(x, holder), "image"))
		}
		for _, v := range items(x, "volumes") {
			add(text(member(v, "image"), "reference"))
		}
		for _, v := range x {
			images = append(images, looksLikeContainers(v)...)
		}
	case []any:
		for _, v := range x {
			images = append(images, looksLikeContainers(v)...)
		}
	}
	return images
}
