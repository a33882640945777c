package daemon_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/server"
	"github.com/assay-dev/assay/store/storetest"
)

// What to fix first, over HTTP, as images, containers, exceptions and bases change.
func TestPriorities(t *testing.T) {
	storetest.Run(t, func(t *testing.T, database func() string) {
		w := start(t, database(), nil)
		score := func(f float64) *float64 { return &f }
		layers := func(names ...string) (list []api.Layer) {
			for _, n := range names {
				list = append(list, api.Layer{DiffID: fmt.Sprintf("sha256:%064x", n)})
			}
			return list
		}
		in := func(v api.Vulnerability, of []api.Layer, n int) api.Vulnerability { v.Layer = of[n].DiffID; return v }
		openssl := api.Vulnerability{ID: "CVE-2024-5535", Package: "openssl", Version: "3.0.11", Type: "deb", CVSS: score(9.1), EPSS: score(0.06), Severity: "Critical", Fix: api.Fix{State: "fixed", Versions: []string{"3.0.15"}}}
		lodash := api.Vulnerability{ID: "GHSA-x", Aliases: []string{"CVE-2019-10744"}, Package: "lodash", Version: "4.17.11", Type: "npm", CVSS: score(7.2), EPSS: score(0.2), Severity: "High", Fix: api.Fix{State: "fixed", Versions: []string{"4.17.12"}}}
		log4j := api.Vulnerability{ID: "CVE-2021-44228", Package: "log4j-core", Version: "2.14.1", Type: "java-archive", CVSS: score(10), EPSS: score(0.94), KEV: true, Severity: "Critical", Fix: api.Fix{State: "fixed", Versions: []string{"2.15.0"}}}
		base, web := layers("b"), layers("b", "w")
		scan := func(n int, image string, at time.Time, of []api.Layer, list ...api.Vulnerability) {
			t.Helper()
			text, err := json.Marshal(api.Scan{Image: image, Digest: digest(n), Platform: "linux/amd64", ScannedAt: at, Distro: "debian 12", Packages: 3, Layers: of, Vulnerabilities: list,
				Database: &api.ScanDatabase{Built: at, Checksum: "xxh64:1"}})
			if err != nil {
				t.Fatal(err)
			}
			w.want(201, "POST", "/api/v1/scans", string(text))
		}
		get := func(path string) (list server.PriorityList) {
			t.Helper()
			status, _, text := w.send("GET", path, w.admin, nil, nil)
			if status != 200 {
				t.Fatalf("%s: %d %s", path, status, text)
			}
			if err := json.Unmarshal(text, &list); err != nil {
				t.Fatal(err)
			}
			return list
		}
		ids := func(list server.PriorityList) (ids []string) {
			for _, a := range list.Items {
				ids = append(ids, a.ID)
			}
			return ids
		}
		hold := func(path string, want ...string) server.PriorityList {
			t.Helper()
			list := get(path)
			if !slices.Equal(ids(list), want) || list.Total != len(want) || list.Schema != api.SchemaPriorities {
				t.Errorf("%s: %q instead of %q: %+v", path, ids(list), want, list)
			}
			return list
		}
		const up = "upgrade/"
		hold("/api/v1/priorities")
		scan(1, "debian:12", clock, base, in(openssl, base, 0))
		scan(2, "registry.example.com/shop/web:1", clock, web, in(openssl, base, 0), in(lodash, web, 1))
		scan(3, "registry.example.com/old/batch:1", clock, layers("x"), log4j)
		// Nothing is known to run: what is exploited is first.
		hold("/api/v1/priorities", up+"java-archive//log4j-core", up+"npm//lodash", up+"deb/debian 12/openssl")
		w.want(204, "PUT", "/api/v1/instances", fmt.Sprintf(`{"cluster":"prod","instances":[{"namespace":"shop","pod":"p","container":"c","image":"registry.example.com/shop/web:1","digest":%q},{"namespace":"shop","pod":"q","container":"c","image":"registry.example.com/shop/web:1","digest":%q}]}`, digest(2), digest(2)))
		// What is likely to be exploited where it runs comes before what is exploited elsewhere.
		list := hold("/api/v1/priorities", up+"npm//lodash", up+"java-archive//log4j-core", up+"deb/debian 12/openssl")
		want := []string{"CVE-2019-10744 is likely to be exploited (EPSS 20.0%), in an image that runs", "removes 1 vulnerability (CVE-2019-10744)", "the highest EPSS is 20.0%, the highest CVSS score 7.2", "2 containers in 1 cluster run it"}
		if first := list.Items[0]; first.Tier != api.TierLikelyRunning || !slices.Equal(first.Reasons, want) || first.Containers != 2 || !list.Running {
			t.Errorf("first: %+v", first)
		}
		if ssl := list.Items[2]; ssl.Tier != api.TierDecides || ssl.Images != 2 || ssl.Unfailed != 2 || ssl.FromBase != 1 || ssl.Upgrade.To != "3.0.15" {
			t.Errorf("openssl: %+v", ssl)
		}
		hold("/api/v1/priorities?running=true", up+"npm//lodash", up+"deb/debian 12/openssl")
		hold("/api/v1/priorities?cluster=prod&namespace=none")
		hold("/api/v1/priorities?registry=registry.example.com/old", up+"java-archive//log4j-core")
		hold("/api/v1/images/"+digest(2)+"/priorities", up+"npm//lodash", up+"deb/debian 12/openssl")
		hold("/api/v1/images/"+digest(2)+"/priorities?reference=registry.example.com/shop/web:1", up+"npm//lodash", up+"deb/debian 12/openssl")
		hold("/api/v1/images/" + digest(2) + "/priorities?reference=registry.example.com/shop/other:1")
		w.want(404, "GET", "/api/v1/images/"+digest(9)+"/priorities", "")
		w.want(400, "GET", "/api/v1/priorities?after=x", "")
		w.want(400, "GET", "/api/v1/priorities?limit=0", "")
		w.want(400, "GET", "/api/v1/priorities?sort=x", "")

		var paged []string
		for after := ""; ; {
			page := get("/api/v1/priorities?limit=2&after=" + url.QueryEscape(after))
			if paged = append(paged, ids(page)...); page.Next == "" {
				break
			}
			after = page.Next
		}
		if !slices.Equal(paged, ids(list)) {
			t.Errorf("pages: %q", paged)
		}

		// The base is known by its layers; then a newer build of it is scanned.
		view := func() server.ImageView {
			t.Helper()
			var view server.ImageView
			_, _, text := w.send("GET", "/api/v1/images/"+digest(2), w.admin, nil, nil)
			if err := json.Unmarshal(text, &view); err != nil {
				t.Fatal(err)
			}
			return view
		}
		if v := view(); v.Base == nil || v.Base.Name != "docker.io/library/debian:12" && v.Base.Name != "debian:12" || v.Base.Digest != digest(1) || v.Base.Layers != 1 || v.Base.Vulnerabilities != 1 || v.Base.Own != 1 || v.Base.Rebase != nil ||
			v.Scan.Vulnerabilities[0].Origin != api.FromBase || v.Scan.Vulnerabilities[1].Origin != api.FromOwn {
			t.Errorf("base: %+v", v.Base)
		}
		added := api.Vulnerability{ID: "CVE-2026-7777", Package: "zlib1g", Version: "1", Type: "deb", Severity: "Low", Fix: api.Fix{State: "not-fixed"}}
		scan(4, "debian:12", clock.Add(time.Minute), layers("new"), added)
		rebase := "rebase/docker.io/library/debian:12@" + digest(4)
		list = hold("/api/v1/images/"+digest(2)+"/priorities", up+"npm//lodash", rebase, up+"deb/debian 12/openssl")
		if r := list.Items[1].Rebase; r.To != digest(4) || r.Share != 0.5 || r.Adds != 1 || r.AddsExploited != 0 {
			t.Errorf("rebase: %+v", list.Items[1])
		}
		if v := view(); v.Base == nil || v.Base.Rebase == nil || v.Base.Rebase.Rebase.To != digest(4) {
			t.Errorf("base: %+v", v.Base)
		}

		// Exceptions take effect at once, for their names alone; and their end.
		w.want(201, "POST", "/api/v1/exceptions", `{"metadata":{"name":"e"},"spec":{"cve":"CVE-2019-10744","scope":"repo","registry":"registry.example.com/shop","repository":"web","justification":"not called"}}`)
		hold("/api/v1/priorities?running=true", rebase, up+"deb/debian 12/openssl")
		w.want(204, "DELETE", "/api/v1/exceptions/e", "")
		hold("/api/v1/priorities?running=true", up+"npm//lodash", rebase, up+"deb/debian 12/openssl")
		w.want(200, "PUT", "/api/v1/thresholds", `{"warn":5,"fail":9.5}`)
		if list := get("/api/v1/priorities?running=true"); list.Items[1].Tier != api.TierRest || list.Items[1].Unfailed != 0 {
			t.Errorf("after the threshold: %+v", list.Items[1])
		}

		// A token for a registry sees its own images, and no base of others.
		scoped := w.want(201, "POST", "/api/v1/tokens", `{"name":"x","role":"viewer","scope":"registry=registry.example.com/shop"}`)["token"].(string)
		for _, path := range []string{"/api/v1/priorities", "/api/v1/images/" + digest(2) + "/priorities", "/api/v1/images/" + digest(2)} {
			status, _, text := w.send("GET", path, scoped, nil, nil)
			if status != 200 || !strings.Contains(string(text), "lodash") || strings.Contains(string(text), "log4j") || strings.Contains(string(text), "library/debian") {
				t.Errorf("%s: %d %s", path, status, text)
			}
		}
		if status, _, _ := w.send("GET", "/api/v1/images/"+digest(3)+"/priorities", scoped, nil, nil); status != 404 {
			t.Errorf("another registry's image: %d", status)
		}
	})
}
