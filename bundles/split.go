package bundles

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/policies"
	"github.com/open-policy-agent/opa/v1/bundle"
)

// Parts of the content besides those of images ([PartImages]). Each part is a
// bundle of its own for those who follow a server, with a revision of its own below
// data.assay.revisions, however the content was packed.
const (
	PartPolicies   = "policies"               // the library and all modules
	PartExceptions = documents.PartExceptions // data.assay.exceptions
	PartNames      = documents.PartNames      // data.assay.names and indexes
)

// PartImages is the name of part n of the images, of [documents.ImageParts]: those
// whose digests begin with the hexadecimal digit n, "images-10" for "sha256:a…".
func PartImages(n int) string { return documents.PartImages(n) }

// Parts are the names of all parts.
func Parts() []string {
	parts := []string{PartPolicies, PartExceptions, PartNames}
	for n := range documents.ImageParts {
		parts = append(parts, PartImages(n))
	}
	return parts
}

// Split compiles and packs the content as one bundle for each of [Parts], by name.
// Their roots do not overlap and do not depend on the content, but for those of the
// policies. In one OPA they decide as the bundle of [Build].
func Split(c Content) (map[string]*bundle.Bundle, error) {
	parts, err := partsOf(c.data())
	if err != nil {
		return nil, err
	}
	all := map[string]*bundle.Bundle{}
	if all[PartPolicies], err = Policies(c.Policies); err != nil {
		return nil, err
	}
	for name, documents := range parts {
		if all[name], err = Data(name, documents); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// partsOf are the documents of each part but the policies, by their paths below
// data.assay.
func partsOf(data map[string]any) (map[string]map[string]any, error) {
	parts := map[string]map[string]any{
		PartExceptions: {"exceptions": data["exceptions"]},
		PartNames:      {"names": data["names"], "indexes": data["indexes"]},
	}
	images, details := byPart(data["images"]), byPart(data["details"])
	for n := range documents.ImageParts {
		name := PartImages(n)
		var err error
		if parts[name], err = imagesOf(n, images[name], details[name]); err != nil {
			return nil, err
		}
	}
	return parts, nil
}

// byPart has the documents of a tree [shard][digest] as [part][digest].
func byPart(tree any) map[string]map[string]any {
	parts := map[string]map[string]any{}
	for _, shard := range tree.(map[string]any) {
		for digest, document := range shard.(map[string]any) {
			name := documents.ImagePart(digest)
			if parts[name] == nil {
				parts[name] = map[string]any{}
			}
			parts[name][digest] = document
		}
	}
	return parts
}

// imagesOf has documents by digest by their paths below data.assay, with all shards
// of a part, also those that are empty: what was in them goes.
func imagesOf(n int, images, details map[string]any) (map[string]any, error) {
	paths := map[string]any{}
	for shard := range 16 {
		for _, kind := range []string{"images", "details"} {
			paths[fmt.Sprintf("%s/%x%x", kind, n, shard)] = map[string]any{}
		}
	}
	for kind, byDigest := range map[string]map[string]any{"images": images, "details": details} {
		for digest, document := range byDigest {
			shard, ok := paths[kind+"/"+documents.Shard(digest)].(map[string]any)
			if !ok {
				return nil, fmt.Errorf("the digest %.80q is not of %s", digest, PartImages(n))
			}
			shard[digest] = document
		}
	}
	return paths, nil
}

// Images packs part n of the images from their documents and details by digest, with
// a revision that the caller knows to name them. A document is plain JSON, or a text
// that is JSON already as json.RawMessage; a digest of another part is an error.
func Images(n int, revision string, images, details map[string]any) (*bundle.Bundle, error) {
	paths, err := imagesOf(n, images, details)
	if err != nil {
		return nil, err
	}
	return Documents(PartImages(n), revision, paths)
}

// Policies packs the library and the modules of a set alone, as the bundle of
// [PartPolicies]: images and exceptions come in bundles beside it.
func Policies(set *policies.Set) (*bundle.Bundle, error) {
	modules, err := modulesOf(set)
	if err != nil {
		return nil, err
	}
	revision, err := revisionOf(texts(modules))
	if err != nil {
		return nil, err
	}
	return part(PartPolicies, revision, modules, nil, roots(modules)...), nil
}

// Data is [Documents] with a revision that is the SHA-256 of the content.
func Data(name string, documents map[string]any) (*bundle.Bundle, error) {
	revision, err := revisionOf(documents)
	if err != nil {
		return nil, err
	}
	return Documents(name, revision, documents)
}

// Documents packs documents as a bundle of their own, by their paths below
// data.assay, which are its roots: for example {"exceptions": …} as
// [PartExceptions]. The revision is one that the caller knows to name the content.
// A path below another is an error.
func Documents(name, revision string, documents map[string]any) (*bundle.Bundle, error) {
	var roots []string
	data := map[string]any{}
	for _, path := range slices.Sorted(maps.Keys(documents)) {
		for _, root := range roots {
			if strings.HasPrefix("assay/"+path, root+"/") {
				return nil, fmt.Errorf("packing %s: assay/%s is below %s", name, path, root)
			}
		}
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

func part(name, revision string, modules []bundle.ModuleFile, data map[string]any, roots ...string) *bundle.Bundle {
	if data == nil {
		data = map[string]any{}
	}
	data["revisions"] = map[string]any{name: revision}
	return &bundle.Bundle{
		Manifest: manifest(revision, append(roots, "assay/revisions/"+name)...),
		Data:     map[string]any{"assay": data},
		Modules:  modules,
	}
}
