package rematch

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles/source"
	"github.com/assay-dev/assay/scanner/vulndb"
)

// own is how far the site's own advisories are in the current database.
type own struct {
	// merged is the generation that has them, and stale says that they changed since.
	merged string
	stale  bool
	// fault is why the newest are not in it; "" when they are.
	fault string
}

// Follow merges own advisories whenever they change, until the context ends.
func (r *Rematch) Follow(ctx context.Context) error {
	if !r.ownAdvisories() {
		return nil
	}
	return source.Watch(ctx, r.Log, r.Databases.Advisories(), func() {
		r.mu.Lock()
		r.own.stale, r.looked = true, time.Time{}
		r.mu.Unlock()
		_ = r.look(ctx) // what is wrong with the advisories is logged there; all else by who wants to match
	})
}

func (r *Rematch) ownAdvisories() bool {
	return r.Path == "" && r.Databases != nil && len(r.Databases.Advisories()) > 0
}

// merge puts own advisories into the current database, where either changed.
// While that cannot be done, the one in use stays (keep): nothing is matched
// without the advisories. r.mu is the caller's.
func (r *Rematch) merge(ctx context.Context) (keep bool, err error) {
	if !r.ownAdvisories() {
		return false, nil
	}
	now, err := r.Databases.Current()
	if err != nil {
		return false, err
	}
	if now == r.own.merged && !r.own.stale {
		return false, nil
	}
	result, err := r.Databases.Merge(ctx)
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case err != nil:
		r.refuse(err)
		if r.db == nil {
			return false, err
		}
		return true, r.Databases.CheckAge(r.db.Info.Built)
	}
	r.refuse(result.Refused)
	r.own.stale, r.own.merged = false, filepath.Dir(result.Status.Path)
	if result.Merged {
		r.Log.Info("own advisories merged", "advisories", result.Advisories, "changes", changed(result.Changes))
	}
	return false, nil
}

// refuse notes why own advisories cannot be used, and logs it once.
func (r *Rematch) refuse(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != r.own.fault && text != "" {
		r.Log.Error("own advisories cannot be used; the last good ones stay", "error", err)
	}
	r.own.fault = text
}

func changed(c *api.DatabaseChanges) string {
	if c == nil {
		return "not known"
	}
	return c.String()
}

// State tells of the databases: which is in use, which are kept, and what went wrong.
func (r *Rematch) State(ctx context.Context) (*api.DatabaseState, error) {
	st := &api.DatabaseState{Schema: api.SchemaDatabaseState, Generations: []api.DatabaseGeneration{}}
	if r.Path == "" && r.Databases != nil {
		var err error
		if st, err = r.Databases.State(ctx); err != nil {
			return nil, err
		}
		for i := range st.Generations {
			st.Generations[i].Path = "" // the server's files are its own
		}
	}
	r.mu.Lock()
	st.Advisories = r.own.fault
	r.mu.Unlock()
	st.InUse = r.Database()
	if st.InUse == nil && st.Error == "" {
		st.Error = "no database is open yet"
	}
	if st.InUse != nil && r.Databases != nil {
		if err := r.Databases.CheckAge(st.InUse.Built); err != nil && st.Error == "" {
			st.Error = err.Error()
		}
	}
	return st, nil
}

// UpdateDatabase fetches a newer database, where that is wanted and there is one.
func (r *Rematch) UpdateDatabase(ctx context.Context) error {
	if !r.Update || r.Path != "" {
		return nil
	}
	result, err := r.Databases.Update(ctx)
	if err != nil {
		if errors.Is(err, vulndb.ErrAdvisory) {
			r.mu.Lock()
			r.refuse(err)
			r.mu.Unlock()
		}
		return err
	}
	if result.Warning != "" {
		r.Log.Warn("vulnerability database", "warning", result.Warning)
	}
	if !result.Updated {
		return nil
	}
	r.Log.Info("vulnerability database updated", "built", result.Status.Built, "changes", changed(result.Changes))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuse(result.Refused)
	r.looked = time.Time{}
	return nil
}
