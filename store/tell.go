package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
)

// Parts of an upload that an event tells: a scan that was handed in, the server's own first matching
// of the SBOM beside it, or both; or a later matching.
const (
	partUpload  = "upload"
	partMatch   = "match"
	partBoth    = "both"
	partRematch = "rematch"
)

// uploadTakes is how long the parts of one upload may be apart: all SBOMs of a report are sent before it.
const uploadTakes = time.Hour

// event is one to be written.
type event struct {
	listing          int64
	kind             api.EventType
	result, previous api.Result
	changed          bool
	score            *float64
	source, fault    string
	instances        []api.Instance
	scan             int64
	part             string
}

// told is an event that was written, of this transaction or before.
type told struct {
	id                     int64  // 0: of this transaction
	event                  *event // nil: it was there
	time, source, identity string
	origin                 int64
	result, previous       api.Result
	score                  *float64
	part                   string
	same                   bool // all else of the image is as now
}

// teller gathers what a transaction tells.
type teller struct {
	*Tx
	write  []*event
	both   []any // ids of events that both parts of an upload are known of now
	remove []any // ids of events that others are in the place of
}

// tell writes the events of verdicts, whose results are written already. Docs/design/033 says what an event is.
func (t *Tx) tell(ctx context.Context, verdicts []Verdict) error {
	running, err := t.running(ctx, verdicts)
	if err != nil {
		return err
	}
	last, err := t.toldLast(ctx, verdicts, "COALESCE(x.error, '') = ''")
	if err != nil {
		return err
	}
	scans, err := t.toldLast(ctx, verdicts, "x.part <> ''")
	if err != nil {
		return err
	}
	w := &teller{Tx: t}
	for _, v := range verdicts {
		at, _ := v.worst()
		now := event{listing: v.Listing, kind: api.ImageDetection, result: v.Said[at].Result, score: v.Said[at].MaxCVSS, previous: v.Result, instances: running[v.Listing]}
		now.changed = now.result != now.previous
		before, scan := last[v.Listing], scans[v.Listing]
		if before != nil && scan != nil && before.id == scan.id {
			scan = before
		}
		known := false // what the result is was told
		for _, s := range v.Scans {
			if s.Error != "" { // the digest keeps the result of its last good scan
				if err := w.failed(ctx, v.Task, s, now.instances); err != nil {
					return err
				}
				continue
			}
			e := now
			e.source, e.scan = s.Source, s.ID
			if known {
				e.previous, e.changed = e.result, false
			}
			before, scan = w.scanned(s, e, before, scan)
			known = true
		}
		if now.changed && !known && now.previous != "" {
			w.write = append(w.write, &now)
		}
		for _, d := range v.Detections {
			e := now
			e.kind, e.changed, e.instances = api.PodDetection, false, d.instances(now.instances)
			if e.previous != "" {
				e.previous = e.result
			}
			w.write = append(w.write, &e)
		}
	}
	return w.flush(ctx)
}

// scanned tells a scan e of a task, unless that is no event of its own; before is the event of the image that was told
// last, scan that of a scan. It gives those for what comes then.
func (w *teller) scanned(s TaskScan, e event, before, scan *told) (*told, *told) {
	same := before != nil && before.same && before.result == e.result && orNone(before.score) == orNone(e.score)
	counterpart, since, part := partMatch, w.at, partUpload
	switch s.cause {
	case causeMatch:
		counterpart, since, part = partUpload, s.received, partMatch
	case causeRematch:
		counterpart, part = "", partRematch
	}
	upload := scan != nil && counterpart != "" && scan.part == counterpart && scan.identity == s.identity && scan.origin == s.origin && scan.time >= documents.Time(parseTime(since).Add(-uploadTakes))
	if upload {
		w.join(scan)
		if same {
			return before, scan
		}
		part = partBoth
		if scan == before { // nothing was told since: what it says now is in its place
			e.previous, e.changed = scan.previous, e.result != scan.previous
			if s.cause == causeMatch {
				e.source = scan.source
			}
			w.remove = append(w.remove, scan.id)
		}
	}
	if s.cause == causeRematch && same && scan != nil && scan.time[:len(time.DateOnly)] == w.at[:len(time.DateOnly)] {
		return before, scan
	}
	e.part = part
	w.write = append(w.write, &e)
	now := &told{event: &e, time: w.at, source: e.source, identity: s.identity, origin: s.origin, result: e.result, previous: e.previous, score: e.score, part: part, same: true}
	return now, now
}

// join says that both parts of an upload are in an event.
func (w *teller) join(scan *told) {
	scan.part = partBoth
	if scan.event != nil {
		scan.event.part = partBoth
	} else {
		w.both = append(w.both, scan.id)
	}
}

// failed tells a scan that failed. What the server cannot match is told once a day.
func (w *teller) failed(ctx context.Context, v Task, s TaskScan, running []api.Instance) error {
	if s.cause != "" {
		var known int
		err := w.one(ctx, "SELECT COUNT(*) FROM events WHERE listing_id = ? AND time >= ? AND error = ?", []any{v.Listing, w.at[:len(time.DateOnly)], s.Error}, &known)
		if err != nil || known > 0 {
			return err
		}
	}
	if v.Digest == "" { // what runs by the name may be what could not be scanned
		var err error
		if running, err = w.runningAs(ctx, v.Image); err != nil {
			return err
		}
	}
	w.write = append(w.write, &event{listing: v.Listing, kind: api.ImageDetection, result: api.Unknown, previous: v.Result, changed: v.Result == "", source: s.Source, fault: s.Error, instances: running, scan: s.ID})
	return nil
}

// instances are those of a place where an image began to run, none where it ceased to. Of a place that
// it has left since, no container is known.
func (d Detection) instances(running []api.Instance) (list []api.Instance) {
	if !d.Begins {
		return nil
	}
	for _, i := range running {
		if i.Cluster == d.Cluster && i.Namespace == d.Namespace {
			list = append(list, i)
		}
	}
	if list == nil {
		list = []api.Instance{{Cluster: d.Cluster, Namespace: d.Namespace}}
	}
	return list
}

// toldLast are the last events of listings, where those have scans to tell, for which a condition on x holds.
func (t *Tx) toldLast(ctx context.Context, verdicts []Verdict, where string) (map[int64]*told, error) {
	var rows [][]any
	for _, v := range verdicts {
		if len(v.Scans) > 0 {
			rows = append(rows, []any{v.Listing})
		}
	}
	found := map[int64]*told{}
	empty := "'[]'"
	for chunk := range slices.Chunk(rows, 2000) {
		clause, args := values("v", []string{"id"}, []string{"BIGINT"}, chunk)
		err := t.each(ctx, "WITH "+clause+` SELECT v.id, e.id, e.time, COALESCE(e.source, ''), e.result, COALESCE(e.previous_result, ''), e.max_cvss_score, e.part, COALESCE(s.identity, ''), COALESCE(s.origin_id, 0),
			CASE WHEN CAST(e.cve AS TEXT) = COALESCE(d.cve, `+empty+`) AND CAST(e.package AS TEXT) = COALESCE(d.package, `+empty+`) AND e.fixable = l.fixable AND e.kev = l.kev AND COALESCE(e.epss, -1) = COALESCE(l.epss, -1) THEN TRUE ELSE FALSE END
			FROM v JOIN listings l ON l.id = v.id JOIN events e ON e.id = (SELECT x.id FROM events x WHERE x.listing_id = v.id AND `+where+` ORDER BY x.id DESC LIMIT 1)
			LEFT JOIN scans s ON s.id = e.scan_id LEFT JOIN image_documents d ON d.image_id = l.image_id`, args, func(scan func(...any) error) error {
			var listing int64
			var e told
			err := scan(&listing, &e.id, &e.time, &e.source, &e.result, &e.previous, &e.score, &e.part, &e.identity, &e.origin, &e.same)
			found[listing] = &e
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// flush writes what was gathered.
func (w *teller) flush(ctx context.Context) error {
	for _, x := range []struct {
		statement string
		ids       []any
	}{{"UPDATE events SET part = '" + partBoth + "' WHERE id IN ", w.both}, {"DELETE FROM events WHERE id IN ", w.remove}} {
		for chunk := range slices.Chunk(x.ids, 5000) {
			if _, err := w.exec(ctx, x.statement+"("+marks(len(chunk))+")", chunk...); err != nil {
				return err
			}
		}
	}
	empty := "CAST('[]' AS " + w.json() + ")"
	for chunk := range slices.Chunk(w.write, 500) {
		rows := make([][]any, len(chunk))
		for i, e := range chunk {
			instances := "[]"
			if len(e.instances) > 0 {
				text, err := json.Marshal(e.instances)
				if err != nil {
					return fmt.Errorf("writing the instances: %w", err)
				}
				instances = string(text)
			}
			var scan any
			if e.scan != 0 {
				scan = e.scan
			}
			rows[i] = []any{i, e.listing, string(e.kind), string(e.result), string(e.previous), e.changed, e.score, e.source, e.fault, instances, scan, e.part}
		}
		clause, args := values("v", []string{"n", "id", "type", "result", "previous", "changed", "score", "source", "error", "instances", "scan_id", "part"},
			[]string{"BIGINT", "BIGINT", "TEXT", "TEXT", "TEXT", "BOOLEAN", "DOUBLE PRECISION", "TEXT", "TEXT", w.json(), "BIGINT", "TEXT"}, rows)
		if _, err := w.exec(ctx, `INSERT INTO events (time, type, registry, repository, tag, digest, image, result, previous_result, changed, max_cvss_score,
			cve, package, fixable, kev, epss, source, error, instances, listing_id, scan_id, part) WITH `+clause+`
			SELECT CAST(? AS TEXT), v.type, l.registry, l.repository, l.tag, l.digest, l.image, v.result, v.previous, v.changed, v.score,
			CASE WHEN v.error = '' THEN COALESCE(CAST(d.cve AS `+w.json()+`), `+empty+`) ELSE `+empty+` END,
			CASE WHEN v.error = '' THEN COALESCE(CAST(d.package AS `+w.json()+`), `+empty+`) ELSE `+empty+` END,
			l.fixable, l.kev, l.epss, CASE WHEN v.source = '' THEN l.source ELSE v.source END, v.error, v.instances, v.id, v.scan_id, v.part
			FROM v JOIN listings l ON l.id = v.id LEFT JOIN image_documents d ON d.image_id = l.image_id ORDER BY v.n`, append(args, w.at)...); err != nil {
			return err
		}
	}
	return nil
}

// runningAs are the instances that run a name, whatever digest it led to.
func (t *Tx) runningAs(ctx context.Context, image string) (list []api.Instance, err error) {
	ref, err := api.ParseReference(image)
	if err != nil || ref.Tag == "" {
		return nil, err
	}
	return list, t.each(ctx, "SELECT cluster, namespace, pod, container, node FROM instances WHERE name = ? AND tag = ? ORDER BY cluster, namespace, pod, container", []any{ref.Name(), ref.Tag}, func(scan func(...any) error) error {
		var i api.Instance
		err := scan(&i.Cluster, &i.Namespace, &i.Pod, &i.Container, &i.Node)
		list = append(list, i)
		return err
	})
}
