package engine_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/engine"
)

const rejectFailed = `
apiVersion: containersecurity.tigera.io/v1beta1
kind: ContainerAdmissionPolicy
metadata: {name: reject-failed}
spec: {rules: [{action: Reject, imageScanStatus: {operator: IsOneOf, values: [Fail]}}]}
`

// shop is an image of three packages: one upgrade resolves two CVEs, one CVE has no
// fix, and one is in two packages.
func shop(age time.Duration) api.Scan {
	s := scan("registry.example.com/shop:1", "a", age)
	vulnerable := func(id, name string, cvss float64, fixed ...string) {
		v := api.Vulnerability{ID: id, Package: name, Version: "1.0", Type: "deb", CVSS: score(cvss), Fix: api.Fix{State: "not-fixed"}}
		if len(fixed) > 0 {
			v.Fix = api.Fix{State: "fixed", Versions: fixed}
		}
		s.Vulnerabilities = append(s.Vulnerabilities, v)
	}
	vulnerable("CVE-2026-1", "openssl", 9.8, "1.1")
	vulnerable("CVE-2026-2", "openssl", 9.1, "1.2")
	vulnerable("CVE-2026-3", "zlib", 9.0)
	vulnerable("CVE-2026-4", "busybox", 5)
	return s
}

func explain(t *testing.T, e *engine.Engine, scans engine.Scans, images ...string) api.Explanation {
	t.Helper()
	x, err := e.Explain(context.Background(), deployment("prod", images...), now, scans)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func at(scans ...api.Scan) engine.Scans {
	return func(digest string) (api.Scan, bool) {
		for _, s := range scans {
			if s.Digest == digest {
				return s, true
			}
		}
		return api.Scan{}, false
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestExplainUpgradesAndExceptions(t *testing.T) {
	s := shop(time.Hour)
	e := load(t, rejectFailed, s)
	x := explain(t, e, at(s), s.Image)
	image := x.Images[0]
	if m := image.Matched[0]; m.Policy != "reject-failed" || m.Rule != 1 || m.Source != "p.yaml:5" {
		t.Errorf("%+v", m)
	}
	if v := image.Vulnerabilities[1]; v.ID != "CVE-2026-2" || v.Packages[0].Package != "openssl" || v.Packages[0].FixedIn[0] != "1.2" {
		t.Errorf("%+v", v)
	}
	want := `{"admitted_as":["Pass","Warn"],"options":[` +
		`{"kind":"mixed","result":"Pass","changes":[` +
		`{"upgrade":{"package":"openssl","version":"1.0","type":"deb","fixes":{"CVE-2026-1":["1.1"],"CVE-2026-2":["1.2"]}},"digest":"` + s.Digest + `"},` +
		`{"exception":"CVE-2026-3","digest":"` + s.Digest + `"}]},` +
		`{"kind":"exceptions","result":"Pass","changes":[{"exception":"CVE-2026-1","digest":"` + s.Digest + `"},{"exception":"CVE-2026-2","digest":"` + s.Digest + `"},{"exception":"CVE-2026-3","digest":"` + s.Digest + `"}]}]}`
	if got := asJSON(t, image.Counterfactual); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	// Without the scan, packages are not known.
	if c := explain(t, e, nil, s.Image).Images[0].Counterfactual; len(c.Options) != 1 || c.Options[0].Kind != "exceptions" {
		t.Errorf("%s", asJSON(t, c))
	}
}

// Where an update goes through that is no worse than what runs, what makes it so is an option too.
func TestExplainNoWorse(t *testing.T) {
	s, before := shop(time.Hour), scan("registry.example.com/shop:0", "b", time.Hour)
	before.Vulnerabilities = []api.Vulnerability{{ID: "CVE-2026-9", Package: "zlib", Version: "1.0", Type: "deb", CVSS: score(9)}}
	const settings = "\n---\napiVersion: assay.dev/v1alpha1\nkind: AdmissionSettings\nmetadata: {name: default}\nspec: {allowNoWorse: true}\n"
	const kev = "\n---\napiVersion: assay.dev/v1alpha1\nkind: Thresholds\nmetadata: {name: default}\nspec: {failOnKEV: true}\n"
	r := deployment("prod", s.Image)
	r.Operation, r.OldContainers = "UPDATE", []api.Container{api.NewContainer("c0", before.Image)}
	for name, c := range map[string]struct {
		yaml   string
		change func(s, before *api.Scan)
		want   string // of the first option
	}{
		"by the score": {rejectFailed + settings, nil, "upgrades Fail 1 true"},
		"not allowed":  {rejectFailed, nil, "mixed Pass 2 false"},
		"what runs fails by itself": {rejectFailed + settings + kev, func(s, before *api.Scan) {
			s.Vulnerabilities[2].KEV = true
			before.Vulnerabilities[0].KEV = true
		}, "upgrades Fail 1 true"},
		"what runs has less, but fails by itself": {rejectFailed + settings + kev, func(s, before *api.Scan) {
			s.Vulnerabilities[3].KEV = true
			before.Vulnerabilities[0].KEV, before.Vulnerabilities[0].CVSS = true, score(5)
		}, "mixed Fail 2 true"},
		"what runs is Unknown": {rejectFailed + settings, func(_, before *api.Scan) {
			before.Unplaced, before.Vulnerabilities[0].CVSS = []api.Unplaced{{Packages: 1}}, score(1)
		}, "mixed Pass 2 false"},
	} {
		s, before := shop(time.Hour), before
		before.Vulnerabilities = slices.Clone(before.Vulnerabilities)
		if c.change != nil {
			c.change(&s, &before)
		}
		x, err := load(t, c.yaml, s, before).Explain(t.Context(), r, now, at(s, before))
		if err != nil {
			t.Fatal(err)
		}
		o := x.Images[0].Counterfactual.Options[0]
		noWorse := strings.Contains(o.Reason, "it is no worse than registry.example.com/shop:0, which it replaces")
		if got := fmt.Sprintf("%s %s %d %t", o.Kind, o.Result, len(o.Changes), noWorse); got != c.want {
			t.Errorf("%s: %s: %s", name, got, asJSON(t, x.Images[0].Counterfactual))
		}
	}
}

func TestExplainScan(t *testing.T) {
	old := shop(100 * 24 * time.Hour)
	e := load(t, strings.Replace(rejectFailed, "imageScanStatus: {operator: IsOneOf, values: [Fail]}", "imageLastScan: {operator: lt, duration: {days: 3}}", 1), old)
	c := explain(t, e, at(old), old.Image).Images[0].Counterfactual
	if got := asJSON(t, c); got != `{"admitted_as":[],"options":[{"kind":"scan","result":"Fail","changes":[{"scan":true}]}]}` {
		t.Error(got)
	}
	// Both a new scan and better packages.
	e = load(t, `
apiVersion: containersecurity.tigera.io/v1beta1
kind: ContainerAdmissionPolicy
metadata: {name: recent}
spec:
  rules:
  - {action: Allow, imageScanStatus: {operator: IsOneOf, values: [Pass, Warn]}, imageLastScan: {operator: gt, duration: {days: 3}}}
  - {action: Reject}
`, old)
	c = explain(t, e, at(old), old.Image).Images[0].Counterfactual
	if len(c.Options) != 2 || !c.Options[0].Changes[0].Scan || c.Options[0].Kind != "mixed" || len(c.Options[0].Changes) != 3 {
		t.Error(asJSON(t, c))
	}
}

func TestExplainWithoutOptions(t *testing.T) {
	s := shop(time.Hour)
	odd := scan("registry.example.com/odd:1", "c", time.Hour)
	odd.Unplaced = []api.Unplaced{{Packages: 2}}
	for name, c := range map[string]struct{ policy, image, reason string }{
		"never scanned":      {rejectFailed[:strings.Index(rejectFailed, "[Fail]")] + "[Fail, Unknown]}}]}", "nginx:1", "it has no result yet: have it scanned, so that its result is known; it is admitted when the result is Pass or Warn"},
		"cannot be placed":   {rejectFailed[:strings.Index(rejectFailed, "[Fail]")] + "[Fail, Unknown]}}]}", odd.Image, "say what distribution its packages are of, as in assay scan --distro debian:12, or write unplaced: Ignore in the Thresholds; it is admitted when the result is Pass or Warn"},
		"does not parse":     {strings.Replace(rejectFailed, "[Fail]", "[Unknown]", 1), "NGINX", "does not parse"},
		"by its reference":   {strings.Replace(rejectFailed, "imageScanStatus: {operator: IsOneOf, values: [Fail]}", "imagePath: {operator: IsOneOf, values: [shop]}", 1), s.Image, "for its reference, workload or namespace"},
		"only when it fails": {strings.Replace(rejectFailed, "[Fail]", "[Pass]", 1), "registry.example.com/clean:1", "it is admitted only when its result is Warn or Fail"},
	} {
		e := load(t, c.policy, s, scan("registry.example.com/clean:1", "b", time.Hour), odd)
		got := explain(t, e, at(s, odd), c.image).Images[0].Counterfactual
		if len(got.Options) != 0 || !strings.Contains(got.Reason, c.reason) {
			t.Errorf("%s: %s", name, asJSON(t, got))
		}
	}
}

// Exceptions that ended, or are for another tag, are told.
func TestExplainExceptions(t *testing.T) {
	s := shop(time.Hour)
	exception := func(name, rest string) string {
		return "---\napiVersion: assay.dev/v1alpha1\nkind: VulnerabilityException\nmetadata: {name: " + name + "}\nspec: {cve: CVE-2026-1, justification: j, " + rest + "}\n"
	}
	const repository = "registry: registry.example.com, repository: shop"
	e := load(t, rejectFailed+exception("ended", "scope: repo, "+repository+", expires: 2026-05-31T00:00:00Z")+
		exception("other-tag", "scope: image, "+repository+", tags: ['2']")+exception("other-name", "scope: repo, registry: registry.example.com, repository: bank"), s)
	var told []string
	for _, x := range explain(t, e, at(s), s.Image).Images[0].Exceptions {
		told = append(told, x.Name+" "+x.Key+" "+asJSON(t, []bool{x.InForce, x.Reaches, x.Covers}))
	}
	want := "ended registry.example.com/shop [false,true,false]; other-tag registry.example.com/shop:2 [true,false,false]"
	if got := strings.Join(told, "; "); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}

// TestExplainUnknown: why a result is Unknown is said beside it, and of another nothing is.
func TestExplainUnknown(t *testing.T) {
	odd := scan("registry.example.com/odd:1", "c", time.Hour)
	odd.Unplaced = []api.Unplaced{{Packages: 2}, {Distro: "debian 99", Packages: 1}}
	failed := scan("registry.example.com/gone:1", "d", time.Hour)
	failed.Digest, failed.Error = "", "no such image"
	e := load(t, rejectFailed, shop(time.Hour), odd, failed)
	for image, why := range map[string]string{
		odd.Image: "nothing could be looked up for 2 packages of no known distribution; " +
			"nothing could be looked up for 1 package of debian 99, which the vulnerability database does not have",
		failed.Image: "no good scan of this tag is known; the last scan failed: no such image",
		"nginx:1":    "no good scan of this tag is known",
		"NGINX":      "the reference cannot be read",
	} {
		got := explain(t, e, nil, image).Images[0]
		if got.Result != api.Unknown || got.Unknown == nil || got.Unknown.Why != why || got.Unknown.Remedy == "" {
			t.Errorf("%s: %s", image, asJSON(t, got))
		}
	}
	if got := explain(t, e, nil, shop(time.Hour).Image).Images[0]; got.Unknown != nil {
		t.Errorf("%s", asJSON(t, got))
	}
}

// TestAnnotateCounts: a scan is told how many of its records have no score, whatever it says itself.
func TestAnnotateCounts(t *testing.T) {
	s := shop(time.Hour)
	s.Vulnerabilities = append(s.Vulnerabilities, api.Vulnerability{ID: "CVE-2026-9", Package: "x", Version: "1", Severity: "Critical"})
	s.Unscored, s.Unplaced = 77, []api.Unplaced{{Packages: 2}}
	s.Vulnerabilities = s.Vulnerabilities[2:]
	for i := range s.Vulnerabilities {
		if v := &s.Vulnerabilities[i]; v.CVSS != nil {
			v.CVSS = score(5)
		}
	}
	e := load(t, rejectFailed, s)
	if err := e.Annotate(t.Context(), s.Image, s.Digest, &s, now); err != nil || s.Unscored != 1 || s.Result != api.Unknown || *s.MaxCVSS != 5 {
		t.Errorf("%d unscored, %s %v, %v", s.Unscored, s.Result, s.MaxCVSS, err)
	}
}
