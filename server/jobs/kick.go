package jobs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
)

const (
	maxKicks   = 20_000 // that wait in memory
	maxSubject = 512    // bytes
	maxChain   = 16     // jobs of one subject that run at once
)

// Kick has a job done as soon as possible: one that starts after the call, also where
// an equal one runs already. It never blocks: the jobs are made by Run, many in one
// transaction. It is a hint: where it is lost, by a crash or because too many wait,
// the next sweep or period does the same. A kind that there is no work for is left out.
func (j *Jobs) Kick(ctx context.Context, kind, subject string) {
	if _, ok := j.periods()[kind]; !ok {
		return
	}
	if hasSubject(kind) != (subject != "") || len(subject) > maxSubject {
		j.Log.ErrorContext(ctx, "a job of this kind cannot have this subject", "kind", kind, "subject", subject[:min(len(subject), maxSubject)])
		return
	}
	j.again(args{kind: kind, Subject: subject})
}

func (j *Jobs) again(list ...args) {
	j.mu.Lock()
	for _, a := range list {
		if len(j.kicks) < maxKicks {
			j.kicks[a] = struct{}{}
		}
	}
	j.mu.Unlock()
	select {
	case j.wake <- struct{}{}:
	default: // it will look
	}
}

// flushing makes the jobs of kicks until ctx ends.
func (j *Jobs) flushing(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-j.wake:
		}
		if !j.flush(ctx) {
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
}

// flush makes the jobs of the kicks that wait. What it could not make waits on.
func (j *Jobs) flush(ctx context.Context) bool {
	j.mu.Lock()
	kicks := slices.Collect(maps.Keys(j.kicks))
	clear(j.kicks)
	j.mu.Unlock()
	for list := range slices.Chunk(kicks, chunk) {
		if err := j.kick(ctx, list); err != nil {
			j.Log.WarnContext(ctx, "jobs could not be made", "error", err)
			j.again(list...)
			return false
		}
	}
	return true
}

// kick makes jobs, and sees to it that one starts from now on where an equal one exists.
func (j *Jobs) kick(ctx context.Context, list []args) error {
	for range maxChain {
		existing, err := j.insert(ctx, list, urgent)
		if err != nil {
			return err
		}
		list = nil
		for _, job := range existing {
			switch {
			case job.State == rivertype.JobStateRunning:
				list = append(list, args{kind: job.Kind, Subject: argsOf(job).Subject, After: job.ID})
			case job.Priority > urgent:
				_, err = j.replace(ctx, job)
			case job.ScheduledAt.After(time.Now()) && argsOf(job).After == 0:
				_, err = j.client.JobRetry(ctx, job.ID)
			}
			if err != nil && !errors.Is(err, river.ErrNotFound) && !errors.Is(err, rivertype.ErrJobRunning) {
				return err // what is gone, or has begun meanwhile, is no matter
			}
		}
		if len(list) == 0 {
			return nil
		}
	}
	return nil
}

// insert makes jobs, which differ, and gives those that existed in their place.
func (j *Jobs) insert(ctx context.Context, list []args, priority int) (existing []*rivertype.JobRow, err error) {
	params := make([]river.InsertManyParams, len(list))
	for i, a := range list {
		params[i] = river.InsertManyParams{Args: a, InsertOpts: a.options(priority)}
	}
	results, err := j.client.InsertMany(ctx, params)
	if err != nil {
		return nil, fmt.Errorf("making jobs: %w", err)
	}
	for _, r := range results {
		if r.UniqueSkippedAsDuplicate {
			existing = append(existing, r.Job)
		}
	}
	return existing, nil
}

// replace makes a job anew that does not run. River would keep a mark on one that was
// cancelled, and cancel it again.
func (j *Jobs) replace(ctx context.Context, job *rivertype.JobRow) (*rivertype.JobRow, error) {
	if _, err := j.client.JobDelete(ctx, job.ID); err != nil {
		return nil, err
	}
	a := argsOf(job)
	results, err := j.client.InsertMany(ctx, []river.InsertManyParams{{Args: a, InsertOpts: a.options(urgent)}})
	if err != nil {
		return nil, fmt.Errorf("making a job: %w", err)
	}
	return results[0].Job, nil
}
