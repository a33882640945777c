package contender_test

import (
	"testing"

	"github.com/assay-dev/assay/test/bench/contender"
	"github.com/assay-dev/assay/test/bench/fleet"
)

// TestVerdicts: all contenders agree on 360 reviews of a small fleet, some of
// which are rejected.
func TestVerdicts(t *testing.T) {
	f := fleet.New(fleet.Config{Images: 400, Exceptions: 300})
	for _, kind := range fleet.Kinds {
		for _, n := range []int{1, 12} {
			data, err := contender.NewData(t.Context(), f, kind, n)
			if err != nil {
				t.Fatal(err)
			}
			all, err := data.Contenders(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, containers := range []int{1, 3, 10} {
				reviews, err := f.Reviews(20, containers)
				if err != nil {
					t.Fatal(err)
				}
				rejected, err := contender.Compare(t.Context(), all, reviews)
				if err != nil {
					t.Errorf("%s, %d policies, %d containers: %v", kind, n, containers, err)
				}
				if rejected == 0 || rejected == len(reviews) {
					t.Errorf("%s, %d policies, %d containers: %d of %d are rejected: that compares little", kind, n, containers, rejected, len(reviews))
				}
			}
		}
	}
}

// TestClassifications: Assay and plain Go agree on every image, by tag and by digest.
func TestClassifications(t *testing.T) {
	f := fleet.New(fleet.Config{Images: 400, Exceptions: 300})
	data, err := contender.NewData(t.Context(), f, fleet.Prunable, 1)
	if err != nil {
		t.Fatal(err)
	}
	seen, err := data.CompareClassifications(t.Context())
	if err != nil {
		t.Error(err)
	}
	if len(seen) < 3 {
		t.Errorf("only the results %v: that compares little", seen)
	}
}
