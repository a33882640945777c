package policies

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/policies/exceptions"
	"github.com/assay-dev/assay/policies/selector"
	"github.com/assay-dev/assay/stream"
	"go.yaml.in/yaml/v3"
)

// Bounds of one policy.
const (
	maxRules   = 1000
	maxValues  = 1000
	maxMessage = 200    // runes of an author's message: a warning may have room for 256
	maxPattern = 10_000 // bytes of a regular expression
	maxDays    = 100 * 366
)

// checker reports what is wrong with one decoded object at its place.
type checker struct {
	doc    document
	places stream.Places
}

// at reports a fault at a member, or at the nearest one that is there.
func (c checker) at(path, format string, args ...any) { c.inside(path, -1, format, args...) }

// inside reports a fault at a byte of a member's text.
func (c checker) inside(path string, offset int, format string, args ...any) {
	n, where := c.places.At(path)
	line, column := n.Line, n.Column
	if offset >= 0 && where == path && n.Kind == yaml.ScalarNode && n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) == 0 {
		column += offset
		if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
			column++
		}
	}
	*c.doc.diags = append(*c.doc.diags, c.doc.FaultAt(line, column, path, format, args...))
}

// origin is the place of a member.
func (c checker) origin(path string) Origin {
	n := c.doc.node
	if p, ok := c.places[path]; ok {
		n = p
	}
	return Origin{File: c.doc.File, Line: n.Line}
}

var namePattern = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)

// object decodes and validates one object, and adds it to the set when it is sound.
func (l *loader) object(d document, kind string) {
	before := len(l.diags)
	switch kind {
	case api.KindContainerAdmissionPolicy:
		var p Policy
		c := checker{d, d.decode(&p.ContainerAdmissionPolicy)}
		l.name(c, kind, p.Metadata)
		c.policy(&p)
		if len(l.diags) == before {
			l.set.Policies = append(l.set.Policies, p)
		}
	case api.KindGlobalAlert:
		var a Alert
		c := checker{d, d.decode(&a.GlobalAlert)}
		l.name(c, kind, a.Metadata)
		c.alert(&a)
		if len(l.diags) == before {
			l.set.Alerts = append(l.set.Alerts, a)
		}
	case api.KindGlobalAlertTemplate:
		var t api.GlobalAlertTemplate
		c := checker{d, d.decode(&t)}
		l.name(c, kind, t.Metadata)
		c.alert(&Alert{GlobalAlert: api.GlobalAlert{Spec: t.Spec}})
		if len(l.diags) == before {
			l.set.Templates = append(l.set.Templates, t)
		}
	case api.KindVerdictAlert:
		var v VerdictAlert
		c := checker{d, d.decode(&v.VerdictAlert)}
		l.name(c, kind, v.Metadata)
		c.verdictAlert(&v)
		if len(l.diags) == before {
			l.set.VerdictAlerts = append(l.set.VerdictAlerts, v)
		}
	case api.KindVulnerabilityException:
		var e api.VulnerabilityException
		c := checker{d, d.decode(&e)}
		l.name(c, kind, e.Metadata)
		c.exception(&e)
		if len(l.diags) == before {
			l.set.Exceptions = append(l.set.Exceptions, e)
		}
	case api.KindThresholds:
		var t api.Thresholds
		c := checker{d, d.decode(&t)}
		l.name(c, kind, t.Metadata)
		l.only(c, kind)
		c.thresholds(t.Spec)
		l.set.Thresholds, l.set.ThresholdsOrigin = t.Spec, c.origin("spec")
	case api.KindAdmissionSettings:
		var s api.AdmissionSettings
		c := checker{d, d.decode(&s)}
		l.name(c, kind, s.Metadata)
		l.only(c, kind)
		if s.Metadata.Name != "" && s.Metadata.Name != "default" {
			c.at("metadata.name", "must be default: there is one AdmissionSettings")
		}
		c.settings(s.Spec)
		l.set.Settings = s.Spec
	}
}

// name checks metadata.name, and that no other object of the kind has it.
func (l *loader) name(c checker, kind string, m api.ObjectMeta) {
	if m.Name == "" {
		c.at("metadata.name", "is missing")
		return
	}
	if !namePattern.MatchString(m.Name) {
		c.at("metadata.name", "must be lower-case letters, digits, '-' and '.', and start and end with a letter or digit")
	}
	if m.Namespace != "" {
		c.at("metadata.namespace", "must be absent: a %s is cluster-scoped", kind)
	}
	key := [2]string{kind, m.Name}
	if other, ok := l.seen[key]; ok {
		c.at("metadata.name", "there is another %s named %s at %s", kind, m.Name, other)
		return
	}
	l.seen[key] = c.origin("metadata.name")
}

// only reports a second object of a kind that may exist once.
func (l *loader) only(c checker, kind string) {
	key := [2]string{kind, ""}
	if other, ok := l.seen[key]; ok {
		c.at("", "there is another %s at %s; at most one may be in force", kind, other)
		return
	}
	l.seen[key] = c.origin("")
}

func (c checker) oneOf(path, value string, allowed ...string) bool {
	if slices.Contains(allowed, value) {
		return true
	}
	list := strings.Join(allowed[:len(allowed)-1], ", ") + " or " + allowed[len(allowed)-1]
	if value == "" {
		c.at(path, "is missing; it must be %s", list)
	} else {
		c.at(path, "must be %s, not %q", list, value)
	}
	return false
}

func (c checker) policy(p *Policy) {
	p.Origin = c.origin("metadata.name")
	p.Mode = api.Enforce
	if text, ok := p.Metadata.Annotations[api.MessageAnnotation]; ok {
		switch n := utf8.RuneCountInString(text); {
		case strings.TrimSpace(text) == "":
			c.at("metadata.annotations."+api.MessageAnnotation, "must not be empty")
		case n > maxMessage:
			c.at("metadata.annotations."+api.MessageAnnotation, "has %d characters; at most %d are allowed", n, maxMessage)
		case strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }):
			c.at("metadata.annotations."+api.MessageAnnotation, "must be one line, without control characters")
		}
	}
	if mode, ok := p.Metadata.Annotations[api.EnforcementAnnotation]; ok {
		c.oneOf("metadata.annotations."+api.EnforcementAnnotation, mode, api.Enforce, api.Warn, api.Audit)
		p.Mode = mode
	}
	p.selector = c.selector("spec.selector", p.Spec.Selector)
	p.namespaceSelector = c.selector("spec.namespaceSelector", p.Spec.NamespaceSelector)
	if len(p.Spec.Rules) > maxRules {
		c.at("spec.rules", "has %d rules; at most %d are allowed", len(p.Spec.Rules), maxRules)
		return
	}
	for i, r := range p.Spec.Rules {
		path := fmt.Sprintf("spec.rules[%d]", i)
		p.rules = append(p.rules, c.rule(path, r))
		p.RuleOrigins = append(p.RuleOrigins, c.origin(path))
	}
}

func (c checker) selector(path, text string) selector.Node {
	node, err := selector.Parse(text)
	if err != nil {
		c.inside(path, err.Offset, "%s", err.Message)
		return nil
	}
	return node
}

// rule is a validated rule, ready to compile.
type rule struct {
	action   string
	patterns []pattern // nil: no imagePath
	noneOf   bool
	results  []string // nil: no imageScanStatus
	later    bool     // imageLastScan: gt
	span     *api.Duration
	moment   string // absolute time, or ""
}

func (c checker) rule(path string, r api.Rule) rule {
	out := rule{action: r.Action}
	c.oneOf(path+".action", r.Action, api.Allow, api.Reject)
	if r.ImagePath != nil {
		out.noneOf = r.ImagePath.Operator == api.IsNoneOf
		c.values(path+".imagePath", r.ImagePath)
		for i, expr := range r.ImagePath.Values {
			out.patterns = append(out.patterns, c.pattern(fmt.Sprintf("%s.imagePath.values[%d]", path, i), expr))
		}
	}
	if r.ImageScanStatus != nil {
		c.values(path+".imageScanStatus", r.ImageScanStatus)
		for i, value := range r.ImageScanStatus.Values {
			c.oneOf(fmt.Sprintf("%s.imageScanStatus.values[%d]", path, i), value, results...)
		}
		out.results = []string{}
		for _, result := range results {
			if slices.Contains(r.ImageScanStatus.Values, result) != (r.ImageScanStatus.Operator == api.IsNoneOf) {
				out.results = append(out.results, result)
			}
		}
	}
	if r.ImageLastScan != nil {
		c.lastScan(path+".imageLastScan", *r.ImageLastScan, &out)
	}
	return out
}

var results = []string{string(api.Pass), string(api.Warned), string(api.Fail), string(api.Unknown)}

func (c checker) values(path string, v *api.ValuesCriterion) {
	c.oneOf(path+".operator", v.Operator, api.IsOneOf, api.IsNoneOf)
	if len(v.Values) == 0 {
		c.at(path+".values", "must have at least one value")
	}
	if len(v.Values) > maxValues {
		c.at(path+".values", "has %d values; at most %d are allowed", len(v.Values), maxValues)
	}
}

func (c checker) pattern(path, expr string) pattern {
	if len(expr) > maxPattern {
		c.at(path, "the regular expression is longer than %d bytes", maxPattern)
		return pattern{}
	}
	if _, err := regexp.Compile(expr); err != nil {
		message, offset := err.Error(), -1
		if e, ok := err.(*syntax.Error); ok {
			message = string(e.Code)
			if e.Expr != "" {
				message += ": `" + e.Expr + "`"
			}
			offset = strings.Index(expr, e.Expr)
		}
		c.inside(path, offset, "not an RE2 regular expression: %s", message)
		return pattern{}
	}
	return newPattern(expr)
}

func (c checker) lastScan(path string, t api.TimeCriterion, out *rule) {
	c.oneOf(path+".operator", t.Operator, "gt", "lt")
	out.later = t.Operator == "gt"
	switch {
	case t.Duration != nil && t.Time != "":
		c.at(path, "has both duration and time; give one")
	case t.Duration != nil:
		d := *t.Duration
		for name, n := range map[string]int{"days": d.Days, "months": d.Months, "years": d.Years} {
			if n < 0 || n > maxDays {
				c.at(path+".duration."+name, "must be from 0 to %d", maxDays)
			}
		}
		if d.Days+31*d.Months+366*d.Years > maxDays {
			c.at(path+".duration", "must be at most 100 years")
		}
		out.span = &d
	case t.Time != "":
		// Go's parser takes an hour of one digit, as Calico does.
		at, err := time.Parse(time.RFC3339, t.Time)
		if err != nil || at.Year() < 1 {
			c.at(path+".time", "must be RFC 3339, such as 2026-01-31T00:00:00Z, not %q", t.Time)
		}
		out.moment = documents.Time(at)
	default:
		c.at(path, "needs a duration or a time")
	}
}

func (c checker) exception(e *api.VulnerabilityException) {
	for _, f := range exceptions.Validate(e.Spec) {
		c.at(strings.TrimSuffix("spec."+f.Path, "."), "%s", f.Message)
	}
}

func (c checker) thresholds(t api.ThresholdsSpec) {
	warn, fail := Limits(t)
	for name, v := range map[string]*float64{"warn": t.Warn, "fail": t.Fail} {
		if v != nil && (*v < 0 || *v > 10) {
			c.at("spec."+name, "must be from 0.0 to 10.0, not %v", *v)
		}
	}
	if warn > fail {
		c.at("spec.warn", "must not be over fail: warn is %v, fail is %v", warn, fail)
	}
	if p := t.FailOnEPSS; p != nil && (*p < 0 || *p > 1) {
		c.at("spec.failOnEPSS", "must be from 0.0 to 1.0, not %v", *p)
	}
	if t.Unplaced != "" {
		c.oneOf("spec.unplaced", t.Unplaced, api.UnplacedUnknown, api.UnplacedIgnore)
	}
	if g := t.Grace; g != nil {
		c.oneOf("spec.grace.from", g.From, api.FromPublished, api.FromFixAvailable)
		if g.Days < 0 || g.Days > maxDays {
			c.at("spec.grace.days", "must be from 0 to %d", maxDays)
		}
	}
}

// Limits are the warn and fail thresholds, defaults filled in. The default of one
// moves where the other alone is given, so that warn is not over fail.
func Limits(t api.ThresholdsSpec) (warn, fail float64) {
	switch {
	case t.Warn != nil && t.Fail != nil:
		return *t.Warn, *t.Fail
	case t.Warn != nil:
		return *t.Warn, max(api.DefaultFail, *t.Warn)
	case t.Fail != nil:
		return min(api.DefaultWarn, *t.Fail), *t.Fail
	}
	return api.DefaultWarn, api.DefaultFail
}

var (
	kindPattern     = regexp.MustCompile(`^[A-Z][A-Za-z0-9]*$`)
	groupPattern    = regexp.MustCompile(`^$|^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`)
	platformPattern = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9_]+(/[a-z0-9.]+)?$`)
)

func (c checker) settings(s api.AdmissionSettingsSpec) {
	if s.DefaultAction != "" {
		c.oneOf("spec.defaultAction", s.DefaultAction, api.Allow, api.Reject)
	}
	if s.Children != "" {
		c.oneOf("spec.children", s.Children, api.ChildrenTrusted, api.ChildrenSameImages, api.ChildrenJudged)
	}
	for i, p := range s.Platforms {
		if !platformPattern.MatchString(p) {
			c.at(fmt.Sprintf("spec.platforms[%d]", i), "must be os/architecture or os/architecture/variant, such as linux/arm64")
		}
	}
	if s.Evidence != nil && len(s.Evidence) == 0 {
		c.at("spec.evidence", "must name a way of evidence, or be left out: then all count")
	}
	for i, w := range s.Evidence {
		c.oneOf(fmt.Sprintf("spec.evidence[%d]", i), string(w), ways()...)
	}
	seen := map[string]bool{}
	for i, k := range s.CustomKinds {
		path := fmt.Sprintf("spec.customKinds[%d]", i)
		id := k.APIGroup + "/" + k.Kind
		if seen[id] || api.IsBuiltinWorkload(id) {
			c.at(path, "%s is judged already", id)
		} else {
			c.customKind(path, k)
		}
		seen[id] = true
	}
}

// maxPaths bounds the paths of a kind.
const maxPaths = 100

func (c checker) customKind(at string, k api.CustomKind) {
	if !groupPattern.MatchString(k.APIGroup) {
		c.at(at+".apiGroup", "must be an API group without version, such as argoproj.io")
	}
	if !kindPattern.MatchString(k.Kind) {
		c.at(at+".kind", "must be a kind, such as Rollout")
	}
	if k.PodTemplatePath != "" {
		c.path(at+".podTemplatePath", k.PodTemplatePath)
	}
	lists := []struct {
		name  string
		paths []string
	}{{"podTemplatePaths", k.PodTemplatePaths}, {"imagePaths", k.ImagePaths}, {"referencePaths", k.ReferencePaths}}
	for _, list := range lists {
		if len(list.paths) > maxPaths {
			c.at(at+"."+list.name, "has %d paths; at most %d are followed", len(list.paths), maxPaths)
			continue
		}
		for i, text := range list.paths {
			place := fmt.Sprintf("%s.%s[%d]", at, list.name, i)
			if slices.Contains(list.paths[:i], text) || list.name == "podTemplatePaths" && text == k.PodTemplatePath {
				c.at(place, "%s is there already", text)
			}
			if path, ok := c.path(place, text); ok && list.name == "referencePaths" && len(path) > 1 {
				c.at(place, "must go through no list: it is one member that says that an object runs something else")
			}
		}
	}
	_, whereImagesAre := k.Workload()
	switch {
	case !whereImagesAre:
		c.at(at, "podTemplatePath, podTemplatePaths or imagePaths must say where images are: %s/%s is none of the kinds of which Assay knows it", k.APIGroup, k.Kind)
	case len(k.ReferencePaths) > 0 && k.PodTemplatePath == "" && len(k.PodTemplatePaths)+len(k.ImagePaths) == 0:
		c.at(at+".referencePaths", "must stand beside podTemplatePath, podTemplatePaths or imagePaths: without these all is as Assay knows it")
	}
}

// path checks one of a custom kind.
func (c checker) path(at, text string) (api.Path, bool) {
	path, err := api.ParsePath(text)
	switch {
	case text == "":
		c.at(at, "must not be empty")
	case err != nil:
		c.at(at, "%v", err)
	default:
		return path, true
	}
	return nil, false
}

// ways are those of evidence, as settings write them.
func ways() []string {
	var list []string
	for _, w := range api.Ways() {
		list = append(list, string(w))
	}
	return list
}
