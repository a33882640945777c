package server

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/assay-dev/assay/server/auth"
	"github.com/assay-dev/assay/store"
)

// Names of what the audit log tells of.
const (
	auditException  = "exception"
	auditRequest    = "exception-request"
	auditThresholds = "thresholds"
	auditSetting    = "setting"
	auditImage      = "image"
	auditCluster    = "cluster"
	auditToken      = "token"
	auditJob        = "job"
)

// audited is a transaction that tells the audit log what it does.
type audited struct {
	*store.Tx
	r    *http.Request
	told int
}

// change writes what people decide. A change of which fn notes nothing is undone: what is
// changed and who changed it are one transaction.
func (s *Server) change(r *http.Request, fn func(*audited) error) error {
	return s.Store.Write(r.Context(), func(t *store.Tx) error {
		a := &audited{Tx: t, r: r}
		if err := fn(a); err != nil {
			return err
		}
		if a.told == 0 {
			return errors.New("a change that the audit log was not told of")
		}
		return nil
	})
}

// note tells the audit log of one change; before and after are written as JSON, nil is nothing.
// They hold no secret.
func (a *audited) note(action, kind, name string, before, after any) error {
	id := identity(a.r)
	e := store.AuditEntry{Who: id.Name, Via: id.Via, Address: auth.AddressOf(a.r.Context()), Action: action, Kind: kind, Name: name}
	for _, side := range []struct {
		value any
		to    *json.RawMessage
	}{{before, &e.Before}, {after, &e.After}} {
		if side.value == nil {
			continue
		}
		text, err := json.Marshal(side.value)
		if err != nil {
			return fmt.Errorf("writing the audit log: %w", err)
		}
		*side.to = text
	}
	a.told++
	return a.Audit(a.r.Context(), e)
}

// was is what a setting was, for the audit log: nil where it was never set.
func (a *audited) was(key string) (any, error) {
	var value any
	err := a.Setting(a.r.Context(), key, &value)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return value, err
}

// auditFilter reads the parameters that narrow the audit log.
func auditFilter(q *query) store.AuditFilter {
	return store.AuditFilter{Who: q.text("who"), Action: q.text("action"), Kind: q.text("kind"), Name: q.text("name"), Since: q.time("since"), Until: q.time("until")}
}

var auditParameters = []parameter{{"who", "the name of an identity", anyText}, {"action", "such as add, replace, remove", anyText}, {"kind", "such as exception, thresholds, token", anyText}, {"name", "of what was changed", anyText}, {"since", "", aMoment}, {"until", "", aMoment}}

func (s *Server) getAudit(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r)
	f, before, limit := auditFilter(q), q.older(), q.integer("limit", 1, 1000)
	if err := q.err(); err != nil {
		return err
	}
	list, err := s.Store.AuditLog(r.Context(), f, before, int(cmp.Or(limit, 100)))
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, itemsOf(list))
}

// eachAudit calls fn with the entries that fit, the newest first.
func (s *Server) eachAudit(r *http.Request, f store.AuditFilter, fn func(store.AuditEntry) error) error {
	for before := int64(0); ; {
		list, err := s.Store.AuditLog(r.Context(), f, before, 500)
		if err != nil {
			return err
		}
		for _, e := range list {
			if err := fn(e); err != nil {
				return err
			}
		}
		if len(list) < 500 {
			return nil
		}
		before = list[len(list)-1].ID
	}
}

// exportAuditJSON writes all entries as GET /audit has them.
func (s *Server) exportAuditJSON(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r)
	f := auditFilter(q)
	if err := q.err(); err != nil {
		return err
	}
	s.download(w, "application/json", "audit.json")
	control := http.NewResponseController(w)
	_, err := io.WriteString(w, `{"items":[`)
	separator := "\n"
	if err == nil {
		err = s.eachAudit(r, f, func(e store.AuditEntry) error {
			text, err := json.Marshal(e)
			if err != nil {
				return err
			}
			_ = control.SetWriteDeadline(time.Now().Add(exportTimeout)) // not every writer has one
			_, err = io.WriteString(w, separator+string(text))
			separator = ",\n"
			return err
		})
	}
	if err == nil {
		_, err = io.WriteString(w, "\n]}\n")
	}
	if err != nil {
		s.Log.Error("an export broke off", "error", err)
		panic(http.ErrAbortHandler)
	}
	return nil
}

// exportAudit writes a row for each entry.
func (s *Server) exportAudit(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r)
	f := auditFilter(q)
	if err := q.err(); err != nil {
		return err
	}
	s.download(w, "text/csv; charset=utf-8", "audit.csv")
	out := newTable(w)
	if err := out.row("ID", "At", "Who", "Via", "Address", "Action", "Kind", "Name", "Before", "After"); err != nil {
		return err
	}
	return s.ended(s.eachAudit(r, f, func(e store.AuditEntry) error {
		return out.row(strconv.FormatInt(e.ID, 10), e.At, e.Who, e.Via, e.Address, e.Action, e.Kind, e.Name, string(e.Before), string(e.After))
	}), out)
}
