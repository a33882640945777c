// Package jobs does the server's work in the background, on River: matching stored
// SBOMs again, alerts, deliveries, retention and the vulnerability database.
//
// What must be done is always read from the store's own state; a job is only the
// worker that does it. A job that is lost is made again by the next sweep, and one
// that runs twice finds nothing left to do, because the effects that it has are
// conditional on the store. In return a job is retried with a backoff, shown with
// its error, and done by one of any number of replicas.
package jobs

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivertype"
)

// Work is what the jobs do. A function that is nil has no job in any replica; Due
// and Match are given together. Each is called in any replica, for one subject one
// at a time unless a replica is cut off while it works, and again for what was done.
// They return soon after their context ends.
type Work struct {
	// Due gives the digests of at most limit SBOMs that must be matched (again),
	// the most urgent first.
	Due func(ctx context.Context, limit int) ([]string, error)
	// Match matches one SBOM and stores the scan. After an error made by [Permanent]
	// the next attempt is the first sweep an hour later.
	Match func(ctx context.Context, digest string) error
	// Scan scans an image by its reference, from its registry, and stores the SBOM.
	Scan func(ctx context.Context, image string) error
	// ListRegistry lists a registry, and has what is new in it scanned.
	ListRegistry func(ctx context.Context, registry string) error
	// EvaluateAlerts evaluates the alert rules whose period has passed.
	EvaluateAlerts func(ctx context.Context) error
	// Deliver sends notifications, and gives when there is more to do; the zero
	// time when nothing waits.
	Deliver func(ctx context.Context) (next time.Time, err error)
	// Retain deletes what is beyond retention.
	Retain func(ctx context.Context) error
	// UpdateDatabase fetches a newer vulnerability database, if there is one.
	UpdateDatabase func(ctx context.Context) error
	// Idle says that there is nothing to do for a kind, so that no job is made at
	// its period. It must be quick; nil is never idle.
	Idle func(ctx context.Context, kind string) (bool, error)
}

// Config says where jobs are kept, and what they do. Zero values are the defaults.
type Config struct {
	// SQLite or Postgres is the store's database; River has tables of its own in it.
	SQLite   *sql.DB
	Postgres *pgxpool.Pool
	// Reader, where given, reads of SQLite without waiting for who writes.
	Reader *sql.DB
	Work   Work
	// Workers is how many SBOMs this replica matches at once; 0: the number of CPUs.
	Workers int
	// Periods of what the leading replica starts.
	SweepEvery    time.Duration // 0: 30 s
	AlertsEvery   time.Duration // 0: 5 s
	DeliverEvery  time.Duration // 0: 30 s; it comes after each evaluation of alerts, too
	RetainEvery   time.Duration // 0: 1 h
	DatabaseEvery time.Duration // 0: 2 h
	// Timeout of one attempt; 0: 2 min. scan, retain and database have ten times as long, registry sixty times.
	// What a replica did when it was killed is taken up by another after that.
	Timeout time.Duration
	// Grace is how long jobs may go on when Run ends; 0: 20 s.
	Grace time.Duration
	// Observe, where given, is called after each attempt, by several goroutines.
	Observe func(kind string, took time.Duration, err error)
	Log     *slog.Logger
}

const (
	batch        = 10_000 // digests of one sweep
	chunk        = 500    // jobs inserted in one transaction
	otherWorkers = 16

	matchAttempts = 10 // about four hours; what is due then has a new job
	scanAttempts  = 4  // within minutes
	otherAttempts = 25
	kept          = time.Hour      // jobs that were done
	keptFailed    = 24 * time.Hour // those that were not
)

// Jobs does the work. It is safe for concurrent use.
type Jobs struct {
	Config
	client client
	wake   chan struct{} // there are kicks

	mu    sync.Mutex
	kicks map[args]struct{}
}

// client is [river.Client] of either database.
type client interface {
	Start(context.Context) error
	Stopped() <-chan struct{}
	InsertMany(context.Context, []river.InsertManyParams) ([]*rivertype.JobInsertResult, error)
	JobGet(context.Context, int64) (*rivertype.JobRow, error)
	JobList(context.Context, *river.JobListParams) (*river.JobListResult, error)
	JobRetry(context.Context, int64) (*rivertype.JobRow, error)
	JobCancel(context.Context, int64) (*rivertype.JobRow, error)
	JobDelete(context.Context, int64) (*rivertype.JobRow, error)
}

// New migrates River's tables, also when several replicas start at once. The caller
// closes the database after Run returned.
func New(ctx context.Context, c Config) (*Jobs, error) {
	if (c.SQLite == nil) == (c.Postgres == nil) {
		return nil, errors.New("jobs: one of SQLite and Postgres is needed")
	}
	if (c.Work.Due == nil) != (c.Work.Match == nil) {
		return nil, errors.New("jobs: Due and Match are needed together")
	}
	c.Workers = cmp.Or(c.Workers, runtime.NumCPU())
	c.SweepEvery, c.AlertsEvery = cmp.Or(c.SweepEvery, 30*time.Second), cmp.Or(c.AlertsEvery, 5*time.Second)
	c.DeliverEvery = cmp.Or(c.DeliverEvery, 30*time.Second)
	c.RetainEvery, c.DatabaseEvery = cmp.Or(c.RetainEvery, time.Hour), cmp.Or(c.DatabaseEvery, 2*time.Hour)
	c.Timeout, c.Grace = cmp.Or(c.Timeout, 2*time.Minute), cmp.Or(c.Grace, 20*time.Second)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Reader = cmp.Or(c.Reader, c.SQLite)
	if c.Observe == nil {
		c.Observe = func(string, time.Duration, error) {}
	}
	j := &Jobs{Config: c, wake: make(chan struct{}, 1), kicks: map[args]struct{}{}}
	var err error
	if c.SQLite != nil {
		j.client, err = open(ctx, j, riversqlite.New(c.SQLite))
	} else {
		err = locked(ctx, c.Postgres, func() (err error) {
			j.client, err = open(ctx, j, riverpgxv5.New(c.Postgres))
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("opening the jobs: %w", err)
	}
	return j, nil
}

func open[T any](ctx context.Context, j *Jobs, driver riverdriver.Driver[T]) (client, error) {
	log := slog.New(quiet{j.Log.Handler()})
	if err := migrate(ctx, driver, log); err != nil {
		return nil, err
	}
	workers := river.NewWorkers()
	var periodic []*river.PeriodicJob
	for kind, period := range j.periods() {
		river.AddWorkerArgs(workers, args{kind: kind}, river.Worker[args](&worker{jobs: j, kind: kind}))
		if period > 0 {
			periodic = append(periodic, river.NewPeriodicJob(river.PeriodicInterval(period), j.construct(kind), &river.PeriodicJobOpts{RunOnStart: true}))
		}
	}
	return river.NewClient(driver, &river.Config{
		Workers:      workers,
		PeriodicJobs: periodic,
		Queues: map[string]river.QueueConfig{
			// A worker that is free fetches anew, so that the time between fetches bounds the throughput.
			matchQueue: {MaxWorkers: j.Workers, FetchCooldown: 10 * time.Millisecond},
			otherQueue: {MaxWorkers: otherWorkers},
		},
		FetchPollInterval: 250 * time.Millisecond,
		// SQLite has no notifications: River would ask for them every 50 ms, by the
		// one connection that the store writes with.
		PollOnly:                    driver.DatabaseName() == riverdriver.DatabaseNameSQLite,
		JobTimeout:                  j.Timeout,
		RescueStuckJobsAfter:        j.Timeout + j.Timeout/4, // and not before the timeout of its kind
		SoftStopTimeout:             j.Grace,
		CompletedJobRetentionPeriod: kept,
		CancelledJobRetentionPeriod: keptFailed,
		DiscardedJobRetentionPeriod: keptFailed,
		ErrorHandler:                failures{j.Log},
		FetchOnlyKnownKinds:         true,
		Logger:                      log,
	})
}

// Run works until ctx ends. Then it starts nothing more, waits for what runs up to
// Grace, cancels that, and returns; an error says what still runs, or why it could
// not start. It is called once.
func (j *Jobs) Run(ctx context.Context) error {
	if err := j.client.Start(ctx); err != nil {
		return fmt.Errorf("starting the jobs: %w", err)
	}
	stopped := j.client.Stopped()
	j.flushing(ctx)
	var err error
	select {
	case <-stopped:
	case <-time.After(j.Grace + 10*time.Second):
		err = errors.New("stopping the jobs: some do not end although they were cancelled")
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	j.flush(last)
	return err
}
