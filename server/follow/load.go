package follow

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/bundles/source"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/rego"
	"github.com/assay-dev/assay/store"
)

// Keys of the settings that the server keeps in the store.
const (
	// SettingThresholds holds an api.ThresholdsSpec, in force where the policies folder has none.
	SettingThresholds = "thresholds"
	settingBasis      = "basis"
	settingPolicies   = "policies"
	settingExpired    = "expired"
)

// exceptionState is what the engine has of exceptions.
type exceptionState struct {
	list  []api.VulnerabilityException // of the policies, then of the store
	tree  map[string]any
	needs documents.Needs
}

func exceptionsOf(thresholds api.ThresholdsSpec, lists ...[]api.VulnerabilityException) exceptionState {
	all := slices.Concat(lists...)
	needs := documents.NeedsOf(thresholds, all)
	tree, _ := documents.Data(nil, all, needs)["exceptions"].(map[string]any)
	return exceptionState{list: all, tree: tree, needs: needs}
}

// take puts policies in force: the first with all data, later ones beside it.
func (f *Follower) take(ctx context.Context, u source.Update) (err error) {
	begun := time.Now()
	defer func() { f.observed("load", 1, begun, err) }()
	next := f.current
	next.folder, next.revision, next.read = u.Set, u.Revision, f.Now()
	var data *bundle.Bundle
	err = f.Store.View(ctx, func(t *store.Tx) error {
		data = nil
		if err := f.settle(ctx, t, &next); err != nil {
			return err
		}
		if f.current.loaded && sameNeeds(f.current.exceptions.needs, next.exceptions.needs) {
			return nil
		}
		data, err = f.everything(ctx, t, &next)
		return err
	})
	if err != nil {
		return err
	}
	if err := f.replace(ctx, next, data); err != nil {
		return err
	}
	if err := f.declare(ctx, next); err != nil {
		return err
	}
	next.loaded = true
	f.put(next)
	f.Log.Info("policies are in force", "revision", next.revision, "change", next.applied)
	return nil
}

// replace gives the engine other policies, beside all data or beside what it has.
func (f *Follower) replace(ctx context.Context, next state, data *bundle.Bundle) error {
	compiled, err := bundles.Policies(next.set)
	if err != nil {
		return err
	}
	if data != nil {
		return f.engine.Load(ctx, compiled, data)
	}
	exceptions, err := bundles.Documents(store.PartExceptions, next.revisionOf(store.PartExceptions), map[string]any{"exceptions": next.exceptions.tree})
	if err != nil {
		return err
	}
	return f.engine.Replace(ctx, compiled, exceptions)
}

// settle reads what the store says beside the policies: thresholds and exceptions.
func (f *Follower) settle(ctx context.Context, t *store.Tx, next *state) error {
	if next.store == "" {
		var err error
		if next.store, err = t.StoreID(ctx); err != nil {
			return err
		}
	}
	set := *next.folder
	next.origin = set.ThresholdsOrigin.String()
	if set.ThresholdsOrigin == (policies.Origin{}) {
		var kept api.ThresholdsSpec
		switch err := t.Setting(ctx, SettingThresholds, &kept); {
		case err == nil:
			set.Thresholds, next.origin = kept, "api"
		case errors.Is(err, store.ErrNotFound):
			next.origin = "default"
		default:
			return err
		}
	}
	kept, err := t.Exceptions(ctx)
	if err != nil {
		return err
	}
	next.set = &set
	next.exceptions = exceptionsOf(set.Thresholds, set.Exceptions, kept)
	next.basis, err = basisOf(set)
	if err != nil {
		return err
	}
	return next.readParts(ctx, t)
}

// readParts reads what the revisions of parts rest on.
func (s *state) readParts(ctx context.Context, t *store.Tx) (err error) {
	if s.parts, err = t.Parts(ctx); err != nil {
		return err
	}
	members, err := t.Members(ctx)
	if err != nil {
		return err
	}
	s.reads = map[documents.Space][]string{}
	for name, groups := range members {
		for _, space := range documents.SpacesOf(name, groups)[1:] {
			s.reads[documents.ClusterSpace(name)] = append(s.reads[documents.ClusterSpace(name)], string(space))
		}
	}
	return nil
}

// basisOf names what classification rests on besides the store: the library, and the
// thresholds and exceptions of the policies.
func basisOf(set policies.Set) (string, error) {
	text, err := json.Marshal([]any{rego.Library(), set.Thresholds, set.Exceptions})
	if err != nil {
		return "", fmt.Errorf("naming the policies: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8]), nil
}

// declare tells the replicas on which basis results are computed from now on; what was
// computed on another is computed again.
func (f *Follower) declare(ctx context.Context, s state) error {
	return f.Store.Write(ctx, func(t *store.Tx) error {
		if err := tellPolicies(ctx, t, s.revision); err != nil {
			return err
		}
		var before string
		if err := t.Setting(ctx, settingBasis, &before); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if before == s.basis {
			return nil
		}
		if err := t.SetSetting(ctx, settingBasis, s.basis); err != nil {
			return err
		}
		return t.Reclassify(ctx, s.applied)
	})
}

// tellPolicies tells the audit log that other policies are in force, once for all replicas.
func tellPolicies(ctx context.Context, t *store.Tx, revision string) error {
	var before string
	switch err := t.Setting(ctx, settingPolicies, &before); {
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return err
	case before == revision:
		return nil
	}
	e := store.AuditEntry{Who: "the source of the policies", Action: "set", Kind: "policies", Name: "revision"}
	var err error
	if before != "" {
		if e.Before, err = json.Marshal(before); err != nil {
			return err
		}
	}
	if e.After, err = json.Marshal(revision); err != nil {
		return err
	}
	if err := t.Audit(ctx, e); err != nil {
		return err
	}
	return t.SetSetting(ctx, settingPolicies, revision)
}

// everything is all data of the store as one bundle.
func (f *Follower) everything(ctx context.Context, t *store.Tx, next *state) (*bundle.Bundle, error) {
	var err error
	if next.applied, err = t.Head(ctx); err != nil {
		return nil, err
	}
	data := map[string]any{"exceptions": next.exceptions.tree}
	for _, name := range []string{"images", "details", "names", "indexes", "spaces", "clusters"} {
		data[name] = map[string]any{}
	}
	needs := next.exceptions.needs
	if err := evidence(ctx, t, store.Within{}, needs, needs.All, into(data)); err != nil {
		return nil, err
	}
	if !needs.All && len(needs.IDs) > 0 {
		holders, err := t.Holders(ctx, slices.Sorted(maps.Keys(needs.IDs)))
		if err != nil {
			return nil, err
		}
		for chunk := range slices.Chunk(holders, 500) {
			if err := evidence(ctx, t, store.Within{Digests: chunk}, needs, true, into(data)); err != nil {
				return nil, err
			}
		}
	}
	for _, read := range []func() error{
		func() error { return tags(ctx, t, nil, nil, into(data)) },
		func() error { return indexes(ctx, t, nil, into(data)) },
		func() error { return claims(ctx, t, store.Within{}, into(data)) },
		func() error { return clusters(ctx, t, into(data)) },
	} {
		if err := read(); err != nil {
			return nil, err
		}
	}
	var roots []string
	for name := range data {
		roots = append(roots, "assay/"+name)
	}
	revisions := map[string]any{}
	for _, part := range partNames() {
		revisions[part] = next.revisionOf(part)
		roots = append(roots, "assay/revisions/"+part)
	}
	data["revisions"] = revisions
	return &bundle.Bundle{Manifest: bundle.Manifest{Roots: &roots}, Data: map[string]any{"assay": data}}, nil
}

// documentsOf are those of the engine, with the details that something looks into.
func documentsOf(d store.ImageDocument, needs documents.Needs) (image, details map[string]any, err error) {
	decoded, err := decode(d.Document)
	image, ok := decoded.(map[string]any)
	if err != nil || !ok {
		return nil, nil, fmt.Errorf("reading the document of %s: %w", d.Digest, err)
	}
	image["way"] = string(d.Way)
	delete(image, "found")
	if d.Found != image["at"] {
		image["found"] = d.Found
	}
	kept, err := needed(d, image, needs)
	if err != nil || len(kept) == 0 {
		return image, nil, err
	}
	details = map[string]any{}
	for id, text := range kept {
		if details[id], err = decode(text); err != nil {
			return nil, nil, fmt.Errorf("reading the details of %s: %w", d.Digest, err)
		}
	}
	return image, details, nil
}

// needed are the details of the vulnerabilities that something looks into.
func needed(d store.ImageDocument, image map[string]any, needs documents.Needs) (map[string]json.RawMessage, error) {
	if needs.All {
		return d.Details, nil
	}
	if len(needs.IDs) == 0 || len(d.Details) == 0 {
		return nil, nil
	}
	aliases, _ := image["a"].(map[string]any)
	kept := map[string]json.RawMessage{}
	for id, text := range d.Details {
		others, _ := aliases[id].([]any)
		if needs.IDs[id] || slices.ContainsFunc(others, func(a any) bool { name, _ := a.(string); return needs.IDs[name] }) {
			kept[id] = text
		}
	}
	return kept, nil
}

// decode reads JSON as the engine takes it.
func decode(text []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	return v, d.Decode(&v)
}

// partNames are those of all parts of the data.
func partNames() []string {
	names := []string{store.PartExceptions, store.PartNames}
	for i := range documents.ImageParts {
		names = append(names, documents.ImagePart(fmt.Sprintf("sha256:%x0", i)))
	}
	return names
}

// changeOf is the change of the store at which a part became what it is.
func (s state) changeOf(part string) int64 {
	space, inner, ok := partOfCluster(part)
	switch {
	case !ok:
		return s.parts[part]
	case inner != "":
		return s.parts[string(space)+"/"+inner]
	}
	var seq int64
	for _, of := range append([]string{string(space)}, s.reads[space]...) { // those of its groups are in it
		seq = max(seq, s.parts[of+"/"+store.PartNames])
	}
	return seq
}

// partsOf are the parts of a cluster beside the shared ones.
func (s state) partsOf(cluster string) []string {
	var groups []string
	for _, space := range s.reads[documents.ClusterSpace(cluster)] {
		if group, ok := documents.GroupIn(documents.Space(space)); ok {
			groups = append(groups, group)
		}
	}
	return documents.ClusterParts(cluster, groups)
}

// revisionOf names the state of a part, the same in every replica.
func (s state) revisionOf(part string) string {
	revision := fmt.Sprintf("%s.%d", s.store, s.changeOf(part))
	_, inner, ofCluster := partOfCluster(part)
	switch {
	case part == store.PartNames || ofCluster && inner == "":
	case part == store.PartExceptions:
		revision += "." + s.basis
	case s.exceptions.needs.All:
		revision += ".all"
	case len(s.exceptions.needs.IDs) > 0:
		sum := sha256.Sum256([]byte(strings.Join(slices.Sorted(maps.Keys(s.exceptions.needs.IDs)), "\n")))
		revision += "." + hex.EncodeToString(sum[:4])
	}
	return revision
}

func sameNeeds(a, b documents.Needs) bool {
	return a.All == b.All && (a.All || maps.Equal(a.IDs, b.IDs))
}

// catchUp gives the engine what changed in the store.
func (f *Follower) catchUp(ctx context.Context) (err error) {
	begun := time.Now()
	var seen []store.Change
	defer func() {
		if len(seen) > 0 || err != nil {
			f.observed("update", len(seen), begun, err)
		}
	}()
	next, read := f.current, f.Now()
	var changes []engine.Change
	var data *bundle.Bundle
	compile := false
	err = f.Store.View(ctx, func(t *store.Tx) error {
		next, changes, data, compile = f.current, nil, nil, false
		next.read = read
		list, first, err := t.Changes(ctx, next.applied, 1_000_000)
		if err != nil || len(list) == 0 {
			return err
		}
		seen = list
		if first > next.applied+1 {
			compile = true
			if err := f.settle(ctx, t, &next); err != nil {
				return err
			}
			data, err = f.everything(ctx, t, &next)
			return err
		}
		next.applied = list[len(list)-1].Seq
		touched := keysOf(list)
		if len(touched[store.ExceptionsChanged]) > 0 || slices.Contains(touched[store.SettingsChanged], SettingThresholds) {
			if err := f.settle(ctx, t, &next); err != nil {
				return err
			}
			compile = !reflect.DeepEqual(next.set.Thresholds, f.current.set.Thresholds)
			if !sameNeeds(f.current.exceptions.needs, next.exceptions.needs) && (next.exceptions.needs.All || f.current.exceptions.needs.All) {
				compile = true
				data, err = f.everything(ctx, t, &next)
				return err
			}
			if !compile {
				changes = difference(changes, []string{"exceptions"}, f.current.exceptions.tree, next.exceptions.tree, 3)
			}
		} else if err := next.readParts(ctx, t); err != nil {
			return err
		}
		more, err := f.changed(ctx, t, next, list)
		changes = append(changes, more...)
		return err
	})
	if err != nil || len(seen) == 0 {
		return err
	}
	if compile {
		if err := f.replace(ctx, next, data); err != nil {
			return err
		}
	}
	if data == nil && len(changes) > 0 {
		was := f.engine.Revisions()
		for _, part := range partNames() {
			if r := next.revisionOf(part); r != was[part] {
				changes = append(changes, engine.Change{Path: []string{"revisions", part}, Value: r})
			}
		}
		if err := f.engine.Update(ctx, changes...); err != nil {
			return err
		}
	}
	if compile {
		if err := f.declare(ctx, next); err != nil {
			return err
		}
	}
	f.put(next)
	f.tell(seen)
	return nil
}

// keysOf are the keys of changes by kind, without repeats.
func keysOf(list []store.Change) map[store.Kind][]string {
	keys := map[store.Kind][]string{}
	seen := map[store.Change]bool{}
	for _, c := range list {
		c.Seq, c.At = 0, ""
		if !seen[c] {
			seen[c] = true
			keys[c.Kind] = append(keys[c.Kind], c.Key)
		}
	}
	return keys
}

// changed are the documents of evidence, names and indexes that changed, and of evidence whose
// details something looks into now.
func (f *Follower) changed(ctx context.Context, t *store.Tx, next state, list []store.Change) (changes []engine.Change, err error) {
	needs, before := next.exceptions.needs, f.current.exceptions.needs
	to := newDifferences(func(path []string, value any) { changes = append(changes, engine.Change{Path: path, Value: value}) })
	digests, indexed, names := map[string]bool{}, map[string]bool{}, map[string]bool{}
	spaces := false
	for _, c := range list {
		space := spaceOf(c.Space)
		switch c.Kind {
		case store.ImageChanged:
			digests[c.Key] = true
			to.expect(documents.EvidencePath(space, c.Key))
			if space == documents.Shared {
				to.expect(documents.ImagePath(c.Key))
				to.expect(documents.DetailsPath(c.Key))
			}
		case store.IndexChanged:
			indexed[c.Key] = true
			to.expect(documents.ClaimsPath(space, c.Key))
			if space == documents.Shared {
				to.expect(documents.IndexPath(c.Key))
			}
		case store.NameChanged:
			names[c.Key] = true
			at := strings.LastIndexByte(c.Key, ':')
			to.expect(documents.NamePath(space, c.Key[:at], c.Key[at+1:]))
		}
		spaces = spaces || c.Kind == store.SpacesChanged || c.Space != store.Shared && !f.knows(c.Space)
	}
	if !sameNeeds(before, needs) {
		var ids []string
		for _, of := range []map[string]bool{before.IDs, needs.IDs} {
			for id := range of {
				if before.IDs[id] != needs.IDs[id] {
					ids = append(ids, id)
				}
			}
		}
		holders, err := t.Holders(ctx, ids)
		if err != nil {
			return nil, err
		}
		for _, d := range holders {
			digests[d] = true
			to.expect(documents.DetailsPath(d))
		}
	}
	for chunk := range slices.Chunk(slices.Sorted(maps.Keys(digests)), 500) {
		if err := evidence(ctx, t, store.Within{Digests: chunk}, needs, needs.All || len(needs.IDs) > 0, to.to); err != nil {
			return nil, err
		}
	}
	for chunk := range slices.Chunk(slices.Sorted(maps.Keys(indexed)), 500) {
		if err := indexes(ctx, t, chunk, to.to); err != nil {
			return nil, err
		}
		if err := claims(ctx, t, store.Within{Digests: chunk}, to.to); err != nil {
			return nil, err
		}
	}
	if len(names) > 0 {
		if err := tags(ctx, t, slices.Sorted(maps.Keys(names)), nil, to.to); err != nil {
			return nil, err
		}
	}
	if spaces {
		tree := map[string]any{}
		if err := clusters(ctx, t, into(tree)); err != nil {
			return nil, err
		}
		changes = append(changes, engine.Change{Path: []string{"clusters"}, Value: child(tree, "clusters")})
	}
	for _, path := range to.sortedGone() {
		changes = append(changes, engine.Change{Path: path})
	}
	return changes, nil
}

// knows says whether something was in a space before: what reads it is known then.
func (f *Follower) knows(space string) bool {
	return slices.ContainsFunc(slices.Collect(maps.Keys(f.current.parts)), func(part string) bool { return strings.HasPrefix(part, space+"/") })
}

// difference adds what makes one object of another, down to a depth.
func difference(changes []engine.Change, path []string, before, after map[string]any, depth int) []engine.Change {
	at := func(key string) []string { return append(slices.Clone(path), key) }
	for key := range before {
		if _, ok := after[key]; !ok {
			changes = append(changes, engine.Change{Path: at(key)})
		}
	}
	for key, value := range after {
		old, ok := before[key]
		a, isA := old.(map[string]any)
		b, isB := value.(map[string]any)
		switch {
		case ok && isA && isB && depth > 1:
			changes = difference(changes, at(key), a, b, depth-1)
		case !ok || !reflect.DeepEqual(old, value):
			changes = append(changes, engine.Change{Path: at(key), Value: value})
		}
	}
	return changes
}
