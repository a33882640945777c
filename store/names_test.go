package store_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/storetest"
)

// However the host of a registry is written, there is one row of an image, one observation of a tag,
// and one name that is counted; what runs keeps what was written.
func TestOneNameForOneHost(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		ctx, s := t.Context(), storetest.Open(t, url(), nil)
		spellings := []string{"Registry.example.com/shop:1", "registry.example.com:443/shop:1", "registry.example.com/shop:1", "REGISTRY.example.com:0443/shop:1"}
		for i, image := range spellings {
			write(t, s, func(tx *store.Tx) error {
				_, err := tx.By("token:1").AddScan(ctx, scanOf(image, "a", day.AddDate(0, 0, i), "CVE-2024-0001"))
				return err
			})
		}
		write(t, s, func(tx *store.Tx) error {
			added, err := tx.By("token:2").AddScan(ctx, scanOf("registry.example.com:443/shop:1", "a", day, "CVE-2024-0001"))
			if added.New {
				t.Error("the very same scan under another spelling is new")
			}
			return err
		})
		write(t, s, func(tx *store.Tx) error {
			return tx.By("token:1").SetInstances(ctx, "prod", "", []store.Instance{{Instance: api.Instance{Cluster: "prod", Namespace: "n", Pod: "p", Container: "c"}, Image: "Registry.Example.com:443/shop:1", Digest: digest("a")}})
		})
		for _, f := range []store.Filter{{}, {Registry: "registry.example.com"}, {Reference: "registry.example.com/shop:1"}, {Within: "registry.example.com"}} {
			list, err := s.Images(ctx, f, store.Page{})
			if err != nil || len(list.Items) != 1 || list.Items[0].Image != "registry.example.com/shop:1" || list.Items[0].Registry != "registry.example.com" || list.Items[0].Repository != "shop" || list.Items[0].Instances != 1 {
				t.Errorf("%+v: %+v %v", f, list, err)
			}
		}
		running, err := s.Instances(ctx, store.Filter{}, store.Page{})
		if err != nil || len(running.Items) != 1 || running.Items[0].Image != "Registry.Example.com:443/shop:1" {
			t.Errorf("what runs: %+v %v", running, err)
		}
		if names, err := s.Names(ctx, "registry.example.com/shop", 10); err != nil || len(names) != 2 { // of all, and of the cluster
			t.Errorf("names: %+v %v", names, err)
		}
		if usage := usageOf(t, s, "token:1"); usage.Names != 1 || usage.Digests != 1 {
			t.Errorf("usage: %+v", usage)
		}
		// Who is bound to a registry speaks of its images, however both are written.
		scope, err := api.ParseScope("registry=Registry.example.com:443")
		if err != nil {
			t.Fatal(err)
		}
		scan := scanOf("REGISTRY.example.com/shop:1", "b", day)
		scan.Scope = scope
		write(t, s, func(tx *store.Tx) error { _, err := tx.By("token:3").AddScan(ctx, scan); return err })
		evidence, _, err := s.Evidence(ctx, digest("b"))
		if err != nil || len(evidence) != 1 || evidence[0].Scope.String() != "registry=registry.example.com" {
			t.Errorf("evidence: %+v %v", evidence, err)
		}
	})
}

// quoted is a text in SQL.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// What was stored under other spellings is found under the canonical names, as package api gives them.
func TestNamesMigrate(t *testing.T) {
	hosts := []string{"registry.example.com", "Registry.example.com", "registry.example.com:443", "registry.example.com:0443", "registry.example.com:8443", "Registry.example.com:08443", "docker.io", "Docker.io",
		"registry-1.docker.io", "registry.hub.docker.com:443", "index.docker.io:443", "docker.io:80", "localhost", "LOCALHOST:443", "localhost:05000", "Foo", "foo:443", "foo:80", "[FE80::1]:443", "[fe80::443]", "a.b:000", "10.0.0.1:443"}
	var statements []string
	add := func(format string, args ...any) { statements = append(statements, fmt.Sprintf(format, args...)) }
	want := map[string]bool{}
	for _, host := range hosts {
		for _, path := range []string{"shop", "shop/web", "library/nginx", strings.Repeat("p", 248)} {
			ref, err := api.ParseReference(host + "/" + path + ":1")
			if err != nil {
				continue
			}
			want[ref.Name()] = true
			add("INSERT INTO observations (name, tag, space, digest, identity, first, last) VALUES (%s, '1', '', '%s', 'x', '2', '3') ON CONFLICT DO NOTHING", quoted(ref.WrittenName()), digest("f"))
			add("INSERT INTO holdings (identity, kind, key) VALUES ('x', 'name', %s) ON CONFLICT DO NOTHING", quoted(ref.String()))
		}
	}
	const a, b = "2026-01-01T00:00:00.000000000Z", "2026-02-02T00:00:00.000000000Z"
	add("INSERT INTO usages (identity, digests, names, bytes) VALUES ('x', 0, 999, 0)")
	add("INSERT INTO contents (id, sha256, document) VALUES (1000, 'x', {{packed}})")
	add("INSERT INTO changes (kind, key, at) VALUES ('results', '', '%s')", b)
	add("INSERT INTO parts (name, seq) VALUES ('names', 1)")
	// An image under two spellings, in whose later row it failed and runs.
	add("INSERT INTO images (id, piece, digest, found) VALUES (7, '%[1]s', '%[1]s', '%[2]s')", digest("a"), a)
	add("INSERT INTO image_names (image_id, name) VALUES (7, 'Registry.example.com/shop'), (7, 'registry.example.com/shop')")
	for i, name := range []string{"Registry.example.com/shop", "registry.example.com/shop"} {
		add("INSERT INTO listings (id, image_id, digest, name, tag, registry, repository, image, source, result, scanned_at, first_seen, error, dismissed) VALUES (%d, 7, '%s', '%s', '1', 'r', 'shop', '%s:1', 's', 'Fail', '%s', '%s', '', %t)",
			3+i, digest("a"), name, name, []string{a, b}[i], []string{b, a}[i], i == 0)
		add("INSERT INTO scans (id, image_id, reference, digest, source, scanned_at, database, checksum, stored_at, error, header, content_id) VALUES (%d, 7, '%s:1', '%s', 's', '%s', '', '', '%s', '', '{}', 1000)", 20+i, name, digest("a"), a, a)
		add("INSERT INTO failures (listing_id, origin_id, identity, source, error, at) VALUES (%d, 1, 'x', 's', 'failure %d', '%s')", 3+i, i, []string{b, a}[i])
		add("INSERT INTO work (seq, listing_id, scan_id, at) VALUES (1, %d, %d, '%s')", 3+i, 20+i, a)
	}
	add("UPDATE images SET scan_id = 21 WHERE id = 7")
	add("INSERT INTO instances (cluster, namespace, pod, container, node, image, name, tag, digest, config_digest, listing_id, first_seen, last_seen) VALUES ('prod', 'n', 'p', 'c', '', 'registry.example.com/shop:1', 'registry.example.com/shop', '1', '%s', '', 4, '%s', '%s')", digest("a"), a, a)
	// Evidence of one scope under two spellings of its registry, of which the older has the SBOM.
	for i, registry := range []string{"Registry.example.com:443/shop", "registry.example.com/shop"} {
		add("INSERT INTO origins (id, space, registry) VALUES (%d, 'cluster:prod', '%s')", 100+i, registry)
		add("INSERT INTO images (id, piece, digest, origin_id, found) VALUES (%d, '%s %d', '%s', %d, '%s')", 50+i, digest("b"), 100+i, digest("b"), 100+i, []string{a, b}[i])
		add("INSERT INTO scans (id, image_id, reference, digest, source, scanned_at, database, checksum, stored_at, error, header, content_id, origin_id) VALUES (%d, %d, 'registry.example.com/shop:2', '%s', 's', '%s', '', '', '%s', '', '{}', 1000, %d)", 30+i, 50+i, digest("b"), []string{a, b}[i], b, 100+i)
		add("UPDATE images SET scan_id = %d WHERE id = %d", 30+i, 50+i)
		add("INSERT INTO indexes (digest, origin_id, platforms, at, identity) VALUES ('%s', %d, '{}', '%s', 'claim %d')", digest("d"), 100+i, []string{a, b}[i], i)
		add("INSERT INTO image_terms (term_id, image_id, found, later) VALUES (1, %d, '%s', FALSE)", 50+i, a)
	}
	// A failure under one spelling, and a scan under another one since.
	add("INSERT INTO failures (listing_id, origin_id, identity, source, error, at) VALUES (3, 100, 'x', 's', 'scanned since', '%s')", a)
	add("INSERT INTO scans (id, reference, digest, source, scanned_at, database, checksum, stored_at, error, header, content_id, origin_id) VALUES (40, 'registry.example.com/shop:1', '%s', 's', '%s', '', '', '%s', '', '{}', 1000, 101)", digest("a"), b, b)
	add("INSERT INTO terms (id, name, images) VALUES (1, 'CVE-2024-0001', 2)")
	add("INSERT INTO sboms (image_id, reference, sha256, format, header, document, received) VALUES (50, 'Registry.example.com:443/shop:2', 'y', 'syft-json', '{}', {{packed}}, '%s')", a)
	add("INSERT INTO matches (image_id) VALUES (50)")
	add("INSERT INTO exceptions (name, cve, scope, repository, expires, document) VALUES ('e', 'CVE-2024-0001', 'repo', 'Registry.example.com/shop', '', '{}')")

	storetest.Run(t, func(t *testing.T, url func() string) {
		ctx, at := t.Context(), url()
		packed := storetest.Packed(t, at, "[]")
		ready := make([]string, len(statements))
		for i, s := range statements {
			ready[i] = strings.ReplaceAll(s, "{{packed}}", packed)
		}
		storetest.Before(t, at, 13, ready...)
		s := storetest.Open(t, at, nil)
		read := func(query string) (rows []string) {
			t.Helper()
			if err := s.SelectRows(ctx, query, nil, func(scan func(...any) error) error {
				var text string
				err := scan(&text)
				rows = append(rows, text)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			slices.Sort(rows)
			return rows
		}
		var names, held []string
		for name := range want {
			names, held = append(names, name), append(held, name+":1")
		}
		slices.Sort(names)
		slices.Sort(held)
		if got := read("SELECT name FROM observations"); !slices.Equal(got, names) {
			t.Errorf("names\n%q, want\n%q", got, names)
		}
		if got := read("SELECT key FROM holdings WHERE kind = 'name'"); !slices.Equal(got, held) {
			t.Errorf("holdings\n%q, want\n%q", got, held)
		}
		for query, want := range map[string]string{
			"SELECT CAST(names AS TEXT) FROM usages":                                                                          fmt.Sprint(len(want)),
			"SELECT name || ' ' || registry || ' ' || repository || ' ' || image FROM listings WHERE id = 3":                  "registry.example.com/shop registry.example.com shop registry.example.com/shop:1",
			"SELECT first_seen || ' ' || scanned_at FROM listings":                                                            a + " " + b,
			"SELECT CAST(COUNT(*) AS TEXT) FROM listings WHERE dismissed":                                                     "0",
			"SELECT CAST(instances AS TEXT) FROM listings":                                                                    "1",
			"SELECT error FROM failures":                                                                                      "failure 0",
			"SELECT name || ' ' || image || ' ' || CAST(listing_id AS TEXT) FROM instances":                                   "registry.example.com/shop registry.example.com/shop:1 3",
			"SELECT name FROM image_names":                                                                                    "registry.example.com/shop",
			"SELECT CAST(scan_id AS TEXT) FROM images WHERE id = 7":                                                           "20",
			"SELECT CAST(id AS TEXT) || ' ' || reference FROM scans WHERE id < 30":                                            "20 registry.example.com/shop:1",
			"SELECT DISTINCT CAST(listing_id AS TEXT) || ' ' || CAST(scan_id AS TEXT) FROM work WHERE listing_id IS NOT NULL": "3 20",
			"SELECT CAST(COUNT(*) AS TEXT) FROM work WHERE listing_id IS NULL":                                                "1",
			"SELECT registry FROM origins WHERE id > 1":                                                                       "registry.example.com/shop",
			"SELECT CAST(id AS TEXT) || ' ' || piece FROM images WHERE id <> 7":                                               "51 " + digest("b") + " 100",
			"SELECT CAST(COUNT(*) AS TEXT) FROM scans WHERE image_id = 51 AND origin_id = 100":                                "2",
			"SELECT identity FROM indexes":                                                                                    "claim 1",
			"SELECT CAST(images AS TEXT) FROM terms":                                                                          "1",
			"SELECT CAST(image_id AS TEXT) || ' ' || reference FROM sboms":                                                    "51 registry.example.com/shop:2",
			"SELECT CAST(image_id AS TEXT) FROM matches":                                                                      "51",
			"SELECT repository FROM exceptions":                                                                               "registry.example.com/shop",
			"SELECT CAST(COUNT(*) AS TEXT) FROM parts WHERE seq = (SELECT MAX(seq) FROM changes WHERE kind = 'results')":      "1",
		} {
			if got := read(query); !slices.Equal(got, []string{want}) {
				t.Errorf("%s: %q, want %q", query, got, want)
			}
		}
	})
}
