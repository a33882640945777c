package store

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
)

// Errors of lists that are the caller's.
var (
	ErrCursor = errors.New("the cursor is not one of this list and order")
	ErrSort   = errors.New("the list has no such order")
)

// Filter narrows lists of images; empty members do not.
type Filter struct {
	Results                           []api.Result
	Registry, Repository, Tag, Digest string
	Reference                         string // all of it, canonical
	Within                            string // a registry, or more of the names: whole components of their paths
	Search                            string // part of the reference, in any case
	CVE                               string // an id or an alias
	Package, Version                  string
	Versions                          []string // of Package; nil: any, empty: none
	Cluster, Namespace                string
	Running, KEV, Fixable             *bool
	Stale                             *bool    // whether it runs on a node that fell silent
	Dismissed                         *bool    // nil: those that are not
	EPSS, Score                       *float64 // at least
	ScannedAfter, ScannedBefore       time.Time
}

// Page is one of a list. Sort names an order, with "-" before it for the other way
// round; After is Next of the page before.
type Page struct {
	Sort  string
	After string
	Limit int // 0: 100; at most 1,000
}

// List is a page with the cursor of the next one, which is "" at the end.
type List[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}

// Image is a row of the list of images: a reference and a digest.
type Image struct {
	ID         int64      `json:"-"`
	Image      string     `json:"image"`
	Digest     string     `json:"digest,omitempty"`
	Registry   string     `json:"registry"`
	Repository string     `json:"repository"`
	Tag        string     `json:"tag,omitempty"`
	Platform   string     `json:"platform,omitempty"`
	Distro     string     `json:"distro,omitempty"`
	Result     api.Result `json:"result"`
	MaxCVSS    *float64   `json:"max_cvss,omitempty"`
	ScannedAt  string     `json:"scanned_at,omitempty"`
	FirstSeen  string     `json:"first_seen"`
	Source     string     `json:"source,omitempty"`
	Error      string     `json:"error,omitempty"` // of the last scan
	EPSS       *float64   `json:"epss,omitempty"`  // the highest of its vulnerabilities
	KEV        bool       `json:"kev"`
	Fixable    bool       `json:"fixable"`
	Dismissed  bool       `json:"dismissed"`
	Packages   int        `json:"packages"`
	// Unscored are the findings without a CVSS v3 score, Unplaced the packages of which nothing could be looked up; absent of
	// an image without scan, and of scans that were stored before they were counted.
	Unscored  *int     `json:"unscored,omitempty"`
	Unplaced  *int     `json:"unplaced,omitempty"`
	Instances int      `json:"instances"` // containers that run it
	Clusters  []string `json:"clusters"`  // where they run
	// Differs says that it is not the same in all clusters: what is shown without a cluster is the worst.
	Differs bool  `json:"differs,omitempty"`
	Piece   int64 `json:"-"` // of evidence; 0 is none
	// Reader is the cluster that the engine is asked for to say the same.
	Reader string `json:"-"`
}

const imageColumns = `l.id, l.image, l.digest, l.registry, l.repository, l.tag, COALESCE(i.platform, ''), COALESCE(i.distro, ''), CASE WHEN l.result = '' THEN 'Unknown' ELSE l.result END,
	l.max_cvss, l.scanned_at, l.first_seen, l.source, l.error, l.epss, l.kev, l.fixable, l.dismissed, COALESCE(i.packages, 0), i.unscored, i.unplaced, l.instances, l.differs, COALESCE(l.image_id, 0), ` + viewOf

// viewOf is the view of a listing that lists show: the first of those with its result and evidence.
const viewOf = `COALESCE((SELECT w.view FROM listing_views w WHERE w.listing_id = l.id AND w.result = l.result AND COALESCE(w.image_id, 0) = COALESCE(l.image_id, 0) ORDER BY w.view LIMIT 1), '')`

// readerOf is the cluster that reads what a view is of.
func readerOf(view string) string {
	if group, ok := groupIn(view); ok {
		return GroupReader(group)
	}
	cluster, _ := clusterIn(view)
	return cluster
}

func (m *Image) dest() []any {
	return []any{&m.ID, &m.Image, &m.Digest, &m.Registry, &m.Repository, &m.Tag, &m.Platform, &m.Distro, &m.Result,
		&m.MaxCVSS, &m.ScannedAt, &m.FirstSeen, &m.Source, &m.Error, &m.EPSS, &m.KEV, &m.Fixable, &m.Dismissed, &m.Packages, &m.Unscored, &m.Unplaced, &m.Instances, &m.Differs, &m.Piece, &m.Reader}
}

// imageOrders are the orders of the list of images, by columns that are never absent.
var imageOrders = map[string]string{"": "l.id", "image": "l.image", "result": "l.result", "score": "l.score", "scanned": "l.scanned_at", "instances": "l.instances"}

// conditions collects parts of a WHERE clause.
type conditions struct {
	parts []string
	args  []any
}

func (c *conditions) add(part string, args ...any) {
	c.parts, c.args = append(c.parts, part), append(c.args, args...)
}

func (c *conditions) where() string {
	if len(c.parts) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(c.parts, " AND ")
}

// contains is a pattern of LIKE with ESCAPE '!'.
func contains(text string) string {
	return "%" + strings.NewReplacer("!", "!!", "%", "!%", "_", "!_").Replace(strings.ToLower(clean(text))) + "%"
}

// common is how many images a vulnerability must be in for lists to walk their order
// and look at each image, rather than to sort what has it.
const common = 1500

// conditions are those of a filter; none says that nothing can fit.
func (t *Tx) conditions(ctx context.Context, f Filter) (c conditions, none bool, err error) {
	for _, text := range []string{f.Registry, f.Repository, f.Tag, f.Digest, f.Reference, f.Within, f.Search, f.CVE, f.Package, f.Version, f.Cluster, f.Namespace} {
		if clean(text) != text {
			return c, true, nil // no column holds such a text
		}
	}
	if len(f.Results) > 0 {
		var args []any
		for _, r := range f.Results {
			args = append(args, string(r))
			if r == api.Unknown {
				args = append(args, "") // not yet computed
			}
		}
		c.add("l.result IN ("+marks(len(args))+")", args...)
	}
	for _, x := range []struct{ column, value string }{{"l.registry", f.Registry}, {"l.repository", f.Repository}, {"l.tag", f.Tag}, {"l.digest", f.Digest}, {"l.image", f.Reference}} {
		if x.value != "" {
			c.add(x.column+" = ?", clean(x.value))
		}
	}
	if f.Within != "" {
		within := clean(strings.TrimSuffix(f.Within, "/"))
		c.add("(l.name = ? OR substr(l.name, 1, ?) = ?)", within, len([]rune(within))+1, within+"/")
	}
	if f.Search != "" {
		c.add("lower(l.image) LIKE ? ESCAPE '!'", contains(f.Search))
	}
	if f.CVE != "" {
		var id, images int64
		err := t.one(ctx, "SELECT id, images FROM terms WHERE name = ?", []any{api.NormalizeID(clean(f.CVE))}, &id, &images)
		if errors.Is(err, ErrNotFound) {
			return c, true, nil
		}
		if err != nil {
			return c, false, err
		}
		if images > common {
			c.add("EXISTS (SELECT 1 FROM image_terms x WHERE x.term_id = ? AND x.image_id = l.image_id)", id)
		} else {
			// The ids are given one by one: planners without statistics would read all images.
			var args []any
			if err := t.each(ctx, "SELECT image_id FROM image_terms WHERE term_id = ?", []any{id}, func(scan func(...any) error) error {
				var image int64
				err := scan(&image)
				args = append(args, image)
				return err
			}); err != nil {
				return c, false, err
			}
			if len(args) == 0 {
				return c, true, nil
			}
			c.add("l.image_id IN ("+marks(len(args))+")", args...)
		}
	}
	if f.Versions != nil && len(f.Versions) == 0 {
		return c, true, nil
	}
	if f.Package != "" || f.Version != "" {
		inner := conditions{}
		if f.Versions != nil {
			args := make([]any, len(f.Versions))
			for i, v := range f.Versions {
				args[i] = clean(v)
			}
			inner.add("p.version IN ("+marks(len(args))+")", args...)
		}
		if f.Package != "" {
			inner.add("p.name = ?", clean(f.Package))
		}
		if f.Version != "" {
			inner.add("p.version = ?", clean(f.Version))
		}
		c.add("l.image_id IN (SELECT x.image_id FROM packages p JOIN image_packages x ON x.package_id = p.id"+inner.where()+")", inner.args...)
	}
	if f.Cluster != "" || f.Namespace != "" || f.Stale != nil {
		inner := conditions{parts: []string{"n.listing_id = l.id"}}
		if f.Cluster != "" {
			inner.add("n.cluster = ?", clean(f.Cluster))
		}
		if f.Namespace != "" {
			inner.add("n.namespace = ?", clean(f.Namespace))
		}
		inner.stale(f.Stale, t.silent())
		c.add("EXISTS (SELECT 1 FROM instances n"+inner.where()+")", inner.args...)
	}
	if f.Running != nil {
		c.add(map[bool]string{true: "l.instances > 0", false: "l.instances = 0"}[*f.Running])
	}
	dismissed := f.Dismissed != nil && *f.Dismissed
	for _, x := range []struct {
		column string
		value  *bool
	}{{"l.kev", f.KEV}, {"l.fixable", f.Fixable}, {"l.dismissed", &dismissed}} {
		if x.value != nil {
			c.add(x.column + map[bool]string{true: " = TRUE", false: " = FALSE"}[*x.value])
		}
	}
	if f.EPSS != nil {
		c.add("l.epss >= ?", *f.EPSS)
	}
	if f.Score != nil {
		c.add("l.score >= ?", *f.Score)
	}
	if !f.ScannedAfter.IsZero() {
		c.add("l.scanned_at > ?", documents.Time(f.ScannedAfter))
	}
	if !f.ScannedBefore.IsZero() {
		c.add("l.scanned_at < ? AND l.scanned_at > ''", documents.Time(f.ScannedBefore))
	}
	return c, false, nil
}

// cursor is where a page ended.
type cursor struct {
	Sort  string `json:"s"`
	Value any    `json:"v"`
	ID    int64  `json:"i"`
}

func (c cursor) String() string {
	text, err := json.Marshal(c)
	if err != nil {
		panic(err) // texts and numbers have a JSON form
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// order says how a page is read: the ORDER BY clause, and what comes after the cursor.
// A column's values are of the type of an example.
func order(p Page, columns map[string]string, id string, types map[string]any) (by string, after conditions, limit int, err error) {
	limit = p.Limit
	if limit <= 0 {
		limit = 100
	}
	limit = min(limit, 1000)
	name, descending := strings.CutPrefix(p.Sort, "-")
	column, ok := columns[name]
	if !ok {
		var known []string
		for k := range columns {
			if k != "" {
				known = append(known, k)
			}
		}
		return "", after, 0, fmt.Errorf("%w %.40q; known are %s, each with - before it for the other way round", ErrSort, name, strings.Join(slices.Sorted(slices.Values(known)), ", "))
	}
	way, than := "", ">"
	if descending {
		way, than = " DESC", "<"
	}
	by = " ORDER BY " + column + way
	if column != id {
		by += ", " + id + way
	}
	if p.After == "" {
		return by, after, limit, nil
	}
	text, err := base64.RawURLEncoding.Strict().DecodeString(p.After)
	var c cursor
	if err != nil || json.Unmarshal(text, &c) != nil || c.Sort != p.Sort || c.ID <= 0 {
		return "", after, 0, ErrCursor
	}
	if column == id {
		after.add(id+" "+than+" ?", c.ID)
		return by, after, limit, nil
	}
	switch types[name].(type) {
	case string:
		if _, ok := c.Value.(string); !ok {
			return "", after, 0, ErrCursor
		}
	default:
		if _, ok := c.Value.(float64); !ok {
			return "", after, 0, ErrCursor
		}
	}
	after.add("("+column+" "+than+"= ? AND ("+column+" "+than+" ? OR "+id+" "+than+" ?))", c.Value, c.Value, c.ID)
	return by, after, limit, nil
}

// Images are a page of the images that fit a filter. Orders: image, result, score,
// scanned and instances; without one they come in the order in which they were first seen.
func (s *Store) Images(ctx context.Context, f Filter, p Page) (list List[Image], err error) {
	return list, s.View(ctx, func(t *Tx) (err error) {
		list, err = t.images(ctx, f, p)
		return err
	})
}

func (t *Tx) images(ctx context.Context, f Filter, p Page) (List[Image], error) {
	list := List[Image]{Items: []Image{}}
	by, after, limit, err := order(p, imageOrders, "l.id", map[string]any{"image": "", "result": "", "scanned": "", "score": 0.0, "instances": 0.0})
	if err != nil {
		return list, err
	}
	c, none, err := t.conditions(ctx, f)
	if err != nil || none {
		return list, err
	}
	c.add(strings.Join(append(after.parts, "1 = 1"), " AND "), after.args...)
	rows, args, err := t.rowsIn(ctx, f.Cluster)
	if err != nil {
		return list, err
	}
	var last any // the value of the order of the last item
	err = t.each(ctx, "SELECT "+imageColumns+", "+imageOrders[strings.TrimPrefix(p.Sort, "-")]+" FROM "+rows+" LEFT JOIN images i ON i.id = l.image_id"+c.where()+by+" LIMIT ?", append(append(args, c.args...), limit+1),
		func(scan func(...any) error) error {
			var m Image
			var key any
			if err := scan(append(m.dest(), &key)...); err != nil {
				return err
			}
			if len(list.Items) == limit {
				list.Next = cursor{Sort: p.Sort, Value: last, ID: list.Items[limit-1].ID}.String()
				return nil
			}
			m.Clusters, m.Reader = []string{}, readerOf(m.Reader)
			if f.Cluster != "" {
				m.Reader = f.Cluster
			}
			list.Items, last = append(list.Items, m), key
			return nil
		})
	if err != nil {
		return list, err
	}
	return list, t.clusters(ctx, list.Items)
}

// clusters says where images run.
func (t *Tx) clusters(ctx context.Context, list []Image) error {
	at := map[int64]*Image{}
	var args []any
	for i := range list {
		if list[i].Instances > 0 {
			at[list[i].ID] = &list[i]
			args = append(args, list[i].ID)
		}
	}
	if len(args) == 0 {
		return nil
	}
	return t.each(ctx, "SELECT DISTINCT listing_id, cluster FROM instances WHERE listing_id IN ("+marks(len(args))+") ORDER BY listing_id, cluster", args, func(scan func(...any) error) error {
		var id int64
		var cluster string
		if err := scan(&id, &cluster); err != nil {
			return err
		}
		at[id].Clusters = append(at[id].Clusters, cluster)
		return nil
	})
}

// exportPage is how many images an export holds in memory at a time.
const exportPage = 500

// EachImage calls fn with each image that fits a filter: all those of one moment.
func (s *Store) EachImage(ctx context.Context, f Filter, fn func(Image) error) error {
	return s.View(ctx, func(t *Tx) error {
		return t.eachImage(ctx, f, fn)
	})
}

func (t *Tx) eachImage(ctx context.Context, f Filter, fn func(Image) error) error {
	for p := (Page{Limit: exportPage}); ; {
		list, err := t.images(ctx, f, p)
		if err != nil {
			return err
		}
		for _, m := range list.Items {
			if err := fn(m); err != nil {
				return err
			}
		}
		if list.Next == "" {
			return nil
		}
		p.After = list.Next
	}
}

// EachScan calls fn with each image that fits a filter and its newest scan, whose
// result is not computed; an image that was never scanned has an empty one.
func (s *Store) EachScan(ctx context.Context, f Filter, fn func(Image, api.Scan) error) error {
	return s.View(ctx, func(t *Tx) error {
		return t.eachImage(ctx, f, func(m Image) error {
			var id int64
			err := t.one(ctx, "SELECT scan_id FROM images WHERE id = ? AND scan_id IS NOT NULL", []any{m.Piece}, &id)
			var scan api.Scan
			if err == nil {
				scan, err = t.scan(ctx, id)
			}
			if err != nil && !errors.Is(err, ErrNotFound) {
				return err
			}
			return fn(m, scan)
		})
	})
}

// Counts are the numbers of images that fit a filter, by result.
func (s *Store) Counts(ctx context.Context, f Filter) (counts map[api.Result]int, err error) {
	return counts, s.View(ctx, func(t *Tx) error {
		counts = map[api.Result]int{api.Pass: 0, api.Warned: 0, api.Fail: 0, api.Unknown: 0}
		c, none, err := t.conditions(ctx, f)
		if err != nil || none {
			return err
		}
		rows, args, err := t.rowsIn(ctx, f.Cluster)
		if err != nil {
			return err
		}
		return t.each(ctx, "SELECT l.result, COUNT(*) FROM "+rows+c.where()+" GROUP BY l.result", append(args, c.args...), func(scan func(...any) error) error {
			var r api.Result
			var n int
			err := scan(&r, &n)
			if r == "" {
				r = api.Unknown
			}
			counts[r] += n
			return err
		})
	})
}

// VulnerabilityFilter narrows lists of vulnerabilities; empty members do not.
type VulnerabilityFilter struct {
	ID          string // part of the id, in any case
	Severity    string
	Package     string
	KEV         *bool
	EPSS, Score *float64
}

// Vulnerability is a row of the list of vulnerabilities that some image has.
type Vulnerability struct {
	ID       string   `json:"id"`
	Score    *float64 `json:"score,omitempty"`
	Severity string   `json:"severity"`
	EPSS     *float64 `json:"epss,omitempty"`
	KEV      bool     `json:"kev"`
	Images   int      `json:"images"` // platform manifests that have it
	row      int64
}

var vulnerabilityOrders = map[string]string{"": "COALESCE(v.score, -1)", "score": "COALESCE(v.score, -1)", "epss": "COALESCE(v.epss, -1)", "images": "v.images", "id": "v.name"}

// Vulnerabilities are a page of those that fit a filter. Orders: score (the default,
// from the highest), epss, images and id.
func (s *Store) Vulnerabilities(ctx context.Context, f VulnerabilityFilter, p Page) (list List[Vulnerability], err error) {
	if p.Sort == "" {
		p.Sort = "-score"
	}
	by, after, limit, err := order(p, vulnerabilityOrders, "v.id", map[string]any{"id": "", "score": 0.0, "epss": 0.0, "images": 0.0})
	if err != nil {
		return list, err
	}
	var c conditions
	c.add("v.images > 0 AND v.canonical = TRUE")
	if f.ID != "" {
		c.add("lower(v.name) LIKE ? ESCAPE '!'", contains(f.ID))
	}
	if f.Severity != "" {
		c.add("lower(v.severity) = ?", strings.ToLower(clean(f.Severity)))
	}
	if f.KEV != nil {
		c.add("v.kev" + map[bool]string{true: " = TRUE", false: " = FALSE"}[*f.KEV])
	}
	if f.EPSS != nil {
		c.add("v.epss >= ?", *f.EPSS)
	}
	if f.Score != nil {
		c.add("v.score >= ?", *f.Score)
	}
	if f.Package != "" {
		c.add("v.id IN (SELECT x.term_id FROM packages p JOIN findings x ON x.package_id = p.id WHERE p.name = ?)", clean(f.Package))
	}
	c.parts, c.args = append(c.parts, after.parts...), append(c.args, after.args...)
	return list, s.View(ctx, func(t *Tx) error {
		list = List[Vulnerability]{Items: []Vulnerability{}}
		return t.each(ctx, "SELECT v.id, v.name, v.score, v.severity, v.epss, v.kev, v.images FROM terms v"+c.where()+by+" LIMIT ?", append(c.args, limit+1), func(scan func(...any) error) error {
			var v Vulnerability
			if err := scan(&v.row, &v.ID, &v.Score, &v.Severity, &v.EPSS, &v.KEV, &v.Images); err != nil {
				return err
			}
			if len(list.Items) == limit {
				last := list.Items[limit-1]
				var key any = last.ID
				switch strings.TrimPrefix(p.Sort, "-") {
				case "score":
					key = orNone(last.Score)
				case "epss":
					key = orNone(last.EPSS)
				case "images":
					key = last.Images
				}
				list.Next = cursor{Sort: p.Sort, Value: key, ID: last.row}.String()
				return nil
			}
			list.Items = append(list.Items, v)
			return nil
		})
	})
}

func orNone(f *float64) float64 {
	if f == nil {
		return -1
	}
	return *f
}

// Affected is one package of an image that has a vulnerability.
type Affected struct {
	Digest  string   `json:"digest"`
	Package Package  `json:"package"`
	Score   *float64 `json:"score,omitempty"`
	Fixable bool     `json:"fixable"`
}

// Affected are the packages that a vulnerability, by id or alias, is in, with their images.
func (s *Store) Affected(ctx context.Context, id string, limit int) (v Vulnerability, list []Affected, err error) {
	return v, list, s.View(ctx, func(t *Tx) error {
		list = []Affected{}
		if err := t.one(ctx, "SELECT id, name, score, severity, epss, kev, images FROM terms WHERE name = ? AND images > 0", []any{api.NormalizeID(clean(id))},
			&v.row, &v.ID, &v.Score, &v.Severity, &v.EPSS, &v.KEV, &v.Images); err != nil {
			return err
		}
		return t.each(ctx, `SELECT i.digest, p.name, p.version, p.type, f.score, f.fixable FROM image_terms x JOIN findings f ON f.image_id = x.image_id AND f.term_id = x.term_id
			JOIN images i ON i.id = x.image_id JOIN packages p ON p.id = f.package_id WHERE x.term_id = ? ORDER BY x.image_id LIMIT ?`, []any{v.row, limit}, func(scan func(...any) error) error {
			var a Affected
			err := scan(&a.Digest, &a.Package.Name, &a.Package.Version, &a.Package.Type, &a.Score, &a.Fixable)
			list = append(list, a)
			return err
		})
	})
}

// PackageFilter narrows lists of packages; empty members do not.
type PackageFilter struct {
	Name, Version, Type string
	Search              string // part of the name, in any case
	Digest              string // of an image that has it
}

// PackageImages is a row of the list of packages.
type PackageImages struct {
	Package
	Images int `json:"images"` // platform manifests that have it
	row    int64
}

// Packages are a page of those that fit a filter, by name.
func (s *Store) Packages(ctx context.Context, f PackageFilter, p Page) (list List[PackageImages], err error) {
	if p.Sort == "" {
		p.Sort = "name"
	}
	by, after, limit, err := order(p, map[string]string{"name": "p.name"}, "p.id", map[string]any{"name": ""})
	if err != nil {
		return list, err
	}
	c := conditions{parts: []string{"EXISTS (SELECT 1 FROM image_packages x WHERE x.package_id = p.id)"}}
	for _, x := range []struct{ column, value string }{{"p.name", f.Name}, {"p.version", f.Version}, {"p.type", f.Type}} {
		if x.value != "" {
			c.add(x.column+" = ?", clean(x.value))
		}
	}
	if f.Search != "" {
		c.add("lower(p.name) LIKE ? ESCAPE '!'", contains(f.Search))
	}
	if f.Digest != "" {
		c.add("p.id IN (SELECT x.package_id FROM images i JOIN image_packages x ON x.image_id = i.id WHERE i.digest = ?)", clean(f.Digest))
	}
	c.parts, c.args = append(c.parts, after.parts...), append(c.args, after.args...)
	return list, s.View(ctx, func(t *Tx) error {
		list = List[PackageImages]{Items: []PackageImages{}}
		// Images are counted for the rows of the page alone: for all that are sorted it would take a third of a second.
		page := "SELECT p.id, p.name, p.version, p.type FROM packages p" + c.where() + by + " LIMIT ?"
		return t.each(ctx, "SELECT p.id, p.name, p.version, p.type, (SELECT COUNT(*) FROM image_packages x WHERE x.package_id = p.id) FROM ("+page+") p"+by, append(c.args, limit+1),
			func(scan func(...any) error) error {
				var r PackageImages
				if err := scan(&r.row, &r.Name, &r.Version, &r.Type, &r.Images); err != nil {
					return err
				}
				if len(list.Items) == limit {
					last := list.Items[limit-1]
					list.Next = cursor{Sort: p.Sort, Value: last.Name, ID: last.row}.String()
					return nil
				}
				list.Items = append(list.Items, r)
				return nil
			})
	})
}

// RunningInstance is a row of the list of containers that run.
type RunningInstance struct {
	Instance
	Result  api.Result `json:"result"`
	MaxCVSS *float64   `json:"max_cvss,omitempty"`
	// Stale says that its node fell silent after LastSeen, so that it may be gone.
	Stale bool `json:"stale,omitempty"`
}

// Instances are a page of the containers that run images that fit a filter, by
// cluster, namespace, pod and container.
func (s *Store) Instances(ctx context.Context, f Filter, p Page) (list List[RunningInstance], err error) {
	limit := p.Limit
	if limit <= 0 {
		limit = 100
	}
	limit = min(limit, 1000)
	if p.Sort != "" {
		return list, fmt.Errorf("%w: it is sorted by cluster, namespace, pod and container", ErrSort)
	}
	var place []string
	if p.After != "" {
		text, err := base64.RawURLEncoding.Strict().DecodeString(p.After)
		if err != nil || json.Unmarshal(text, &place) != nil || len(place) != 4 {
			return list, ErrCursor
		}
	}
	return list, s.View(ctx, func(t *Tx) error {
		list = List[RunningInstance]{Items: []RunningInstance{}}
		cluster, namespace, stale := f.Cluster, f.Namespace, f.Stale
		f.Cluster, f.Namespace, f.Stale = "", "", nil
		c, none, err := t.conditions(ctx, f)
		if err != nil || none {
			return err
		}
		if cluster != "" {
			c.add("n.cluster = ?", clean(cluster))
		}
		if namespace != "" {
			c.add("n.namespace = ?", clean(namespace))
		}
		c.stale(stale, t.silent())
		rows, args, err := t.rowsIn(ctx, cluster)
		if err != nil {
			return err
		}
		if place != nil {
			c.add("(n.cluster, n.namespace, n.pod, n.container) > (?, ?, ?, ?)", place[0], place[1], place[2], place[3])
		}
		return t.each(ctx, `SELECT n.cluster, n.namespace, n.pod, n.container, n.node, n.image, n.digest, n.config_digest, n.first_seen, CASE WHEN d.epoch <> '' AND d.heard > n.last_seen THEN d.heard ELSE n.last_seen END,
			CASE WHEN l.result = '' THEN 'Unknown' ELSE l.result END, l.max_cvss, CASE WHEN d.epoch <> '' AND d.heard < ? THEN TRUE ELSE FALSE END
			FROM instances n JOIN `+rows+` ON l.id = n.listing_id LEFT JOIN nodes d ON d.cluster = n.cluster AND d.node = n.node`+c.where()+`
			ORDER BY n.cluster, n.namespace, n.pod, n.container LIMIT ?`, append(append(append([]any{t.silent()}, args...), c.args...), limit+1), func(scan func(...any) error) error {
			var r RunningInstance
			if err := scan(&r.Cluster, &r.Namespace, &r.Pod, &r.Container, &r.Node, &r.Image, &r.Digest, &r.ConfigDigest, &r.FirstSeen, &r.LastSeen, &r.Result, &r.MaxCVSS, &r.Stale); err != nil {
				return err
			}
			if len(list.Items) == limit {
				last := list.Items[limit-1]
				text, err := json.Marshal([]string{last.Cluster, last.Namespace, last.Pod, last.Container})
				list.Next = base64.RawURLEncoding.EncodeToString(text)
				return err
			}
			list.Items = append(list.Items, r)
			return nil
		})
	})
}

// StaleInstance is a container, and whether its node fell silent.
type StaleInstance struct {
	api.Instance
	Stale bool
}

// instancesOf are the containers of a filter that run a listing.
func (t *Tx) instancesOf(ctx context.Context, listing int64, f Filter) (list []StaleInstance, err error) {
	c := conditions{parts: []string{"n.listing_id = ?"}, args: []any{t.silent(), listing}}
	if f.Cluster != "" {
		c.add("n.cluster = ?", f.Cluster)
	}
	if f.Namespace != "" {
		c.add("n.namespace = ?", f.Namespace)
	}
	c.stale(f.Stale, t.silent())
	return list, t.each(ctx, "SELECT n.cluster, n.namespace, n.pod, n.container, CASE WHEN "+staleHere+" THEN TRUE ELSE FALSE END FROM instances n"+c.where()+
		" ORDER BY n.cluster, n.namespace, n.pod, n.container", c.args, func(scan func(...any) error) error {
		var i StaleInstance
		err := scan(&i.Cluster, &i.Namespace, &i.Pod, &i.Container, &i.Stale)
		list = append(list, i)
		return err
	})
}

// stale adds that instances n are on a node that fell silent, or are not.
func (c *conditions) stale(want *bool, silent string) {
	if want != nil {
		c.add(map[bool]string{true: "", false: "NOT "}[*want]+staleHere, silent)
	}
}

// EachPod calls fn with each image that fits a filter, and the containers of the filter that run it.
func (s *Store) EachPod(ctx context.Context, f Filter, fn func(Image, []StaleInstance) error) error {
	return s.View(ctx, func(t *Tx) error {
		return t.eachImage(ctx, f, func(m Image) error {
			var pods []StaleInstance
			if m.Instances > 0 {
				var err error
				if pods, err = t.instancesOf(ctx, m.ID, f); err != nil {
					return err
				}
			}
			return fn(m, pods)
		})
	})
}

// NameObservation says what a tag led to, and from when to when it was seen so.
type NameObservation struct {
	Image  string `json:"image"`
	Digest string `json:"digest"`
	First  string `json:"first"`
	Last   string `json:"last"`
	// Cluster is the one that saw it so; "" is known for all.
	Cluster string `json:"cluster,omitempty"`
}

// Names are the digests that the tags of a name led to, the newest first.
func (s *Store) Names(ctx context.Context, name string, limit int) (list []NameObservation, err error) {
	return list, s.View(ctx, func(t *Tx) error {
		list = []NameObservation{}
		return t.each(ctx, "SELECT tag, digest, space, MIN(first), MAX(last) AS newest FROM observations WHERE name = ? GROUP BY tag, digest, space ORDER BY newest DESC, tag, digest, space LIMIT ?", []any{clean(name), limit}, func(scan func(...any) error) error {
			var o NameObservation
			var space string
			err := scan(&o.Image, &o.Digest, &space, &o.First, &o.Last)
			o.Image = name + ":" + o.Image
			o.Cluster, _ = clusterIn(space)
			list = append(list, o)
			return err
		})
	})
}

// EventFilter narrows lists of events; empty members do not.
type EventFilter struct {
	Image, Digest string
	Result        api.Result
	Type          api.EventType
	Changed       *bool
	Since, Until  time.Time
}

// StoredEvent is an event with its place in lists.
type StoredEvent struct {
	ID int64 `json:"id"`
	api.Event
}

// Events are a page of the events that fit a filter, the newest first.
func (s *Store) Events(ctx context.Context, f EventFilter, p Page) (list List[StoredEvent], err error) {
	if p.Sort != "" {
		return list, fmt.Errorf("%w: it is sorted by time, the newest first", ErrSort)
	}
	p.Sort = "-id"
	by, after, limit, err := order(p, map[string]string{"id": "events.id"}, "events.id", nil)
	if err != nil {
		return list, err
	}
	var c conditions
	for _, x := range []struct{ column, value string }{{"image", f.Image}, {"digest", f.Digest}, {"result", string(f.Result)}, {"type", string(f.Type)}} {
		if x.value != "" {
			c.add("events."+x.column+" = ?", clean(x.value))
		}
	}
	if f.Changed != nil {
		c.add("events.changed" + map[bool]string{true: " = TRUE", false: " = FALSE"}[*f.Changed])
	}
	if !f.Since.IsZero() {
		c.add("events.time > ?", documents.Time(f.Since))
	}
	if !f.Until.IsZero() {
		c.add("events.time <= ?", documents.Time(f.Until))
	}
	c.parts, c.args = append(c.parts, after.parts...), append(c.args, after.args...)
	return list, s.View(ctx, func(t *Tx) error {
		list = List[StoredEvent]{Items: []StoredEvent{}}
		return t.each(ctx, "SELECT events.id, "+eventColumns+" FROM events"+c.where()+by+" LIMIT ?", append(c.args, limit+1), func(scan func(...any) error) error {
			var e StoredEvent
			var err error
			if e.Event, err = scanEvent(scan, &e.ID); err != nil {
				return err
			}
			if len(list.Items) == limit {
				list.Next = cursor{Sort: p.Sort, ID: list.Items[limit-1].ID}.String()
				return nil
			}
			list.Items = append(list.Items, e)
			return nil
		})
	})
}

// Count is a value with how many rows have it.
type Count struct {
	Name  string `json:"name"`
	Count int    `json:"count"`
}

// Menu are the values that lists can be filtered by: "namespaces" of running containers,
// "registries" of images.
func (s *Store) Menu(ctx context.Context, of string) (list []Count, err error) {
	query, ok := map[string]string{
		"namespaces": "SELECT namespace, COUNT(*) FROM instances GROUP BY namespace ORDER BY namespace",
		"registries": "SELECT registry, COUNT(*) FROM listings GROUP BY registry ORDER BY registry",
	}[of]
	if !ok {
		return nil, fmt.Errorf("%w: %.40q", ErrNotFound, of)
	}
	return list, s.View(ctx, func(t *Tx) error {
		list = []Count{}
		return t.each(ctx, query, nil, func(scan func(...any) error) error {
			var c Count
			err := scan(&c.Name, &c.Count)
			list = append(list, c)
			return err
		})
	})
}

// Dismiss hides a digest in lists, or shows it again.
func (t *Tx) Dismiss(ctx context.Context, digest string, dismissed bool) error {
	if err := t.change(ctx, "UPDATE listings SET dismissed = ? WHERE digest = ?", dismissed, digest); err != nil {
		return err
	}
	return t.changed(ctx, ResultsChanged, "")
}

// NamesOf are the references under which a digest is listed, at most 1000, and whether they are dismissed.
func (t *Tx) NamesOf(ctx context.Context, digest string) (images []string, dismissed bool, err error) {
	return images, dismissed, t.each(ctx, "SELECT image, dismissed FROM listings WHERE digest = ? ORDER BY image LIMIT 1000", []any{digest}, func(scan func(...any) error) error {
		var image string
		err := scan(&image, &dismissed)
		images = append(images, image)
		return err
	})
}

// DeleteImage removes all that is known of a digest. What still runs comes back, as
// never scanned, when it is reported the next time.
func (t *Tx) DeleteImage(ctx context.Context, digest string) error {
	spaces, err := t.spacesOf(ctx, digest)
	if err != nil {
		return err
	}
	identities, err := t.holders(ctx, digest)
	if err != nil {
		return err
	}
	if _, err := t.exec(ctx, "UPDATE terms SET images = images - 1 WHERE id IN (SELECT x.term_id FROM images i JOIN image_terms x ON x.image_id = i.id WHERE i.digest = ?)", digest); err != nil {
		return err
	}
	if err := t.failuresGo(ctx, "l.digest = ?", digest); err != nil {
		return err
	}
	if err := t.waitingChanged(ctx, "i.digest = ?", digest); err != nil {
		return err
	}
	listings, err := t.exec(ctx, "DELETE FROM listings WHERE digest = ?", digest)
	if err != nil {
		return err
	}
	images, err := t.exec(ctx, "DELETE FROM images WHERE digest = ?", digest)
	if err != nil {
		return err
	}
	if listings+images == 0 {
		return ErrNotFound
	}
	if err := t.forget(ctx, "digest = ?", digest); err != nil {
		return err
	}
	for _, identity := range identities {
		if err := t.recount(ctx, identity); err != nil {
			return err
		}
	}
	for _, space := range spaces {
		if err := t.changedIn(ctx, ImageChanged, digest, space); err != nil {
			return err
		}
	}
	return t.changed(ctx, ResultsChanged, "")
}
