package server

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/http"
	"time"

	"github.com/assay-dev/assay/server/auth"
	"github.com/assay-dev/assay/store"
)

// NewToken asks for a token.
type NewToken struct {
	Name string `json:"name"`
	Role string `json:"role"` // viewer, editor, admin, scanner, node or webhook
	// Scope is all, or some of cluster=NAME, group=NAME and registry=PREFIX with commas. The last
	// three roles need one.
	Scope string `json:"scope,omitempty"`
	// Expires is when it ends, RFC 3339; absent is never.
	Expires string `json:"expires,omitempty"`
}

// MadeToken is a token, shown this once.
type MadeToken struct {
	store.Token
	Secret string `json:"token"`
}

// maxTokenName bounds the name of a token, in bytes.
const maxTokenName = 200

func (s *Server) postToken(w http.ResponseWriter, r *http.Request) error {
	var asked NewToken
	if err := s.decode(w, r, &asked); err != nil {
		return err
	}
	var faults []Fault
	if asked.Name == "" || len(asked.Name) > maxTokenName {
		faults = append(faults, Fault{Pointer: "/name", Detail: "is missing or longer than 200 bytes"})
	}
	faults = append(faults, plain("/name", asked.Name)...)
	role, err := auth.ParseRole(asked.Role)
	if err != nil {
		faults = append(faults, Fault{Pointer: "/role", Detail: err.Error()})
	}
	if err := role.CheckScope(asked.Scope); err != nil {
		faults = append(faults, Fault{Pointer: "/scope", Detail: err.Error()})
	}
	if asked.Expires != "" {
		if at, err := time.Parse(time.RFC3339, asked.Expires); err != nil || !at.After(s.Now()) {
			faults = append(faults, Fault{Pointer: "/expires", Detail: "must be RFC 3339 and in the future"})
		}
	}
	if faults != nil {
		return &refused{status: http.StatusUnprocessableEntity, detail: "no token was made", faults: faults}
	}
	var made MadeToken
	if err := s.change(r, func(a *audited) (err error) {
		if made.Token, made.Secret, err = MakeToken(r.Context(), a.Tx, store.Token{Name: asked.Name, Role: asked.Role, Scope: asked.Scope, Expires: asked.Expires, Creator: identity(r).Name}); err != nil {
			return err
		}
		return a.note("add", auditToken, tokenName(made.Token), nil, made.Token)
	}); err != nil {
		return err
	}
	return answer(w, http.StatusCreated, made)
}

// tokenName is what the audit log calls a token.
func tokenName(k store.Token) string { return fmt.Sprintf("%d %s", k.ID, k.Name) }

// MakeToken makes a token in a store. Its text is given this once: the store has its hash.
func MakeToken(ctx context.Context, t *store.Tx, k store.Token) (kept store.Token, secret string, err error) {
	secret = auth.NewToken()
	hash := auth.Hash(secret)
	kept, err = t.AddToken(ctx, hex.EncodeToString(hash[:]), k)
	return kept, secret, err
}

// Tokens finds the tokens of a store for package auth.
type Tokens struct{ Store *store.Store }

// LookupToken implements auth.TokenStore.
func (t Tokens) LookupToken(ctx context.Context, hash auth.TokenHash) (auth.StoredToken, bool, error) {
	kept, found, err := t.Store.TokenByHash(ctx, hex.EncodeToString(hash[:]))
	if err != nil || !found {
		return auth.StoredToken{}, false, err
	}
	role, err := auth.ParseRole(kept.Role)
	if err != nil {
		return auth.StoredToken{}, false, err
	}
	scope, err := auth.ParseScope(kept.Scope)
	if err != nil {
		return auth.StoredToken{}, false, err
	}
	k := auth.StoredToken{ID: kept.ID, Name: kept.Name, Role: role, Scope: scope, Legacy: kept.Legacy, Revoked: kept.Revoked != ""}
	if kept.Expires != "" {
		if k.Expires, err = time.Parse(time.RFC3339Nano, kept.Expires); err != nil {
			return auth.StoredToken{}, false, err
		}
	}
	return k, true, nil
}

// ListedToken is a token with what is to be done about it.
type ListedToken struct {
	store.Token
	Warning string `json:"warning,omitempty"`
	// Usage is what it holds, and Quota what it may hold.
	Usage store.Usage `json:"usage"`
	Quota store.Quota `json:"quota"`
}

func (s *Server) getTokens(w http.ResponseWriter, r *http.Request) error {
	list, err := s.Store.Tokens(r.Context())
	if err != nil {
		return err
	}
	usages, err := s.Store.Usages(r.Context())
	if err != nil {
		return err
	}
	listed := make([]ListedToken, len(list))
	for i, k := range list {
		scope, err := auth.ParseScope(k.Scope)
		if err != nil {
			return err
		}
		listed[i] = ListedToken{Token: k, Usage: usages[store.TokenIdentity(k.ID)], Quota: s.Quotas.Of(scope)}
		if k.Legacy && k.Revoked == "" {
			listed[i].Warning = auth.LegacyWarning
		}
	}
	return answer(w, http.StatusOK, itemsOf(listed))
}

func (s *Server) deleteToken(w http.ResponseWriter, r *http.Request) error {
	id, err := number(r)
	if err != nil {
		return err
	}
	q := queryOf(r)
	flag := q.flag("withdraw")
	if err := q.err(); err != nil {
		return err
	}
	withdraw := flag != nil && *flag
	if err := s.change(r, func(a *audited) error {
		was, err := a.Token(r.Context(), id)
		if err != nil {
			return err
		}
		if err := a.RevokeToken(r.Context(), id); err != nil {
			return err
		}
		is, err := a.Token(r.Context(), id)
		if err != nil {
			return err
		}
		action := "end"
		if withdraw {
			action = "withdraw"
			if err := a.Withdraw(r.Context(), store.TokenIdentity(id)); err != nil {
				return err
			}
		}
		return a.note(action, auditToken, tokenName(is), was, is)
	}); err != nil {
		return err
	}
	if withdraw {
		s.settled(r.Context())
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
