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

// The error of a scan that failed is the reason of Unknown where its scope is read, until a good one
// comes, or the image is removed; a follower that starts anew says the same.
func TestFailuresAreReasons(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		address := url()
		c := &clock{now: day}
		s := storetest.Open(t, address, c.Now)
		begin := func() *follow.Follower {
			in := make(states, 1)
			in.put(t, "one", "")
			f := start(t, follow.Config{Store: storetest.Open(t, address, c.Now), Source: in, Now: c.Now})
			settle(t, f)
			return f
		}
		running := begin()
		add := func(scan api.Scan) {
			t.Helper()
			c.add(time.Minute)
			scan.ScannedAt = c.Now()
			write(t, s, func(tx *store.Tx) error { _, err := tx.AddScan(t.Context(), scan); return err })
			settle(t, running)
		}
		why := func(e *engine.Engine, image string) string {
			t.Helper()
			raw, err := e.ExplainClassification(t.Context(), image, "", c.Now())
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
		expect := func(image, want string) {
			t.Helper()
			fresh := begin()
			for what, e := range map[string]*engine.Engine{"running": running.Engine(), "started anew": fresh.Engine()} {
				if got := why(e, image); !strings.HasPrefix(got, "Unknown: ") || !strings.HasSuffix(got, want) {
					t.Errorf("%s, %s: %q, not %q", what, image, got, want)
				}
			}
		}
		failed := func(image string, n int, text string, scope api.Scope) api.Scan {
			scan := scanOf(image, n, day)
			if n == 0 {
				scan.Digest = ""
			}
			scan.Error, scan.Scope = text, scope
			return scan
		}
		add(failed("gone:1", 0, "no such image", api.Scope{}))
		expect("gone:1", "the last scan failed: no such image")
		expect("gone:2", "not what its tag leads to")
		add(failed("gone:1", 0, "denied", api.Scope{}))
		expect("gone:1", "the last scan failed: denied")

		add(failed("broken:1", 3, "a broken layer", api.Scope{}))
		expect("broken:1", "the last scan failed: a broken layer")
		expect("broken@"+digest(3), "the last scan failed: a broken layer")
		expect("other@"+digest(3), "no good scan of "+digest(3)[:19]+"… is known")

		// One of another registry is not of this name, one of a cluster not for all.
		add(failed("bounded:1", 4, "not its name", api.Scope{Registry: "evil.example.com"}))
		expect("bounded@"+digest(4), "… is known")
		add(failed("bounded:1", 4, "in prod alone", api.Scope{Cluster: "prod"}))
		expect("bounded@"+digest(4), "… is known")
		if got := why(running.Engine().In("prod"), "bounded@"+digest(4)); !strings.HasSuffix(got, "in prod alone") {
			t.Errorf("in prod: %q", got)
		}

		// A good scan ends it, and so does removing the image.
		add(scanOf("broken:1", 3, day))
		if got := why(running.Engine(), "broken:1"); got != "Pass: " {
			t.Errorf("after a good scan: %q", got)
		}
		write(t, s, func(tx *store.Tx) error { return tx.DeleteImage(t.Context(), digest(4)) })
		settle(t, running)
		if got := why(running.Engine().In("prod"), "bounded@"+digest(4)); strings.Contains(got, "in prod alone") {
			t.Errorf("of an image that was removed: %q", got)
		}
	})
}
