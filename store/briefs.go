package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/assay-dev/assay/api"
)

// Listing is a row of the list of images, as the order of actions needs it.
type Listing struct {
	ID, ImageID int64
	Image       string // the reference
	Name, Tag   string
	Digest      string
	Platform    string
	Result      api.Result
	// Judged grows each time that the engine classified it.
	Judged int64
	// Reader is the cluster that the engine is asked for to say the same; see [Image].
	Reader string
	// Brief names the state of the [Store.Briefs] of its image; 0 where it was never scanned.
	Brief int64
}

// Versions say when listings may have changed: two that are equal are of the same listings,
// results and briefs.
type Versions struct{ Head, Listings, Judged int64 }

// Versions are those of now.
func (t *Tx) Versions(ctx context.Context) (v Versions, err error) {
	if v.Head, err = t.Head(ctx); err != nil {
		return v, err
	}
	return v, t.one(ctx, "SELECT COUNT(*), COALESCE(SUM(judged), 0) FROM listings", nil, &v.Listings, &v.Judged)
}

// Judged are the numbers of classifications of all listings, by their ids: a listing, its
// result or its brief that changed was classified again.
func (t *Tx) Judged(ctx context.Context) (map[int64]int64, error) {
	judged := map[int64]int64{}
	return judged, t.each(ctx, "SELECT id, judged FROM listings", nil, func(scan func(...any) error) error {
		var id, n int64
		err := scan(&id, &n)
		judged[id] = n
		return err
	})
}

// Listings are those of some ids, by id, without those that were never scanned.
func (t *Tx) Listings(ctx context.Context, ids []int64) (list []Listing, err error) {
	slices.Sort(ids)
	for chunk := range slices.Chunk(ids, 2000) {
		args := make([]any, len(chunk))
		for i, id := range chunk {
			args[i] = id
		}
		// Of an image from before there were briefs, the scan itself is read.
		if err := t.each(ctx, `SELECT l.id, i.id, l.image, l.name, l.tag, l.digest, i.platform, l.result, l.judged, COALESCE(b.version, -i.scan_id), `+viewOf+`
			FROM listings l JOIN images i ON i.id = l.image_id LEFT JOIN briefs b ON b.image_id = i.id WHERE i.scan_id IS NOT NULL AND l.id IN (`+marks(len(args))+`) ORDER BY l.id`, args, func(scan func(...any) error) error {
			var l Listing
			err := scan(&l.ID, &l.ImageID, &l.Image, &l.Name, &l.Tag, &l.Digest, &l.Platform, &l.Result, &l.Judged, &l.Brief, &l.Reader)
			l.Reader = readerOf(l.Reader)
			list = append(list, l)
			return err
		}); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// Fitting are the ids of the listings that fit a filter.
func (t *Tx) Fitting(ctx context.Context, f Filter) (ids []int64, err error) {
	c, none, err := t.conditions(ctx, f)
	if err != nil || none {
		return nil, err
	}
	rows, args, err := t.rowsIn(ctx, f.Cluster)
	if err != nil {
		return nil, err
	}
	return ids, t.each(ctx, "SELECT l.id FROM "+rows+c.where(), append(args, c.args...), func(scan func(...any) error) error {
		var id int64
		err := scan(&id)
		ids = append(ids, id)
		return err
	})
}

// Containers are the numbers of containers that run each listing, by cluster; only those of
// a cluster and of a namespace where these are not "".
func (t *Tx) Containers(ctx context.Context, cluster, namespace string) (map[int64]map[string]int, error) {
	c := conditions{parts: []string{"listing_id IS NOT NULL"}}
	if cluster != "" {
		c.add("cluster = ?", clean(cluster))
	}
	if namespace != "" {
		c.add("namespace = ?", clean(namespace))
	}
	found := map[int64]map[string]int{}
	return found, t.each(ctx, "SELECT listing_id, cluster, COUNT(*) FROM instances"+c.where()+" GROUP BY listing_id, cluster", c.args, func(scan func(...any) error) error {
		var id int64
		var cluster string
		var n int
		if err := scan(&id, &cluster, &n); err != nil {
			return err
		}
		if found[id] == nil {
			found[id] = map[string]int{}
		}
		found[id][cluster] = n
		return nil
	})
}

// EachBrief calls fn with the newest scan of each of some images, without result and without
// what is only shown: descriptions, links and places.
func (t *Tx) EachBrief(ctx context.Context, images []int64, fn func(image int64, brief []byte) error) error {
	for chunk := range slices.Chunk(images, 1000) {
		missing := map[int64]bool{}
		args := make([]any, len(chunk))
		for i, id := range chunk {
			args[i], missing[id] = id, true
		}
		if err := t.each(ctx, "SELECT image_id, document FROM briefs WHERE image_id IN ("+marks(len(args))+")", args, func(scan func(...any) error) error {
			var id int64
			var document []byte
			if err := scan(&id, &document); err != nil {
				return err
			}
			delete(missing, id)
			return fn(id, document)
		}); err != nil {
			return err
		}
		for _, id := range chunk {
			if !missing[id] {
				continue
			}
			var newest int64
			err := t.one(ctx, "SELECT scan_id FROM images WHERE id = ? AND scan_id IS NOT NULL", []any{id}, &newest)
			if errors.Is(err, ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			scan, err := t.scan(ctx, newest)
			if err != nil {
				return err
			}
			document, err := briefOf(scan)
			if err != nil {
				return err
			}
			if err := fn(id, document); err != nil {
				return err
			}
		}
	}
	return nil
}

// Brief reads what [Tx.EachBrief] gave.
func Brief(document []byte) (scan api.Scan, err error) {
	text, err := decompress(document)
	if err == nil {
		err = json.Unmarshal(text, &scan)
	}
	if err != nil {
		return scan, fmt.Errorf("reading the brief of an image: %w", err)
	}
	return scan, nil
}

func briefOf(scan api.Scan) ([]byte, error) {
	// When it was scanned, and with what, is no part: a brief changes with what was found.
	brief := api.Scan{Digest: scan.Digest, Distro: scan.Distro, Layers: slices.Clone(scan.Layers), Base: scan.Base, Vulnerabilities: make([]api.Vulnerability, len(scan.Vulnerabilities))}
	for i := range brief.Layers {
		brief.Layers[i] = api.Layer{DiffID: brief.Layers[i].DiffID}
	}
	for i, v := range scan.Vulnerabilities {
		brief.Vulnerabilities[i] = api.Vulnerability{ID: v.ID, Aliases: v.Aliases, Package: v.Package, Version: v.Version, Type: v.Type, PURL: v.PURL, CVSS: v.CVSS, Severity: v.Severity,
			EPSS: v.EPSS, KEV: v.KEV, Layer: v.Layer, Fix: api.Fix{State: v.Fix.State, Versions: v.Fix.Versions}}
	}
	text, err := json.Marshal(brief)
	if err != nil {
		return nil, fmt.Errorf("writing the brief of an image: %w", err)
	}
	return compress(text), nil
}

// brief keeps the brief of an image's newest scan.
func (t *Tx) brief(ctx context.Context, image, id int64, scan api.Scan) error {
	document, err := briefOf(scan)
	if err != nil {
		return err
	}
	_, err = t.exec(ctx, `INSERT INTO briefs (image_id, version, document) VALUES (?, ?, ?)
		ON CONFLICT (image_id) DO UPDATE SET version = excluded.version, document = excluded.document WHERE briefs.document <> excluded.document`, image, id, document)
	return err
}
