package console_test

import (
	_ "embed"
	"flag"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

//go:embed testdata/axe.min.js
var axe string

var update = flag.Bool("update", false, "write the screenshots of docs/images")

func imagePath(image string, n int) string {
	return "/images/" + digest(n) + "?" + url.Values{"reference": {image}}.Encode()
}

// pages are all that a person with every role can open, and what each shows.
func pages() map[string][]string {
	return map[string][]string{
		"/":                                 {"Overview", "Worst running images", worst, "image-fails", "CVE-2019-1010022", "prod-eu"},
		"/images":                           {"Images", "Filter", "Dismiss"},
		"/images?search=no-such-image":      {"Images", "No image fits"},
		"/images?result=Unknown&col=score":  {"Images", "quay.io/acme/broken"},
		imagePath(worst, 0):                 {worst, "CVE-2021-44228", "2.15.0", "exploited", "Where it runs", "log4j-core", "disputed", "Would it be admitted?"},
		imagePath(clean, 1):                 {clean, "None that fits"},
		"/running":                          {"Running images", "prod-eu", "staging"},
		"/vulnerabilities":                  {"CVEs", "CVE-2021-44228"},
		"/vulnerabilities/CVE-2021-44228":   {"CVE-2021-44228", "log4j-core", worst, "prod-eu"},
		"/packages":                         {"Packages", "log4j-core", "lodash"},
		"/exceptions":                       {"Exceptions", "CVE-2019-1010022", "ends soon"},
		"/exceptions/new?cve=CVE-2023-0286": {"New exception", "Justification"},
		"/exceptions/import":                {"Import exceptions", "Check"},
		"/alerts":                           {"Alerts", "image-fails", "firing"},
		"/alerts/rules":                     {"Alert rules", "image-fails"},
		"/alerts/test?rule=image-fails":     {"Test"},
		"/policies":                         {"Policies", "reject-failed", "production-repository"},
		"/policies/reject-failed":           {"reject-failed", "Rego", "package", "web-0"},
		"/decisions":                        {"Decisions", "web-0", "rejected", "admitted"},
		"/decisions/1":                      {"web-0", "rejected", worst, "CVE-2021-44228"},
		"/settings":                         {"Settings", "Thresholds", "first administrator"},
		"/jobs":                             {"Jobs", "completed"},
		"/no-such-page":                     {"Not Found", "Settings"},
	}
}

// A page can be read by everybody: axe-core finds no violation of WCAG 2.2 AA, nothing is wider than a
// phone, the console stays silent.
func TestEveryPage(t *testing.T) {
	w := seeded(t)
	for _, size := range []struct {
		name          string
		width, height int64
	}{{"desktop", 1280, 800}, {"phone", 390, 844}} {
		b := w.tab()
		b.size(size.width, size.height)
		b.open("/signin")
		look(t, b, size.name+" /signin")
		b.signIn(w.admin)
		for path, texts := range pages() {
			b.open(path)
			text := value[string](b, `document.body.textContent`)
			for _, s := range texts {
				if !strings.Contains(text, s) {
					t.Errorf("%s does not say %q", path, s)
				}
			}
			look(t, b, size.name+" "+path)
		}
	}
}

// look holds the page before us against the rules, light and dark, with all that is folded open.
func look(t *testing.T, b *tab, name string) {
	t.Helper()
	if _, err := evaluate[bool](b, axe+`; true`); err != nil {
		t.Fatal(err)
	}
	value[bool](b, `document.querySelectorAll("details").forEach(d => d.open = true); true`)
	for _, scheme := range []string{"light", "dark"} {
		b.scheme(scheme)
		rules := `["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]`
		if scheme == "dark" { // nothing but colours differ
			rules = `{type: "rule", values: ["color-contrast", "link-in-text-block"]}`
		}
		found := value[[]string](b, `axe.run(document, {runOnly: `+rules+`, resultTypes: ["violations"]}).then(r =>
			r.passes.some(p => p.id === "color-contrast") ? r.violations.flatMap(v => v.nodes.slice(0, 3).map(n => v.id + ": " + n.html.slice(0, 200) + " " + (n.failureSummary || ""))) : ["no contrast was judged"])`)
		for _, f := range found {
			t.Errorf("%s, %s: %s", name, scheme, f)
		}
	}
	if over := wide(b); over != "" {
		t.Errorf("%s is wider than its window: %s", name, over)
	}
}

// wide names what makes the page scroll sideways; "" where it does not.
func wide(b *tab) string {
	b.t.Helper()
	return value[string](b, `(() => { const w = document.documentElement.clientWidth; if (document.documentElement.scrollWidth <= w && document.body.scrollWidth <= w) return "";
		const free = e => { for (let p = e.parentElement; p && p !== document.body; p = p.parentElement) if (getComputedStyle(p).overflowX !== "visible") return false; return true; };
		return [...document.body.querySelectorAll("*")].filter(e => e.getBoundingClientRect().right > w + 1 && free(e)).slice(0, 4).map(e => e.outerHTML.slice(0, 160)).join(" | ") || "something"; })()`)
}

// Without JavaScript every page can be read, and links and forms work.
func TestWithoutJavaScript(t *testing.T) {
	w := seeded(t)
	b := w.tab()
	b.scripts(false)
	b.signIn(w.admin)
	for path, texts := range pages() {
		b.open(path)
		text := value[string](b, `document.body.textContent`)
		for _, s := range texts {
			if !strings.Contains(text, s) {
				t.Errorf("%s does not say %q", path, s)
			}
		}
		if value[bool](b, `typeof htmx !== "undefined"`) {
			t.Fatal("scripts run")
		}
		if n := value[int](b, `[...document.querySelectorAll("button.copy")].filter(e => e.checkVisibility()).length`); n != 0 {
			t.Errorf("%s shows %d buttons that do nothing", path, n)
		}
	}
	b.open("/images")
	b.fill("Image", "postgres")
	b.click(button("Filter"))
	b.wait("the filter is in the address", `location.search.includes("search=postgres")`)
	for _, name := range b.rows("Image") {
		if !strings.Contains(name, "postgres") {
			t.Errorf("the filter let pass %s", name)
		}
	}
	b.open("/exceptions/new?cve=CVE-2021-44228")
	b.fill("For", "all images")
	b.fill("Justification", "JndiLookup is removed")
	b.click(button("Show what would change"))
	b.see("What would change", worst)
	b.click(button("Add the exception"))
	b.at("Exceptions")
	b.see("JndiLookup is removed")
	b.open("/settings")
	b.fill("Fail from", "9.9")
	b.click(button("Show what would change"))
	b.see("would get another result")
	b.click(button("Set the thresholds"))
	b.see("The thresholds are in force")
	b.click(button("Sign out"))
	b.at("Sign in")
}

// The pictures of the documentation.
func TestScreenshots(t *testing.T) {
	w := seeded(t)
	b := w.tab().signIn(w.admin)
	folder := filepath.Join("..", "..", "docs", "images")
	for _, scheme := range []string{"light", "dark"} {
		b.scheme(scheme)
		for name, show := range map[string]func(){
			"overview": func() { b.open("/") },
			"images":   func() { b.open("/images") },
			"image":    func() { b.open(imagePath(worst, 0)) },
			"exception": func() {
				b.open("/exceptions/new?" + url.Values{"cve": {"CVE-2021-44228"}, "image": {worst}, "digest": {digest(0)}}.Encode())
				b.fill("Justification", "JndiLookup.class is removed from the jar")
				b.click(button("Show what would change"))
				b.see("What would change")
				value[bool](b, `window.scrollTo(0, 0); document.activeElement.blur(); true`)
			},
		} {
			show()
			picture, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
			if err != nil {
				t.Fatal(err)
			}
			if len(picture) < 10_000 || len(picture) > 200_000 {
				t.Errorf("%s has %d bytes", name, len(picture))
			}
			file := filepath.Join(folder, fmt.Sprintf("console-%s-%s.png", name, scheme))
			if *update {
				err = os.WriteFile(file, picture, 0o644)
			} else {
				_, err = os.Stat(file)
			}
			if err != nil {
				t.Error(err)
			}
		}
	}
}
