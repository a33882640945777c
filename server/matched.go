package server

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"
)

// etag names a state of what people edit: a strong ETag (RFC 9110), the same in each replica.
// nil is that of what was never set.
func etag(state any) (string, error) {
	text, err := json.Marshal(state)
	if err != nil {
		return "", fmt.Errorf("naming a state: %w", err)
	}
	sum := sha256.Sum256(text)
	return `"` + hex.EncodeToString(sum[:12]) + `"`, nil
}

// answerTagged is answer with the ETag of the state that was read.
func answerTagged(w http.ResponseWriter, status int, state, v any) error {
	tag, err := etag(state)
	if err != nil {
		return err
	}
	w.Header().Set("ETag", tag)
	return answer(w, status, v)
}

// matched holds a change to the request's If-Match, inside the transaction that makes it: was is
// the state now, nil where there is none. Without the header any state will do.
func (a *audited) matched(was any) error {
	given := a.r.Header.Values("If-Match")
	if len(given) == 0 {
		return nil
	}
	tag, err := etag(was)
	if err != nil {
		return err
	}
	wanted := strings.Split(strings.Join(given, ","), ",")
	if slices.ContainsFunc(wanted, func(w string) bool { w = strings.TrimSpace(w); return w == tag || w == "*" && was != nil }) {
		return nil
	}
	return &refused{status: http.StatusPreconditionFailed, detail: "it is not what If-Match names: it was changed or removed since it was read; nothing was changed: read it again"}
}

// takesJSON refuses a body that says that it is something else. A body of no type, or of the one
// that curl -d gives, is read as JSON.
func takesJSON(r *http.Request) error {
	given := r.Header.Get("Content-Type")
	if given == "" {
		return nil
	}
	kind, _, err := mime.ParseMediaType(given)
	if err == nil && (kind == "application/json" || strings.HasSuffix(kind, "+json") || kind == "application/x-www-form-urlencoded") {
		return nil
	}
	return &refused{status: http.StatusUnsupportedMediaType, detail: fmt.Sprintf("Content-Type %.60q is not taken here: application/json is", given)}
}
