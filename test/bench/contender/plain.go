package contender

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/test/bench/fleet"
)

// Plain is hand-written Go for the very policies of this benchmark, the lower
// bound: it classifies as Assay does, and knows nothing else of Assay.
type Plain struct {
	warn, fail float64
	policies   []plainPolicy
	images     map[string]*plainImage      // by digest
	names      map[string]string           // digests, by name:tag
	exceptions map[string]map[string][]end // by key ("*", name, name:tag, name@digest), then id
}

type end = time.Time // of an exception; zero: never

type plainImage struct {
	at  time.Time
	ids []string // the highest score first
	s   []float64
}

type plainPolicy struct {
	name       string
	labelKey   string
	labelValue []string
	rules      []plainRule
}

type plainRule struct {
	reject  bool
	results uint8 // a bit for each
	before  time.Time
	prefix  string
	pattern *regexp.Regexp
}

var bits = map[api.Result]uint8{api.Pass: 1, api.Warned: 2, api.Fail: 4, api.Unknown: 8}

// NewPlain makes it, without data.
func NewPlain(policies []fleet.Policy, warn, fail float64) (*Plain, error) {
	p := &Plain{warn: warn, fail: fail, images: map[string]*plainImage{}, names: map[string]string{}, exceptions: map[string]map[string][]end{}}
	return p, p.SetPolicies(policies)
}

// SetPolicies compiles policies in the place of those before.
func (p *Plain) SetPolicies(policies []fleet.Policy) error {
	p.policies = nil
	for _, policy := range policies {
		q := plainPolicy{name: policy.Metadata.Name, labelKey: policy.LabelKey, labelValue: policy.LabelValues}
		for _, r := range policy.Spec.Rules {
			rule := plainRule{reject: r.Action == api.Reject, results: 15}
			if r.ImageScanStatus != nil {
				rule.results = 0
				for _, v := range r.ImageScanStatus.Values {
					rule.results |= bits[api.Result(v)]
				}
			}
			if r.ImageLastScan != nil {
				rule.before = moment(r.ImageLastScan)
			}
			text := r.ImagePath.Values[0]
			var err error
			if rule.pattern, err = regexp.Compile(text); err != nil {
				return fmt.Errorf("policy %s: %w", q.name, err)
			}
			if anchored, ok := strings.CutPrefix(text, "^"); ok {
				rule.prefix, _ = regexp.MustCompile(anchored).LiteralPrefix()
			}
			q.rules = append(q.rules, rule)
		}
		p.policies = append(p.policies, q)
	}
	return nil
}

// AddScans puts scans beside those before.
func (p *Plain) AddScans(scans []api.Scan) {
	for _, s := range scans {
		i := &plainImage{at: s.ScannedAt}
		list := slices.SortedFunc(slices.Values(s.Vulnerabilities), func(a, b api.Vulnerability) int {
			return cmp.Or(cmp.Compare(*b.CVSS, *a.CVSS), strings.Compare(a.ID, b.ID))
		})
		for _, v := range list {
			i.ids, i.s = append(i.ids, v.ID), append(i.s, *v.CVSS)
		}
		p.images[s.Digest] = i
		c := api.NewContainer("", s.Image)
		p.names[c.Name+":"+c.Tag] = s.Digest
	}
}

// AddExceptions puts exceptions beside those before.
func (p *Plain) AddExceptions(list []api.VulnerabilityException) error {
	for _, e := range list {
		var expires end
		if e.Spec.Expires != "" {
			var err error
			if expires, err = time.Parse(time.RFC3339, e.Spec.Expires); err != nil {
				return fmt.Errorf("exception %s: %w", e.Metadata.Name, err)
			}
		}
		_, keys := documents.ExceptionKeys(e.Spec)
		for _, key := range keys {
			if p.exceptions[key] == nil {
				p.exceptions[key] = map[string][]end{}
			}
			p.exceptions[key][e.Spec.CVE] = append(p.exceptions[key][e.Spec.CVE], expires)
		}
	}
	return nil
}

// Classification is what Plain says of an image.
type Classification struct {
	Result    api.Result
	Max       float64
	ScannedAt time.Time
}

// Classify classifies the image of a container.
func (p *Plain) Classify(c api.Container) Classification {
	digest := c.Digest
	if digest == "" {
		digest = p.names[c.Name+":"+c.Tag]
	}
	image, ok := p.images[digest]
	if !ok {
		return Classification{Result: api.Unknown}
	}
	out := Classification{Result: api.Pass, ScannedAt: image.at}
	keys := []map[string][]end{p.exceptions["*"], p.exceptions[c.Name], p.exceptions[c.Name+"@"+digest]}
	if c.Tag != "" {
		keys = append(keys, p.exceptions[c.Name+":"+c.Tag])
	}
	for i, id := range image.ids {
		if !covered(keys, id) {
			out.Max = image.s[i]
			break
		}
	}
	switch {
	case out.Max >= p.fail:
		out.Result = api.Fail
	case out.Max >= p.warn:
		out.Result = api.Warned
	}
	return out
}

func covered(keys []map[string][]end, id string) bool {
	for _, key := range keys {
		for _, e := range key[id] {
			if e.IsZero() || e.After(fleet.Now) {
				return true
			}
		}
	}
	return false
}

// Name is "plain Go".
func (p *Plain) Name() string { return "plain Go" }

// Admit decides on the flat review.
func (p *Plain) Admit(_ context.Context, r *fleet.Review) (Verdict, error) {
	v := Verdict{Allowed: true, Rejected: []string{}, Decided: []string{}}
	for _, c := range r.Flat.Containers {
		if policy, rule := p.rejects(&r.Flat, c); policy != "" {
			v.Allowed = false
			v.Rejected = append(v.Rejected, c.Container)
			v.Decided = append(v.Decided, fmt.Sprintf("%s %s %d", c.Container, policy, rule))
		}
	}
	slices.Sort(v.Rejected)
	slices.Sort(v.Decided)
	return v, nil
}

// rejects is the policy and rule that refuse a container, "" when none does.
func (p *Plain) rejects(r *api.Review, c api.Container) (policy string, rule int) {
	fact := p.Classify(c)
	result := bits[fact.Result]
	for i := range p.policies {
		q := &p.policies[i]
		if q.labelKey != "" && !slices.Contains(q.labelValue, r.Labels[q.labelKey]) {
			continue
		}
		for j := range q.rules {
			rule := &q.rules[j]
			if rule.results&result == 0 || !rule.before.IsZero() && !fact.ScannedAt.Before(rule.before) {
				continue
			}
			if !rule.matches(c.Image) && (c.Normal == c.Image || !rule.matches(c.Normal)) {
				continue
			}
			if rule.reject {
				return q.name, j + 1
			}
			return "", 0
		}
	}
	return "", 0
}

func (r *plainRule) matches(image string) bool {
	return strings.HasPrefix(image, r.prefix) && r.pattern.MatchString(image)
}

// Alerts are how many of [fleet.Alerts] fire over events.
func (p *Plain) Alerts(events []api.Event) (int, error) {
	perNamespace, top, hits := map[string]int{}, false, map[string]bool{}
	after := fleet.Now.Add(-10 * time.Minute)
	for i := range events {
		e := &events[i]
		at, err := time.Parse(time.RFC3339, e.Time)
		if err != nil {
			return 0, fmt.Errorf("event %d: %w", i, err)
		}
		if !at.After(after) || at.After(fleet.Now) {
			continue
		}
		if e.Result == api.Fail {
			seen := ""
			for _, instance := range e.Instances {
				if instance.Namespace != seen {
					perNamespace[instance.Namespace]++
				}
				seen = instance.Namespace
			}
		}
		top = top || e.Result != api.Pass && e.MaxCVSSScore != nil && *e.MaxCVSSScore >= 9.5
		if e.Changed && slices.Contains(e.CVE, fleet.AlertCVE) {
			hits[e.Image+e.Digest+e.Time] = true
		}
	}
	fired := len(hits)
	for _, n := range perNamespace {
		if n > 100 {
			fired++
		}
	}
	if top {
		fired++
	}
	return fired, nil
}
