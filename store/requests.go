package store

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/assay-dev/assay/api"
)

// States of a request for an exception.
const (
	RequestPending  = "pending"
	RequestApproved = "approved"
	RequestRefused  = "refused"
)

// ExceptionRequest is an exception that waits for a second person, or did. It covers nothing.
type ExceptionRequest struct {
	ID        int64                      `json:"id"`
	Exception api.VulnerabilityException `json:"exception"`
	// Replaces says that it may take the place of an exception of its name.
	Replaces  bool   `json:"replaces"`
	Requester string `json:"requester"`
	Requested string `json:"requested"`
	State     string `json:"state"` // pending, approved or refused
	Decider   string `json:"decider,omitempty"`
	Decided   string `json:"decided,omitempty"`
	Reason    string `json:"reason,omitempty"`
}

// AddExceptionRequest keeps a request as pending, and gives it an ID and a time.
func (t *Tx) AddExceptionRequest(ctx context.Context, q ExceptionRequest) (ExceptionRequest, error) {
	text, err := json.Marshal(q.Exception)
	if err != nil {
		return q, fmt.Errorf("writing the request: %w", err)
	}
	q.State, q.Requested, q.Requester = RequestPending, t.at, clean(q.Requester)
	return q, t.one(ctx, "INSERT INTO exception_requests (name, document, replaces, requester, requested, state, decider, decided, reason) VALUES (?, ?, ?, ?, ?, ?, '', '', '') RETURNING id",
		[]any{q.Exception.Metadata.Name, string(text), q.Replaces, q.Requester, q.Requested, q.State}, &q.ID)
}

// DecideExceptionRequest ends a request; ErrNotFound when none of the ID is pending.
func (t *Tx) DecideExceptionRequest(ctx context.Context, id int64, state, decider, reason string) (q ExceptionRequest, err error) {
	n, err := t.exec(ctx, "UPDATE exception_requests SET state = ?, decider = ?, decided = ?, reason = ? WHERE id = ? AND state = 'pending'", state, clean(decider), t.at, clean(reason), id)
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return q, err
	}
	return t.ExceptionRequest(ctx, id)
}

const requestColumns = "id, document, replaces, requester, requested, state, decider, decided, reason"

func (q *ExceptionRequest) read(scan func(...any) error) error {
	var text string
	if err := scan(&q.ID, &text, &q.Replaces, &q.Requester, &q.Requested, &q.State, &q.Decider, &q.Decided, &q.Reason); err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(text), &q.Exception); err != nil {
		return fmt.Errorf("reading the request: %w", err)
	}
	return nil
}

// ExceptionRequest is the one of an ID.
func (t *Tx) ExceptionRequest(ctx context.Context, id int64) (q ExceptionRequest, err error) {
	return q, q.read(func(dest ...any) error {
		return t.one(ctx, "SELECT "+requestColumns+" FROM exception_requests WHERE id = ?", []any{id}, dest...)
	})
}

// ExceptionRequests are the newest first, older than an id where that is not 0; state "" is any.
func (s *Store) ExceptionRequests(ctx context.Context, state string, before int64, limit int) (list []ExceptionRequest, err error) {
	return list, s.View(ctx, func(t *Tx) error {
		list = nil
		return t.each(ctx, "SELECT "+requestColumns+" FROM exception_requests WHERE (CAST(? AS TEXT) = '' OR state = ?) AND (CAST(? AS BIGINT) = 0 OR id < ?) ORDER BY id DESC LIMIT ?",
			[]any{state, state, before, before, limit}, func(scan func(...any) error) error {
				var q ExceptionRequest
				err := q.read(scan)
				list = append(list, q)
				return err
			})
	})
}

// PendingRequests is how many requests wait.
func (t *Tx) PendingRequests(ctx context.Context) (n int, err error) {
	return n, t.one(ctx, "SELECT COUNT(*) FROM exception_requests WHERE state = 'pending'", nil, &n)
}
