package server

import (
	"net/http"
	"slices"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/engine/pushdown"
	"github.com/assay-dev/assay/policies"
)

// AlertQuestion asks what an alert rule would have said of the events that are kept.
type AlertQuestion struct {
	// Name is a GlobalAlert of the policies in force; or Rule is one, as YAML or JSON.
	Name string `json:"name,omitempty"`
	Rule string `json:"rule,omitempty"`
	// Lookback is in the place of the rule's, such as "24h".
	Lookback string `json:"lookback,omitempty"`
}

// AlertAnswer are the alerts that fire.
type AlertAnswer struct {
	Lookback string `json:"lookback"`
	Firing   int    `json:"firing"`
	// Alerts are at most 200 of them.
	Alerts []api.Alert `json:"alerts"`
}

// testedAlerts bounds the alerts of an answer.
const testedAlerts = 200

func (s *Server) postAlertTest(w http.ResponseWriter, r *http.Request) error {
	var q AlertQuestion
	if err := s.decode(w, r, &q); err != nil {
		return err
	}
	alert, err := s.alertOf(q)
	if err != nil {
		return err
	}
	if q.Lookback != "" {
		if d, err := time.ParseDuration(q.Lookback); err != nil || d < time.Second || d > 10*366*24*time.Hour {
			return unprocessable("lookback must be a duration from 1s to ten years, such as 24h, not %.40q", q.Lookback)
		}
		alert.Spec.Lookback = q.Lookback
	}
	rules, err := pushdown.New(r.Context(), []policies.Alert{alert})
	if err != nil {
		return unprocessable("%v", err)
	}
	firing, err := rules.Firing(r.Context(), s.Store, s.Now())
	if err != nil {
		return err
	}
	a := AlertAnswer{Lookback: alert.Spec.Lookback, Firing: len(firing), Alerts: firing[:min(len(firing), testedAlerts)]}
	if a.Lookback == "" {
		a.Lookback = api.DefaultLookback
	}
	return answer(w, http.StatusOK, a)
}

func (s *Server) alertOf(q AlertQuestion) (alert policies.Alert, err error) {
	if (q.Name == "") == (q.Rule == "") {
		return alert, unprocessable("give either the name of a rule or the rule itself")
	}
	if q.Rule != "" {
		set, err := policies.Parse("rule", []byte(q.Rule))
		if err != nil {
			return alert, err
		}
		if len(set.Alerts) != 1 {
			return alert, unprocessable("the rule must be one GlobalAlert; it has %d", len(set.Alerts))
		}
		return set.Alerts[0], nil
	}
	set, _, _, err := s.policies()
	if err != nil {
		return alert, err
	}
	i := slices.IndexFunc(set.Alerts, func(a policies.Alert) bool { return a.Metadata.Name == q.Name })
	if i < 0 {
		return alert, unprocessable("no GlobalAlert of the policies in force is named %.100q", q.Name)
	}
	return set.Alerts[i], nil
}
