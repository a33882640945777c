package console

import (
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/assay-dev/assay/server/auth"
)

type signInBody struct {
	Next string
	// Open says that the page came without TLS from elsewhere than this machine: browsers
	// keep no session then.
	Open bool
	// Issuer says that people can sign in at an OIDC issuer.
	Issuer bool
}

func (c *Console) bodyOf(r *http.Request, next string) signInBody {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	here := host == "localhost" || ip != nil && ip.IsLoopback()
	return signInBody{local(next), r.TLS == nil && !here && r.Header.Get("X-Forwarded-Proto") != "https", c.BeginLogin != nil}
}

func (c *Console) signInPage(r *http.Request) (*page, error) {
	return &page{name: "signin", Title: "Sign in", Body: c.bodyOf(r, r.URL.Query().Get("next"))}, nil
}

// local is an address of this server, or its first page.
func local(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.IsAbs() || u.Host != "" || !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") || strings.Contains(next, `\`) || u.Path == "/signin" || u.Path == "/signout" {
		return "/"
	}
	return next
}

func (c *Console) signIn(w http.ResponseWriter, r *http.Request) {
	headers(w)
	r.Body = http.MaxBytesReader(w, r.Body, MaxOpenForm)
	if err := r.ParseForm(); err != nil {
		c.render(w, r, c.troubled(r, badForm(err)))
		return
	}
	b := c.bodyOf(r, r.PostForm.Get("next"))
	if _, err := c.SignIn(w, r, r.PostForm.Get("token")); err != nil {
		c.notSignedIn(w, r, b, err)
		return
	}
	http.Redirect(w, r, b.Next, http.StatusSeeOther)
}

func (c *Console) notSignedIn(w http.ResponseWriter, r *http.Request, b signInBody, err error) {
	p := &page{name: "signin", Title: "Sign in", status: http.StatusInternalServerError, Body: b, Fault: &fault{Title: "Not signed in", Detail: "The log of the server says why."}}
	var refused *auth.Error
	if errors.As(err, &refused) {
		p.status, p.Fault.Detail = refused.Status, refused.Detail
	} else {
		c.Log.Error("a sign-in failed", "error", err)
	}
	c.render(w, r, p)
}

func (c *Console) beginLogin(w http.ResponseWriter, r *http.Request) {
	headers(w)
	b := c.bodyOf(r, r.URL.Query().Get("next"))
	if err := c.BeginLogin(w, r, b.Next); err != nil {
		c.notSignedIn(w, r, b, err)
	}
}

func (c *Console) finishLogin(w http.ResponseWriter, r *http.Request) {
	headers(w)
	next, err := c.FinishLogin(w, r)
	if err != nil {
		c.notSignedIn(w, r, c.bodyOf(r, next), err)
		return
	}
	http.Redirect(w, r, local(next), http.StatusSeeOther)
}

func (c *Console) signOut(w http.ResponseWriter, r *http.Request) {
	headers(w)
	if err := c.SignOut(w, r); err != nil {
		c.render(w, r, c.troubled(r, err))
		return
	}
	http.Redirect(w, r, "/signin", http.StatusSeeOther)
}
