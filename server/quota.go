package server

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/assay-dev/assay/server/auth"
	"github.com/assay-dev/assay/store"
)

// Quotas bound what each identity may hold of what it hands in. Members of 0 bound nothing.
type Quotas struct {
	Scoped store.Quota // of identities that a scope bounds
	All    store.Quota // of the others
	// Refused, where given, is called where something is refused: of digests, names or bytes.
	Refused func(of string)
}

// Of is the quota of an identity of a scope.
func (q Quotas) Of(scope auth.Scope) store.Quota {
	if scope.All() {
		return q.All
	}
	return q.Scoped
}

// handIn writes what whoever asks hands in, within his quota.
func (s *Server) handIn(r *http.Request, fn func(*store.Tx) error) error {
	err := s.Store.Write(r.Context(), func(t *store.Tx) error {
		return fn(t.By(submitter(r)).Within(s.Quotas.Of(identity(r).Scope)))
	})
	var quota *store.QuotaError
	if errors.As(err, &quota) && s.Quotas.Refused != nil {
		s.Quotas.Refused(quota.Of)
	}
	return err
}

// submitter names who hands something in, so that it is counted, and can be withdrawn.
func submitter(r *http.Request) string {
	id := identity(r)
	if id.Token != 0 {
		return store.TokenIdentity(id.Token)
	}
	return "user:" + id.Name
}

// quotaDetail says what is full, and what there is to be done.
func quotaDetail(e *store.QuotaError) string {
	return fmt.Sprintf("nothing was stored: %s. Remove images that are gone (DELETE /api/v1/images/{digest}), end a token that is no longer used with all that it handed in "+
		"(DELETE /api/v1/tokens/{id}?withdraw=true), or give more by --quota or --quota-unscoped of the server", e.Error())
}
