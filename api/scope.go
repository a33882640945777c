package api

import (
	"fmt"
	"slices"
	"strings"
)

// Scope bounds what an identity may say and see; its zero value does not. A subject is an image
// of a canonical name in a cluster; a scope speaks of it when both of its parts fit. Its text
// form, in JSON, YAML and stores, is "all", or one or more of "cluster=prod-eu", "group=prod" and
// "registry=quay.io/acme" with commas.
type Scope struct {
	// Cluster is the only cluster whose containers and decisions the identity speaks of.
	Cluster string
	// Group is a trust group of clusters, within which claims and evidence are shared: what the
	// identity says of an image's packages counts in each of them. A cluster is in the groups
	// that scopes name beside it.
	Group string
	// Registry begins every name that the identity speaks of: a canonical host (see
	// [CanonicalPrefix]), and as many whole components of the path as are given.
	Registry string
}

// maxScope bounds the text of a scope, in bytes.
const maxScope = 1024

// ParseScope reads the text form; an empty text is "all", as stores have it. Of a registry's
// host any spelling is taken, and the canonical one given.
func ParseScope(text string) (Scope, error) {
	var s Scope
	if text == "" || text == "all" {
		return s, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(part, "=")
		to := map[string]*string{"cluster": &s.Cluster, "group": &s.Group, "registry": &s.Registry}[key]
		if key == "registry" {
			value = CanonicalPrefix(strings.TrimSuffix(value, "/"))
		}
		if to == nil || *to != "" || value == "" || len(text) > maxScope || strings.TrimSpace(value) != value {
			return Scope{}, fmt.Errorf("scope %.80q: want all, or some of cluster=NAME, group=NAME and registry=PREFIX with commas, each once", text)
		}
		*to = value
	}
	return s, nil
}

// All says whether the scope bounds nothing.
func (s Scope) All() bool { return s == Scope{} }

// SpeaksOf says whether evidence of a canonical name, a host and a path, counts in a cluster
// that is in some trust groups. A cluster of "" stands for all of them.
func (s Scope) SpeaksOf(cluster string, groups []string, name string) bool {
	everywhere := s.Cluster == "" && s.Group == ""
	here := cluster != "" && (s.Cluster == cluster || s.Group != "" && slices.Contains(groups, s.Group))
	return (everywhere || here) && s.AllowsName(name)
}

// AllowsCluster says whether the identity may say what runs and what was decided in a cluster.
// A group alone is none, and whoever is bound to a registry knows a part of a cluster only.
func (s Scope) AllowsCluster(name string) bool {
	return s.All() || s.Cluster != "" && s.Cluster == name && s.Registry == ""
}

// AllowsName says whether a canonical name, a host and a path, is within the registry.
func (s Scope) AllowsName(name string) bool {
	return s.Registry == "" || strings.HasPrefix(name+"/", s.Registry+"/")
}

// AllowsImage is AllowsName for a reference as a user writes it. A malformed one is allowed only
// where no registry bounds.
func (s Scope) AllowsImage(reference string) bool {
	if s.Registry == "" {
		return true
	}
	ref, err := ParseReference(reference)
	return err == nil && s.AllowsName(ref.Name())
}

// String is the text form.
func (s Scope) String() string {
	if s.All() {
		return "all"
	}
	var parts []string
	for _, p := range []struct{ key, value string }{{"cluster", s.Cluster}, {"group", s.Group}, {"registry", s.Registry}} {
		if p.value != "" {
			parts = append(parts, p.key+"="+p.value)
		}
	}
	return strings.Join(parts, ",")
}

// MarshalText gives the text form, or an error when a name has none.
func (s Scope) MarshalText() ([]byte, error) {
	text := s.String()
	if back, err := ParseScope(text); err != nil || back != s {
		return nil, fmt.Errorf("scope %.80q cannot be written as text", text)
	}
	return []byte(text), nil
}

// UnmarshalText reads the text form.
func (s *Scope) UnmarshalText(text []byte) (err error) {
	*s, err = ParseScope(string(text))
	return err
}
