// Package registries scans whole registries: it lists the repositories and tags of
// one, asks where each tag leads to, and scans each image once however many names it
// has, and not again while nothing changed.
//
// [Walk] lists; [Run] scans what is listed, and keeps a [State] in a file, so that a
// run that is killed at any moment goes on with the next one. What cannot be listed,
// asked for or scanned is in the summary of the run, and is tried again by the next.
package registries

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/outgoing"
	"github.com/assay-dev/assay/scanner"
	"github.com/assay-dev/assay/scanner/pace"
)

// Source says which images of which registry.
type Source struct {
	// Registry is a host, such as "registry.example.com:5000", with or without a path
	// below which repositories are listed: "quay.io/example".
	Registry string
	// Repositories, where given, are those of the registry, by their full names without
	// the host. Nothing is listed then.
	Repositories []string
	// Include and Exclude are matched with "repository:tag", or "repository@digest" for
	// what has no tag. What any of Include matches is taken, everything when there is
	// none, and of that what none of Exclude matches. Where any of Exclude matches the
	// repository alone, its tags are not listed.
	Include, Exclude []*regexp.Regexp
	// Untagged also takes manifests without tag, where the registry lists them.
	Untagged bool
	// InsecureHTTP talks plain HTTP.
	InsecureHTTP bool
	// Realms are the hosts that the registry may have its credentials sent to, beside itself.
	Realms outgoing.Realms

	// Keychain finds credentials. Absent: [scanner.DefaultKeychain].
	Keychain authn.Keychain
	// Transport carries the requests. Unless it is a [pace.Transport] it is put into one.
	Transport http.RoundTripper
	// UserAgent is sent to the registry. Absent: "assay".
	UserAgent string
	// Lookups is how many tags are asked for side by side. 0: 8.
	Lookups int
	// QuayToken is an OAuth 2 token for the API of quay.io, which lists private
	// repositories with it.
	QuayToken string
	Log       *slog.Logger // nil: nothing is logged

	hub, quay string // where the APIs are; tests have others
}

// ErrSource is wrapped by errors about what the user wrote.
var ErrSource = errors.New("the registry cannot be scanned")

const maxLookups = 256

// target is a Source that was checked.
type target struct {
	Source
	host   string // as references have it
	prefix string // "" or a path
}

// Host is the registry's, without a path.
func (s Source) Host() (string, error) {
	t, err := s.check()
	return t.host, err
}

// check fills in what is absent, and finds all that is wrong.
func (s Source) check() (t target, err error) {
	t.Source = s
	var errs []error
	wrong := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: "+format, append([]any{ErrSource}, args...)...))
	}
	text := strings.TrimSuffix(strings.TrimPrefix(s.Registry, "https://"), "/")
	host, prefix, _ := strings.Cut(text, "/")
	if strings.HasPrefix(text, "http://") {
		wrong("%s: leave out http://, and say --insecure-http", redacted(s.Registry))
		return t, errors.Join(errs...)
	}
	path := prefix
	if path == "" {
		path = "x"
	}
	ref, err := api.ParseReference(host + "/" + path)
	if err != nil || ref.Host == "docker.io" && host != "docker.io" && host != "index.docker.io" || strings.ContainsAny(prefix, ":@") {
		wrong("%q must be HOST or HOST/PATH, such as registry.example.com or quay.io/example", redacted(s.Registry))
		return t, errors.Join(errs...)
	}
	t.host, t.prefix = ref.Host, prefix
	if len(s.Repositories) > 0 && prefix != "" {
		wrong("repositories are named in full, as in --registry %s --repository %s/…: leave the path out of the registry", t.host, prefix)
	}
	t.Repositories = nil
	for _, r := range s.Repositories {
		ref, err := api.ParseReference(t.host + "/" + r)
		if err != nil || strings.ContainsAny(r, ":@") {
			wrong("%.200q is no name of a repository, such as team/app", r)
		}
		t.Repositories = append(t.Repositories, ref.Path) // library/nginx for Docker Hub's nginx
	}
	if s.Lookups < 0 || s.Lookups > maxLookups {
		wrong("at most %d tags are asked for side by side", maxLookups)
	}
	if t.Lookups == 0 {
		t.Lookups = 8
	}
	if t.Keychain == nil {
		t.Keychain = scanner.DefaultKeychain()
	}
	if _, ok := t.Transport.(*pace.Transport); !ok {
		t.Transport = pace.New(pace.Config{Base: t.Transport})
	}
	if t.UserAgent == "" {
		t.UserAgent = "assay"
	}
	if t.Log == nil {
		t.Log = slog.New(slog.DiscardHandler)
	}
	if t.hub == "" {
		t.hub = "https://hub.docker.com"
	}
	if t.quay == "" {
		t.quay = "https://quay.io"
	}
	return t, errors.Join(errs...)
}

// redacted is a registry without the user and password that some write into it.
func redacted(s string) string {
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		return "…" + s[i:]
	}
	return s
}

// takes says whether a name, without the host, passes the filters.
func (s Source) takes(name string) bool {
	return (len(s.Include) == 0 || anyMatches(s.Include, name)) && !anyMatches(s.Exclude, name)
}

func anyMatches(list []*regexp.Regexp, name string) bool {
	return slices.ContainsFunc(list, func(r *regexp.Regexp) bool { return r.MatchString(name) })
}

// signature is what signatures and attestations are tagged with, for the digest of an image.
var signature = regexp.MustCompile(`^sha256-[0-9a-f]{64}(\.[A-Za-z0-9_.-]+)?$`)

// Covers says whether an image is one that a walk would meet, however the host of its registry
// is written.
func (s Source) Covers(ref api.Reference) bool {
	t, err := s.check()
	if err != nil {
		return false
	}
	t.host = api.CanonicalPrefix(t.host)
	full := ref.Name() + ":" + ref.Tag
	if ref.Tag == "" {
		full = ref.Name() + "@" + ref.Digest
	}
	return t.covers(full)
}

// covers says whether a name, with the host, is one that a walk would meet.
func (t target) covers(full string) bool {
	name, ours := strings.CutPrefix(full, t.host+"/")
	if !ours || !t.takes(name) {
		return false
	}
	repository, tag, _ := strings.Cut(name, ":")
	if r, _, untagged := strings.Cut(name, "@"); untagged {
		repository, tag = r, ""
	}
	if tag == "" && !t.Untagged || anyMatches(t.Exclude, repository) {
		return false
	}
	if len(t.Repositories) == 0 {
		return t.under(repository)
	}
	return slices.Contains(t.Repositories, repository)
}

// under says whether a repository is below the path.
func (t target) under(repository string) bool {
	return t.prefix == "" || repository == t.prefix || strings.HasPrefix(repository, t.prefix+"/")
}

// sameOrigin says whether a page's successor is where the page was.
func sameOrigin(a, b *url.URL) bool { return a.Scheme == b.Scheme && a.Host == b.Host }
