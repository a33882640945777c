package corpus

import (
	"fmt"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
)

// exceptions are about vulnerabilities and images of the scans for the most
// part, and miss them narrowly for the rest.
func (g *gen) exceptions(scans []api.Scan) []api.VulnerabilityException {
	var out []api.VulnerabilityException
	for i := range g.IntN(24) {
		e := api.VulnerabilityException{TypeMeta: api.TypeMeta{APIVersion: api.GroupAssay, Kind: api.KindVulnerabilityException}}
		e.Metadata.Name = fmt.Sprintf("exception-%d", i)
		scan := one(g, scans)
		if len(scan.Vulnerabilities) > 0 && g.chance(75) {
			e.Spec = g.exception(scan, one(g, worst(scan)))
		} else {
			f := one(g, flaws)
			e.Spec = g.exception(scan, api.Vulnerability{ID: f.id, Aliases: f.aliases})
		}
		out = append(out, e)
	}
	return out
}

// worst are the vulnerabilities of the highest score.
func worst(s api.Scan) []api.Vulnerability {
	var out []api.Vulnerability
	top := -1.0
	for _, v := range s.Vulnerabilities {
		score := 0.0
		if v.CVSS != nil {
			score = *v.CVSS
		}
		if score > top {
			top, out = score, nil
		}
		if score == top {
			out = append(out, v)
		}
	}
	return out
}

func (g *gen) exception(scan api.Scan, v api.Vulnerability) api.VulnerabilityExceptionSpec {
	s := api.VulnerabilityExceptionSpec{
		CVE: one(g, append([]string{v.ID}, v.Aliases...)), Justification: "not reachable", Author: "sec@example.com",
		Scope: one(g, []string{api.ScopeAny, api.ScopeRepo, api.ScopeImage, api.ScopeImage}),
	}
	if (strings.HasPrefix(s.CVE, "CVE-") || strings.HasPrefix(s.CVE, "GHSA-")) && g.chance(8) {
		s.CVE = strings.ToLower(s.CVE)
	}
	name, tag, digest := one(g, names), one(g, tags), g.anyDigest()
	if ref, err := api.ParseReference(scan.Image); err == nil && g.chance(70) {
		name = ref.WrittenName()
		if ref.Tag != "" {
			tag = ref.Tag
		}
	}
	if scan.Digest != "" && g.chance(80) {
		digest = scan.Digest
		if scan.Index != nil && g.chance(50) {
			digest = scan.Index.Digest
		}
	}
	if s.Scope != api.ScopeAny {
		s.Registry, s.Repository = g.splitName(name)
	}
	if s.Scope == api.ScopeImage {
		if g.chance(50) {
			s.Tags = []string{tag}
			if other := one(g, tags); other != tag && g.chance(40) {
				s.Tags = append(s.Tags, other)
			}
		} else {
			s.Digest = digest
		}
	}
	switch g.IntN(5) {
	case 0:
		s.Expires = g.around(g.now).Format(time.RFC3339)
	case 1:
		s.Expires = g.around(g.now).In(time.FixedZone("", -3*3600)).Format(time.RFC3339)
	case 2:
		s.Expires = g.now.AddDate(0, 1, 0).Format(time.RFC3339)
	}
	if g.chance(30) {
		s.Until = g.until(v)
	}
	if g.chance(25) {
		s.Packages = some(g, 1+g.IntN(3), purls)
		if v.PURL != "" && g.chance(60) {
			plain, _, _ := strings.Cut(v.PURL, "?")
			plain, _, _ = strings.Cut(plain, "#")
			s.Packages = append(s.Packages, one(g, []string{v.PURL, plain, plain[:strings.LastIndexByte(plain, '@')]}))
		}
	}
	return s
}

// until has at least one condition, at or beside what holds for the vulnerability.
func (g *gen) until(v api.Vulnerability) *api.Until {
	u := &api.Until{Fixable: g.chance(20), KEV: g.chance(25)}
	if g.chance(45) {
		u.CVSSAbove = ptr(g.score())
		if v.CVSS != nil && g.chance(60) {
			u.CVSSAbove = ptr(*v.CVSS)
		}
	}
	if g.chance(45) || *u == (api.Until{}) {
		u.EPSSAbove = ptr(g.probability())
		if v.EPSS != nil && g.chance(60) {
			u.EPSSAbove = ptr(*v.EPSS)
		}
	}
	return u
}
