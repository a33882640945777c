package daemon_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/server"
	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/storetest"
)

// A token of a cluster is told what the tags of a name led to there: digests of images that run, of indexes that
// lead to one, and what the cluster saw itself; never what others saw, nor of images that run elsewhere alone.
func TestNamesOfClusters(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		w := start(t, url(), nil)
		now := time.Now().UTC().Add(-time.Minute)
		const name = "registry.example.com/multi"
		indexed := func(tag, index, n int) api.Scan {
			s := scanned(fmt.Sprintf("%s:%d", name, tag), n, now)
			s.Index = &api.Index{Digest: digest(index), Platforms: map[string]string{"linux/amd64": digest(n), "linux/arm64": digest(n + 100)}}
			return s
		}
		w.want(201, "POST", "/api/v1/scans", mustJSON(upload(indexed(1, 51, 1), indexed(2, 52, 2), scanned(name+":3", 3, now), scanned(name+":4", 4, now))))
		for cluster, n := range map[string][]int{"prod": {1, 3}, "dev": {2, 4}} {
			var list []any
			for _, n := range n { // by digest: what it runs as says nothing of tags
				list = append(list, map[string]any{"namespace": "n", "pod": fmt.Sprint("p", n), "container": "c", "image": name + "@" + digest(n), "digest": digest(n)})
			}
			w.want(204, "PUT", "/api/v1/instances", mustJSON(map[string]any{"cluster": cluster, "node": "n", "instances": list}))
		}
		for _, cluster := range []string{"prod", "dev"} { // what each saw, of an index that it alone claims
			n := map[string]int{"prod": 5, "dev": 6}[cluster]
			w.tenant("scanner", "cluster="+cluster).does("POST", "/api/v1/scans", upload(indexed(n, 50+n, n)), 201)
		}
		told := func(scope string) (list []string) {
			t.Helper()
			token := w.want(201, "POST", "/api/v1/tokens", fmt.Sprintf(`{"name":"x","role":"viewer","scope":%q}`, scope))["token"].(string)
			status, _, text := w.send("GET", "/api/v1/names?image="+name, token, nil, nil)
			var items server.Items[store.NameObservation]
			if err := json.Unmarshal(text, &items); err != nil || status != http.StatusOK {
				t.Fatalf("%s: %d %s", scope, status, text)
			}
			for _, o := range items.Items {
				for n := range 100 {
					if o.Digest == digest(n) {
						list = append(list, fmt.Sprintf("%s→%d", strings.TrimPrefix(o.Image, name+":"), n))
					}
				}
			}
			slices.Sort(list)
			return list
		}
		for scope, want := range map[string]string{"cluster=prod": "1→51 3→3 5→55", "cluster=dev": "2→52 4→4 6→56", "cluster=other": "", "cluster=prod,registry=registry.example.com": "1→51 3→3 5→55", "all": "1→51 2→52 3→3 4→4 5→55 6→56"} {
			if got := strings.Join(told(scope), " "); got != want {
				t.Errorf("%s is told %q, want %q", scope, got, want)
			}
		}
	})
}
