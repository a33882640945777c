package scanner

import "sync/atomic"

// Stage is a part of a scan.
type Stage string

// Stages of a scan, in their order.
const (
	// Resolving finds the image and reads its manifest.
	Resolving Stage = "resolving"
	// Pulling reads the layers; its events count compressed bytes.
	Pulling Stage = "pulling"
	// Cataloging finds the packages.
	Cataloging Stage = "cataloging"
	// Matching finds the vulnerabilities.
	Matching Stage = "matching"
	// Done comes once and last, also after an error.
	Done Stage = "done"
)

// Event tells how far a scan has come.
type Event struct {
	// Index is the input's place in the call of [Scanner.ScanAll]; 0 for one scan.
	Index int
	// Input is what the user wrote, without credentials.
	Input string
	Stage Stage
	// Done and Total count bytes while Pulling; Total is 0 when it is not known.
	Done, Total int64
	// Err is the error of a scan that is Done.
	Err error
}

// Progress receives events. Scans that run side by side, and the layers of one
// scan, report concurrently.
type Progress interface {
	Report(Event)
}

// ProgressFunc makes a [Progress] of a function.
type ProgressFunc func(Event)

// Report calls f.
func (f ProgressFunc) Report(e Event) { f(e) }

// reporter reports the events of one scan.
type reporter struct {
	to    Progress
	index int
	input string
	total int64
	done  atomic.Int64
	shown atomic.Int64
}

func (r *reporter) stage(s Stage, err error) {
	if r != nil && r.to != nil {
		r.to.Report(Event{Index: r.index, Input: r.input, Stage: s, Err: err})
	}
}

// pulled counts bytes, and reports them by the half mebibyte.
func (r *reporter) pulled(n int) {
	if r == nil || r.to == nil {
		return
	}
	done := r.done.Add(int64(n))
	shown := r.shown.Load()
	if done-shown < 1<<19 && done != r.total || !r.shown.CompareAndSwap(shown, done) {
		return
	}
	r.to.Report(Event{Index: r.index, Input: r.input, Stage: Pulling, Done: done, Total: r.total})
}
