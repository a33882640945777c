package agreement_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/review"
	"github.com/assay-dev/assay/test/corpus"
	"github.com/assay-dev/assay/test/reference"
)

// scansOf gives the scan that counts of each digest.
func scansOf(w world) engine.Scans {
	return func(digest string) (api.Scan, bool) {
		var found api.Scan
		ok := false
		for _, s := range w.World.Scans {
			if s.Digest == digest && s.Error == "" && (!ok || !s.ScannedAt.Before(found.ScannedAt)) {
				found, ok = s, true
			}
		}
		return found, ok
	}
}

// changed is the world after changes to one image, made as a user would make them.
func changed(w world, image string, changes []api.Change) reference.World {
	out := w.World
	out.Scans = slices.Clone(out.Scans)
	out.Exceptions = slices.Clone(out.Exceptions)
	ref, err := api.ParseReference(image)
	if err != nil {
		return out
	}
	slash := strings.LastIndexByte(ref.Name(), '/')
	for _, c := range changes {
		switch {
		case c.Scan:
			// Whatever was scanned is scanned again, under a reference that observes no tag.
			for _, s := range w.World.Scans {
				if scan, ok := scansOf(w)(s.Digest); ok {
					scan.Image, scan.ScannedAt, scan.Index = ref.Name()+"@"+s.Digest, w.Now, nil
					out.Scans = append(out.Scans, scan)
				}
			}
		case c.Exception != "":
			e := api.VulnerabilityException{Spec: api.VulnerabilityExceptionSpec{
				CVE: c.Exception, Scope: api.ScopeImage, Registry: ref.Name()[:slash], Repository: ref.Name()[slash+1:],
				Digest: c.Digest, Justification: "a test",
			}}
			e.Metadata.Name = "added-" + strings.ToLower(c.Exception)
			out.Exceptions = append(out.Exceptions, e)
		case c.Upgrade != nil:
			for i, s := range out.Scans {
				if s.Digest != c.Digest {
					continue
				}
				out.Scans[i].Vulnerabilities = slices.DeleteFunc(slices.Clone(s.Vulnerabilities), func(v api.Vulnerability) bool {
					return v.Fix.State == "fixed" && v.Package == c.Upgrade.Package && v.Version == c.Upgrade.Version && v.Type == c.Upgrade.Type
				})
			}
		}
	}
	return out
}

// candidates are all changes that one could make to a manifest.
func candidates(w world, digest string) []api.Change {
	scan, _ := scansOf(w)(digest)
	var all []api.Change
	seen := map[string]bool{}
	for _, g := range documents.Groups(scan.Vulnerabilities) {
		all = append(all, api.Change{Exception: g.Names[0], Digest: digest})
		for _, v := range g.Members {
			if key := v.Package + "\x00" + v.Version + "\x00" + v.Type; !seen[key] && v.Fix.State == "fixed" {
				seen[key] = true
				all = append(all, api.Change{Upgrade: &api.Upgrade{Package: v.Package, Version: v.Version, Type: v.Type}, Digest: digest})
			}
		}
	}
	return all
}

// strict are policies that look at results and times: those of the corpus refuse
// most images for other reasons. The first case keeps the corpus's own.
var strict = func() [5][]api.ContainerAdmissionPolicy {
	rules := func(rules ...api.Rule) []api.ContainerAdmissionPolicy {
		p := api.ContainerAdmissionPolicy{Spec: api.ContainerAdmissionPolicySpec{Rules: rules}}
		p.APIVersion, p.Kind, p.Metadata.Name = api.GroupPolicy, api.KindContainerAdmissionPolicy, "strict"
		return []api.ContainerAdmissionPolicy{p}
	}
	status := func(values ...string) *api.ValuesCriterion {
		return &api.ValuesCriterion{Operator: api.IsOneOf, Values: values}
	}
	recent := &api.TimeCriterion{Operator: "gt", Duration: &api.Duration{Days: 1}}
	return [5][]api.ContainerAdmissionPolicy{
		nil,
		rules(api.Rule{Action: api.Reject, ImageScanStatus: status("Fail")}),
		rules(api.Rule{Action: api.Reject, ImageScanStatus: status("Fail", "Warn")}),
		rules(api.Rule{Action: api.Allow, ImageScanStatus: status("Pass", "Warn"), ImageLastScan: recent}, api.Rule{Action: api.Reject}),
		rules(api.Rule{Action: api.Reject, ImageScanStatus: status("Fail")}, api.Rule{Action: api.Allow, ImageLastScan: recent}, api.Rule{Action: api.Reject}),
	}
}()

// Each option of a counterfactual admits the image, says the plain reference, and
// no smaller set of changes does: all sets of fewer changes are tried.
func TestCounterfactuals(t *testing.T) {
	seen := tried{options: map[string]int{}}
	for seed := range min(cases(t), 120) {
		c := corpus.Generate(seed)
		if p := strict[seed%5]; len(p) > 0 {
			c.World.Policies = p
		}
		w := loadCase(t, seed, c)
		for _, r := range w.Reviews {
			seen.review(t, seed, w, r)
		}
	}
	seen.enough(t, 120, "upgrades", "exceptions", "mixed", "scan")
}

// The same of updates that go through where the new image is no worse than what runs.
func TestCounterfactualsOfUpdates(t *testing.T) {
	seen := tried{options: map[string]int{}}
	for seed := range min(cases(t), 120) {
		c := corpus.Generate(seed)
		c.World.Policies = strict[1+seed%4]
		if c.World.Settings == nil {
			s := api.AdmissionSettings{TypeMeta: api.TypeMeta{APIVersion: api.GroupAssay, Kind: api.KindAdmissionSettings}}
			s.Metadata.Name = "default"
			c.World.Settings = &s
		}
		c.World.Settings.Spec.AllowNoWorse = true
		w := loadCase(t, seed, c)
		digests := map[string][]string{}
		for _, s := range w.World.Scans {
			if ref, err := api.ParseReference(s.Image); err == nil && s.Error == "" && !slices.Contains(digests[ref.Name()], s.Digest) {
				digests[ref.Name()] = append(digests[ref.Name()], s.Digest)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(digests)) {
			for i, d := range digests[name][1:] {
				seen.review(t, seed, w, update(name+"@"+digests[name][i], name+"@"+d))
				seen.review(t, seed, w, update(name+"@"+d, name+"@"+digests[name][i]))
			}
		}
	}
	seen.enough(t, 120, "upgrades", "exceptions", "no worse")
}

// update is a review of a Deployment whose only image is replaced.
func update(before, after string) json.RawMessage {
	object := func(image string) string {
		return fmt.Sprintf(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","namespace":"prod"},"spec":{"template":{"spec":{"containers":[{"name":"web","image":%q}]}}}}`, image)
	}
	return fmt.Appendf(nil, `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","kind":{"group":"apps","version":"v1","kind":"Deployment"},`+
		`"resource":{"group":"apps","version":"v1","resource":"deployments"},"name":"web","namespace":"prod","operation":"UPDATE","userInfo":{},"object":%s,"oldObject":%s}}`, object(after), object(before))
}

// tried counts what was explained: images refused, options by kind, and images searched for smaller sets.
type tried struct {
	refused, exhaustive int
	options             map[string]int
}

func (n *tried) enough(t *testing.T, of uint64, kinds ...string) {
	t.Helper()
	t.Logf("%d refused images explained, with options %v; %d of them searched for smaller sets", n.refused, n.options, n.exhaustive)
	for _, kind := range kinds {
		if n.options[kind] < 3 && cases(t) >= of {
			t.Errorf("the corpus is too thin: %d options of kind %s", n.options[kind], kind)
		}
	}
}

func (n *tried) review(t *testing.T, seed uint64, w world, r json.RawMessage) {
	t.Helper()
	ctx := t.Context()
	in, err := review.FromAdmissionReview(r, review.KindsOf(w.set.Settings))
	if err != nil {
		t.Fatal(err)
	}
	x, err := w.engine.Explain(ctx, in.Review, w.Now, scansOf(w))
	if err != nil {
		t.Fatalf("seed %d: %v\n%s", seed, err, r)
	}
	d, err := w.engine.Admit(ctx, in.Review, w.Now)
	if err != nil || show(d) != show(x.Decision) {
		t.Fatalf("seed %d: explained %s, decided %s (%v)\n%s", seed, show(x.Decision), show(d), err, r)
	}
	for i, image := range x.Images {
		if (image.Counterfactual != nil) != (d.Images[i].Action == api.Reject) {
			t.Fatalf("seed %d: %s\n%s", seed, show(image), r)
		}
		if image.Counterfactual == nil {
			continue
		}
		n.refused++
		verify(t, seed, w, r, i, image, n.options)
		if smallest(t, seed, w, r, i, image) {
			n.exhaustive++
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}

func verify(t *testing.T, seed uint64, w world, r json.RawMessage, i int, image api.ImageExplanation, options map[string]int) {
	t.Helper()
	if len(image.Counterfactual.Options) == 0 && image.Counterfactual.Reason == "" {
		t.Errorf("seed %d: neither option nor reason: %s", seed, show(image))
	}
	for _, o := range image.Counterfactual.Options {
		options[o.Kind]++
		if o.Reason != "" {
			options["no worse"]++
		}
		got := reference.Admit(changed(w, image.Image, o.Changes), r, w.Now).Images[i]
		if got.Action != api.Allow || got.Result != o.Result {
			t.Errorf("seed %d: %s is %s %s after %s", seed, image.Image, got.Action, got.Result, show(o))
		}
	}
}

// smallest tries all sets of changes smaller than the best option: none admits the image.
func smallest(t *testing.T, seed uint64, w world, r json.RawMessage, i int, image api.ImageExplanation) bool {
	t.Helper()
	options := image.Counterfactual.Options
	if image.Digest == "" || len(options) > 0 && options[0].Kind == "scan" {
		return false
	}
	all := candidates(w, image.Digest)
	limit := 3
	if len(options) > 0 {
		limit = min(limit, len(options[0].Changes))
		for _, c := range options[0].Changes {
			if c.Digest != image.Digest { // of several platforms: only one is searched
				return false
			}
		}
	}
	var try func(from int, set []api.Change)
	try = func(from int, set []api.Change) {
		if got := reference.Admit(changed(w, image.Image, set), r, w.Now).Images[i]; got.Action == api.Allow && len(set) > 0 {
			t.Errorf("seed %d: %s is admitted after %s alone, but the options are %s", seed, image.Image, show(set), show(options))
		}
		if len(set)+1 >= limit || t.Failed() {
			return
		}
		for k := from; k < len(all); k++ {
			try(k+1, append(slices.Clone(set), all[k]))
		}
	}
	if len(all) > 30 {
		return false
	}
	try(0, nil)
	return true
}
