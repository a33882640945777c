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
}

func bodyOf(r *http.Request, next string) signInBody {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	here := host == "localhost" || ip != nil && ip.IsLoopback()
	return signInBody{local(next), r.TLS == nil && !here && r.Header.Get("X-Forwarded-Proto") != "https"}
}

func (c *Console) signInPage(r *http.Request) (*page, error) {
	return &page{name: "signin", Title: "Sign in", Body: bodyOf(r, r.URL.Query().Get("next"))}, nil
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
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	if err := r.ParseForm(); err != nil {
		c.render(w, r, c.troubled(r, badForm(err)))
		return
	}
	b := bodyOf(r, r.PostForm.Get("next"))
	if _, err := c.SignIn(w, r, r.PostForm.Get("token")); err != nil {
		p := &page{name: "signin", Title: "Sign in", status: http.StatusUnauthorized, Body: b, Fault: &fault{Title: "Not signed in", Detail: "The token was not accepted."}}
		var refused *auth.Error
		if errors.As(err, &refused) {
			p.status, p.Fault.Detail = refused.Status, refused.Detail
		}
		c.render(w, r, p)
		return
	}
	http.Redirect(w, r, b.Next, http.StatusSeeOther)
}

func (c *Console) signOut(w http.ResponseWriter, r *http.Request) {
	headers(w)
	if err := c.SignOut(w, r); err != nil {
		c.render(w, r, c.troubled(r, err))
		return
	}
	http.Redirect(w, r, "/signin", http.StatusSeeOther)
}
