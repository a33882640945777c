package server

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/store"
)

// AddedException is an exception that was added, or that waits for a second person.
type AddedException struct {
	api.VulnerabilityException
	// Request is the number of the request that somebody else must approve; until then the
	// exception covers nothing. Absent where none is needed.
	Request int64 `json:"request,omitempty"`
}

// Judgement is why a request is approved or refused.
type Judgement struct {
	Reason string `json:"reason"` // of at most 4096 bytes
}

const (
	maxReason = 4096
	// maxPending bounds the requests that wait.
	maxPending = 10_000
)

// except adds exceptions, or where they need approval the requests for them: all or none.
// replace says that they may take the place of those of their names.
func (s *Server) except(r *http.Request, action string, list []api.VulnerabilityException, replace bool) (requests []int64, err error) {
	return requests, s.change(r, func(a *audited) error {
		requests = nil
		if action == "replace" { // of one, by its name
			was, err := a.exception(list[0].Metadata.Name)
			if err != nil {
				return err
			}
			if err := a.matched(was); err != nil {
				return err
			}
		}
		if s.ApproveExceptions == "" {
			return a.except(action, list, replace)
		}
		waiting, err := a.PendingRequests(r.Context())
		if err != nil {
			return err
		}
		if waiting+len(list) > maxPending {
			return &refused{status: http.StatusTooManyRequests, detail: fmt.Sprintf("%d requests for exceptions wait, and at most %d may: have some approved or refused first", waiting, maxPending)}
		}
		for _, e := range list {
			if _, err := a.Exception(r.Context(), e.Metadata.Name); err == nil && !replace {
				return fmt.Errorf("exception %q: %w", e.Metadata.Name, store.ErrExists)
			} else if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			q, err := a.AddExceptionRequest(r.Context(), store.ExceptionRequest{Exception: e, Replaces: replace, Requester: identity(r).Name})
			if err != nil {
				return err
			}
			if err := a.note("request", auditRequest, e.Metadata.Name, nil, q); err != nil {
				return err
			}
			requests = append(requests, q.ID)
		}
		return nil
	})
}

// exception is that of a name, nil where there is none.
func (a *audited) exception(name string) (any, error) {
	e, err := a.Exception(a.r.Context(), name)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return e, err
}

// except puts exceptions in force.
func (a *audited) except(action string, list []api.VulnerabilityException, replace bool) error {
	for _, e := range list {
		before, err := a.exception(e.Metadata.Name)
		if err != nil {
			return err
		}
		if err := a.note(action, auditException, e.Metadata.Name, before, e); err != nil {
			return err
		}
	}
	return a.AddExceptions(a.r.Context(), list, replace)
}

func (s *Server) getExceptionRequests(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r)
	state, before, limit := q.oneOf("state", store.RequestPending, store.RequestApproved, store.RequestRefused), q.older(), q.integer("limit", 1, 1000)
	if err := q.err(); err != nil {
		return err
	}
	list, err := s.Store.ExceptionRequests(r.Context(), state, before, int(cmp.Or(limit, 100)))
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, itemsOf(list))
}

// judgeRequest approves or refuses a request of somebody else.
func (s *Server) judgeRequest(state string) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		id, err := number(r)
		if err != nil {
			return err
		}
		var j Judgement
		if err := s.decode(w, r, &j); err != nil {
			return err
		}
		if strings.TrimSpace(j.Reason) == "" || len(j.Reason) > maxReason {
			return &refused{status: http.StatusUnprocessableEntity, detail: "a request is approved or refused with a reason", faults: []Fault{{Pointer: "/reason", Detail: fmt.Sprintf("is missing or longer than %d bytes", maxReason)}}}
		}
		by := identity(r)
		if s.ApproveExceptions != "" && !by.Role.Includes(s.ApproveExceptions) {
			return forbidden("%.200q has the role %s; requests are decided by the role %s", by.Name, by.Role, s.ApproveExceptions)
		}
		var decided store.ExceptionRequest
		if err := s.change(r, func(a *audited) error {
			was, err := a.ExceptionRequest(r.Context(), id)
			if err != nil {
				return err
			}
			switch {
			case was.State != store.RequestPending:
				return &refused{status: http.StatusConflict, detail: fmt.Sprintf("the request was %s by %.200q at %s", was.State, was.Decider, was.Decided)}
			case was.Requester == by.Name:
				return forbidden("the request is that of %.200q: somebody else must decide it", by.Name)
			}
			if decided, err = a.DecideExceptionRequest(r.Context(), id, state, by.Name, j.Reason); err != nil {
				return err
			}
			if err := a.note(map[string]string{store.RequestApproved: "approve", store.RequestRefused: "refuse"}[state], auditRequest, was.Exception.Metadata.Name, was, decided); err != nil {
				return err
			}
			if state == store.RequestRefused {
				return nil
			}
			return a.except("add", []api.VulnerabilityException{was.Exception}, was.Replaces)
		}); err != nil {
			return err
		}
		status := http.StatusOK
		if state == store.RequestApproved && !s.settled(r.Context()) {
			status = http.StatusAccepted
		}
		return answer(w, status, decided)
	}
}
