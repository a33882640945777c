package store_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/storetest"
)

// week is a store with a clock of its own, and what its engine says of images.
type week struct {
	*testing.T
	*store.Store
	now time.Time
	// image and c are those of a sequence of steps.
	image, c string
	says     map[string]api.Result // by the digest's letter; else Fail
	seen     map[int64]bool
}

func newWeek(t *testing.T, url string) *week {
	w := &week{T: t, now: day, says: map[string]api.Result{}, seen: map[int64]bool{}}
	w.Store = storetest.Open(t, url, func() time.Time { return w.now })
	return w
}

func (w *week) do(fn func(*store.Tx) error) {
	w.Helper()
	write(w.T, w.Store, fn)
}

// by is what an identity does.
func (w *week) by(identity string, fn func(*store.Tx) error) {
	w.Helper()
	w.do(func(tx *store.Tx) error { return fn(tx.By(identity)) })
}

func (w *week) sbom(identity, image, c string, packages ...string) {
	w.Helper()
	scan := scanOf(image, c, w.now)
	scan.Database, scan.ScannedAt = nil, time.Time{}
	kept := store.SBOM{Scan: scan, Format: "syft-json", Document: []byte(fmt.Sprintf("%s %v", c, packages))}
	for _, p := range packages {
		kept.Packages = append(kept.Packages, store.Package{Name: p, Version: "1", Type: "deb"})
	}
	w.by(identity, func(tx *store.Tx) error { _, err := tx.AddSBOM(w.Context(), kept); return err })
}

func (w *week) scan(identity, image, c string, ids ...string) {
	w.Helper()
	w.by(identity, func(tx *store.Tx) error {
		_, err := tx.AddScan(w.Context(), scanOf(image, c, w.now.Add(-time.Second), ids...))
		return err
	})
}

// match is the server's own matching of the SBOM of a digest.
func (w *week) match(c string, ids ...string) {
	w.Helper()
	w.matched(c, "", ids...)
}

func (w *week) matched(c, fault string, ids ...string) {
	w.Helper()
	w.now = w.now.Add(time.Second)
	pieces, err := w.SBOMPieces(w.Context(), digest(c))
	if err != nil || len(pieces) != 1 {
		w.Fatalf("%d pieces, %v", len(pieces), err)
	}
	kept, err := w.SBOM(w.Context(), pieces[0])
	if err != nil {
		w.Fatal(err)
	}
	scan := scanOf(kept.Scan.Image, c, w.now, ids...)
	scan.Found, scan.Error = kept.Scan.Found, fault
	w.do(func(tx *store.Tx) error {
		if _, err := tx.By(kept.Identity).AddMatch(w.Context(), scan, kept.State.MatchedAt == ""); err != nil {
			return err
		}
		return tx.Matched(w.Context(), store.Matched{Piece: pieces[0], Checksum: "x", Matcher: "m", Built: day, Fault: fault})
	})
}

func (w *week) runs(cluster string, list ...store.Instance) {
	w.Helper()
	w.by("token:node", func(tx *store.Tx) error { return tx.SetInstances(w.Context(), cluster, "n1", list) })
}

func container(namespace, pod, image, c string) store.Instance {
	return store.Instance{Instance: api.Instance{Namespace: namespace, Pod: pod, Container: "c"}, Node: "n1", Image: image, Digest: digest(c)}
}

// classify does the work that waits.
func (w *week) classify() {
	w.Helper()
	w.do(func(tx *store.Tx) error {
		tasks, done, err := tx.Tasks(w.Context(), 1<<40, 1000, nil)
		if err != nil {
			return err
		}
		var verdicts []store.Verdict
		for _, task := range tasks {
			result := api.Fail
			for c, r := range w.says {
				if task.Digest == digest(c) {
					result = r
				}
			}
			if task.Digest == "" {
				result = api.Unknown
			}
			verdicts = append(verdicts, said(task, result, score(9)))
		}
		return tx.Classified(w.Context(), verdicts, done)
	})
}

// told are the events since it was asked last, in their order.
func (w *week) told() string {
	w.Helper()
	list, err := w.Events(w.Context(), store.EventFilter{}, store.Page{Limit: 100})
	if err != nil {
		w.Fatal(err)
	}
	var lines []string
	for _, e := range list.Items {
		if w.seen[e.ID] {
			continue
		}
		w.seen[e.ID] = true
		var places []string
		for _, i := range e.Instances {
			places = append(places, strings.Trim(strings.Join([]string{i.Cluster, i.Namespace, i.Pod, i.Node}, "/"), "/"))
		}
		line := fmt.Sprintf("%s %s %s>%s", e.Type, e.Tag, e.PreviousResult, e.Result)
		if e.Changed {
			line += " changed"
		}
		if len(e.CVE) > 0 {
			line += fmt.Sprint(" ", len(e.CVE)/2)
		}
		if len(places) > 0 {
			line += " in " + strings.Join(places, ",")
		}
		if e.Error != "" {
			line += " error " + e.Error
		}
		lines = append([]string{line}, lines...)
	}
	return strings.Join(lines, "; ")
}

func (w *week) want(what, want string) {
	w.Helper()
	if got := w.told(); got != want {
		w.Errorf("%s:\n got %s\nwant %s", what, got, want)
	}
}

const ci = "token:ci"

// An upload and the server's own matching of it are one event, whichever comes first and whenever results are computed.
func TestUploadIsOneEvent(t *testing.T) {
	parts := map[string]func(w *week){
		"sbom":     func(w *week) { w.sbom(ci, w.image, w.c, "openssl") },
		"match":    func(w *week) { w.match(w.c, "CVE-2024-0001") },
		"more":     func(w *week) { w.match(w.c, "CVE-2024-0001", "CVE-2024-0002") },
		"scan":     func(w *week) { w.scan(ci, w.image, w.c, "CVE-2024-0001") },
		"other":    func(w *week) { w.scan("token:other", w.image, w.c, "CVE-2024-0001") },
		"starts":   func(w *week) { w.runs(w.c, container("web", "p", w.image, w.c)) },
		"classify": func(w *week) { w.classify() },
		"pass":     func(w *week) { w.says[w.c] = api.Pass },
		"hour":     func(w *week) { w.now = w.now.Add(61 * time.Minute) },
		"day":      func(w *week) { w.now = w.now.Add(24 * time.Hour) },
	}
	sequences := []struct{ steps, want string }{
		{"scan classify", "image_detection 1 >Fail changed 1"},
		{"sbom match classify", "image_detection 1 >Fail changed 1"},
		{"sbom match scan classify", "image_detection 1 >Fail changed 1"},
		{"sbom match classify scan classify", "image_detection 1 >Fail changed 1"},
		{"sbom scan classify match classify", "image_detection 1 >Fail changed 1"},
		{"scan classify sbom match classify", "image_detection 1 >Fail changed 1"},
		{"scan sbom classify hour match classify", "image_detection 1 >Fail changed 1"},
		{"sbom scan classify match classify match classify", "image_detection 1 >Fail changed 1"},
		{"scan classify scan classify", "image_detection 1 >Fail changed 1; image_detection 1 Fail>Fail 1"},
		{"sbom match scan classify scan classify", "image_detection 1 >Fail changed 1; image_detection 1 Fail>Fail 1"},
		{"sbom match classify hour scan classify", "image_detection 1 >Fail changed 1; image_detection 1 Fail>Fail 1"},
		{"sbom match classify other classify", "image_detection 1 >Fail changed 1; image_detection 1 Fail>Fail 1"},
		{"sbom scan classify more classify", "image_detection 1 >Fail changed 2"},
		{"sbom scan classify pass match classify", "image_detection 1 >Pass changed 1"},
		{"sbom scan classify match classify more classify", "image_detection 1 >Fail changed 1; image_detection 1 Fail>Fail 2"},
		{"sbom scan classify starts classify match classify", "image_detection 1 >Fail changed 1; pod_detection 1 Fail>Fail 1 in *"},
		{"sbom scan classify day match classify", "image_detection 1 >Fail changed 1"},
		{"sbom match classify day match classify", "image_detection 1 >Fail changed 1; image_detection 1 Fail>Fail 1"},
	}
	storetest.Run(t, func(t *testing.T, url func() string) {
		var w *week
		for i, x := range sequences {
			if i%16 == 0 {
				w = newWeek(t, url())
			}
			w.c = fmt.Sprintf("%x", i%16)
			w.image = fmt.Sprintf("registry.example.com/app%d:1", i)
			for n, step := range strings.Fields(x.steps) {
				parts[step](w)
				if w.now = w.now.Add(2 * time.Second); t.Failed() {
					t.Fatalf("%s: at %d, %s", x.steps, n, step)
				}
			}
			w.want(x.steps, strings.ReplaceAll(x.want, "*", w.c+"/web/p/n1"))
		}
	})
}

// What the server matches again is an event where it changes what is known, else one a day.
func TestRematchesOfAWeek(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		w := newWeek(t, url())
		w.sbom(ci, "nginx:1", "a", "openssl")
		w.match("a", "CVE-2024-0001")
		w.classify()
		w.want("the upload", "image_detection 1 >Fail changed 1")
		for range 6 {
			for range 4 { // a database each six hours, that changes nothing
				w.now = w.now.Add(6 * time.Hour)
				w.match("a", "CVE-2024-0001")
				w.classify()
				w.match("a", "CVE-2024-0001")
				w.match("a", "CVE-2024-0001")
				w.classify()
			}
			w.want("a day", "image_detection 1 Fail>Fail 1")
		}
		w.now = w.now.Add(time.Minute)
		w.match("a", "CVE-2024-0001", "CVE-2024-0003")
		w.classify()
		w.want("another vulnerability", "image_detection 1 Fail>Fail 2")
		w.says["a"] = api.Warned
		w.match("a", "CVE-2024-0001", "CVE-2024-0003")
		w.classify()
		w.want("another result", "image_detection 1 Fail>Warn changed 2")
		w.says["a"] = api.Pass
		w.do(func(tx *store.Tx) error { return tx.Reclassify(t.Context(), 1) })
		w.classify()
		w.want("an exception", "image_detection 1 Warn>Pass changed 2")
		for range 3 {
			w.matched("a", "no such distribution")
			w.classify()
		}
		w.want("a matching that fails", "image_detection 1 Pass>Unknown error no such distribution")
	})
}

// A scan that failed is an event, with the containers that run what could not be scanned.
func TestFailedScansAreEvents(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		w := newWeek(t, url())
		w.runs("prod", container("web", "p", "nginx:1", "a"), container("web", "q", "registry.example.com/shop:2", "b"))
		w.classify()
		w.want("containers", "pod_detection 1 >Fail in prod/web/p/n1; pod_detection 2 >Fail in prod/web/q/n1")
		fails := func(scan api.Scan) {
			scan.Packages, scan.Error = 0, "unauthorized"
			w.by(ci, func(tx *store.Tx) error { _, err := tx.AddScan(t.Context(), scan); return err })
			w.classify()
		}
		fails(scanOf("nginx:1", "a", day))
		w.want("of a digest", "image_detection 1 Fail>Unknown in prod/web/p/n1 error unauthorized")
		unknown := scanOf("registry.example.com/shop:2", "a", day)
		unknown.Digest = ""
		fails(unknown)
		w.want("of a name", "image_detection 2 >Unknown changed in prod/web/q/n1 error unauthorized")
		unknown.Image = "registry.example.com/shop@" + digest("c")
		fails(unknown)
		w.want("of a name without tag", "image_detection  >Unknown changed error unauthorized")
	})
}

// An image that begins to run in a namespace, or ceases to run anywhere, is an event: not one that only runs more often.
func TestDetections(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		w := newWeek(t, url())
		step := func(what, want string, list ...store.Instance) {
			t.Helper()
			w.now = w.now.Add(time.Minute)
			w.runs("prod", list...)
			w.classify()
			w.want(what, want)
		}
		w.scan(ci, "nginx:1", "a", "CVE-2024-0001")
		w.classify()
		w.want("a scan in a pipeline", "image_detection 1 >Fail changed 1")
		one, two, other := container("web", "p", "nginx:1", "a"), container("web", "q", "nginx:1", "a"), container("shop", "p", "nginx:1", "a")
		step("a deployment", "pod_detection 1 Fail>Fail 1 in prod/web/p/n1", one)
		step("the same again", "", one)
		step("a second pod", "", one, two)
		step("the first one is gone", "", two)
		step("its place is taken", "", one)
		step("another namespace", "pod_detection 1 Fail>Fail 1 in prod/shop/p/n1", one, other)
		step("a namespace is left", "", other)
		step("and taken again", "pod_detection 1 Fail>Fail 1 in prod/web/p/n1", one, other)
		next := container("web", "p", "nginx:2", "b")
		w.says["b"] = api.Unknown
		step("another image", "pod_detection 2 >Unknown in prod/web/p/n1", next, other)
		step("all are gone", "pod_detection 1 Fail>Fail 1; pod_detection 2 Unknown>Unknown")
		w.now = w.now.Add(time.Minute)
		w.runs("prod", one)
		w.runs("prod")
		w.classify()
		w.want("what came and went before it was classified", "pod_detection 1 Fail>Fail 1 in prod/web; pod_detection 1 Fail>Fail 1")
		// A Pod that goes to another node, which says so first, began nowhere.
		w.runs("prod", one)
		w.classify()
		w.told()
		w.now = w.now.Add(time.Minute)
		moved := one
		moved.Node = "n2"
		w.by("token:node", func(tx *store.Tx) error { return tx.SetInstances(t.Context(), "prod", "n2", []store.Instance{moved}) })
		w.runs("prod")
		w.classify()
		w.want("a pod on another node", "")
	})
}

// What was stored before events had a type counts as before.
func TestEventsMigrate(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		at := url()
		a := documentsTime(day.Add(-time.Hour))
		storetest.Before(t, at, 14,
			fmt.Sprintf("INSERT INTO listings (id, digest, name, tag, registry, repository, image, source, result, scanned_at, first_seen, error) VALUES (7, '%s', 'docker.io/library/nginx', '1', 'docker.io/library', 'nginx', 'docker.io/library/nginx:1', 'registry', 'Fail', '%s', '%s', '')", digest("a"), a, a),
			fmt.Sprintf("INSERT INTO events (time, registry, repository, tag, digest, image, result, changed, cve, package, fixable, kev, error, instances) VALUES ('%s', 'docker.io/library', 'nginx', '1', '%s', 'docker.io/library/nginx:1', 'Fail', TRUE, '[]', '[]', FALSE, FALSE, '', '[]')", a, digest("a")))
		w := newWeek(t, at)
		w.want("events", "image_detection 1 >Fail changed")
		w.scan(ci, "nginx:1", "a")
		w.classify()
		w.want("a scan", "image_detection 1 Fail>Fail")
	})
}

func documentsTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000000Z") }
