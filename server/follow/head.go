package follow

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/bundles/serve"
	"github.com/assay-dev/assay/store"
)

// settingHead is the newest head of all replicas; of a view, that and its name.
const settingHead = "head"

// issued is a head as the replicas agree on it: one makes it, and who serves the same parts serves
// it too. So a follower that is answered by one and then by another sees its number grow.
type issued struct {
	Sequence int64     `json:"sequence"`
	Time     time.Time `json:"time"`
	Until    time.Time `json:"until"`
	At       time.Time `json:"at"` // when it was made
	// Parts are the digests of the parts, Changes at which change of the store they became so.
	Parts   map[string]string `json:"parts"`
	Changes map[string]int64  `json:"changes"`
}

// head serves the head of a view, of the parts that have names, where there is anything new to say: a part changed, another replica
// has made one, or the last one is serve.HeadEvery old. The first head of a program is always a new one.
func (f *Follower) head(ctx context.Context, s state, view string, names []string, served map[string]published, last *issued) error {
	for _, name := range names {
		if _, ok := served[name]; !ok {
			return nil // it could not be made yet
		}
	}
	parts, err := f.Bundles.Digests(names)
	if err != nil {
		return err
	}
	now, setting := f.Now(), settingHead+"/"+view
	issue := func(head issued) error {
		err := f.Bundles.Issue(bundles.Head{Store: s.store, View: view, Sequence: head.Sequence, Time: head.Time, Until: head.Until}, f.Key, names)
		if err == nil {
			*last = head
		}
		return err
	}
	var newest issued
	if last.Sequence > 0 {
		if err := f.Store.View(ctx, func(t *store.Tx) error { return t.Setting(ctx, setting, &newest) }); err != nil {
			return err
		}
		switch {
		case newest.Sequence > last.Sequence && newest.fresh(now) && maps.Equal(newest.Parts, parts):
			return issue(newest)
		case last.fresh(now) && maps.Equal(last.Parts, parts):
			return nil
		}
	}
	behind := false
	err = f.Store.Write(ctx, func(t *store.Tx) error {
		newest = issued{}
		if err := t.Setting(ctx, setting, &newest); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		stored := s
		if err := stored.readParts(ctx, t); err != nil {
			return err
		}
		next := issued{Sequence: max(newest.Sequence+1, now.UnixMilli()), Time: now, At: now, Parts: parts, Changes: map[string]int64{}}
		for _, name := range names {
			p := served[name]
			if p.change >= stored.changeOf(name) { // it is what the store has now
				p.read = now
				served[name] = p
			}
			if p.read.Before(next.Time) {
				next.Time = p.read
			}
			next.Changes[name] = p.change
			behind = behind || name != bundles.PartPolicies && p.change < newest.Changes[name]
		}
		if behind {
			return nil
		}
		next.Until = next.Time.Add(f.ValidFor)
		newest = next
		return t.NoteSetting(ctx, setting, next)
	})
	if err != nil || behind { // another replica has newer parts, and this one will have them soon
		return err
	}
	return issue(newest)
}

// fresh says that a head need not be made anew yet; one from another clock's future does.
func (i issued) fresh(now time.Time) bool { return now.Sub(i.At).Abs() < serve.HeadEvery }
