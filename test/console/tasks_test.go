package console_test

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/server/daemon"
)

// all says that there are rows, and that each has the text.
func all(t *testing.T, rows []string, text string) {
	t.Helper()
	if len(rows) == 0 || slices.ContainsFunc(rows, func(r string) bool { return !strings.Contains(r, text) }) {
		t.Errorf("not all of %q have %s", rows, text)
	}
}

func TestSignIn(t *testing.T) {
	w := seeded(t)
	b := w.tab()
	b.open("/images?search=nginx")
	b.at("Sign in")
	b.fill("Token", "assay_wrong")
	b.click(button("Sign in"))
	b.see("Not signed in")
	b.fill("Token", w.admin)
	b.click(button("Sign in"))
	b.at("Images")
	if got := b.address(); got != "/images?search=nginx" {
		t.Errorf("the page that was wanted is forgotten: %s", got)
	}
	all(t, b.rows("Image"), "nginx")

	b.click(button("Sign out"))
	b.at("Sign in")
	b.do(chromedp.NavigateBack())
	b.wait("the way back shows nothing", `document.readyState === "complete" && !document.body.innerText.includes("nginx:") && document.querySelector("input[name=token]") !== null`)
	b.open("/images")
	b.at("Sign in")
}

func TestOverviewLeadsOn(t *testing.T) {
	w := seeded(t)
	b := w.tab().signIn(w.admin)
	b.see("All images", "Running images", "Known exploited", "Exceptions about to end", "State")
	n := value[string](b, `document.querySelector("a[href='/images?result=Fail']").innerText`)
	b.click(`//a[@href="/images?result=Fail"]`)
	b.at("Images")
	all(t, b.rows("Result"), "Fail")
	if got := len(b.rows("Result")); fmt.Sprint(got) != n {
		t.Errorf("the overview counts %s images that fail, the list has %d", n, got)
	}
	for path, at := range map[string]string{
		within("Worst running", link(worst)):               worst,
		within("Known exploited", link("CVE-2021-44228")):  "CVE-2021-44228",
		within("Exceptions about", "//li/a"):               "CVE-2019-1010022",
		within("Alerts that fire", link("image-fails")):    "Alerts",
		within("State", link("prod-eu")):                   "Running images",
		within("State", "//a[@href='/jobs']"):              "Jobs",
		within("State", "//a[starts-with(@href, '/pol')]"): "Policies",
	} {
		b.open("/")
		b.click(path)
		b.at(at)
	}
}

func TestFilterSortPages(t *testing.T) {
	w := seeded(t)
	b := w.tab().signIn(w.admin)
	b.click(link("Images"))
	b.at("Images")
	if slices.Contains(b.rows("Result"), "Unknown") {
		t.Error("Unknown is shown before it is asked for")
	}
	first := b.rows("Image")
	if len(first) != 50 {
		t.Fatalf("the first page has %d rows", len(first))
	}
	b.click(button("Next page"))
	b.wait("the next page", `location.search.includes("after=")`)
	b.wait("the next page is there", `document.querySelector("table.rows tbody a").innerText !== `+quote(first[0]))
	for _, name := range b.rows("Image") {
		if slices.Contains(first, name) {
			t.Errorf("%s is on both pages", name)
		}
	}
	b.click(button("First page"))
	b.wait("the first page is back", `document.querySelector("table.rows tbody a").innerText === `+quote(first[0]))

	b.click(link("Image"))
	b.wait("names are in order", `location.search.includes("sort=image")`)
	b.wait("the order is told", `document.querySelector("th[aria-sort=ascending]")?.innerText.startsWith("Image")`)
	if names := b.rows("Image"); !slices.IsSorted(names) {
		t.Errorf("not in order: %q", names)
	}

	b.open("/images")
	b.fill("Image", "acme")
	b.fill("Result", "Fail")
	b.click(summary("More filters"))
	b.fill("Running", "yes")
	b.fill("Cluster", "staging")
	b.click(button("Filter"))
	b.wait("all filters are in the address", `["search=acme", "result=Fail", "running=true", "cluster=staging"].every(x => location.search.includes(x))`)
	b.wait("the list is there", `document.querySelector("details[open] [name=cluster]")?.value === "staging"`)
	if got := b.address(); strings.Contains(got, "namespace=") {
		t.Errorf("blank fields are in the address: %s", got)
	}
	rows := b.rows("Image")
	all(t, rows, "acme")
	all(t, b.rows("Result"), "Fail")

	other := w.tab().signIn(w.admin)
	other.open(b.address())
	if got := other.rows("Image"); !slices.Equal(got, rows) {
		t.Errorf("somebody else sees %q at the same address, not %q", got, rows)
	}
	other.click(button("Clear"))
	other.wait("no filter is left", `location.search === ""`)

	b.open("/images")
	b.fill("CVE", "cve-2021-44228")
	b.do(chromedp.KeyEvent("\r"))
	b.wait("one image has it", `document.querySelectorAll("table.rows tbody tr").length === 1`)
	all(t, b.rows("Image"), worst)

	b.click(summary("More filters"))
	b.click(`//label[normalize-space(.) = "EPSS"]/input`)
	b.click(`//label[normalize-space(.) = "Distribution"]/input`)
	b.click(button("Filter"))
	b.wait("the columns are others", `[...document.querySelectorAll("table.rows th")].map(x => x.innerText).join().includes("Distribution")`)
	if value[bool](b, `[...document.querySelectorAll("table.rows th")].some(x => x.innerText.startsWith("EPSS"))`) {
		t.Error("a column that was taken away is still there")
	}
	all(t, b.rows("Distribution"), "debian 12")
	all(t, b.rows("Image"), worst)

	b.click(summary("Saved views"))
	b.fill("Save this view as", "log4j")
	b.click(button("Save"))
	b.see("The view log4j is saved")
	b.open("/images")
	b.click(summary("Saved views"))
	b.click(link("log4j"))
	b.wait("the view is back", `location.search.includes("cve=") && document.querySelectorAll("table.rows tbody tr").length === 1`)

	for _, x := range value[[]string](b, `[...document.querySelectorAll(".exports a")].map(a => a.getAttribute("href"))`) {
		text := value[string](b, `fetch(`+quote(x)+`).then(r => r.ok ? r.text() : "" + r.status)`)
		if !strings.Contains(text, "search") || strings.Contains(text, "nginx") { // the one image, and no other
			t.Errorf("%s: %.200s", x, text)
		}
	}
}

func TestMarkDismissDelete(t *testing.T) {
	w := seeded(t)
	b := w.tab().signIn(w.admin)
	mark := func(name string) { b.click(`//tr[.//a[normalize-space(.) = "` + name + `"]]//input[@type="checkbox"]`) }
	b.open("/images?search=redis&sort=image")
	names := b.rows("Image")
	mark(names[0])
	mark(names[1])
	b.click(button("Dismiss"))
	b.see("2 images dismissed")
	b.wait("they are gone, and the filter is kept", `location.search.includes("search=redis") && document.querySelectorAll("table.rows tbody tr").length === `+fmt.Sprint(len(names)-2))
	b.open("/images?search=redis&dismissed=true")
	mark(names[0])
	mark(names[1])
	b.click(button("Show again"))
	b.see("2 images shown again")
	b.open("/images?search=redis&sort=image")
	if got := b.rows("Image"); !slices.Equal(got, names) {
		t.Errorf("after all: %q, not %q", got, names)
	}

	b.mu.Lock()
	b.decline = true
	b.mu.Unlock()
	mark(names[0])
	b.click(button("Delete"))
	if said := b.dialog(); !strings.Contains(said, "Delete") {
		t.Errorf("it asks: %s", said)
	}
	b.open("/images?search=redis&sort=image")
	if got := b.rows("Image"); len(got) != len(names) {
		t.Error("no was taken for yes")
	}
	b.mu.Lock()
	b.decline = false
	b.mu.Unlock()
	mark(names[0])
	b.click(button("Delete"))
	b.dialog()
	b.see("1 image deleted")
	b.open("/images?search=redis&sort=image")
	if got := b.rows("Image"); !slices.Equal(got, names[1:]) {
		t.Errorf("after deleting one: %q", got)
	}
	b.click(button("Dismiss"))
	b.see("No image is marked")
}

func TestImageAndException(t *testing.T) {
	w := seeded(t)
	b := w.tab().signIn(w.admin)
	b.open("/images")
	b.click(link(worst))
	b.at(worst)
	b.see("maximum CVSS 10.0", "fixed in 2.15.0", "Where it runs", "prod-eu")
	b.fill("Find", "openssl-no")
	b.click(within("Vulnerabilities", `//button[normalize-space(.) = "Filter"]`))
	b.see("None that fits")
	b.fill("Find", "log4j")
	b.do(chromedp.KeyEvent("\r"))
	b.wait("only log4j is left", `document.querySelectorAll("section[aria-labelledby=vulnerabilities] tbody tr").length === 1`)
	b.fill("Exception", "is covered")
	b.do(chromedp.KeyEvent("\r"))
	b.fill("Find", "")
	b.do(chromedp.KeyEvent("\r"))
	b.wait("what is covered", `document.querySelector("section[aria-labelledby=vulnerabilities] tbody")?.innerText.includes("CVE-2019-1010022")`)

	b.fillAt(`//section[@aria-labelledby="admission"]`+field("Labels of the namespace"), "environment=production")
	b.do(chromedp.KeyEvent("\r"))
	b.see("decides", "reject-failed", "To admit it")
	b.wait("the question keeps what narrows the table", `document.querySelector("[name=covered]:not([type=hidden])").value === "true" && document.querySelector("section[aria-labelledby=vulnerabilities] tbody").innerText.includes("CVE-2019-1010022")`)
	b.fill("Find", "CVE-2019")
	b.do(chromedp.KeyEvent("\r"))
	b.wait("what narrows the table keeps the question", `location.search.includes("find=CVE-2019") && document.querySelector("[name=labels]:not([type=hidden])").value === "environment=production"`)

	b.open(imagePath(worst, 0))
	b.click(`//a[normalize-space(.) = "except CVE-2021-44228"]`)
	b.at("New exception")
	if has := value[string](b, `document.querySelector("[name=cve]").value + " " + document.querySelector("[name=digest]").value`); has != "CVE-2021-44228 "+digest(0) {
		t.Errorf("the form starts with %s", has)
	}
	if b.has(button("Add the exception")) {
		t.Error("it can be saved before its effect is seen")
	}
	b.fill("Justification", "JndiLookup.class is removed from the jar")
	b.fill("Ends on", time.Now().AddDate(0, 1, 0).Format(time.DateOnly))
	b.click(button("Show what would change"))
	b.see("What would change", "1 image would get another result", "1 workload would be decided otherwise", "Fail", "Warn")
	var kept struct {
		Items []api.VulnerabilityException `json:"items"`
	}
	w.send(200, "GET", "/exceptions?cve=CVE-2021-44228", nil, &kept)
	if len(kept.Items) != 0 {
		t.Error("what was only shown was saved")
	}
	b.click(button("Add the exception"))
	b.see("JndiLookup.class is removed from the jar")
	b.open(imagePath(worst, 0))
	if got := value[string](b, `document.querySelector(".verdict .badge").innerText`); got != "Warn" {
		t.Errorf("after the exception the image is %s", got)
	}
	b.see("JndiLookup.class is removed")

	b.open("/exceptions?cve=CVE-2021-44228")
	b.click(`//table//input[@type="checkbox"]`)
	b.click(button("Delete"))
	b.dialog()
	b.unseen("JndiLookup.class")
	b.open(imagePath(worst, 0))
	b.see("maximum CVSS 10.0")
}

func TestVulnerabilityAndPackage(t *testing.T) {
	w := seeded(t)
	b := w.tab().signIn(w.admin)
	b.click(link("CVEs"))
	b.at("CVEs")
	b.fill("Known exploited", "yes")
	b.fill("Package", "log4j-core")
	b.click(button("Filter"))
	b.wait("one is left", `document.querySelectorAll("table.rows tbody tr").length === 1`)
	b.click(link("CVE-2021-44228"))
	b.at("CVE-2021-44228")
	b.see(worst, "prod-eu", "2.14.1", "has a fix")
	if to := value[string](b, `document.querySelector("dd a[target=_blank]").href`); to != "https://nvd.nist.gov/vuln/detail/CVE-2021-44228" {
		t.Errorf("the advisory is %s", to)
	}
	b.click(link("Packages"))
	b.at("Packages")
	b.fill("Package", "log4j")
	b.click(button("Filter"))
	b.wait("one is left", `document.querySelectorAll("table.rows tbody tr").length === 1`)
	all(t, b.rows("Version"), "2.14.1")
	b.click(`//table//td[4]//a`)
	b.at("Images")
	if got := b.rows("Image"); len(got) != 4 || !slices.Contains(got, worst) {
		t.Errorf("log4j-core is in %q", got)
	}
}

func TestImport(t *testing.T) {
	w := seeded(t)
	b := w.tab().signIn(w.admin)
	b.click(link("Exceptions"))
	b.at("Exceptions")
	b.click(button("Import"))
	b.at("Import exceptions")
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "exceptions.csv")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const header = "CVE,Registry,Repository,Tags,Justification,Scope\n"
	b.do(chromedp.SetUploadFiles(`input[type=file]`, []string{file(header + "CVE-2023-38545,,,,fine,any\nCVE-2023-0286,,,,,any\nCVE-2023-0286,,,,why,somewhere\n")}))
	b.click(button("Check"))
	b.see("line 3", "line 4", "Justification is missing")
	if b.has(`//button[normalize-space(.) = "Import"]`) {
		t.Error("bad rows can be imported")
	}
	b.open("/exceptions/import")
	b.do(chromedp.SetUploadFiles(`input[type=file]`, []string{file(header + "CVE-2023-38545,,,,curl is not called,any\nCVE-2023-0286,quay.io/acme,reports,,no X.400,repo\n")}))
	b.click(button("Check"))
	b.see("2 exceptions of exceptions.csv: all of them are good")
	b.open("/exceptions?cve=CVE-2023-38545")
	b.see("There is no exception")
	b.open("/exceptions/import")
	b.fill("or its text", "")
	value[bool](b, `document.querySelector("textarea").value = `+quote(header+"CVE-2023-38545,,,,curl is not called,any\n")+`; true`)
	b.click(button("Check"))
	b.click(`//button[normalize-space(.) = "Import"]`)
	b.see("curl is not called")
}

func TestAlertsPoliciesDecisions(t *testing.T) {
	w := seeded(t)
	b := w.tab().signIn(w.admin)
	b.click(link("Alerts"))
	b.at("Alerts")
	b.fill("Firing", "now")
	b.click(button("Filter"))
	b.wait("the filter is set", `location.search.includes("firing=true")`)
	all(t, b.rows("State"), "firing")
	b.see(worst + " fails")
	b.click(button("Alert rules"))
	b.at("Alert rules")
	b.see("image-fails", `result = "Fail"`)
	b.click(link("Test it"))
	b.at("Test an alert rule")
	if rule := value[string](b, `document.querySelector("select[name=name]").value`); rule != "image-fails" {
		t.Errorf("the rule to be tested is %q", rule)
	}
	b.fill("Looking back", "240h")
	b.click(button("Test"))
	b.see("would fire, looking back 240h", worst+" fails")
	b.fill("Looking back", "a while")
	b.click(button("Test"))
	b.see("lookback")

	b.click(link("Policies"))
	b.at("Policies")
	b.click(link("reject-failed"))
	b.at("reject-failed")
	b.see("Rego", "package ", "imageScanStatus", "Last decisions", "Images it decided about")
	b.click(`//section[.//h2[normalize-space(.) = "Last decisions"]]//a[1]`)
	b.see("What the user was told", "What would be decided now", "reject-failed")

	b.click(link("Decisions"))
	b.at("Decisions")
	b.fill("Decision", "rejected")
	b.click(button("Filter"))
	b.wait("the filter is set", `location.search.includes("allowed=false")`)
	all(t, b.rows("Decision"), "rejected")
	b.click(link("Deployment web-0"))
	b.at("Deployment web-0")
	b.see("CVE-2021-44228", worst, "To admit it")
}

// TestScanAgain asks for a scan of an image, and gets the program that scans.
func TestScanAgain(t *testing.T) {
	w := seeded(t, func(c *daemon.Config) {
		c.ScanImages, c.Scans.Command = []string{worst[:strings.LastIndexByte(worst, ':')]}, []string{"/bin/false"}
	})
	b := w.tab().signIn(w.admin)
	b.open(imagePath(worst, 0))
	b.click(button("Scan again"))
	b.see("1 image asked to be scanned")
	b.open("/jobs")
	b.see("scan", worst)
	b.click(link("Settings"))
	b.at("Settings")
	b.wait("the program is there", `fetch("/api/v1/downloads/assay").then(r => r.blob()).then(x => x.slice(1, 4).text()).then(x => x === "ELF")`)
}

func TestPolicyTests(t *testing.T) {
	w := seeded(t)
	b := w.tab().signIn(w.admin)
	b.click(link("Policies"))
	b.at("Policies")
	b.see("1 file of tests came with the policies")
	b.click(button("Run the tests"))
	b.see("1 of 2 tests failed", "shop_test.test_rejected", "passed", "shop_test.test_wrong", "failed", "shop_test.rego:5")
}

func TestSettings(t *testing.T) {
	w := seeded(t)
	b := w.tab().signIn(w.admin)
	b.click(link("Settings"))
	b.at("Settings")
	b.fill("Fail from", "high")
	b.click(button("Show what would change"))
	b.see("The thresholds are not valid")
	b.fill("Warn from", "3")
	b.fill("Fail from", "7")
	b.click(button("Show what would change"))
	b.see("would get another result", "Warn", "Fail")
	var now api.ThresholdsSpec
	w.send(200, "GET", "/thresholds", nil, &now)
	if *now.Fail != 9 {
		t.Errorf("what was only shown is in force: %v", *now.Fail)
	}
	b.click(button("Set the thresholds"))
	b.see("The thresholds are in force")
	w.send(200, "GET", "/thresholds", nil, &now)
	if *now.Fail != 7 || *now.Warn != 3 {
		t.Errorf("thresholds: %v %v", *now.Warn, *now.Fail)
	}

	b.click(button("Hide what runs"))
	b.see("What runs is no longer shown", "The pages do not show what runs")
	b.click(link("Overview"))
	b.at("Overview")
	b.see("All images")
	b.unseen("Worst running images")
	b.open("/settings")
	b.click(button("Show what runs"))
	b.see("What runs is shown")
	b.open("/")
	b.see("Worst running images", "Running")
	b.open("/settings")

	b.fill("Name", "pipeline")
	b.fill("Role", "viewer")
	b.click(button("Make the token"))
	b.see("The token of pipeline, shown this once")
	secret := value[string](b, `document.querySelector(".notice code").innerText`)
	other := w.tab().signIn(secret)
	b.open("/settings")
	b.unseen(secret)
	b.click(`//tr[td[1][normalize-space(.) = "pipeline"]]//button`)
	if said := b.dialog(); !strings.Contains(said, "End the token") {
		t.Errorf("it asks: %s", said)
	}
	b.see("The token is ended")
	other.open("/images")
	other.at("Sign in")
	other.fill("Token", secret)
	other.click(button("Sign in"))
	other.see("Not signed in")
}

// What comes meanwhile is shown without a reload, and does not disturb whom it finds at work.
func TestLiveUpdate(t *testing.T) {
	w := seeded(t)
	b := w.tab().signIn(w.admin)
	b.open("/images?search=fresh")
	b.see("No image fits", "follows changes")
	value[bool](b, `window.mark = true`)
	fresh := func(name string, n int) {
		scan := api.Scan{Image: name, Digest: digest(n), Source: "registry", Platform: "linux/amd64", ScannedAt: time.Now().UTC(), Packages: 1, Vulnerabilities: []api.Vulnerability{flaws[0].vulnerability()}}
		w.send(201, "POST", "/scans", api.ScanReport{Schema: api.SchemaScan, Images: []api.Scan{scan}}, nil)
	}
	fresh("quay.io/acme/fresh:1", 500)
	b.see("quay.io/acme/fresh:1")
	if !value[bool](b, `window.mark === true`) {
		t.Error("the page was loaded anew")
	}
	b.click(`//table//input[@type="checkbox"]`)
	fresh("quay.io/acme/fresh:2", 501)
	time.Sleep(3 * time.Second)
	if !value[bool](b, `document.querySelector("input[name=id]").checked && !document.body.innerText.includes("fresh:2")`) {
		t.Error("a mark was lost to an update")
	}
	b.click(`//table//input[@type="checkbox"]`)
	value[bool](b, `document.activeElement.blur(); true`)
	b.see("quay.io/acme/fresh:2")
}

// The keyboard is enough, and one sees where it is.
func TestKeyboard(t *testing.T) {
	w := seeded(t)
	b := w.tab().signIn(w.admin)
	for _, path := range []string{"/images?search=nginx", "/settings", "/exceptions/new", imagePath(worst, 0)} {
		b.open(path)
		value[bool](b, `document.activeElement.blur(); window.reached = new Set(); document.addEventListener("focusin", e => window.reached.add(e.target)); true`)
		b.do(chromedp.KeyEvent("\t"))
		if got := value[string](b, `document.activeElement.innerText`); got != "Skip to the content" {
			t.Errorf("%s: Tab reaches %q first", path, got)
		}
		n := value[int](b, `(window.wanted = [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']")].filter(e => e.type !== "hidden" && !e.disabled && e.checkVisibility())).length`)
		for range n + 30 { // date fields have several parts
			b.do(chromedp.KeyEvent("\t"))
			if bad := value[string](b, `(() => { const e = document.activeElement; if (!e || e === document.body || e.matches("main, input[type=date]")) return ""; // the parts of a date show the browser's own ring
 const s = getComputedStyle(e);
				return s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2 ? "" : e.outerHTML.slice(0, 120); })()`); bad != "" {
				t.Errorf("%s: the focus is not seen on %s", path, bad)
			}
		}
		for _, missed := range value[[]string](b, `window.wanted.filter(e => !window.reached.has(e)).map(e => e.outerHTML.slice(0, 120))`) {
			t.Errorf("%s: Tab does not reach %s", path, missed)
		}
	}
	b.open("/images")
	if _, err := chromedp.Call(b.ctx, input.DispatchKeyEvent, input.DispatchKeyEventParams{Type: input.DispatchKeyEventTypeKeyDown, Key: "/", Code: "Slash", Text: "/"}); err != nil {
		t.Fatal(err)
	}
	b.wait("the filter has the focus", `document.activeElement.name === "search"`)
	b.do(chromedp.KeyEvent("postgres\r"))
	b.wait("the filter is set", `location.search.includes("search=postgres")`)
	b.wait("the rows are there", `[...document.querySelectorAll("table.rows tbody a.ref")].every(a => a.innerText.includes("postgres"))`)
	all(t, b.rows("Image"), "postgres")
	if u, err := url.Parse(b.address()); err != nil || u.Query().Get("search") != "postgres" {
		t.Errorf("address: %s", b.address())
	}
	b.open("/images")
	b.do(chromedp.KeyEvent("\t"), chromedp.KeyEvent("\r"))
	b.wait("the content has the focus", `document.activeElement.id === "main"`)
}
