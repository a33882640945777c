package follow_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/server/follow"
	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/storetest"
)

// reasons asks why results are Unknown: a follower that runs, and one that starts anew.
type reasons struct {
	store   *store.Store
	clock   *clock
	running *follow.Follower
	begin   func() *follow.Follower
}

func newReasons(t *testing.T, address string) *reasons {
	c := &clock{now: day}
	r := &reasons{store: storetest.Open(t, address, c.Now), clock: c}
	r.begin = func() *follow.Follower {
		in := make(states, 1)
		in.put(t, "one", "")
		f := start(t, follow.Config{Store: storetest.Open(t, address, c.Now), Source: in, Now: c.Now})
		settle(t, f)
		return f
	}
	r.running = r.begin()
	return r
}

func (r *reasons) write(t *testing.T, fn func(*store.Tx) error) {
	t.Helper()
	r.clock.add(time.Minute)
	write(t, r.store, fn)
	settle(t, r.running)
}

func (r *reasons) add(t *testing.T, scan api.Scan) {
	t.Helper()
	scan.ScannedAt = r.clock.Now().Add(time.Minute)
	r.write(t, func(tx *store.Tx) error { _, err := tx.AddScan(t.Context(), scan); return err })
}

// why is the result, and why it is Unknown.
func (r *reasons) why(t *testing.T, e *engine.Engine, image string) string {
	t.Helper()
	raw, err := e.ExplainClassification(t.Context(), image, "", r.clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	var said struct {
		Result  api.Result
		Unknown api.UnknownCause
	}
	if err := json.Unmarshal(raw, &said); err != nil {
		t.Fatal(err)
	}
	return string(said.Result) + ": " + said.Unknown.Why
}

func (r *reasons) expect(t *testing.T, cluster, image, want string) {
	t.Helper()
	fresh := r.begin()
	for what, e := range map[string]*engine.Engine{"running": r.running.Engine(), "started anew": fresh.Engine()} {
		if cluster != "" {
			e = e.In(cluster)
		}
		if got := r.why(t, e, image); !strings.HasPrefix(got, "Unknown: ") || !strings.HasSuffix(got, want) {
			t.Errorf("%s, %s: %q, not %q", what, image, got, want)
		}
	}
}

// The error of a scan that failed is the reason of Unknown where its scope is read, until a good one
// comes, or the image is removed; a follower that starts anew says the same.
func TestFailuresAreReasons(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		r := newReasons(t, url())
		failed := func(image, digest, text string, scope api.Scope) api.Scan {
			scan := scanOf(image, 0, day)
			scan.Digest, scan.Error, scan.Scope = digest, text, scope
			return scan
		}
		r.add(t, failed("gone:1", "", "no such image", api.Scope{}))
		r.expect(t, "", "gone:1", "the last scan failed: no such image")
		r.expect(t, "", "gone:2", "no good scan of this tag is known")
		r.add(t, failed("gone:1", "", "denied", api.Scope{}))
		r.expect(t, "", "gone:1", "the last scan failed: denied")

		r.add(t, failed("broken:1", digest(3), "a broken layer", api.Scope{}))
		r.expect(t, "", "broken:1", "the last scan failed: a broken layer")
		r.expect(t, "", "broken@"+digest(3), "the last scan failed: a broken layer")
		r.expect(t, "", "other@"+digest(3), "no good scan of "+digest(3)[:19]+"… is known")
		long := "sha512:" + strings.Repeat("ab", 64)
		r.add(t, failed("broken:2", long, "a longer digest", api.Scope{}))
		r.expect(t, "", "broken@"+long, "the last scan failed: a longer digest")

		// However the host is written, it is one name.
		r.add(t, failed("Registry.example.com:443/odd:1", digest(5), "under a name", api.Scope{}))
		r.expect(t, "", "registry.example.com/odd:1", "the last scan failed: under a name")
		r.expect(t, "", "REGISTRY.example.com/odd@"+digest(5), "the last scan failed: under a name")

		// One of another registry is not of this name, one of a cluster not for all.
		r.add(t, failed("bounded:1", digest(4), "not its name", api.Scope{Registry: "evil.example.com"}))
		r.expect(t, "", "bounded@"+digest(4), "… is known")
		r.add(t, failed("bounded:1", digest(4), "in prod alone", api.Scope{Cluster: "prod"}))
		r.expect(t, "", "bounded@"+digest(4), "… is known")
		r.expect(t, "prod", "bounded@"+digest(4), "in prod alone")

		// A good scan ends it, and so does removing the image.
		r.add(t, scanOf("broken:1", 3, day))
		if got := r.why(t, r.running.Engine(), "broken:1"); got != "Pass: " {
			t.Errorf("after a good scan: %q", got)
		}
		r.write(t, func(tx *store.Tx) error { return tx.DeleteImage(t.Context(), digest(4)) })
		if got := r.why(t, r.running.Engine().In("prod"), "bounded@"+digest(4)); strings.Contains(got, "in prod alone") {
			t.Errorf("of an image that was removed: %q", got)
		}
	})
}

// An SBOM that is matched with no database yet is the reason of Unknown where its scope is read,
// under the name that it came by, until it is matched, comes by another name, or is removed.
func TestWaitingSBOMsAreReasons(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		const waits = "its SBOM is there, and was matched with no vulnerability database yet"
		r := newReasons(t, url())
		come := func(image string, n int, scope api.Scope) {
			t.Helper()
			scan := scanOf(image, n, time.Time{})
			scan.Scope, scan.Database = scope, nil
			r.write(t, func(tx *store.Tx) error {
				_, err := tx.AddSBOM(t.Context(), store.SBOM{Scan: scan, Format: "syft-json", Document: []byte("{}")})
				return err
			})
		}
		come("shop:1", 1, api.Scope{})
		r.expect(t, "", "shop:1", waits)
		r.expect(t, "", "shop@"+digest(1), waits)
		r.expect(t, "", "shop:2", "no good scan of this tag is known")
		r.expect(t, "", "other@"+digest(1), "… is known")
		come("registry-1.docker.io/renamed:1", 1, api.Scope{})
		r.expect(t, "", "renamed:1", waits)
		r.expect(t, "", "shop:1", "no good scan is known")

		come("bounded:1", 2, api.Scope{Cluster: "prod"})
		r.expect(t, "", "bounded@"+digest(2), "… is known")
		r.expect(t, "prod", "bounded@"+digest(2), waits)

		pieces, err := r.store.SBOMPieces(t.Context(), digest(1))
		if err != nil {
			t.Fatal(err)
		}
		r.write(t, func(tx *store.Tx) error {
			return tx.Matched(t.Context(), store.Matched{Piece: pieces[0], Checksum: "c", Built: day})
		})
		r.expect(t, "", "renamed:1", "no good scan is known")
		r.write(t, func(tx *store.Tx) error { return tx.DeleteImage(t.Context(), digest(2)) })
		r.expect(t, "prod", "bounded@"+digest(2), "is known")
	})
}
