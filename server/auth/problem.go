package auth

import (
	"encoding/json"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"
)

// Error says in users' terms why a request is refused.
type Error struct {
	// Status is 401, 403, 404, 405, 429 or 503.
	Status int
	// Allow has the methods that there are, for 405.
	Allow  string
	Detail string
	// RetryAfter is when to come again, for 429 and 503.
	RetryAfter time.Duration

	result string // for Config.Observe
	cause  error  // for the log alone
}

func (e *Error) Error() string { return e.Detail }

// Write answers with problem details (RFC 9457).
func (e *Error) Write(w http.ResponseWriter) {
	h := w.Header()
	switch {
	case e.Status == http.StatusUnauthorized && e.result == "missing":
		h.Set("WWW-Authenticate", `Bearer realm="assay"`)
	case e.Status == http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="assay", error="invalid_token"`)
	}
	if e.Allow != "" {
		h.Set("Allow", e.Allow)
	}
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds()))))
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(e.Status)
	_ = json.NewEncoder(w).Encode(struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{"about:blank", http.StatusText(e.Status), e.Status, e.Detail})
}

func unauthorized(result, detail string) *Error {
	return &Error{Status: http.StatusUnauthorized, Detail: detail, result: result}
}

func wrongToken(cause error) *Error {
	e := unauthorized("wrong", "the token is not known here, or has ended")
	e.cause = cause
	return e
}

func forbidden(result, detail string) *Error {
	return &Error{Status: http.StatusForbidden, Detail: detail, result: result}
}

func unavailable(what string, cause error) *Error {
	return &Error{
		Status: http.StatusServiceUnavailable, Detail: "the credential cannot be checked now: " + what,
		RetryAfter: 5 * time.Second, result: "unavailable", cause: cause,
	}
}

// observe counts and logs a refusal. A flood of wrong credentials is logged as
// far as the limit of failures lets it.
func (a *Auth) observe(r *http.Request, via string, id Identity, e *Error) {
	a.config.Observe(via, e.result)
	level := slog.LevelInfo
	switch {
	case e.result == "missing", e.result == "limited":
		level = slog.LevelDebug
	case e.Status == http.StatusServiceUnavailable:
		level = slog.LevelError
	}
	attrs := []slog.Attr{
		slog.String("authenticator", via), slog.String("result", e.result), slog.String("remote", r.RemoteAddr),
		slog.String("method", r.Method), slog.String("path", r.URL.Path),
	}
	if id.Name != "" {
		attrs = append(attrs, slog.String("user", id.Name))
	}
	if e.cause != nil {
		attrs = append(attrs, slog.String("error", e.cause.Error()))
	}
	a.config.Log.LogAttrs(r.Context(), level, "request refused", attrs...)
}
