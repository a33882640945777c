package store

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
)

// MaxScan bounds a stored document of a scan or SBOM, in bytes before compression.
const MaxScan = 1 << 30

// Added says what became of a scan that was added.
type Added struct {
	ID  int64 `json:"id"`
	New bool  `json:"new"` // false: the very scan is there already
	// Listing is the row of lists that it belongs to.
	Listing int64 `json:"-"`
}

// AddScan stores a scan that passed api.Scan.Validate and whose Image is a
// reference. What it claims as result, and the exceptions that it shows, are left
// out. A scan is the same when reference, digest, time, source, database and origin are; that
// is of its Scope. When its packages were found is at most now.
func (t *Tx) AddScan(ctx context.Context, scan api.Scan) (Added, error) {
	return t.addScan(ctx, scan, "")
}

// AddMatch stores, as [Tx.AddScan] does, what the server's own matching of an SBOM gave: the first
// matching belongs to the upload of the SBOM, and both are one event; one again that changes
// nothing is at most one event a day (docs/design/033).
func (t *Tx) AddMatch(ctx context.Context, scan api.Scan, first bool) (Added, error) {
	if first {
		return t.addScan(ctx, scan, causeMatch)
	}
	return t.addScan(ctx, scan, causeRematch)
}

func (t *Tx) addScan(ctx context.Context, scan api.Scan, cause string) (Added, error) {
	ref, err := api.ParseReference(scan.Image)
	if err != nil {
		return Added{}, err
	}
	scan = sanitized(scan)
	if err := t.prove(ctx, &scan); err != nil {
		return Added{}, err
	}
	where := originOf(scan.Scope)
	origin, err := t.origin(ctx, where)
	if err != nil {
		return Added{}, err
	}
	found := t.found(scan)
	scan.Found = parseTime(found)
	content, packed, err := t.content(ctx, scan.Vulnerabilities)
	if err != nil {
		return Added{}, err
	}
	header := scan
	header.Vulnerabilities = nil
	text, err := json.Marshal(header)
	if err != nil {
		return Added{}, fmt.Errorf("writing the scan: %w", err)
	}
	var image *int64
	if scan.Digest != "" {
		if image, err = t.image(ctx, origin, scan); err != nil {
			return Added{}, err
		}
	}
	built, checksum := "", ""
	if d := scan.Database; d != nil {
		checksum = d.Checksum
		if !d.Built.IsZero() {
			built = documents.Time(d.Built)
		}
	}
	at := documents.Time(scan.ScannedAt)
	reference := ref.Canonical()
	var added Added
	size := scanBytes(string(text), scan.Vulnerabilities, packed)
	err = t.one(ctx, `INSERT INTO scans (image_id, reference, digest, source, scanned_at, database, checksum, stored_at, error, header, content_id, origin_id, found, way, identity, bytes)
		VALUES (`+marks(16)+`) ON CONFLICT (digest, reference, scanned_at, checksum, source, origin_id) DO NOTHING RETURNING id`,
		[]any{image, reference, scan.Digest, scan.Source, at, built, checksum, t.at, scan.Error, string(text), content, origin, found, string(scan.Way), t.identity, size}, &added.ID)
	if errors.Is(err, ErrNotFound) {
		err = t.one(ctx, "SELECT id FROM scans WHERE digest = ? AND reference = ? AND scanned_at = ? AND checksum = ? AND source = ? AND origin_id = ?",
			[]any{scan.Digest, reference, at, checksum, scan.Source, origin}, &added.ID)
		return added, err
	}
	if err != nil {
		return added, err
	}
	added.New = true
	t.holds(scan.Digest, reference, size)
	if scan.Error != "" && scan.Digest != "" {
		if err := t.claimFailed(ctx, where.Space, scan.Digest); err != nil {
			return added, err
		}
	}
	newest := false
	if image != nil && scan.Error == "" {
		if err := t.named(ctx, *image, ref.Name()); err != nil {
			return added, err
		}
		if newest, err = t.newest(ctx, *image, added.ID, scan); err != nil {
			return added, err
		}
	}
	// What a tag led to was seen when it was scanned, which was before now whatever the clock there says.
	if err := t.observe(ctx, ref, scan, min(at, t.at)); err != nil {
		return added, err
	}
	if added.Listing, err = t.listing(ctx, ref, image, scan.Digest, scan.Source, at); err != nil {
		return added, err
	}
	if err := t.failure(ctx, added.Listing, ref, where, scan); err != nil {
		return added, err
	}
	if err := t.changed(ctx, ScanAdded, cmp.Or(scan.Digest, reference)); err != nil {
		return added, err
	}
	if newest {
		if err := t.changedIn(ctx, ImageChanged, scan.Digest, where.Space); err != nil {
			return added, err
		}
		if err := t.disagreement(ctx, scan.Digest, added.Listing); err != nil {
			return added, err
		}
	}
	if _, err := t.exec(ctx, "INSERT INTO work (seq, listing_id, scan_id, at, cause) VALUES (?, ?, ?, ?, ?)", t.seq, added.Listing, added.ID, t.at, cause); err != nil {
		return added, err
	}
	if newest { // the digest counts under its other names too
		_, err = t.exec(ctx, "INSERT INTO work (seq, listing_id, at) SELECT ?, id, ? FROM listings WHERE digest = ? AND id <> ?", t.seq, t.at, scan.Digest, added.Listing)
	}
	return added, err
}

// AddFailure stores a scan that failed, unless the last one of its origin failed under the same name and digest for the
// same reason: who tries again and again tells it once.
func (t *Tx) AddFailure(ctx context.Context, scan api.Scan) (Added, error) {
	ref, err := api.ParseReference(scan.Image)
	if err != nil {
		return Added{}, err
	}
	origin, err := t.origin(ctx, originOf(scan.Scope))
	if err != nil {
		return Added{}, err
	}
	var before string
	err = t.one(ctx, "SELECT f.error FROM failures f JOIN listings l ON l.id = f.listing_id WHERE l.name = ? AND l.tag = ? AND l.digest = ? AND f.origin_id = ?", []any{ref.Name(), listingTag(ref), scan.Digest, origin}, &before)
	if err == nil && before == clean(scan.Error) {
		return Added{}, nil
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return Added{}, err
	}
	return t.AddScan(ctx, scan)
}

// found is when the packages of a scan were determined: never later than now.
func (t *Tx) found(scan api.Scan) string {
	if at := scan.FoundAt(); !at.IsZero() {
		return min(documents.Time(at), t.at)
	}
	return t.at
}

// named keeps a name under which a piece was handed in.
func (t *Tx) named(ctx context.Context, image int64, name string) error {
	_, err := t.exec(ctx, "INSERT INTO image_names (image_id, name) VALUES (?, ?) ON CONFLICT (image_id, name) DO NOTHING", image, name)
	return err
}

// sanitized is a scan without what is computed, and without NUL, which PostgreSQL cannot hold.
func sanitized(scan api.Scan) api.Scan {
	scan.Result, scan.MaxCVSS, scan.Unscored = "", nil, 0
	scan.Way = cmp.Or(scan.Way, api.Uploaded)
	for _, s := range []*string{&scan.Source, &scan.Error, &scan.Platform, &scan.ConfigDigest, &scan.Distro} {
		*s = clean(*s)
	}
	if scan.Base != nil && scan.Base.Found != api.BaseLabelled {
		scan.Base = nil
	}
	scan.Unplaced = slices.Clone(scan.Unplaced)
	for i := range scan.Unplaced {
		scan.Unplaced[i].Distro = clean(scan.Unplaced[i].Distro)
	}
	scan.Vulnerabilities = slices.Clone(scan.Vulnerabilities)
	for i := range scan.Vulnerabilities {
		v := &scan.Vulnerabilities[i]
		v.Exception, v.Origin, v.Decides = nil, "", false
		v.Aliases = slices.Clone(v.Aliases)
		for _, s := range []*string{&v.ID, &v.Package, &v.Version, &v.Type, &v.Severity} {
			*s = clean(*s)
		}
		for k := range v.Aliases {
			v.Aliases[k] = clean(v.Aliases[k])
		}
	}
	return scan
}

// content is the id of a list of vulnerabilities, kept once; packed is its size where it was not kept yet.
func (t *Tx) content(ctx context.Context, list []api.Vulnerability) (id int64, packed int, err error) {
	if list == nil {
		list = []api.Vulnerability{}
	}
	text, err := json.Marshal(list)
	if err != nil {
		return 0, 0, fmt.Errorf("writing the vulnerabilities: %w", err)
	}
	sum := sha256.Sum256(text)
	key := hex.EncodeToString(sum[:])
	err = t.one(ctx, "SELECT id FROM contents WHERE sha256 = ?", []any{key}, &id)
	if !errors.Is(err, ErrNotFound) {
		return id, 0, err
	}
	document := compress(text)
	return id, len(document), t.one(ctx, "INSERT INTO contents (sha256, document) VALUES (?, ?) RETURNING id", []any{key, document}, &id)
}

// image is the piece of evidence of an origin about a digest, made where it is missing.
func (t *Tx) image(ctx context.Context, origin int64, scan api.Scan) (*int64, error) {
	key := scan.Digest
	if origin != anyOrigin {
		key += fmt.Sprintf(" %d", origin)
	}
	var id int64
	err := t.one(ctx, "SELECT id FROM images WHERE piece = ?", []any{key}, &id)
	if errors.Is(err, ErrNotFound) {
		err = t.one(ctx, "INSERT INTO images (piece, digest, origin_id) VALUES (?, ?, ?) RETURNING id", []any{key, scan.Digest, origin}, &id)
	}
	if err != nil {
		return nil, err
	}
	_, err = t.exec(ctx, `UPDATE images SET config_digest = CASE WHEN ? = '' THEN config_digest ELSE ? END, platform = CASE WHEN ? = '' THEN platform ELSE ? END WHERE id = ?`,
		scan.ConfigDigest, scan.ConfigDigest, scan.Platform, scan.Platform, id)
	return &id, err
}

// newest makes a scan the one that counts for its piece, unless that has a newer one.
func (t *Tx) newest(ctx context.Context, image, id int64, scan api.Scan) (bool, error) {
	at := documents.Time(scan.ScannedAt)
	var before struct {
		at      string
		content int64
	}
	err := t.one(ctx, "SELECT CASE WHEN s.scanned_at > s.stored_at THEN s.stored_at ELSE s.scanned_at END, s.content_id FROM images i JOIN scans s ON s.id = i.scan_id WHERE i.id = ?", []any{image}, &before.at, &before.content)
	first := errors.Is(err, ErrNotFound)
	if err != nil && !first {
		return false, err
	}
	// Times ahead are those of the receipt: they do not stay ahead of what comes later.
	if !first && min(at, t.at) < before.at {
		return false, nil
	}
	epss, kev, fixable := worst(scan.Vulnerabilities)
	unplaced := 0
	for _, u := range scan.Unplaced {
		unplaced += u.Packages
	}
	if _, err := t.exec(ctx, `UPDATE images SET scan_id = ?, unscored = ?, unplaced = ?, distro = ?, packages = CASE WHEN ? > 0 THEN ? ELSE packages END, epss = ?, kev = ?, fixable = ?, (found, way, identity) =
		(SELECT CASE WHEN found = '' THEN CASE WHEN scanned_at > stored_at THEN stored_at ELSE scanned_at END ELSE found END, way, identity FROM scans WHERE id = ?) WHERE id = ?`,
		id, api.Unscored(scan.Vulnerabilities), unplaced, scan.Distro, scan.Packages, scan.Packages, epss, kev, fixable, id, image); err != nil {
		return false, err
	}
	var content int64
	if err := t.one(ctx, "SELECT content_id FROM scans WHERE id = ?", []any{id}, &content); err != nil {
		return false, err
	}
	groups := documents.Groups(scan.Vulnerabilities)
	document, details := documents.Image(scan, documents.Needs{All: true})
	text, err := json.Marshal(document)
	if err != nil {
		return false, fmt.Errorf("writing the document of the image: %w", err)
	}
	detail, err := json.Marshal(details)
	if err != nil {
		return false, fmt.Errorf("writing the details of the image: %w", err)
	}
	if first || content != before.content {
		if err := t.findings(ctx, image, groups, first); err != nil {
			return false, err
		}
	}
	cve, packages := lists(scan.Vulnerabilities)
	_, err = t.exec(ctx, `INSERT INTO image_documents (image_id, document, details, cve, package) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (image_id) DO UPDATE SET document = excluded.document, details = excluded.details, cve = excluded.cve, package = excluded.package`,
		image, string(text), compress(detail), cve, packages)
	if err != nil {
		return false, err
	}
	if err := t.brief(ctx, image, id, scan); err != nil {
		return false, err
	}
	_, err = t.exec(ctx, "UPDATE listings SET scanned_at = ?, epss = ?, kev = ?, fixable = ? WHERE image_id = ?", at, epss, kev, fixable, image)
	return true, err
}

// lists are the ids and the packages of vulnerabilities, as events have them.
func lists(vulnerabilities []api.Vulnerability) (cve, packages string) {
	ids, names := map[string]bool{}, map[string]bool{}
	for _, v := range vulnerabilities {
		ids[api.NormalizeID(v.ID)] = true
		for _, a := range v.Aliases {
			ids[api.NormalizeID(a)] = true
		}
		names[v.Package] = true
	}
	return jsonSet(ids), jsonSet(names)
}

func jsonSet(set map[string]bool) string {
	list := make([]string, 0, len(set))
	for s := range set {
		list = append(list, s)
	}
	slices.Sort(list)
	text, err := json.Marshal(list)
	if err != nil {
		panic(err) // strings have a JSON form
	}
	return string(text)
}

// observe keeps what a tag led to, and the platforms of an index that nobody showed the bytes of.
func (t *Tx) observe(ctx context.Context, ref api.Reference, scan api.Scan, at string) error {
	digest := scan.Digest
	if x := scan.Index; x != nil && x.Digest != "" {
		digest = x.Digest
		platforms, err := json.Marshal(x.Platforms)
		if err != nil {
			return fmt.Errorf("writing the index: %w", err)
		}
		where := originOf(scan.Scope)
		origin, err := t.origin(ctx, where)
		if err != nil {
			return err
		}
		size := int64(rowBytes + len(platforms))
		n, err := t.exec(ctx, `INSERT INTO indexes (digest, origin_id, platforms, at, identity, bytes) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (digest, origin_id) DO UPDATE SET platforms = excluded.platforms, at = excluded.at, identity = excluded.identity, bytes = excluded.bytes WHERE indexes.at <= excluded.at AND indexes.platforms <> excluded.platforms`,
			x.Digest, origin, string(platforms), at, t.identity, size)
		if err != nil {
			return err
		}
		if n > 0 {
			t.holds(x.Digest, "", size)
			if err := t.changedIn(ctx, IndexChanged, x.Digest, where.Space); err != nil {
				return err
			}
		}
	}
	space, told := tagSpace(scan.Scope)
	if !told {
		return nil
	}
	return t.observed(ctx, space, ref, digest, at)
}

// observed keeps that a tag led to a digest at a moment, in a space.
func (t *Tx) observed(ctx context.Context, space string, ref api.Reference, digest, at string) error {
	if ref.Tag == "" || ref.Digest != "" || digest == "" {
		return nil
	}
	newest := func() (digest string, err error) {
		err = t.one(ctx, "SELECT digest FROM observations WHERE name = ? AND tag = ? AND space = ? ORDER BY last DESC, digest DESC LIMIT 1", []any{ref.Name(), ref.Tag, space}, &digest)
		if errors.Is(err, ErrNotFound) {
			return "", nil
		}
		return digest, err
	}
	before, err := newest()
	if err != nil {
		return err
	}
	var first string
	err = t.one(ctx, `INSERT INTO observations (name, tag, space, digest, identity, first, last) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (name, tag, space, digest, identity) DO UPDATE SET last = excluded.last WHERE observations.last < excluded.last RETURNING first`, []any{ref.Name(), ref.Tag, space, digest, t.identity, at, at}, &first)
	written := err == nil
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if first == at { // it is new: one that was there is seen later than it was first
		t.holds(digest, ref.Canonical(), rowBytes)
	}
	after, err := newest()
	if err != nil {
		return err
	}
	if after == before && !written {
		return nil
	}
	// Of what is seen in several spaces the newest counts: there each sight of it does. Else what it leads to does.
	var others []string
	if err := t.each(ctx, "SELECT DISTINCT space FROM observations WHERE name = ? AND tag = ? AND space <> ?", []any{ref.Name(), ref.Tag, space}, func(scan func(...any) error) error {
		var other string
		err := scan(&other)
		others = append(others, other)
		return err
	}); err != nil || after == before && (len(others) == 0 || space != Shared && !slices.Contains(others, Shared)) {
		return err
	}
	if space != Shared && before == "" && slices.Contains(others, Shared) {
		if err := t.changed(ctx, NameChanged, ref.Name()+":"+ref.Tag); err != nil {
			return err
		}
	}
	return t.changedIn(ctx, NameChanged, ref.Name()+":"+ref.Tag, space)
}

// listing is the row of a reference and a digest, made where it is missing. An empty
// at is no scan: the image runs.
func (t *Tx) listing(ctx context.Context, ref api.Reference, image *int64, digest, source, at string) (id int64, err error) {
	tag := ref.Tag
	if ref.Digest != "" {
		tag = ""
	}
	err = t.one(ctx, "SELECT id FROM listings WHERE name = ? AND tag = ? AND digest = ?", []any{ref.Name(), tag, digest}, &id)
	if errors.Is(err, ErrNotFound) {
		err = t.one(ctx, `INSERT INTO listings (image_id, digest, name, tag, registry, repository, image, source, result, scanned_at, first_seen, error)
			VALUES (`+marks(12)+`) RETURNING id`,
			[]any{image, digest, ref.Name(), tag, ref.Registry(), ref.Repository(), ref.Canonical(), source, "", at, t.at, ""}, &id)
		if err != nil {
			return 0, err
		}
		if image == nil {
			return id, nil
		}
		return id, t.summarize(ctx, id, *image)
	}
	if err != nil || at == "" {
		return id, err
	}
	_, err = t.exec(ctx, "UPDATE listings SET source = ?, scanned_at = CASE WHEN scanned_at < ? AND digest = '' THEN ? ELSE scanned_at END WHERE id = ?", source, at, at, id)
	return id, err
}

// summarize gives a listing what the newest scan of a piece shows.
func (t *Tx) summarize(ctx context.Context, listing, image int64) error {
	_, err := t.exec(ctx, `UPDATE listings SET (scanned_at, epss, kev, fixable) = (SELECT s.scanned_at, i.epss, i.kev, i.fixable FROM images i JOIN scans s ON s.id = i.scan_id WHERE i.id = ?)
		WHERE id = ? AND EXISTS (SELECT 1 FROM images WHERE id = ? AND scan_id IS NOT NULL)`, image, listing, image)
	return err
}

// worst is the highest probability of exploitation, and whether any vulnerability is exploited or fixed.
func worst(vulnerabilities []api.Vulnerability) (epss *float64, kev, fixable bool) {
	for _, v := range vulnerabilities {
		if v.EPSS != nil && (epss == nil || *v.EPSS > *epss) {
			epss = v.EPSS
		}
		kev, fixable = kev || v.KEV, fixable || v.Fix.State == "fixed"
	}
	return epss, kev, fixable
}

// findings replaces what search knows of an image.
func (t *Tx) findings(ctx context.Context, image int64, groups []documents.Group, first bool) error {
	type meta struct {
		score, epss *float64
		kev         bool
		severity    string
		canonical   bool
	}
	var names []string
	var keys []packageKey
	known := map[string]meta{}
	for _, g := range groups {
		m := meta{score: g.Score}
		for _, v := range g.Members {
			if v.EPSS != nil && (m.epss == nil || *v.EPSS > *m.epss) {
				m.epss = v.EPSS
			}
			m.kev, m.severity = m.kev || v.KEV, cmp.Or(m.severity, v.Severity)
			keys = append(keys, keyOf(v))
		}
		for i, name := range g.Names {
			before, ok := known[name]
			if !ok {
				names = append(names, name)
			}
			m.canonical = i == 0 || before.canonical
			known[name] = m
		}
	}
	terms, err := t.termIDs(ctx, names)
	if err != nil {
		return err
	}
	packages, err := t.packageIDs(ctx, keys)
	if err != nil {
		return err
	}

	before := map[int64]bool{}
	if err := t.each(ctx, "SELECT term_id FROM image_terms WHERE image_id = ?", []any{image}, func(scan func(...any) error) error {
		var id int64
		err := scan(&id)
		before[id] = true
		return err
	}); err != nil {
		return err
	}
	var added, count [][]any
	var update [][]any
	for _, name := range names {
		id, m := terms[name], known[name]
		n := 0
		if !before[id] {
			n = 1
			added = append(added, []any{id, image, t.at, !first})
		}
		delete(before, id)
		update = append(update, []any{id, n, m.score, m.epss, m.kev, m.severity, m.canonical})
	}
	var gone []any
	for id := range before {
		gone = append(gone, id)
		count = append(count, []any{id, -1})
	}
	for chunk := range slices.Chunk(gone, 1000) {
		if _, err := t.exec(ctx, "DELETE FROM image_terms WHERE image_id = ? AND term_id IN ("+marks(len(chunk))+")", append([]any{image}, chunk...)...); err != nil {
			return err
		}
	}
	if err := t.bulk(ctx, "INSERT INTO image_terms (term_id, image_id, found, later)", "", added); err != nil {
		return err
	}
	for chunk := range slices.Chunk(update, 1000) {
		clause, args := values("v", []string{"id", "n", "score", "epss", "kev", "severity", "canonical"},
			[]string{"BIGINT", "BIGINT", "DOUBLE PRECISION", "DOUBLE PRECISION", "BOOLEAN", "TEXT", "BOOLEAN"}, chunk)
		if _, err := t.exec(ctx, "WITH "+clause+` UPDATE terms SET images = terms.images + v.n, score = v.score, epss = v.epss, kev = v.kev, severity = v.severity,
			canonical = (terms.canonical OR v.canonical) FROM v WHERE terms.id = v.id`, args...); err != nil {
			return err
		}
	}
	for chunk := range slices.Chunk(count, 1000) {
		clause, args := values("v", []string{"id", "n"}, []string{"BIGINT", "BIGINT"}, chunk)
		if _, err := t.exec(ctx, "WITH "+clause+" UPDATE terms SET images = terms.images + v.n FROM v WHERE terms.id = v.id", args...); err != nil {
			return err
		}
	}

	if _, err := t.exec(ctx, "DELETE FROM findings WHERE image_id = ?", image); err != nil {
		return err
	}
	// Without an SBOM, the vulnerable packages are those that are known.
	if _, err := t.exec(ctx, "DELETE FROM image_packages WHERE image_id = ? AND NOT EXISTS (SELECT 1 FROM sboms WHERE image_id = ?)", image, image); err != nil {
		return err
	}
	var rows, holds [][]any
	at := map[[2]int64]int{}
	held := map[int64]bool{}
	for _, g := range groups {
		term := terms[g.Names[0]]
		for _, v := range g.Members {
			p := packages[keyOf(v)]
			fixable := v.Fix.State == "fixed"
			if n, ok := at[[2]int64{term, p}]; ok {
				rows[n][4] = rows[n][4].(bool) || fixable
				continue
			}
			at[[2]int64{term, p}] = len(rows)
			rows = append(rows, []any{image, term, p, v.CVSS, fixable})
			if !held[p] {
				held[p] = true
				holds = append(holds, []any{p, image})
			}
		}
	}
	if err := t.bulk(ctx, "INSERT INTO findings (image_id, term_id, package_id, score, fixable)", "", rows); err != nil {
		return err
	}
	return t.bulk(ctx, "INSERT INTO image_packages (package_id, image_id)", "ON CONFLICT (package_id, image_id) DO NOTHING", holds)
}

func keyOf(v *api.Vulnerability) packageKey { return packageKey{v.Package, v.Version, v.Type} }

// scan reads a scan with its vulnerabilities. Its result is not computed.
func (t *Tx) scan(ctx context.Context, id int64) (api.Scan, error) {
	var header string
	var document []byte
	if err := t.one(ctx, "SELECT s.header, c.document FROM scans s JOIN contents c ON c.id = s.content_id WHERE s.id = ?", []any{id}, &header, &document); err != nil {
		return api.Scan{}, err
	}
	return decodeScan(header, document)
}

func decodeScan(header string, document []byte) (scan api.Scan, err error) {
	if err := json.Unmarshal([]byte(header), &scan); err != nil {
		return scan, fmt.Errorf("reading the scan: %w", err)
	}
	text, err := decompress(document)
	if err != nil {
		return scan, fmt.Errorf("reading the vulnerabilities: %w", err)
	}
	if err := json.Unmarshal(text, &scan.Vulnerabilities); err != nil {
		return scan, fmt.Errorf("reading the vulnerabilities: %w", err)
	}
	return scan, nil
}

// Scan is the newest scan without error of a digest, as lists show it under a reference, or under
// any where that is ""; in a cluster, or where that is "" where it is worst. It has no result;
// reader is the cluster that the engine is asked for to say the same as the lists.
func (s *Store) Scan(ctx context.Context, digest, reference, cluster string) (scan api.Scan, reader string, err error) {
	err = s.View(ctx, func(t *Tx) error {
		var c conditions
		c.add("l.digest = ?", digest)
		if reference != "" {
			ref, err := api.ParseReference(reference)
			if err != nil {
				return err
			}
			c.add("l.name = ?", ref.Name())
		}
		rows, args, err := t.rowsIn(ctx, cluster)
		if err != nil {
			return err
		}
		var id int64
		if err := t.one(ctx, "SELECT i.scan_id, "+viewOf+" FROM "+rows+" JOIN images i ON i.id = l.image_id"+c.where()+" AND i.scan_id IS NOT NULL ORDER BY l.id LIMIT 1", append(args, c.args...), &id, &reader); err != nil {
			return err
		}
		reader = readerOf(reader)
		if cluster != "" {
			reader = cluster
		}
		scan, err = t.scan(ctx, id)
		return err
	})
	return scan, reader, err
}

// ScanSummary is one scan in the history of an image.
type ScanSummary struct {
	ID              int64  `json:"id"`
	Image           string `json:"image"`
	Digest          string `json:"digest,omitempty"`
	Source          string `json:"source,omitempty"`
	ScannedAt       string `json:"scanned_at"`
	StoredAt        string `json:"stored_at"`
	Database        string `json:"database,omitempty"`
	Error           string `json:"error,omitempty"`
	Vulnerabilities string `json:"vulnerabilities"` // equal for scans that found the same
}

// History are the scans of a digest, the newest first, older than an id where that is not 0.
func (s *Store) History(ctx context.Context, digest string, before int64, limit int) (list []ScanSummary, err error) {
	return list, s.View(ctx, func(t *Tx) error {
		list = nil
		return t.each(ctx, `SELECT s.id, s.reference, s.digest, s.source, s.scanned_at, s.stored_at, s.database, s.error, c.sha256 FROM scans s JOIN contents c ON c.id = s.content_id
			WHERE s.digest = ? AND (CAST(? AS BIGINT) = 0 OR s.id < ?) ORDER BY s.id DESC LIMIT ?`, []any{digest, before, before, limit}, func(scan func(...any) error) error {
			var h ScanSummary
			err := scan(&h.ID, &h.Image, &h.Digest, &h.Source, &h.ScannedAt, &h.StoredAt, &h.Database, &h.Error, &h.Vulnerabilities)
			list = append(list, h)
			return err
		})
	})
}

// encoder and decoder may be used concurrently by their EncodeAll and DecodeAll.
var (
	encoder = must(zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(2)))
	decoder = must(zstd.NewReader(nil, zstd.WithDecoderMaxMemory(MaxScan), zstd.WithDecoderConcurrency(2)))
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // the options above are valid
	}
	return v
}

func compress(text []byte) []byte { return encoder.EncodeAll(text, nil) }

func decompress(data []byte) ([]byte, error) { return decoder.DecodeAll(data, nil) }

// parseTime reads what documents.Time wrote; the zero time for "".
func parseTime(text string) time.Time {
	t, err := time.Parse(api.TimeLayout, text)
	if err != nil {
		return time.Time{}
	}
	return t
}
