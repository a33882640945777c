package outgoing

import (
	"errors"
	"net/http"
	"net/netip"
)

// NoRedirects is for clients that carry a secret or a body: a redirect is their answer.
func NoRedirects(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// StaySecure follows up to ten redirects, and none from HTTPS to something else.
func StaySecure(r *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("it redirects ten times")
	}
	if via[len(via)-1].URL.Scheme == "https" && r.URL.Scheme != "https" {
		return refused(ErrPlainHTTP, "%s redirects to %s://%s", via[len(via)-1].URL.Host, r.URL.Scheme, r.URL.Host)
	}
	return nil
}

// IsLoopback says whether a host of a URL is this machine by its very spelling.
func IsLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.Unmap().IsLoopback()
}
