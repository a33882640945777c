package follow

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/store"
)

// put is given documents by their paths below data.assay.
type put func(path []string, value any)

// into puts documents into a tree.
func into(tree map[string]any) put {
	return func(path []string, value any) {
		m := tree
		for _, key := range path[:len(path)-1] {
			sub, ok := m[key].(map[string]any)
			if !ok {
				sub = map[string]any{}
				m[key] = sub
			}
			m = sub
		}
		m[path[len(path)-1]] = value
	}
}

// spaceOf is the space of a part of the store as documents name it.
func spaceOf(space string) documents.Space {
	if space == store.Shared {
		return documents.Shared
	}
	return documents.Space(space)
}

// evidence gives the documents of evidence.
func evidence(ctx context.Context, t *store.Tx, w store.Within, needs documents.Needs, details bool, to put) error {
	lists := map[documents.Space][]any{}
	digest := ""
	flush := func() {
		for space, list := range lists {
			documents.SortPieces(list)
			to(documents.EvidencePath(space, digest), list)
		}
		clear(lists)
	}
	err := t.ImageDocuments(ctx, w, details, func(d store.ImageDocument) error {
		if d.Digest != digest {
			flush()
			digest = d.Digest
		}
		image, details, err := documentsOf(d, needs)
		if err != nil {
			return err
		}
		if d.Origin != (store.Origin{}) {
			space := spaceOf(d.Origin.Space)
			lists[space] = append(lists[space], documents.Scoped(d.Origin.Scope(), d.Found, d.Way, image, details))
			return nil
		}
		to(documents.ImagePath(digest), image)
		if len(details) > 0 {
			to(documents.DetailsPath(digest), details)
		}
		return nil
	})
	flush()
	return err
}

// tags gives the documents of what tags lead to, of scans that failed, and of SBOMs that wait: of
// some name:key, of all where names is nil.
func tags(ctx context.Context, t *store.Tx, names, spaces []string, to put) error {
	type told struct {
		path    []string
		failure map[string]any // nil: none
		waits   bool
	}
	reasons, asked := map[string]*told{}, map[string]bool{}
	for _, name := range names {
		asked[name] = true
	}
	reason := func(space, name, key string) *told {
		path := documents.NamePath(spaceOf(space), name, key)
		joined := strings.Join(path, "\x00")
		if reasons[joined] == nil {
			reasons[joined] = &told{path: path}
		}
		return reasons[joined]
	}
	if err := t.Failures(ctx, names, spaces, func(f store.Failure) error {
		for _, key := range documents.FailureKeys(f.Tag, f.Digest) {
			if names == nil || asked[f.Name+":"+key] {
				reason(f.Origin.Space, f.Name, key).failure = documents.Failure(f.At, f.Error)
			}
		}
		return nil
	}); err != nil {
		return err
	}
	if err := t.WaitingSBOMs(ctx, names, spaces, func(w store.Waiting) error {
		reason(w.Origin.Space, w.Name, documents.DigestKey(w.Digest)).waits = true
		return nil
	}); err != nil {
		return err
	}
	if err := t.NewestNames(ctx, names, spaces, func(o store.Observation) error {
		path := documents.NamePath(spaceOf(o.Space), o.Name, o.Tag)
		observed := map[string]any{"digest": o.Digest, "at": o.Last}
		key := strings.Join(path, "\x00")
		if r := reasons[key]; r != nil { // a tag, of which no SBOM waits
			observed = documents.AddFailure(observed, r.failure)
			delete(reasons, key)
		}
		to(path, observed)
		return nil
	}); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(reasons)) {
		r := reasons[key]
		document := map[string]any{}
		if r.failure != nil {
			document = documents.AddFailure(nil, r.failure)
		}
		if r.waits {
			document["waits"] = true
		}
		to(r.path, document)
	}
	return nil
}

// indexes gives the documents of indexes that count for all.
func indexes(ctx context.Context, t *store.Tx, digests []string, to put) error {
	return t.Indexes(ctx, digests, func(x store.IndexDocument) error {
		to(documents.IndexPath(x.Digest), documents.Index(x.Platforms, x.At, x.Proven))
		return nil
	})
}

// claims gives the documents of what bounded scopes claim of indexes.
func claims(ctx context.Context, t *store.Tx, w store.Within, to put) error {
	type key struct {
		space  documents.Space
		digest string
	}
	lists := map[key][]any{}
	w.Elsewhere = true
	if err := t.IndexClaims(ctx, w, func(x store.IndexDocument) error {
		k := key{spaceOf(x.Origin.Space), x.Digest}
		lists[k] = append(lists[k], documents.Claim(x.Origin.Scope(), x.Platforms, x.At))
		return nil
	}); err != nil {
		return err
	}
	for k, list := range lists {
		documents.SortPieces(list)
		to(documents.ClaimsPath(k.space, k.digest), list)
	}
	return nil
}

// clusters gives the documents of what each cluster reads, and of what a member of each group does of
// which nothing else is known.
func clusters(ctx context.Context, t *store.Tx, to put) error {
	members, err := t.Members(ctx)
	if err != nil {
		return err
	}
	groups, err := t.Groups(ctx)
	if err != nil {
		return err
	}
	for name, groups := range members {
		to(documents.SpacesPath(name), documents.SpacesDocument(name, groups))
	}
	for _, group := range groups {
		to(documents.SpacesPath(store.GroupReader(group)), map[string]any{"spaces": []any{string(documents.GroupSpace(group))}})
	}
	return nil
}

// partOfCluster says which cluster or group a part is of, and which of its parts it is: "" is what the
// cluster is called, reads and observed.
func partOfCluster(part string) (space documents.Space, inner string, ok bool) {
	head, inner, _ := strings.Cut(part, "/")
	kind, name, found := strings.Cut(head, "-")
	if !found || name == "" || kind != "cluster" && (kind != "group" || inner == "") {
		return "", "", false
	}
	if inner != "" && !strings.HasPrefix(inner, "images-") {
		return "", "", false
	}
	return documents.Space(kind + ":" + name), inner, true
}

// clusterPart is the content of a part of a cluster or group.
func clusterPart(ctx context.Context, t *store.Tx, part string, needs documents.Needs) (map[string]any, error) {
	space, inner, ok := partOfCluster(part)
	if !ok {
		return nil, fmt.Errorf("unknown part %s", part)
	}
	tree := map[string]any{}
	if inner != "" {
		digit, err := digitOf(inner)
		if err != nil {
			return nil, err
		}
		content := map[string]any{}
		for i := range 16 {
			content[fmt.Sprintf("spaces/%s/evidence/%s%x", space, digit, i)] = nil
		}
		err = evidence(ctx, t, store.Within{Digit: &digit, Spaces: []string{string(space)}}, needs, needs.All || len(needs.IDs) > 0, into(tree))
		for shard, byDigest := range child(tree, "spaces", string(space), "evidence") {
			content[fmt.Sprintf("spaces/%s/evidence/%s", space, shard)] = byDigest
		}
		return content, err
	}
	name, groups, err := t.Named(ctx, string(space))
	if err != nil {
		return nil, err
	}
	content := map[string]any{"cluster": documents.ClusterDocument(name, groups)}
	for _, s := range documents.SpacesOf(name, groups) {
		if err := tags(ctx, t, nil, []string{string(s)}, into(tree)); err != nil {
			return nil, err
		}
		if err := claims(ctx, t, store.Within{Spaces: []string{string(s)}}, into(tree)); err != nil {
			return nil, err
		}
		for _, kind := range []string{"names", "indexes"} {
			content["spaces/"+string(s)+"/"+kind] = orNone(child(tree, "spaces", string(s), kind))
		}
	}
	return content, nil
}

// child is an object of a tree, empty where there is none.
func child(tree map[string]any, path ...string) map[string]any {
	for _, key := range path {
		sub, ok := tree[key].(map[string]any)
		if !ok {
			return map[string]any{}
		}
		tree = sub
	}
	return tree
}

// orNone is an object, or no document where it is empty: where nothing is scoped, nothing must look like it.
func orNone(object map[string]any) any {
	if len(object) == 0 {
		return nil
	}
	return object
}

func digitOf(part string) (string, error) {
	var number int
	if _, err := fmt.Sscanf(part, "images-%d", &number); err != nil || number < 0 || number >= documents.ImageParts || documents.PartImages(number) != part {
		return "", fmt.Errorf("unknown part %s", part)
	}
	return fmt.Sprintf("%x", number), nil
}

// differences gives the changes of keys of one kind, each in its space: what nothing is put for is gone.
type differences struct {
	gone map[string][]string
	to   put
}

// sortedGone are the paths that nothing was put for.
func (d differences) sortedGone() [][]string {
	var list [][]string
	for _, key := range slices.Sorted(maps.Keys(d.gone)) {
		list = append(list, d.gone[key])
	}
	return list
}

func newDifferences(to put) differences {
	gone := map[string][]string{}
	return differences{gone, func(path []string, value any) {
		delete(gone, strings.Join(path, "\x00"))
		to(path, value)
	}}
}

// expect says that something may be at a path.
func (d differences) expect(path []string) { d.gone[strings.Join(path, "\x00")] = path }
