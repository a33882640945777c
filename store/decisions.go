package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
)

// AddDecisions keeps records; one whose UID is known changes nothing.
func (t *Tx) AddDecisions(ctx context.Context, list []api.AdmissionRecord) error {
	rows := make([][]any, len(list))
	clusters := map[string]bool{}
	for i, d := range list {
		text, err := json.Marshal(d.Record)
		if err != nil {
			return fmt.Errorf("writing the decision: %w", err)
		}
		said := d.Record.Decision
		var policies []string
		for _, image := range said.Images {
			if image.Policy != "" && !slices.Contains(policies, image.Policy) {
				policies = append(policies, image.Policy)
			}
		}
		by := ""
		if len(policies) > 0 {
			by = "\n" + strings.Join(policies, "\n") + "\n"
		}
		rows[i] = []any{clean(d.UID), documents.Time(d.At), clean(d.Cluster), clean(said.Namespace), clean(said.Kind), clean(said.Name), said.Allowed, clean(by), compress(text)}
		clusters[clean(d.Cluster)] = true
	}
	if err := t.hit(ctx, list); err != nil {
		return err
	}
	if err := t.bulk(ctx, "INSERT INTO decisions (uid, at, cluster, namespace, kind, name, allowed, policies, record)", "ON CONFLICT (uid) DO NOTHING", rows); err != nil {
		return err
	}
	for c := range clusters {
		if err := t.changed(ctx, DecisionMade, c); err != nil {
			return err
		}
	}
	return nil
}

// DecisionFilter narrows a list of decisions; empty members do not.
type DecisionFilter struct {
	Cluster, Namespace, Kind, Name, Policy string
	Allowed                                *bool
}

// StoredDecision is a record with its place in lists.
type StoredDecision struct {
	ID int64 `json:"id"`
	api.AdmissionRecord
}

// Decisions are the newest first, older than an id where that is not 0.
func (s *Store) Decisions(ctx context.Context, f DecisionFilter, before int64, limit int) (list []StoredDecision, err error) {
	where, args := []string{"(CAST(? AS BIGINT) = 0 OR id < ?)"}, []any{before, before}
	for _, c := range []struct{ column, value string }{{"cluster", f.Cluster}, {"namespace", f.Namespace}, {"kind", f.Kind}, {"name", f.Name}} {
		if c.value != "" {
			where, args = append(where, c.column+" = ?"), append(args, clean(c.value))
		}
	}
	if f.Policy != "" {
		where, args = append(where, "policies LIKE ? ESCAPE '!'"), append(args, "%\n"+strings.NewReplacer("!", "!!", "%", "!%", "_", "!_").Replace(clean(f.Policy))+"\n%")
	}
	if f.Allowed != nil {
		where, args = append(where, "allowed = ?"), append(args, *f.Allowed)
	}
	return list, s.View(ctx, func(t *Tx) error {
		list = nil
		return t.each(ctx, "SELECT id, uid, at, cluster, record FROM decisions WHERE "+strings.Join(where, " AND ")+" ORDER BY id DESC LIMIT ?", append(args, limit), func(scan func(...any) error) error {
			var d StoredDecision
			var at string
			var record []byte
			if err := scan(&d.ID, &d.UID, &at, &d.Cluster, &record); err != nil {
				return err
			}
			d.At = parseTime(at)
			text, err := decompress(record)
			if err == nil {
				err = json.Unmarshal(text, &d.Record)
			}
			if err != nil {
				return fmt.Errorf("reading the decision %s: %w", d.UID, err)
			}
			list = append(list, d)
			return nil
		})
	})
}

// Token is what is kept of a token that the server made: never the token.
type Token struct {
	ID      int64  `json:"id"`
	Name    string `json:"name"`
	Role    string `json:"role"`
	Scope   string `json:"scope,omitempty"`
	Created string `json:"created"`
	Creator string `json:"creator,omitempty"`
	Expires string `json:"expires,omitempty"`
	Revoked string `json:"revoked,omitempty"`
	// Legacy is a scanner from before nodes and webhooks had roles of their own.
	Legacy bool `json:"legacy,omitempty"`
}

// AddToken keeps a token by the hexadecimal hash of its text, and gives it an ID and a time.
func (t *Tx) AddToken(ctx context.Context, hash string, k Token) (Token, error) {
	k.Created, k.Name, k.Creator = t.at, clean(k.Name), clean(k.Creator)
	if err := t.one(ctx, "INSERT INTO tokens (hash, name, role, scope, created, creator, expires, revoked, legacy) VALUES (?, ?, ?, ?, ?, ?, ?, '', ?) RETURNING id",
		[]any{hash, k.Name, k.Role, k.Scope, k.Created, k.Creator, expiry(k.Expires), k.Legacy}, &k.ID); err != nil {
		return k, err
	}
	return k, t.members(ctx)
}

// RevokeToken ends a token; ErrNotFound when there is none of the id.
func (t *Tx) RevokeToken(ctx context.Context, id int64) error {
	n, err := t.exec(ctx, "UPDATE tokens SET revoked = CASE WHEN revoked = '' THEN CAST(? AS TEXT) ELSE revoked END WHERE id = ?", t.at, id)
	if err == nil && n == 0 {
		return ErrNotFound
	}
	if err != nil {
		return err
	}
	return t.members(ctx)
}

const tokenColumns = "id, name, role, scope, created, creator, expires, revoked, legacy"

func (k *Token) dest() []any {
	return []any{&k.ID, &k.Name, &k.Role, &k.Scope, &k.Created, &k.Creator, &k.Expires, &k.Revoked, &k.Legacy}
}

// Token is the one of an id.
func (t *Tx) Token(ctx context.Context, id int64) (k Token, err error) {
	return k, t.one(ctx, "SELECT "+tokenColumns+" FROM tokens WHERE id = ?", []any{id}, k.dest()...)
}

// HasTokens says whether a token was ever made.
func (t *Tx) HasTokens(ctx context.Context) (bool, error) {
	var n int
	err := t.one(ctx, "SELECT COUNT(*) FROM tokens", nil, &n)
	return n > 0, err
}

// Tokens are all of them, the newest first.
func (s *Store) Tokens(ctx context.Context) (list []Token, err error) {
	return list, s.View(ctx, func(t *Tx) error {
		list = nil
		return t.each(ctx, "SELECT "+tokenColumns+" FROM tokens ORDER BY id DESC", nil, func(scan func(...any) error) error {
			var k Token
			err := scan(k.dest()...)
			list = append(list, k)
			return err
		})
	})
}

// TokenByHash is the token of a hexadecimal hash.
func (s *Store) TokenByHash(ctx context.Context, hash string) (k Token, found bool, err error) {
	err = s.fault("reading a token", s.read.QueryRowContext(ctx, s.rebind("SELECT "+tokenColumns+" FROM tokens WHERE hash = ?"), hash).Scan(k.dest()...))
	if errors.Is(err, ErrNotFound) {
		return k, false, nil
	}
	return k, err == nil, err
}

// EndSession keeps that a session ended, until it would have ended by itself.
func (s *Store) EndSession(ctx context.Context, id string, until time.Time) error {
	return s.Write(ctx, func(t *Tx) error {
		_, err := t.exec(ctx, "INSERT INTO ended_sessions (id, until) VALUES (?, ?) ON CONFLICT (id) DO NOTHING", id, documents.Time(until))
		return err
	})
}

// SessionEnded says whether a session was ended.
func (s *Store) SessionEnded(ctx context.Context, id string) (bool, error) {
	var n int
	err := s.fault("reading a session", s.read.QueryRowContext(ctx, s.rebind("SELECT COUNT(*) FROM ended_sessions WHERE id = ?"), id).Scan(&n))
	return n > 0, err
}

// Retention says how long things are kept; zero members are forever, but for changes.
type Retention struct {
	// Scans that a newer one replaced, events, decisions, ended alerts,
	// deliveries that were given up, and the audit log.
	Scans, Events, Decisions, Alerts, Deliveries, Audit time.Duration
}

// keptChanges is how long an engine may be away and catch up change by change.
const keptChanges = 24 * time.Hour

// Retain removes what is older than it is kept, many rows in several transactions, and then
// counts anew what identities hold.
func (s *Store) Retain(ctx context.Context, r Retention) error {
	now := s.now()
	type rule struct {
		age       time.Duration
		statement string
	}
	for _, x := range []rule{
		{keptChanges, "DELETE FROM changes WHERE seq IN (SELECT seq FROM changes WHERE at < ? AND seq < (SELECT MAX(seq) FROM changes) ORDER BY seq LIMIT 5000)"},
		{r.Events, "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE time < ? LIMIT 2000)"},
		{r.Decisions, "DELETE FROM decisions WHERE id IN (SELECT id FROM decisions WHERE at < ? LIMIT 2000)"},
		{r.Alerts, "DELETE FROM alert_history WHERE id IN (SELECT id FROM alert_history WHERE resolved <> '' AND resolved < ? LIMIT 2000)"},
		{r.Deliveries, "DELETE FROM deliveries WHERE seq IN (SELECT seq FROM deliveries WHERE failed <> '' AND failed < ? LIMIT 2000)"},
		{r.Audit, "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < ? LIMIT 2000)"},
		{r.Scans, `DELETE FROM scans WHERE id IN (SELECT s.id FROM scans s WHERE s.stored_at < ? AND NOT EXISTS (SELECT 1 FROM images i WHERE i.scan_id = s.id)
			AND NOT EXISTS (SELECT 1 FROM work w WHERE w.scan_id = s.id) LIMIT 2000)`},
		{r.Scans, `DELETE FROM contents WHERE id IN (SELECT c.id FROM contents c WHERE CAST(? AS TEXT) <> '' AND NOT EXISTS (SELECT 1 FROM scans s WHERE s.content_id = c.id) LIMIT 2000)`},
		{time.Nanosecond, "DELETE FROM ended_sessions WHERE until < ?"},
	} {
		if x.age == 0 {
			continue
		}
		for again := true; again; {
			err := s.Write(ctx, func(t *Tx) error {
				n, err := t.exec(ctx, x.statement, documents.Time(now.Add(-x.age)))
				again = n >= 2000
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return s.Recount(ctx)
}
