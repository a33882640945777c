package daemon_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/store/storetest"
)

// Lists and exports tell what a result does not: findings without a score, and packages that were not looked up. Of an
// image without a scan, neither was counted.
func TestListsCountWhatIsNotJudged(t *testing.T) {
	storetest.Run(t, func(t *testing.T, database func() string) {
		w := start(t, database(), nil)
		scan := api.Scan{Image: "registry.example.com/shop/web:1", Digest: digest(1), Source: "registry", ScannedAt: clock, Packages: 9,
			Unplaced:        []api.Unplaced{{Packages: 2}, {Distro: "debian 99", Packages: 3}},
			Vulnerabilities: []api.Vulnerability{{ID: "CVE-2026-0001", Package: "a", Version: "1", Type: "deb", CVSS: new(9.8)}, {ID: "CVE-2026-0002", Package: "a", Version: "1", Type: "deb"}}}
		w.want(201, "POST", "/api/v1/scans", mustJSON(upload(scan)))
		w.want(201, "POST", "/api/v1/scans", report("registry.example.com/shop/api:1", 2, clock, map[string]float64{"CVE-2026-0001": 9.8}))
		w.want(204, "PUT", "/api/v1/instances", fmt.Sprintf(`{"cluster":"prod","instances":[{"namespace":"n","pod":"p","container":"c","image":"registry.example.com/shop/web:1","digest":%q},{"namespace":"n","pod":"q","container":"c","image":"registry.example.com/shop/none:1","digest":%q}]}`, digest(1), digest(3)))
		want := map[string][3]string{"web": {",Fail,", ",1,5", "map[unplaced:5 unscored:1]"}, "api": {",Fail,", ",0,0", "map[unplaced:0 unscored:0]"}, "none": {",Unknown,", ",,", "map[]"}}
		for _, query := range []string{"", "?pods=true"} {
			_, _, text := w.send("GET", "/api/v1/exports/images.csv"+query, w.admin, nil, nil)
			lines := strings.Split(strings.TrimSpace(string(text)), "\n")
			if len(lines) != 4 || !strings.HasSuffix(lines[0], ",Findings Without Score,Packages Not Looked Up") {
				t.Fatalf("images.csv%s: %s", query, text)
			}
			for _, line := range lines[1:] {
				name := strings.Split(line, ",")[1]
				if x := want[strings.TrimPrefix(name, "shop/")]; !strings.Contains(line, x[0]) || !strings.HasSuffix(line, x[1]) {
					t.Errorf("images.csv%s: %s", query, line)
				}
			}
		}
		for _, item := range w.want(200, "GET", "/api/v1/images", "")["items"].([]any) {
			row := item.(map[string]any)
			counted := map[string]any{}
			for _, name := range []string{"unscored", "unplaced"} {
				if n, ok := row[name]; ok {
					counted[name] = n
				}
			}
			if name := strings.TrimPrefix(row["repository"].(string), "shop/"); fmt.Sprint(counted) != want[name][2] {
				t.Errorf("%s: %v", name, counted)
			}
		}
	})
}
