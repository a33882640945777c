package reference

import (
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
)

var now = time.Date(2026, 3, 31, 12, 0, 0, 0, time.UTC)

func ptr[T any](v T) *T { return &v }

func dig(c string) string { return "sha256:" + strings.Repeat(c, 64) }

func vuln(id string, score float64) api.Vulnerability {
	return api.Vulnerability{ID: id, CVSS: ptr(score), Package: "openssl", PURL: "pkg:deb/debian/openssl@3.0.1?arch=amd64"}
}

func scan(image, digest string, ago time.Duration, vs ...api.Vulnerability) api.Scan {
	return api.Scan{Image: image, Digest: digest, ScannedAt: now.Add(-ago), Vulnerabilities: vs}
}

func exception(cve, scope string, change func(*api.VulnerabilityExceptionSpec)) api.VulnerabilityException {
	s := api.VulnerabilityExceptionSpec{CVE: cve, Scope: scope, Justification: "x"}
	if scope != api.ScopeAny {
		s.Repository = "nginx"
	}
	if change != nil {
		change(&s)
	}
	return api.VulnerabilityException{Spec: s}
}

func thresholds(s api.ThresholdsSpec) *api.Thresholds { return &api.Thresholds{Spec: s} }

func check(t *testing.T, what string, w World, image string, want api.Result, max float64) {
	t.Helper()
	r, m := Classify(w, image, "", now)
	if r != want || (m == nil) != (max < 0) || m != nil && *m != max {
		got := -1.0
		if m != nil {
			got = *m
		}
		t.Errorf("%s: %s is %s %v, want %s %v", what, image, r, got, want, max)
	}
}

func TestThresholds(t *testing.T) {
	for _, c := range []struct {
		score float64
		want  api.Result
	}{{9, api.Fail}, {8.9, api.Warned}, {7, api.Warned}, {6.9, api.Pass}} {
		w := World{Scans: []api.Scan{scan("nginx", dig("a"), 0, vuln("CVE-2024-0001", c.score))}}
		check(t, "default thresholds", w, "docker.io/library/nginx:latest", c.want, c.score)
		check(t, "another tag", w, "nginx:1", api.Unknown, -1)
		check(t, "by digest under another name", w, "redis@"+dig("a"), c.want, c.score)
	}
	for _, c := range []struct {
		spec api.ThresholdsSpec
		want api.Result
	}{
		{api.ThresholdsSpec{Fail: ptr(5.0)}, api.Fail}, {api.ThresholdsSpec{Fail: ptr(6.0)}, api.Pass}, {api.ThresholdsSpec{Warn: ptr(9.5)}, api.Pass}, {api.ThresholdsSpec{Warn: ptr(5.0)}, api.Warned},
	} {
		w := World{Scans: []api.Scan{scan("nginx", dig("a"), 0, vuln("CVE-2024-0001", 5.5))}, Thresholds: thresholds(c.spec)}
		check(t, "one threshold alone", w, "nginx", c.want, 5.5)
	}
	check(t, "no parse", World{}, "UPPER", api.Unknown, -1)
	v := vuln("CVE-2024-0001", 0)
	v.CVSS, v.Severity = nil, "Critical"
	w := World{Scans: []api.Scan{scan("nginx", dig("a"), 0, v)}}
	check(t, "without score", w, "nginx", api.Pass, -1)
	w.Thresholds = thresholds(api.ThresholdsSpec{Warn: ptr(0.0)})
	check(t, "without score, warn 0", w, "nginx", api.Pass, -1)
	w.Thresholds = thresholds(api.ThresholdsSpec{ScoreBySeverity: true})
	check(t, "by severity", w, "nginx", api.Fail, 9)
}

func TestUnplacedPackages(t *testing.T) {
	for _, c := range []struct {
		score float64
		want  api.Result
	}{{9, api.Fail}, {8.9, api.Unknown}, {1, api.Unknown}} {
		s := scan("nginx", dig("a"), 0, vuln("CVE-2024-0001", c.score))
		s.Unplaced = []api.Unplaced{{Packages: 2}, {Distro: "debian 99", Packages: 1}}
		w := World{Scans: []api.Scan{s}}
		check(t, "unplaced packages", w, "nginx", c.want, c.score)
		w.Thresholds = thresholds(api.ThresholdsSpec{Unplaced: api.UnplacedUnknown, OnlyFixable: true})
		check(t, "unplaced packages, of what counts", w, "nginx", api.Unknown, -1)
		s.Unplaced = nil
		ignored := World{Scans: []api.Scan{s}}
		want, top := Classify(ignored, "nginx", "", now)
		w.Thresholds = thresholds(api.ThresholdsSpec{Unplaced: api.UnplacedIgnore})
		check(t, "ignored", w, "nginx", want, *top)
	}
	clean := scan("nginx", dig("a"), 0)
	clean.Unplaced = []api.Unplaced{{Packages: 1}}
	check(t, "nothing found", World{Scans: []api.Scan{clean}}, "nginx", api.Unknown, -1)
	// A platform of an index is no better for it.
	clean.Index, clean.Digest = &api.Index{Digest: dig("f"), Platforms: map[string]string{"linux/amd64": dig("a"), "linux/arm64": dig("b")}}, dig("a")
	warned := scan("nginx", dig("b"), 0, vuln("CVE-2024-0001", 8))
	w := World{Scans: []api.Scan{clean, warned}, Settings: &api.AdmissionSettings{Spec: api.AdmissionSettingsSpec{Platforms: []string{"linux/arm64", "linux/amd64"}}}}
	check(t, "one platform of an index", w, "nginx@"+dig("f"), api.Unknown, -1)
}

func TestNewestObservationNeverAnOlderDigest(t *testing.T) {
	failed := scan("nginx:1", dig("b"), time.Hour)
	failed.Error = "no pull"
	w := World{Scans: []api.Scan{scan("nginx:1", dig("a"), 2*time.Hour), failed}}
	check(t, "newest never scanned", w, "nginx:1", api.Unknown, -1)
	check(t, "tag@digest: only the digest", w, "nginx:1@"+dig("a"), api.Pass, -1)
	w.Scans = []api.Scan{scan("nginx:1", dig("a"), time.Hour), scan("nginx:1", dig("b"), time.Hour, vuln("CVE-2024-0001", 9))}
	check(t, "equal times: the greater digest", w, "nginx:1", api.Fail, 9)
	w.Scans = []api.Scan{scan("nginx:1", dig("a"), time.Hour), scan("x", dig("a"), time.Hour, vuln("CVE-2024-0001", 9))}
	check(t, "equal times: the later scan", w, "nginx:1", api.Fail, 9)
	w.Scans = append(w.Scans, scan("nginx:1@"+dig("c"), dig("c"), 0))
	check(t, "a reference with a digest observes nothing", w, "nginx:1", api.Fail, 9)
}

func TestOneNameForOneHost(t *testing.T) {
	s := scan("Registry.example.com:443/shop:1", dig("a"), 0, vuln("CVE-2024-0001", 9))
	s.Scope = api.Scope{Registry: "registry.example.com"}
	w := World{Scans: []api.Scan{s, scan("registry-1.docker.io/library/redis:1", dig("b"), 0, vuln("CVE-2024-0001", 9))}}
	for _, image := range []string{"registry.example.com/shop:1", "REGISTRY.example.com/shop:1", "registry.example.com:0443/shop:1", "redis:1", "Registry.hub.docker.com/library/redis:1"} {
		check(t, "another spelling", w, image, api.Fail, 9)
	}
	for _, image := range []string{"registry.example.com:8443/shop:1", "docker.io:80/redis:1", "foo:443/redis:1"} {
		check(t, "another registry", w, image, api.Unknown, -1)
	}
	w.Exceptions = []api.VulnerabilityException{exception("CVE-2024-0001", api.ScopeRepo, func(s *api.VulnerabilityExceptionSpec) {
		s.Registry, s.Repository = "REGISTRY.example.com", "shop"
	})}
	check(t, "an exception of another spelling", w, "registry.example.com:443/shop:1", api.Pass, -1)
}

func TestIndexTakesTheWorst(t *testing.T) {
	index := &api.Index{Digest: dig("f"), Platforms: map[string]string{"linux/amd64": dig("a"), "linux/arm64": dig("b")}}
	amd := scan("nginx", dig("a"), time.Hour, vuln("CVE-2024-0001", 7))
	amd.Index = index
	w := World{Scans: []api.Scan{amd}}
	check(t, "default platform", w, "nginx", api.Warned, 7)
	w.Settings = &api.AdmissionSettings{Spec: api.AdmissionSettingsSpec{Platforms: []string{"linux/s390x", "linux/amd64", "linux/arm64"}}}
	check(t, "Unknown over Warn", w, "nginx@"+dig("f"), api.Unknown, -1)
	if v := w.classify(w.subjectOf("nginx", ""), now); v.digest != dig("b") || v.lastScan == nil || !v.lastScan.Equal(amd.ScannedAt) {
		t.Errorf("judged %s, last scan %v", v.digest, v.lastScan)
	}
	w.Scans = append(w.Scans, scan("other", dig("b"), 0, vuln("CVE-2024-0001", 9)))
	check(t, "Fail over all", w, "nginx", api.Fail, 9)
	w.Settings.Spec.Platforms = []string{"linux/s390x"}
	check(t, "no platform left", w, "nginx", api.Unknown, -1)
}

func TestExceptions(t *testing.T) {
	ghsa := vuln("GHSA-jfh8-c2jp-5v3q", 9.8)
	ghsa.Aliases = []string{"CVE-2021-44228"}
	scans := []api.Scan{
		scan("nginx:1", dig("a"), 0, ghsa, vuln("CVE-2021-44228", 10), vuln("CVE-2024-0001", 5)), scan("redis:1", dig("a"), 0),
	}
	type spec = api.VulnerabilityExceptionSpec
	for _, c := range []struct {
		what  string
		e     api.VulnerabilityException
		image string
		want  api.Result
	}{
		{"any", exception("CVE-2021-44228", "any", nil), "nginx:1", api.Pass},
		{"by alias, in capitals", exception("GHSA-JFH8-C2JP-5V3Q", "any", nil), "nginx:1", api.Pass},
		{"another CVE", exception("CVE-2021-44229", "any", nil), "nginx:1", api.Fail},
		{"repo", exception("CVE-2021-44228", "repo", nil), "nginx:1", api.Pass},
		{"repo never reaches another name", exception("CVE-2021-44228", "repo", nil), "redis:1", api.Fail},
		{"tag", exception("CVE-2021-44228", "image", func(s *spec) { s.Tags = []string{"1"} }), "nginx:1", api.Pass},
		{"tag, other spelling", exception("CVE-2021-44228", "image", func(s *spec) { s.Tags, s.Registry = []string{"1"}, "docker.io/library" }), "docker.io/nginx:1", api.Pass},
		{"no tag beside a digest", exception("CVE-2021-44228", "image", func(s *spec) { s.Tags = []string{"1"} }), "nginx:1@" + dig("a"), api.Fail},
		{"digest", exception("CVE-2021-44228", "image", func(s *spec) { s.Digest = dig("a") }), "nginx:1", api.Pass},
		{"digest under another name", exception("CVE-2021-44228", "image", func(s *spec) { s.Digest = dig("a") }), "redis:1", api.Fail},
		{"expired now", exception("CVE-2021-44228", "any", func(s *spec) { s.Expires = now.Format(time.RFC3339) }), "nginx:1", api.Fail},
		{"expires in a second", exception("CVE-2021-44228", "any", func(s *spec) { s.Expires = now.Add(time.Second).Format(time.RFC3339) }), "nginx:1", api.Pass},
		{"until a score over 9.8: one member is", exception("CVE-2021-44228", "any", func(s *spec) { s.Until = &api.Until{CVSSAbove: ptr(9.8)} }), "nginx:1", api.Fail},
		{"package with its version", exception("CVE-2021-44228", "any", func(s *spec) { s.Packages = []string{"pkg:deb/debian/openssl@3.0.1"} }), "nginx:1", api.Pass},
		{"package without version", exception("CVE-2021-44228", "any", func(s *spec) { s.Packages = []string{"pkg:deb/debian/openssl?arch=arm64"} }), "nginx:1", api.Pass},
		{"another version", exception("CVE-2021-44228", "any", func(s *spec) { s.Packages = []string{"pkg:deb/debian/openssl@3.0.2"} }), "nginx:1", api.Fail},
	} {
		w := World{Scans: scans[:1], Exceptions: []api.VulnerabilityException{c.e}}
		max := 5.0
		if c.want == api.Fail {
			max = 10
		}
		if strings.HasPrefix(c.image, "redis") { // a tag of the same digest
			w.Scans = []api.Scan{scans[1], scans[0]}
			w.Scans[0].Error = "observed only"
		}
		check(t, c.what, w, c.image, c.want, max)
	}
}

func TestSwitches(t *testing.T) {
	v := vuln("CVE-2024-0001", 2)
	v.KEV, v.EPSS, v.Fix.State, v.Published = true, ptr(0.5), "not-fixed", "2026-03-24"
	w := World{Scans: []api.Scan{scan("nginx", dig("a"), 0, v)}}
	for _, c := range []struct {
		what string
		s    api.ThresholdsSpec
		want api.Result
		max  float64
	}{
		{"off", api.ThresholdsSpec{}, api.Pass, 2},
		{"KEV", api.ThresholdsSpec{FailOnKEV: true}, api.Fail, 2},
		{"EPSS at", api.ThresholdsSpec{FailOnEPSS: ptr(0.5)}, api.Fail, 2},
		{"EPSS under", api.ThresholdsSpec{FailOnEPSS: ptr(0.51)}, api.Pass, 2},
		{"KEV, not fixable", api.ThresholdsSpec{FailOnKEV: true, OnlyFixable: true}, api.Pass, -1},
		{"in grace", api.ThresholdsSpec{FailOnKEV: true, Grace: &api.Grace{Days: 8, From: api.FromPublished}}, api.Pass, -1},
		{"after grace", api.ThresholdsSpec{FailOnKEV: true, Grace: &api.Grace{Days: 7, From: api.FromPublished}}, api.Fail, 2},
		{"no date, no grace", api.ThresholdsSpec{FailOnKEV: true, Grace: &api.Grace{Days: 8, From: api.FromFixAvailable}}, api.Fail, 2},
	} {
		w.Thresholds = thresholds(c.s)
		check(t, c.what, w, "nginx", c.want, c.max)
	}
}

func TestSelector(t *testing.T) {
	labels := map[string]string{"a": "x", "team.io/name": "web-db"}
	for s, want := range map[string]bool{
		"": true, "all()": true, "global()": false, "has(a)": true, "has( b )": false, "a=='x'": true, `a == "y"`: false,
		"b != 'x'": true, "a != 'x'": false, "b not in {'x'}": true, "a in {}": false, "a not in {}": true, "a in {'y', \"x\"}": true,
		"team.io/name contains '-'": true, "team.io/name starts with 'web'": true, "team.io/name ends with 'web'": false,
		"b contains ''": false, "!has(b)&&a=='x'": true, "!a == 'x'": false, "a == 'y' || a == 'x' && has(b)": false,
		"(a == 'x' || has(b)) && !!has(a)": true, "has(b) && has(b) || all()": true,
	} {
		n, err := parseSelector(s)
		if err != nil || n.matches(labels, false) != want {
			t.Errorf("%q: %v, want %v", s, err, want)
		}
	}
	for _, s := range []string{"a", "a = 'x'", "a == x", "a == 'x", "(all()", "all() all()", "has()", "a in 'x'", "! ", "&& a"} {
		if _, err := parseSelector(s); err == nil {
			t.Errorf("%q parses", s)
		}
	}
}
