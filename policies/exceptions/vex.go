package exceptions

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/openvex/go-vex/pkg/vex"
)

// maxStatements bounds an OpenVEX document, as do its products in all.
const maxStatements = 100_000

// ReadVEX reads an OpenVEX document (https://github.com/openvex/spec). Statements
// not_affected and fixed become exceptions for the packages that they name; a
// later statement about the same vulnerability and product replaces an earlier
// one, so an affected or under_investigation takes an exception back.
//
// A product that is an image (a package URL of type oci with repository_url, or
// a reference) gives the scope repo or image, and its subcomponents the
// packages; any other package URL is itself the package, in any image.
func ReadVEX(r io.Reader) ([]api.VulnerabilityException, error) {
	text, err := io.ReadAll(io.LimitReader(r, MaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading: %w", err)
	}
	if len(text) > MaxBytes {
		return nil, fmt.Errorf("the document has more than %d bytes", MaxBytes)
	}
	doc, err := parseVEX(text)
	if err != nil {
		return nil, fmt.Errorf("not OpenVEX: %w", err)
	}
	c := &vexCollector{doc: doc, latest: map[string]api.VulnerabilityExceptionSpec{}}
	for _, i := range inOrder(doc) {
		c.statement(i, doc.Statements[i])
	}
	if len(c.faults) > 0 {
		return nil, errors.Join(c.faults...)
	}
	var list []api.VulnerabilityException
	for _, key := range c.order {
		if spec, ok := c.latest[key]; ok {
			list = append(list, object(spec))
		}
	}
	slices.SortFunc(list, func(a, b api.VulnerabilityException) int { return cmp.Compare(a.Metadata.Name, b.Metadata.Name) })
	return slices.CompactFunc(list, func(a, b api.VulnerabilityException) bool { return a.Metadata.Name == b.Metadata.Name }), nil
}

// parseVEX guards against a parser that panics on hostile text.
func parseVEX(text []byte) (doc *vex.VEX, err error) {
	defer func() {
		if r := recover(); r != nil {
			doc, err = nil, fmt.Errorf("%v", r)
		}
	}()
	doc, err = vex.Parse(text)
	if err == nil && !strings.HasPrefix(doc.Context, "https://openvex.dev/ns") {
		err = fmt.Errorf("@context must start with https://openvex.dev/ns, not %.60q", doc.Context)
	}
	return doc, err
}

// inOrder are the positions of the statements by time, those of one time as they stand.
func inOrder(doc *vex.VEX) []int {
	at := func(i int) time.Time {
		s := doc.Statements[i]
		for _, t := range []*time.Time{s.LastUpdated, s.Timestamp, doc.Timestamp} {
			if t != nil {
				return *t
			}
		}
		return time.Time{}
	}
	order := make([]int, len(doc.Statements))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return at(a).Compare(at(b)) })
	return order
}

type vexCollector struct {
	doc    *vex.VEX
	latest map[string]api.VulnerabilityExceptionSpec
	order  []string
	faults []error
}

func (c *vexCollector) fault(at, format string, args ...any) {
	c.faults = append(c.faults, fmt.Errorf("%s: %s", at, fmt.Sprintf(format, args...)))
}

func (c *vexCollector) statement(i int, s vex.Statement) {
	at := fmt.Sprintf("statements[%d]", i)
	if err := s.Validate(); err != nil {
		c.fault(at, "%v", err)
		return
	}
	id := cmp.Or(string(s.Vulnerability.Name), s.Vulnerability.ID)
	if len(s.Products) == 0 {
		c.fault(at, "names no product")
	}
	for p, product := range s.Products {
		for _, spec := range c.specs(fmt.Sprintf("%s.products[%d]", at, p), product) {
			// One exception reaches every alias that an image's scan knows.
			spec.CVE = api.NormalizeID(id)
			spec.Author = c.doc.Author
			spec.Justification = justification(s)
			if c.doc.Timestamp != nil {
				spec.Created = c.doc.Timestamp.UTC().Format(time.RFC3339)
			}
			c.put(at, s.Status, spec)
		}
	}
}

func (c *vexCollector) put(at string, status vex.Status, spec api.VulnerabilityExceptionSpec) {
	key := fmt.Sprintf("%q", []any{spec.CVE, spec.Scope, spec.Registry, spec.Repository, spec.Tags, spec.Digest, spec.Packages})
	if _, known := c.latest[key]; !known {
		c.order = append(c.order, key)
	}
	if len(c.order) > maxStatements {
		c.fault(at, "the document has more than %d statements about products", maxStatements)
		return
	}
	if status != vex.StatusNotAffected && status != vex.StatusFixed {
		delete(c.latest, key)
		return
	}
	for _, f := range Validate(spec) {
		c.fault(at, "%s: %s", f.Path, f.Message)
	}
	c.latest[key] = spec
}

func justification(s vex.Statement) string {
	parts := []string{"OpenVEX " + string(s.Status)}
	for _, text := range []string{string(s.Justification), s.ImpactStatement, s.StatusNotes} {
		if text != "" {
			parts = append(parts, text)
		}
	}
	return strings.Join(parts, ": ")
}

// specs are the scopes and packages of one product: one for each package, so
// that a later statement can take back one of them.
func (c *vexCollector) specs(at string, p vex.Product) []api.VulnerabilityExceptionSpec {
	name := identifier(p.Component)
	if name == "" {
		c.fault(at, "has no @id and no purl")
		return nil
	}
	if strings.HasPrefix(name, "pkg:") && !strings.HasPrefix(name, "pkg:oci/") && !strings.HasPrefix(name, "pkg:docker/") {
		return []api.VulnerabilityExceptionSpec{{Scope: api.ScopeAny, Packages: []string{name}}}
	}
	spec, err := imageScope(name)
	if err != nil {
		c.fault(at, "%v", err)
		return nil
	}
	if len(p.Subcomponents) == 0 {
		return []api.VulnerabilityExceptionSpec{spec}
	}
	var specs []api.VulnerabilityExceptionSpec
	for i, sub := range p.Subcomponents {
		purl := identifier(sub.Component)
		if !strings.HasPrefix(purl, "pkg:") {
			c.fault(fmt.Sprintf("%s.subcomponents[%d]", at, i), "must be a package URL, not %.80q", purl)
			continue
		}
		one := spec
		one.Packages = []string{purl}
		specs = append(specs, one)
	}
	return specs
}

// identifier is the package URL of a component, else its @id.
func identifier(c vex.Component) string {
	if purl, ok := c.Identifiers[vex.PURL]; ok {
		return purl
	}
	return c.ID
}

// imageScope reads an image from a package URL of type oci, or a reference.
func imageScope(name string) (api.VulnerabilityExceptionSpec, error) {
	var spec api.VulnerabilityExceptionSpec
	if !strings.HasPrefix(name, "pkg:") {
		ref, err := api.ParseReference(name)
		if err != nil {
			return spec, err
		}
		return scopeOf(ref, strings.Contains(name, ":"+ref.Tag) && ref.Tag != ""), nil
	}
	rest, query, _ := strings.Cut(name, "?")
	query, _, _ = strings.Cut(query, "#")
	values, err := url.ParseQuery(query)
	if err != nil {
		return spec, fmt.Errorf("%.80q is no package URL: %w", name, err)
	}
	repository := values.Get("repository_url")
	if repository == "" {
		return spec, fmt.Errorf("%.80q names no repository: it needs ?repository_url=", name)
	}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		version, err := url.PathUnescape(rest[i+1:])
		if err != nil {
			return spec, fmt.Errorf("%.80q is no package URL: %w", name, err)
		}
		repository += "@" + version
	}
	ref, err := api.ParseReference(repository)
	if err != nil {
		return spec, err
	}
	if tag := values.Get("tag"); tag != "" && ref.Digest == "" {
		ref.Tag = tag
		return scopeOf(ref, true), nil
	}
	return scopeOf(ref, false), nil
}

func scopeOf(ref api.Reference, tagged bool) api.VulnerabilityExceptionSpec {
	spec := api.VulnerabilityExceptionSpec{Scope: api.ScopeRepo, Registry: ref.Registry(), Repository: ref.Repository()}
	switch {
	case ref.Digest != "":
		spec.Scope, spec.Digest = api.ScopeImage, ref.Digest
	case tagged:
		spec.Scope, spec.Tags = api.ScopeImage, []string{ref.Tag}
	}
	return spec
}
