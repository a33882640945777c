// Package alertmanagertest runs notifications against Alertmanager's own API and
// storage of alerts. It is a module of its own, because Alertmanager brings a
// large tree.
package alertmanagertest

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/server/notify"
	"github.com/assay-dev/assay/server/notify/receiver"
	apiv2 "github.com/prometheus/alertmanager/api/v2"
	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/eventrecorder"
	"github.com/prometheus/alertmanager/featurecontrol"
	"github.com/prometheus/alertmanager/provider/mem"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
)

// alertmanager is the API with its storage; its routes to receivers are not needed.
func alertmanager(t *testing.T) string {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	flags, err := featurecontrol.NewFlags(log, "")
	if err != nil {
		t.Fatal(err)
	}
	alerts, err := mem.NewAlerts(t.Context(), time.Hour, 0, nil, log, eventrecorder.NopRecorder(), prometheus.NewRegistry(), flags)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(alerts.Close)
	v2, err := apiv2.NewAPI(alerts, nil, nil, nil, nil, log, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	settings, err := config.Load("route: {receiver: default}\nreceivers: [{name: default}]\n")
	if err != nil {
		t.Fatal(err)
	}
	v2.Update(settings, func(_ context.Context, _ model.LabelSet) {})
	server := httptest.NewServer(v2.Handler)
	t.Cleanup(server.Close)
	return server.URL
}

type gettable struct {
	Labels, Annotations map[string]string
	StartsAt, EndsAt    time.Time
	GeneratorURL        string
}

// firing are the alerts that Alertmanager holds, by severity; it leaves out those that are over.
func firing(t *testing.T, url string) map[string]gettable {
	t.Helper()
	response, err := http.Get(url + "/api/v2/alerts")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var alerts []gettable
	if err := json.NewDecoder(response.Body).Decode(&alerts); err != nil || response.StatusCode != http.StatusOK {
		t.Fatal(response.Status, err)
	}
	out := map[string]gettable{}
	for _, a := range alerts {
		out[a.Labels["severity"]] = a
	}
	if len(out) != len(alerts) {
		t.Fatalf("two alerts have the same severity: %+v", alerts)
	}
	return out
}

// An alert fires in Alertmanager from its opening to its resolution, once, under
// its present severity, whatever is sent twice.
func TestEpisode(t *testing.T) {
	url := alertmanager(t)
	r, err := receiver.NewAlertmanager(receiver.AlertmanagerConfig{URL: url, ExternalURL: "https://assay.example.com", Labels: map[string]string{"team": "security"}})
	if err != nil {
		t.Fatal(err)
	}
	tracker := notify.Tracker{}
	now := time.Now().Add(-time.Hour)
	send := func(step notify.Step) []notify.State {
		t.Helper()
		for _, n := range step.Notifications {
			for range 2 {
				n.Sent = time.Now()
				if err := r.Send(t.Context(), n); err != nil {
					t.Fatal(err)
				}
			}
		}
		return step.States
	}
	value := 2.5
	alert := api.Alert{Name: "kev in production: ü", Severity: 80, Summary: "two images", Description: "They run.", Value: &value,
		Key: map[string]string{"namespace": "shop", "image": "docker.io/library/nginx:1.27", "severity": "x", "a-b": "1", "a.b": "2", "tag": "", "bytes": "\xff"}}

	states := send(tracker.Evaluate(now, []api.Alert{alert}, nil))
	got := firing(t, url)
	a := got["80"]
	want := map[string]string{"alertname": alert.Name, "severity": "80", "namespace": "shop", "image": "docker.io/library/nginx:1.27",
		"key_severity": "x", "a_b": "1", "key_a_b": "2", "bytes": "\ufffd", "team": "security"}
	if len(got) != 1 || !maps.Equal(a.Labels, want) {
		t.Fatalf("after the opening: %+v", got)
	}
	if a.Annotations["summary"] != "two images" || a.Annotations["value"] != "2.5" || a.GeneratorURL == "" || a.StartsAt.Sub(now).Abs() > time.Second || time.Until(a.EndsAt) < time.Minute {
		t.Errorf("after the opening: %+v", a)
	}

	states = send(tracker.Repeat(now.Add(time.Minute), states))
	if again := firing(t, url); len(again) != 1 || again["80"].EndsAt.Before(a.EndsAt) {
		t.Errorf("after a refresh: %+v, before %+v", again, a)
	}

	alert.Severity, alert.Summary = 95, "three images"
	states = send(tracker.Evaluate(now.Add(2*time.Minute), []api.Alert{alert}, states))
	if got := firing(t, url); len(got) != 1 || got["95"].Annotations["summary"] != "three images" {
		t.Errorf("after an update: %+v", got)
	}

	states = send(tracker.Evaluate(now.Add(3*time.Minute), nil, states))
	if got := firing(t, url); len(got) != 0 || len(states) != 0 {
		t.Errorf("after the resolution: %+v", got)
	}

	send(tracker.Evaluate(now.Add(4*time.Minute), []api.Alert{alert}, states))
	if got := firing(t, url); len(got) != 1 {
		t.Errorf("after it opened again: %+v", got)
	}
}
