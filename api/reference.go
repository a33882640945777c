package api

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Reference is a container image reference, normalised as Docker does: a bare
// nginx is docker.io/library/nginx:latest. The grammar is that of
// github.com/distribution/reference; a test holds the two together.
type Reference struct {
	// Host is the registry's host, such as "docker.io" or "localhost:5000".
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

// splitHost tells the registry host from the repository: the first component
// is a host when it has a dot, a colon or an upper-case letter, or is localhost.
func splitHost(name string) (host, rest string) {
	first, after, found := strings.Cut(name, "/")
	if !found || !strings.ContainsAny(first, ".:") && first != "localhost" && strings.ToLower(first) == first {
		return "docker.io", name
	}
	if first == "index.docker.io" {
		first = "docker.io"
	}
	return first, after
}

// Name is host and path, without tag and digest: "docker.io/library/nginx".
func (r Reference) Name() string { return r.Host + "/" + r.Path }

// String is the normalised reference.
func (r Reference) String() string {
	s := r.Name()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest
	}
	return s
}

// Registry is Calico's registry: all of the name but its last component,
// "docker.io/library" for nginx.
func (r Reference) Registry() string {
	name := r.Name()
	return name[:strings.LastIndexByte(name, '/')]
}

// Repository is Calico's repository: the last component of the name.
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
