package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/policies/exceptions"
	"github.com/assay-dev/assay/server/jobs"
	"github.com/assay-dev/assay/store"
)

// Problem is the answer to a request that failed (RFC 9457, application/problem+json).
type Problem struct {
	Type   string `json:"type"` // about:blank
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	// Instance is the request's id, as the log has it.
	Instance string  `json:"instance,omitempty"`
	Errors   []Fault `json:"errors,omitempty"`
}

// Fault is one of many things that are wrong with a request.
type Fault struct {
	// Pointer is a JSON pointer or path in the body, Line and Column the place in its text.
	Pointer string `json:"pointer,omitempty"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Detail  string `json:"detail"`

	more int // this stands for so many
}

// listFault adds a fault to those of an answer, or counts it where there are enough of them.
func listFault(list []Fault, f Fault) []Fault {
	switch n := len(list); {
	case n < maxFaults:
		return append(list, f)
	case n == maxFaults:
		return append(list, Fault{more: max(f.more, 1)})
	default:
		list[maxFaults].more += max(f.more, 1)
		return list
	}
}

// listed are faults as an answer has them: the first, and the number of the rest.
func listed(all []Fault) (list []Fault) {
	for _, f := range all {
		list = listFault(list, f)
	}
	for i, f := range list {
		if f.more > 0 {
			list[i] = Fault{Detail: fmt.Sprintf("and %d more", f.more)}
		}
	}
	return list
}

// refused is an error of the caller, with its status.
type refused struct {
	status int
	detail string
	faults []Fault
}

func (r *refused) Error() string { return r.detail }

func bad(format string, args ...any) error {
	return &refused{status: http.StatusBadRequest, detail: fmt.Sprintf(format, args...)}
}

func unprocessable(format string, args ...any) error {
	return &refused{status: http.StatusUnprocessableEntity, detail: fmt.Sprintf(format, args...)}
}

func forbidden(format string, args ...any) error {
	return &refused{status: http.StatusForbidden, detail: fmt.Sprintf(format, args...)}
}

const (
	maxFaults = 20      // that one answer lists
	maxDetail = 4 << 10 // bytes
)

// problemOf turns an error into an answer. What is no fault of the caller says no more
// than that; the log has the rest.
func problemOf(err error) Problem {
	var r *refused
	var tooLarge *http.MaxBytesError
	var diagnostics policies.Diagnostics
	var quota *store.QuotaError
	p := Problem{Type: "about:blank", Status: http.StatusInternalServerError, Detail: "the server failed; its log says why, under this instance"}
	switch {
	case errors.As(err, &r):
		p.Status, p.Detail, p.Errors = r.status, r.detail, r.faults
	case errors.As(err, &tooLarge):
		p.Status, p.Detail = http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is larger than %d bytes", tooLarge.Limit)
	case errors.As(err, &diagnostics):
		p.Status, p.Detail = http.StatusUnprocessableEntity, "the document is not valid"
		for _, d := range diagnostics {
			p.Errors = append(p.Errors, Fault{Pointer: d.Path, Line: d.Line, Column: d.Column, Detail: d.Message})
		}
	case rowErrors(err) != nil:
		p.Status, p.Detail, p.Errors = http.StatusUnprocessableEntity, "nothing was imported: some rows are not valid", rowErrors(err)
	case errors.Is(err, store.ErrNotFound), errors.Is(err, jobs.ErrNotFound):
		p.Status, p.Detail = http.StatusNotFound, "there is no such thing here"
	case errors.Is(err, store.ErrExists):
		p.Status, p.Detail = http.StatusConflict, err.Error()
	case errors.Is(err, store.ErrCursor), errors.Is(err, store.ErrSort), errors.Is(err, jobs.ErrFilter):
		p.Status, p.Detail = http.StatusBadRequest, err.Error()
	case errors.As(err, &quota):
		p.Status, p.Detail = http.StatusInsufficientStorage, quotaDetail(quota)
	case errors.Is(err, store.ErrUnavailable):
		p.Status, p.Detail = http.StatusServiceUnavailable, "the database does not answer or cannot take more; nothing was changed: try again"
	case errors.Is(err, engine.ErrNotLoaded):
		p.Status, p.Detail = http.StatusServiceUnavailable, "the policies and the data are not loaded yet"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		p.Status, p.Detail = http.StatusServiceUnavailable, "it took too long"
	}
	p.Errors = listed(p.Errors)
	if len(p.Detail) > maxDetail {
		p.Detail = strings.ToValidUTF8(p.Detail[:maxDetail], "") + "…"
	}
	p.Title = http.StatusText(p.Status)
	return p
}

// rowErrors are the faults of a CSV file.
func rowErrors(err error) (faults []Fault) {
	var row *exceptions.RowError
	var more *exceptions.MoreFaults
	var joined interface{ Unwrap() []error }
	switch {
	case errors.As(err, &joined):
		for _, e := range joined.Unwrap() {
			if f := rowErrors(e); f != nil {
				for _, one := range f {
					faults = listFault(faults, one)
				}
			}
		}
	case errors.As(err, &more):
		faults = append(faults, Fault{more: more.Count})
	case errors.As(err, &row):
		faults = append(faults, Fault{Pointer: row.Column, Line: row.Line, Detail: row.Message})
	}
	return faults
}

func (p Problem) write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Del("Content-Disposition")
	h.Del("ETag")
	if p.Status == http.StatusServiceUnavailable {
		h.Set("Retry-After", strconv.Itoa(2))
	}
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // a client that went away is no error
}
