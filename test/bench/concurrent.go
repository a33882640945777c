package main

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/assay-dev/assay/test/bench/contender"
	"github.com/assay-dev/assay/test/bench/fleet"
)

// measureConcurrent has as many readers as CPUs decide reviews, alone and then
// beside a writer that never stops.
func measureConcurrent(ctx context.Context, c config, d *contender.Data, t *table) error {
	if err := d.SetPolicies(ctx, fleet.Prunable, 50); err != nil {
		return err
	}
	reviews, err := d.Fleet.Reviews(reviewsPerCase, 3)
	if err != nil {
		return err
	}
	quiet, err := read(ctx, c.readers, d.Assay, reviews)
	if err != nil {
		return err
	}
	writing, stop := context.WithCancel(ctx)
	defer stop()
	var writer sync.WaitGroup
	var failed error
	writer.Go(func() { failed = write(writing, d) })
	busy, err := read(ctx, c.readers, d.Assay, reviews)
	stop()
	writer.Wait()
	if err != nil {
		return err
	}
	if failed != nil {
		return fmt.Errorf("writing: %w", failed)
	}
	for _, q := range []struct {
		name string
		at   float64
	}{{"p50", 0.5}, {"p99", 0.99}, {"max", 1}} {
		a, b := quantile(quiet, q.at), quantile(busy, q.at)
		t.add("µs", map[string]float64{assay: a}, "concurrent Admit, 50 policies, 3 containers, quiet: %s", q.name)
		t.add("µs", map[string]float64{assay: b}, "beside a writer: %s", q.name)
		t.add("times", map[string]float64{assay: b / a}, "beside a writer / quiet: %s", q.name)
	}
	return nil
}

// read gives the microseconds of every decision.
func read(ctx context.Context, d time.Duration, a *contender.Assay, reviews []fleet.Review) ([]float64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	readers := runtime.GOMAXPROCS(0)
	samples, errs := make([][]float64, readers), make([]error, readers)
	var wg sync.WaitGroup
	for reader := range readers {
		wg.Go(func() {
			for i, begin := reader, time.Now(); time.Since(begin) < d; i++ {
				start := time.Now()
				if _, errs[reader] = a.Admit(ctx, &reviews[i%len(reviews)]); errs[reader] != nil {
					cancel()
					return
				}
				samples[reader] = append(samples[reader], float64(time.Since(start).Nanoseconds())/1000)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return slices.Concat(samples...), nil
}

// write updates an image and an exception without pause, and loads the policies
// every half second, until the context ends.
func write(ctx context.Context, d *contender.Data) error {
	loaded := time.Now()
	for i := 0; ; i++ {
		scans := d.Fleet.Scans(i%d.Fleet.Images, i%d.Fleet.Images+1)
		if ctx.Err() != nil {
			return nil
		}
		always := context.WithoutCancel(ctx)
		if err := d.Assay.AddScans(always, scans); err != nil {
			return err
		}
		if err := d.Assay.AddException(always, d.Fleet.Exception(2*d.Fleet.Exceptions+i)); err != nil {
			return err
		}
		if time.Since(loaded) > 500*time.Millisecond {
			if err := d.Assay.SetPolicies(always, d.Policies, contender.Warn, contender.Fail); err != nil {
				return err
			}
			loaded = time.Now()
		}
	}
}
