package contender

import (
	"context"
	"errors"
	"fmt"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/test/bench/fleet"
)

// Thresholds of the benchmark: the defaults.
const (
	Warn = api.DefaultWarn
	Fail = api.DefaultFail
)

// Data holds the two contenders that classify, with the scans and exceptions of
// a fleet; the others come and go with the policies.
type Data struct {
	Fleet    *fleet.Fleet
	Policies []fleet.Policy
	Assay    *Assay
	Plain    *Plain
}

// NewData loads a fleet and n policies of a kind.
func NewData(ctx context.Context, f *fleet.Fleet, kind string, n int) (*Data, error) {
	d := &Data{Fleet: f, Policies: fleet.Policies(kind, n)}
	scans, exceptions := f.Scans(0, f.Images), f.ExceptionList()
	var err error
	if d.Plain, err = NewPlain(d.Policies, Warn, Fail); err != nil {
		return nil, err
	}
	d.Plain.AddScans(scans)
	if err := d.Plain.AddExceptions(exceptions); err != nil {
		return nil, err
	}
	d.Assay, err = NewAssay(ctx, d.Policies, Warn, Fail, exceptions, scans)
	return d, err
}

// SetPolicies puts n policies of a kind in the place of those before.
func (d *Data) SetPolicies(ctx context.Context, kind string, n int) error {
	d.Policies = fleet.Policies(kind, n)
	if err := d.Plain.SetPolicies(d.Policies); err != nil {
		return err
	}
	return d.Assay.SetPolicies(ctx, d.Policies, Warn, Fail)
}

// Contenders are all of them, plain Go first. Those that do not classify are given
// the facts of all images of the fleet and of the reviews.
func (d *Data) Contenders(ctx context.Context) ([]Contender, error) {
	facts := FactsOf(d.Plain, d.Fleet)
	c, err := NewCEL(d.Policies, facts)
	if err != nil {
		return nil, err
	}
	g, err := NewGatekeeper(ctx, d.Policies, facts)
	return []Contender{d.Plain, d.Assay, AssayJSON{d.Assay}, c, g}, err
}

// Compare has every contender decide every review, and fails where one differs
// from the first. It counts the reviews that are rejected.
func Compare(ctx context.Context, all []Contender, reviews []fleet.Review) (rejected int, err error) {
	var errs []error
	for i := range reviews {
		first, err := all[0].Admit(ctx, &reviews[i])
		if err != nil {
			return 0, fmt.Errorf("%s: %w", all[0].Name(), err)
		}
		if !first.Allowed {
			rejected++
		}
		for _, c := range all[1:] {
			v, err := c.Admit(ctx, &reviews[i])
			if err != nil {
				return 0, fmt.Errorf("%s: %w", c.Name(), err)
			}
			if how := first.Differs(v); how != "" {
				errs = append(errs, fmt.Errorf("review %d: %s and %s disagree: %s", i, all[0].Name(), c.Name(), how))
			}
		}
	}
	return rejected, errors.Join(errs...)
}

// CompareClassifications has both classify every image, by tag and by digest. It
// counts the results.
func (d *Data) CompareClassifications(ctx context.Context) (map[api.Result]int, error) {
	seen := map[api.Result]int{}
	var errs []error
	for i := range d.Fleet.Images {
		for _, image := range []string{d.Fleet.Tagged(i), d.Fleet.Pinned(i)} {
			c := api.NewContainer("", image)
			want := d.Plain.Classify(c)
			got, err := d.Assay.Classify(ctx, c)
			if err != nil {
				return nil, err
			}
			seen[want.Result]++
			if got.Result != want.Result || got.Max != want.Max {
				errs = append(errs, fmt.Errorf("%s: plain Go says %s %v, Assay %s %v", image, want.Result, want.Max, got.Result, got.Max))
			}
		}
	}
	return seen, errors.Join(errs...)
}
