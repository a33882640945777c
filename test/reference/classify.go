package reference

import (
	"cmp"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
)

// A subject is what is classified: a name, at most one tag, and a digest,
// which may be that of an index.
type subject struct {
	name, tag, digest string
}

// A verdict is the classification of a subject.
type verdict struct {
	result   api.Result
	max      *float64
	digest   string     // of the platform manifest judged
	lastScan *time.Time // nil when never scanned
	cves     []string   // all of those that gave the result
}

// Classify gives the result and the maximum CVSS score of the reference image
// at the moment now. A digest other than "" is the one judged.
func Classify(w World, image, digest string, now time.Time) (api.Result, *float64) {
	v := w.classify(w.subjectOf(image, digest), now)
	return v.result, v.max
}

// subjectOf resolves a reference as written; nil when it does not parse.
func (w World) subjectOf(image, digest string) *subject {
	ref, err := api.ParseReference(image)
	if err != nil {
		return nil
	}
	s := &subject{name: ref.Name(), digest: digest}
	if ref.Digest != "" {
		if s.digest == "" {
			s.digest = ref.Digest
		}
		return s
	}
	s.tag = ref.Tag
	if s.digest == "" {
		s.digest = w.observed(s.name, s.tag)
	}
	return s
}

func (w World) classify(s *subject, now time.Time) verdict {
	if s == nil || s.digest == "" {
		return verdict{result: api.Unknown}
	}
	index := w.platformsOf(s.name, s.digest)
	if index == nil {
		return w.classifyManifest(*s, s.digest, now)
	}
	platforms := []string{api.DefaultPlatform}
	if w.Settings != nil && len(w.Settings.Spec.Platforms) > 0 {
		platforms = w.Settings.Spec.Platforms
	}
	badness := []api.Result{api.Pass, api.Warned, api.Unknown, api.Fail}
	worst := verdict{result: api.Unknown}
	var oldest *time.Time
	found := false
	for _, p := range platforms {
		d, ok := index[p]
		if !ok {
			continue
		}
		v := w.classifyManifest(*s, d, now)
		if v.lastScan != nil && (oldest == nil || v.lastScan.Before(*oldest)) {
			oldest = v.lastScan
		}
		if !found || slices.Index(badness, v.result) > slices.Index(badness, worst.result) {
			worst = v
		}
		found = true
	}
	worst.lastScan = oldest
	return worst
}

// A member is one vulnerability of an image as it is judged.
type member struct {
	api.Vulnerability
	score  *float64
	counts bool
}

func (w World) classifyManifest(s subject, digest string, now time.Time) verdict {
	scan := w.evidence(s.name, digest)
	if scan == nil {
		return verdict{result: api.Unknown, digest: digest}
	}
	var spec api.ThresholdsSpec
	if w.Thresholds != nil {
		spec = w.Thresholds.Spec
	}
	warn, fail := api.DefaultWarn, api.DefaultFail
	if spec.Warn != nil {
		warn = *spec.Warn
	}
	if spec.Fail != nil {
		fail = *spec.Fail
	}
	if spec.Fail == nil && warn > fail { // the default moves where the other alone is given
		fail = warn
	}
	if spec.Warn == nil && warn > fail {
		warn = fail
	}

	groups := map[string][]member{}
	for _, v := range scan.Vulnerabilities {
		m := member{Vulnerability: v, score: scoreOf(v, spec), counts: counts(v, spec, now)}
		groups[canonical(v)] = append(groups[canonical(v)], m)
	}

	type listed struct {
		id     string
		score  *float64
		forced bool // by KEV or EPSS
	}
	var open []listed
	var top *float64
	forced := false
	for id, members := range groups {
		names := map[string]bool{id: true}
		for _, m := range members {
			names[api.NormalizeID(m.ID)] = true
			for _, a := range m.Aliases {
				names[api.NormalizeID(a)] = true
			}
		}
		g := listed{id: id}
		uncovered := false
		for _, m := range members {
			if !m.counts {
				continue
			}
			if m.score != nil && (g.score == nil || *m.score > *g.score) {
				g.score = m.score
			}
			if w.covers(names, m, s, digest, now) {
				continue
			}
			uncovered = true
			if spec.FailOnKEV && m.KEV || spec.FailOnEPSS != nil && m.EPSS != nil && *m.EPSS >= *spec.FailOnEPSS {
				g.forced = true
			}
		}
		if !uncovered {
			continue
		}
		open = append(open, g)
		forced = forced || g.forced
		if g.score != nil && (top == nil || *g.score > *top) {
			top = g.score
		}
	}

	v := verdict{result: api.Pass, max: top, digest: digest, lastScan: &scan.ScannedAt}
	threshold := 0.0
	switch {
	case forced || top != nil && *top >= fail:
		v.result, threshold = api.Fail, fail
	case top != nil && *top >= warn:
		v.result, threshold = api.Warned, warn
	}
	if v.result != api.Fail && len(scan.Unplaced) > 0 && spec.Unplaced != api.UnplacedIgnore {
		v.result = api.Unknown
	}
	if v.result != api.Fail && v.result != api.Warned {
		return v
	}
	slices.SortFunc(open, func(a, b listed) int {
		switch {
		case a.score == nil && b.score != nil:
			return 1
		case a.score != nil && b.score == nil:
			return -1
		case a.score != nil && *a.score != *b.score:
			return cmp.Compare(*b.score, *a.score)
		}
		return strings.Compare(a.id, b.id)
	})
	for _, g := range open {
		if g.forced || g.score != nil && *g.score >= threshold {
			v.cves = append(v.cves, g.id)
		}
	}
	return v
}

// canonical is the id that a vulnerability is grouped by.
func canonical(v api.Vulnerability) string {
	id := api.NormalizeID(v.ID)
	if strings.HasPrefix(id, "CVE-") {
		return id
	}
	cves := map[string]bool{}
	for _, a := range v.Aliases {
		if a = api.NormalizeID(a); strings.HasPrefix(a, "CVE-") {
			cves[a] = true
		}
	}
	if len(cves) == 1 {
		for cve := range cves {
			return cve
		}
	}
	return id
}

func scoreOf(v api.Vulnerability, spec api.ThresholdsSpec) *float64 {
	if v.CVSS != nil || !spec.ScoreBySeverity {
		return v.CVSS
	}
	score, ok := map[string]float64{"Critical": 9, "High": 7, "Medium": 4, "Low": 0.1}[v.Severity]
	if !ok {
		return nil
	}
	return &score
}

// counts says whether a vulnerability counts at all, exceptions apart.
func counts(v api.Vulnerability, spec api.ThresholdsSpec, now time.Time) bool {
	if spec.OnlyFixable && v.Fix.State != "fixed" {
		return false
	}
	if spec.Grace == nil {
		return true
	}
	date := v.Published
	if spec.Grace.From == api.FromFixAvailable {
		date = v.Fix.Available
	}
	t, err := time.Parse(time.RFC3339, date)
	if err != nil {
		t, err = time.Parse(time.DateOnly, date)
	}
	if err != nil {
		return true
	}
	return !now.Before(t.Add(time.Duration(spec.Grace.Days) * 24 * time.Hour))
}

// covers says whether an exception in force covers the member, whose group has the names.
func (w World) covers(names map[string]bool, m member, s subject, digest string, now time.Time) bool {
	for _, e := range w.Exceptions {
		if names[api.NormalizeID(e.Spec.CVE)] && inForce(e.Spec, m, now) &&
			inScope(e.Spec, s, digest) && namesPackage(e.Spec.Packages, m.PURL) {
			return true
		}
	}
	return false
}

func inForce(e api.VulnerabilityExceptionSpec, m member, now time.Time) bool {
	if e.Expires != "" {
		t, err := time.Parse(time.RFC3339, e.Expires)
		if err != nil || !now.Before(t) {
			return false
		}
	}
	u := e.Until
	return u == nil || !(u.Fixable && m.Fix.State == "fixed" || u.KEV && m.KEV ||
		u.CVSSAbove != nil && m.score != nil && *m.score > *u.CVSSAbove ||
		u.EPSSAbove != nil && m.EPSS != nil && *m.EPSS > *u.EPSSAbove)
}

func inScope(e api.VulnerabilityExceptionSpec, s subject, digest string) bool {
	if e.Scope == api.ScopeAny {
		return true
	}
	name, err := api.NormalizedName(e.Registry, e.Repository)
	if err != nil || name != s.name {
		return false
	}
	switch e.Scope {
	case api.ScopeRepo:
		return true
	case api.ScopeImage:
		return s.tag != "" && slices.Contains(e.Tags, s.tag) ||
			e.Digest != "" && (e.Digest == digest || e.Digest == s.digest)
	}
	return false
}

// namesPackage says whether one of the package URLs names the package; none means every package.
func namesPackage(purls []string, have string) bool {
	if len(purls) == 0 {
		return true
	}
	path, version, ok := splitPURL(have)
	for _, p := range purls {
		wantPath, wantVersion, wantOK := splitPURL(p)
		if ok && wantOK && path == wantPath && (wantVersion == "" || wantVersion == version) {
			return true
		}
	}
	return false
}

// splitPURL gives type/namespace/name and version of a package URL.
func splitPURL(s string) (path, version string, ok bool) {
	s, ok = strings.CutPrefix(s, "pkg:")
	s, _, _ = strings.Cut(s, "#")
	s, _, _ = strings.Cut(s, "?")
	s = strings.Trim(s, "/")
	if i := strings.LastIndexByte(s, '@'); i > strings.LastIndexByte(s, '/') {
		s, version = s[:i], s[i+1:]
	}
	kind, rest, found := strings.Cut(s, "/")
	unescape := func(x string) string {
		if u, err := url.PathUnescape(x); err == nil {
			return u
		}
		return x
	}
	return strings.ToLower(kind) + "/" + unescape(rest), unescape(version), ok && found
}
