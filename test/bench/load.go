package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/test/bench/contender"
	"github.com/assay-dev/assay/test/bench/fleet"
)

// scansPerUpdate is how many scans one update writes: more would be held in
// memory at once than a process that follows a store would.
const scansPerUpdate = 1_000

// measureLoads loads fleets into new engines: as one bundle, and by updates.
func measureLoads(ctx context.Context, c config, t *table) error {
	for _, n := range c.loads {
		config := c.fleet
		config.Images = n
		f := fleet.New(config)
		ways := []struct {
			name string
			load func(context.Context, *fleet.Fleet) (*contender.Assay, time.Duration, error)
		}{{"updates of 1,000", loadByUpdates}, {"one bundle", loadBundle}}
		if n > 10_000 {
			ways = ways[:1] // the scans themselves would take more than what is measured
		}
		for _, way := range ways {
			if err := measureLoad(ctx, f, way.load, t, fmt.Sprintf("load %d images, %s", n, way.name)); err != nil {
				return err
			}
		}
	}
	return nil
}

func measureLoad(ctx context.Context, f *fleet.Fleet, load func(context.Context, *fleet.Fleet) (*contender.Assay, time.Duration, error), t *table, name string) error {
	before := heap()
	debug.FreeOSMemory()
	resetPeak()
	loaded, took, err := load(ctx, f)
	if err != nil {
		return err
	}
	peak := peakMemory()
	after := heap()
	t.add("s", map[string]float64{assay: took.Seconds()}, "%s", name)
	t.add("KB", map[string]float64{assay: (after - before) / 1e3 / float64(f.Images)}, "%s: heap of an image", name)
	if peak > 0 {
		t.add("MB", map[string]float64{assay: peak / 1e6}, "%s: peak memory of the process", name)
	}
	runtime.KeepAlive(loaded)
	return nil
}

// loadBundle builds and loads a bundle; its time is without making the scans,
// its memory with them.
func loadBundle(ctx context.Context, f *fleet.Fleet) (*contender.Assay, time.Duration, error) {
	scans, exceptions := f.Scans(0, f.Images), f.ExceptionList()
	start := time.Now()
	a, err := contender.NewAssay(ctx, fleet.Policies(fleet.Prunable, 10), contender.Warn, contender.Fail, exceptions, scans)
	return a, time.Since(start), err
}

// loadByUpdates loads a bundle without images, then scans as a store would give them.
func loadByUpdates(ctx context.Context, f *fleet.Fleet) (*contender.Assay, time.Duration, error) {
	exceptions := f.ExceptionList()
	start := time.Now()
	a, err := contender.NewAssay(ctx, fleet.Policies(fleet.Prunable, 10), contender.Warn, contender.Fail, exceptions, nil)
	took := time.Since(start)
	for i := 0; i < f.Images && err == nil; i += scansPerUpdate {
		scans := f.Scans(i, min(i+scansPerUpdate, f.Images))
		start := time.Now()
		err = a.AddScans(ctx, scans)
		took += time.Since(start)
	}
	return a, took, err
}

// heap is the size of what is live, in bytes.
func heap() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// resetPeak and peakMemory use Linux's high-water mark of resident memory, in
// bytes; 0 where there is none.
func resetPeak() { _ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) }

func peakMemory() float64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, _ := strconv.ParseFloat(strings.Fields(value)[0], 64)
			return kb * 1024
		}
	}
	return 0
}

// measureUpdates writes single documents and reloads policies. Plain Go has no
// counterpart: it would change a map.
func measureUpdates(ctx context.Context, c config, d *contender.Data, t *table) error {
	if err := d.SetPolicies(ctx, fleet.Prunable, 10); err != nil {
		return err
	}
	exception, image := d.Fleet.Exceptions, 0
	var scan []api.Scan
	for _, one := range []struct {
		name  string
		n     int
		ready func() // not timed
		do    func() error
	}{
		{"update one image", 50, func() { image++; scan = d.Fleet.Scans(image, image+1) }, func() error { return d.Assay.AddScans(ctx, scan) }},
		{"update one exception", 50, func() { exception++ }, func() error { return d.Assay.AddException(ctx, d.Fleet.Exception(exception)) }},
		{"change a threshold with 10 policies", 5, func() {}, func() error {
			return d.Assay.SetPolicies(ctx, d.Policies, contender.Warn-1, contender.Fail)
		}},
		{"reload 200 policies", 3, func() {}, func() error {
			return d.Assay.SetPolicies(ctx, fleet.Policies(fleet.Prunable, 200), contender.Warn, contender.Fail)
		}},
	} {
		var samples []float64
		for range one.n {
			one.ready()
			start := time.Now()
			if err := one.do(); err != nil {
				return fmt.Errorf("%s: %w", one.name, err)
			}
			samples = append(samples, float64(time.Since(start).Nanoseconds())/1e6)
		}
		t.add("ms", map[string]float64{assay: quantile(samples, 0.5)}, "%s", one.name)
	}
	return nil
}

func measureAlerts(ctx context.Context, c config, d *contender.Data, t *table) error {
	for _, n := range c.events {
		events := d.Fleet.Events(n)
		runtime.GC()
		start := time.Now()
		want, err := d.Plain.Alerts(events)
		if err != nil {
			return err
		}
		values := map[string]float64{plain: float64(time.Since(start).Nanoseconds()) / 1e6}
		start = time.Now()
		got, err := d.Assay.Alerts(ctx, events)
		if err != nil {
			return err
		}
		values[assay] = float64(time.Since(start).Nanoseconds()) / 1e6
		if got != want {
			return fmt.Errorf("%d alerts fire in Assay, %d in plain Go", got, want)
		}
		t.add("ms", values, "Alerts, 3 rules over %d events", n)
	}
	return nil
}
