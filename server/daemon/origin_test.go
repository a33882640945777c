package daemon_test

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	bundlesfollow "github.com/assay-dev/assay/bundles/follow"
	"github.com/assay-dev/assay/bundles/source"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/server/daemon"
	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/storetest"
)

// tenant is a token, and what it hands in.
type tenant struct {
	*world
	token string
	id    float64
}

func (w *world) tenant(role, scope string) tenant {
	w.t.Helper()
	made := w.want(201, "POST", "/api/v1/tokens", fmt.Sprintf(`{"name":%q,"role":%q,"scope":%q}`, role+" "+scope, role, scope))
	return tenant{w, made["token"].(string), made["id"].(float64)}
}

// withdraw ends all tokens but the administrator's, and removes what they handed in.
func (w *world) withdraw() {
	w.t.Helper()
	for _, k := range w.want(200, "GET", "/api/v1/tokens", "")["items"].([]any) {
		k := k.(map[string]any)
		if k["role"] != "admin" && k["revoked"] == nil {
			w.want(204, "DELETE", fmt.Sprintf("/api/v1/tokens/%.0f?withdraw=true", k["id"]), "")
		}
	}
}

// does sends as the tenant, and insists on one of the statuses.
func (a tenant) does(method, path string, body any, status ...int) string {
	a.t.Helper()
	text, ok := body.(string)
	if !ok {
		raw, err := json.Marshal(body)
		if err != nil {
			a.t.Fatal(err)
		}
		text = string(raw)
	}
	got, _, answer := a.send(method, path, a.token, nil, []byte(text))
	for _, s := range status {
		if got == s {
			return string(answer)
		}
	}
	a.t.Fatalf("%s %s: %d, want %v: %s", method, path, got, status, answer)
	return ""
}

func scanned(image string, n int, at time.Time, scores ...float64) api.Scan {
	scan := api.Scan{Image: image, Digest: digest(n), Source: "registry", Platform: "linux/amd64", ScannedAt: at, Packages: 1 + len(scores), Database: &api.ScanDatabase{Built: at, Checksum: "xxh64:1"}}
	for i, score := range scores {
		scan.Vulnerabilities = append(scan.Vulnerabilities, api.Vulnerability{ID: fmt.Sprintf("CVE-2026-%04d", i), Package: "openssl", Version: "3.0.1", Type: "deb", CVSS: &score, Severity: "High"})
	}
	return scan
}

func upload(scans ...api.Scan) api.ScanReport {
	return api.ScanReport{Schema: api.SchemaScan, Images: scans}
}

// said is what the API says of an image: by reference and digest, and as a Pod with it is admitted.
func (w *world) said(image, digest, cluster string) string {
	w.t.Helper()
	query := ""
	if cluster != "" {
		query = "?cluster=" + cluster
	}
	asked := map[string]string{"image": image}
	if digest != "" {
		asked["digest"] = digest
	}
	body, err := json.Marshal(asked)
	if err != nil {
		w.t.Fatal(err)
	}
	result := w.want(200, "POST", "/api/v1/classify"+query, string(body))["result"].(string)
	reference := image
	if digest != "" {
		name, _, _ := strings.Cut(image[strings.LastIndexByte(image, '/'):], ":")
		reference = image[:strings.LastIndexByte(image, '/')] + name + "@" + digest
	}
	allowed := w.want(200, "POST", "/api/v1/admit"+query, strings.ReplaceAll(pod, "nginx:1", reference))["allowed"].(bool)
	if want := result == "Pass" || result == "Warn"; allowed != want { // or it changed in between
		return fmt.Sprintf("%s, but admitted: %v", result, allowed)
	}
	return result
}

const (
	shop = "registry.example.com/shop:1" // Fail, digest 1
	fine = "registry.example.com/fine:1" // Warn, digest 2
	evil = "evil.example.com/x:1"
)

// Whatever somebody with a scope hands in counts within it, and nowhere else.
func TestOrigins(t *testing.T) {
	index := func(n int, platforms ...int) *api.Index {
		x := &api.Index{Digest: digest(n), Platforms: map[string]string{}}
		for i, p := range platforms {
			x.Platforms[[]string{"linux/amd64", "linux/arm64"}[i]] = digest(p)
		}
		return x
	}
	with := func(s api.Scan, change func(*api.Scan)) api.Scan { change(&s); return s }
	sbom := func(n int) string {
		return fmt.Sprintf(`{"bomFormat":"CycloneDX","specVersion":"1.5","metadata":{"component":{"type":"container","name":"shop","version":%q}},"components":[{"type":"library","name":"left-pad","version":"1.0.0","purl":"pkg:npm/left-pad@1.0.0"}]}`, digest(n))
	}
	type place struct{ image, digest, cluster string }
	type attack struct {
		name   string
		do     func(evil, dev tenant, now time.Time)
		within map[place]string // what it changes
	}
	attacks := []attack{
		{"a: a clean scan of the digest under a name of another registry", func(e, _ tenant, now time.Time) {
			e.does("POST", "/api/v1/scans", upload(scanned(evil, 1, now)), 201)
		}, map[place]string{{evil, digest(1), ""}: "Pass"}},
		{"a: with a time ahead, and then rematched", func(e, _ tenant, now time.Time) {
			e.does("POST", "/api/v1/scans", upload(scanned(evil, 1, now.Add(9*time.Minute))), 201)
			e.does("POST", "/api/v1/scans", upload(scanned(evil, 1, now.Add(9*time.Minute+time.Second))), 201)
		}, map[place]string{{evil, digest(1), "prod"}: "Pass"}},
		{"b: the digest is called an index", func(e, _ tenant, now time.Time) {
			e.does("POST", "/api/v1/scans", upload(with(scanned(evil, 9, now), func(s *api.Scan) { s.Index = index(1, 9) })), 201)
		}, map[place]string{{evil, digest(9), ""}: "Pass"}},
		{"b: in a cluster", func(_, d tenant, now time.Time) {
			d.does("POST", "/api/v1/scans", upload(with(scanned(shop, 9, now), func(s *api.Scan) { s.Index = index(1, 9) })), 201)
		}, map[place]string{{shop, digest(1), "dev"}: "Pass", {shop, "", "dev"}: "Pass"}},
		{"c: an SBOM of one package", func(_, d tenant, now time.Time) {
			d.does("POST", "/api/v1/sboms?image="+shop+"&digest="+digest(1), sbom(1), 202)
		}, nil},
		{"c: a clean scan of the digest in another cluster", func(_, d tenant, now time.Time) {
			d.does("POST", "/api/v1/scans", upload(scanned(shop, 1, now)), 201)
		}, map[place]string{{shop, digest(1), "dev"}: "Pass", {shop, "", "dev"}: "Pass"}},
		{"d: the tag leads elsewhere in another cluster", func(_, d tenant, now time.Time) {
			n := d.tenantOf("node", "cluster=dev")
			n.does("PUT", "/api/v1/instances", fmt.Sprintf(`{"cluster":"dev","instances":[{"namespace":"n","pod":"p","container":"c","image":%q,"digest":%q}]}`, shop, digest(2)), 204)
		}, map[place]string{{shop, "", "dev"}: "Warn"}},
		{"d: by a scan in another cluster", func(_, d tenant, now time.Time) {
			d.does("POST", "/api/v1/scans", upload(scanned(shop, 8, now)), 201)
		}, map[place]string{{shop, "", "dev"}: "Pass", {shop, digest(8), "dev"}: "Pass"}},
		{"e: the inventory of another cluster", func(e, d tenant, now time.Time) {
			body := `{"cluster":"prod","instances":[]}`
			e.does("PUT", "/api/v1/instances", body, 403)
			d.does("PUT", "/api/v1/instances", body, 403)
			d.tenantOf("node", "cluster=dev").does("PUT", "/api/v1/instances", body, 403)
		}, nil},
		{"f: a decision of another cluster", func(e, d tenant, now time.Time) {
			body := `{"items":[{"uid":"forged","cluster":"prod","at":"2026-01-01T00:00:00Z","record":{"schema":"assay.dev/record/v1","input":{"schema":"assay.dev/review/v1","now":"x","operation":"CREATE","group":"","kind":"Pod","subresource":"","namespace":"n","name":"p","labels":{},"namespaceLabels":{},"user":"u","owner":null,"hasOld":false,"oldDeleting":false,"templateChanged":false,"containers":[],"oldImages":[],"malformed":[]},"decision":{"kind":"Pod","name":"p","allowed":true,"judged":true,"images":[]}}}]}`
			e.does("POST", "/api/v1/decisions", body, 403)
			d.tenantOf("webhook", "cluster=dev").does("POST", "/api/v1/decisions", body, 403)
		}, nil},
		{"g: a scan that failed, with a time ahead", func(_, d tenant, now time.Time) {
			d.does("POST", "/api/v1/scans", upload(with(scanned(fine, 2, now.Add(9*time.Minute)), func(s *api.Scan) { s.Error = "damaged" })), 201)
		}, nil},
		{"g: of a digest that nobody scanned", func(_, d tenant, now time.Time) {
			d.does("POST", "/api/v1/scans", upload(with(scanned(fine, 7, now.Add(9*time.Minute)), func(s *api.Scan) { s.Error = "damaged" })), 201)
		}, map[place]string{{fine, "", "dev"}: "Unknown"}},
		{"a scan in the name of another scope", func(e, _ tenant, now time.Time) {
			e.does("POST", "/api/v1/scans", upload(with(scanned(evil, 1, now), func(s *api.Scan) { s.Scope = api.Scope{}; s.Way = api.Attested })), 201)
			e.does("POST", "/api/v1/scans", upload(with(scanned(evil, 2, now), func(s *api.Scan) { s.Scope = api.Scope{Registry: "registry.example.com"} })), 201)
			e.does("POST", "/api/v1/scans", upload(scanned(shop, 1, now)), 403)
		}, map[place]string{{evil, digest(1), ""}: "Pass", {evil, digest(2), "prod"}: "Pass"}},
		{"worse in another cluster", func(_, d tenant, now time.Time) {
			d.does("POST", "/api/v1/scans", upload(scanned(fine, 2, now, 10, 10)), 201)
		}, map[place]string{{fine, "", "dev"}: "Fail", {fine, digest(2), "dev"}: "Fail"}},
	}
	storetest.Run(t, func(t *testing.T, url func() string) {
		database, folder, data := url(), policiesFolder(t), t.TempDir()
		begin := func() *world {
			return start(t, database, func(c *daemon.Config) { c.Data, c.Source = data, source.Folder{Path: folder, Log: c.Log} })
		}
		w := begin()
		replica := w
		if store.Replicated(database) {
			replica = begin()
		}
		earlier := time.Now().UTC().Add(-time.Hour)
		w.want(201, "POST", "/api/v1/scans", mustJSON(upload(scanned(shop, 1, earlier, 9.8), scanned(fine, 2, earlier, 7.5))))
		var places []place
		for _, image := range []string{shop, fine, evil} {
			for _, n := range []string{"", digest(1), digest(2), digest(9)} {
				for _, cluster := range []string{"", "prod", "dev"} {
					places = append(places, place{image, n, cluster})
				}
			}
		}
		before := map[place]string{}
		for _, p := range places {
			before[p] = w.said(p.image, p.digest, p.cluster)
		}
		for _, attack := range attacks {
			attack.do(w.tenant("scanner", "registry=evil.example.com"), w.tenant("scanner", "cluster=dev"), time.Now().UTC())
			for in, w := range map[string]*world{"at once": w, "in another replica": replica} {
				for p, want := range attack.within {
					w.until(fmt.Sprintf("%s: %s: within the scope %v is %s", attack.name, in, p, want), func() bool { return w.said(p.image, p.digest, p.cluster) == want })
				}
				for _, p := range places {
					if strings.HasPrefix(p.image, "evil.") || p.cluster == "dev" {
						continue
					}
					if got := w.said(p.image, p.digest, p.cluster); got != before[p] {
						t.Errorf("%s: %s: %v is %s, and was %s", attack.name, in, p, got, before[p])
					}
				}
			}
			w.withdraw()
			for _, p := range places {
				if got := w.said(p.image, p.digest, p.cluster); got != before[p] {
					t.Errorf("%s: withdrawn: %v is %s, and was %s", attack.name, p, got, before[p])
				}
			}
		}
		admin := w.admin
		w.stop()
		anew := begin() // reads all of it again
		anew.admin = admin
		for _, p := range places {
			if got := anew.said(p.image, p.digest, p.cluster); got != before[p] {
				t.Errorf("started anew, %v is %s, and was %s", p, got, before[p])
			}
		}
	})
}

// tenantOf is another token.
func (a tenant) tenantOf(role, scope string) tenant { return a.world.tenant(role, scope) }

func mustJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// A cluster that pulled an old image again does not say that the tag leads there again, and
// reporting everything anew says nothing new of tags at all.
func TestTagsWhenFirstSeen(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		folder := policiesFolder(t)
		w := start(t, url(), func(c *daemon.Config) { c.Source = source.Folder{Path: folder, Log: c.Log} })
		old := mustJSON(map[string]any{"cluster": "prod", "instances": []any{map[string]any{"namespace": "n", "pod": "p", "container": "c", "image": shop, "digest": digest(2)}}})
		w.want(204, "PUT", "/api/v1/instances", old)
		time.Sleep(1100 * time.Millisecond)
		at := time.Now().UTC()
		w.want(201, "POST", "/api/v1/scans", mustJSON(upload(scanned(shop, 1, at, 9.8), scanned(fine, 2, at, 7.5))))
		if got := w.said(shop, "", "prod"); got != "Fail" {
			t.Fatalf("the tag was moved, and it is %s", got)
		}
		w.want(204, "PUT", "/api/v1/instances", old)
		if got := w.said(shop, "", "prod"); got != "Fail" {
			t.Errorf("reported again, it is %s", got)
		}
	})
}

// In the chart's default, where each cluster has agents of its own, lists show what the clusters
// know, at worst; clusters of a group share it.
func TestListsOfClusters(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		folder := policiesFolder(t)
		w := start(t, url(), func(c *daemon.Config) { c.Source = source.Folder{Path: folder, Log: c.Log} })
		at := time.Now().UTC().Add(-time.Minute)
		row := func(query string) map[string]any {
			t.Helper()
			items := w.want(200, "GET", "/api/v1/images?search=shop"+query, "")["items"].([]any)
			if len(items) != 1 {
				t.Fatalf("%s: %v", query, items)
			}
			return items[0].(map[string]any)
		}
		dev, one, two := w.tenant("scanner", "cluster=dev"), w.tenant("scanner", "cluster=one,group=prod"), w.tenant("node", "cluster=two,group=prod")
		dev.does("POST", "/api/v1/scans", upload(scanned(shop, 1, at)), 201)
		if r := row(""); r["result"] != "Pass" || r["differs"] != nil {
			t.Errorf("known in one cluster: %v", r)
		}
		one.does("POST", "/api/v1/scans", upload(scanned(shop, 1, at, 9.8)), 201)
		if r := row(""); r["result"] != "Fail" || r["differs"] != true {
			t.Errorf("two clusters differ: %v", r)
		}
		for cluster, want := range map[string]string{"dev": "Pass", "one": "Fail", "two": "Fail", "other": "Unknown"} {
			if got := w.said(shop, digest(1), cluster); got != want {
				t.Errorf("in %s it is %s, not %s", cluster, got, want)
			}
			view := w.want(200, "GET", "/api/v1/images/"+digest(1)+"?cluster="+cluster, "")
			scan, _ := view["scan"].(map[string]any)
			if want != "Unknown" && (scan == nil || scan["result"] != want) {
				t.Errorf("the image in %s: %v", cluster, scan)
			}
			if len(view["evidence"].([]any)) != 2 || view["disagree"] != true {
				t.Errorf("evidence: %v", view["evidence"])
			}
		}
		two.does("PUT", "/api/v1/instances", fmt.Sprintf(`{"cluster":"two","instances":[{"namespace":"n","pod":"p","container":"c","image":%q,"digest":%q}]}`, shop, digest(1)), 204)
		if r := row("&cluster=two"); r["result"] != "Fail" {
			t.Errorf("in the list of cluster two: %v", r)
		}
		events := w.want(200, "GET", "/api/v1/events?digest="+digest(1), "")["items"].([]any)
		told := false
		for _, e := range events {
			told = told || e.(map[string]any)["source"] == "origins"
		}
		if !told {
			t.Errorf("no event tells that the origins disagree: %v", events)
		}
	})
}

// Webhooks follow what all clusters share, and their own cluster's: what they decide is what the API says.
func TestFollowedByClusters(t *testing.T) {
	private, public, err := bundles.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := bundles.ParseSigningKey(private)
	if err != nil {
		t.Fatal(err)
	}
	verifies, err := bundles.ParseVerificationKey(public)
	if err != nil {
		t.Fatal(err)
	}
	folder := policiesFolder(t)
	w := start(t, filepath.Join(t.TempDir(), "assay.db"), func(c *daemon.Config) { c.Source, c.Key = source.Folder{Path: folder, Log: c.Log}, key })
	at := time.Now().UTC().Add(-time.Minute)
	w.want(201, "POST", "/api/v1/scans", mustJSON(upload(scanned(shop, 1, at, 9.8), scanned(fine, 2, at, 7.5))))
	dev, e, member := w.tenant("scanner", "cluster=dev"), w.tenant("scanner", "registry=evil.example.com"), w.tenant("scanner", "cluster=one,group=eu")
	follows := func(cluster, scope string, groups ...string) *engine.Engine {
		t.Helper()
		hook := w.tenant("webhook", scope)
		file := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(file, []byte(hook.token), 0o600); err != nil {
			t.Fatal(err)
		}
		decides := engine.New(engine.Config{})
		f, err := bundlesfollow.New(bundlesfollow.Config{URL: w.base, TokenFile: file, Keys: []*bundles.VerificationKey{verifies}, View: documents.PartCluster(cluster), Parts: append(bundles.Parts(), documents.ClusterParts(cluster, groups)...), Persist: t.TempDir(),
			Load: func(ctx context.Context, changed iter.Seq2[*bundle.Bundle, error]) error {
				return decides.ReplaceEach(ctx, changed)
			}, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { f.Restore(ctx); done <- f.Run(ctx) }()
		t.Cleanup(func() { cancel(); <-done })
		w.until("the bundles of "+cluster, func() bool { return f.Ready() == nil })
		for _, other := range []string{"head-cluster-other", "cluster-other", "cluster-other/images-00", "group-other/images-00"} {
			hook.does("GET", "/bundles/"+other, "", 403)
		}
		return decides
	}
	engines := map[string]*engine.Engine{"dev": follows("dev", "cluster=dev"), "prod": follows("prod", "cluster=prod"), "two": follows("two", "cluster=two,group=eu", "eu")}
	check := func(what string) {
		t.Helper()
		for cluster, decides := range engines {
			for _, image := range []string{shop, fine, evil} {
				for _, d := range []string{"", digest(1), digest(2)} {
					want := w.said(image, d, cluster)
					got := api.Result("")
					w.until(fmt.Sprintf("%s: %s@%s in %s is %s", what, image, d, cluster, want), func() bool {
						c, err := decides.Classify(t.Context(), image, d, time.Now())
						got = c.Result
						return err == nil && string(got) == want
					})
				}
			}
		}
	}
	check("at first")
	dev.does("POST", "/api/v1/scans", upload(scanned(shop, 1, time.Now().UTC())), 201)
	e.does("POST", "/api/v1/scans", upload(scanned(evil, 1, time.Now().UTC())), 201)
	check("clean scans")
	if dev, prod := w.said(shop, "", "dev"), w.said(shop, "", "prod"); dev != "Pass" || prod != "Fail" {
		t.Errorf("in dev it is %s, in prod %s", dev, prod)
	}
	member.does("POST", "/api/v1/scans", upload(scanned(fine, 2, time.Now().UTC(), 10)), 201)
	check("in a group")
	if two, prod := w.said(fine, digest(2), "two"), w.said(fine, digest(2), "prod"); two != "Fail" || prod != "Warn" {
		t.Errorf("in the group it is %s, in prod %s", two, prod)
	}
	dev.does("POST", "/api/v1/scans", upload(scanned(shop, 1, time.Now().UTC(), 9.8)), 201)
	check("found again")
}
