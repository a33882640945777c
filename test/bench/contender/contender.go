// Package contender has the engines that the benchmark compares, each given the
// same policies and reviews, and the facts of the images in the form natural to it.
package contender

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/test/bench/fleet"
)

// Contender decides reviews at the moment [fleet.Now].
type Contender interface {
	Name() string
	Admit(ctx context.Context, r *fleet.Review) (Verdict, error)
}

// Verdict is what all contenders can be compared by: whether the review is
// allowed, and which containers are not. Rejected is nil from those that only say whether.
type Verdict struct {
	Allowed  bool
	Rejected []string // sorted
	// Decided is "container policy rule" of each rejected container; nil from
	// those that do not say it.
	Decided []string
}

// Differs says how two verdicts differ, in what both of them tell; "" when they agree.
func (v Verdict) Differs(w Verdict) string {
	switch {
	case v.Allowed != w.Allowed:
		return fmt.Sprintf("allowed is %t and %t", v.Allowed, w.Allowed)
	case v.Rejected != nil && w.Rejected != nil && !slices.Equal(v.Rejected, w.Rejected):
		return fmt.Sprintf("rejected are %v and %v", v.Rejected, w.Rejected)
	case v.Decided != nil && w.Decided != nil && !slices.Equal(v.Decided, w.Decided):
		return fmt.Sprintf("decided are %v and %v", v.Decided, w.Decided)
	}
	return ""
}

// Fact is what those that do not classify are given of an image.
type Fact struct {
	Result    api.Result
	ScannedAt time.Time // zero: never
}

// Facts are those of every image of a fleet, by tag and by digest, and of one
// that was never scanned.
type Facts map[string]Fact

// FactsOf classifies the images of a fleet.
func FactsOf(p *Plain, f *fleet.Fleet) Facts {
	facts := Facts{fleet.Unscanned: {Result: api.Unknown}}
	for i := range f.Images {
		for _, image := range []string{f.Tagged(i), f.Pinned(i)} {
			c := p.Classify(api.NewContainer("", image))
			facts[image] = Fact{c.Result, c.ScannedAt}
		}
	}
	return facts
}

// moment is the one that a time criterion compares with.
func moment(t *api.TimeCriterion) time.Time {
	return fleet.Now.AddDate(-t.Duration.Years, -t.Duration.Months, -t.Duration.Days)
}
