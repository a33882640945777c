// Package serve gives bundles to OPA servers over HTTP, with ETag and long
// polling as OPA's own downloader expects them, and heads that say which of them
// belong together (docs/design/023-freshness.md). It does not look into the
// bundles.
package serve

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/assay-dev/assay/bundles"
)

// ContentType tells OPA that long polling is supported; with any other it polls
// at its own pace.
const ContentType = "application/vnd.openpolicyagent.bundles"

// Prefix is where the bundles are.
const Prefix = "/bundles/"

// Limits bound a [Handler]; the zero value works.
type Limits struct {
	// MaxWait bounds how long a request waits for a change; 0 is 5 minutes.
	MaxWait time.Duration
	// MaxWaiting bounds how many requests wait; 0 is 10,000. Beyond it clients
	// are told to poll at their own pace.
	MaxWaiting int
	// WriteTimeout bounds the sending of one response; 0 is 10 minutes. It
	// replaces that of the server, which would end the waiting.
	WriteTimeout time.Duration
	// Keep is how long a superseded bundle can still be had by its digest: who read the head
	// before gets the parts that it names. 0 is a minute. KeepBytes bounds all of
	// these; 0 is 128 MiB.
	Keep      time.Duration
	KeepBytes int
	// May, where given, says whether who asks may read a bundle, there or not.
	May func(r *http.Request, bundle string) bool
	// Want, where given, is asked to have a bundle made that is not there, and says whether it will be.
	Want func(bundle string) bool
}

// making is how long a request waits for a bundle that is made for it.
const making = 30 * time.Second

// Handler serves named bundles at /bundles/NAME and /bundles/NAME.tar.gz, and with
// ?digest=sha256:… that version or none. It may be used concurrently.
type Handler struct {
	limits  Limits
	closing chan struct{}
	close   func()

	mu      sync.Mutex
	bundles map[string]*version
	past    []past // the oldest first
	waiting int
}

// version is one state of a bundle; superseded is closed when it is no more.
type version struct {
	text       []byte
	etag       string
	superseded chan struct{}
}

// past is a version that was served under a name.
type past struct {
	*version
	name  string
	since time.Time // when it was superseded
}

// New returns a handler without bundles.
func New(c Limits) *Handler {
	if c.MaxWait == 0 {
		c.MaxWait = 5 * time.Minute
	}
	if c.MaxWaiting == 0 {
		c.MaxWaiting = 10_000
	}
	if c.WriteTimeout == 0 {
		c.WriteTimeout = 10 * time.Minute
	}
	if c.Keep == 0 {
		c.Keep = time.Minute
	}
	if c.KeepBytes == 0 {
		c.KeepBytes = 128 << 20
	}
	closing := make(chan struct{})
	return &Handler{limits: c, closing: closing, close: sync.OnceFunc(func() { close(closing) }), bundles: map[string]*version{}}
}

// ETag is that of a bundle's bytes: their SHA-256, quoted.
func ETag(text []byte) string {
	return `"` + strings.TrimPrefix(bundles.Digest(text), "sha256:") + `"`
}

// Set serves a bundle under a name from now on, wakes those who wait for it,
// and reports whether its bytes are others than before. The handler keeps the
// bytes.
func (h *Handler) Set(name string, text []byte) (changed bool) {
	v := &version{text: text, etag: ETag(text), superseded: make(chan struct{})}
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.bundles[name]
	if old != nil {
		if old.etag == v.etag {
			return false
		}
		close(old.superseded)
		h.keep(name, old)
	}
	h.bundles[name] = v
	return true
}

// keep keeps a version for those who know it by its digest, within the bounds.
func (h *Handler) keep(name string, v *version) {
	now := time.Now()
	h.past = append(h.past, past{v, name, now})
	size := 0
	for i := len(h.past) - 1; i >= 0; i-- {
		if size += len(h.past[i].text); size > h.limits.KeepBytes || now.Sub(h.past[i].since) > h.limits.Keep {
			h.past = slices.Delete(h.past, 0, i+1)
			return
		}
	}
}

// Remove serves a bundle no longer.
func (h *Handler) Remove(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if old := h.bundles[name]; old != nil {
		close(old.superseded)
		delete(h.bundles, name)
	}
}

// Waiting is how many requests wait for a change.
func (h *Handler) Waiting() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.waiting
}

// Close answers those who wait, now and from now on, at once: for
// [http.Server.RegisterOnShutdown].
func (h *Handler) Close() { h.close() }

// ServeHTTP serves GET and HEAD of a bundle.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	deadline(w, h.limits.WriteTimeout)
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		problem(w, http.StatusMethodNotAllowed, "only GET and HEAD are allowed")
		return
	}
	name, ok := strings.CutPrefix(r.URL.Path, Prefix)
	name = strings.TrimSuffix(name, ".tar.gz")
	if h.limits.May != nil && !h.limits.May(r, name) {
		problem(w, http.StatusForbidden, "the bundle "+strconv.Quote(name)+" is not for this token: it is about more than the token's scope")
		return
	}
	digest := r.URL.Query().Get("digest")
	v := h.get(name, digest)
	if ok && v == nil && digest == "" && h.limits.Want != nil && h.limits.Want(name) {
		v = h.made(r, name, digest)
	}
	if !ok || v == nil {
		what := "there is no bundle " + strconv.Quote(name)
		if digest != "" {
			what += " of the digest " + strconv.Quote(digest) + " here: it is not here yet, or no more"
		}
		problem(w, http.StatusNotFound, what)
		return
	}
	header := w.Header()
	contentType := ContentType
	if wait := h.wait(r); wait > 0 && digest == "" && v.matches(r) {
		deadline(w, wait+h.limits.WriteTimeout)
		var full bool
		if v, full = h.await(r, name, v, wait); v == nil {
			problem(w, http.StatusNotFound, "there is no bundle "+strconv.Quote(name)+" any more")
			return
		}
		if full {
			// A 304 would bring the client back at once, an error would make it
			// forget the ETag. Another content type takes it off long polling
			// until the next change.
			r = r.Clone(r.Context())
			r.Header.Del("If-None-Match")
			contentType = "application/gzip"
		}
		deadline(w, h.limits.WriteTimeout)
		select {
		case <-h.closing:
			header.Set("Connection", "close")
		default:
		}
	}
	header.Set("Content-Type", contentType)
	header.Set("ETag", v.etag)
	header.Set("Cache-Control", "no-cache")
	header.Set("X-Content-Type-Options", "nosniff")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(v.text))
}

// deadline bounds the response, where the server can.
func deadline(w http.ResponseWriter, d time.Duration) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(d))
}

// made waits until a bundle is there that is being made; nil where that takes too long.
func (h *Handler) made(r *http.Request, name, digest string) *version {
	if !h.enter() {
		return nil
	}
	defer h.leave()
	ctx, cancel := context.WithTimeout(r.Context(), making)
	defer cancel()
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for {
		if v := h.get(name, digest); v != nil {
			return v
		}
		select {
		case <-look.C:
		case <-h.closing:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// get is the version of a digest, or with "" the present one; nil where it is not here.
func (h *Handler) get(name, digest string) *version {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := h.bundles[name]
	if digest == "" || v != nil && v.digest() == digest {
		return v
	}
	for _, p := range h.past {
		if p.name == name && p.digest() == digest {
			return p.version
		}
	}
	return nil
}

// digest is that of [bundles.Digest].
func (v *version) digest() string { return "sha256:" + strings.Trim(v.etag, `"`) }

// await waits until the client does not have the bundle, and gives what there
// is then: nil when it was removed. It is full when too many wait already.
func (h *Handler) await(r *http.Request, name string, v *version, wait time.Duration) (now *version, full bool) {
	if !h.enter() {
		return v, true
	}
	defer h.leave()
	ctx, cancel := context.WithTimeout(r.Context(), wait)
	defer cancel()
	for v != nil && v.matches(r) {
		select {
		case <-v.superseded:
			v = h.get(name, "")
		case <-h.closing:
			return v, false
		case <-ctx.Done():
			return v, false
		}
	}
	return v, false
}

func (h *Handler) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.waiting >= h.limits.MaxWaiting {
		return false
	}
	h.waiting++
	return true
}

func (h *Handler) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting--
}

// matches says whether the request's If-None-Match names this version. OPA
// sends several ETags while superseded ones count.
func (v *version) matches(r *http.Request) bool {
	for _, values := range r.Header.Values("If-None-Match") {
		for tag := range strings.SplitSeq(values, ",") {
			tag = strings.TrimSpace(tag)
			if tag == "*" || strings.TrimPrefix(tag, "W/") == v.etag {
				return true
			}
		}
	}
	return false
}

// wait is how long the client wants to wait, as OPA says it:
// Prefer: modes=snapshot,delta;wait=10.
func (h *Handler) wait(r *http.Request) time.Duration {
	for _, values := range r.Header.Values("Prefer") {
		for _, p := range strings.FieldsFunc(values, func(c rune) bool { return c == ';' || c == ',' || c == ' ' }) {
			text, ok := strings.CutPrefix(p, "wait=")
			if !ok {
				continue
			}
			if n, err := strconv.ParseUint(text, 10, 31); err == nil {
				return min(time.Duration(n)*time.Second, h.limits.MaxWait)
			}
		}
	}
	return 0
}

// problem writes problem details (RFC 9457).
func problem(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{"about:blank", http.StatusText(status), status, detail})
}
