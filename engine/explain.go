package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
	"github.com/open-policy-agent/opa/v1/ast"
)

// Scans gives the newest scan of a platform manifest, where it is at hand. It is
// where packages and their fixes come from, which the data documents do not have.
type Scans func(digest string) (api.Scan, bool)

// Explain says why the decision on a review is what it is and, for each image
// refused, what would admit it. Every option that it gives was applied and
// decided again. scans may be nil: then the options are exceptions alone.
func (e *Engine) Explain(ctx context.Context, r api.Review, now time.Time, scans Scans) (api.Explanation, error) {
	w := &whatIf{ctx: ctx, engine: e, now: now, scans: scans, review: r, state: e.current.Load()}
	if w.state == nil || w.state.program == nil {
		return api.Explanation{}, ErrNotLoaded
	}
	if scans == nil {
		w.scans = func(string) (api.Scan, bool) { return api.Scan{}, false }
	}
	var explained struct {
		api.Decision
		Explain []api.ImageExplanation `json:"explain"`
	}
	if err := w.ask(w.state, queryExplain, reviewInput(r, now), &explained); err != nil {
		return api.Explanation{}, err
	}
	out := api.Explanation{Schema: api.SchemaExplanation, Decision: explained.Decision, Images: explained.Explain}
	for i := range out.Images {
		image := &out.Images[i]
		w.addPackages(image)
		if explained.Images[i].Action != api.Reject {
			continue
		}
		var err error
		if image.Counterfactual, err = w.counterfactual(i, image); err != nil {
			return api.Explanation{}, err
		}
	}
	return out, nil
}

func (w *whatIf) addPackages(image *api.ImageExplanation) {
	scan, ok := w.scans(image.Digest)
	if !ok {
		return
	}
	byID := map[string][]*api.Vulnerability{}
	for _, g := range documents.Groups(scan.Vulnerabilities) {
		byID[g.Names[0]] = g.Members
	}
	for i := range image.Vulnerabilities {
		v := &image.Vulnerabilities[i]
		for _, m := range byID[v.ID] {
			v.Packages = append(v.Packages, api.VulnerablePackage{Package: m.Package, Version: m.Version, Type: m.Type, FixedIn: m.Fix.Versions})
		}
	}
}

// whatIf decides one review again over data that is changed on trial. What is
// loaded stays as it is.
type whatIf struct {
	ctx    context.Context
	engine *Engine
	now    time.Time
	scans  Scans
	review api.Review
	state  *loaded
}

func (w *whatIf) ask(state *loaded, query string, input ast.Value, out any) error {
	value, err := w.engine.within(w.ctx, state, query, input, nil)
	if err != nil {
		return err
	}
	return decode(query, value, out)
}

// with is the state with changes.
func (w *whatIf) with(state *loaded, changes ...Change) (*loaded, error) {
	return state.with(newTerms(), changes)
}

// image decides the review and gives what is said of its i-th image.
func (w *whatIf) image(state *loaded, i int) (api.ImageDecision, error) {
	var d api.Decision
	if err := w.ask(state, queryDecision, reviewInput(w.review, w.now), &d); err != nil {
		return api.ImageDecision{}, err
	}
	return d.Images[i], nil
}

// container is that of the i-th image of a decision: a review may judge only some.
func (w *whatIf) container(image *api.ImageExplanation) api.Container {
	return api.NewContainer(image.Container, image.Image)
}

// worst is how bad a result is.
var worst = map[api.Result]int{api.Pass: 0, api.Warned: 1, api.Unknown: 2, api.Fail: 3}

func (w *whatIf) counterfactual(i int, image *api.ImageExplanation) (*api.Counterfactual, error) {
	c := w.container(image)
	out := &api.Counterfactual{AdmittedAs: []api.Result{}, Options: []api.ChangeSet{}}
	if c.Name == "" {
		out.Reason = "the image reference does not parse"
		return out, nil
	}
	var err error
	if out.AdmittedAs, err = w.admittedAs(i, c, image.ScannedAt); err != nil {
		return nil, err
	}
	if image.ScannedAt == "" {
		fresh, err := w.admittedAs(i, c, documents.Time(w.now))
		if err != nil {
			return nil, err
		}
		out.AdmittedAs = fresh
		out.Reason = "it has no result yet, and the policies refuse it whatever a scan finds"
		if len(fresh) > 0 {
			out.Reason = "it has no result yet: " + remedy(image) + "; it is admitted when the result is " + orList(fresh)
		}
		return out, nil
	}
	for _, rescan := range []bool{false, true} {
		if err := w.options(out, i, c, image, rescan); err != nil {
			return nil, err
		}
		if len(out.Options) > 0 {
			slices.SortStableFunc(out.Options, func(a, b api.ChangeSet) int { return cmp.Compare(len(a.Changes), len(b.Changes)) })
			return out, nil
		}
	}
	out.Reason = "no change of its packages, exceptions or scan admits it: the policies refuse it for its reference, workload or namespace"
	switch {
	case len(out.AdmittedAs) > 0 && image.Unknown != nil:
		out.Reason = remedy(image) + "; it is admitted when the result is " + orList(out.AdmittedAs)
	case len(out.AdmittedAs) > 0:
		out.Reason = "it is admitted only when its result is " + orList(out.AdmittedAs)
	}
	return out, nil
}

// remedy is what would give an image a result.
func remedy(image *api.ImageExplanation) string {
	if image.Unknown == nil {
		return "have it scanned"
	}
	return image.Unknown.Remedy
}

func orList(results []api.Result) string {
	texts := make([]string, len(results))
	for i, r := range results {
		texts[i] = string(r)
	}
	return strings.Join(texts, " or ")
}

// admittedAs are the results with which the image would be admitted, had it been
// scanned at a moment. It is tried with an image of no or one vulnerability.
func (w *whatIf) admittedAs(i int, c api.Container, at string) ([]api.Result, error) {
	thresholds, err := w.thresholds()
	if err != nil {
		return nil, err
	}
	admitted := []api.Result{}
	for _, score := range []json.Number{"", thresholds.Warn, thresholds.Fail} {
		const id = "CVE-0000-0000"
		digest := c.Digest
		var changes []Change
		if digest == "" {
			digest = "sha256:" + strings.Repeat("0", 64)
			path := func(s documents.Space) []string { return documents.NamePath(s, c.Name, c.Tag) }
			changes = append(w.without(path), Change{Path: path(documents.Shared), Value: map[string]any{"digest": digest, "at": at}})
		}
		image := map[string]any{"at": at, "db": "", "ids": []any{}, "s": []any{}}
		details := map[string]any{}
		if score != "" {
			image["ids"], image["s"] = []any{id}, []any{score}
			details[id] = []any{map[string]any{"severity": "", "fixed": true, "kev": false, "package": "", "version": "", "score": score}}
		}
		changes = append(changes, w.without(func(s documents.Space) []string { return documents.ClaimsPath(s, digest) })...)
		changes = append(changes, Change{Path: documents.IndexPath(digest)}, Change{Path: []string{"exceptions"}, Value: map[string]any{}})
		state, err := w.with(w.state, append(changes, w.evidence(digest, image, details)...)...)
		if err != nil {
			return nil, err
		}
		d, err := w.image(state, i)
		if err != nil {
			return nil, err
		}
		if d.Action == api.Allow && !slices.Contains(admitted, d.Result) {
			admitted = append(admitted, d.Result)
		}
	}
	return admitted, nil
}

// options adds the sets of changes that admit the image, with or without a new
// scan, by the least improvement that does.
func (w *whatIf) options(out *api.Counterfactual, i int, c api.Container, image *api.ImageExplanation, rescan bool) error {
	start := w.state
	var first []api.Change
	if rescan {
		var err error
		if start, err = w.rescanned(c); err != nil {
			return err
		}
		first = []api.Change{{Scan: true}}
		d, err := w.image(start, i)
		if err != nil {
			return err
		}
		if d.Action == api.Allow {
			out.Options = append(out.Options, api.ChangeSet{Kind: "scan", Result: d.Result, Reason: d.Reason, Changes: first})
			return nil
		}
	}
	better, err := w.better(image.Result)
	if err != nil {
		return err
	}
	var sets []api.ChangeSet
	for _, g := range better {
		if sets, err = w.sets(start, i, c, g, first); err != nil {
			return err
		}
		if len(sets) > 0 {
			break // the next is further away
		}
	}
	noWorse, err := w.noWorse(start, c)
	if err != nil {
		return err
	}
	for _, g := range noWorse {
		more, err := w.sets(start, i, c, g, first)
		if err != nil {
			return err
		}
		sets = append(sets, more...)
	}
	out.Options = smallestOfEach(sets)
	return nil
}

// smallestOfEach keeps of each kind the smallest set, the first of several; a mixture is
// of use only where it is smaller than what is of one kind.
func smallestOfEach(sets []api.ChangeSet) []api.ChangeSet {
	return slices.DeleteFunc(slices.Clone(sets), func(s api.ChangeSet) bool {
		return slices.ContainsFunc(sets, func(o api.ChangeSet) bool {
			switch {
			case o.Kind == s.Kind:
				return len(o.Changes) < len(s.Changes)
			case s.Kind == "mixed":
				return len(o.Changes) <= len(s.Changes)
			}
			return false
		})
	})
}

// rescanned is the state in which the image's manifests were scanned now, with what they had.
func (w *whatIf) rescanned(c api.Container) (*loaded, error) {
	var manifests map[string]struct {
		Image   map[string]any `json:"image"`
		Details map[string]any `json:"details"`
	}
	if err := w.ask(w.state, queryManifests, classifyInput(c.Image, "", w.now), &manifests); err != nil {
		return nil, err
	}
	var changes []Change
	for digest, m := range manifests {
		m.Image["at"] = documents.Time(w.now)
		changes = append(changes, w.evidence(digest, m.Image, m.Details)...)
	}
	return w.with(w.state, changes...)
}

// evidence are the changes that make documents all that is known of a manifest.
func (w *whatIf) evidence(digest string, image, details map[string]any) []Change {
	for _, key := range []string{"scope", "prefix", "d"} {
		delete(image, key)
	}
	if ways := w.state.program.settings.Evidence; len(ways) > 0 {
		image["way"] = ways[0]
	}
	return append(w.without(func(s documents.Space) []string { return documents.EvidencePath(s, digest) }),
		Change{Path: documents.ImagePath(digest), Value: image},
		Change{Path: documents.DetailsPath(digest), Value: details})
}

// without are the changes that take a document out of all spaces that have it.
func (w *whatIf) without(path func(documents.Space) []string) (changes []Change) {
	spaces, err := w.state.data.Read(w.ctx, reading{}, []string{"assay", "spaces"})
	if err != nil {
		return nil
	}
	object, ok := spaces.(ast.Object)
	if !ok {
		return nil
	}
	for _, key := range object.Keys() {
		place := path(documents.Space(text(key)))
		if _, err := w.state.data.Read(w.ctx, reading{}, append([]string{"assay"}, place...)); err == nil {
			changes = append(changes, Change{Path: place})
		}
	}
	return changes
}

// blocker is a vulnerability that keeps an image from a better result.
type blocker struct {
	ID      string `json:"id"`
	Members []struct {
		Counts    bool     `json:"counts"`
		Covered   bool     `json:"covered"`
		Exploited bool     `json:"exploited"`
		Score     *float64 `json:"score"`
	} `json:"members"`
}

// maxManifests bounds how many platforms of an index are looked at.
const maxManifests = 16

type limits struct{ Warn, Fail json.Number }

func (w *whatIf) thresholds() (limits, error) {
	var explained struct{ Thresholds limits }
	err := w.ask(w.state, queryClassifyX, classifyInput("", "", w.now), &explained)
	return explained.Thresholds, err
}

// goal is what changes bring an image to: the score of no vulnerability that counts is at
// or over the limit and, where exploited is set, none fails by itself.
type goal struct {
	limit     float64
	exploited bool
}

// better are the goals that give an image a better result, the nearest first.
func (w *whatIf) better(than api.Result) ([]goal, error) {
	thresholds, err := w.thresholds()
	if err != nil {
		return nil, err
	}
	var goals []goal
	for _, target := range []struct {
		result api.Result
		limit  json.Number
	}{{api.Warned, thresholds.Fail}, {api.Pass, thresholds.Warn}} {
		if worst[target.result] >= worst[than] {
			continue
		}
		limit, err := target.limit.Float64()
		if err != nil {
			return nil, err
		}
		goals = append(goals, goal{limit, true})
	}
	return goals, nil
}

// noWorse are the goals with which an image is no worse than what it replaces, where the
// settings let such an update through.
func (w *whatIf) noWorse(state *loaded, c api.Container) ([]goal, error) {
	var goals []goal
	if !state.program.settings.AllowNoWorse || w.review.Operation != "UPDATE" {
		return goals, nil
	}
	for _, o := range w.review.OldContainers {
		if o.Container != c.Container || o.Name != c.Name {
			continue
		}
		var old Classification
		if err := w.ask(state, queryClassify, classifyInput(o.Image, "", w.now), &old); err != nil {
			return nil, err
		}
		g := goal{exploited: old.Result != api.Fail}
		if old.MaxCVSS != nil {
			g.limit = math.Nextafter(*old.MaxCVSS, math.Inf(1))
		}
		goals = append(goals, g)
	}
	return goals, nil
}

// scanned are the changes that put a manifest's scan in place, with all details.
func (w *whatIf) scanned(digest, at string, scan api.Scan) []Change {
	image, details := documents.Image(scan, documents.Needs{All: true})
	image["at"] = at
	return w.evidence(digest, image, details)
}

// sets are the smallest sets of changes, one of each kind, that admit the image by
// bringing it to the goal; they begin with the first changes, which the state has.
func (w *whatIf) sets(state *loaded, i int, c api.Container, g goal, first []api.Change) ([]api.ChangeSet, error) {
	var sets []api.ChangeSet
	for _, kind := range []string{"upgrades", "mixed", "exceptions"} {
		changes, d, err := w.solve(state, i, c, g, kind)
		if err != nil {
			return nil, err
		}
		if changes != nil {
			sets = append(sets, api.ChangeSet{Kind: kind, Result: d.Result, Reason: d.Reason, Changes: slices.Concat(first, changes)})
		}
	}
	return sets, nil
}

// solve looks for changes of one kind that admit the image by bringing it to the goal;
// nil when there are none. An index may ask for changes to one platform's manifest
// after another, so it goes on until the image is admitted.
func (w *whatIf) solve(state *loaded, i int, c api.Container, g goal, kind string) ([]api.Change, api.ImageDecision, error) {
	none := api.ImageDecision{}
	var all []api.Change
	patched := map[string]api.Scan{}
	for range maxManifests {
		d, err := w.image(state, i)
		if err != nil {
			return nil, none, err
		}
		if d.Action == api.Allow {
			return all, d, nil
		}
		if d.Digest == "" {
			return nil, none, nil
		}
		scan, known := patched[d.Digest]
		if !known {
			scan, known = w.scans(d.Digest)
		}
		if known {
			if state, err = w.with(state, w.scanned(d.Digest, d.ScannedAt, scan)...); err != nil {
				return nil, none, err
			}
		}
		input := classifyInput(c.Image, "", w.now).(ast.Object)
		input.Insert(ast.InternedTerm("limit"), ast.FloatNumberTerm(g.limit))
		input.Insert(ast.InternedTerm("exploited"), ast.BooleanTerm(g.exploited))
		var blockers []blocker
		if err := w.ask(state, queryBlocking, input, &blockers); err != nil {
			return nil, none, err
		}
		changes := chosen(blockers, scan, d.Digest, kind, g)
		if changes == nil {
			return nil, none, nil
		}
		all = append(all, changes...)
		scan = upgraded(scan, changes)
		patched[d.Digest] = scan
		var edits []Change
		if known {
			edits = w.scanned(d.Digest, d.ScannedAt, scan)
		}
		for _, change := range changes {
			if change.Exception != "" {
				edits = append(edits,
					Change{Path: []string{"exceptions", "ends", c.Name + "@" + d.Digest, change.Exception}, Value: documents.Never},
					Change{Path: []string{"exceptions", "keys", c.Name}, Value: []any{c.Name}})
			}
		}
		if state, err = w.with(state, edits...); err != nil {
			return nil, none, err
		}
	}
	return nil, none, nil
}
