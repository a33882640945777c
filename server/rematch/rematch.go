// Package rematch matches the SBOMs of the store against the vulnerability database,
// once they come in and again whenever the database changes or a day has passed.
// Images are never pulled for that.
package rematch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/scanner"
	"github.com/assay-dev/assay/scanner/match"
	"github.com/assay-dev/assay/scanner/vulndb"
	"github.com/assay-dev/assay/store"
)

// DefaultEvery is the time after which an SBOM is matched again with the same database.
const DefaultEvery = 24 * time.Hour

// lookEvery is how often the current database is looked for.
const lookEvery = 30 * time.Second

// Config says what is matched with what.
type Config struct {
	Store *store.Store
	// Databases has the current database; Path, where given, is another one, that never changes.
	Databases *vulndb.Store
	Path      string
	// Update fetches newer databases.
	Update bool
	Every  time.Duration // 0: DefaultEvery
	Log    *slog.Logger
	Now    func() time.Time // nil: time.Now
}

// Rematch is safe for concurrent use.
type Rematch struct {
	Config

	using sync.RWMutex // held for reading while a database is matched with
	db    *vulndb.DB
	match *match.Matcher

	mu     sync.Mutex
	looked time.Time
	own    own

	// before is the matcher of the database before, for what it knows.
	before         *match.Matcher
	beforeChecksum string

	carrying sync.Mutex
	carried  map[string]bool // by the checksums of the older and the newer database
}

// New makes a Rematch, which must be closed.
func New(c Config) *Rematch {
	if c.Every == 0 {
		c.Every = DefaultEvery
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Rematch{Config: c}
}

// Close waits for the matches that run, and closes the database.
func (r *Rematch) Close() error {
	r.using.Lock()
	defer r.using.Unlock()
	err := r.db.Close()
	r.db, r.match = nil, nil
	return err
}

// Database is the one in use; nil when there is none.
func (r *Rematch) Database() *api.ScanDatabase {
	r.using.RLock()
	defer r.using.RUnlock()
	if r.db == nil {
		return nil
	}
	info := r.db.Info
	return &info
}

// look opens the current database where it is another than that in use.
func (r *Rematch) look(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := r.Now(); r.db != nil && (r.Path != "" || now.Sub(r.looked) < lookEvery) {
		return nil
	}
	r.looked = r.Now()
	if keep, err := r.merge(ctx); keep || err != nil {
		return err
	}
	if r.db != nil {
		status, err := r.Databases.Status(ctx)
		if err != nil {
			return err
		}
		if status.Checksum == r.db.Info.Checksum {
			// The same database may have become too old to be trusted.
			return status.Err
		}
	}
	open := r.Databases.Open
	if r.Path != "" {
		open = func(ctx context.Context) (*vulndb.DB, error) { return r.Databases.OpenPath(ctx, r.Path) }
	}
	db, err := open(ctx)
	if err != nil {
		return err
	}
	if r.ownAdvisories() && filepath.Dir(db.Path) != r.own.merged {
		// Another came between, without the advisories.
		r.looked = time.Time{}
		return errors.Join(errors.New("the vulnerability database changed while it was opened: it is opened again"), db.Close())
	}
	r.using.Lock()
	before := r.db
	if before != nil {
		r.before, r.beforeChecksum = r.match, before.Info.Checksum
	}
	r.db, r.match = db, match.New(db.Provider)
	r.using.Unlock()
	r.Log.Info("vulnerability database opened", "built", db.Info.Built, "checksum", db.Info.Checksum)
	return before.Close()
}

// Due are the digests of at most limit SBOMs that must be matched, those first in which
// a new database may find another vulnerability.
func (r *Rematch) Due(ctx context.Context, limit int) ([]string, error) {
	if err := r.look(ctx); err != nil {
		return nil, err
	}
	if err := r.carry(ctx); err != nil {
		return nil, err
	}
	return r.Store.DueSBOMs(ctx, r.due(), limit)
}

func (r *Rematch) due() store.Due {
	due := store.Due{Since: r.Now().Add(-r.Every), Matcher: match.Version}
	if db := r.Database(); db != nil {
		due.Checksum, due.Built = db.Checksum, db.Built
		due.Chosen = r.Path != "" || !r.Databases.HeldUntil().IsZero()
	}
	return due
}

// Counts tells how far matching is.
func (r *Rematch) Counts(ctx context.Context) (store.MatchCounts, error) {
	return r.Store.MatchCounts(ctx, r.due())
}

// carry takes over what the database in use leaves as it was: SBOMs that were matched with
// another one that is still kept are matched again only if they have a package that the two
// say something else of. Where the two cannot be compared, all are matched again.
func (r *Rematch) carry(ctx context.Context) error {
	r.carrying.Lock()
	defer r.carrying.Unlock()
	r.using.Lock()
	var to, path string
	var built time.Time
	if r.db != nil {
		to, path, built = r.db.Info.Checksum, r.db.Path, r.db.Info.Built
	}
	before, of, matcher := r.before, r.beforeChecksum, r.match
	r.before = nil // it is asked once, and then forgotten
	r.using.Unlock()
	if to == "" || r.Path != "" {
		return nil
	}
	checksums, err := r.Store.MatchedWith(ctx, match.Version)
	if err != nil {
		return err
	}
	var kept []vulndb.Generation
	for _, from := range checksums {
		if from == to || r.carried[from+" "+to] {
			continue
		}
		if kept == nil {
			if kept, err = r.Databases.Generations(ctx); err != nil {
				return err
			}
		}
		if n, err := r.worth(ctx, from, kept, path); err != nil {
			return err
		} else if !n {
			r.Log.Info("so few images were matched with the vulnerability database before that all are matched again", "checksum", from)
			continue
		}
		at := slices.IndexFunc(kept, func(g vulndb.Generation) bool { return g.Checksum == from && g.Err == nil })
		if at >= 0 && kept[at].Built.After(built) && r.Databases.HeldUntil().IsZero() {
			continue // what a newer one said stays
		}
		if at < 0 {
			r.Log.Info("the vulnerability database that images were matched with is gone: they are all matched again", "checksum", from)
		} else if changes, err := r.carryFrom(ctx, store.Carry{From: from, To: to, Built: built, Matcher: match.Version}, kept[at].Path, path); err == nil {
			if from == of && before != nil && changes != nil {
				affected, details := changes.Searches()
				matcher.Keep(before, affected, details)
			}
		} else {
			if ctx.Err() != nil {
				return err
			}
			r.Log.Error("the vulnerability databases could not be compared: all images are matched again", "error", err)
		}
		if r.carried == nil {
			r.carried = map[string]bool{}
		}
		r.carried[from+" "+to] = true
	}
	return nil
}

// To compare two databases takes about 25 ms of CPU for each megabyte, and to match an SBOM again 30 ms.
const bytesPerSBOM = 1_200_000

// worth says whether it costs less to compare two databases than to match what was matched with the older one.
func (r *Rematch) worth(ctx context.Context, from string, kept []vulndb.Generation, newer string) (bool, error) {
	var size int64
	for _, g := range kept {
		if g.Checksum == from || g.Path == newer {
			size += g.Bytes
		}
	}
	n, err := r.Store.CountMatched(ctx, from, match.Version)
	return int64(n) > size/bytesPerSBOM, err
}

// carryFrom gives what changed; nil where that is everything.
func (r *Rematch) carryFrom(ctx context.Context, c store.Carry, older, newer string) (*vulndb.Changes, error) {
	start := r.Now()
	changes, err := vulndb.Diff(ctx, filepath.Dir(older), filepath.Dir(newer))
	if err != nil {
		return nil, err
	}
	attributes := []any{"from", c.From, "to", c.To, "added", changes.Count(vulndb.Added), "changed", changes.Count(vulndb.Changed),
		"removed", changes.Count(vulndb.Removed), "rescored", changes.Count(vulndb.Rescored), "packages", len(changes.Packages)}
	if changes.All {
		r.Log.Info("vulnerability database changed in what all searches depend on: all images are matched again", attributes...)
		return nil, nil
	}
	c.Affected, c.Details = changes.Searches()
	var n store.Carried
	if err := r.Store.Write(ctx, func(t *store.Tx) (err error) {
		n, err = t.Carry(ctx, c)
		return err
	}); err != nil {
		return nil, err
	}
	r.Log.Info("vulnerability database changed", append(attributes, "unchanged_images", n.Same, "images_first", n.Urgent, "images_then", n.Later, "seconds", r.Now().Sub(start).Seconds())...)
	return changes, nil
}

// Match matches the SBOMs of a digest that are due, of whatever origin, and stores the scan together with the
// note that it was matched: once, however many do so at the same time. An SBOM that is
// gone is no error; one that cannot be matched is noted, too, and is due again later.
func (r *Rematch) Match(ctx context.Context, digest string) error {
	if err := r.look(ctx); err != nil {
		return err
	}
	pieces, err := r.Store.SBOMPieces(ctx, digest)
	if err != nil {
		return err
	}
	var errs []error
	for _, piece := range pieces {
		errs = append(errs, r.matchPiece(ctx, piece))
	}
	return errors.Join(errs...)
}

// matchPiece matches the SBOM of one piece of evidence.
func (r *Rematch) matchPiece(ctx context.Context, piece int64) error {
	kept, err := r.Store.CompactSBOM(ctx, piece)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	database := r.Database()
	if database == nil {
		return vulndb.ErrMissing
	}
	if !r.due().Of(kept.State) {
		return nil
	}
	scan, done, err := r.scan(ctx, piece, kept)
	if err != nil && (ctx.Err() != nil || scan.Database == nil) {
		return err // nothing is known of the SBOM
	}
	matched := store.Matched{Piece: piece, Checksum: scan.Database.Checksum, Built: scan.Database.Built, Matcher: match.Version, Compact: done.compact}
	if err != nil {
		scan.Error, matched.Fault = err.Error(), err.Error()
		scan.Vulnerabilities, scan.Unplaced = nil, nil
	}
	for _, s := range done.searches {
		matched.Searches = append(matched.Searches, store.Searches{Package: store.Package{Name: s.Name, Version: s.Version, Type: s.Type}, Keys: s.Keys})
	}
	written := false
	werr := r.Store.Write(ctx, func(t *store.Tx) error {
		written = false
		now, err := t.SBOMState(ctx, piece)
		if errors.Is(err, store.ErrNotFound) || err == nil && now != kept.State {
			return nil // it was removed, replaced or matched meanwhile
		}
		if err != nil {
			return err
		}
		// It says what whoever handed the SBOM in said then, and no more.
		if _, err := t.By(kept.Identity).AddMatch(ctx, scan, kept.State.MatchedAt == ""); err != nil {
			return err
		}
		written = true
		return t.Matched(ctx, matched)
	})
	if werr == nil && written {
		match.Noted(done.searches)
		r.tell(kept, scan)
	}
	return errors.Join(err, werr)
}

// tell lists, after an upgrade, the images of which an older version did not say that nothing
// could be looked up for some of their packages: unless the Thresholds ignore it, those that
// nothing makes Fail are Unknown from now on.
func (r *Rematch) tell(kept store.SBOM, scan api.Scan) {
	if kept.State.MatchedAt == "" || kept.State.Matcher == match.Version {
		return
	}
	for _, u := range scan.Unplaced {
		r.Log.Warn("since the upgrade an image is Unknown where nothing makes it Fail: "+u.String(), "image", scan.Image, "digest", scan.Digest, "scope", scan.Scope.String())
	}
}

// outcome is what matching found out beside the vulnerabilities.
type outcome struct {
	compact  []byte // where none was kept
	searches []match.Search
}

func (r *Rematch) scan(ctx context.Context, piece int64, kept store.SBOM) (scan api.Scan, done outcome, err error) {
	r.using.RLock()
	defer r.using.RUnlock()
	if r.db == nil {
		return scan, done, vulndb.ErrMissing
	}
	scan = kept.Scan
	info := r.db.Info
	scan.Database, scan.ScannedAt = &info, r.Now().UTC()
	var packages match.Packages
	if kept.Compact == nil || packages.UnmarshalBinary(kept.Compact) != nil {
		if packages, done.compact, err = r.compact(ctx, piece); err != nil {
			return scan, done, err
		}
	}
	found, err := r.match.MatchPackages(ctx, packages)
	scan.Vulnerabilities, scan.Unplaced, done.searches = found.Vulnerabilities, found.Unplaced, found.Searches
	return scan, done, err
}

// compact makes what matching needs of an SBOM anew.
func (r *Rematch) compact(ctx context.Context, piece int64) (packages match.Packages, compact []byte, err error) {
	kept, err := r.Store.SBOM(ctx, piece)
	if err != nil {
		return packages, nil, err
	}
	bom, _, err := scanner.DecodeSBOM(bytes.NewReader(kept.Document))
	if err != nil {
		return packages, nil, fmt.Errorf("reading the SBOM: %w", err)
	}
	if packages, err = match.PackagesOf(*bom); err != nil {
		return packages, nil, err
	}
	compact, err = packages.MarshalBinary()
	return packages, compact, err
}

// Decode reads an SBOM in any of the formats as the store keeps it. Image and digest,
// where given, name what it is of; else it must say so itself. It reads all of in; bounds are the caller's.
func Decode(in io.Reader, image, digest string) (store.SBOM, error) {
	bom, format, err := scanner.DecodeSBOM(in)
	if err != nil {
		return store.SBOM{}, err
	}
	scan, err := scanner.Describe(bom, image)
	if err != nil {
		return store.SBOM{}, err
	}
	switch {
	case digest == "":
	case scan.Digest != "" && scan.Digest != digest && (scan.Index == nil || scan.Index.Digest != digest):
		return store.SBOM{}, fmt.Errorf("the SBOM is of %s, not of %s", scan.Digest, digest)
	default:
		scan.Digest = digest
	}
	if scan.Digest == "" {
		return store.SBOM{}, errors.New("the SBOM does not say the digest of its image: name it, as ?digest=sha256:… or in ?image=")
	}
	if _, err := api.ParseReference(scan.Image); err != nil {
		return store.SBOM{}, errors.New("the SBOM does not name its image: name it, as ?image=REFERENCE")
	}
	var text bytes.Buffer
	if err := scanner.EncodeSBOM(&text, bom, scanner.SyftJSON); err != nil {
		return store.SBOM{}, err
	}
	kept := store.SBOM{Scan: scan, Format: string(format), Document: text.Bytes()}
	for p := range bom.Artifacts.Packages.Enumerate() {
		kept.Packages = append(kept.Packages, store.Package{Name: p.Name, Version: p.Version, Type: string(p.Type)})
	}
	if len(kept.Packages) == 0 {
		return store.SBOM{}, fmt.Errorf("%w: the SBOM has no package", scanner.ErrNotAssessed)
	}
	return kept, nil
}
