package main

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/test/bench/contender"
	"github.com/assay-dev/assay/test/bench/fleet"
)

// reviewsPerCase are decided again and again by each contender.
const reviewsPerCase = 50

// measureOne measures everything over one fleet that stays loaded.
func measureOne(ctx context.Context, c config, t *table) error {
	f := fleet.New(c.fleet)
	data, err := contender.NewData(ctx, f, fleet.Prunable, 1)
	if err != nil {
		return err
	}
	for _, measure := range []func(context.Context, config, *contender.Data, *table) error{
		measureClassify, measureAdmit, measureUpdates, measureAlerts, measureConcurrent,
	} {
		runtime.GC()
		if err := measure(ctx, c, data, t); err != nil {
			return err
		}
	}
	return nil
}

// A task is what a contender repeats; each call does the next of its inputs.
type task struct {
	name string
	next func() error
}

// interleave gives each task its slice of every round, at least one call, and
// gives the median call of each in microseconds. The first round warms up.
func interleave(ctx context.Context, c config, tasks []task) (map[string]float64, error) {
	samples := make(map[string][]float64, len(tasks))
	for round := range c.rounds + 1 {
		for _, task := range tasks {
			for begin := time.Now(); ; {
				if err := ctx.Err(); err != nil {
					return nil, err
				}
				start := time.Now()
				if err := task.next(); err != nil {
					return nil, fmt.Errorf("%s: %w", task.name, err)
				}
				end := time.Now()
				if round > 0 {
					samples[task.name] = append(samples[task.name], float64(end.Sub(start).Nanoseconds())/1000)
				}
				if end.Sub(begin) > c.slice {
					break
				}
			}
		}
	}
	medians := make(map[string]float64, len(tasks))
	for name, list := range samples {
		medians[name] = quantile(list, 0.5)
	}
	return medians, nil
}

func measureClassify(ctx context.Context, c config, d *contender.Data, t *table) error {
	if _, err := d.CompareClassifications(ctx); err != nil {
		return fmt.Errorf("the classifications differ: %w", err)
	}
	var images []api.Container
	for i := range min(1_000, d.Fleet.Images) {
		images = append(images, api.NewContainer("", d.Fleet.Tagged(i)))
	}
	cursor := 0
	next := func() api.Container {
		cursor++
		return images[cursor%len(images)]
	}
	medians, err := interleave(ctx, c, []task{
		{plain, func() error { d.Plain.Classify(next()); return nil }},
		{assay, func() error { _, err := d.Assay.Classify(ctx, next()); return err }},
	})
	if err != nil {
		return err
	}
	t.add("µs", medians, "Classify one image")
	return nil
}

func measureAdmit(ctx context.Context, c config, d *contender.Data, t *table) error {
	for _, kind := range fleet.Kinds {
		for _, n := range c.policies {
			if err := d.SetPolicies(ctx, kind, n); err != nil {
				return err
			}
			all, err := d.Contenders(ctx)
			if err != nil {
				return err
			}
			for _, containers := range c.containers {
				reviews, err := d.Fleet.Reviews(reviewsPerCase, containers)
				if err != nil {
					return err
				}
				if _, err := contender.Compare(ctx, all, reviews); err != nil {
					return fmt.Errorf("the verdicts differ with %d %s policies: %w", n, kind, err)
				}
				var tasks []task
				for _, contender := range all {
					cursor := 0
					tasks = append(tasks, task{contender.Name(), func() error {
						cursor++
						_, err := contender.Admit(ctx, &reviews[cursor%len(reviews)])
						return err
					}})
				}
				medians, err := interleave(ctx, c, tasks)
				if err != nil {
					return err
				}
				t.add("µs", medians, "Admit, %d %s policies, %s", n, kind, plural(containers, "container"))
			}
		}
	}
	return nil
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}
