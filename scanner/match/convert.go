package match

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	v6 "github.com/anchore/grype/grype/db/v6"
	grypematch "github.com/anchore/grype/grype/match"
	"github.com/anchore/grype/grype/pkg"
	"github.com/anchore/grype/grype/vulnerability"

	"github.com/assay-dev/assay/api"
)

// convert makes the API's vulnerabilities of Grype's matches.
func convert(ctx context.Context, matches grypematch.Matches, p vulnerability.Provider, packages Packages, known *halves) ([]api.Vulnerability, error) {
	c := converter{provider: p, known: known}
	out := make([]api.Vulnerability, 0, matches.Count())
	for _, list := range matches.AllByPkgID() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		for i := range list {
			v, err := c.vulnerability(&list[i])
			if err != nil {
				return nil, err
			}
			at, err := strconv.Atoi(string(list[i].Package.ID))
			if err != nil || at >= len(packages.rows) {
				return nil, fmt.Errorf("there is no package %q", list[i].Package.ID)
			}
			v.Locations, v.Layer = packages.rows[at].Paths, packages.rows[at].Layer
			out = append(out, v)
		}
	}
	slices.SortFunc(out, compare)
	return slices.CompactFunc(out, func(a, b api.Vulnerability) bool { return reflect.DeepEqual(a, b) }), nil
}

// compare puts the highest score first and those without score last.
func compare(a, b api.Vulnerability) int {
	score := func(v api.Vulnerability) float64 {
		if v.CVSS == nil {
			return -1
		}
		return *v.CVSS
	}
	return cmp.Or(
		cmp.Compare(score(b), score(a)),
		cmp.Compare(a.ID, b.ID), cmp.Compare(a.Package, b.Package), cmp.Compare(a.Version, b.Version),
		cmp.Compare(a.PURL, b.PURL), cmp.Compare(a.Type, b.Type), cmp.Compare(a.Namespace, b.Namespace),
		slices.Compare(a.Locations, b.Locations), cmp.Compare(a.Layer, b.Layer),
		cmp.Compare(a.Fix.State, b.Fix.State), slices.Compare(a.Fix.Versions, b.Fix.Versions),
	)
}

type converter struct {
	provider vulnerability.Provider
	known    *halves
}

// related is what the record of a related vulnerability adds.
type related struct {
	meta      *vulnerability.Metadata
	published *time.Time
}

func (c *converter) vulnerability(m *grypematch.Match) (api.Vulnerability, error) {
	v, p := &m.Vulnerability, &m.Package
	meta := v.Metadata
	if meta == nil {
		var err error
		//lint:ignore SA1019 as Grype's own presenters do
		if meta, err = c.provider.VulnerabilityMetadata(v.Reference); err != nil {
			return api.Vulnerability{}, err
		}
	}
	if meta == nil {
		meta = &vulnerability.Metadata{}
	}
	out := api.Vulnerability{
		ID: v.ID, Package: p.Name, Version: p.Version, Type: string(p.Type), PURL: p.PURL,
		Severity: severity(meta.Severity), Fix: fix(v.Fix),
		KEV: len(meta.KnownExploited) > 0, Namespace: v.Namespace,
		DataSource: meta.DataSource, Description: meta.Description,
	}
	published := publishedOf(v.Reference)
	scores := slices.Clone(meta.Cvss)
	epss := slices.Clone(meta.EPSS)
	alias := func(id string) {
		if id != "" && !strings.EqualFold(id, v.ID) && !slices.Contains(out.Aliases, id) {
			out.Aliases = append(out.Aliases, id)
		}
	}
	if h := handleOf(v.Reference); h != nil && h.BlobValue != nil {
		for _, id := range h.BlobValue.Aliases {
			alias(id)
		}
	}
	for _, ref := range v.RelatedVulnerabilities {
		alias(ref.ID)
		r, err := c.lookUp(ref)
		if err != nil {
			return api.Vulnerability{}, err
		}
		if r.meta == nil {
			continue
		}
		scores = append(scores, r.meta.Cvss...)
		epss = append(epss, r.meta.EPSS...)
		out.KEV = out.KEV || len(r.meta.KnownExploited) > 0
		out.Description = cmp.Or(out.Description, r.meta.Description)
		if published == nil {
			published = r.published
		}
	}
	slices.Sort(out.Aliases)
	if best := bestScore(scores); best != nil {
		score := best.Metrics.BaseScore
		out.CVSS, out.Vector = &score, best.Vector
	}
	for _, e := range epss {
		if out.EPSS == nil || e.EPSS > *out.EPSS {
			probability := e.EPSS
			out.EPSS = &probability
		}
	}
	if published != nil && !published.IsZero() {
		out.Published = published.UTC().Format(time.RFC3339)
	}
	return out, nil
}

// publisher tells when a vulnerability was published, which the metadata of
// Grype's providers do not. Distributions often leave it to the CVE.
type publisher interface {
	Published(vulnerability.Reference) (*time.Time, error)
}

func (c *converter) publisher() (publisher, bool) {
	p := c.provider
	if r, ok := p.(*recorder); ok {
		p = r.Provider
	}
	out, ok := p.(publisher)
	return out, ok
}

// lookUp reads the record of a related vulnerability, and remembers it.
func (c *converter) lookUp(ref vulnerability.Reference) (related, error) {
	key := ref.Namespace + "\x00" + ref.ID
	if r, ok := c.known.related.Load(key); ok {
		return r.(related), nil
	}
	var r related
	//lint:ignore SA1019 as Grype's own presenters do
	meta, err := c.provider.VulnerabilityMetadata(ref)
	switch {
	case err != nil && !errors.Is(err, v6.ErrDBDoesNotExist):
		return r, err
	case err == nil:
		r.meta = meta
	}
	if p, ok := c.publisher(); ok {
		if r.published, err = p.Published(ref); err != nil {
			return r, err
		}
	}
	c.known.related.Store(key, r)
	c.known.relatedEntries.Add(1)
	return r, nil
}

func handleOf(ref vulnerability.Reference) *v6.VulnerabilityHandle {
	h, _ := ref.Internal.(*v6.VulnerabilityHandle)
	return h
}

func publishedOf(ref vulnerability.Reference) *time.Time {
	if h := handleOf(ref); h != nil {
		return h.PublishedDate
	}
	return nil
}

const unknown = "Unknown"

func severity(s string) string {
	for _, known := range []string{"Critical", "High", "Medium", "Low", "Negligible"} {
		if strings.EqualFold(s, known) {
			return known
		}
	}
	return unknown
}

// fix words Grype's fix. Available is when the first of the fixes appeared.
func fix(f vulnerability.Fix) api.Fix {
	out := api.Fix{State: string(f.State)}
	if out.State == "" {
		out.State = string(vulnerability.FixStateUnknown)
	}
	for _, v := range f.Versions {
		if v != "" && !slices.Contains(out.Versions, v) {
			out.Versions = append(out.Versions, v)
		}
	}
	var first time.Time
	for _, a := range f.Available {
		if !a.Date.IsZero() && (first.IsZero() || a.Date.Before(first)) {
			first = a.Date
		}
	}
	if !first.IsZero() {
		out.Available = first.UTC().Format(time.RFC3339)
	}
	return out
}

// placesOf gives the paths that show the package, and the lowest layer among
// them: files such as the status file of dpkg are rewritten by later layers.
func placesOf(p *pkg.Package, layers map[string]int) (paths []string, layer string) {
	lowest := -1
	for _, l := range p.Locations.ToSlice() {
		if l.RealPath != "" {
			paths = append(paths, l.RealPath)
		}
		if l.FileSystemID == "" {
			continue
		}
		n, known := layers[l.FileSystemID]
		switch {
		case known && (lowest < 0 || n < lowest):
			lowest, layer = n, l.FileSystemID
		case !known && layer == "" && len(layers) == 0:
			layer = l.FileSystemID
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths), layer
}
