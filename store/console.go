package store

import (
	"context"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
)

// TrendDay is how many images of each result there were at the end of a day, or now.
type TrendDay struct {
	Day     string             `json:"day"` // 2026-01-31, UTC
	All     map[api.Result]int `json:"all"`
	Running map[api.Result]int `json:"running"`
}

// NoteTrend keeps the numbers of today.
func (s *Store) NoteTrend(ctx context.Context) error {
	yes := true
	all, err := s.Counts(ctx, Filter{})
	if err != nil {
		return err
	}
	running, err := s.Counts(ctx, Filter{Running: &yes})
	if err != nil {
		return err
	}
	day := s.now().UTC().Format(time.DateOnly)
	return s.Write(ctx, func(t *Tx) error {
		if _, err := t.exec(ctx, "DELETE FROM trend WHERE day = ?", day); err != nil {
			return err
		}
		for _, x := range []struct {
			running bool
			counts  map[api.Result]int
		}{{false, all}, {true, running}} {
			for result, n := range x.counts {
				if _, err := t.exec(ctx, "INSERT INTO trend (day, running, result, images) VALUES (?, ?, ?, ?)", day, x.running, string(result), n); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// Trend are the days since one, the oldest first; days on which nobody looked are left out.
func (s *Store) Trend(ctx context.Context, since time.Time) (list []TrendDay, err error) {
	return list, s.View(ctx, func(t *Tx) error {
		list = nil
		return t.each(ctx, "SELECT day, running, result, images FROM trend WHERE day >= ? ORDER BY day", []any{since.UTC().Format(time.DateOnly)}, func(scan func(...any) error) error {
			var day, result string
			var running bool
			var n int
			if err := scan(&day, &running, &result, &n); err != nil {
				return err
			}
			if len(list) == 0 || list[len(list)-1].Day != day {
				list = append(list, TrendDay{day, map[api.Result]int{}, map[api.Result]int{}})
			}
			to := list[len(list)-1].All
			if running {
				to = list[len(list)-1].Running
			}
			to[api.Result(result)] = n
			return nil
		})
	})
}

// SavedView is the address of a page that a user keeps.
type SavedView struct {
	Name    string `json:"name"`
	Address string `json:"address"`
}

// MaxViews bounds the views of a user.
const MaxViews = 100

// Views are those of a user, by name.
func (s *Store) Views(ctx context.Context, owner string) (list []SavedView, err error) {
	return list, s.View(ctx, func(t *Tx) error {
		list = nil
		return t.each(ctx, "SELECT name, address FROM views WHERE owner = ? ORDER BY name LIMIT ?", []any{clean(owner), MaxViews}, func(scan func(...any) error) error {
			var v SavedView
			err := scan(&v.Name, &v.Address)
			list = append(list, v)
			return err
		})
	})
}

// SetView keeps an address under a name, in the place of what had the name; an empty address removes it.
func (t *Tx) SetView(ctx context.Context, owner string, v SavedView) error {
	if v.Address == "" {
		n, err := t.exec(ctx, "DELETE FROM views WHERE owner = ? AND name = ?", clean(owner), clean(v.Name))
		if err == nil && n == 0 {
			return ErrNotFound
		}
		return err
	}
	_, err := t.exec(ctx, "INSERT INTO views (owner, name, address) VALUES (?, ?, ?) ON CONFLICT (owner, name) DO UPDATE SET address = excluded.address", clean(owner), clean(v.Name), clean(v.Address))
	return err
}

// RuleHit is how often a rule of a policy decided about an image, in recorded decisions.
type RuleHit struct {
	Rule   int    `json:"rule"` // from 1; 0 is the refusal because namespace labels are not known
	Images int    `json:"images"`
	Last   string `json:"last"`
}

// RuleHits are those of a policy, by rule; rules that never decided are left out.
func (s *Store) RuleHits(ctx context.Context, policy string) (list []RuleHit, err error) {
	return list, s.View(ctx, func(t *Tx) error {
		list = nil
		return t.each(ctx, "SELECT rule, images, last FROM rule_hits WHERE policy = ? ORDER BY rule", []any{clean(policy)}, func(scan func(...any) error) error {
			var h RuleHit
			err := scan(&h.Rule, &h.Images, &h.Last)
			list = append(list, h)
			return err
		})
	})
}

// hit counts the rules that decided in records that are not known yet.
func (t *Tx) hit(ctx context.Context, list []api.AdmissionRecord) error {
	known := map[string]bool{}
	args := make([]any, len(list))
	for i, d := range list {
		args[i] = clean(d.UID)
	}
	if len(args) == 0 {
		return nil
	}
	if err := t.each(ctx, "SELECT uid FROM decisions WHERE uid IN ("+marks(len(args))+")", args, func(scan func(...any) error) error {
		var uid string
		err := scan(&uid)
		known[uid] = true
		return err
	}); err != nil {
		return err
	}
	type rule struct {
		policy string
		rule   int
	}
	hits, last := map[rule]int{}, map[rule]string{}
	for _, d := range list {
		if known[clean(d.UID)] {
			continue
		}
		known[clean(d.UID)] = true
		for _, image := range d.Record.Decision.Images {
			if image.Policy != "" {
				r := rule{clean(image.Policy), image.Rule}
				hits[r]++
				last[r] = max(last[r], documents.Time(d.At))
			}
		}
	}
	for r, n := range hits {
		if _, err := t.exec(ctx, `INSERT INTO rule_hits (policy, rule, images, last) VALUES (?, ?, ?, ?) ON CONFLICT (policy, rule) DO UPDATE SET images = rule_hits.images + excluded.images,
			last = CASE WHEN excluded.last > rule_hits.last THEN excluded.last ELSE rule_hits.last END`, r.policy, r.rule, n, last[r]); err != nil {
			return err
		}
	}
	return nil
}

// NewVulnerability is one that a later scan than the first found in images that run.
type NewVulnerability struct {
	Vulnerability
	Found   string `json:"found"`   // when it was found first
	Running int    `json:"running"` // images that run and have it anew
}

// NewVulnerabilities are those that were found since a moment in images that run, the highest score first.
func (s *Store) NewVulnerabilities(ctx context.Context, since time.Time, limit int) (list []NewVulnerability, err error) {
	return list, s.View(ctx, func(t *Tx) error {
		list = []NewVulnerability{}
		return t.each(ctx, `SELECT v.id, v.name, v.score, v.severity, v.epss, v.kev, v.images, MIN(x.found), COUNT(*) FROM image_terms x JOIN terms v ON v.id = x.term_id
			WHERE x.later AND x.found > ? AND v.canonical = TRUE AND EXISTS (SELECT 1 FROM listings l WHERE l.image_id = x.image_id AND l.instances > 0)
			GROUP BY v.id, v.name, v.score, v.severity, v.epss, v.kev, v.images ORDER BY COALESCE(v.score, -1) DESC, v.name LIMIT ?`,
			[]any{documents.Time(since), limit}, func(scan func(...any) error) error {
				var v NewVulnerability
				err := scan(&v.row, &v.ID, &v.Score, &v.Severity, &v.EPSS, &v.KEV, &v.Images, &v.Found, &v.Running)
				list = append(list, v)
				return err
			})
	})
}

// ImagesWith says how many images have vulnerabilities, by the names asked for, ids or aliases.
func (s *Store) ImagesWith(ctx context.Context, ids []string) (map[string]int, error) {
	found := map[string]int{}
	return found, s.View(ctx, func(t *Tx) error {
		for start := 0; start < len(ids); start += 500 {
			chunk := ids[start:min(start+500, len(ids))]
			args := make([]any, len(chunk))
			for i, id := range chunk {
				args[i] = api.NormalizeID(clean(id))
			}
			if err := t.each(ctx, "SELECT name, images FROM terms WHERE name IN ("+marks(len(args))+")", args, func(scan func(...any) error) error {
				var name string
				var n int
				err := scan(&name, &n)
				found[name] = n
				return err
			}); err != nil {
				return err
			}
		}
		return nil
	})
}
