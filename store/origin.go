package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
)

// By names who hands in what the transaction writes, such as "token:7", so that all of it can be
// withdrawn. Without it, it is the server.
func (t *Tx) By(identity string) *Tx {
	t.identity = clean(cmp.Or(identity, identityServer))
	return t
}

// Shared is the space that all clusters read; another is named as package documents does.
const Shared = ""

func clusterSpace(name string) string { return string(documents.ClusterSpace(clean(name))) }

func groupSpace(name string) string { return string(documents.GroupSpace(clean(name))) }

func clusterIn(space string) (name string, ok bool) {
	return documents.ClusterIn(documents.Space(space))
}

func groupIn(space string) (name string, ok bool) { return documents.GroupIn(documents.Space(space)) }

// GroupReader is the name of a cluster that is none: it reads what is shared and the space of a group,
// as the clusters of the group do of which nothing else is known. No scope names a cluster so.
func GroupReader(group string) string { return ",group=" + group }

// Origin is what a piece of evidence is believed for: the clusters that read its space, and the names
// that begin with its registry. Its zero value is any cluster and any name.
type Origin struct{ Space, Registry string }

// anyOrigin is the row of the zero Origin.
const anyOrigin = 1

// Scope is that which the origin was made of; of a group's it does not say the cluster.
func (o Origin) Scope() (s api.Scope) {
	s.Registry = o.Registry
	s.Cluster, _ = clusterIn(o.Space)
	s.Group, _ = groupIn(o.Space)
	return s
}

// originOf is where evidence and claims of a scope are: in its group, in its cluster, or shared.
func originOf(s api.Scope) Origin {
	switch registry := clean(s.Registry); {
	case s.Group != "":
		return Origin{groupSpace(s.Group), registry}
	case s.Cluster != "":
		return Origin{clusterSpace(s.Cluster), registry}
	default:
		return Origin{"", registry}
	}
}

// tagSpace is where what a scope says of tags is; told is false where it speaks of none: in a
// group alone nothing runs, and no tag is resolved.
func tagSpace(s api.Scope) (space string, told bool) {
	if s.Cluster != "" {
		return clusterSpace(s.Cluster), true
	}
	return "", s.Group == ""
}

// origin is the row of an origin.
func (t *Tx) origin(ctx context.Context, o Origin) (id int64, err error) {
	if o == (Origin{}) {
		return anyOrigin, nil
	}
	err = t.one(ctx, "SELECT id FROM origins WHERE space = ? AND registry = ?", []any{o.Space, o.Registry}, &id)
	if errors.Is(err, ErrNotFound) {
		err = t.one(ctx, "INSERT INTO origins (space, registry) VALUES (?, ?) RETURNING id", []any{o.Space, o.Registry}, &id)
	}
	return id, err
}

// settingBound are the scopes of the bindings that the server was started with.
const settingBound = "bound scopes"

// Bound tells the scopes of bindings, which put clusters into trust groups as those of tokens do.
func (t *Tx) Bound(ctx context.Context, scopes []api.Scope) error {
	var texts, before []string
	for _, s := range scopes {
		if s.Cluster != "" && s.Group != "" {
			texts = append(texts, s.String())
		}
	}
	slices.Sort(texts)
	texts = slices.Compact(texts)
	if err := t.Setting(ctx, settingBound, &before); err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if !slices.Equal(before, texts) {
		if err := t.SetSetting(ctx, settingBound, texts); err != nil {
			return err
		}
	}
	return t.members(ctx)
}

// members puts each cluster into the trust groups that scopes of tokens and bindings name beside it.
func (t *Tx) members(ctx context.Context) error {
	type member struct{ cluster, group string }
	want, have := map[member]bool{}, map[member]bool{}
	var texts []string
	if err := t.Setting(ctx, settingBound, &texts); err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if err := t.each(ctx, "SELECT DISTINCT scope FROM tokens WHERE revoked = '' AND scope LIKE '%group=%'", nil, func(scan func(...any) error) error {
		var text string
		err := scan(&text)
		texts = append(texts, text)
		return err
	}); err != nil {
		return err
	}
	for _, text := range texts {
		s, err := api.ParseScope(text)
		if err != nil {
			return fmt.Errorf("reading the scope of a token: %w", err)
		}
		if s.Cluster != "" && s.Group != "" {
			want[member{s.Cluster, s.Group}] = true
		}
	}
	if err := t.each(ctx, "SELECT cluster, trust_group FROM members", nil, func(scan func(...any) error) error {
		var m member
		err := scan(&m.cluster, &m.group)
		have[m] = true
		return err
	}); err != nil {
		return err
	}
	touched := map[string]bool{}
	for m := range want {
		if have[m] {
			continue
		}
		touched[m.cluster] = true
		if _, err := t.exec(ctx, "INSERT INTO members (cluster, trust_group) VALUES (?, ?)", m.cluster, m.group); err != nil {
			return err
		}
	}
	for m := range have {
		if want[m] {
			continue
		}
		touched[m.cluster] = true
		if _, err := t.exec(ctx, "DELETE FROM members WHERE cluster = ? AND trust_group = ?", m.cluster, m.group); err != nil {
			return err
		}
	}
	for cluster := range touched {
		if err := t.changedIn(ctx, SpacesChanged, cluster, clusterSpace(cluster)); err != nil {
			return err
		}
	}
	if len(touched) == 0 {
		return nil
	}
	_, err := t.exec(ctx, "INSERT INTO work (seq, at) VALUES (?, ?)", t.seq, t.at)
	return err
}

// Members are the clusters that something is kept of, or that are in a trust group, with their groups.
func (t *Tx) Members(ctx context.Context) (map[string][]string, error) {
	all := map[string][]string{}
	if err := t.each(ctx, "SELECT space FROM origins WHERE space <> '' UNION SELECT space FROM observations WHERE space <> ''", nil, func(scan func(...any) error) error {
		var space string
		err := scan(&space)
		if name, ok := clusterIn(space); ok {
			all[name] = nil
		}
		return err
	}); err != nil {
		return nil, err
	}
	return all, t.each(ctx, "SELECT cluster, trust_group FROM members ORDER BY cluster, trust_group", nil, func(scan func(...any) error) error {
		var cluster, group string
		err := scan(&cluster, &group)
		all[cluster] = append(all[cluster], group)
		return err
	})
}

// Groups are the trust groups that somebody is in, or that something is kept for.
func (t *Tx) Groups(ctx context.Context) (groups []string, err error) {
	known := map[string]bool{}
	if err := t.each(ctx, "SELECT space FROM origins", nil, func(scan func(...any) error) error {
		var space string
		err := scan(&space)
		if group, ok := groupIn(space); ok {
			known[group] = true
		}
		return err
	}); err != nil {
		return nil, err
	}
	err = t.each(ctx, "SELECT DISTINCT trust_group FROM members", nil, func(scan func(...any) error) error {
		var group string
		err := scan(&group)
		known[group] = true
		return err
	})
	return keysSorted(known), err
}

// Named is the cluster of a space, with its groups.
func (t *Tx) Named(ctx context.Context, space string) (cluster string, groups []string, err error) {
	cluster, ok := clusterIn(space)
	if !ok {
		return "", nil, fmt.Errorf("%w: %.80q is the space of no cluster", ErrNotFound, space)
	}
	return cluster, groups, t.each(ctx, "SELECT trust_group FROM members WHERE cluster = ? ORDER BY trust_group", []any{cluster}, func(scan func(...any) error) error {
		var group string
		err := scan(&group)
		groups = append(groups, group)
		return err
	})
}

// readBy are the spaces beside the shared one that a cluster reads.
func (t *Tx) readBy(ctx context.Context, cluster string) (spaces []string, err error) {
	spaces = []string{clusterSpace(cluster)}
	return spaces, t.each(ctx, "SELECT trust_group FROM members WHERE cluster = ? ORDER BY trust_group", []any{cluster}, func(scan func(...any) error) error {
		var group string
		err := scan(&group)
		spaces = append(spaces, groupSpace(group))
		return err
	})
}

// piece is evidence about a digest, as far as choosing needs it.
type piece struct {
	image         int64 // 0 is a claim of an index, or a failed scan
	origin        Origin
	found, way    string
	scanned       bool
	error, source string // of a failed scan
}

// counts says whether a piece counts for a name where some spaces are read beside the shared one.
func (p piece) counts(spaces []string, name string) bool {
	return (p.origin.Space == Shared || slices.Contains(spaces, p.origin.Space)) && (api.Scope{Registry: p.origin.Registry}).AllowsName(name)
}

// choose gives the piece that counts where some spaces are read: the newest found of those whose scopes speak of the
// name there; what was not matched yet counts where nothing else does.
func choose(pieces []piece, spaces []string, name string, ways []api.Way) (best *piece) {
	for i, p := range pieces {
		if p.image == 0 || !p.counts(spaces, name) || ways != nil && !slices.Contains(ways, api.Way(p.way)) {
			continue
		}
		if best == nil || before(*best, p) {
			best = &pieces[i]
		}
	}
	return best
}

// before says whether b counts rather than a.
func before(a, b piece) bool {
	switch {
	case a.scanned != b.scanned:
		return b.scanned
	case a.found != b.found:
		return a.found < b.found
	}
	return b.origin.Scope().String() < a.origin.Scope().String()
}

// failed is the newest failed scan that is shown there.
func failed(failures []piece, spaces []string, name string) (last piece) {
	for _, f := range failures {
		if f.counts(spaces, name) && f.found >= last.found {
			last = f
		}
	}
	return last
}
