package console

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/server"
	"github.com/assay-dev/assay/server/auth"
	"github.com/assay-dev/assay/store"
)

func TestLocal(t *testing.T) {
	for next, want := range map[string]string{
		"/images?result=Fail": "/images?result=Fail", "": "/", "https://evil.example.com/": "/", "//evil.example.com": "/", `/\evil.example.com`: "/",
		"javascript:alert(1)": "/", "/signin": "/", "/signout": "/", "images": "/", "/%zz": "/", "\t//evil.example.com": "/",
	} {
		if got := local(next); got != want {
			t.Errorf("%q leads to %q", next, got)
		}
	}
}

func TestWords(t *testing.T) {
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	small, tiny, large := 0.012, 0.00001, 0.97
	for got, want := range map[string]string{
		since(now, "2026-06-01T11:58:30Z"): "1 minute ago", since(now, "2026-06-11T12:00:00Z"): "in 10 days", since(now, "x"): "", since(now, "2020-01-01"): "6 years ago",
		moment("2026-06-01T14:00:00+02:00"): "2026-06-01 12:00 UTC", percent(&small): "1.2 %", percent(&tiny): "< 0.1 %", percent(&large): "97 %", percent(nil): "",
		short("sha256:0123456789abcdef"): "sha256:0123456789ab", short("x"): "x", plural(1, "image"): "1 image", plural(0, "image"): "0 images",
		count(1234567): "1\u202f234\u202f567", count(999): "999", cut("äöü", 2): "ä…", plain("a\u202eb\x00c"): "a\ufffdb\ufffdc",
		advisory("CVE-2026-1234"): "https://nvd.nist.gov/vuln/detail/CVE-2026-1234", advisory("javascript:alert(1)"): "",
	} {
		if got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}

// The parts of a chart fill it, whatever the numbers are.
func TestBars(t *testing.T) {
	for _, counts := range []map[api.Result]int{{}, {api.Fail: 1}, {api.Fail: 1, api.Warned: 1, api.Pass: 1}, {api.Fail: 7, api.Unknown: 999999, api.Pass: 3}} {
		list, total := bars(counts, "/images")
		x := 0
		for _, b := range list {
			if b.X != x || b.Width < 0 {
				t.Errorf("%v: %+v", counts, list)
			}
			x += b.Width
		}
		if total > 0 && (x < 9997 || x > 10_000) {
			t.Errorf("%v: the parts are %d of 10000", counts, x)
		}
	}
}

func TestAddress(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/images?cve=CVE-1&after=x&sort=-score", nil)
	for _, c := range []struct {
		change []string
		want   string
	}{{[]string{"after", ""}, "/images?cve=CVE-1&sort=-score"}, {[]string{"cve", "", "after", "", "sort", ""}, "/images"}, {[]string{"sort", "image"}, "/images?after=x&cve=CVE-1&sort=image"}} {
		if got := address(r, c.change...); got != c.want {
			t.Errorf("%v gives %s", c.change, got)
		}
	}
}

// fakeAPI answers by path, and refuses what it does not know.
func fakeAPI(answers map[string]any) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v, ok := answers[r.Method+" "+strings.TrimPrefix(r.URL.Path, "/api/v1")]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			v = fault{Title: "Not Found", Detail: r.URL.Path + " is not there"}
		}
		_ = json.NewEncoder(w).Encode(v)
	})
}

func ask(t *testing.T, c *Console, method, target string, form url.Values) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, target, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	c.ServeHTTP(w, r.WithContext(auth.NewContext(r.Context(), auth.Identity{Name: "jane", Role: auth.Admin})))
	return w
}

// What others wrote, in any field, is text: it is never markup, nor an address that runs.
func TestHostileTexts(t *testing.T) {
	const evil = `"><script>window.hacked=1</script><img src=x onerror=hacked()>javascript:alert(1)` + "\u202e"
	score := 9.8
	digest := "sha256:" + strings.Repeat("a", 64)
	image := store.Image{Image: "registry.example.com/" + evil, Digest: digest, Registry: evil, Repository: evil, Tag: evil, Result: api.Fail, MaxCVSS: &score, Distro: evil, Error: evil, Clusters: []string{evil}, Instances: 1, Source: evil, ScannedAt: evil, FirstSeen: evil}
	instance := store.RunningInstance{Instance: store.Instance{Instance: api.Instance{Cluster: evil, Namespace: evil, Pod: evil, Container: evil}, Node: evil, Image: evil, Digest: digest}, Result: api.Result(evil)}
	exception := server.ListedException{Origin: "api"}
	exception.Metadata.Name, exception.Spec.CVE, exception.Spec.Justification, exception.Spec.Registry, exception.Spec.Repository, exception.Spec.Scope, exception.Spec.Tags, exception.Spec.Author = evil, evil, evil, evil, evil, "image", []string{evil}, evil
	v := api.Vulnerability{ID: evil, Package: evil, Version: evil, Type: evil, CVSS: &score, Vector: evil, Severity: evil, Fix: api.Fix{State: evil, Versions: []string{evil}}, Layer: evil, Exception: &api.AppliedException{Scope: evil, Justification: evil, Expires: evil}}
	row := store.Vulnerability{ID: evil, Severity: evil, Score: &score, Images: 1}
	alert := store.Episode{Opened: evil, Alert: api.Alert{Name: evil, Summary: evil, Description: evil, Key: map[string]string{evil: evil}}}
	decision := store.StoredDecision{ID: 1}
	decision.UID, decision.Cluster = evil, evil
	decision.Record.Decision = api.Decision{Kind: evil, Name: evil, Namespace: evil, Reason: evil, Message: evil, Warnings: []string{evil}, Revisions: map[string]string{evil: evil}, Images: []api.ImageDecision{{Container: evil, Image: evil, Digest: digest, Action: "Reject", Policy: evil, CVEs: []string{evil}}}}
	policy := server.PolicyView{PolicyRow: server.PolicyRow{Name: evil, Place: evil, Mode: evil}, Rego: map[string]string{evil: evil}, Decisions: []store.StoredDecision{decision}}
	policy.Policy.Metadata.Name = evil
	explained := api.Explanation{Decision: decision.Record.Decision, Images: []api.ImageExplanation{{Image: evil, Result: api.Fail, Matched: []api.MatchedRule{{Policy: evil, Source: evil, Mode: evil}}, Counterfactual: &api.Counterfactual{Options: []api.ChangeSet{{Changes: []api.Change{{Exception: evil}, {Upgrade: &api.Upgrade{Package: evil, Version: evil, Fixes: map[string][]string{evil: {evil}}}}}}}}}}}
	priorities := server.PriorityList{Next: evil, Total: 2}
	priorities.Items = []api.Action{{ID: evil, Summary: evil, Reasons: []string{evil}, Removes: []api.RemovedVulnerability{{ID: evil}}, Where: []api.Place{{Image: evil, Digest: digest, Result: api.Result(evil)}}}}
	c, err := New(Config{Version: "1", API: fakeAPI(map[string]any{
		"GET /counts": server.CountList{}, "GET /images": store.List[store.Image]{Items: []store.Image{image}, Next: evil}, "GET /instances": store.List[store.RunningInstance]{Items: []store.RunningInstance{instance}},
		"GET /images/" + digest:            server.ImageView{Digest: digest, References: []store.Image{image}, Disagree: true, Evidence: []store.Evidence{{Scope: api.Scope{Cluster: evil}, Way: api.Way(evil), Identity: evil, Packages: 3}}, Scan: &api.Scan{Image: evil, Platform: evil, Distro: evil, Vulnerabilities: []api.Vulnerability{v, {ID: evil, Package: evil}}}},
		"GET /images/" + digest + "/scans": server.Items[store.ScanSummary]{Items: []store.ScanSummary{{Image: evil, Source: evil, ScannedAt: evil, Error: evil, Database: evil}}},
		"GET /vulnerabilities":             store.List[store.Vulnerability]{Items: []store.Vulnerability{row}}, "GET /vulnerabilities/x": server.VulnerabilityView{Vulnerability: row, Affected: []store.Affected{{Digest: digest, Package: store.Package{Name: evil, Version: evil, Type: evil}}}},
		"GET /packages": store.List[store.PackageImages]{Items: []store.PackageImages{{Package: store.Package{Name: evil, Version: evil, Type: evil}}}}, "GET /exceptions": server.Items[server.ListedException]{Items: []server.ListedException{exception}},
		"GET /alerts": server.Items[store.Episode]{Items: []store.Episode{alert}}, "GET /alerts/rules": server.Items[server.AlertRow]{Items: []server.AlertRow{{Name: evil, Kind: evil, Query: evil, Place: evil, Error: evil, Rule: evil}}},
		"GET /alerts/deliveries": server.Items[store.DeliveryStatus]{Items: []store.DeliveryStatus{{Receiver: evil, Reason: evil}}}, "GET /policies": server.PolicyList{Revision: evil, Items: []server.PolicyRow{policy.PolicyRow}, Refused: []server.Fault{{Pointer: evil, Detail: evil}}},
		"GET /policies/x": policy, "GET /decisions": server.Items[store.StoredDecision]{Items: []store.StoredDecision{decision}}, "POST /explain": explained,
		"GET /thresholds": server.ThresholdsView{Origin: evil}, "GET /version": server.VersionView{Version: evil, Policies: evil}, "GET /database": api.DatabaseState{Error: evil, Advisories: evil, LastUpdate: &api.DatabaseUpdate{Error: evil}, Generations: []api.DatabaseGeneration{{Source: evil, Current: true, Changes: &api.DatabaseChanges{Added: 2}}}},
		"GET /clusters": server.Items[store.Cluster]{Items: []store.Cluster{{Name: evil}}},
		"GET /tokens":   server.Items[store.Token]{Items: []store.Token{{ID: 1, Name: evil, Role: evil, Scope: evil, Creator: evil}}}, "GET /jobs": map[string]any{"items": []map[string]any{{"kind": evil, "subject": evil, "error": evil, "state": evil}}},
		"GET /events": store.List[store.StoredEvent]{}, "GET /trend": map[string]any{"items": []map[string]any{{"day": evil, "all": map[string]int{"Fail": 1}, "running": map[string]int{"Fail": 1}}}}, "GET /new-vulnerabilities": server.Items[store.NewVulnerability]{Items: []store.NewVulnerability{{Vulnerability: row}}},
		"GET /images/" + digest + "/priorities": priorities, "GET /priorities": priorities,
		"GET /views": server.Items[store.SavedView]{Items: []store.SavedView{{Name: evil, Address: evil}}},
	})})
	if err != nil {
		t.Fatal(err)
	}
	q := "?" + url.Values{"search": {evil}, "sort": {evil}, "reference": {evil}, "find": {evil}, "cve": {evil}, "image": {evil}, "rule": {evil}, "next": {evil}, "namespace": {evil}, "labels": {evil}, "col": {evil}}.Encode()
	for _, path := range []string{"/", "/images", "/images/" + digest, "/priorities", "/running", "/vulnerabilities", "/vulnerabilities/x", "/packages", "/exceptions", "/exceptions/new", "/exceptions/import", "/alerts", "/alerts/rules", "/alerts/test", "/policies", "/policies/x", "/decisions", "/decisions/1", "/settings", "/jobs", "/signin", "/images/absent"} {
		w := ask(t, c, http.MethodGet, path+q, nil)
		text := w.Body.String()
		for _, bad := range []string{`href="javascript:`, `href='javascript:`} {
			if strings.Contains(text, bad) {
				t.Errorf("%s has %q", path, bad)
			}
		}
		if w.Code >= 500 {
			t.Errorf("%s: %d", path, w.Code)
		}
		if path == "/settings" && (!strings.Contains(text, "update failed") || !strings.Contains(text, "2 vulnerabilities added; 0 packages") || !strings.Contains(text, "own advisories")) {
			t.Errorf("the settings do not tell of the databases: %d %s", w.Code, text)
		}
		// What fields and buttons carry is not laid out as text.
		text = regexp.MustCompile(` (?:value|data-copy|datetime|href|id|class|action)="[^"]*"|<textarea[^>]*>[^<]*`).ReplaceAllString(text, "")
		for _, bad := range []string{"<script>window", "<img src=x", "\u202e"} {
			if strings.Contains(text, bad) {
				i := strings.Index(text, bad)
				t.Errorf("%s has %q: …%s", path, bad, text[max(0, i-200):i])
			}
		}
		if got := w.Header().Get("Content-Security-Policy"); got != contentPolicy || strings.Contains(text, " style=") || strings.Contains(text, " onclick") {
			t.Errorf("%s: the policy is %q, or something is inline", path, got)
		}
	}
}

// Who says what of the packages of an image stands on its page, and that they disagree where they do.
func TestEvidenceIsShown(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	view := server.ImageView{Digest: digest, References: []store.Image{{Image: "shop.example.com/x:1", Digest: digest, Result: api.Fail}}, Evidence: []store.Evidence{
		{Way: api.FromServer, Identity: "server", Packages: 417, Found: at, ScannedAt: at}, {Scope: api.Scope{Cluster: "dev"}, Way: api.Uploaded, Identity: "token:7", Packages: 3, Found: at},
	}}
	for _, disagree := range []bool{true, false} {
		view.Disagree = disagree
		c, err := New(Config{API: fakeAPI(map[string]any{"GET /images/" + digest: view, "GET /images/" + digest + "/priorities": server.PriorityList{}, "GET /images/" + digest + "/scans": server.Items[store.ScanSummary]{},
			"GET /instances": store.List[store.RunningInstance]{}, "GET /packages": store.List[store.PackageImages]{}, "GET /events": store.List[store.StoredEvent]{}, "POST /explain": api.Explanation{}})})
		if err != nil {
			t.Fatal(err)
		}
		text := ask(t, c, http.MethodGet, "/images/"+digest, nil).Body.String()
		for _, want := range []string{"<td>all</td><td>server</td><td>server</td><td class=\"number\">417</td>", "<td>cluster=dev</td><td>upload</td><td>token:7</td><td class=\"number\">3</td>", "not yet"} {
			if !strings.Contains(text, want) {
				t.Errorf("the page lacks %q: %s", want, text)
			}
		}
		if strings.Contains(text, "The origins disagree") != disagree {
			t.Errorf("they disagree: %v, and the page says otherwise", disagree)
		}
	}
}

// What runs is asked for as it was written: the page is that of the name, not of another one of the digest.
func TestImageUnderAnotherSpelling(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	view := server.ImageView{Digest: digest, References: []store.Image{{Image: "other.example.com/x:1"}, {Image: "registry.example.com/shop:1"}}}
	c, err := New(Config{API: fakeAPI(map[string]any{"GET /images/" + digest: view, "GET /images/" + digest + "/priorities": server.PriorityList{}, "GET /images/" + digest + "/scans": server.Items[store.ScanSummary]{},
		"GET /instances": store.List[store.RunningInstance]{}, "GET /packages": store.List[store.PackageImages]{}, "GET /events": store.List[store.StoredEvent]{}, "POST /explain": api.Explanation{}})})
	if err != nil {
		t.Fatal(err)
	}
	w := ask(t, c, http.MethodGet, "/images/"+digest+"?reference="+url.QueryEscape("Registry.example.com:443/shop:1"), nil)
	if !strings.Contains(w.Body.String(), `name="reference" value="registry.example.com/shop:1"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// A decision of a review that nobody vouches for is marked in the list of decisions as on its page.
func TestCallersAreMarked(t *testing.T) {
	var list []store.StoredDecision
	for i, caller := range []*api.Caller{{Authenticated: true, Name: "api-server"}, {Name: "forged"}, nil} {
		d := store.StoredDecision{ID: int64(3 - i)}
		d.Record.Decision, d.Record.Caller = api.Decision{Kind: "Pod", Name: fmt.Sprint("p", i)}, caller
		list = append(list, d)
	}
	c, err := New(Config{API: fakeAPI(map[string]any{"GET /decisions": server.Items[store.StoredDecision]{Items: list}, "GET /views": server.Items[store.SavedView]{}})})
	if err != nil {
		t.Fatal(err)
	}
	rows := strings.Split(ask(t, c, http.MethodGet, "/decisions", nil).Body.String(), "<tr")
	for i, marked := range []bool{false, true, true} {
		row := ""
		for _, r := range rows {
			if strings.Contains(r, fmt.Sprint("Pod p", i)) {
				row = r
			}
		}
		if row == "" || strings.Contains(row, "nobody authenticated") != marked {
			t.Errorf("decision %d, marked %v: %s", i, marked, row)
		}
	}
}

// What the API refuses stands on the page, with all its faults, and nothing is lost of the form.
func TestRefusalIsShown(t *testing.T) {
	api := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnprocessableEntity)
		fmt.Fprint(w, `{"title":"Unprocessable Entity","detail":"the exception is not valid","errors":[{"pointer":"spec.cve","detail":"is missing"},{"pointer":"line 3","line":3,"detail":"is odd"}]}`)
	})
	c, err := New(Config{API: api})
	if err != nil {
		t.Fatal(err)
	}
	w := ask(t, c, http.MethodPost, "/exceptions/new", url.Values{"cve": {"CVE-2026-1"}, "scope": {"any"}, "justification": {"because of this"}, "do": {"save"}})
	for _, want := range []string{"the exception is not valid", "spec.cve", "is missing", "line 3", "because of this", "CVE-2026-1"} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if w.Code != http.StatusUnprocessableEntity {
		t.Errorf("the status is %d", w.Code)
	}
}

// A page that asks for what is not there, and one whose API fails, are pages too.
func TestTrouble(t *testing.T) {
	c, err := New(Config{API: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })})
	if err != nil {
		t.Fatal(err)
	}
	w := ask(t, c, http.MethodGet, "/images", nil)
	if w.Code != http.StatusBadGateway || !bytes.Contains(w.Body.Bytes(), []byte("Bad Gateway")) {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
}
