package receiver_test

import (
	"bytes"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/server/notify"
	"github.com/assay-dev/assay/server/notify/receiver"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

type postable struct {
	Labels, Annotations map[string]string
	StartsAt, EndsAt    time.Time
	GeneratorURL        string
}

func TestAlertmanager(t *testing.T) {
	var got capture
	server := httptest.NewServer(&got)
	defer server.Close()
	r, err := receiver.NewAlertmanager(receiver.AlertmanagerConfig{URL: server.URL + "/", Labels: map[string]string{"team": "security", "pod": "hidden"}, ExternalURL: "https://assay.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	send := func(n notify.Notification) []postable {
		t.Helper()
		if err := r.Send(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		var alerts []postable
		decode(t, got.body, &alerts)
		return alerts
	}
	labels := map[string]string{"alertname": "kev-in-production", "severity": "80", "namespace": "shop", "pod": "web-1", "team": "security"}
	n := opened(alert())
	a := send(n)
	if got.path != "/api/v2/alerts" || len(a) != 1 || !maps.Equal(a[0].Labels, labels) || !a[0].StartsAt.Equal(start) || !a[0].EndsAt.Equal(n.Sent.Add(receiver.DefaultHold)) ||
		a[0].GeneratorURL != "https://assay.example.com/alerts/kev-in-production" || a[0].Annotations["summary"] != alert().Summary || a[0].Annotations["value"] != "3.5" {
		t.Errorf("%s: %+v", got.path, a)
	}
	a = send(resolved(alert()))
	if !maps.Equal(a[0].Labels, labels) || !a[0].StartsAt.Equal(start) || !a[0].EndsAt.Equal(start.Add(time.Minute)) {
		t.Errorf("resolved: %+v", a)
	}
	// A changed severity is another alert to Alertmanager: the former one ends.
	graver := alert()
	graver.Severity = 95
	n = notify.Tracker{}.Evaluate(start.Add(time.Minute), []api.Alert{graver}, notify.Tracker{}.Evaluate(start, []api.Alert{alert()}, nil).States).Notifications[0]
	n.Sent = n.Time
	a = send(n)
	if len(a) != 2 || a[0].Labels["severity"] != "95" || !a[0].EndsAt.After(n.Sent) || !maps.Equal(a[1].Labels, labels) || !a[1].EndsAt.Equal(n.Time) {
		t.Errorf("graver: %+v", a)
	}
}

// Whatever fields a key has, labels have valid names, and no two keys the same labels.
func TestAlertmanagerLabels(t *testing.T) {
	var got capture
	server := httptest.NewServer(&got)
	defer server.Close()
	r, err := receiver.NewAlertmanager(receiver.AlertmanagerConfig{URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	a := alert()
	a.Key = map[string]string{"severity": "1", "alertname": "2", "a-b": "3", "a.b": "4", "a_b": "5", "9": "6", "": "7", "é": "8", "key_severity": "9", "bytes": "\xff"}
	if err := r.Send(t.Context(), opened(a)); err != nil {
		t.Fatal(err)
	}
	var alerts []postable
	decode(t, got.body, &alerts)
	labels := alerts[0].Labels
	if labels["alertname"] != a.Name || labels["severity"] != "80" || len(labels) != len(a.Key)+2 {
		t.Errorf("labels are %v", labels)
	}
	for name := range labels {
		if !regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`).MatchString(name) {
			t.Errorf("label %q", name)
		}
	}
}

// The signature holds for the published library of Standard Webhooks and for
// Verify, and for nothing that differs.
func TestWebhookSignature(t *testing.T) {
	var got capture
	server := httptest.NewServer(&got)
	defer server.Close()
	r, err := receiver.NewWebhook(receiver.WebhookConfig{URL: server.URL + "/hook", SigningKeyFrom: secretFile(t, signingKey)})
	if err != nil {
		t.Fatal(err)
	}
	n := opened(alert())
	if err := r.Send(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	library, err := standardwebhooks.NewWebhook(signingKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := library.VerifyIgnoringTimestamp(got.body, got.header); err != nil {
		t.Errorf("the library of Standard Webhooks: %v", err)
	}
	const former = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	if err := receiver.Verify(got.header, got.body, n.Sent, former, signingKey); err != nil {
		t.Error(err)
	}
	var payload receiver.Payload
	decode(t, got.body, &payload)
	if payload.Schema != receiver.SchemaNotification || payload.ID != n.ID || payload.Alert.Key["pod"] != "web-1" || got.header.Get("Idempotency-Key") != n.ID {
		t.Errorf("%+v", payload)
	}
	changed := func(name, value string) http.Header {
		h := got.header.Clone()
		h.Set(name, value)
		return h
	}
	for name, err := range map[string]error{
		"another body":      receiver.Verify(got.header, append(bytes.Clone(got.body), ' '), n.Sent, signingKey),
		"another key":       receiver.Verify(got.header, got.body, n.Sent, former),
		"no key":            receiver.Verify(got.header, got.body, n.Sent),
		"another id":        receiver.Verify(changed("Webhook-Id", "x"), got.body, n.Sent, signingKey),
		"another time":      receiver.Verify(changed("Webhook-Timestamp", strconv.FormatInt(n.Sent.Unix()+1, 10)), got.body, n.Sent, signingKey),
		"no time":           receiver.Verify(changed("Webhook-Timestamp", ""), got.body, n.Sent, signingKey),
		"another version":   receiver.Verify(changed("Webhook-Signature", strings.Replace(got.header.Get("Webhook-Signature"), "v1", "v2", 1)), got.body, n.Sent, signingKey),
		"no signature":      receiver.Verify(changed("Webhook-Signature", ""), got.body, n.Sent, signingKey),
		"replayed too late": receiver.Verify(got.header, got.body, n.Sent.Add(receiver.ReplayWindow+2*time.Second), signingKey),
		"from the future":   receiver.Verify(got.header, got.body, n.Sent.Add(-receiver.ReplayWindow-2*time.Second), signingKey),
	} {
		if !errors.Is(err, receiver.ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := receiver.Verify(got.header, got.body, n.Sent, "short"); err == nil || errors.Is(err, receiver.ErrSignature) {
		t.Errorf("a key that is none: %v", err)
	}
}

func TestSlack(t *testing.T) {
	var got capture
	server := httptest.NewServer(&got)
	defer server.Close()
	r, err := receiver.NewSlack(receiver.SlackConfig{URLFrom: secretFile(t, server.URL+"/services/T/B/x"), ExternalURL: "https://assay.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	text := func(a api.Alert) string {
		t.Helper()
		if err := r.Send(t.Context(), opened(a)); err != nil {
			t.Fatal(err)
		}
		var message struct{ Text string }
		decode(t, got.body, &message)
		return message.Text
	}
	want := "*Firing, severity 80* kev-in-production\n2 images with &lt;known&gt; &amp; exploited CVEs\nThey run in production.\n• namespace: shop\n• pod: web-1\n<https://assay.example.com/alerts/kev-in-production|Show>"
	if got := text(alert()); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	hostile := api.Alert{Name: "<!channel>|>", Severity: 1, Summary: "<!here> <https://evil.example|click>" + strings.Repeat("<", 100_000), Description: strings.Repeat("é&", 100_000), Key: map[string]string{}}
	for i := range 100 {
		hostile.Key[strings.Repeat("<", 1000)+strconv.Itoa(i)] = strings.Repeat("&", 10_000)
	}
	message := text(hostile)
	if len(message) > 40_000 || !utf8.ValidString(message) {
		t.Errorf("the message has %d bytes", len(message))
	}
	if strings.Count(message, "<") != 1 {
		t.Errorf("the message is not escaped: %.200s", message)
	}
}

// Slack's own words for what is wrong are shown, others are not.
func TestSlackRefuses(t *testing.T) {
	answer := "channel_is_archived"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, answer, http.StatusGone) }))
	defer server.Close()
	r, err := receiver.NewSlack(receiver.SlackConfig{URLFrom: secretFile(t, server.URL+"/services/my_secret_path")})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Send(t.Context(), opened(alert())); err == nil || !strings.Contains(err.Error(), answer) {
		t.Errorf("%v lacks what Slack said", err)
	}
	answer = "my_secret_path"
	if err := r.Send(t.Context(), opened(alert())); err == nil || strings.Contains(err.Error(), answer) {
		t.Errorf("%v has a part of the URL", err)
	}
}

func TestKubernetes(t *testing.T) {
	names := map[string]bool{}
	var got capture
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got.ServeHTTP(w, r)
		var event receiver.Event
		decode(t, got.body, &event)
		if names[event.Metadata.Name] { // as an API server does
			http.Error(w, `{"kind":"Status","reason":"AlreadyExists"}`, http.StatusConflict)
			return
		}
		names[event.Metadata.Name] = true
		w.WriteHeader(http.StatusCreated)
	}))
	defer server.Close()
	r, err := receiver.NewKubernetes(receiver.KubernetesConfig{URL: server.URL, CAFile: caFile(t, server.Certificate()), TokenFrom: secretFile(t, token), Namespace: "assay"})
	if err != nil {
		t.Fatal(err)
	}
	a := alert()
	a.Summary = strings.Repeat("ü€😀", 2000)
	for range 2 { // a duplicate is no error
		if err := r.Send(t.Context(), opened(a)); err != nil {
			t.Fatal(err)
		}
	}
	var event receiver.Event
	decode(t, got.body, &event)
	// What the API server's validation asks of an event of events.k8s.io/v1.
	if got.path != "/apis/events.k8s.io/v1/namespaces/assay/events" || got.header.Get("Authorization") != "Bearer "+token {
		t.Errorf("%s %v", got.path, got.header)
	}
	if _, err := time.Parse("2006-01-02T15:04:05.000000Z07:00", event.EventTime); err != nil {
		t.Error(err)
	}
	if event.APIVersion != "events.k8s.io/v1" || event.Kind != "Event" || event.Metadata.Namespace != event.Regarding.Namespace || len(event.Note) > 1024 || len(event.Note) < 200 ||
		event.Type != "Warning" || event.Reason != "AlertFiring" || event.Action == "" || event.ReportingInstance == "" ||
		!regexp.MustCompile(`^[a-z0-9.]+/[a-zA-Z0-9._-]+$`).MatchString(event.ReportingController) || !regexp.MustCompile(`^[a-z0-9-]{1,253}$`).MatchString(event.Metadata.Name) {
		t.Errorf("%+v", event)
	}
	if event.Related == nil || event.Related.Namespace != "shop" || event.Related.Name != "web-1" {
		t.Errorf("related is %+v", event.Related)
	}
	if err := r.Send(t.Context(), resolved(a)); err != nil {
		t.Fatal(err)
	}
	decode(t, got.body, &event)
	if event.Type != "Normal" || event.Reason != "AlertResolved" || len(names) != 2 {
		t.Errorf("resolved: %+v", event)
	}
}

func TestTakes(t *testing.T) {
	yes, no := true, false
	kinds := []notify.Kind{notify.Open, notify.Refresh, notify.Update, notify.Resolve}
	taken := func(r notify.Receiver, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, k := range kinds {
			if r.Takes(k) {
				out = append(out, string(k))
			}
		}
		return strings.Join(out, " ")
	}
	if got := taken(receiver.NewAlertmanager(receiver.AlertmanagerConfig{})); got != "open refresh update resolve" {
		t.Errorf("alertmanager takes %s", got)
	}
	if got := taken(receiver.NewWebhook(receiver.WebhookConfig{})); got != "open update resolve" {
		t.Errorf("a webhook takes %s", got)
	}
	if got := taken(receiver.NewSlack(receiver.SlackConfig{})); got != "open resolve" {
		t.Errorf("slack takes %s", got)
	}
	if got := taken(receiver.NewEvents(nil, "x", receiver.Kinds{SendResolved: &no, SendUpdates: &yes}), nil); got != "open update" {
		t.Errorf("events take %s", got)
	}
}
