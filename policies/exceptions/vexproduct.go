package exceptions

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
	"github.com/openvex/go-vex/pkg/vex"
)

// A target is what a statement is about: a package, or all of them when purl is
// empty, in the images of a name, or in all when registry and repository are.
type target struct {
	registry, repository, tag, digest string
	purl, name, version               string // of the package, name and version as documents.ParsePURL has them
}

func (t target) spec() api.VulnerabilityExceptionSpec {
	spec := api.VulnerabilityExceptionSpec{Scope: api.ScopeAny, Registry: t.registry, Repository: t.repository, Digest: t.digest}
	switch {
	case t.digest != "":
		spec.Scope = api.ScopeImage
	case t.tag != "":
		spec.Scope, spec.Tags = api.ScopeImage, []string{t.tag}
	case t.repository != "":
		spec.Scope = api.ScopeRepo
	}
	if t.purl != "" {
		spec.Packages = []string{t.purl}
	}
	return spec
}

// overlaps says whether a package of an image may be what both are about. A tag
// and a digest may name the same image.
func (t target) overlaps(other target) bool {
	differ := func(a, b string) bool { return a != "" && b != "" && a != b }
	return !differ(t.repository, other.repository) && !differ(t.registry, other.registry) &&
		!differ(t.tag, other.tag) && !differ(t.digest, other.digest) &&
		!differ(t.name, other.name) && !differ(t.version, other.version)
}

// targetsOf are those of one product, and what is wrong with the others.
func targetsOf(p vex.Product) (targets []target, faults []error) {
	name := identifier(p.Component)
	if name == "" {
		return nil, []error{errors.New("has no @id and no purl")}
	}
	if strings.HasPrefix(name, "pkg:") && !strings.HasPrefix(name, "pkg:oci/") && !strings.HasPrefix(name, "pkg:docker/") {
		t, err := target{}.with(name)
		if err != nil {
			return nil, []error{err}
		}
		return []target{t}, nil
	}
	image, err := imageOf(name)
	if err != nil {
		return nil, []error{err}
	}
	if hash := "sha256:" + strings.ToLower(string(p.Hashes[vex.SHA256])); image.digest == "" && digestPattern.MatchString(hash) {
		image.tag, image.digest = "", hash
	}
	if len(p.Subcomponents) == 0 {
		return []target{image}, nil
	}
	for i, sub := range p.Subcomponents {
		t, err := image.with(identifier(sub.Component))
		if err != nil {
			faults = append(faults, fmt.Errorf("subcomponents[%d]: %w", i, err))
			continue
		}
		targets = append(targets, t)
	}
	return targets, faults
}

// with narrows a target to one package.
func (t target) with(purl string) (target, error) {
	var err error
	t.purl = purl
	t.name, t.version, err = documents.ParsePURL(purl)
	return t, err
}

// identifier is the package URL of a component, else its @id.
func identifier(c vex.Component) string {
	if purl, ok := c.Identifiers[vex.PURL]; ok {
		return purl
	}
	return c.ID
}

// imageOf reads an image from a package URL of type oci or docker, or a reference.
func imageOf(name string) (target, error) {
	if !strings.HasPrefix(name, "pkg:") {
		ref, err := api.ParseReference(name)
		if err != nil {
			return target{}, err
		}
		if !strings.HasSuffix(strings.Split(name, "@")[0], ":"+ref.Tag) {
			ref.Tag = "" // was not written
		}
		return targetOf(ref), nil
	}
	rest, _, _ := strings.Cut(name, "#")
	rest, query, _ := strings.Cut(rest, "?")
	qualifiers, err := url.ParseQuery(query)
	if err != nil {
		return target{}, fmt.Errorf("%.80q is no package URL: %w", name, err)
	}
	path, version, err := documents.ParsePURL(rest)
	if err != nil {
		return target{}, err
	}
	kind, path, _ := strings.Cut(path, "/")
	repository := strings.Trim(qualifiers.Get("repository_url"), "/")
	for _, scheme := range []string{"https://", "http://", "oci://"} {
		repository = strings.TrimPrefix(repository, scheme)
	}
	switch {
	case kind == "docker" && repository != "":
		repository += "/" + path // the qualifier has the registry alone
	case kind == "docker":
		repository = path
	case repository == "":
		return target{}, fmt.Errorf("%.80q names no repository: it needs ?repository_url=", name)
	case !strings.EqualFold(repository[strings.LastIndexByte(repository, '/')+1:], path):
		repository += "/" + path // as some tools write it: without the last component
	}
	tag := qualifiers.Get("tag")
	switch {
	case strings.Contains(version, ":"):
		repository, tag = repository+"@"+version, ""
	case tag == "":
		tag = version
	}
	ref, err := api.ParseReference(repository)
	if err != nil {
		return target{}, err
	}
	ref.Tag = tag
	return targetOf(ref), nil
}

func targetOf(ref api.Reference) target {
	t := target{registry: ref.Registry(), repository: ref.Repository(), digest: ref.Digest}
	if ref.Digest == "" {
		t.tag = ref.Tag
	}
	return t
}
