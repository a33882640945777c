package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/cache"
)

// Sessions sets up the cookies of browsers: signed, Secure, HttpOnly and
// SameSite=Lax. They hold no secret; who has one is the user.
type Sessions struct {
	// Keys sign cookies, each of at least 32 bytes: the first makes them, all
	// are taken, so that a new one is put in front of an old one. Replicas
	// share them.
	Keys [][]byte
	// Idle ends a session that is not used; 0 is an hour.
	Idle time.Duration
	// Max ends any session; 0 is twelve hours. So long may a user stay who was
	// removed at the OIDC issuer or the API server; a token of the store or
	// of the file takes its sessions with it at once.
	Max time.Duration
	// Ended remembers the sessions that users ended; nil does so in memory, which
	// does for one replica.
	Ended SessionStore
}

// SessionStore remembers sessions that were ended, for as long as their
// cookies could be shown again.
type SessionStore interface {
	EndSession(ctx context.Context, id string, until time.Time) error
	SessionEnded(ctx context.Context, id string) (bool, error)
}

// cookieName binds the cookie to the very host and to https: browsers refuse it
// elsewhere, loopback left out.
const cookieName = "__Host-assay-session"

// maxCookie is what browsers keep.
const maxCookie = 4000

type sessions struct {
	Sessions
	now func() time.Time
}

// session is what a cookie says. A token of the store or of the file is looked
// up again at each request, by Hash; other users get their role anew.
type session struct {
	ID     string    `json:"id"`
	Name   string    `json:"name"`
	Groups []string  `json:"groups,omitempty"`
	Via    string    `json:"via"`
	Hash   []byte    `json:"hash,omitempty"`
	Start  time.Time `json:"start"`
	Issued time.Time `json:"issued"`
}

func newSessions(c Sessions, now func() time.Time) (*sessions, error) {
	if len(c.Keys) == 0 {
		return nil, errors.New("they need a key of at least 32 bytes")
	}
	for i, k := range c.Keys {
		if len(k) < 32 {
			return nil, fmt.Errorf("key %d has %d bytes; it needs at least 32", i+1, len(k))
		}
	}
	if c.Idle <= 0 {
		c.Idle = time.Hour
	}
	if c.Max <= 0 {
		c.Max = 12 * time.Hour
	}
	if c.Ended == nil {
		c.Ended = endedInMemory{cache.NewLRUExpireCacheWithClock(64<<10, clock(now)), now}
	}
	return &sessions{c, now}, nil
}

// SignIn opens a session for the owner of a token, as a page that asks for one
// does. The error is an [*Error]; wrong tokens count as those of a header do.
func (a *Auth) SignIn(w http.ResponseWriter, r *http.Request, token string) (Identity, error) {
	if a.sessions == nil {
		return Identity{}, forbidden("forbidden", "sessions are switched off here")
	}
	token, ok := bearer([]string{"Bearer " + strings.TrimSpace(token)})
	id, via, err := Identity{}, viaBearer, unauthorized("wrong", "this is not a token")
	if ok {
		id, via, err = a.limited(r, token)
	}
	if err == nil && id.Role == "" {
		err = forbidden("forbidden", fmt.Sprintf("%.200q has no role here; an administrator can bind one to this user or to a group", id.Name))
	}
	if err != nil {
		a.observe(r, via, id, err)
		return Identity{}, err
	}
	now := a.config.Now()
	s := session{ID: rand.Text(), Name: id.Name, Via: via, Start: now, Issued: now}
	if via == viaStore || via == viaFile {
		hash := Hash(token)
		s.Hash = hash[:]
	} else {
		// Only groups that give a role: a cookie has no room for hundreds.
		s.Groups = slices.DeleteFunc(slices.Clone(id.Groups), func(g string) bool {
			return !slices.ContainsFunc(a.config.Bindings, func(b Binding) bool { return slices.Contains(b.Groups, g) })
		})
	}
	if !a.sessions.write(w, s) {
		return Identity{}, forbidden("forbidden", "this user is in too many groups for a session")
	}
	a.config.Observe(via, "ok")
	return id, nil
}

// SignOut ends the session of a request, if it has one, everywhere.
func (a *Auth) SignOut(w http.ResponseWriter, r *http.Request) error {
	cookie, err := r.Cookie(cookieName)
	if a.sessions == nil || err != nil {
		return nil
	}
	clearCookie(w)
	if s, _, ok := a.sessions.read(cookie.Value); ok {
		return a.sessions.Ended.EndSession(r.Context(), s.ID, s.Start.Add(a.sessions.Max))
	}
	return nil
}

// session finds who a cookie stands for, and renews it in good time.
func (a *Auth) session(w http.ResponseWriter, r *http.Request, value string) (Identity, *Error) {
	id, err := a.checkSession(w, r, value)
	if err != nil && err.Status == http.StatusUnauthorized {
		clearCookie(w)
	}
	return id, err
}

func (a *Auth) checkSession(w http.ResponseWriter, r *http.Request, value string) (id Identity, err *Error) {
	s, current, ok := a.sessions.read(value)
	if !ok {
		return id, unauthorized("wrong", "the session is not one of this server: sign in again")
	}
	now := a.config.Now()
	if !now.Before(a.sessions.end(s)) {
		return id, unauthorized("expired", "the session is over: sign in again")
	}
	ended, storeErr := a.sessions.Ended.SessionEnded(r.Context(), s.ID)
	if storeErr != nil {
		return id, unavailable("the store does not answer", storeErr)
	}
	if ended {
		return id, unauthorized("ended", "the session was ended: sign in again")
	}
	if id, err = a.owner(r.Context(), s); err != nil {
		return id, err
	}
	if !current || now.Sub(s.Issued) > a.sessions.Idle/2 {
		s.Issued = now
		a.sessions.write(w, s)
	}
	return id, nil
}

// owner is who a session stands for now.
func (a *Auth) owner(ctx context.Context, s session) (Identity, *Error) {
	switch {
	case s.Via == viaStore && a.store != nil && len(s.Hash) == sha256.Size:
		return a.store.lookup(ctx, TokenHash(s.Hash))
	case s.Via == viaFile && a.file != nil && len(s.Hash) == sha256.Size:
		if u := a.file.get()[TokenHash(s.Hash)]; u != nil {
			return a.identity(u.Name, u.Groups, viaFile), nil
		}
	case s.Via == viaOIDC && a.oidc != nil, s.Via == viaReview && a.review != nil:
		return a.identity(s.Name, s.Groups, s.Via), nil
	}
	return Identity{}, unauthorized("ended", "the token that opened the session is no longer good: sign in again")
}

// end is when a session is over unless it is used again.
func (s *sessions) end(v session) time.Time {
	end := v.Issued.Add(s.Idle)
	if last := v.Start.Add(s.Max); last.Before(end) {
		end = last
	}
	return end
}

// write sets the cookie; false when it is too large.
func (s *sessions) write(w http.ResponseWriter, v session) bool {
	text, err := json.Marshal(v)
	if err != nil {
		return false
	}
	payload := encoding.EncodeToString(text)
	value := payload + "." + encoding.EncodeToString(sign(s.Keys[0], payload))
	if len(value) > maxCookie {
		return false
	}
	setCookie(w, value, int(s.end(v).Sub(s.now())/time.Second))
	return true
}

// read takes a cookie that one of the keys signed; current is whether the first
// did.
func (s *sessions) read(value string) (v session, current, ok bool) {
	payload, mac, _ := strings.Cut(value, ".")
	given, err := encoding.DecodeString(mac)
	if err != nil || len(value) > maxCookie {
		return v, false, false
	}
	i := slices.IndexFunc(s.Keys, func(key []byte) bool { return hmac.Equal(given, sign(key, payload)) })
	if i < 0 {
		return v, false, false
	}
	text, err := encoding.DecodeString(payload)
	if err != nil || json.Unmarshal(text, &v) != nil {
		return v, false, false
	}
	return v, i == 0, true
}

func sign(key []byte, payload string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte("assay session v1\n" + payload))
	return h.Sum(nil)
}

func clearCookie(w http.ResponseWriter) { setCookie(w, "", -1) }

func setCookie(w http.ResponseWriter, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: value, Path: "/", MaxAge: maxAge, Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}

// endedInMemory remembers the latest sessions that were ended.
type endedInMemory struct {
	ids *cache.LRUExpireCache // id → nothing
	now func() time.Time
}

func (e endedInMemory) EndSession(_ context.Context, id string, until time.Time) error {
	e.ids.Add(id, nil, until.Sub(e.now()))
	return nil
}

func (e endedInMemory) SessionEnded(_ context.Context, id string) (bool, error) {
	_, ok := e.ids.Get(id)
	return ok, nil
}
