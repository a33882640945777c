package store

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/assay-dev/assay/api"
)

// views says for tasks in which clusters they must be classified, and what counts there.
func (t *Tx) views(ctx context.Context, tasks []Task, ways []api.Way) error {
	at := map[string][]int{} // by digest
	listings := map[int64]int{}
	for i, task := range tasks {
		at[task.Digest] = append(at[task.Digest], i)
		listings[task.Listing] = i
	}
	pieces, claims, failures := map[string][]piece{}, map[string][]piece{}, map[int64][]piece{}
	scoped := map[string]bool{} // digests that not all clusters see alike
	for chunk := range slices.Chunk(keysOfTasks(at), 2000) {
		read := func(to map[string][]piece, query string) error {
			return t.each(ctx, query+" IN ("+marks(len(chunk))+")", chunk, func(scan func(...any) error) error {
				var digest string
				var p piece
				if err := scan(&digest, &p.image, &p.origin.Space, &p.origin.Registry, &p.found, &p.way, &p.scanned); err != nil {
					return err
				}
				to[digest] = append(to[digest], p)
				scoped[digest] = scoped[digest] || p.origin.Space != ""
				return nil
			})
		}
		if err := read(pieces, "SELECT i.digest, i.id, o.space, o.registry, i.found, i.way, i.scan_id IS NOT NULL FROM images i JOIN origins o ON o.id = i.origin_id WHERE i.digest"); err != nil {
			return err
		}
		if err := read(claims, "SELECT x.digest, 0, o.space, o.registry, x.at, '', FALSE FROM indexes x JOIN origins o ON o.id = x.origin_id WHERE x.digest"); err != nil {
			return err
		}
	}
	for chunk := range slices.Chunk(tasks, 2000) {
		args := make([]any, len(chunk))
		for i, task := range chunk {
			args[i] = task.Listing
		}
		if err := t.each(ctx, "SELECT f.listing_id, o.space, o.registry, f.at, f.source, f.error FROM failures f JOIN origins o ON o.id = f.origin_id WHERE f.listing_id IN ("+marks(len(args))+")", args, func(scan func(...any) error) error {
			var id int64
			var p piece
			err := scan(&id, &p.origin.Space, &p.origin.Registry, &p.found, &p.source, &p.error)
			failures[id] = append(failures[id], p)
			return err
		}); err != nil {
			return err
		}
	}
	groups := map[string][]string{} // spaces that clusters read beside their own
	if err := t.each(ctx, "SELECT cluster, trust_group FROM members ORDER BY cluster, trust_group", nil, func(scan func(...any) error) error {
		var cluster, group string
		err := scan(&cluster, &group)
		groups[clusterSpace(cluster)] = append(groups[clusterSpace(cluster)], groupSpace(group))
		return err
	}); err != nil {
		return err
	}
	for i := range tasks {
		task := &tasks[i]
		ref, err := api.ParseReference(task.Image)
		if err != nil {
			return err
		}
		of := failures[task.Listing]
		spaces := map[string]bool{}
		if scoped[task.Digest] || slices.ContainsFunc(of, func(p piece) bool { return p.origin.Space != Shared }) {
			for _, list := range [][]piece{pieces[task.Digest], claims[task.Digest], of} {
				for _, p := range list {
					if p.origin.Space != Shared && p.counts([]string{p.origin.Space}, ref.Name()) {
						spaces[p.origin.Space] = true
					}
				}
			}
			for cluster, list := range groups { // no group's view is that of a cluster of two
				if n := len(slices.DeleteFunc(slices.Clone(list), func(g string) bool { return !spaces[g] })); n > 1 {
					spaces[cluster] = true
				}
			}
		}
		for _, view := range append([]string{Shared}, keysSorted(spaces)...) {
			reads := append([]string{view}, groups[view]...)
			task.Views = append(task.Views, TaskView{Cluster: readerOf(view), view: view, shown: view != Shared,
				piece: choose(pieces[task.Digest], reads, ref.Name(), ways), failed: failed(of, reads, ref.Name())})
		}
		task.Views[0].shown = len(task.Views) == 1 || task.Views[0].piece != nil || task.Views[0].failed.error != ""
		if !task.Views[0].shown {
			if task.Views[0].shown, err = t.runsElsewhere(ctx, task.Listing, spaces, groups); err != nil {
				return err
			}
		}
	}
	return nil
}

// runsElsewhere says whether a listing runs in a cluster that has no view of its own.
func (t *Tx) runsElsewhere(ctx context.Context, listing int64, views map[string]bool, groups map[string][]string) (found bool, err error) {
	return found, t.each(ctx, "SELECT DISTINCT cluster FROM instances WHERE listing_id = ?", []any{listing}, func(scan func(...any) error) error {
		var cluster string
		err := scan(&cluster)
		own := clusterSpace(cluster)
		found = found || !views[own] && !slices.ContainsFunc(groups[own], func(g string) bool { return views[g] })
		return err
	})
}

func keysOfTasks(m map[string][]int) []any {
	var list []any
	for k := range m {
		list = append(list, k)
	}
	return list
}

func keysSorted(m map[string]bool) []string {
	var list []string
	for k := range m {
		list = append(list, k)
	}
	slices.Sort(list)
	return list
}

// worst is the view that lists show, and whether those that they could show differ.
func (v Verdict) worst() (at int, differs bool) {
	rank := []api.Result{api.Pass, api.Warned, api.Unknown, api.Fail}
	at = -1
	for i, view := range v.Views {
		if !view.shown {
			continue
		}
		if at < 0 {
			at = i
			continue
		}
		differs = differs || v.Said[i].Result != v.Said[at].Result
		a, b := slices.Index(rank, v.Said[at].Result), slices.Index(rank, v.Said[i].Result)
		if b > a || b == a && compareScores(v.Said[i].MaxCVSS, v.Said[at].MaxCVSS) > 0 {
			at = i
		}
	}
	return at, differs
}

func compareScores(a, b *float64) int { return cmp.Compare(orNone(a), orNone(b)) }

// show writes the views of listings that have several.
func (t *Tx) show(ctx context.Context, verdicts []Verdict) error {
	var rows [][]any
	var ids []any
	for _, v := range verdicts {
		ids = append(ids, v.Listing)
		if len(v.Views) == 1 {
			continue
		}
		for i, view := range v.Views {
			var image int64
			if view.piece != nil {
				image = view.piece.image
			}
			rows = append(rows, []any{v.Listing, view.view, image, string(v.Said[i].Result), v.Said[i].MaxCVSS, orNone(v.Said[i].MaxCVSS), view.failed.error})
		}
	}
	for chunk := range slices.Chunk(ids, 5000) {
		if _, err := t.exec(ctx, "DELETE FROM listing_views WHERE listing_id IN ("+marks(len(chunk))+")", chunk...); err != nil {
			return err
		}
	}
	for chunk := range slices.Chunk(rows, 500) {
		clause, args := values("v", []string{"listing_id", "view", "image_id", "result", "max_cvss", "score", "error"}, []string{"BIGINT", "TEXT", "BIGINT", "TEXT", "DOUBLE PRECISION", "DOUBLE PRECISION", "TEXT"}, chunk)
		if _, err := t.exec(ctx, `INSERT INTO listing_views (listing_id, view, image_id, result, max_cvss, score, error, scanned_at, epss, kev, fixable) WITH `+clause+`
			SELECT v.listing_id, v.view, i.id, v.result, v.max_cvss, v.score, v.error, COALESCE(s.scanned_at, ''), i.epss, COALESCE(i.kev, FALSE), COALESCE(i.fixable, FALSE)
			FROM v LEFT JOIN images i ON i.id = v.image_id LEFT JOIN scans s ON s.id = i.scan_id`, args...); err != nil {
			return err
		}
	}
	// Which piece a listing shows decides what else it shows.
	for chunk := range slices.Chunk(verdicts, 500) {
		var moved [][]any
		for _, v := range chunk {
			at, _ := v.worst()
			if p := v.Views[at].piece; p != nil && p.scanned {
				moved = append(moved, []any{v.Listing, p.image})
			}
		}
		if len(moved) == 0 {
			continue
		}
		clause, args := values("v", []string{"id", "image_id"}, []string{"BIGINT", "BIGINT"}, moved)
		if _, err := t.exec(ctx, "WITH "+clause+` UPDATE listings SET scanned_at = s.scanned_at, epss = i.epss, kev = i.kev, fixable = i.fixable FROM v JOIN images i ON i.id = v.image_id JOIN scans s ON s.id = i.scan_id
			WHERE listings.id = v.id AND (listings.image_id IS NULL OR listings.image_id <> v.image_id)`, args...); err != nil {
			return err
		}
	}
	return nil
}

// rowsIn is what lists read as "l": the listings as they are in a cluster, or, where that is "", at worst.
func (t *Tx) rowsIn(ctx context.Context, cluster string) (from string, args []any, err error) {
	if cluster == "" {
		return "listings l", nil, nil
	}
	cluster = clean(cluster)
	spaces, err := t.readBy(ctx, cluster)
	if err != nil {
		return "", nil, err
	}
	of := func(column string) string {
		return "CASE WHEN v.listing_id IS NULL THEN l." + column + " ELSE v." + column + " END AS " + column
	}
	columns := []string{"l.id", "l.digest", "l.name", "l.tag", "l.registry", "l.repository", "l.image", "l.source", "l.first_seen", "l.dismissed", "l.instances", "l.judged", "l.differs"}
	for _, c := range []string{"image_id", "result", "max_cvss", "score", "scanned_at", "epss", "kev", "fixable", "error"} {
		columns = append(columns, of(c))
	}
	for _, space := range append([]string{Shared}, spaces...) {
		args = append(args, space)
	}
	return "(SELECT " + strings.Join(columns, ", ") + " FROM listings l LEFT JOIN listing_views v ON v.listing_id = l.id AND v.view = (SELECT w.view FROM listing_views w WHERE w.listing_id = l.id AND w.view IN (" +
		marks(len(args)) + ") ORDER BY CASE WHEN w.view = ? THEN 0 WHEN w.view <> '' THEN 1 ELSE 2 END LIMIT 1)) l", append(args, spaces[0]), nil
}
