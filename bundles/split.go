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

// Parts are the names of all parts of what is shared.
func Parts() []string {
	parts := []string{PartPolicies, PartExceptions, PartNames}
	for n := range documents.ImageParts {
		parts = append(parts, PartImages(n))
	}
	return parts
}

// PartsOf are the names of all parts of the content: [Parts], and with a cluster those of what
// it alone, and its trust groups, are told.
func (c Content) PartsOf() []string {
	parts := Parts()
	if c.Cluster == "" {
		return parts
	}
	return append(parts, documents.ClusterParts(c.Cluster, c.groups())...)
}

// groups are all that the cluster is in.
func (c Content) groups() []string { return documents.GroupsOf(c.Scans, c.Cluster, c.Groups) }

// Split compiles and packs the content as one bundle for each of its parts ([Content.PartsOf]),
// by name. Their roots do not overlap and do not depend on the content, but for those of the
// policies. In one OPA they decide as the bundle of [Build]; without a cluster, as that
// decides for none.
func Split(c Content) (map[string]*bundle.Bundle, error) {
	parts, err := c.parts(c.data())
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

// parts are the documents of each part but the policies, by their paths below
// data.assay. What is nil is a root without a document.
func (c Content) parts(data map[string]any) (map[string]map[string]any, error) {
	parts := map[string]map[string]any{
		PartExceptions: {"exceptions": data["exceptions"]},
		PartNames: {
			"names": data["names"], "indexes": data["indexes"],
			"spaces/shared/indexes": below(data, "spaces", "shared", "indexes"),
		},
	}
	images, details := byPart(data["images"]), byPart(data["details"])
	scoped := byPart(below(data, "spaces", "shared", "evidence"))
	for n := range documents.ImageParts {
		name := PartImages(n)
		var err error
		if parts[name], err = imagesOf(n, images[name], details[name], scoped[name]); err != nil {
			return nil, err
		}
	}
	if c.Cluster == "" {
		return parts, nil
	}
	own := map[string]any{"cluster": data["cluster"]}
	for _, s := range documents.SpacesOf(c.Cluster, c.groups()) {
		for _, kind := range []string{"names", "indexes"} {
			own["spaces/"+string(s)+"/"+kind] = below(data, "spaces", string(s), kind)
		}
		evidence := byPart(below(data, "spaces", string(s), "evidence"))
		for n := range documents.ImageParts {
			name := documents.PartEvidence(s, n)
			var err error
			if parts[name], err = evidenceOf(s, n, evidence[PartImages(n)]); err != nil {
				return nil, err
			}
		}
	}
	parts[documents.PartCluster(c.Cluster)] = own
	return parts, nil
}

// below is the document at a path, nil where there is none.
func below(data map[string]any, path ...string) any {
	var document any = data
	for _, key := range path {
		object, _ := document.(map[string]any)
		document = object[key]
	}
	return document
}

// byPart has the documents of a tree [shard][digest] as [part][digest].
func byPart(tree any) map[string]map[string]any {
	parts := map[string]map[string]any{}
	shards, _ := tree.(map[string]any)
	for _, shard := range shards {
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
func imagesOf(n int, images, details, scoped map[string]any) (map[string]any, error) {
	paths, err := evidenceOf(documents.Shared, n, scoped)
	if err != nil {
		return nil, err
	}
	for kind, byDigest := range map[string]map[string]any{"images": images, "details": details} {
		if err := shardsOf(paths, kind, n, byDigest); err != nil {
			return nil, err
		}
		for shard := range 16 {
			if path := fmt.Sprintf("%s/%x%x", kind, n, shard); paths[path] == nil {
				paths[path] = map[string]any{}
			}
		}
	}
	return paths, nil
}

// evidenceOf is imagesOf for the scoped evidence of a space. An empty shard is no document:
// where nothing is scoped, nothing must look like it.
func evidenceOf(s documents.Space, n int, scoped map[string]any) (map[string]any, error) {
	paths := map[string]any{}
	return paths, shardsOf(paths, "spaces/"+string(s)+"/evidence", n, scoped)
}

func shardsOf(paths map[string]any, kind string, n int, byDigest map[string]any) error {
	for shard := range 16 {
		paths[fmt.Sprintf("%s/%x%x", kind, n, shard)] = nil
	}
	for digest, document := range byDigest {
		path := kind + "/" + documents.Shard(digest)
		if _, ok := paths[path]; !ok {
			return fmt.Errorf("the digest %.80q is not of %s", digest, PartImages(n))
		}
		if paths[path] == nil {
			paths[path] = map[string]any{}
		}
		paths[path].(map[string]any)[digest] = document
	}
	return nil
}

// Images packs part n of the images from their documents and details by digest, with
// a revision that the caller knows to name them. A document is plain JSON, or a text
// that is JSON already as json.RawMessage; a digest of another part is an error. The lists of
// scoped evidence (documents.Piece) are those of the shared space.
func Images(n int, revision string, images, details, scoped map[string]any) (*bundle.Bundle, error) {
	paths, err := imagesOf(n, images, details, scoped)
	if err != nil {
		return nil, err
	}
	return Documents(PartImages(n), revision, paths)
}

// Evidence packs part n of the scoped evidence in the space of a cluster or group, as
// documents.PartEvidence names it, from its lists by digest.
func Evidence(s documents.Space, n int, revision string, scoped map[string]any) (*bundle.Bundle, error) {
	paths, err := evidenceOf(s, n, scoped)
	if err != nil {
		return nil, err
	}
	return Documents(documents.PartEvidence(s, n), revision, paths)
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
// A path below another is an error. A nil document is none, but what was there goes.
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
		if documents[path] == nil {
			continue
		}
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
	key := documents.RevisionKey(name)
	data["revisions"] = map[string]any{key: revision}
	return &bundle.Bundle{
		Manifest: manifest(revision, append(roots, "assay/revisions/"+key)...),
		Data:     map[string]any{"assay": data},
		Modules:  modules,
	}
}
