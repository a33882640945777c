package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/assay-dev/assay/store"
)

// heartbeat keeps a stream open through proxies, and finds clients that are gone.
const heartbeat = 15 * time.Second

// getStream gives changes as server-sent events, each with its number as id. A
// client that comes back with Last-Event-ID is given what it missed; one that missed
// more than is kept gets an event "reset", and must read everything anew.
func (s *Server) getStream(w http.ResponseWriter, r *http.Request) error {
	var after int64
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		var err error
		if after, err = strconv.ParseInt(last, 10, 64); err != nil || after < 0 {
			return bad("Last-Event-ID %.40q is not the number of a change", last)
		}
	}
	live := s.Live.Subscribe(r.Context())
	missed, first := []store.Change(nil), int64(0)
	if after > 0 {
		err := s.Store.View(r.Context(), func(t *store.Tx) (err error) {
			missed, first, err = t.Changes(r.Context(), after, 10_000)
			return err
		})
		if err != nil {
			return err
		}
	}
	control := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	send := func(text string) error {
		_ = control.SetWriteDeadline(time.Now().Add(exportTimeout)) // not every writer has one
		if _, err := w.Write([]byte(text)); err != nil {
			return err
		}
		return control.Flush()
	}
	event := func(c store.Change) error {
		if c.Seq <= after {
			return nil
		}
		after = c.Seq
		text, err := json.Marshal(c)
		if err != nil {
			return err
		}
		return send(fmt.Sprintf("id: %d\nevent: %s\ndata: %s\n\n", c.Seq, c.Kind, text))
	}
	begin := ": changes follow\n\n"
	if after > 0 && (first > after+1 || len(missed) == 10_000) {
		begin = "event: reset\ndata: {}\n\n"
		missed = nil
	}
	if err := send(begin); err != nil {
		return nil // the client is gone
	}
	for _, c := range missed {
		if event(c) != nil {
			return nil
		}
	}
	ticker := time.NewTicker(heartbeat)
	defer ticker.Stop()
	for {
		select {
		case c, ok := <-live:
			if !ok || event(c) != nil {
				return nil // it comes back, from where it was
			}
		case <-ticker.C:
			if send(": \n\n") != nil {
				return nil
			}
		}
	}
}
