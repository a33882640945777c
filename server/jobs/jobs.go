// Package jobs does what the server must do by and by, on River: matching SBOMs,
// evaluating alerts, delivering notifications, removing what is too old, fetching
// vulnerability databases.
//
// What must be done is always derived from the store: an SBOM that is due, an alert
// rule whose period has passed, a delivery that waits. A job is the hand that does it:
// tried again with backoff, shown with its error, by one replica at a time. A job that
// is lost or done twice changes nothing, since each of its effects is one transaction
// of the store that looks first whether it is still needed. docs/design/008-jobs.md.
package jobs

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"
)

// Kinds of jobs.
const (
	Match    = "match"    // the SBOM of the digest that is its subject
	Sweep    = "sweep"    // finds the SBOMs that are due
	Alerts   = "alerts"   // evaluates the rules whose period has passed
	Deliver  = "deliver"  // sends the notifications that wait
	Retain   = "retain"   // removes what is older than it is kept
	Database = "database" // fetches a newer vulnerability database
)

// Work is what jobs do. Its methods may be called at any time, by several replicas
// and again after they were done, and then change nothing. An error is tried again.
type Work struct {
	// Due are the digests of at most limit SBOMs that must be matched.
	Due   func(ctx context.Context, limit int) ([]string, error)
	Match func(ctx context.Context, digest string) error
	// EvaluateAlerts evaluates the rules whose period has passed.
	EvaluateAlerts func(ctx context.Context) error
	// Deliver sends what waits, and says when there is more to do: the zero time when
	// nothing waits.
	Deliver        func(ctx context.Context) (time.Time, error)
	Retain         func(ctx context.Context) error
	UpdateDatabase func(ctx context.Context) error
}

// Config says where jobs are kept, and how often what is looked for.
type Config struct {
	// SQLite or Postgres is the database of the store.
	SQLite   *sql.DB
	Postgres *pgxpool.Pool
	Work     Work
	// Workers match at a time; 0 is the number of CPUs.
	Workers int
	// Periods; 0 are 30 s, 5 s, 1 h and 2 h.
	SweepEvery, AlertsEvery, RetainEvery, DatabaseEvery time.Duration
	// Timeout bounds one job; 0 is 10 minutes. One that a killed process left is
	// begun again after twice that.
	Timeout time.Duration
	// Observe, where given, is called after each attempt.
	Observe func(kind string, took time.Duration, err error)
	Log     *slog.Logger
}

// Jobs is safe for concurrent use.
type Jobs struct {
	client client
	log    *slog.Logger
}

// client is what River's clients of either database have in common.
type client interface {
	Start(ctx context.Context) error
	Stop(ctx context.Context) error
	StopAndCancel(ctx context.Context) error
	Insert(ctx context.Context, args river.JobArgs, opts *river.InsertOpts) (*rivertype.JobInsertResult, error)
	InsertManyFast(ctx context.Context, params []river.InsertManyParams) (int, error)
	JobList(ctx context.Context, params *river.JobListParams) (*river.JobListResult, error)
	JobRetry(ctx context.Context, id int64) (*rivertype.JobRow, error)
	JobCancel(ctx context.Context, id int64) (*rivertype.JobRow, error)
}

// maxAttempts is some two days with River's backoff; a job that is still needed then
// is found by the next sweep.
const maxAttempts = 15

// New migrates River's tables and makes the jobs; Run does them.
func New(ctx context.Context, c Config) (*Jobs, error) {
	c.Workers = cmp.Or(c.Workers, runtime.GOMAXPROCS(0))
	c.SweepEvery, c.AlertsEvery = cmp.Or(c.SweepEvery, 30*time.Second), cmp.Or(c.AlertsEvery, 5*time.Second)
	c.RetainEvery, c.DatabaseEvery = cmp.Or(c.RetainEvery, time.Hour), cmp.Or(c.DatabaseEvery, 2*time.Hour)
	c.Timeout = cmp.Or(c.Timeout, 10*time.Minute)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Observe == nil {
		c.Observe = func(string, time.Duration, error) {}
	}
	j := &Jobs{log: c.Log}
	config := j.config(c)
	var err error
	switch {
	case c.Postgres != nil:
		j.client, err = open[pgx.Tx](ctx, riverpgxv5.New(c.Postgres), config)
	case c.SQLite != nil:
		config.PollOnly = true
		j.client, err = open[*sql.Tx](ctx, riversqlite.New(c.SQLite), config)
	default:
		err = errors.New("jobs need a database")
	}
	if err != nil {
		return nil, err
	}
	return j, nil
}

func open[T any](ctx context.Context, driver riverdriver.Driver[T], config *river.Config) (client, error) {
	migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: config.Logger})
	if err != nil {
		return nil, fmt.Errorf("migrating the tables of jobs: %w", err)
	}
	// Replicas that start at once may do the same migration: all but one fail, and
	// find it done.
	for try := 0; ; try++ {
		if _, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err == nil {
			break
		}
		if try == 5 || ctx.Err() != nil {
			return nil, fmt.Errorf("migrating the tables of jobs: %w", err)
		}
		time.Sleep(200 * time.Millisecond << try)
	}
	c, err := river.NewClient(driver, config)
	if err != nil {
		return nil, fmt.Errorf("preparing jobs: %w", err)
	}
	return c, nil
}

// task is the arguments of every kind of job.
type task struct {
	Subject string `json:"subject,omitempty"`
}

// kinds of River are types: one for each kind of job.
type (
	matchArgs    struct{ task }
	sweepArgs    struct{ task }
	alertsArgs   struct{ task }
	deliverArgs  struct{ task }
	retainArgs   struct{ task }
	databaseArgs struct{ task }
)

func (matchArgs) Kind() string    { return Match }
func (sweepArgs) Kind() string    { return Sweep }
func (alertsArgs) Kind() string   { return Alerts }
func (deliverArgs) Kind() string  { return Deliver }
func (retainArgs) Kind() string   { return Retain }
func (databaseArgs) Kind() string { return Database }

// matching is the queue of what takes the CPU, so that it never holds up the rest.
const matching = "matching"

// options are those of a kind: one job of a subject waits or runs at a time.
func options(kind string) *river.InsertOpts {
	o := &river.InsertOpts{
		MaxAttempts: maxAttempts,
		UniqueOpts: river.UniqueOpts{ByArgs: true, ByState: []rivertype.JobState{
			rivertype.JobStateAvailable, rivertype.JobStatePending, rivertype.JobStateRetryable, rivertype.JobStateRunning, rivertype.JobStateScheduled,
		}},
	}
	if kind == Match {
		o.Queue = matching
	}
	return o
}

// config is River's.
func (j *Jobs) config(c Config) *river.Config {
	workers := river.NewWorkers()
	add(workers, c, func(ctx context.Context, a matchArgs) error { return c.Work.Match(ctx, a.Subject) })
	add(workers, c, func(ctx context.Context, _ sweepArgs) error { return j.sweep(ctx, c.Work) })
	add(workers, c, func(ctx context.Context, _ alertsArgs) error {
		err := c.Work.EvaluateAlerts(ctx)
		j.Kick(ctx, Deliver, "")
		return err
	})
	add(workers, c, func(ctx context.Context, _ deliverArgs) error {
		next, err := c.Work.Deliver(ctx)
		if err != nil || next.IsZero() {
			return err
		}
		return river.JobSnooze(max(time.Second, time.Until(next)))
	})
	add(workers, c, func(ctx context.Context, _ retainArgs) error { return c.Work.Retain(ctx) })
	add(workers, c, func(ctx context.Context, _ databaseArgs) error {
		if err := c.Work.UpdateDatabase(ctx); err != nil {
			return err
		}
		j.Kick(ctx, Sweep, "")
		return nil
	})
	periodic := func(args river.JobArgs, every time.Duration) *river.PeriodicJob {
		return river.NewPeriodicJob(river.PeriodicInterval(every), func() (river.JobArgs, *river.InsertOpts) { return args, options(args.Kind()) },
			&river.PeriodicJobOpts{RunOnStart: true})
	}
	return &river.Config{
		Workers: workers,
		Queues:  map[string]river.QueueConfig{matching: {MaxWorkers: c.Workers}, river.QueueDefault: {MaxWorkers: 4}},
		PeriodicJobs: []*river.PeriodicJob{
			periodic(sweepArgs{}, c.SweepEvery), periodic(alertsArgs{}, c.AlertsEvery), periodic(deliverArgs{}, time.Minute),
			periodic(retainArgs{}, c.RetainEvery), periodic(databaseArgs{}, c.DatabaseEvery),
		},
		JobTimeout:                  c.Timeout,
		RescueStuckJobsAfter:        2 * c.Timeout,
		FetchPollInterval:           time.Second,
		CompletedJobRetentionPeriod: time.Hour,
		CancelledJobRetentionPeriod: 24 * time.Hour,
		DiscardedJobRetentionPeriod: 7 * 24 * time.Hour,
		SoftStopTimeout:             stopWithin,
		Logger:                      slog.New(quieter{c.Log.Handler()}),
	}
}

// worker does the jobs of one kind.
type worker[T river.JobArgs] struct {
	river.WorkerDefaults[T]
	do      func(context.Context, T) error
	observe func(kind string, took time.Duration, err error)
}

// Work implements river.Worker.
func (w *worker[T]) Work(ctx context.Context, job *river.Job[T]) error {
	begun := time.Now()
	err := w.do(ctx, job.Args)
	seen := err
	if errors.As(err, new(*river.JobSnoozeError)) {
		seen = nil
	}
	w.observe(job.Kind, time.Since(begun), seen)
	return err
}

func add[T river.JobArgs](workers *river.Workers, c Config, do func(context.Context, T) error) {
	river.AddWorker(workers, &worker[T]{do: do, observe: c.Observe})
}

// sweepBatch is how many SBOMs one sweep finds; the next comes right after it.
const sweepBatch = 2000

func (j *Jobs) sweep(ctx context.Context, w Work) error {
	due, err := w.Due(ctx, sweepBatch)
	if err != nil || len(due) == 0 {
		return err
	}
	params := make([]river.InsertManyParams, len(due))
	for i, digest := range due {
		params[i] = river.InsertManyParams{Args: matchArgs{task{Subject: digest}}, InsertOpts: options(Match)}
	}
	_, err = j.client.InsertManyFast(ctx, params)
	return err
}

// stopWithin is how long running jobs may go on when the server ends.
const stopWithin = 20 * time.Second

// Run does jobs until the context ends; those that run then have some seconds to finish.
func (j *Jobs) Run(ctx context.Context) error {
	if err := j.client.Start(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("starting jobs: %w", err)
	}
	<-ctx.Done()
	soft, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer cancel()
	if err := j.client.Stop(soft); err == nil {
		return nil
	}
	hard, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer cancel()
	if err := j.client.StopAndCancel(hard); err != nil {
		return fmt.Errorf("ending jobs: %w", err)
	}
	return nil
}

// Kick makes a job due now, unless one of the kind and subject waits or runs. What
// cannot be kicked is found by the next sweep.
func (j *Jobs) Kick(ctx context.Context, kind, subject string) {
	t := task{Subject: subject}
	var args river.JobArgs
	switch kind {
	case Match:
		args = matchArgs{t}
	case Sweep:
		args = sweepArgs{t}
	case Alerts:
		args = alertsArgs{t}
	case Deliver:
		args = deliverArgs{t}
	case Retain:
		args = retainArgs{t}
	case Database:
		args = databaseArgs{t}
	default:
		j.log.Error("there is no such kind of job", "kind", kind)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if _, err := j.client.Insert(ctx, args, options(kind)); err != nil {
		j.log.Warn("a job could not be kicked; the next sweep finds it", "kind", kind, "subject", subject, "error", err)
	}
}

// Job is one job, as an API shows it.
type Job struct {
	ID          int64      `json:"id"`
	Kind        string     `json:"kind"`
	Subject     string     `json:"subject,omitempty"`
	State       string     `json:"state"` // available, scheduled, running, retryable, completed, cancelled or discarded
	Attempt     int        `json:"attempt"`
	MaxAttempts int        `json:"max_attempts"`
	Error       string     `json:"error,omitempty"` // of the last attempt that failed
	Created     time.Time  `json:"created"`
	Scheduled   time.Time  `json:"scheduled"`
	Attempted   *time.Time `json:"attempted,omitempty"`
	Finalized   *time.Time `json:"finalized,omitempty"`
}

// Filter narrows a list of jobs; empty members do not.
type Filter struct {
	Kind, State string
	Limit       int // 0: 100; at most 1,000
}

// ErrNotFound says that there is no job of an id.
var ErrNotFound = errors.New("there is no such job")

// ErrFilter says that a filter asks for what there is not.
var ErrFilter = errors.New("unknown state of jobs")

// List are the newest jobs.
func (j *Jobs) List(ctx context.Context, f Filter) ([]Job, error) {
	params := river.NewJobListParams().First(min(cmp.Or(f.Limit, 100), 1000)).OrderBy(river.JobListOrderByID, river.SortOrderDesc).States(rivertype.JobStates()...)
	if f.Kind != "" {
		params = params.Kinds(f.Kind)
	}
	if f.State != "" {
		known := false
		for _, s := range rivertype.JobStates() {
			known = known || string(s) == f.State
		}
		if !known {
			return nil, fmt.Errorf("%w: %.40q", ErrFilter, f.State)
		}
		params = params.States(rivertype.JobState(f.State))
	}
	result, err := j.client.JobList(ctx, params)
	if err != nil {
		return nil, fmt.Errorf("reading jobs: %w", err)
	}
	list := make([]Job, len(result.Jobs))
	for i, row := range result.Jobs {
		list[i] = jobOf(row)
	}
	return list, nil
}

// Retry makes a job due now.
func (j *Jobs) Retry(ctx context.Context, id int64) (Job, error) {
	row, err := j.client.JobRetry(ctx, id)
	return changed(row, err)
}

// Cancel ends a job; one that runs is told to end.
func (j *Jobs) Cancel(ctx context.Context, id int64) (Job, error) {
	row, err := j.client.JobCancel(ctx, id)
	return changed(row, err)
}

func changed(row *rivertype.JobRow, err error) (Job, error) {
	if errors.Is(err, river.ErrNotFound) {
		return Job{}, ErrNotFound
	}
	if err != nil {
		return Job{}, fmt.Errorf("changing the job: %w", err)
	}
	return jobOf(row), nil
}

// maxError bounds what is shown of an error, in bytes.
const maxError = 1 << 10

func jobOf(row *rivertype.JobRow) Job {
	job := Job{ID: row.ID, Kind: row.Kind, State: string(row.State), Attempt: row.Attempt, MaxAttempts: row.MaxAttempts,
		Created: row.CreatedAt, Scheduled: row.ScheduledAt, Attempted: row.AttemptedAt, Finalized: row.FinalizedAt}
	var t task
	if err := json.Unmarshal(row.EncodedArgs, &t); err == nil {
		job.Subject = t.Subject
	}
	if n := len(row.Errors); n > 0 {
		job.Error = row.Errors[n-1].Error
		job.Error = job.Error[:min(len(job.Error), maxError)]
	}
	return job
}

// quieter passes River's log on without what it says of ordinary work.
type quieter struct{ slog.Handler }

// Enabled implements slog.Handler.
func (q quieter) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && q.Handler.Enabled(ctx, level)
}

// WithAttrs implements slog.Handler.
func (q quieter) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quieter{q.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (q quieter) WithGroup(name string) slog.Handler { return quieter{q.Handler.WithGroup(name)} }
