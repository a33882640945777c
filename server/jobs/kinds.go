package jobs

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
)

// Kinds of jobs.
const (
	Match    = "match"    // the SBOM of the digest that is its subject
	Scan     = "scan"     // the image of the reference that is its subject
	Registry = "registry" // lists the registry that is its subject; the other kinds have none
	Sweep    = "sweep"    // finds the SBOMs that are due
	Alerts   = "alerts"   // evaluates the rules whose period has passed
	Deliver  = "deliver"  // sends the notifications that wait
	Retain   = "retain"   // removes what is older than it is kept
	Database = "database" // fetches a newer vulnerability database
)

// Permanent says that trying again does not help.
func Permanent(err error) error { return &permanent{err} }

type permanent struct{ error }

func (p *permanent) Unwrap() error { return p.error }

const (
	matchQueue = "match"
	otherQueue = "other" // which never waits behind matching
)

// hasSubject says whether a kind is about something.
func hasSubject(kind string) bool { return kind == Match || kind == Scan || kind == Registry }

// periods are the kinds that there is work for; those with subjects have none.
func (j *Jobs) periods() map[string]time.Duration {
	p := map[string]time.Duration{}
	if j.Work.Match != nil {
		p[Match], p[Sweep] = 0, j.SweepEvery
	}
	if j.Work.Scan != nil {
		p[Scan] = 0
	}
	if j.Work.ListRegistry != nil {
		p[Registry] = 0
	}
	if j.Work.EvaluateAlerts != nil {
		p[Alerts] = j.AlertsEvery
	}
	if j.Work.Deliver != nil {
		p[Deliver] = j.DeliverEvery
	}
	if j.Work.Retain != nil {
		p[Retain] = j.RetainEvery
	}
	if j.Work.UpdateDatabase != nil {
		p[Database] = j.DatabaseEvery
	}
	return p
}

// args are what a job is unique by.
type args struct {
	kind    string
	Subject string `json:"subject,omitempty"`
	// After is the job that ran when this one was asked for. River does not let a
	// job wait beside an equal one that runs, which may have read the state before
	// the change that this one is about.
	After int64 `json:"after,omitempty"`
}

// Kind implements [river.JobArgs].
func (a args) Kind() string { return a.kind }

// Priorities in the queue of matches.
const (
	urgent = 1 // somebody asked for it
	swept  = 2
)

func (a args) options(priority int) *river.InsertOpts {
	o := &river.InsertOpts{Queue: otherQueue, MaxAttempts: otherAttempts, Priority: priority}
	switch a.kind {
	case Match:
		o.Queue, o.MaxAttempts = matchQueue, matchAttempts
	case Scan: // whoever wants it still asks again
		o.Queue, o.MaxAttempts = matchQueue, scanAttempts
	case Registry: // it is listed again when it is due
		o.MaxAttempts = 1
	}
	o.UniqueOpts = river.UniqueOpts{ByArgs: true, ByState: []rivertype.JobState{rivertype.JobStateAvailable, rivertype.JobStatePending,
		rivertype.JobStateRunning, rivertype.JobStateRetryable, rivertype.JobStateScheduled}}
	return o
}

// construct makes the job of a period, or none.
func (j *Jobs) construct(kind string) river.PeriodicJobConstructor {
	return func() (river.JobArgs, *river.InsertOpts) {
		if j.Work.Idle != nil {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			if idle, err := j.Work.Idle(ctx, kind); idle && err == nil {
				return nil, nil
			}
		}
		a := args{kind: kind}
		return a, a.options(urgent)
	}
}

// worker does the jobs of a kind.
type worker struct {
	river.WorkerDefaults[args]
	jobs *Jobs
	kind string
}

// Timeout implements [river.Worker].
func (w *worker) Timeout(*river.Job[args]) time.Duration {
	switch w.kind {
	case Retain, Database, Scan:
		return 10 * w.jobs.Timeout
	case Registry:
		return 60 * w.jobs.Timeout
	}
	return w.jobs.Timeout
}

// NextRetry implements [river.Worker]: after 1 s, 4 s, 16 s and so on, up to an hour
// for a match and a minute for the rest, and up to a tenth more.
func (w *worker) NextRetry(job *river.Job[args]) time.Time {
	longest := time.Minute
	if w.kind == Match {
		longest = time.Hour
	}
	wait := min(time.Second<<min(2*(job.Attempt-1), 20), longest)
	return time.Now().Add(wait + rand.N(wait/10))
}

// Work implements [river.Worker].
func (w *worker) Work(ctx context.Context, job *river.Job[args]) error {
	if yields, err := w.yields(ctx, job); err != nil {
		return &bounded{err}
	} else if yields {
		return river.JobSnooze(time.Second)
	}
	start := time.Now()
	snooze, err := w.do(ctx, job.Args.Subject)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil {
		err = fmt.Errorf("it took longer than %v: %w", w.Timeout(job), err)
	}
	w.jobs.Observe(w.kind, time.Since(start), err)
	switch {
	case err != nil:
		return &bounded{err}
	case snooze > 0:
		return river.JobSnooze(snooze)
	}
	return nil
}

func (w *worker) do(ctx context.Context, subject string) (snooze time.Duration, err error) {
	j := w.jobs
	switch w.kind {
	case Match:
		return 0, j.Work.Match(ctx, subject)
	case Scan:
		return 0, j.Work.Scan(ctx, subject)
	case Registry:
		return 0, j.Work.ListRegistry(ctx, subject)
	case Sweep:
		return 0, j.sweep(ctx)
	case Alerts:
		defer j.Kick(ctx, Deliver, "") // also what was evaluated before an error
		return 0, j.Work.EvaluateAlerts(ctx)
	case Retain:
		return 0, j.Work.Retain(ctx)
	case Database:
		defer j.Kick(ctx, Sweep, "")
		return 0, j.Work.UpdateDatabase(ctx)
	}
	next, err := j.Work.Deliver(ctx)
	if wait := time.Until(next); err == nil && !next.IsZero() && wait < j.DeliverEvery {
		return max(wait, 100*time.Millisecond), nil
	}
	return 0, err
}

// yields says whether a job waits for one of its kind and subject that began before
// it. One that runs for longer than it may is that of a replica that is gone.
func (w *worker) yields(ctx context.Context, job *river.Job[args]) (bool, error) {
	list, err := w.jobs.client.JobList(ctx, river.NewJobListParams().Kinds(w.kind).States(rivertype.JobStateRunning).First(maxRunning))
	if err != nil {
		return false, fmt.Errorf("looking for a job that runs: %w", err)
	}
	return slices.ContainsFunc(list.Jobs, func(other *rivertype.JobRow) bool {
		return other.AttemptedAt != nil && time.Since(*other.AttemptedAt) < w.Timeout(job) && argsOf(other).Subject == job.Args.Subject &&
			cmp.Or(other.AttemptedAt.Compare(*job.AttemptedAt), cmp.Compare(other.ID, job.ID)) < 0
	}), nil
}

// sweep makes jobs for what is due and has none.
func (j *Jobs) sweep(ctx context.Context) error {
	due, err := j.Work.Due(ctx, batch)
	if err != nil {
		return fmt.Errorf("looking for SBOMs that must be matched: %w", err)
	}
	hopeless, err := j.hopeless(ctx)
	if err != nil {
		return err
	}
	due = slices.DeleteFunc(due, func(digest string) bool { return hopeless[digest] })
	slices.Sort(due)
	for digests := range slices.Chunk(slices.Compact(due), chunk) {
		list := make([]args, len(digests))
		for i, digest := range digests {
			list[i] = args{kind: Match, Subject: digest}
		}
		if _, err := j.insert(ctx, list, swept); err != nil {
			return err
		}
	}
	return nil
}

// hopeless are the digests with a permanent error in the last hour, of which the store
// need not know.
func (j *Jobs) hopeless(ctx context.Context) (map[string]bool, error) {
	list, err := j.client.JobList(ctx, river.NewJobListParams().Kinds(Match).States(rivertype.JobStateCancelled).
		OrderBy(river.JobListOrderByID, river.SortOrderDesc).First(batch))
	if err != nil {
		return nil, fmt.Errorf("looking for permanent errors: %w", err)
	}
	hopeless := map[string]bool{}
	for _, job := range list.Jobs {
		if time.Since(*job.FinalizedAt) < time.Hour && !bytes.Contains(job.Metadata, []byte(`"cancel_attempted_at"`)) { // not by hand
			hopeless[argsOf(job).Subject] = true
		}
	}
	return hopeless, nil
}

// maxRunning is more than all replicas do at once.
const maxRunning = 1000

// maxError is what is kept and shown of an error, in bytes.
const maxError = 1024

// bounded is an error with a text of at most maxError bytes.
type bounded struct{ error }

func (b *bounded) Error() string { return cut(b.error.Error()) }

func (b *bounded) Unwrap() error { return b.error }

func cut(text string) string {
	if len(text) <= maxError {
		return text
	}
	return strings.ToValidUTF8(text[:maxError-len("…")], "") + "…"
}

// failures logs what failed, and ends what is permanent.
type failures struct{ log *slog.Logger }

// HandleError implements [river.ErrorHandler].
func (f failures) HandleError(ctx context.Context, job *rivertype.JobRow, err error) *river.ErrorHandlerResult {
	var p *permanent
	cancel := errors.As(err, &p)
	f.log.WarnContext(ctx, "a job failed", "job", job.ID, "kind", job.Kind, "subject", argsOf(job).Subject, "attempt", job.Attempt,
		"again", !cancel && job.Attempt < job.MaxAttempts, "error", err)
	return &river.ErrorHandlerResult{SetCancelled: cancel}
}

// HandlePanic implements [river.ErrorHandler].
func (f failures) HandlePanic(ctx context.Context, job *rivertype.JobRow, value any, trace string) *river.ErrorHandlerResult {
	f.log.ErrorContext(ctx, "a job panicked", "job", job.ID, "kind", job.Kind, "subject", argsOf(job).Subject, "attempt", job.Attempt, "panic", value, "trace", trace)
	return nil
}
