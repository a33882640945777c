package rematch_test

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/server/rematch"
	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/storetest"
)

// TestUpgradeListsUnplaced: what an older version matched is matched again, though neither the database
// nor the day is another; the scan then says what could not be looked up, and the log lists the image. An SBOM that comes
// later, or is matched again later, is no news of the upgrade.
func TestUpgradeListsUnplaced(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		ctx := t.Context()
		f := newFleet(t, url(), 0)
		var log bytes.Buffer
		f.rematch = rematch.New(rematch.Config{Store: f.store, Databases: f.databases, Now: func() time.Time { return f.clock }, Log: slog.New(slog.NewTextHandler(&log, nil))})
		t.Cleanup(func() { _ = f.rematch.Close() })
		f.publish(map[string]advisory{"CVE-2026-1000": {id: "CVE-2026-1000", ecosystem: "Debian:12", name: "src1", fixed: "2-1", vector: vectors[1], published: "2026-01-01T00:00:00Z"}})
		add := func(n int, purl string) {
			t.Helper()
			text := `{"bomFormat":"CycloneDX","specVersion":"1.5","version":1,"components":[{"type":"library","name":"bin1","version":"1-1","purl":"` + purl + `","bom-ref":"a"}]}`
			kept, err := rematch.Decode(strings.NewReader(text), "registry.example/odd:1", digestOf(n))
			if err != nil {
				t.Fatal(err)
			}
			if err := f.store.Write(ctx, func(tx *store.Tx) error { _, err := tx.AddSBOM(ctx, kept); return err }); err != nil {
				t.Fatal(err)
			}
		}
		add(1, "pkg:deb/debian/bin1@1-1?upstream=src1")
		add(2, "pkg:deb/debian/bin1@1-1?distro=debian-12&upstream=src1")
		f.work()
		if strings.Contains(log.String(), "upgrade") {
			t.Errorf("SBOMs that came are news of an upgrade: %s", log.String())
		}
		unplaced := func(n int) []api.Unplaced {
			t.Helper()
			scan, _, err := f.store.Scan(ctx, digestOf(n), "", "")
			if err != nil {
				t.Fatal(err)
			}
			return scan.Unplaced
		}
		want := []api.Unplaced{{Packages: 1}}
		if got := unplaced(1); !slices.Equal(got, want) {
			t.Errorf("at first: %v", got)
		}

		// As an older version left it: the scan says nothing of it.
		db, err := f.databases.Open(ctx)
		if err != nil {
			t.Fatal(err)
		}
		info := db.Info
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		f.clock = f.clock.Add(time.Minute)
		for n := 1; n <= 2; n++ {
			pieces, err := f.store.SBOMPieces(ctx, digestOf(n))
			if err != nil {
				t.Fatal(err)
			}
			scan := api.Scan{Image: "registry.example/odd:1", Digest: digestOf(n), ScannedAt: f.clock, Packages: 1, Database: &info, Vulnerabilities: []api.Vulnerability{}}
			if err := f.store.Write(ctx, func(tx *store.Tx) error {
				if _, err := tx.AddScan(ctx, scan); err != nil {
					return err
				}
				return tx.Matched(ctx, store.Matched{Piece: pieces[0], Checksum: info.Checksum, Built: info.Built, Matcher: "1 older"})
			}); err != nil {
				t.Fatal(err)
			}
		}
		if got := unplaced(1); got != nil {
			t.Fatalf("as it was: %v", got)
		}
		f.clock = f.clock.Add(time.Minute)
		if matched := f.work(); len(matched) != 2 {
			t.Errorf("after the upgrade %v were matched", matched)
		}
		if got := unplaced(1); !slices.Equal(got, want) {
			t.Errorf("after the upgrade: %v", got)
		}
		if got := unplaced(2); got != nil {
			t.Errorf("of a known distribution: %v", got)
		}
		said := log.String()
		if strings.Count(said, "since the upgrade") != 1 || !strings.Contains(said, "nothing could be looked up for 1 package of no known distribution") || !strings.Contains(said, digestOf(1)) {
			t.Errorf("the log says %s", said)
		}
		f.clock = f.clock.Add(48 * time.Hour)
		if matched := f.work(); len(matched) != 2 || strings.Count(log.String(), "since the upgrade") != 1 {
			t.Errorf("later: %v, %s", matched, log.String())
		}
	})
}
