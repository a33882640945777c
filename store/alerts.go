package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
)

// AlertRule is what is known of the evaluation of an alert rule.
type AlertRule struct {
	Name      string    `json:"name"`
	Evaluated time.Time `json:"evaluated"`
	Error     string    `json:"error,omitempty"`
}

// AlertRules are those that were evaluated, by name.
func (t *Tx) AlertRules(ctx context.Context) (rules map[string]AlertRule, err error) {
	rules = map[string]AlertRule{}
	return rules, t.each(ctx, "SELECT name, evaluated, error FROM alert_rules", nil, func(scan func(...any) error) error {
		var r AlertRule
		var at string
		err := scan(&r.Name, &at, &r.Error)
		r.Evaluated = parseTime(at)
		rules[r.Name] = r
		return err
	})
}

// SetAlertRule notes that a rule was evaluated, and why it could not be.
func (t *Tx) SetAlertRule(ctx context.Context, r AlertRule) error {
	_, err := t.exec(ctx, "INSERT INTO alert_rules (name, evaluated, error) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET evaluated = excluded.evaluated, error = excluded.error",
		r.Name, documents.Time(r.Evaluated), clean(r.Error))
	return err
}

// RemoveAlertRule forgets a rule that is gone.
func (t *Tx) RemoveAlertRule(ctx context.Context, name string) error {
	_, err := t.exec(ctx, "DELETE FROM alert_rules WHERE name = ?", name)
	return err
}

// AlertState is an alert that fires. State is JSON of its keeper.
type AlertState struct {
	Subject, Rule string
	State         json.RawMessage
}

// AlertStates are those of some rules, all rules when none is named.
func (t *Tx) AlertStates(ctx context.Context, rules ...string) (list []AlertState, err error) {
	where, args := "", []any{}
	if len(rules) > 0 {
		where = " WHERE rule IN (" + marks(len(rules)) + ")"
		for _, r := range rules {
			args = append(args, r)
		}
	}
	return list, t.each(ctx, "SELECT subject, rule, state FROM alerts"+where+" ORDER BY rule, subject", args, func(scan func(...any) error) error {
		var a AlertState
		var text string
		err := scan(&a.Subject, &a.Rule, &text)
		a.State = json.RawMessage(text)
		list = append(list, a)
		return err
	})
}

// SetAlertStates writes the states that changed, and removes those that ended.
func (t *Tx) SetAlertStates(ctx context.Context, set []AlertState, ended []string) error {
	rows := make([][]any, len(set))
	for i, a := range set {
		rows[i] = []any{a.Subject, a.Rule, string(a.State)}
	}
	if err := t.bulk(ctx, "INSERT INTO alerts (subject, rule, state)", "ON CONFLICT (subject) DO UPDATE SET rule = excluded.rule, state = excluded.state", rows); err != nil {
		return err
	}
	for _, subject := range ended {
		if _, err := t.exec(ctx, "DELETE FROM alerts WHERE subject = ?", subject); err != nil {
			return err
		}
	}
	return nil
}

// Episode is one time that an alert fired.
type Episode struct {
	ID       int64     `json:"id"`
	Episode  string    `json:"episode"`
	Opened   string    `json:"opened"`
	Resolved string    `json:"resolved,omitempty"`
	Alert    api.Alert `json:"alert"`
}

// SetEpisode keeps an alert in the history: it opened, changed or, with a time of resolving, ended.
func (t *Tx) SetEpisode(ctx context.Context, episode string, opened, resolved time.Time, alert api.Alert) error {
	text, err := json.Marshal(alert)
	if err != nil {
		return err
	}
	end := ""
	if !resolved.IsZero() {
		end = documents.Time(resolved)
	}
	_, err = t.exec(ctx, `INSERT INTO alert_history (episode, rule, severity, opened, resolved, alert) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (episode) DO UPDATE SET severity = excluded.severity, resolved = excluded.resolved, alert = excluded.alert`,
		episode, alert.Name, alert.Severity, documents.Time(opened), end, clean(string(text)))
	if err != nil {
		return err
	}
	return t.changed(ctx, AlertsChanged, alert.Name)
}

// Episodes are alerts that fired, the newest first, older than an id where that is
// not 0; firing leaves out those that ended, and a rule's name those of others.
func (s *Store) Episodes(ctx context.Context, firing bool, rule string, before int64, limit int) (list []Episode, err error) {
	return list, s.View(ctx, func(t *Tx) error {
		list = nil
		where := "WHERE (CAST(? AS BIGINT) = 0 OR id < ?) AND (CAST(? AS TEXT) = '' OR rule = ?)"
		if firing {
			where += " AND resolved = ''"
		}
		return t.each(ctx, "SELECT id, episode, opened, resolved, alert FROM alert_history "+where+" ORDER BY id DESC LIMIT ?", []any{before, before, rule, rule, limit}, func(scan func(...any) error) error {
			var e Episode
			var text string
			if err := scan(&e.ID, &e.Episode, &e.Opened, &e.Resolved, &text); err != nil {
				return err
			}
			list = append(list, e)
			return json.Unmarshal([]byte(text), &list[len(list)-1].Alert)
		})
	})
}

// Delivery is a notification on its way to a receiver.
type Delivery struct {
	ID, Receiver, Subject string
	Notification          json.RawMessage
	Attempts              int
}

// AddDeliveries appends deliveries, without those whose ID waits already.
func (t *Tx) AddDeliveries(ctx context.Context, list []Delivery) error {
	rows := make([][]any, len(list))
	for i, d := range list {
		rows[i] = []any{d.ID, d.Receiver, d.Subject, string(d.Notification)}
	}
	return t.bulk(ctx, "INSERT INTO deliveries (id, receiver, subject, notification)", "ON CONFLICT (id) WHERE failed = '' DO NOTHING", rows)
}

// DueDeliveries are those whose time has come, in the order in which they were added, at most
// limit for each receiver, without those that come after another of their receiver and
// subject. They are leased: until then no one else is given them.
func (t *Tx) DueDeliveries(ctx context.Context, now time.Time, limit int, lease time.Duration) (list []Delivery, err error) {
	at := documents.Time(now)
	var ids []any
	err = t.each(ctx, `SELECT seq, id, receiver, subject, notification, attempts FROM (
			SELECT d.*, ROW_NUMBER() OVER (PARTITION BY d.receiver ORDER BY d.seq) AS place FROM deliveries d
			WHERE d.failed = '' AND d.due <= ? AND d.leased <= ? AND NOT EXISTS (SELECT 1 FROM deliveries e
				WHERE e.failed = '' AND e.receiver = d.receiver AND e.subject = d.subject AND e.seq < d.seq)
		) AS ranked WHERE place <= ? ORDER BY seq`, []any{at, at, limit}, func(scan func(...any) error) error {
		var seq int64
		var d Delivery
		var text string
		err := scan(&seq, &d.ID, &d.Receiver, &d.Subject, &text, &d.Attempts)
		d.Notification = json.RawMessage(text)
		list, ids = append(list, d), append(ids, seq)
		return err
	})
	if err != nil || len(ids) == 0 {
		return list, err
	}
	for from := 0; from < len(ids); from += 1000 {
		chunk := ids[from:min(from+1000, len(ids))]
		if _, err := t.exec(ctx, "UPDATE deliveries SET leased = ? WHERE seq IN ("+marks(len(chunk))+")", append([]any{documents.Time(now.Add(lease))}, chunk...)...); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// change runs a statement that must reach a row.
func (t *Tx) change(ctx context.Context, query string, args ...any) error {
	n, err := t.exec(ctx, query, args...)
	if err == nil && n == 0 {
		return ErrNotFound
	}
	return err
}

// EndDelivery removes a delivery that arrived.
func (t *Tx) EndDelivery(ctx context.Context, id string) error {
	return t.change(ctx, "DELETE FROM deliveries WHERE id = ? AND failed = ''", id)
}

// RetryDelivery keeps a delivery until a time, and counts an attempt.
func (t *Tx) RetryDelivery(ctx context.Context, id string, at time.Time, reason string) error {
	return t.change(ctx, "UPDATE deliveries SET due = ?, leased = '', attempts = attempts + 1, reason = ? WHERE id = ? AND failed = ''", documents.Time(at), clean(reason), id)
}

// DropDelivery keeps a delivery as failed.
func (t *Tx) DropDelivery(ctx context.Context, id, reason string) error {
	return t.change(ctx, "UPDATE deliveries SET failed = ?, reason = ? WHERE id = ? AND failed = ''", t.at, clean(reason), id)
}

// NextDelivery is when the next delivery is due, counted from now on where some wait
// whose time has come; the zero time when none waits.
func (s *Store) NextDelivery(ctx context.Context) (next time.Time, err error) {
	return next, s.View(ctx, func(t *Tx) error {
		var due string
		var n int
		if err := t.one(ctx, "SELECT COUNT(*), COALESCE(MIN(CASE WHEN due > leased THEN due ELSE leased END), '') FROM deliveries WHERE failed = ''", nil, &n, &due); err != nil || n == 0 {
			return err
		}
		if next = parseTime(due); due == "" {
			next = parseTime(t.at)
		}
		return nil
	})
}

// DeliveryStatus is a delivery that waits or was given up, as pages show it.
type DeliveryStatus struct {
	ID       string `json:"id"`
	Receiver string `json:"receiver"`
	// Notification is JSON of what is sent.
	Notification json.RawMessage `json:"notification"`
	Attempts     int             `json:"attempts"`
	Due          string          `json:"due,omitempty"`
	Reason       string          `json:"reason,omitempty"`
	Failed       string          `json:"failed,omitempty"`
}

// Deliveries are those that wait and those that were given up, the newest first.
func (s *Store) Deliveries(ctx context.Context, limit int) (list []DeliveryStatus, err error) {
	return list, s.View(ctx, func(t *Tx) error {
		list = nil
		return t.each(ctx, "SELECT id, receiver, notification, attempts, due, reason, failed FROM deliveries ORDER BY seq DESC LIMIT ?", []any{limit}, func(scan func(...any) error) error {
			var d DeliveryStatus
			var text string
			err := scan(&d.ID, &d.Receiver, &text, &d.Attempts, &d.Due, &d.Reason, &d.Failed)
			d.Notification = json.RawMessage(text)
			list = append(list, d)
			return err
		})
	})
}

// Found is what scans found in an image, under one of its names.
type Found struct {
	Event api.Event // of the listing now, without lists
	// CVEs are canonical ids, with the packages that have them.
	CVEs map[string][]string
}

// Findings calls fn with the vulnerabilities of each listing that has one of some
// results: those that a later scan than the first found, or with first all of them.
func (t *Tx) Findings(ctx context.Context, results []api.Result, first bool, fn func(Found) error) error {
	args := []any{}
	for _, r := range results {
		args = append(args, string(r))
	}
	where := ""
	if !first {
		where = " AND x.later"
	}
	var listings []int64
	byListing := map[int64]*Found{}
	err := t.each(ctx, `SELECT l.id, l.registry, l.repository, l.tag, l.digest, l.image, l.result, l.max_cvss, l.fixable, l.kev, l.epss, l.source, terms.name, p.name
		FROM listings l JOIN image_terms x ON x.image_id = l.image_id JOIN findings f ON f.image_id = x.image_id AND f.term_id = x.term_id
		JOIN terms ON terms.id = x.term_id JOIN packages p ON p.id = f.package_id
		WHERE l.result IN (`+marks(len(args))+`)`+where+` ORDER BY l.id, terms.name, p.name`, args, func(scan func(...any) error) error {
		var id int64
		var e api.Event
		var cve, pkg string
		if err := scan(&id, &e.Registry, &e.Repository, &e.Tag, &e.Digest, &e.Image, &e.Result, &e.MaxCVSSScore, &e.Fixable, &e.KEV, &e.EPSS, &e.Source, &cve, &pkg); err != nil {
			return err
		}
		found, ok := byListing[id]
		if !ok {
			found = &Found{Event: e, CVEs: map[string][]string{}}
			byListing[id] = found
			listings = append(listings, id)
		}
		found.CVEs[cve] = append(found.CVEs[cve], pkg)
		return nil
	})
	if err != nil {
		return err
	}
	for from := 0; from < len(listings); from += 5000 {
		chunk := listings[from:min(from+5000, len(listings))]
		verdicts := make([]Verdict, len(chunk))
		for i, id := range chunk {
			verdicts[i].Listing = id
		}
		running, err := t.running(ctx, verdicts)
		if err != nil {
			return err
		}
		for _, id := range chunk {
			byListing[id].Event.Instances = running[id]
			if err := fn(*byListing[id]); err != nil {
				return err
			}
		}
	}
	return nil
}
