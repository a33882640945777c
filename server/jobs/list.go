package jobs

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
)

// States of a job, which are River's.
const (
	Available = string(rivertype.JobStateAvailable) // waits for a worker
	Scheduled = string(rivertype.JobStateScheduled) // waits for its time
	Running   = string(rivertype.JobStateRunning)
	Retryable = string(rivertype.JobStateRetryable) // failed, and waits for its next attempt
	Completed = string(rivertype.JobStateCompleted)
	Cancelled = string(rivertype.JobStateCancelled) // by hand, or by a permanent error
	Discarded = string(rivertype.JobStateDiscarded) // failed at every attempt
)

// Job is a job as an API shows it. Those that were done are kept for an hour, those
// that failed or were cancelled for a day.
type Job struct {
	ID          int64  `json:"id"`
	Kind        string `json:"kind"`
	Subject     string `json:"subject,omitempty"`
	State       string `json:"state"`
	Attempt     int    `json:"attempt"`
	MaxAttempts int    `json:"max_attempts"`
	// Error is that of the last attempt that failed, of at most 1 KB.
	Error   string    `json:"error,omitempty"`
	Created time.Time `json:"created"`
	// Scheduled is the time before which it does not start (again).
	Scheduled time.Time `json:"scheduled"`
	// Attempted is when the last attempt began.
	Attempted *time.Time `json:"attempted,omitempty"`
	// Finalized is when it was completed, cancelled or discarded.
	Finalized *time.Time `json:"finalized,omitempty"`
}

// Errors that callers branch on.
var (
	ErrNotFound = errors.New("there is no such job")
	ErrFilter   = errors.New("there are no such jobs")
)

// Filter chooses jobs; its zero value chooses the newest of all.
type Filter struct {
	Kind  string // "": all
	State string // "": all
	After int64  // the ID of the last job of the page before; 0: from the newest
	Limit int    // 0: 100; at most 1,000
}

// Kinds are those that a job may be of.
func Kinds() []string {
	return []string{Match, Scan, Registry, Sweep, Alerts, Deliver, Retain, Database}
}

// States are those that a job may be in.
func States() (names []string) {
	for _, s := range rivertype.JobStates() {
		names = append(names, string(s))
	}
	return names
}

// List gives jobs, the newest first.
func (j *Jobs) List(ctx context.Context, f Filter) ([]Job, error) {
	params := river.NewJobListParams().OrderBy(river.JobListOrderByID, river.SortOrderDesc).First(min(max(cmp.Or(f.Limit, 100), 1), 1000))
	if f.Kind != "" {
		params = params.Kinds(f.Kind)
	}
	if f.State != "" {
		if !slices.Contains(rivertype.JobStates(), rivertype.JobState(f.State)) {
			return nil, fmt.Errorf("%w: %.40q is no state", ErrFilter, f.State)
		}
		params = params.States(rivertype.JobState(f.State))
	}
	if f.After != 0 {
		params = params.After(river.JobListCursorFromJob(&rivertype.JobRow{ID: f.After}))
	}
	list, err := j.client.JobList(ctx, params)
	if err != nil {
		return nil, fmt.Errorf("listing jobs: %w", err)
	}
	jobs := make([]Job, len(list.Jobs))
	for i, row := range list.Jobs {
		jobs[i] = shown(row)
	}
	return jobs, nil
}

// Retry has a job tried at once. One that is finished is replaced by a new one, which
// it gives; one that runs stays as it is.
func (j *Jobs) Retry(ctx context.Context, id int64) (Job, error) {
	row, err := j.client.JobGet(ctx, id)
	switch {
	case err != nil:
	case row.FinalizedAt != nil:
		row, err = j.replace(ctx, row)
	default:
		row, err = j.client.JobRetry(ctx, id)
	}
	return result("retrying", id, row, err)
}

// Cancel ends a job that waits, and tells one that runs to end within seconds. One
// that is finished stays as it is. What is still due has a new job soon.
func (j *Jobs) Cancel(ctx context.Context, id int64) (Job, error) {
	row, err := j.client.JobCancel(ctx, id)
	return result("cancelling", id, row, err)
}

func result(doing string, id int64, row *rivertype.JobRow, err error) (Job, error) {
	if errors.Is(err, river.ErrNotFound) {
		err = ErrNotFound
	}
	if err != nil {
		return Job{}, fmt.Errorf("%s job %d: %w", doing, id, err)
	}
	return shown(row), nil
}

func shown(row *rivertype.JobRow) Job {
	job := Job{ID: row.ID, Kind: row.Kind, Subject: argsOf(row).Subject, State: string(row.State), Attempt: row.Attempt, MaxAttempts: row.MaxAttempts,
		Created: row.CreatedAt, Scheduled: row.ScheduledAt, Attempted: row.AttemptedAt, Finalized: row.FinalizedAt}
	if n := len(row.Errors); n > 0 {
		job.Error = cut(row.Errors[n-1].Error)
	}
	return job
}

// argsOf are the arguments of a job; where they are not ours, none.
func argsOf(row *rivertype.JobRow) args {
	a := args{kind: row.Kind}
	if err := json.Unmarshal(row.EncodedArgs, &a); err != nil {
		return args{kind: row.Kind}
	}
	return a
}

// Depth is how many jobs of a kind are in a state, and since when the first of them could start.
type Depth struct {
	Kind, State string
	Jobs        int
	Since       time.Time
}

// Depths counts the jobs that are not done.
func (j *Jobs) Depths(ctx context.Context) (list []Depth, err error) {
	const query = "SELECT kind, state, COUNT(*), %s FROM river_job WHERE state IN ('available', 'pending', 'retryable', 'running', 'scheduled') GROUP BY kind, state"
	add := func(scan func(...any) error) error {
		var d Depth
		var since int64
		if err := scan(&d.Kind, &d.State, &d.Jobs, &since); err != nil {
			return err
		}
		d.Since = time.Unix(since, 0)
		list = append(list, d)
		return nil
	}
	if j.SQLite != nil {
		rows, err := j.Reader.QueryContext(ctx, fmt.Sprintf(query, "CAST(strftime('%s', MIN(scheduled_at)) AS INTEGER)"))
		if err != nil {
			return nil, fmt.Errorf("counting jobs: %w", err)
		}
		defer rows.Close()
		for rows.Next() {
			if err := add(rows.Scan); err != nil {
				return nil, fmt.Errorf("counting jobs: %w", err)
			}
		}
		return list, rows.Err()
	}
	rows, err := j.Postgres.Query(ctx, fmt.Sprintf(query, "EXTRACT(EPOCH FROM MIN(scheduled_at))::bigint"))
	if err != nil {
		return nil, fmt.Errorf("counting jobs: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := add(rows.Scan); err != nil {
			return nil, fmt.Errorf("counting jobs: %w", err)
		}
	}
	return list, rows.Err()
}
