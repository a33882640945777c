package vulndb

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v6 "github.com/anchore/grype/grype/db/v6"
)

// Changes is how one database differs from another.
type Changes struct {
	// Vulnerabilities are those that were added, removed or changed, by id.
	Vulnerabilities []VulnerabilityChange `json:"vulnerabilities"`
	// Packages are those that one of the databases says something else of, by
	// ecosystem and name.
	Packages []PackageChange `json:"packages"`
	// All says that something changed that the search for any package depends on,
	// such as the distributions that the database knows.
	All bool `json:"all,omitempty"`

	urgent, later map[string]bool
}

// Kinds of [VulnerabilityChange].
const (
	Added   = "added"
	Removed = "removed"
	// Changed is a record, or what it says of a package, that reads otherwise.
	Changed = "changed"
	// Rescored is a record that is the same but for EPSS or KEV.
	Rescored = "rescored"
)

// VulnerabilityChange is one vulnerability that differs.
type VulnerabilityChange struct {
	ID   string `json:"id"`
	Kind string `json:"kind"`
}

// PackageChange is one package that differs. Those that are found by CPE have the
// ecosystem "cpe", and the product as name.
type PackageChange struct {
	Ecosystem string `json:"ecosystem"`
	Name      string `json:"name"`
	// Affected says that other versions may be affected, or by another
	// vulnerability; false where only a text, a score or a date changed.
	Affected bool `json:"affected"`
}

// Searches are the keys ([NameKey], [ProductKey]) of the searches that may find
// something else than before: those that may find another vulnerability, and
// those that find the same with another text or score. They are the caller's.
func (c *Changes) Searches() (affected, details []string) {
	return slices.Sorted(maps.Keys(c.urgent)), slices.Sorted(maps.Keys(c.later))
}

// Count is the number of vulnerabilities of a kind.
func (c *Changes) Count(kind string) (n int) {
	for _, v := range c.Vulnerabilities {
		if v.Kind == kind {
			n++
		}
	}
	return n
}

// NameKey is the key of a search by the name of a package, of whatever ecosystem.
func NameKey(name string) string { return "name:" + strings.ToLower(name) }

// ProductKey is the key of a search by the product of a CPE.
func ProductKey(product string) string { return "cpe:" + strings.ToLower(product) }

// AnyKey is the key of a search by neither. Each change may change what it finds.
const AnyKey = "any:"

const cpeEcosystem = "cpe"

// Diff compares the databases of two directories, which it only reads. All that a
// scan shows counts, EPSS and KEV too. It reads both whole, which takes
// time and memory in proportion to them: about 20 s and 350 MB for two of 450 MB each.
//
// Two records that say the same in another order count as changed.
func Diff(ctx context.Context, oldDir, newDir string) (c *Changes, err error) {
	defer guard(&err)
	seed := maphash.MakeSeed() // nobody can make records that cancel each other out
	before, err := summarise(ctx, oldDir, seed)
	if err != nil {
		return nil, fmt.Errorf("reading the older database: %w", err)
	}
	after, err := summarise(ctx, newDir, seed)
	if err != nil {
		return nil, fmt.Errorf("reading the newer database: %w", err)
	}
	c = &Changes{
		All: before.shape != after.shape, Vulnerabilities: []VulnerabilityChange{}, Packages: []PackageChange{},
		urgent: map[string]bool{}, later: map[string]bool{},
	}
	kinds := map[uint64]string{}
	for _, id := range union(before.records, after.records) {
		was, had := before.records[id]
		is, has := after.records[id]
		switch {
		case !had:
			kinds[id] = Added
		case !has:
			kinds[id] = Removed
		case was != is:
			kinds[id] = Changed
		case before.scores[id] != after.scores[id]:
			kinds[id] = Rescored
		}
	}
	for _, dir := range []string{newDir, oldDir} {
		if err := before.name(ctx, dir, kinds, c); err != nil {
			return nil, err
		}
	}
	for _, key := range union(before.packages, after.packages) {
		was, is := before.packages[key], after.packages[key]
		if was == is {
			continue
		}
		affected := was.affected != is.affected
		c.Packages = append(c.Packages, PackageChange{Ecosystem: key.ecosystem, Name: key.name, Affected: affected})
		searches := []string{NameKey(key.name)}
		if key.ecosystem == cpeEcosystem {
			searches = []string{ProductKey(key.name)}
		}
		for _, product := range slices.Concat(before.products[key], after.products[key]) {
			searches = append(searches, ProductKey(product))
		}
		for _, s := range searches {
			if affected {
				c.urgent[s] = true
			} else {
				c.later[s] = true
			}
		}
	}
	if len(c.Packages) > 0 {
		c.urgent[AnyKey] = true
	}
	for s := range c.urgent {
		delete(c.later, s)
	}
	slices.SortFunc(c.Vulnerabilities, func(a, b VulnerabilityChange) int { return strings.Compare(a.ID, b.ID) })
	slices.SortFunc(c.Packages, func(a, b PackageChange) int {
		return cmp.Or(strings.Compare(a.Ecosystem, b.Ecosystem), strings.Compare(a.Name, b.Name))
	})
	return c, nil
}

// union are the keys of both, in no order.
func union[K comparable, A any](a, b map[K]A) []K {
	keys := make([]K, 0, max(len(a), len(b)))
	for k := range a {
		keys = append(keys, k)
	}
	for k := range b {
		if _, both := a[k]; !both {
			keys = append(keys, k)
		}
	}
	return keys
}

// summary is a database as sums of hashes, which do not depend on any order. Ids of
// vulnerabilities are there as hashes of their lower case: there are a million of them.
type summary struct {
	seed maphash.Seed
	// shape is what each search depends on.
	shape uint64
	// records are all that any provider says under an id, also of packages; scores are EPSS and KEV.
	records, scores map[uint64]uint64
	packages        map[packageKey]packageSum
	// products are those of the CPEs that lead to a package.
	products map[packageKey][]string
}

type packageKey struct{ ecosystem, name string }

type packageSum struct{ affected, whole uint64 }

// handle is a record that packages refer to.
type handle struct {
	id       uint64
	identity uint64 // what decides whether it counts
	whole    uint64 // with what the aliases' records and scores say
}

func summarise(ctx context.Context, dir string, seed maphash.Seed) (s *summary, err error) {
	db, err := openFile(dir)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	s = &summary{
		seed: seed, records: map[uint64]uint64{}, scores: map[uint64]uint64{},
		packages: map[packageKey]packageSum{}, products: map[packageKey][]string{},
	}
	return s, s.read(ctx, db)
}

func openFile(dir string) (*sql.DB, error) {
	file := filepath.Join(dir, v6.VulnerabilityDBFileName)
	if _, err := os.Stat(file); err != nil {
		return nil, missing(dir)
	}
	return sql.Open("sqlite", "file:"+strings.TrimSuffix(private(file), "#"))
}

// name words the vulnerabilities that changed as a database does, and strikes them off.
func (s *summary) name(ctx context.Context, dir string, kinds map[uint64]string, c *Changes) error {
	if len(kinds) == 0 {
		return nil
	}
	db, err := openFile(dir)
	if err != nil {
		return err
	}
	defer db.Close()
	return each(ctx, db, 1, "SELECT name FROM vulnerability_handles", func(row []string) error {
		id := s.fold(row[0])
		if kind, ok := kinds[id]; ok {
			c.Vulnerabilities = append(c.Vulnerabilities, VulnerabilityChange{ID: row[0], Kind: kind})
			delete(kinds, id)
		}
		return nil
	})
}

// each reads rows of columns that are text or NULL.
func each(ctx context.Context, db *sql.DB, columns int, query string, do func(row []string) error) error {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return corrupt("comparing it", err)
	}
	defer rows.Close()
	values, pointers, row := make([]sql.NullString, columns), make([]any, columns), make([]string, columns)
	for i := range values {
		pointers[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(pointers...); err != nil {
			return corrupt("comparing it", err)
		}
		for i, v := range values {
			row[i] = v.String
		}
		if err := do(row); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return corrupt("comparing it", err)
	}
	return nil
}

func (s *summary) hash(parts ...string) uint64 {
	var h maphash.Hash
	h.SetSeed(s.seed)
	for _, p := range parts {
		_, _ = h.WriteString(p)
		_ = h.WriteByte(0)
	}
	return h.Sum64()
}

// fold hashes an id in any case.
func (s *summary) fold(id string) uint64 { return maphash.String(s.seed, strings.ToLower(id)) }

// mix hashes two hashes.
func (s *summary) mix(a, b uint64) uint64 {
	var text [16]byte
	binary.LittleEndian.PutUint64(text[:8], a)
	binary.LittleEndian.PutUint64(text[8:], b)
	return maphash.Bytes(s.seed, text[:])
}

func (s *summary) read(ctx context.Context, db *sql.DB) error {
	for _, shape := range []struct {
		columns int
		query   string
	}{
		{9, "SELECT name, release_id, major_version, minor_version, label_version, codename, channel, eol_date, eoas_date FROM operating_systems"},
		{12, "SELECT alias, version, version_pattern, codename, channel, replacement, replacement_major_version, replacement_minor_version, replacement_label_version, replacement_channel, rolling, applicable_client_db_schemas FROM operating_system_specifier_overrides"},
		{2, "SELECT ecosystem, replacement_ecosystem FROM package_specifier_overrides"},
		{2, "SELECT alias, canonical FROM architecture_aliases"},
	} {
		if err := each(ctx, db, shape.columns, shape.query, func(row []string) error {
			s.shape += s.hash(append([]string{shape.query}, row...)...)
			return nil
		}); err != nil {
			return err
		}
	}
	score := func(row []string) error {
		s.scores[s.fold(row[1])] += s.hash(row...)
		return nil
	}
	if err := each(ctx, db, 3, "SELECT 'kev', k.cve, b.value FROM known_exploited_vulnerability_handles k LEFT JOIN blobs b ON b.id = k.blob_id", score); err != nil {
		return err
	}
	if err := each(ctx, db, 3, "SELECT 'epss', cve, epss FROM epss_handles", score); err != nil {
		return err
	}
	handles, err := s.readRecords(ctx, db)
	if err != nil {
		return err
	}
	return s.readPackages(ctx, db, handles)
}

// member reads a list of strings that a JSON object has under a name.
func member(text, name string) ([]string, error) {
	if !strings.Contains(text, `"`+name+`"`) { // most have none, and reading JSON takes the most time
		return nil, nil
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		return nil, err
	}
	var list []string
	if value, ok := all[name]; ok {
		if err := json.Unmarshal(value, &list); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// readRecords gives the records by their id in the database.
func (s *summary) readRecords(ctx context.Context, db *sql.DB) (map[string]handle, error) {
	handles := map[string]handle{}
	aliases := map[string][]uint64{} // by the id in the database
	own := map[uint64]uint64{}       // what is told under an id, with the scores of its aliases
	err := each(ctx, db, 7, `SELECT h.id, h.name, h.provider_id, h.status, h.withdrawn_date, h.published_date, b.value
		FROM vulnerability_handles h LEFT JOIN blobs b ON b.id = h.blob_id`, func(row []string) error {
		list, err := member(row[6], "aliases")
		if err != nil {
			return corrupt("the record of "+row[1], err)
		}
		h := handle{id: s.fold(row[1]), identity: s.hash(row[1:5]...), whole: s.hash(row[1:]...)}
		s.records[h.id] += h.whole
		own[h.id] += h.whole + s.scores[h.id]
		for _, name := range list {
			a := s.fold(name)
			aliases[row[0]] = append(aliases[row[0]], a)
			own[h.id] += s.scores[a]
		}
		handles[row[0]] = h
		return nil
	})
	if err != nil {
		return nil, err
	}
	// A match shows what the records of the aliases say too, and their EPSS and KEV.
	for id, h := range handles {
		h.whole += own[h.id] + s.scores[h.id]
		for _, a := range aliases[id] {
			h.whole += own[a] + s.scores[a]
		}
		handles[id] = h
	}
	return handles, nil
}

func (s *summary) readPackages(ctx context.Context, db *sql.DB, handles map[string]handle) error {
	told := maps.Clone(s.records) // without what follows
	// add takes the ecosystem, the name, the vulnerability's id, and what is said.
	add := func(row []string) error {
		key := packageKey{strings.ToLower(row[0]), strings.ToLower(row[1])}
		h, ok := handles[row[2]]
		if !ok {
			return corrupt("it speaks of a vulnerability that it does not have", nil)
		}
		cves, err := member(row[len(row)-1], "cves")
		if err != nil {
			return corrupt("what it says of "+row[1], err)
		}
		whole := h.whole
		for _, cve := range cves {
			whole += s.scores[s.fold(cve)] + told[s.fold(cve)]
		}
		said := s.hash(row[3:]...)
		// Each sum mixes what is said with the record and the package, or two would cancel out
		// that change places.
		p := s.packages[key]
		p.affected += s.mix(said, h.identity)
		p.whole += s.mix(said, whole)
		s.packages[key] = p
		s.records[h.id] += s.mix(said, s.hash(key.ecosystem, key.name))
		return nil
	}
	for _, table := range []string{"affected", "unaffected"} {
		err := each(ctx, db, 12, `SELECT p.ecosystem, p.name, a.vulnerability_id, '`+table+`', o.name, o.major_version, o.minor_version, o.label_version, o.codename, o.channel, o.release_id, b.value
			FROM `+table+`_package_handles a JOIN packages p ON p.id = a.package_id LEFT JOIN operating_systems o ON o.id = a.operating_system_id LEFT JOIN blobs b ON b.id = a.blob_id`, add)
		if err != nil {
			return err
		}
		err = each(ctx, db, 13, `SELECT '`+cpeEcosystem+`', c.product, a.vulnerability_id, '`+table+`', c.part, c.vendor, c.edition, c.language, c.software_edition, c.target_hardware, c.target_software, c.other, b.value
			FROM `+table+`_cpe_handles a JOIN cpes c ON c.id = a.cpe_id LEFT JOIN blobs b ON b.id = a.blob_id`, add)
		if err != nil {
			return err
		}
	}
	return each(ctx, db, 11, `SELECT p.ecosystem, p.name, c.product, c.part, c.vendor, c.edition, c.language, c.software_edition, c.target_hardware, c.target_software, c.other
		FROM package_cpes l JOIN packages p ON p.id = l.package_id JOIN cpes c ON c.id = l.cpe_id`, func(row []string) error {
		key := packageKey{strings.ToLower(row[0]), strings.ToLower(row[1])}
		sum := s.hash(row...)
		p := s.packages[key]
		p.affected += sum
		p.whole += sum
		s.packages[key] = p
		if !slices.Contains(s.products[key], strings.ToLower(row[2])) {
			s.products[key] = append(s.products[key], strings.ToLower(row[2]))
		}
		return nil
	})
}
