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

// TestAlerts: as many alerts fire in Assay as in plain Go.
func TestAlerts(t *testing.T) {
	f := fleet.New(fleet.Config{Images: 400, Exceptions: 10})
	data, err := contender.NewData(t.Context(), f, fleet.Prunable, 1)
	if err != nil {
		t.Fatal(err)
	}
	events := f.Events(10_000)
	want, err := data.Plain.Alerts(events)
	if err != nil {
		t.Fatal(err)
	}
	got, err := data.Assay.Alerts(t.Context(), events)
	if err != nil {
		t.Fatal(err)
	}
	if got != want || want < 3 {
		t.Errorf("%d alerts fire in Assay, %d in plain Go", got, want)
	}
}

// TestUpdates: what is written one by one counts as if it had been loaded at once.
func TestUpdates(t *testing.T) {
	ctx := t.Context()
	f := fleet.New(fleet.Config{Images: 300, Exceptions: 200})
	whole, err := contender.NewData(ctx, f, fleet.Prunable, 1)
	if err != nil {
		t.Fatal(err)
	}
	parts, err := contender.NewAssay(ctx, fleet.Policies(fleet.Unprunable, 2), 1, 2, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < f.Images; i += 50 {
		if err := parts.AddScans(ctx, f.Scans(i, i+50)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range f.Exceptions {
		if err := parts.AddException(ctx, f.Exception(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := parts.SetPolicies(ctx, whole.Policies, contender.Warn, contender.Fail); err != nil {
		t.Fatal(err)
	}
	whole.Assay = parts
	if _, err := whole.CompareClassifications(ctx); err != nil {
		t.Error(err)
	}
	reviews, err := f.Reviews(20, 3)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := contender.Compare(ctx, []contender.Contender{whole.Plain, parts}, reviews); err != nil {
		t.Error(err)
	}
}
