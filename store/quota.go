package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/assay-dev/assay/api"
)

// Usage is what an identity holds: digests and names that it handed something in of, until no list and no
// claim of its own has them, and the bytes that this takes.
type Usage struct {
	Digests int64 `json:"digests"`
	Names   int64 `json:"names"`
	Bytes   int64 `json:"bytes"`
}

// Quota bounds the usage of an identity; a member of 0 bounds nothing.
type Quota struct {
	Digests int64 `json:"digests,omitempty"`
	Names   int64 `json:"names,omitempty"`
	Bytes   int64 `json:"bytes,omitempty"`
}

// QuotaError says that what is handed in is more than its identity may hold. Nothing was written.
type QuotaError struct {
	Identity string
	Of       string // digests, names or bytes
	// Held is what there was before, Asked what there would be, Limit what there may be.
	Held, Asked, Limit int64
}

func (e *QuotaError) Error() string {
	return fmt.Sprintf("the quota of %s is %d %s: %d are held, and with this it would be %d", e.Identity, e.Limit, e.Of, e.Held, e.Asked)
}

// Identities that nothing is counted of.
const (
	identityServer = "server"
	identityBefore = "before origin"
)

// Kinds of holdings.
const (
	heldDigest = "digest"
	heldName   = "name"
)

// rowBytes is what a short row takes, with its indexes and what is listed because of it. What is
// larger, or has more rows beside it, is counted when it is written.
const rowBytes = 1 << 10

// searchBytes is what the row of a vulnerability or package takes for search, with its indexes.
const searchBytes = 256

// Within bounds what the identity of the transaction may hold after it. What it held too much of
// before may stay, and must not grow.
func (t *Tx) Within(q Quota) *Tx {
	t.quota = &q
	return t
}

// handed is what somebody hands in by a transaction.
type handed struct {
	digests, names map[string]struct{}
	bytes          int64
}

// holds notes that the identity of the transaction hands in something of a digest and a name, each
// of which may be "", that takes so many bytes. It is counted before the transaction is committed.
func (t *Tx) holds(digest, name string, bytes int64) {
	if t.identity == identityServer || t.identity == identityBefore {
		return
	}
	h := t.handed[t.identity]
	if h == nil {
		h = &handed{digests: map[string]struct{}{}, names: map[string]struct{}{}}
		if t.handed == nil {
			t.handed = map[string]*handed{}
		}
		t.handed[t.identity] = h
	}
	if digest != "" {
		h.digests[digest] = struct{}{}
	}
	if name != "" {
		h.names[name] = struct{}{}
	}
	h.bytes += bytes
}

// count adds what was handed in to what its identities hold, and refuses what is too much. It
// takes as long as what was handed in is large, whatever is stored.
func (t *Tx) count(ctx context.Context) error {
	for _, identity := range slices.Sorted(maps.Keys(t.handed)) {
		h := t.handed[identity]
		digests, err := t.hold(ctx, identity, heldDigest, h.digests)
		if err != nil {
			return err
		}
		names, err := t.hold(ctx, identity, heldName, h.names)
		if err != nil {
			return err
		}
		var now Usage
		if err := t.one(ctx, `INSERT INTO usages (identity, digests, names, bytes) VALUES (?, ?, ?, ?) ON CONFLICT (identity) DO UPDATE SET
			digests = usages.digests + excluded.digests, names = usages.names + excluded.names, bytes = usages.bytes + excluded.bytes RETURNING digests, names, bytes`,
			[]any{identity, digests, names, h.bytes}, &now.Digests, &now.Names, &now.Bytes); err != nil {
			return err
		}
		if t.quota == nil || identity != t.identity {
			continue
		}
		for _, x := range []struct {
			of                 string
			added, asked, most int64
		}{{"digests", digests, now.Digests, t.quota.Digests}, {"names", names, now.Names, t.quota.Names}, {"bytes", h.bytes, now.Bytes, t.quota.Bytes}} {
			if x.most > 0 && x.added > 0 && x.asked > x.most {
				return &QuotaError{Identity: identity, Of: x.of, Held: x.asked - x.added, Asked: x.asked, Limit: x.most}
			}
		}
	}
	return nil
}

// hold keeps holdings, and gives how many of them are new.
func (t *Tx) hold(ctx context.Context, identity, kind string, keys map[string]struct{}) (added int64, err error) {
	for chunk := range slices.Chunk(slices.Sorted(maps.Keys(keys)), bulkParameters/3) {
		args := make([]any, 0, 3*len(chunk))
		for _, key := range chunk {
			args = append(args, identity, kind, key)
		}
		n, err := t.exec(ctx, "INSERT INTO holdings (identity, kind, key) VALUES (?, ?, ?)"+strings.Repeat(", (?, ?, ?)", len(chunk)-1)+" ON CONFLICT (identity, kind, key) DO NOTHING", args...)
		if err != nil {
			return 0, err
		}
		added += n
	}
	return added, nil
}

// recount makes what an identity holds exact after something was removed or replaced: digests and
// names that nothing is kept of are let go, and bytes are summed up.
func (t *Tx) recount(ctx context.Context, identity string) error {
	for _, statement := range []string{
		`DELETE FROM holdings WHERE identity = ? AND kind = 'digest' AND NOT EXISTS (SELECT 1 FROM listings l WHERE l.digest = holdings.key)
			AND NOT EXISTS (SELECT 1 FROM indexes x WHERE x.digest = holdings.key AND x.identity = holdings.identity) AND NOT EXISTS (SELECT 1 FROM claims c WHERE c.digest = holdings.key AND c.identity = holdings.identity)`,
		"DELETE FROM holdings WHERE identity = ? AND kind = 'name' AND NOT EXISTS (SELECT 1 FROM listings l WHERE l.image = holdings.key)",
		`UPDATE usages SET digests = (SELECT COUNT(*) FROM holdings h WHERE h.identity = usages.identity AND h.kind = 'digest'), names = (SELECT COUNT(*) FROM holdings h WHERE h.identity = usages.identity AND h.kind = 'name'),
			bytes = (SELECT COALESCE(SUM(bytes), 0) FROM scans s WHERE s.identity = usages.identity) + (SELECT COALESCE(SUM(bytes), 0) FROM matches m WHERE m.identity = usages.identity)
			+ (SELECT COALESCE(SUM(bytes), 0) FROM indexes x WHERE x.identity = usages.identity) + ` + fmt.Sprint(rowBytes) + ` * ((SELECT COUNT(*) FROM observations o WHERE o.identity = usages.identity)
			+ (SELECT COUNT(*) FROM instances n WHERE n.identity = usages.identity) + (SELECT COUNT(*) FROM nodes d WHERE d.identity = usages.identity)) WHERE identity = ?`,
	} {
		if _, err := t.exec(ctx, statement, identity); err != nil {
			return err
		}
	}
	return nil
}

// holders are the identities that hold a key, such as a digest; with "" all that hold anything.
func (t *Tx) holders(ctx context.Context, key string) (identities []string, err error) {
	query, args := "SELECT identity FROM usages ORDER BY identity", []any(nil)
	if key != "" {
		query, args = "SELECT DISTINCT identity FROM holdings WHERE key = ? ORDER BY identity", []any{key}
	}
	return identities, t.each(ctx, query, args, func(scan func(...any) error) error {
		var identity string
		err := scan(&identity)
		identities = append(identities, identity)
		return err
	})
}

// Recount makes what all identities hold exact, each in a transaction of its own.
func (s *Store) Recount(ctx context.Context) error {
	var identities []string
	if err := s.View(ctx, func(t *Tx) (err error) {
		identities, err = t.holders(ctx, "")
		return err
	}); err != nil {
		return err
	}
	var errs []error
	for _, identity := range identities {
		errs = append(errs, s.Write(ctx, func(t *Tx) error { return t.recount(ctx, identity) }))
	}
	return errors.Join(errs...)
}

// Usages are what identities hold: never less than that, and exact after each [Store.Recount].
func (s *Store) Usages(ctx context.Context) (all map[string]Usage, err error) {
	return all, s.View(ctx, func(t *Tx) error {
		all = map[string]Usage{}
		return t.each(ctx, "SELECT identity, digests, names, bytes FROM usages", nil, func(scan func(...any) error) error {
			var identity string
			var u Usage
			err := scan(&identity, &u.Digests, &u.Names, &u.Bytes)
			all[identity] = u
			return err
		})
	})
}

// scanBytes is what a scan takes: its row and event, and where its vulnerabilities are not kept yet
// those, packed and for search.
func scanBytes(header string, list []api.Vulnerability, packed int) int64 {
	n := rowBytes + len(header) + packed
	for _, v := range list {
		names := len(v.ID) + len(v.Package) + 16
		for _, a := range v.Aliases {
			names += len(a) + 4
		}
		n += names
		if packed > 0 {
			n += searchBytes + names + len(v.Version) + len(v.Type)
		}
	}
	return int64(n)
}

// sbomBytes is what an SBOM takes, with its packages for search.
func sbomBytes(header string, list []Package, packed int) int64 {
	n := rowBytes + len(header) + packed
	for _, p := range list {
		n += searchBytes + len(p.Name) + len(p.Version) + len(p.Type)
	}
	return int64(n)
}
