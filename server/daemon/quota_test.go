package daemon_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/server"
	"github.com/assay-dev/assay/server/daemon"
	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/storetest"
)

// usage is what the list of tokens says that a token holds.
func (a tenant) usage() (u store.Usage) {
	a.t.Helper()
	_, _, text := a.send("GET", "/api/v1/tokens", a.admin, nil, nil)
	var list server.Items[server.ListedToken]
	if err := json.Unmarshal(text, &list); err != nil {
		a.t.Fatal(err)
	}
	for _, k := range list.Items {
		if float64(k.ID) == a.id {
			return k.Usage
		}
	}
	a.t.Fatal("the token is not listed")
	return u
}

// A token holds no more than its quota, by whatever way it hands things in, at the very boundary;
// others do not feel it, and what is removed makes room again.
func TestQuotas(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		at := url()
		with := func(c *daemon.Config) {
			c.Quotas = server.Quotas{Scoped: store.Quota{Digests: 10, Names: 10, Bytes: 1 << 20}, All: store.Quota{Digests: 40}}
		}
		w := start(t, at, with)
		now := time.Now().UTC().Add(-24 * time.Hour)
		ok := []int{200, 201, 202}
		full := func(a tenant, of, method, path string, body any) {
			t.Helper()
			before := a.usage()
			text := a.does(method, path, body, http.StatusInsufficientStorage)
			for _, want := range []string{of, fmt.Sprintf("token:%.0f", a.id), "--quota", "withdraw=true"} {
				if !strings.Contains(text, want) {
					t.Errorf("%s %s: the answer lacks %q: %s", method, path, want, text)
				}
			}
			if after := a.usage(); after != before {
				t.Errorf("%s %s: what was refused is counted: %+v, before %+v", method, path, after, before)
			}
		}
		name := func(n int) string { return fmt.Sprintf("evil.example.com/x:%d", n) }
		many := func(from, to int) (report api.ScanReport) {
			report.Schema = api.SchemaScan
			for n := from; n < to; n++ {
				report.Images = append(report.Images, scanned(name(n), n, now))
			}
			return report
		}
		scanner := func() tenant { // what is there already is not stored again, and not counted: each has scans of its own time
			now = now.Add(10 * time.Minute)
			return w.tenant("scanner", "registry=evil.example.com")
		}

		one := scanner() // one by one, and all at once: the same boundary
		for n := range 10 {
			one.does("POST", "/api/v1/scans", upload(scanned(name(n), n, now)), ok...)
		}
		full(one, "10 digests: 10 are held, and with this it would be 11", "POST", "/api/v1/scans", upload(scanned(name(10), 10, now)))
		one.does("POST", "/api/v1/scans", upload(scanned(name(3), 3, now.Add(time.Second))), ok...)
		if u := one.usage(); u.Digests != 10 || u.Names != 10 || u.Bytes < 10_000 || u.Bytes > 100_000 {
			t.Errorf("usage: %+v", u)
		}
		all := scanner()
		full(all, "digests", "POST", "/api/v1/scans", many(0, 11))
		if u := all.usage(); u != (store.Usage{}) {
			t.Errorf("what was refused is held: %+v", u)
		}
		all.does("POST", "/api/v1/scans", many(0, 10), ok...)

		index := scanner() // indexes are digests, and what they list are bytes
		for n := range 5 {
			scan := scanned(name(n), n, now)
			scan.Index = &api.Index{Digest: digest(100 + n), Platforms: map[string]string{"linux/amd64": digest(n)}}
			index.does("POST", "/api/v1/scans", upload(scan), ok...)
		}
		over := scanned(name(1), 1, now.Add(time.Second))
		over.Index = &api.Index{Digest: digest(200), Platforms: map[string]string{"linux/amd64": digest(1)}}
		full(index, "digests", "POST", "/api/v1/scans", upload(over))
		members := scanner()
		over.Index.Platforms = map[string]string{}
		for n := range 10_000 {
			over.Index.Platforms[fmt.Sprintf("linux/%d", n)] = digest(n)
		}
		full(members, "bytes", "POST", "/api/v1/scans", upload(over))

		names := scanner() // of one digest
		for n := range 10 {
			names.does("POST", "/api/v1/scans", upload(scanned(name(n), 1, now)), ok...)
		}
		full(names, "names", "POST", "/api/v1/scans", upload(scanned(name(10), 1, now)))
		failed := scanned(name(11), 1, now)
		failed.Error, failed.Packages, failed.Digest = "no", 0, ""
		full(names, "names", "POST", "/api/v1/scans", upload(failed))
		sbom := `{"bomFormat":"CycloneDX","specVersion":"1.5","components":[{"type":"library","name":"left-pad","version":"1.0.0","purl":"pkg:npm/left-pad@1.0.0"}]}`
		full(names, "names", "POST", "/api/v1/sboms?image="+name(12)+"&digest="+digest(1), sbom)

		bytes := scanner() // little to send, much to keep
		big := scanned(name(0), 0, now)
		for n := range 5_000 {
			big.Vulnerabilities = append(big.Vulnerabilities, api.Vulnerability{ID: fmt.Sprintf("CVE-2026-%05d", n), Package: "a", Version: "1", Type: "deb"})
		}
		full(bytes, "bytes", "POST", "/api/v1/scans", upload(big))
		for n := 0; ; n++ { // the same again and again
			scan := scanned(name(0), 0, now.Add(time.Duration(n)*time.Second))
			scan.Warnings = []string{strings.Repeat(fmt.Sprint(n), 20_000)}
			text := bytes.does("POST", "/api/v1/scans", upload(scan), 200, 201, 202, 507)
			if strings.Contains(text, "quota") {
				break
			}
			if n > 100 {
				t.Fatal("one digest takes any number of scans")
			}
		}

		node := w.tenant("node", "cluster=dev")
		claim := func(from, to int) string {
			var list []string
			for n := from; n < to; n++ {
				list = append(list, digest(n))
			}
			return mustJSON(map[string]any{"cluster": "dev", "node": "n", "digests": list})
		}
		runs := func(on string, from, to int) string {
			list := []any{}
			for n := from; n < to; n++ {
				list = append(list, map[string]any{"namespace": "n", "pod": fmt.Sprint("p", n), "container": "c", "image": fmt.Sprintf("shop.example.com/x:%d", n), "digest": digest(n)})
			}
			return mustJSON(map[string]any{"cluster": "dev", "node": on, "instances": list})
		}
		node.does("POST", "/api/v1/claims", claim(0, 10), 200)
		full(node, "digests", "POST", "/api/v1/claims", claim(10, 11))
		node.does("POST", "/api/v1/claims", claim(0, 10), 200)
		full(node, "digests", "PUT", "/api/v1/instances", runs("n", 8, 11))
		node.does("PUT", "/api/v1/instances", runs("n", 0, 10), 204)
		node.does("PUT", "/api/v1/instances", runs("n", 0, 10), 204)
		if u := node.usage(); u.Digests != 10 || u.Names != 10 {
			t.Errorf("a node that reports the same again: %+v", u)
		}
		pods := w.tenant("node", "cluster=pods")
		var list []any
		for n := range 2000 {
			list = append(list, map[string]any{"namespace": "n", "pod": fmt.Sprint("p", n), "container": "c", "image": name(1), "digest": digest(1)})
		}
		full(pods, "bytes", "PUT", "/api/v1/instances", mustJSON(map[string]any{"cluster": "pods", "node": "n", "instances": list}))
		other := w.tenant("node", "cluster=other")
		for n := range 2000 {
			status, _, text := w.send("PUT", "/api/v1/instances", other.token, nil, []byte(fmt.Sprintf(`{"cluster":"other","node":"n%d","instances":[]}`, n)))
			if status == http.StatusInsufficientStorage {
				break
			}
			if status != http.StatusNoContent || n == 1999 {
				t.Fatalf("node %d: %d %s", n, status, text)
			}
		}

		// At once, also by another replica of the same database.
		replicas := []*world{w}
		if store.Replicated(at) {
			second := start(t, at, with)
			second.admin = w.admin
			replicas = append(replicas, second)
		}
		hasty, good := scanner(), atomic.Int64{}
		var wait sync.WaitGroup
		for n := range 24 {
			wait.Go(func() {
				body, _ := json.Marshal(upload(scanned(name(n), n, now)))
				status, _, text := replicas[n%len(replicas)].send("POST", "/api/v1/scans", hasty.token, nil, body)
				switch {
				case status/100 == 2:
					good.Add(1)
				case status != http.StatusInsufficientStorage:
					t.Errorf("%d %s", status, text)
				}
			})
		}
		wait.Wait()
		if u := hasty.usage(); good.Load() != 10 || u.Digests != 10 || u.Names != 10 {
			t.Errorf("%d of 24 at once were taken: %+v", good.Load(), u)
		}

		// Others are not touched, and the administrator has a quota of his own.
		scanner().does("POST", "/api/v1/scans", many(0, 10), ok...)
		w.want(http.StatusInsufficientStorage, "POST", "/api/v1/scans", mustJSON(many(0, 41)))
		w.want(201, "POST", "/api/v1/scans", mustJSON(upload(scanned("shop.example.com/only:1", 300, now))))

		// What is removed makes room; the usage of others stays.
		before := one.usage()
		w.want(204, "DELETE", "/api/v1/images/"+digest(9), "")
		if u := one.usage(); u.Digests != 9 || u.Names != 10 || u.Bytes >= before.Bytes { // its name is that of another digest
			t.Errorf("after an image was deleted: %+v, before %+v", u, before)
		}
		one.does("POST", "/api/v1/scans", upload(scanned(name(9), 10, now)), ok...)
		full(one, "digests", "POST", "/api/v1/scans", upload(scanned(name(9), 11, now)))
		before = hasty.usage()
		w.want(204, "DELETE", fmt.Sprintf("/api/v1/tokens/%.0f?withdraw=true", all.id), "")
		if u := all.usage(); u != (store.Usage{}) {
			t.Errorf("withdrawn, and still held: %+v", u)
		}
		if u := hasty.usage(); u != before {
			t.Errorf("another token's withdrawal changes %+v to %+v", before, u)
		}
		_, _, metrics := w.send("GET", "/metrics", w.admin, nil, nil)
		for _, want := range []string{fmt.Sprintf(`assay_quota_used{identity="token:%.0f",quota="digests"} 10`, one.id), `assay_quota_refused_total{quota="names"} `, `assay_quota_refused_total{quota="bytes"} `} {
			if !strings.Contains(string(metrics), want) {
				t.Errorf("the metrics lack %s", want)
			}
		}
	})
}
