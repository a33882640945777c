package server

import (
	"errors"
	"net/http"

	"github.com/assay-dev/assay/store"
)

// RuntimeView says whether the pages show what runs. It changes nothing but them: nodes
// report, and policies and alerts look at what runs, all the same.
type RuntimeView struct {
	Enabled bool `json:"enabled"`
}

// settingRuntimeView is the key of a RuntimeView in the store; on, where it was never set.
const settingRuntimeView = "runtimeView"

func (s *Server) getRuntimeView(w http.ResponseWriter, r *http.Request) error {
	view := RuntimeView{Enabled: true}
	err := s.Store.View(r.Context(), func(t *store.Tx) error { return t.Setting(r.Context(), settingRuntimeView, &view) })
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return answerTagged(w, http.StatusOK, view, view)
}

func (s *Server) putRuntimeView(w http.ResponseWriter, r *http.Request) error {
	var view RuntimeView
	if err := s.decode(w, r, &view); err != nil {
		return err
	}
	if err := s.change(r, func(a *audited) error {
		was, err := a.was(settingRuntimeView)
		if err != nil {
			return err
		}
		now := RuntimeView{Enabled: true}
		if err := a.Setting(r.Context(), settingRuntimeView, &now); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err := a.matched(now); err != nil {
			return err
		}
		if err := a.note("set", auditSetting, "runtime-view", was, view); err != nil {
			return err
		}
		return a.SetSetting(r.Context(), settingRuntimeView, view)
	}); err != nil {
		return err
	}
	return answerTagged(w, http.StatusOK, view, view)
}
