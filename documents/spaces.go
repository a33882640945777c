package documents

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"

	"github.com/assay-dev/assay/api"
)

// Space is a part of the data that some clusters read and others do not. [Shared] is read by
// all; "cluster:NAME" and "group:NAME" by one cluster, and by the clusters of one trust group.
type Space string

// Shared holds what is of any cluster.
const Shared Space = "shared"

// ClusterSpace is the space of a cluster.
func ClusterSpace(name string) Space { return space("cluster", name) }

// GroupSpace is the space of a trust group.
func GroupSpace(name string) Space { return space("group", name) }

// A name is escaped, since bundles have spaces in the paths of their roots.
func space(kind, name string) Space {
	if name == "" {
		return Shared
	}
	return Space(kind + ":" + url.PathEscape(name))
}

// spaceOf is the space of a scope of evidence or of tags, which names a cluster or a group at most.
func spaceOf(s api.Scope) Space {
	if s.Group != "" {
		return GroupSpace(s.Group)
	}
	return ClusterSpace(s.Cluster)
}

// EvidenceSpace is where the evidence and the claims of an identity's scope are kept.
func EvidenceSpace(s api.Scope) Space { return spaceOf(s.Evidence()) }

// TagSpace is where the tags are kept that an identity of a scope observes.
func TagSpace(s api.Scope) Space { return spaceOf(s.Tags()) }

// SpacesOf are those that a cluster reads beside the shared one: its own, and those of its groups.
func SpacesOf(cluster string, groups []string) []Space {
	spaces := []Space{ClusterSpace(cluster)}
	for _, g := range groups {
		spaces = append(spaces, GroupSpace(g))
	}
	slices.Sort(spaces[1:])
	return slices.Compact(spaces)
}

// Paths of documents below data.assay.

// ImagePath is that of the evidence of a digest whose scope is all.
func ImagePath(digest string) []string { return []string{"images", Shard(digest), digest} }

// DetailsPath is that of the details of the same.
func DetailsPath(digest string) []string { return []string{"details", Shard(digest), digest} }

// EvidencePath is that of the list of scoped evidence of a digest in a space.
func EvidencePath(s Space, digest string) []string {
	return []string{"spaces", string(s), "evidence", Shard(digest), digest}
}

// NamePath is that of the newest observation of a tag in a space.
func NamePath(s Space, name, tag string) []string {
	if s == Shared {
		return []string{"names", name, tag}
	}
	return []string{"spaces", string(s), "names", name, tag}
}

// IndexPath is that of an index of which the bytes are known, or that a scope of all claims.
func IndexPath(digest string) []string { return []string{"indexes", digest} }

// ClaimsPath is that of the list of what bounded scopes claim of an index in a space.
func ClaimsPath(s Space, digest string) []string {
	return []string{"spaces", string(s), "indexes", digest}
}

// SpacesPath is that of the spaces of a cluster, in an evaluator that decides for many.
func SpacesPath(cluster string) []string { return []string{"clusters", cluster} }

// ClusterDocument is the document "cluster" of an evaluator of one cluster.
func ClusterDocument(name string, groups []string) map[string]any {
	return map[string]any{"name": name, "spaces": spaceList(SpacesOf(name, groups))}
}

// SpacesDocument is the document of a cluster below "clusters", at [SpacesPath].
func SpacesDocument(name string, groups []string) map[string]any {
	return map[string]any{"spaces": spaceList(SpacesOf(name, groups))}
}

func spaceList(spaces []Space) []any {
	list := make([]any, len(spaces))
	for i, s := range spaces {
		list[i] = string(s)
	}
	return list
}

// Names of the parts that the data is split into for those who follow it.

// PartNames is that of the shared tags, of the indexes, and of the shared claims of indexes.
const PartNames = "names"

// PartExceptions is that of the exceptions.
const PartExceptions = "exceptions"

// PartImages is that of part n of the shared evidence, "images-10", of [ImageParts].
func PartImages(n int) string { return fmt.Sprintf("images-%02d", n) }

// PartCluster is that of what a cluster is called, the spaces that it reads, and the tags and
// the claims of indexes in these: "cluster-NAME", with the name escaped as in the path of a URL.
func PartCluster(name string) string { return "cluster-" + url.PathEscape(name) }

// PartEvidence is that of part n of the evidence in a space: "cluster-NAME/images-10" or
// "group-NAME/images-10", and [PartImages] of the shared one.
func PartEvidence(s Space, n int) string {
	if s == Shared {
		return PartImages(n)
	}
	kind, name, _ := cutSpace(s)
	return kind + "-" + name + "/" + PartImages(n)
}

// ClusterParts are the names of all parts that a webhook of a cluster follows beside the
// shared ones.
func ClusterParts(name string, groups []string) []string {
	parts := []string{PartCluster(name)}
	for _, s := range SpacesOf(name, groups) {
		for n := range ImageParts {
			parts = append(parts, PartEvidence(s, n))
		}
	}
	return parts
}

// RevisionKey is the key of a part below "revisions": its name, without a slash.
func RevisionKey(part string) string { return url.PathEscape(part) }

func cutSpace(s Space) (kind, name string, ok bool) {
	for _, kind := range []string{"cluster", "group"} {
		if len(s) > len(kind) && string(s[:len(kind)]) == kind && s[len(kind)] == ':' {
			return kind, string(s[len(kind)+1:]), true
		}
	}
	return "", "", false
}

// Piece is scoped evidence in the list at [EvidencePath]: the document of the image with all
// of "scope", "prefix", which names of images must begin with, "found", "way" ("" where it is
// not known) and "d", its details.
func Piece(scan api.Scan, needs Needs) map[string]any {
	piece, details := Image(scan, needs)
	return Scoped(scan.Scope, Time(scan.FoundAt()), scan.Way, piece, details)
}

// Scoped makes such a piece of the documents of [Image], which it changes.
func Scoped(scope api.Scope, found string, way api.Way, image, details map[string]any) map[string]any {
	if details == nil {
		details = map[string]any{}
	}
	scoped(image, scope, found)
	image["way"] = string(way)
	image["d"] = details
	return image
}

func scoped(doc map[string]any, scope api.Scope, found string) {
	doc["prefix"] = ""
	if scope.Registry != "" {
		doc["prefix"] = scope.Registry + "/"
	}
	doc["scope"] = scope.Evidence().String()
	doc["found"] = found
}

// Claim is what a scope says of an index without its bytes: an item of the list at
// [ClaimsPath]. Who writes the list leaves out claims about digests whose bytes are known,
// whatever these are. Found is as [Time] writes it.
func Claim(scope api.Scope, platforms map[string]string, found string) map[string]any {
	claim := indexDocument(platforms)
	scoped(claim, scope, found)
	return claim
}

// Index is the document at [IndexPath]. One whose bytes are known is proven, and counts
// whatever is claimed; another is the claim of a scope of all, found at a moment (see [Time]).
func Index(platforms map[string]string, found string, proven bool) map[string]any {
	doc := indexDocument(platforms)
	if proven {
		doc["proven"] = true
	} else {
		doc["found"] = found
	}
	return doc
}

func indexDocument(platforms map[string]string) map[string]any {
	all := map[string]any{}
	for platform, digest := range platforms {
		all[platform] = digest
	}
	return map[string]any{"platforms": all}
}

// SortPieces puts the pieces or claims of one list in their order, by the text of the scope.
func SortPieces(list []any) {
	slices.SortStableFunc(list, func(a, b any) int {
		return cmp.Compare(a.(map[string]any)["scope"].(string), b.(map[string]any)["scope"].(string))
	})
}

// ClusterIn is the cluster that a space is of.
func ClusterIn(s Space) (name string, ok bool) { return nameIn(s, "cluster") }

// GroupIn is the trust group that a space is of.
func GroupIn(s Space) (name string, ok bool) { return nameIn(s, "group") }

func nameIn(s Space, kind string) (string, bool) {
	of, text, ok := cutSpace(s)
	if !ok || of != kind {
		return "", false
	}
	name, err := url.PathUnescape(text)
	return name, err == nil
}
