package api

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Reference is a container image reference, normalised as Docker does: a bare
// nginx is docker.io/library/nginx:latest. The grammar is that of
// github.com/distribution/reference; a test holds the two together.
//
// It has two names. [Reference.Name] is the canonical one, the same for all spellings of a
// registry's host: what is known of an image is found by it. [Reference.WrittenName] has the
// host as the user wrote it: images are pulled by that, and found in a local store.
type Reference struct {
	// Host is the registry's host as written, such as "docker.io" or "localhost:5000".
	Host string
	// Path is the repository within the host, such as "library/nginx".
	Path string
	// Tag is empty when only a digest is given.
	Tag string
	// Digest is "sha256:…" or empty.
	Digest string
}

var (
	pathPattern   = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	hostPattern   = regexp.MustCompile(`^(?:(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?$`)
	tagPattern    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	digestPattern = regexp.MustCompile(`^(?:sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128}|sha384:[a-f0-9]{96})$`)
	hexOnly       = regexp.MustCompile(`^[a-f0-9]{64}$`)
)

const maxPath = 255

// ErrReference is wrapped by every error of [ParseReference].
var ErrReference = errors.New("invalid image reference")

// ParseReference parses and normalises a reference as a user writes it.
func ParseReference(s string) (Reference, error) {
	bad := func(why string) (Reference, error) {
		return Reference{}, fmt.Errorf("%w %.80q: %s", ErrReference, s, why)
	}
	if s == "" {
		return bad("it is empty")
	}
	if hexOnly.MatchString(s) {
		return bad("it is a bare 64-digit image id, not a name")
	}
	rest := s
	var r Reference
	if name, digest, found := strings.Cut(rest, "@"); found {
		if !digestPattern.MatchString(digest) {
			return bad("the part after @ is not a digest such as sha256:<64 hexadecimal digits>")
		}
		rest, r.Digest = name, digest
	}
	r.Host, rest = splitHost(rest)
	if path, tag, found := strings.Cut(rest, ":"); found {
		if !tagPattern.MatchString(tag) {
			return bad("the tag may have up to 128 letters, digits, '.', '_' and '-', and starts with none of '.-'")
		}
		rest, r.Tag = path, tag
	}
	if r.Host == "docker.io" && !strings.Contains(rest, "/") {
		rest = "library/" + rest
	}
	// The grammar reads a host such as ex_ample.com as a first path component.
	if !hostPattern.MatchString(r.Host) && !pathPattern.MatchString(r.Host) {
		return bad("the registry host is malformed")
	}
	if !pathPattern.MatchString(rest) {
		return bad("the repository must be lower-case letters and digits, separated by '.', '_', '-' or '/'")
	}
	if len(rest) > maxPath {
		return bad("the repository is longer than 255 characters")
	}
	r.Path = rest
	if r.Tag == "" && r.Digest == "" {
		r.Tag = "latest"
	}
	return r, nil
}

// looksLikeHost says that the first component of a name is a host: it has a dot, a colon or an
// upper-case letter, or is localhost.
func looksLikeHost(first string) bool {
	return strings.ContainsAny(first, ".:") || first == "localhost" || strings.ToLower(first) != first
}

// splitHost tells the registry host from the repository.
func splitHost(name string) (host, rest string) {
	first, after, found := strings.Cut(name, "/")
	if !found || !looksLikeHost(first) {
		return "docker.io", name
	}
	if first == "index.docker.io" {
		first = "docker.io"
	}
	return first, after
}

// hubHosts are the names of Docker Hub's registry.
var hubHosts = map[string]bool{"docker.io": true, "index.docker.io": true, "registry-1.docker.io": true, "registry.hub.docker.com": true}

// canonical is the one spelling of host and path: the host in lower case and without the port
// of HTTPS, Docker Hub's as docker.io with the library of official images. A host that would
// be read as a part of a path without its port keeps that: so the canonical form of a reference
// is a reference, and its own canonical form.
func (r Reference) canonical() (host, path string) {
	host, path = strings.ToLower(r.Host), r.Path
	port := "443"
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		port = cmp.Or(strings.TrimLeft(host[i+1:], "0"), "0")
		host = host[:i]
	}
	official := path
	if !strings.Contains(path, "/") {
		official = "library/" + path
	}
	switch {
	case port == "443" && hubHosts[host] && len(official) <= maxPath: // Docker Hub has no longer one
		host, path = "docker.io", official
	case port != "443" || !looksLikeHost(host):
		host += ":" + port
	}
	return host, path
}

// Name is the canonical host and path, without tag and digest: "docker.io/library/nginx", for
// registry-1.docker.io/library/nginx too.
func (r Reference) Name() string {
	host, path := r.canonical()
	return host + "/" + path
}

// WrittenName is host and path as written and normalised, without tag and digest.
func (r Reference) WrittenName() string { return r.Host + "/" + r.Path }

// String is the normalised reference, with the host as written.
func (r Reference) String() string { return r.WrittenName() + r.suffix() }

// Canonical is the reference with its canonical name.
func (r Reference) Canonical() string { return r.Name() + r.suffix() }

func (r Reference) suffix() (s string) {
	if r.Tag != "" {
		s = ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest
	}
	return s
}

// SameReference says that two texts are the same, or are references of one canonical form.
func SameReference(a, b string) bool {
	if a == b {
		return true
	}
	x, errX := ParseReference(a)
	y, errY := ParseReference(b)
	return errX == nil && errY == nil && x.Canonical() == y.Canonical()
}

// Registry is Calico's registry: all of the canonical name but its last component,
// "docker.io/library" for nginx.
func (r Reference) Registry() string {
	name := r.Name()
	return name[:strings.LastIndexByte(name, '/')]
}

// Repository is Calico's repository: the last component of the canonical name.
func (r Reference) Repository() string {
	name := r.Name()
	return name[strings.LastIndexByte(name, '/')+1:]
}

// NormalizedName joins Calico's registry and repository columns into a name
// as [Reference.Name] gives it. A blank registry is Docker Hub.
func NormalizedName(registry, repository string) (string, error) {
	joined := strings.Trim(repository, "/")
	if r := strings.Trim(registry, "/"); r != "" {
		joined = r + "/" + joined
	}
	r, err := ParseReference(joined)
	if err != nil {
		return "", err
	}
	if strings.ContainsAny(joined[strings.LastIndexByte(joined, '/')+1:], ":@") {
		return "", fmt.Errorf("%w %.80q: a repository has no tag and no digest", ErrReference, joined)
	}
	return r.Name(), nil
}

// CanonicalPrefix writes the host that begins a prefix of names as [Reference.Name] does, and
// leaves what begins with no host as it is: no name begins so.
func CanonicalPrefix(prefix string) string {
	host, path, found := strings.Cut(prefix, "/")
	if !looksLikeHost(host) || !hostPattern.MatchString(host) {
		return prefix
	}
	host, _ = Reference{Host: host, Path: "x/x"}.canonical()
	if found {
		host += "/"
	}
	return host + path
}

// NormalizeID writes the id of a vulnerability as databases do: CVE-2021-44228
// and GHSA-jfh8-c2jp-5v3q, whatever the case that it was typed in.
func NormalizeID(id string) string {
	id = strings.TrimSpace(id)
	upper := strings.ToUpper(id)
	if strings.HasPrefix(upper, "GHSA-") {
		return "GHSA-" + strings.ToLower(id[len("GHSA-"):])
	}
	if strings.HasPrefix(upper, "CVE-") {
		return upper
	}
	return id
}
