package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/server/follow"
	"github.com/assay-dev/assay/store"
)

// ImpactQuestion is a change that is only thought of.
type ImpactQuestion struct {
	// Exceptions would be added, in the place of those of their names.
	Exceptions []api.VulnerabilityException `json:"exceptions,omitempty"`
	// Without names exceptions that would be removed.
	Without []string `json:"without,omitempty"`
	// Thresholds would be in the place of those in force.
	Thresholds *api.ThresholdsSpec `json:"thresholds,omitempty"`
}

// Impact is what a change would change.
type Impact struct {
	// Judged is how many images were judged twice, and Changed how many get another result.
	Judged  int `json:"judged"`
	Changed int `json:"changed"`
	// Running is how many containers run an image that gets another result.
	Running int `json:"running"`
	// Ways are the numbers of images by what they are and would be, such as "Fail → Warn".
	Ways map[string]int `json:"ways"`
	// Images are those that change, at most 200.
	Images []ImpactedImage `json:"images"`
	// Decisions are recorded ones, of the newest 500, that would be decided otherwise.
	Decisions []ImpactedDecision `json:"decisions"`
	// Replayed is how many recorded decisions were made anew.
	Replayed int `json:"replayed"`
}

// ImpactedImage is an image whose result would change.
type ImpactedImage struct {
	Image         string     `json:"image"`
	Digest        string     `json:"digest"`
	Before        api.Result `json:"before"`
	After         api.Result `json:"after"`
	MaxCVSSBefore *float64   `json:"max_cvss_before,omitempty"`
	MaxCVSSAfter  *float64   `json:"max_cvss_after,omitempty"`
	Running       int        `json:"running"`
}

// ImpactedDecision is a workload that would be decided otherwise.
type ImpactedDecision struct {
	ID        int64  `json:"id"`
	Cluster   string `json:"cluster,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Kind      string `json:"kind"`
	Name      string `json:"name"`
	Before    bool   `json:"allowed_before"`
	After     bool   `json:"allowed_after"`
}

const (
	impactImages    = 200
	impactDecisions = 500
)

func (s *Server) postImpact(w http.ResponseWriter, r *http.Request) error {
	var q ImpactQuestion
	if err := s.decode(w, r, &q); err != nil {
		return err
	}
	h := follow.Hypothesis{Without: q.Without, Thresholds: q.Thresholds}
	for i, e := range q.Exceptions {
		text, err := json.Marshal(e)
		if err != nil {
			return err
		}
		if e, err = s.readException(r, text, ""); err != nil {
			return fmt.Errorf("exceptions[%d]: %w", i, err)
		}
		h.Exceptions = append(h.Exceptions, e)
	}
	if q.Thresholds != nil {
		if err := checkThresholds(*q.Thresholds); err != nil {
			return err
		}
	}
	before, after, err := s.Live.Suppose(r.Context(), h)
	if err != nil {
		if errors.Is(err, engine.ErrNotLoaded) {
			return &refusedPolicies
		}
		return err
	}
	i := Impact{Ways: map[string]int{}, Images: []ImpactedImage{}, Decisions: []ImpactedDecision{}}
	if err := s.impactOnImages(r.Context(), q, before, after, &i); err != nil {
		return err
	}
	if err := s.impactOnDecisions(r.Context(), before, after, &i); err != nil {
		return err
	}
	return answer(w, http.StatusOK, i)
}

// impactOnImages judges the images that a change can reach: all of them, or those with
// the CVE of the one exception.
func (s *Server) impactOnImages(ctx context.Context, q ImpactQuestion, before, after *engine.Engine, out *Impact) error {
	var f store.Filter
	if q.Thresholds == nil && len(q.Without) == 0 && len(q.Exceptions) == 1 {
		f.CVE = q.Exceptions[0].Spec.CVE
	}
	now := s.Now()
	for p := (store.Page{Limit: 1000}); ; {
		list, err := s.Store.Images(ctx, f, p)
		if err != nil {
			return err
		}
		for _, m := range list.Items {
			if m.Digest == "" {
				continue
			}
			if err := impactOnImage(ctx, m, before, after, now, out); err != nil {
				return err
			}
		}
		if p.After = list.Next; p.After == "" {
			return nil
		}
	}
}

func impactOnImage(ctx context.Context, m store.Image, before, after *engine.Engine, now time.Time, out *Impact) error {
	b, err := before.In(m.Reader).Classify(ctx, m.Image, m.Digest, now)
	if err != nil {
		return err
	}
	a, err := after.In(m.Reader).Classify(ctx, m.Image, m.Digest, now)
	if err != nil {
		return err
	}
	out.Judged++
	if a.Result == b.Result {
		return nil
	}
	out.Changed++
	out.Running += m.Instances
	out.Ways[string(b.Result)+" → "+string(a.Result)]++
	if len(out.Images) < impactImages {
		out.Images = append(out.Images, ImpactedImage{Image: m.Image, Digest: m.Digest, Before: b.Result, After: a.Result, MaxCVSSBefore: b.MaxCVSS, MaxCVSSAfter: a.MaxCVSS, Running: m.Instances})
	}
	return nil
}

// impactOnDecisions decides recorded reviews anew, with and without the change: what else
// changed since they were recorded does not count.
func (s *Server) impactOnDecisions(ctx context.Context, before, after *engine.Engine, out *Impact) error {
	recorded, err := s.Store.Decisions(ctx, store.DecisionFilter{}, 0, impactDecisions)
	if err != nil {
		return err
	}
	now, seen := s.Now(), map[string]bool{}
	for _, d := range recorded {
		key := fmt.Sprintf("%q", []string{d.Cluster, d.Record.Decision.Namespace, d.Record.Decision.Kind, d.Record.Decision.Name})
		if seen[key] {
			continue // the newest one of a workload speaks for it
		}
		seen[key] = true
		b, err := before.In(d.Cluster).Admit(ctx, d.Record.Input.Review, now)
		if err != nil {
			return err
		}
		a, err := after.In(d.Cluster).Admit(ctx, d.Record.Input.Review, now)
		if err != nil {
			return err
		}
		out.Replayed++
		if a.Allowed != b.Allowed {
			out.Decisions = append(out.Decisions, ImpactedDecision{ID: d.ID, Cluster: d.Cluster, Namespace: a.Namespace, Kind: a.Kind, Name: a.Name, Before: b.Allowed, After: a.Allowed})
		}
	}
	return nil
}

// checkThresholds gives what is wrong with thresholds.
func checkThresholds(t api.ThresholdsSpec) error {
	text, err := json.Marshal(api.Thresholds{TypeMeta: api.TypeMeta{APIVersion: api.GroupAssay, Kind: api.KindThresholds}, Metadata: api.ObjectMeta{Name: "default"}, Spec: t})
	if err != nil {
		return err
	}
	_, err = policies.Parse("thresholds.json", text)
	return placeless(err)
}

// placeless takes the places out of diagnostics of a text that no user wrote.
func placeless(err error) error {
	var diagnostics policies.Diagnostics
	if errors.As(err, &diagnostics) {
		for i := range diagnostics {
			diagnostics[i].Line, diagnostics[i].Column = 0, 0
		}
		return diagnostics
	}
	return err
}

// postExplain explains the decision on a review, with the packages of the newest scans.
func (s *Server) postExplain(w http.ResponseWriter, r *http.Request) error {
	cluster, err := s.cluster(r)
	if err != nil {
		return err
	}
	in, now, err := s.reviewOf(w, r)
	if err != nil {
		return err
	}
	explained, err := s.Live.Engine().In(cluster).Explain(r.Context(), in.Review, now, func(digest string) (api.Scan, bool) {
		scan, _, err := s.Store.Scan(r.Context(), digest, "", cluster)
		return scan, err == nil
	})
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, explained)
}
