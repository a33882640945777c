package console_test

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// person is a browser as far as requests go: it keeps cookies and says where a request comes from.
type person struct {
	w      *world
	client *http.Client
}

// person signs in by the form; "" stays outside.
func (w *world) person(token string) *person {
	w.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	p := &person{w, &http.Client{Jar: secureJar{jar}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	if token != "" {
		if status, header, _ := p.post("/signin", url.Values{"token": {token}}, "same-origin"); status != http.StatusSeeOther || header.Get("Location") != "/" {
			w.t.Fatalf("signing in: %d to %s", status, header.Get("Location"))
		}
	}
	return p
}

// secureJar sends secure cookies to this machine without TLS, as browsers do.
type secureJar struct{ *cookiejar.Jar }

func (j secureJar) secure(u *url.URL) *url.URL {
	x := *u
	x.Scheme = "https"
	return &x
}
func (j secureJar) SetCookies(u *url.URL, c []*http.Cookie) { j.Jar.SetCookies(j.secure(u), c) }
func (j secureJar) Cookies(u *url.URL) []*http.Cookie       { return j.Jar.Cookies(j.secure(u)) }

func (p *person) post(path string, form url.Values, site string) (int, http.Header, string) {
	p.w.t.Helper()
	return p.do("POST", path, strings.NewReader(form.Encode()), map[string]string{"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": site, "Accept": "text/html"})
}

func (p *person) get(path string) (int, http.Header, string) {
	p.w.t.Helper()
	return p.do("GET", path, nil, map[string]string{"Accept": "text/html"})
}

func (p *person) do(method, path string, body io.Reader, header map[string]string) (int, http.Header, string) {
	p.w.t.Helper()
	r, err := http.NewRequest(method, p.w.base+path, body)
	if err != nil {
		p.w.t.Fatal(err)
	}
	for k, v := range header {
		r.Header.Set(k, v)
	}
	answer, err := p.client.Do(r)
	if err != nil {
		p.w.t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		p.w.t.Fatal(err)
	}
	return answer.StatusCode, answer.Header, string(text)
}

// Each role is refused what it must not do, by address and by form as well as by button.
func TestRoles(t *testing.T) {
	w := seeded(t)
	forms := map[string]struct {
		form url.Values
		role string
	}{
		"/images":               {url.Values{"id": {digest(1)}, "action": {"delete"}}, "editor"},
		"/exceptions/new":       {url.Values{"cve": {"CVE-2023-0286"}, "scope": {"any"}, "justification": {"because"}, "do": {"save"}}, "editor"},
		"/exceptions/delete":    {url.Values{"id": {"glibc"}}, "editor"},
		"/exceptions/import":    {url.Values{"text": {"CVE,Registry,Repository,Tags,Justification,Scope\nCVE-2023-0286,,,,why,any\n"}, "do": {"save"}}, "editor"},
		"/settings/thresholds":  {url.Values{"warn": {"1"}, "fail": {"2"}, "do": {"save"}}, "editor"},
		"/policies/test":        {url.Values{}, "editor"},
		"/settings/runtime":     {url.Values{"do": {"off"}}, "editor"},
		"/settings/tokens":      {url.Values{"name": {"mine"}, "role": {"admin"}}, "admin"},
		"/settings/tokens/end":  {url.Values{"id": {"1"}}, "admin"},
		"/alerts/test":          {url.Values{"rule": {"x"}}, "viewer"},
		"/views":                {url.Values{"name": {"x"}, "address": {"/images"}}, "viewer"},
		"/api/v1/jobs/1/cancel": {nil, "editor"},
	}
	rank := map[string]int{"": -1, "scanner": -1, "viewer": 0, "editor": 1, "admin": 2}
	before := w.state()
	for _, role := range []string{"", "scanner", "viewer", "editor"} {
		p := w.person("")
		if role != "" {
			_, secret := w.token(role)
			p = w.person(secret)
		}
		for path, x := range forms {
			if rank[role] >= rank[x.role] {
				continue
			}
			status, _, text := p.post(path, x.form, "same-origin")
			if want := map[bool]int{true: http.StatusUnauthorized, false: http.StatusForbidden}[role == ""]; status != want {
				t.Errorf("%q posts to %s: %d, want %d: %.200s", role, path, status, want, text)
			}
		}
		for path := range pages() {
			status, header, text := p.get(path)
			switch {
			case path == "/no-such-page" && role != "":
				if status != http.StatusNotFound || !strings.Contains(text, `href="/images"`) {
					t.Errorf("%q gets %s without the menu, or %d: %.200s", role, path, status, text)
				}
			case role == "":
				if status != http.StatusSeeOther || !strings.HasPrefix(header.Get("Location"), "/signin") {
					t.Errorf("without a session %s gives %d to %s", path, status, header.Get("Location"))
				}
			case role == "scanner":
				if status != http.StatusForbidden || strings.Contains(text, "nginx") {
					t.Errorf("a scanner sees %s: %d", path, status)
				}
			case role == "viewer" && (strings.HasPrefix(path, "/exceptions/new") || path == "/exceptions/import"):
				if status != http.StatusForbidden {
					t.Errorf("a viewer gets the form %s: %d", path, status)
				}
			case status != http.StatusOK:
				t.Errorf("%s gets %s: %d", role, path, status)
			}
			if role != "" && status == http.StatusOK {
				for action, x := range forms {
					if rank[role] < rank[x.role] && strings.Contains(text, `method="post" action="`+action+`"`) && action != "/settings/thresholds" { // there it is to be read
						t.Errorf("%s is offered %s on %s", role, action, path)
					}
				}
			}
		}
	}
	if after := w.state(); after != before {
		t.Errorf("something was changed:\n%s\n%s", before, after)
	}

	_, secret := w.token("viewer")
	b := w.tab().signIn(secret)
	b.open("/images")
	if b.has(button("Dismiss")) || b.has(`//input[@name="id"]`) {
		t.Error("a viewer is offered to change images")
	}
	b.open("/settings")
	if b.has(button("Make the token")) || b.has(button("Show what would change")) {
		t.Error("a viewer is offered to change settings")
	}
	b.open(imagePath(worst, 0))
	if b.has(button("Delete")) || b.has(`//a[starts-with(@href, "/exceptions/new")]`) {
		t.Error("a viewer is offered to change an image")
	}
}

// state is what posts could have changed.
func (w *world) state() string {
	w.t.Helper()
	var all strings.Builder
	for _, path := range []string{"/counts", "/exceptions", "/thresholds"} {
		var text any
		w.send(200, "GET", path, nil, &text)
		all.WriteString(quoteAny(text))
	}
	return all.String()
}

// Pages of other sites can do nothing, cookies are out of reach, and no address leads elsewhere.
func TestSessions(t *testing.T) {
	w := seeded(t)
	before := w.state()
	admin := w.person(w.admin)
	for _, site := range []string{"cross-site", "same-site"} {
		for _, path := range []string{"/images", "/exceptions/new", "/settings/thresholds", "/settings/tokens", "/signout", "/signin", "/views"} {
			if status, _, text := admin.post(path, url.Values{"id": {digest(1)}, "action": {"delete"}, "warn": {"1"}, "fail": {"2"}, "do": {"save"}, "token": {w.admin}, "name": {"x"}}, site); status != http.StatusForbidden {
				t.Errorf("%s posts to %s: %d: %.200s", site, path, status, text)
			}
		}
	}
	if status, _, _ := admin.do("POST", "/images", strings.NewReader("id="+digest(1)+"&action=delete"), map[string]string{"Content-Type": "application/x-www-form-urlencoded", "Origin": "https://evil.example", "Accept": "text/html"}); status != http.StatusForbidden {
		t.Errorf("an old browser on another site: %d", status)
	}
	if w.state() != before {
		t.Error("another site changed something")
	}
	for _, next := range []string{"https://evil.example/", "//evil.example", `/\evil.example`, "/\t/evil.example", "javascript:alert(1)", `\\evil.example`, "https:evil.example", "/%5cevil.example/..//", "//", " //evil.example"} {
		p := w.person("")
		status, header, _ := p.post("/signin", url.Values{"token": {w.admin}, "next": {next}}, "same-origin")
		to, err := url.Parse(w.base)
		if err == nil {
			to, err = to.Parse(strings.NewReplacer(`\`, "/", "\t", "", "\n", "").Replace(header.Get("Location"))) // as browsers read it
		}
		if status != http.StatusSeeOther || err != nil || "http://"+to.Host != w.base {
			t.Errorf("next=%q leads to %s", next, header.Get("Location"))
		}
	}

	b := w.tab().signIn(w.admin)
	kept, err := chromedp.Call(b.ctx, network.GetCookies, network.GetCookiesParams{})
	if err != nil || len(kept.Cookies) == 0 {
		t.Fatalf("cookies: %v %v", kept, err)
	}
	for _, c := range kept.Cookies {
		if !c.HTTPOnly || !c.Secure || c.SameSite == "" || c.SameSite == network.CookieSameSiteNone || c.Path != "/" || !strings.HasPrefix(c.Name, "__Host-") {
			t.Errorf("the cookie %s: %+v", c.Name, c)
		}
	}
	if got := value[string](b, `document.cookie`); got != "" {
		t.Errorf("scripts see the cookie %s", got)
	}
	session := ""
	for _, c := range kept.Cookies {
		session += c.Name + "=" + c.Value + "; "
	}
	b.click(button("Sign out"))
	b.at("Sign in")
	if status, _, text := w.person("").do("GET", "/images", nil, map[string]string{"Accept": "text/html", "Cookie": session}); status != http.StatusSeeOther {
		t.Errorf("the cookie of a session that ended: %d %.100s", status, text)
	}

	id, secret := w.token("viewer")
	p := w.person(secret)
	if status, _, _ := p.get("/images"); status != http.StatusOK {
		t.Fatalf("a viewer: %d", status)
	}
	w.send(204, "DELETE", "/tokens/"+quoteAny(id), nil, nil)
	if status, _, _ := p.get("/images"); status != http.StatusSeeOther {
		t.Errorf("after its token ended a session still reads: %d", status)
	}

	for _, path := range []string{"/", "/images", "/signin", "/static/assay.js"} {
		_, header, _ := admin.get(path)
		policy := header.Get("Content-Security-Policy")
		if !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") || !strings.Contains(policy, "frame-ancestors 'none'") || header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: headers %v", path, header)
		}
		if path == "/images" && header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s may be kept: %s", path, header.Get("Cache-Control"))
		}
	}
}
