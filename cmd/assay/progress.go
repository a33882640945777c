package main

import (
	"cmp"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/assay-dev/assay/scanner"
	"github.com/assay-dev/assay/scanner/vulndb"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// progress draws a line for each image that is being scanned, where standard
// error is a terminal; finish takes the lines away.
func (a *app) progress(quiet bool, images []string) (scanner.Progress, func()) {
	if quiet || !isTerminal(a.err) {
		return nil, func() {}
	}
	p := mpb.New(mpb.WithOutput(a.err), mpb.WithWidth(24))
	total := p.AddBar(int64(len(images)),
		mpb.PrependDecorators(decor.Name("images "), decor.CountersNoUnit("%d/%d")),
		mpb.BarRemoveOnComplete(), mpb.BarPriority(len(images)))
	d := &drawing{progress: p, total: total, bars: map[int]*mpb.Bar{}, stages: map[int]*atomic.Value{}}
	return d, func() {
		total.Abort(true)
		d.mu.Lock()
		for _, b := range d.bars {
			b.Abort(true)
		}
		d.mu.Unlock()
		p.Wait()
	}
}

type drawing struct {
	mu       sync.Mutex
	progress *mpb.Progress
	total    *mpb.Bar
	bars     map[int]*mpb.Bar
	stages   map[int]*atomic.Value // read by the bars while mu is held here
}

// Report implements [scanner.Progress].
func (d *drawing) Report(e scanner.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	stage := d.stages[e.Index]
	if stage == nil {
		stage = &atomic.Value{}
		d.stages[e.Index] = stage
	}
	stage.Store(e.Stage)
	bar := d.bars[e.Index]
	if e.Stage == scanner.Done {
		if bar != nil {
			bar.Abort(true)
			delete(d.bars, e.Index)
		}
		d.total.Increment()
		return
	}
	if bar == nil {
		name := clip(printable(e.Input), 48)
		bar = d.progress.AddBar(0, mpb.BarRemoveOnComplete(), mpb.PrependDecorators(decor.Any(func(decor.Statistics) string {
			return fmt.Sprintf("%-48s %-10s", name, stage.Load())
		})), mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f")))
		d.bars[e.Index] = bar
	}
	if e.Stage == scanner.Pulling && e.Total > 0 {
		bar.SetTotal(max(e.Total, e.Done+1), false)
		bar.SetCurrent(e.Done)
	}
}

// databaseProgress draws how far the download of a database has come, where
// standard error is a terminal, and says who is waited for.
type databaseProgress struct {
	app      *app
	progress *mpb.Progress
	bar      *mpb.Bar
	stage    atomic.Value
}

func (d *databaseProgress) report(e vulndb.Event) {
	if e.Stage == vulndb.Waiting {
		fmt.Fprintf(d.app.err, "Waiting for %s, which changes the same databases.\n", cmp.Or(e.Holder, "another process"))
		return
	}
	if !isTerminal(d.app.err) {
		return
	}
	d.stage.Store(string(e.Stage))
	if d.bar == nil {
		d.progress = mpb.New(mpb.WithOutput(d.app.err), mpb.WithWidth(24))
		d.bar = d.progress.AddBar(0, mpb.BarRemoveOnComplete(), mpb.PrependDecorators(decor.Any(func(decor.Statistics) string {
			return fmt.Sprintf("database %-11s", d.stage.Load())
		})), mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f")))
	}
	if e.Stage == vulndb.Downloading {
		d.bar.SetTotal(max(e.Total, e.Done+1), false)
		d.bar.SetCurrent(e.Done)
	}
}

// end takes the line away.
func (d *databaseProgress) end() {
	if d.bar != nil {
		d.bar.Abort(true)
		d.progress.Wait()
		d.bar = nil
	}
}
