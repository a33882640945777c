// Package console is the server's pages for people: what is scanned, what runs, what is
// wrong, what to do first.
//
// It has no power of its own. Each page is made of answers of the HTTP API, asked in the name
// of who is signed in, so that roles, scopes, filters and errors are those of the API. Pages are
// rendered on the server and can be read without JavaScript; htmx only spares the reload.
package console

import (
	"bytes"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/fnv"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/assay-dev/assay/server"
	"github.com/assay-dev/assay/server/auth"
)

// Config is what the pages are made of.
type Config struct {
	// API answers requests for /api/v1/…, by the [auth.Identity] in their context.
	API http.Handler
	// SignIn opens a session for the owner of a token, SignOut ends it.
	SignIn  func(w http.ResponseWriter, r *http.Request, token string) (auth.Identity, error)
	SignOut func(w http.ResponseWriter, r *http.Request) error
	// BeginLogin sends a browser to an OIDC issuer, and FinishLogin takes it back; nil where there is none.
	BeginLogin  func(w http.ResponseWriter, r *http.Request, next string) error
	FinishLogin func(w http.ResponseWriter, r *http.Request) (next string, err error)
	Version     string
	Log         *slog.Logger
	Now         func() time.Time // nil: time.Now
}

// Console serves the pages. It is safe for concurrent use.
type Console struct {
	Config
	mux    *http.ServeMux
	routes auth.Routes
	pages  map[string]*template.Template
	assets string // changes whenever a static file does
}

//go:embed templates static
var files embed.FS

// New makes the pages.
func New(c Config) (*Console, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	x := &Console{Config: c, mux: http.NewServeMux(), routes: auth.Routes{}, pages: map[string]*template.Template{}}
	static, err := fs.Sub(files, "static")
	if err != nil {
		return nil, err
	}
	sum := fnv.New64a()
	if err := fs.WalkDir(static, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(static, path)
		_, _ = sum.Write(text)
		return err
	}); err != nil {
		return nil, err
	}
	x.assets = fmt.Sprintf("%x", sum.Sum64())
	shared, err := template.New("").Funcs(x.functions()).ParseFS(files, "templates/layout.html", "templates/parts.html")
	if err != nil {
		return nil, err
	}
	names, err := fs.Glob(files, "templates/*.html")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		page := strings.TrimSuffix(strings.TrimPrefix(name, "templates/"), ".html")
		if page == "layout" || page == "parts" {
			continue
		}
		t, err := shared.Clone()
		if err == nil {
			_, err = t.ParseFS(files, name)
		}
		if err != nil {
			return nil, fmt.Errorf("reading the page %s: %w", page, err)
		}
		x.pages[page] = t
	}
	x.table()
	x.route("GET /static/{file}", x.static(http.StripPrefix("/static/", http.FileServerFS(static))), auth.Public)
	return x, nil
}

// Routes are what each page needs.
func (c *Console) Routes() auth.Routes { return c.routes }

// ServeHTTP answers a request that package auth let pass.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) { c.mux.ServeHTTP(w, r) }

// route adds a page. Whatever it shows of scans and clusters, the API gives to the user's scope.
func (c *Console) route(pattern string, h http.Handler, roles ...auth.Role) {
	c.routes[pattern] = auth.Route{Roles: roles, Scopes: auth.ScopesHeld}
	c.mux.Handle(pattern, h)
}

// table are the pages. What a page does to the server, the API allows or refuses; the roles
// here only spare a page that could say nothing else.
func (c *Console) table() {
	view := func(pattern string, h func(*http.Request) (*page, error)) {
		c.route(pattern, c.serve(h), auth.Viewer)
	}
	do := func(pattern string, h func(http.ResponseWriter, *http.Request) (*page, error), roles ...auth.Role) {
		c.route(pattern, c.act(h), roles...)
	}
	c.route("GET /{$}", c.serve(c.overview), auth.Viewer)
	c.route("GET /signin", c.serve(c.signInPage), auth.Public)
	c.route("POST /signin", http.HandlerFunc(c.signIn), auth.Public)
	if c.BeginLogin != nil {
		c.route("GET /signin/issuer", http.HandlerFunc(c.beginLogin), auth.Public)
		c.route("GET /signin/callback", http.HandlerFunc(c.finishLogin), auth.Public)
	}
	c.route("POST /signout", http.HandlerFunc(c.signOut), auth.Public)
	view("GET /images", c.images)
	do("POST /images", c.changeImages, auth.Editor)
	view("GET /images/{digest}", c.image)
	view("GET /priorities", c.priorities)
	view("GET /running", c.running)
	view("GET /vulnerabilities", c.vulnerabilities)
	view("GET /vulnerabilities/{id}", c.vulnerability)
	view("GET /packages", c.packages)
	view("GET /exceptions", c.exceptions)
	c.route("GET /exceptions/new", c.serve(c.newException), auth.Editor)
	do("POST /exceptions/new", c.addException, auth.Editor)
	do("POST /exceptions/delete", c.deleteException, auth.Editor)
	c.route("GET /exceptions/import", c.serve(c.importPage), auth.Editor)
	do("POST /exceptions/import", c.importExceptions, auth.Editor)
	view("GET /alerts", c.alerts)
	view("GET /alerts/rules", c.alertRules)
	view("GET /alerts/test", c.alertTestPage)
	do("POST /alerts/test", c.testAlert, auth.Viewer)
	view("GET /policies", c.policies)
	view("GET /policies/{name}", c.policy)
	do("POST /policies/test", c.testPolicies, auth.Editor)
	view("GET /decisions", c.decisions)
	view("GET /decisions/{id}", c.decision)
	view("GET /settings", c.settings)
	do("POST /settings/thresholds", c.setThresholds, auth.Editor)
	do("POST /settings/runtime", c.setRuntimeView, auth.Editor)
	do("POST /settings/tokens", c.makeToken, auth.Admin)
	do("POST /settings/tokens/end", c.endToken, auth.Admin)
	view("GET /jobs", c.jobs)
	do("POST /views", c.setView, auth.Viewer)
}

// policy of what a page may load: its own files, and nothing inline.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

func headers(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Security-Policy", contentPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
}

// static are files that never change under one address.
func (c *Console) static(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		headers(w)
		if r.URL.RawQuery == "v="+c.assets {
			w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		}
		next.ServeHTTP(w, r)
	})
}

// page is what a template is given.
type page struct {
	name   string // of the template
	status int    // 0 is 200
	Title  string
	Nav    string // the entry of the menu that it belongs to
	// Live are the kinds of changes after which the page is read anew.
	Live   string
	Notice string // what was done
	Fault  *fault // what was refused
	Body   any

	User auth.Identity
	// NoRuntime says that what runs is not to be shown.
	NoRuntime bool
	Path      string
	Query     url.Values
	Now       time.Time
	Version   string
	Assets    string
}

// May says whether the user has a role.
func (p *page) May(role string) bool { return p.User.Role.Includes(auth.Role(role)) }

func (c *Console) serve(h func(*http.Request) (*page, error)) http.Handler {
	return c.act(func(_ http.ResponseWriter, r *http.Request) (*page, error) { return h(r) })
}

// act answers with a page, or, where there is none and no error, with what h wrote.
func (c *Console) act(h func(http.ResponseWriter, *http.Request) (*page, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, MaxForm)
		headers(w)
		p, err := h(w, r)
		if err == nil && p != nil {
			if l, ok := p.Body.(*list); ok {
				err = c.views(r, l)
			}
		}
		if err != nil {
			p = c.troubled(r, err)
		}
		if p != nil {
			c.render(w, r, p)
		}
	})
}

// What a form may send, in bytes: the file of an import is the largest. Who did not sign in
// sends a token.
const (
	MaxForm     = 32 << 20
	MaxOpenForm = 64 << 10
)

// troubled is the page of a request that failed.
func (c *Console) troubled(r *http.Request, err error) *page {
	var f *fault
	if !errors.As(err, &f) {
		c.Log.Error("a page failed", "path", r.URL.Path, "error", err)
		f = &fault{Status: http.StatusInternalServerError, Title: "The page could not be made", Detail: "The log of the server says why."}
	}
	return &page{name: "error", status: f.Status, Title: f.Title, Fault: f}
}

// Refused answers for package auth: who has no session is sent to sign in, and comes back.
func (c *Console) Refused(w http.ResponseWriter, r *http.Request, err *auth.Error) bool {
	if strings.HasPrefix(r.URL.Path, "/api/") || !strings.Contains(r.Header.Get("Accept"), "text/html") {
		return false
	}
	headers(w)
	if err.Status == http.StatusUnauthorized && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		to := "/signin"
		if r.URL.RequestURI() != "/" {
			to += "?" + url.Values{"next": {r.URL.RequestURI()}}.Encode()
		}
		if r.Header.Get("HX-Request") != "" { // the whole page, not a part of it
			w.Header().Set("HX-Redirect", to)
			return true
		}
		http.Redirect(w, r, to, http.StatusSeeOther)
		return true
	}
	c.render(w, r, &page{name: "error", status: err.Status, Title: http.StatusText(err.Status), Fault: &fault{Status: err.Status, Title: http.StatusText(err.Status), Detail: err.Detail}})
	return true
}

func (c *Console) render(w http.ResponseWriter, r *http.Request, p *page) {
	p.User, _ = auth.FromContext(r.Context())
	if p.User.Role != "" {
		view := server.RuntimeView{Enabled: true}
		if err := c.get(r, "/runtime-view", nil, &view); err == nil {
			p.NoRuntime = !view.Enabled
		}
	}
	if done, err := r.Cookie(doneCookie); err == nil {
		text, _ := base64.RawURLEncoding.DecodeString(done.Value)
		p.Notice = string(text)
		setDone(w, "", -1)
	}
	p.Path, p.Query, p.Now, p.Version, p.Assets = r.URL.Path, r.URL.Query(), c.Now().UTC(), c.Version, c.assets
	var text bytes.Buffer
	if err := c.pages[p.name].ExecuteTemplate(&text, "layout", p); err != nil {
		c.Log.Error("a page could not be rendered", "page", p.name, "error", err)
		http.Error(w, "The page could not be made; the log of the server says why.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if p.status != 0 {
		w.WriteHeader(p.status)
	}
	_, _ = w.Write(text.Bytes()) // a client that went away is no error
}

// doneCookie carries what was done to the next page. It is no part of an address, which anybody
// could write.
const doneCookie = "__Host-assay-done"

func setDone(w http.ResponseWriter, text string, age int) {
	http.SetCookie(w, &http.Cookie{Name: doneCookie, Value: base64.RawURLEncoding.EncodeToString([]byte(cut(text, 200))), Path: "/", MaxAge: age, Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode})
}

// seeOther sends a browser to a page after a form was taken, so that a reload does nothing twice.
func seeOther(w http.ResponseWriter, r *http.Request, to, notice string) (*page, error) {
	setDone(w, notice, 30)
	http.Redirect(w, r, local(to), http.StatusSeeOther)
	return nil, nil
}
