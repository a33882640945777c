package main

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/engine/pushdown"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/server/alerting"
	"github.com/assay-dev/assay/store"
)

// verdictAlerts are the alerts of VerdictAlerts over scans, as a server that was sent them in the order of their
// times has them. Where an image runs is what its last event up to now says.
func verdictAlerts(ctx context.Context, e *engine.Engine, rules []policies.VerdictAlert, scans []api.Scan, events []api.Event, now time.Time) (firing []api.Alert, err error) {
	found, err := foundIn(ctx, e, scans, events, now)
	if err != nil {
		return nil, err
	}
	for _, r := range rules {
		compiled, err := pushdown.New(ctx, []policies.Alert{r.Alert})
		if err != nil {
			return nil, err
		}
		var of []store.Found
		for _, f := range found {
			if !slices.Contains(r.Spec.Results, f.Event.Result) {
				continue
			}
			if of = append(of, f.Found); !r.Spec.FirstScan {
				of[len(of)-1].CVEs = f.later
			}
		}
		alerts, err := alerting.Verdicts(ctx, e, compiled, of, now)
		if err != nil {
			return nil, err
		}
		firing = append(firing, alerts...)
	}
	return firing, nil
}

// foundLater is what scans found in an image, and what of it another scan than the first did.
type foundLater struct {
	store.Found
	later map[string][]string
}

// foundIn is what scans found in each reference and digest.
func foundIn(ctx context.Context, e *engine.Engine, scans []api.Scan, events []api.Event, now time.Time) (found []foundLater, err error) {
	byDigest := map[string][]api.Scan{}
	var digests []string
	for _, s := range scans {
		if s.Error != "" || s.Digest == "" {
			continue
		}
		if byDigest[s.Digest] == nil {
			digests = append(digests, s.Digest)
		}
		byDigest[s.Digest] = append(byDigest[s.Digest], s)
	}
	for _, digest := range digests {
		list := byDigest[digest]
		slices.SortStableFunc(list, func(a, b api.Scan) int { return a.ScannedAt.Compare(b.ScannedAt) })
		packages, later := map[string][]string{}, map[string][]string{}
		for i, s := range list {
			before, lately := packages, later
			packages, later = map[string][]string{}, map[string][]string{}
			for _, g := range documents.Groups(s.Vulnerabilities) {
				id := g.Names[0]
				for _, v := range g.Members {
					packages[id] = append(packages[id], v.Package)
				}
				slices.Sort(packages[id])
				packages[id] = slices.Compact(packages[id])
				if _, known := before[id]; lately[id] != nil || i > 0 && !known {
					later[id] = packages[id]
				}
			}
		}
		last, seen := list[len(list)-1], map[string]bool{}
		for _, s := range list {
			ref, err := api.ParseReference(s.Image)
			if err != nil {
				return nil, err
			}
			if image := ref.Canonical(); !seen[image] {
				seen[image] = true
				c, err := e.Classify(ctx, image, digest, now)
				if err != nil {
					return nil, err
				}
				event := api.Event{Registry: ref.Registry(), Repository: ref.Repository(), Tag: ref.Tag, Digest: digest, Image: image, Result: c.Result, MaxCVSSScore: c.MaxCVSS, Source: last.Source,
					Instances: runningIn(events, image, digest, now)}
				for _, v := range last.Vulnerabilities {
					event.KEV, event.Fixable = event.KEV || v.KEV, event.Fixable || v.Fix.State == "fixed"
					if v.EPSS != nil && (event.EPSS == nil || *v.EPSS > *event.EPSS) {
						event.EPSS = v.EPSS
					}
				}
				found = append(found, foundLater{store.Found{Event: event, CVEs: packages}, later})
			}
		}
	}
	slices.SortStableFunc(found, func(a, b foundLater) int { return cmp.Compare(a.Event.Image, b.Event.Image) })
	return found, nil
}

// runningIn are the instances of the last event of an image up to a moment.
func runningIn(events []api.Event, image, digest string, now time.Time) (running []api.Instance) {
	last := ""
	for _, e := range events {
		at, err := time.Parse(time.RFC3339, e.Time)
		if text := documents.Time(at); err == nil && !at.After(now) && text >= last && e.Image == image && e.Digest == digest {
			last, running = text, e.Instances
		}
	}
	return running
}
