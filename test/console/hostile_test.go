package console_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
)

// hostile are texts that would run, hide or widen something where a page let them.
var hostile = []string{
	`<script>window.hacked = 1</script>`,
	`"><img src=x onerror="window.hacked = 2">`,
	`'><svg onload=window.hacked=3>`,
	`javascript:window.hacked=4`,
	"\u202egnp.exe\u2066\u200f",
	`{{.}}${window.hacked=5}`,
	strings.Repeat("W", 10<<10),
}

// What others write into images, packages, names and reasons neither runs nor breaks a page.
func TestHostileData(t *testing.T) {
	w := serve(t, "")
	const image = "registry.example.com/shop/hostile:1"
	at := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	scan := api.Scan{Image: image, Digest: digest(0), Source: hostile[0], Platform: hostile[1], Distro: hostile[2], ScannedAt: at, Packages: 7}
	for i, text := range hostile {
		v := flaws[i].vulnerability()
		v.Package, v.Version, v.Type, v.Vector, v.PURL, v.Severity, v.Layer, v.Description = text, text, text, text, text, text, text, text
		v.DataSource, v.Locations, v.Fix.Versions = text, []string{text}, []string{text}
		scan.Vulnerabilities = append(scan.Vulnerabilities, v)
	}
	for i, text := range hostile[:len(hostile)-1] {
		v := flaws[8].vulnerability()
		v.ID, v.Aliases, v.Namespace = text, []string{text}, text
		v.CVSS = flaws[i].vulnerability().CVSS
		scan.Vulnerabilities = append(scan.Vulnerabilities, v)
	}
	for len(scan.Vulnerabilities) > 0 && w.took("POST", "/scans", api.ScanReport{Schema: api.SchemaScan, Images: []api.Scan{scan}}) == 0 {
		scan.Vulnerabilities = scan.Vulnerabilities[:len(scan.Vulnerabilities)-1] // what the API refuses cannot hurt
	}
	kept := len(scan.Vulnerabilities)
	if kept < len(hostile) {
		t.Fatalf("only %d hostile vulnerabilities were taken", kept)
	}
	taken := 0
	for i, text := range hostile {
		taken += w.took("POST", "/scans", api.ScanReport{Schema: api.SchemaScan, Images: []api.Scan{{Image: "quay.io/acme/broken:" + digest(i)[60:], Digest: digest(i + 1), ScannedAt: at, Error: text}}})
		taken += w.took("PUT", "/instances", map[string]any{"cluster": text, "instances": []map[string]string{{"namespace": text, "pod": text, "container": text, "node": text, "image": image, "digest": digest(0)}}})
		taken += w.took("PUT", "/instances", map[string]any{"cluster": "c", "node": text, "instances": []map[string]string{{"namespace": "n", "pod": text, "container": text, "image": image, "digest": digest(0)}}})
		taken += w.took("POST", "/exceptions", map[string]any{"spec": map[string]any{"cve": "CVE-2019-1010022", "scope": "any", "justification": text, "author": text}})
		taken += w.took("POST", "/tokens", map[string]string{"name": text, "role": "viewer"})
		taken += w.took("PUT", "/views/"+url.PathEscape(text), map[string]string{"name": text, "address": "/images?search=" + url.QueryEscape(text)})
		taken += w.took("POST", "/decisions", map[string]any{"items": []api.AdmissionRecord{{UID: text[:min(len(text), 100)], Cluster: text[:min(len(text), 60)], At: at, Record: api.Record{Schema: api.SchemaRecord,
			Input: api.FlatReview{Schema: api.SchemaReview, Now: at.Format(api.TimeLayout), Review: api.Review{Operation: "CREATE", Kind: "Pod", Namespace: text, Name: text, User: text, Labels: map[string]string{},
				Containers: []api.Container{api.NewContainer(text, text)}}},
			Decision: api.Decision{Kind: "Pod", Namespace: text, Name: text, Message: text, Reason: text, Warnings: []string{text}, Revisions: map[string]string{text: text},
				Images: []api.ImageDecision{{Container: text, Image: text, Policy: text, Action: api.Reject, Result: api.Fail, CVEs: []string{text}}}}}}}})
	}
	if taken < 3*len(hostile) {
		t.Fatalf("only %d hostile records were taken", taken)
	}
	t.Logf("%d hostile records and %d vulnerabilities were taken", taken, kept)
	b := w.tab()
	b.signIn(w.admin)
	paths := []string{"/", "/images?result=", "/images?result=&col=distro&col=marks&col=digest", "/images?result=Unknown", imagePath(image, 0), "/running", "/vulnerabilities", "/packages", "/exceptions", "/alerts", "/alerts/rules",
		"/decisions", "/settings", "/jobs", "/vulnerabilities/CVE-2021-44228"}
	for _, text := range append(hostile[:len(hostile)-1:len(hostile)-1], strings.Repeat("W", 3000)) {
		q := url.QueryEscape(text)
		paths = append(paths, "/vulnerabilities/"+url.PathEscape(text), "/images?search="+q+"&cve="+q+"&sort="+q, "/images?search="+q, "/running?cluster="+q, "/policies/"+url.PathEscape(text), "/images/"+url.PathEscape(text)+"?reference="+q,
			"/exceptions/new?cve="+q+"&image="+q, "/signin?next="+q, "/alerts?rule="+q, imagePath(image, 0)+"&find="+q+"&labels="+q+"&namespace="+q)
	}
	for _, width := range []int64{1280, 390} {
		b.size(width, 800)
		for _, path := range paths {
			b.open(path)
			value[bool](b, `document.querySelectorAll("details").forEach(d => d.open = true); true`)
			short := path[:min(len(path), 100)]
			if value[bool](b, `"hacked" in window`) {
				t.Fatalf("%s: a script ran", short)
			}
			if value[bool](b, `[...document.querySelectorAll("a[href], form[action]")].some(e => /^\s*(javascript|data|vbscript):/i.test(e.getAttribute("href") || e.getAttribute("action") || "")) || document.querySelector("#main img, #main svg:not(.chart), #main script, #main iframe") !== null`) {
				t.Errorf("%s: there is an element that a text made", short)
			}
			if value[bool](b, `/[\u202a-\u202e\u2066-\u2069\u200e\u200f]/.test(document.body.innerText)`) {
				t.Errorf("%s: a mark of direction is on the page", short)
			}
			if over := wide(b); over != "" {
				t.Errorf("%s, %d px: wider than its window: %s", short, width, over)
			}
			if n := value[int](b, `document.documentElement.outerHTML.length`); n > 400_000 {
				t.Errorf("%s has %d bytes", short, n)
			}
		}
	}
	for _, path := range paths[:15] { // every link that a page offers leads to this server
		b.open(path)
		for _, a := range value[[]string](b, `[...document.querySelectorAll("#main a[href]:not([target=_blank])")].map(a => a.href)`) {
			if !strings.HasPrefix(a, w.base+"/") {
				t.Errorf("%s: a link leads to %s", path, a[:min(len(a), 100)])
			}
		}
	}
}
