package zz

import (
	"fmt"
	"testing"
	"time"

	"github.com/assay-dev/assay/test/bench/contender"
	"github.com/assay-dev/assay/test/bench/fleet"
)

func TestQuick(t *testing.T) {
	f := fleet.New(fleet.Config{Images: 2000, Exceptions: 5000})
	ctx := t.Context()
	for _, kind := range fleet.Kinds[:2] {
		for _, n := range []int{1, 50, 200} {
			data, err := contender.NewData(ctx, f, kind, n)
			if err != nil { t.Fatal(err) }
			all, err := data.Contenders(ctx)
			if err != nil { t.Fatal(err) }
			for _, containers := range []int{1, 3} {
				reviews, _ := f.Reviews(40, containers)
				var allowed []fleet.Review
				for _, r := range reviews {
					v, err := all[0].Admit(ctx, &r)
					if err == nil && v.Allowed { allowed = append(allowed, r) }
				}
				reviews = allowed
				sum := map[string]time.Duration{}
				for _, c := range all {
						if c.Name() == "Gatekeeper" { continue }
						for i := range reviews[:20] {
							best := time.Hour
							for range 8 {
							t0 := time.Now()
							c.Admit(ctx, &reviews[i])
							best = min(best, time.Since(t0))
							}
							sum[c.Name()] += best/20
						}
				}
				fmt.Println(kind, "policies", n, "containers", containers, "allowed", len(reviews), sum)
			}
		}
	}
}
