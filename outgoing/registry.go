package outgoing

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Realms are the hosts, beside itself, that a registry may have its credentials sent to.
// The key is the registry's host.
type Realms map[string][]string

// ParseRealms reads REGISTRY=HOST, such as registry.example.com=gitlab.example.com.
func ParseRealms(list []string) (Realms, error) {
	all := Realms{}
	var errs []error
	for _, text := range list {
		registry, realm, ok := strings.Cut(text, "=")
		if !ok || !isHost(registry) || !isHost(realm) {
			errs = append(errs, fmt.Errorf("%q must be REGISTRY=HOST, such as registry.example.com=gitlab.example.com", text))
			continue
		}
		key := canonical(registry)
		all[key] = append(all[key], realm)
	}
	return all, errors.Join(errs...)
}

func isHost(text string) bool {
	u, err := url.Parse("https://" + text)
	return err == nil && u.Host == text && u.Hostname() != ""
}

// known are registries whose tokens are another host's to give.
var known = Realms{
	"docker.io":           {"auth.docker.io"},
	"registry.gitlab.com": {"gitlab.com"},
}

// canonical is a host as the keys of Realms have it.
func canonical(host string) string {
	host = strings.ToLower(strings.TrimSuffix(host, ":443"))
	switch host {
	case "index.docker.io", "registry-1.docker.io":
		return "docker.io"
	}
	return host
}

// Registry carries the requests to one registry, and to where it redirects and has tokens
// made: by HTTPS, and with credentials for itself alone.
type Registry struct {
	Base http.RoundTripper
	// Host is the registry's, as references have it.
	Host string
	// PlainHTTP allows requests in the clear.
	PlainHTTP bool
	// Realms may have credentials, too.
	Realms Realms
}

// RoundTrip implements [http.RoundTripper].
func (r *Registry) RoundTrip(request *http.Request) (*http.Response, error) {
	if s := request.URL.Scheme; s != "https" && (s != "http" || !r.PlainHTTP) {
		return nil, closed(request, refused(ErrPlainHTTP, "%s; --insecure-http (insecureHTTP of a listed registry) allows it", request.URL.Host))
	}
	if to := request.URL.Hostname(); carriesCredentials(request) && !r.trusts(request.URL) {
		return nil, closed(request, refused(ErrRealm, "%s has them sent to %s; --token-realm %s=%s allows it", r.Host, to, r.Host, to))
	}
	return r.Base.RoundTrip(request)
}

// carriesCredentials says whether a request has credentials, or a body, in which they may be.
func carriesCredentials(request *http.Request) bool {
	return request.Header.Get("Authorization") != "" || request.Header.Get("Cookie") != "" || request.URL.User != nil ||
		request.Body != nil && request.Body != http.NoBody
}

// trusts says whether a registry's credentials may go to a host. Ports are not told apart.
func (r *Registry) trusts(to *url.URL) bool {
	same := func(host string) bool {
		u, err := url.Parse("https://" + host)
		return err == nil && strings.EqualFold(u.Hostname(), to.Hostname())
	}
	key := canonical(r.Host)
	return same(r.Host) || key == "docker.io" && canonical(to.Host) == key ||
		slices.ContainsFunc(known[key], same) || slices.ContainsFunc(r.Realms[key], same)
}

// closed closes what a transport has to close.
func closed(request *http.Request, err error) error {
	if request.Body != nil {
		request.Body.Close()
	}
	return err
}
