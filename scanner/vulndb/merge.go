package vulndb

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/spf13/afero"

	"github.com/assay-dev/assay/api"
)

const (
	// ownProvider is the provider of own advisories in a merged database; their
	// matches have it in front of their namespaces: "own:language:javascript".
	ownProvider = "own"
	// upstreamDir is in the directory of a merged database, and has the
	// database that the advisories were merged into.
	upstreamDir = "upstream"
)

// MergeResult tells what a merge did.
type MergeResult struct {
	// Merged says that a new generation was made: the advisories, or what they
	// are merged into, had changed.
	Merged bool
	// Advisories is the number of own advisories in the current database.
	Advisories int
	// Status is that of the database that is current now.
	Status *Status
	// Changes is what the new generation changed; nil without one, or where that
	// could not be found out.
	Changes *api.DatabaseChanges
	// Refused is why the newest advisories cannot be used, and the last good ones
	// are in the current database instead; nil when they can. It joins one
	// [*AdvisoryError] for each problem.
	Refused error
}

// Merge makes a new generation of the current one's published database and the
// own advisories of the configuration, unless they are in it as they are. With
// no advisories in the folders it is the published database alone. When an
// advisory cannot be used, the last good ones are merged, and where there are
// none, the current generation stays and the error says what is wrong.
func (s *Store) Merge(ctx context.Context) (res *MergeResult, err error) {
	defer guard(&err)
	if len(s.cfg.Advisories) == 0 {
		return nil, errors.New("no own advisories are configured")
	}
	unlock, err := s.lock(ctx, lockFile)
	if err != nil {
		return nil, err
	}
	defer func() { unlock() }()
	dir, err := s.current()
	if err != nil {
		return nil, err
	}
	upstream := dir
	if exists(filepath.Join(dir, upstreamDir, v6.VulnerabilityDBFileName)) {
		upstream = filepath.Join(dir, upstreamDir)
	}
	own, err := s.own(ctx)
	if err != nil {
		return nil, err
	}
	res = &MergeResult{Advisories: len(own.list), Refused: own.refused}
	if have := readRecord(dir); have.Digest == own.digest {
		res.Status, err = s.Status(ctx)
		return res, err
	}
	work, done, err := s.work(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := s.roomFor(linkDatabase(upstream, work)); err != nil {
		return nil, fmt.Errorf("merging own advisories: %w", err)
	}
	if err := s.roomFor(s.mergeOwn(ctx, work, own)); err != nil {
		return nil, err
	}
	if err := s.place(ctx, work, own.record(work)); err != nil {
		return nil, err
	}
	res.Merged = true
	res.Status, err = s.Status(ctx) // of the merged one: none can come between yet
	unlock()
	unlock = func() {}
	res.Changes = s.noteChanges(ctx, dir)
	return res, err
}

// readRecord reads what a generation says of itself; empty where it says nothing.
func readRecord(dir string) (r generationRecord) {
	if content, err := readBounded(filepath.Join(dir, recordFile), 1<<16); err == nil {
		_ = json.Unmarshal(content, &r)
	}
	return r
}

// linkDatabase gives the files of a database a second name. They are never
// written again, so that both are whole for ever; where the file system has no
// links they are copied.
func linkDatabase(from, to string) error {
	for _, name := range []string{v6.VulnerabilityDBFileName, v6.ImportMetadataFileName} {
		a, b := filepath.Join(from, name), filepath.Join(to, name)
		if os.Link(a, b) == nil {
			continue
		}
		f, err := os.Open(a)
		if err != nil {
			return err
		}
		if err := errors.Join(writeFile(b, f), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// mergeInto makes a merged database of the published one in dir, which goes to
// upstreamDir below it. Without advisories nothing is done.
func mergeInto(ctx context.Context, dir string, list []*advisory) (err error) {
	if len(list) == 0 {
		return nil
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("merging own advisories: %w", err)
		}
	}()
	upstream := filepath.Join(dir, upstreamDir)
	if err := os.Mkdir(upstream, 0o755); err != nil {
		return err
	}
	for _, name := range []string{v6.VulnerabilityDBFileName, v6.ImportMetadataFileName} {
		if err := os.Rename(filepath.Join(dir, name), filepath.Join(upstream, name)); err != nil {
			return err
		}
	}
	from := filepath.Join(upstream, v6.VulnerabilityDBFileName)
	if err := checkDigest(upstream, from); err != nil {
		return err
	}
	meta, err := v6.ReadImportMetadata(afero.NewOsFs(), upstream)
	if err != nil {
		return corrupt("reading its checksum", err)
	}
	d, err := v6.ReadDescription(from)
	if err != nil {
		return corrupt("reading its description", err)
	}
	built := d.Built.UTC()

	work := filepath.Join(dir, "work")
	if err := os.Mkdir(work, 0o755); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	own := filepath.Join(work, "db")
	if err := compile(ctx, recordsOf(list, built.Format(time.DateOnly)), work, own, built); err != nil {
		return err
	}
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	to := filepath.Join(dir, v6.VulnerabilityDBFileName)
	if err := errors.Join(writeFile(to, &contextReader{ctx, f}), f.Close()); err != nil {
		return err
	}
	if err := insertOwn(ctx, to, filepath.Join(own, v6.VulnerabilityDBFileName)); err != nil {
		return err
	}
	return accept(ctx, dir, fmt.Sprintf("%s, with %d own advisories", meta.Source, len(list)))
}

// insertOwn adds the rows of a database of own advisories to a copy of the
// published one. Rows are only added, in a fixed order, with numbers above those
// that are there: the same two databases give the same bytes. What the published
// one says of a CVE (NVD, KEV, EPSS) stays as it is; the advisories add what it
// does not know.
func insertOwn(ctx context.Context, file, own string) (err error) {
	db, err := sql.Open("sqlite", file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1) // what is attached belongs to a connection
	exec := func(statement string, args ...any) error {
		if _, err := db.ExecContext(ctx, statement, args...); err != nil {
			return fmt.Errorf("%w in %.60q", err, statement)
		}
		return nil
	}
	// The copy is thrown away when this fails: it needs no journal.
	for _, statement := range []string{"PRAGMA foreign_keys = OFF", "PRAGMA synchronous = OFF", "PRAGMA journal_mode = OFF"} {
		if err := exec(statement); err != nil {
			return err
		}
	}
	if err := exec("ATTACH DATABASE ? AS own", own); err != nil {
		return err
	}
	if err := exec("BEGIN"); err != nil {
		return err
	}
	var before int
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM main.providers WHERE id = ?", ownProvider).Scan(&before); err != nil {
		return err
	}
	if before > 0 {
		return errors.New("own advisories of another site are in the database: export it there with --published")
	}
	top := map[string]int64{}
	for _, table := range []string{"blobs", "vulnerability_handles", "affected_package_handles", "unaffected_package_handles",
		"known_exploited_vulnerability_handles", "epss_handles", "cwe_handles"} {
		var n sql.NullInt64
		if err := db.QueryRowContext(ctx, "SELECT max(id) FROM main."+table).Scan(&n); err != nil {
			return err
		}
		top[table] = n.Int64
	}
	blob, vuln := top["blobs"], top["vulnerability_handles"]
	steps := []struct {
		statement string
		args      []any
	}{
		{`INSERT INTO main.blobs (id, value) SELECT id + ?, value FROM own.blobs ORDER BY id`, []any{blob}},
		{`INSERT OR IGNORE INTO main.providers SELECT * FROM own.providers WHERE id IN ('nvd', 'kev', 'epss') ORDER BY id`, nil},
		{`INSERT INTO main.providers (id, version, processor, date_captured, input_digest)
			SELECT ?, '1', 'assay', max(date_captured), min(input_digest) FROM own.providers`, []any{ownProvider}},
		{`INSERT INTO main.vulnerability_handles (id, name, status, published_date, modified_date, withdrawn_date, provider_id, blob_id)
			SELECT id + ?, name, status, published_date, modified_date, withdrawn_date, CASE provider_id WHEN 'nvd' THEN 'nvd' ELSE ? END, blob_id + ?
			FROM own.vulnerability_handles o
			WHERE provider_id <> 'nvd' OR NOT EXISTS (SELECT 1 FROM main.vulnerability_handles m
				WHERE m.name = o.name COLLATE NOCASE AND m.provider_id = 'nvd' COLLATE NOCASE)
			ORDER BY id`, []any{vuln, ownProvider, blob}},
		{`INSERT OR IGNORE INTO main.vulnerability_aliases (name, alias) SELECT name, alias FROM own.vulnerability_aliases ORDER BY name, alias`, nil},
		{`INSERT INTO main.operating_systems (name, release_id, major_version, minor_version, label_version, codename, channel, eol_date, eoas_date)
			SELECT name, release_id, major_version, minor_version, label_version, codename, channel, eol_date, eoas_date
			FROM own.operating_systems o WHERE NOT EXISTS (SELECT 1 FROM main.operating_systems m WHERE ` + sameOS + `) ORDER BY id`, nil},
		{`INSERT INTO main.packages (ecosystem, name) SELECT ecosystem, name FROM own.packages o
			WHERE NOT EXISTS (SELECT 1 FROM main.packages m WHERE ` + samePackage + `) ORDER BY id`, nil},
	}
	for _, table := range []string{"affected_package_handles", "unaffected_package_handles"} {
		steps = append(steps, struct {
			statement string
			args      []any
		}{`INSERT INTO main.` + table + ` (id, vulnerability_id, operating_system_id, package_id, blob_id)
			SELECT h.id + ?, h.vulnerability_id + ?,
				(SELECT m.id FROM main.operating_systems m, own.operating_systems o WHERE o.id = h.operating_system_id AND ` + sameOS + `),
				(SELECT m.id FROM own.packages o JOIN main.packages m ON ` + samePackage + ` WHERE o.id = h.package_id),
				h.blob_id + ?
			FROM own.` + table + ` h ORDER BY h.id`, []any{top[table], vuln, blob}})
	}
	for _, s := range steps {
		if err := exec(s.statement, s.args...); err != nil {
			return err
		}
	}
	for _, t := range []struct{ table, columns, values string }{
		{"known_exploited_vulnerability_handles", "cve, blob_id", fmt.Sprintf("cve, blob_id + %d", blob)},
		{"epss_handles", "cve, epss, percentile", "cve, epss, percentile"},
		{"cwe_handles", "cve, cwe, source, type", "cve, cwe, source, type"},
	} {
		if err := exec(fmt.Sprintf(`INSERT INTO main.%[1]s (id, %[2]s) SELECT id + %[4]d, %[3]s FROM own.%[1]s o
			WHERE NOT EXISTS (SELECT 1 FROM main.%[1]s m WHERE m.cve = o.cve COLLATE NOCASE AND m.id <= %[4]d) ORDER BY id`,
			t.table, t.columns, t.values, top[t.table])); err != nil {
			return err
		}
	}
	if err := exec(`INSERT INTO main.epss_metadata SELECT * FROM own.epss_metadata WHERE NOT EXISTS (SELECT 1 FROM main.epss_metadata)`); err != nil {
		return err
	}
	if err := exec("COMMIT"); err != nil {
		return err
	}
	return exec("DETACH DATABASE own")
}

const (
	sameOS = `m.name = o.name AND m.release_id IS o.release_id AND m.major_version IS o.major_version
		AND m.minor_version IS o.minor_version AND m.label_version IS o.label_version AND m.channel IS o.channel`
	samePackage = `m.ecosystem = o.ecosystem COLLATE NOCASE AND m.name = o.name COLLATE NOCASE`
)

// Export writes an archive of the current database that [Store.Import] takes,
// with its checksum inside: what is carried to a site without network. Own
// advisories are in it, unless published asks for the published database alone.
// An archive that is there is replaced once the new one is whole. It gives the
// sha256 checksum of the archive, "sha256:…".
func (s *Store) Export(ctx context.Context, to string, published bool) (sum string, st *Status, err error) {
	defer guard(&err)
	dir, err := s.current()
	if err != nil {
		return "", nil, err
	}
	if up := filepath.Join(dir, upstreamDir); published && exists(filepath.Join(up, v6.VulnerabilityDBFileName)) {
		dir = up
	}
	st, reader, err := s.inspect(ctx, dir)
	if err != nil {
		return "", nil, err
	}
	if err := reader.Close(); err != nil {
		return "", nil, err
	}
	if info, err := os.Stat(to); err == nil && !info.Mode().IsRegular() {
		return "", nil, fmt.Errorf("%s is there and is no file", to)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", nil, err
	}
	work, err := os.MkdirTemp(filepath.Dir(filepath.Clean(to)), ".assay-export-")
	if err != nil {
		return "", nil, fmt.Errorf("making a directory to export in: %w", err)
	}
	defer os.RemoveAll(work)
	packed := filepath.Join(work, "packed")
	if err := pack(ctx, dir, packed, st.Built); err != nil {
		return "", nil, fmt.Errorf("packing the vulnerability database: %w", err)
	}
	if sum, err = fileSum(packed); err != nil {
		return "", nil, err
	}
	if err := os.Rename(packed, to); err != nil {
		return "", nil, fmt.Errorf("placing the archive: %w", err)
	}
	return sum, st, nil
}
