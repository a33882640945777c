package corpus

import (
	"fmt"
	"strings"

	"github.com/assay-dev/assay/api"
)

var (
	namespaces  = []string{"default", "prod", "dev", "kube-system", "assay-system", "prod", "default", "dev", "prod"}
	labelKeys   = []string{"app", "tier", "env", "team.io/name", "in", "kubernetes.io/metadata.name"}
	labelValues = []string{"web", "db", "prod", "dev", "", "web-db"}
)

// paths are regular expressions for imagePath.
var paths = []string{
	`nginx`, `^nginx`, `^nginx$`, `(?i)NGINX`, `^docker\.io/library/`, `quay\.io|ghcr\.io`, `^(?:redis|nginx)(?::|$)`, `:latest$`,
	`:latest`, `@sha256:`, `^$`, `.*`, `tigera/(node|app):1\.0`, `^localhost:5000/`, `^docker\.io/.*@sha256:10`, `[A-Z]`, `\bapp\b`,
	`^quay\.io/tigera/`, `^ghcr\.io/acme/app:`, `^.{5}\.io/`, `:0?443/`, `^localhost:5000/app:`,
}

func (g *gen) policies() []api.ContainerAdmissionPolicy {
	var out []api.ContainerAdmissionPolicy
	for _, name := range some(g, 1+g.IntN(6), []string{"a", "a-b", "a.b", "b", "base", "p0", "p10", "p2", "z-last"}) {
		p := api.ContainerAdmissionPolicy{TypeMeta: api.TypeMeta{APIVersion: api.GroupPolicy, Kind: api.KindContainerAdmissionPolicy}}
		p.Metadata.Name = name
		switch g.IntN(8) {
		case 0:
			p.Metadata.Annotations = map[string]string{api.EnforcementAnnotation: api.Warn}
		case 1:
			p.Metadata.Annotations = map[string]string{api.EnforcementAnnotation: api.Audit}
		case 2:
			p.Metadata.Annotations = map[string]string{api.EnforcementAnnotation: api.Enforce, "note": "x"}
		}
		if !g.chance(25) {
			p.Spec.Order = ptr(one(g, []float64{-10, -0.5, 0, 0.5, 0.25, 1, 1, 1, 2, 10, 1e6}))
		}
		if g.chance(50) {
			p.Spec.Selector = g.selector(g.IntN(3))
		}
		if g.chance(50) {
			p.Spec.NamespaceSelector = g.selector(g.IntN(3))
		}
		for range g.IntN(6) {
			p.Spec.Rules = append(p.Spec.Rules, g.rule())
		}
		out = append(out, p)
	}
	g.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

func (g *gen) rule() api.Rule {
	r := api.Rule{Action: one(g, []string{api.Allow, api.Reject, api.Reject})}
	operator := func() string { return one(g, []string{api.IsOneOf, api.IsOneOf, api.IsNoneOf}) }
	if g.chance(45) {
		r.ImagePath = &api.ValuesCriterion{Operator: operator(), Values: some(g, 1+g.IntN(3), paths)}
	}
	if g.chance(45) {
		r.ImageScanStatus = &api.ValuesCriterion{Operator: operator(), Values: some(g, 1+g.IntN(2), []string{"Pass", "Warn", "Fail", "Unknown"})}
	}
	if g.chance(30) {
		r.ImageLastScan = &api.TimeCriterion{Operator: one(g, []string{"gt", "lt"})}
		if g.chance(70) {
			r.ImageLastScan.Duration = ptr(one(g, durations))
		} else {
			r.ImageLastScan.Time = one(g, absolute)
		}
	}
	return r
}

// selector is a selector of the depth, with white space, quotes and parentheses as they come.
func (g *gen) selector(depth int) string {
	sp := func() string { return one(g, []string{"", " ", " ", "  ", "\t"}) }
	if depth > 0 {
		switch g.IntN(4) {
		case 0:
			return "!" + sp() + "(" + sp() + g.selector(depth-1) + ")"
		case 1:
			return g.selector(depth-1) + sp() + "&&" + sp() + g.selector(depth-1)
		case 2:
			return g.selector(depth-1) + sp() + "||" + sp() + g.selector(depth-1)
		}
		return "(" + g.selector(depth-1) + sp() + one(g, []string{"&&", "||"}) + sp() + g.selector(depth-1) + ")"
	}
	quote := func(v string) string {
		q := one(g, []string{"'", `"`})
		return q + v + q
	}
	key, value := one(g, labelKeys), one(g, labelValues)
	if key == "kubernetes.io/metadata.name" {
		value = one(g, namespaces)
	}
	set := func() string {
		var vs []string
		for _, v := range some(g, g.IntN(4), labelValues) {
			vs = append(vs, quote(v)+sp())
		}
		return "{" + sp() + strings.Join(vs, ","+sp()) + "}"
	}
	switch g.IntN(13) {
	case 0:
		return "all()"
	case 1:
		return one(g, []string{"global()", "!global()", "global( )"})
	case 2:
		return one(g, []string{"", "!", "!!", "! "}) + "has(" + sp() + key + sp() + ")"
	case 3, 4:
		return key + sp() + "==" + sp() + quote(value)
	case 5, 6:
		return key + sp() + "!=" + sp() + quote(value)
	case 7:
		return key + " in" + sp() + set()
	case 8:
		return key + one(g, []string{" not in", " notin", "  not  in"}) + sp() + set()
	case 9:
		return fmt.Sprintf("%s contains%s%s", key, sp(), quote(one(g, []string{"e", "web", "-", ""})))
	case 10:
		return fmt.Sprintf("%s starts%swith%s%s", key, sp(), sp(), quote(one(g, []string{"w", "pro", "kube-", "x"})))
	case 11:
		return fmt.Sprintf("%s ends with %s", key, quote(one(g, []string{"b", "d", "-system", "x"})))
	}
	return "! " + key + " == " + quote(value)
}
