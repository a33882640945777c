package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/storetest"
)

// What was stored before there were origins is of any, says so, and is found as it was.
func TestBeforeOrigins(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		ctx, at := t.Context(), url()
		blob := func(text string) string { return storetest.Packed(t, at, text) }
		const seen, received = "2026-01-01T00:00:00.000000000Z", "2025-12-31T00:00:00.000000000Z"
		header := fmt.Sprintf(`{"image":"nginx:1","digest":"%s","scanned_at":"2026-01-01T00:00:00Z","packages":3,"vulnerabilities":null,"result":""}`, digest("a"))
		storetest.Before(t, at, 8,
			"INSERT INTO images (id, digest, config_digest, platform, distro, scan_id, packages) VALUES (7, '"+digest("a")+"', '"+digest("c")+"', 'linux/amd64', 'debian 12', 1000, 3)",
			"INSERT INTO contents (id, sha256, document) VALUES (1000, 'x', "+blob(`[{"id":"CVE-2024-0001","package":"openssl","version":"3","type":"deb"}]`)+")",
			"INSERT INTO scans (id, image_id, reference, digest, source, scanned_at, database, checksum, stored_at, error, header, content_id) VALUES (1000, 7, 'docker.io/library/nginx:1', '"+digest("a")+"', 'registry', '"+seen+"', '', '', '"+seen+"', '', '"+header+"', 1000)",
			"INSERT INTO image_documents (image_id, document, details, cve, package) VALUES (7, '{\"at\":\""+seen+"\",\"db\":\"\",\"ids\":[],\"s\":[]}', "+blob("{}")+", '[]', '[]')",
			"INSERT INTO sboms (image_id, reference, sha256, format, header, document, received) VALUES (7, 'docker.io/library/nginx:1', 'y', 'syft-json', '"+header+"', "+blob("{}")+", '"+received+"')",
			"INSERT INTO matches (image_id) VALUES (7)",
			"INSERT INTO observations (name, tag, digest, first, last) VALUES ('docker.io/library/nginx', '1', '"+digest("a")+"', '"+received+"', '"+seen+"')",
			"INSERT INTO indexes (digest, platforms, at) VALUES ('"+digest("d")+"', '{\"linux/amd64\":\""+digest("a")+"\"}', '"+seen+"')",
			"INSERT INTO listings (id, image_id, digest, name, tag, registry, repository, image, source, result, scanned_at, first_seen, error) VALUES (3, 7, '"+digest("a")+"', 'docker.io/library/nginx', '1', 'docker.io/library', 'nginx', 'docker.io/library/nginx:1', 'registry', 'Warn', '"+seen+"', '"+seen+"', 'the last scan failed')",
			"INSERT INTO instances (cluster, namespace, pod, container, node, image, name, tag, digest, config_digest, listing_id, first_seen, last_seen) VALUES ('prod', 'n', 'p', 'c', 'n1', 'docker.io/library/nginx:1', 'docker.io/library/nginx', '1', '"+digest("a")+"', '', 3, '"+seen+"', '"+seen+"')",
			"INSERT INTO claims (digest, cluster, node, until, attempts, failed) VALUES ('"+digest("e")+"', 'prod', 'n1', '2999', 1, FALSE)",
		)
		s := storetest.Open(t, at, nil)
		evidence, disagree, err := s.Evidence(ctx, digest("a"))
		if err != nil || disagree || len(evidence) != 1 || !evidence[0].Scope.All() || evidence[0].Identity != "before origin" || !evidence[0].Found.Equal(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)) {
			t.Errorf("evidence %+v %v", evidence, err)
		}
		if scan, reader, err := s.Scan(ctx, digest("a"), "nginx:1", "prod"); err != nil || reader != "prod" || len(scan.Vulnerabilities) != 1 {
			t.Errorf("scan %+v %v", scan, err)
		}
		for _, cluster := range []string{"", "prod"} {
			list, err := s.Images(ctx, store.Filter{Cluster: cluster}, store.Page{})
			if err != nil || len(list.Items) != 1 || list.Items[0].Result != api.Warned || list.Items[0].Error != "the last scan failed" || list.Items[0].Differs {
				t.Errorf("list in %q: %+v %v", cluster, list, err)
			}
		}
		if pieces, err := s.SBOMPieces(ctx, digest("a")); err != nil || len(pieces) != 1 || pieces[0] != 7 {
			t.Errorf("pieces %v %v", pieces, err)
		} else if b, err := s.SBOM(ctx, 7); err != nil || b.Identity != "before origin" || !b.Scan.Found.Equal(time.Date(2025, 12, 31, 0, 0, 0, 0, time.UTC)) {
			t.Errorf("SBOM %+v %v", b.Scan, err)
		}
		if err := s.View(ctx, func(tx *store.Tx) error {
			names, indexes := 0, 0
			if err := tx.NewestNames(ctx, nil, nil, func(o store.Observation) error {
				if names++; o.Space != store.Shared || o.First != received || o.Last != seen {
					t.Errorf("observation %+v", o)
				}
				return nil
			}); err != nil {
				return err
			}
			if err := tx.Indexes(ctx, nil, func(x store.IndexDocument) error {
				if indexes++; x.Proven || x.Platforms["linux/amd64"] != digest("a") {
					t.Errorf("index %+v", x)
				}
				return nil
			}); err != nil {
				return err
			}
			if names != 1 || indexes != 1 {
				t.Errorf("%d names, %d indexes", names, indexes)
			}
			return tx.ImageDocuments(ctx, store.Within{Everywhere: true}, true, func(d store.ImageDocument) error {
				if d.Digest != digest("a") || d.Found != seen || d.Way != api.Uploaded {
					t.Errorf("document %+v", d)
				}
				return nil
			})
		}); err != nil {
			t.Error(err)
		}
		// What somebody with a scope hands in stands beside it, and goes without it.
		scan := scanOf("nginx:1", "a", day)
		scan.Scope = api.Scope{Cluster: "dev"}
		write(t, s, func(tx *store.Tx) error { _, err := tx.By("token:5").AddScan(ctx, scan); return err })
		if evidence, _, err := s.Evidence(ctx, digest("a")); err != nil || len(evidence) != 2 || evidence[1].Scope.Cluster != "dev" || evidence[1].Identity != "token:5" {
			t.Errorf("evidence %+v %v", evidence, err)
		}
		write(t, s, func(tx *store.Tx) error { return tx.Withdraw(ctx, "token:5") })
		if evidence, _, err := s.Evidence(ctx, digest("a")); err != nil || len(evidence) != 1 {
			t.Errorf("withdrawn: %+v %v", evidence, err)
		}
		write(t, s, func(tx *store.Tx) error { return tx.Withdraw(ctx, "before origin") })
		if evidence, _, err := s.Evidence(ctx, digest("a")); err != nil || len(evidence) != 0 {
			t.Errorf("all withdrawn: %+v %v", evidence, err)
		}
		if list, err := s.Images(ctx, store.Filter{}, store.Page{}); err != nil || len(list.Items) != 0 {
			t.Errorf("all withdrawn: %+v %v", list, err)
		}
	})
}

// A claim of one cluster, and its SBOM, leave the others to make theirs; within a group they do not.
func TestClaimsOfSpaces(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		s := storetest.Open(t, url(), nil)
		ctx := t.Context()
		claim := func(scope api.Scope, cluster string) (state store.ClaimState) {
			t.Helper()
			write(t, s, func(tx *store.Tx) error {
				list, err := tx.Claim(ctx, scope, cluster, "n1", []string{digest("a")}, time.Minute)
				if err == nil {
					state = list[0].State
				}
				return err
			})
			return state
		}
		dev, one, two := api.Scope{Cluster: "dev"}, api.Scope{Cluster: "one", Group: "prod"}, api.Scope{Cluster: "two", Group: "prod"}
		if got := []store.ClaimState{claim(dev, "dev"), claim(one, "one"), claim(two, "two")}; fmt.Sprint(got) != "[scan scan claimed]" {
			t.Errorf("claims %v", got)
		}
		add := func(scope api.Scope) {
			scan := scanOf("nginx:1", "a", day)
			scan.Scope = scope
			write(t, s, func(tx *store.Tx) error {
				_, err := tx.AddSBOM(ctx, store.SBOM{Scan: scan, Format: "syft-json", Document: []byte("{}")})
				return err
			})
		}
		add(dev)
		if got := []store.ClaimState{claim(dev, "dev"), claim(one, "one"), claim(two, "two")}; fmt.Sprint(got) != "[known scan claimed]" {
			t.Errorf("after the SBOM of dev: %v", got)
		}
		add(one)
		if got := []store.ClaimState{claim(one, "one"), claim(two, "two"), claim(api.Scope{}, "x")}; fmt.Sprint(got) != "[known known scan]" {
			t.Errorf("after the SBOM of the group: %v", got)
		}
	})
}
