package store

import (
	"context"
	"slices"

	"github.com/assay-dev/assay/api"
)

// Task is a listing that must be classified.
type Task struct {
	Listing int64
	Image   string // the reference
	Digest  string
	// Result is what was computed last, "" for what never was.
	Result api.Result
	// Scans are those that make it necessary, of which events are written.
	Scans []TaskScan
	// Detections are that the image began or ceased to run, each of which becomes an event.
	Detections []Detection
	// Views are those that must be classified: where all evidence is of all clusters, one of "".
	Views []TaskView
}

// TaskView is what a [Task] is in some clusters.
type TaskView struct {
	// Cluster is the one to classify it for: "" is none, "group:NAME" one that reads that space alone.
	Cluster string
	view    string
	piece   *piece // that counts
	failed  piece
	shown   bool // among those of which lists show the worst
}

// TaskScan is a scan of a [Task].
type TaskScan struct {
	ID            int64
	Source, Error string
	// cause is how it came about; identity and origin are whose it is, received is when its SBOM came.
	cause, identity, received string
	origin                    int64
}

// Detection is that an image began to run in a namespace of a cluster, or ceased to run anywhere.
type Detection struct {
	Begins             bool
	Cluster, Namespace string
}

// Causes of work: a scan that is the server's own matching, for the first time or again, and detections.
const (
	causeMatch   = "match"
	causeRematch = "rematch"
	causeBegins  = "begins"
	causeCeases  = "ceases"
)

// Verdict is what the engine says of a [Task].
type Verdict struct {
	Task
	Said []Said // for each of its Views
}

// Said is a result, and the highest score that counts in it.
type Said struct {
	Result  api.Result
	MaxCVSS *float64
}

// Tasks are the oldest at most limit pieces of work that an engine can do which
// has seen the changes up to a number; done ends them. One listing is one task. Ways are those
// in which evidence must have come to count, nil is any.
func (t *Tx) Tasks(ctx context.Context, seen int64, limit int, ways []api.Way) (tasks []Task, done []int64, err error) {
	var whole []int64
	if err := t.each(ctx, "SELECT id FROM work WHERE listing_id IS NULL AND seq <= ? ORDER BY id", []any{seen}, func(scan func(...any) error) error {
		var id int64
		err := scan(&id)
		whole = append(whole, id)
		return err
	}); err != nil {
		return nil, nil, err
	}
	if len(whole) > 0 {
		if _, err := t.exec(ctx, "INSERT INTO work (seq, listing_id, at) SELECT CAST(? AS BIGINT), id, ? FROM listings", seen, t.at); err != nil {
			return nil, nil, err
		}
		for _, id := range whole {
			if _, err := t.exec(ctx, "DELETE FROM work WHERE id = ?", id); err != nil {
				return nil, nil, err
			}
		}
	}
	at := map[int64]int{}
	err = t.each(ctx, `SELECT w.id, l.id, l.image, l.digest, l.result, COALESCE(w.scan_id, 0), COALESCE(s.source, ''), COALESCE(s.error, ''),
		w.cause, w.cluster, w.namespace, COALESCE(s.identity, ''), COALESCE(s.origin_id, 0), COALESCE(b.received, '')
		FROM work w JOIN listings l ON l.id = w.listing_id LEFT JOIN scans s ON s.id = w.scan_id LEFT JOIN sboms b ON b.image_id = s.image_id WHERE w.seq <= ? ORDER BY w.id LIMIT ?`, []any{seen, limit},
		func(scan func(...any) error) error {
			var id int64
			var next Task
			var s TaskScan
			var d Detection
			if err := scan(&id, &next.Listing, &next.Image, &next.Digest, &next.Result, &s.ID, &s.Source, &s.Error, &s.cause, &d.Cluster, &d.Namespace, &s.identity, &s.origin, &s.received); err != nil {
				return err
			}
			done = append(done, id)
			n, ok := at[next.Listing]
			if !ok {
				n = len(tasks)
				at[next.Listing] = n
				tasks = append(tasks, next)
			}
			switch {
			case s.cause == causeBegins || s.cause == causeCeases:
				d.Begins = s.cause == causeBegins
				tasks[n].Detections = append(tasks[n].Detections, d)
			case s.ID != 0:
				tasks[n].Scans = append(tasks[n].Scans, s)
			}
			return nil
		})
	if err != nil {
		return nil, nil, err
	}
	return tasks, done, t.views(ctx, tasks, ways)
}

// Classified writes what the engine said, with the events, and ends the work.
// Nothing else writes results.
func (t *Tx) Classified(ctx context.Context, verdicts []Verdict, done []int64) error {
	if err := t.show(ctx, verdicts); err != nil {
		return err
	}
	var rows [][]any
	changed := false
	for _, v := range verdicts {
		at, differs := v.worst()
		said, view := v.Said[at], v.Views[at]
		var image any
		if view.piece != nil {
			image = view.piece.image
		}
		rows = append(rows, []any{v.Listing, string(said.Result), said.MaxCVSS, orNone(said.MaxCVSS), image, view.failed.error, differs})
		changed = changed || said.Result != v.Result
	}
	for chunk := range slices.Chunk(rows, 500) {
		clause, args := values("v", []string{"id", "result", "max_cvss", "score", "image_id", "error", "differs"}, []string{"BIGINT", "TEXT", "DOUBLE PRECISION", "DOUBLE PRECISION", "BIGINT", "TEXT", "BOOLEAN"}, chunk)
		if _, err := t.exec(ctx, "WITH "+clause+` UPDATE listings SET result = v.result, max_cvss = v.max_cvss, score = v.score, image_id = v.image_id, error = v.error, differs = v.differs,
			judged = listings.judged + 1 FROM v WHERE listings.id = v.id`, args...); err != nil {
			return err
		}
	}
	if err := t.tell(ctx, verdicts); err != nil {
		return err
	}
	for chunk := range slices.Chunk(done, 5000) {
		args := make([]any, len(chunk))
		for i, id := range chunk {
			args[i] = id
		}
		if _, err := t.exec(ctx, "DELETE FROM work WHERE id IN ("+marks(len(args))+")", args...); err != nil {
			return err
		}
	}
	if changed {
		return t.changed(ctx, ResultsChanged, "")
	}
	return nil
}

func (s *Store) json() string {
	if s.dialect == PostgreSQL {
		return "JSON"
	}
	return "TEXT"
}

// running are the instances of the listings that are classified.
func (t *Tx) running(ctx context.Context, verdicts []Verdict) (map[int64][]api.Instance, error) {
	found := map[int64][]api.Instance{}
	for chunk := range slices.Chunk(verdicts, 5000) {
		args := make([]any, len(chunk))
		for i, v := range chunk {
			args[i] = v.Listing
		}
		err := t.each(ctx, `SELECT listing_id, cluster, namespace, pod, container, node FROM instances WHERE listing_id IN (`+marks(len(args))+`)
			ORDER BY listing_id, cluster, namespace, pod, container`, args, func(scan func(...any) error) error {
			var id int64
			var i api.Instance
			err := scan(&id, &i.Cluster, &i.Namespace, &i.Pod, &i.Container, &i.Node)
			found[id] = append(found[id], i)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// Waiting is the number of pieces of work that an engine can do which has seen the
// changes up to a number.
func (t *Tx) Waiting(ctx context.Context, seen int64) (n int, err error) {
	return n, t.one(ctx, "SELECT COUNT(*) FROM work WHERE seq <= ?", []any{seen}, &n)
}

// Reclassify makes it necessary to classify everything, by engines that have seen the
// changes up to a number.
func (t *Tx) Reclassify(ctx context.Context, seen int64) error {
	_, err := t.exec(ctx, "INSERT INTO work (seq, at) VALUES (?, ?)", seen, t.at)
	return err
}

// ReclassifyCVE makes it necessary to classify what has a vulnerability, by its id
// or an alias, under a repository's name where that is not "".
func (t *Tx) ReclassifyCVE(ctx context.Context, cve, name string) error {
	seq, err := t.Head(ctx)
	if err != nil {
		return err
	}
	_, err = t.exec(ctx, `INSERT INTO work (seq, listing_id, at) SELECT CAST(? AS BIGINT), l.id, CAST(? AS TEXT) FROM terms
		JOIN image_terms x ON x.term_id = terms.id JOIN images i ON i.id = x.image_id JOIN listings l ON l.digest = i.digest WHERE terms.name = ? AND (CAST(? AS TEXT) = '' OR l.name = ?)`,
		seq, t.at, api.NormalizeID(cve), name, name)
	return err
}
