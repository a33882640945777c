package receiver

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/assay-dev/assay/server/notify"
)

// DefaultHold is how long Alertmanager keeps an alert that it does not hear of.
const DefaultHold = 5 * time.Minute

// AlertmanagerConfig is one Alertmanager. Of a cluster, each member is a receiver.
type AlertmanagerConfig struct {
	URL    string `json:"url"` // without /api/v2/alerts
	CAFile string `json:"caFile,omitempty"`
	Auth
	// Labels are added to every alert.
	Labels map[string]string `json:"labels,omitempty"`
	// ExternalURL is where this server is seen; the generatorURL lies below it.
	ExternalURL string `json:"-"`
}

type alertmanager struct {
	AlertmanagerConfig
	url    string
	client *http.Client
}

// NewAlertmanager gives a receiver that speaks Alertmanager's API v2. It takes
// every kind: refreshes keep an alert firing.
func NewAlertmanager(config AlertmanagerConfig) (notify.Receiver, error) {
	client, err := newClient(config.CAFile)
	if err != nil {
		return nil, err
	}
	return &alertmanager{config, strings.TrimRight(config.URL, "/") + "/api/v2/alerts", client}, nil
}

func (*alertmanager) Takes(notify.Kind) bool { return true }

// postableAlert is the one of Alertmanager's OpenAPI document.
type postableAlert struct {
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	StartsAt     time.Time         `json:"startsAt"`
	EndsAt       time.Time         `json:"endsAt"`
	GeneratorURL string            `json:"generatorURL,omitempty"`
}

func (a *alertmanager) Send(ctx context.Context, n notify.Notification) error {
	alert := a.alert(n, n.Alert.Severity)
	alerts := []postableAlert{alert}
	if n.PreviousSeverity != 0 {
		// The severity is a label, and labels are the identity of an alert.
		before := a.alert(n, n.PreviousSeverity)
		before.EndsAt = n.Time
		alerts = append(alerts, before)
	}
	body, err := json.Marshal(alerts)
	if err != nil {
		return fmt.Errorf("writing the alert: %w", err)
	}
	header := http.Header{}
	if err := a.set(header); err != nil {
		return err
	}
	return post(ctx, a.client, a.url, header, body)
}

func (a *alertmanager) alert(n notify.Notification, severity int) postableAlert {
	out := postableAlert{
		Labels:      labels(n, severity, a.Labels),
		Annotations: map[string]string{"summary": n.Alert.Summary, "description": n.Alert.Description, "count": strconv.Itoa(n.Alert.Count)},
		StartsAt:    n.Opened, EndsAt: n.Sent.Add(DefaultHold),
		GeneratorURL: alertURL(a.ExternalURL, n),
	}
	if n.Alert.Value != nil {
		out.Annotations["value"] = strconv.FormatFloat(*n.Alert.Value, 'g', -1, 64)
	}
	if n.Kind == notify.Resolve {
		out.EndsAt = n.Time
	}
	return out
}

// alertURL is where an alert is seen, "" without an external URL.
func alertURL(external string, n notify.Notification) string {
	if external == "" {
		return ""
	}
	return strings.TrimRight(external, "/") + "/alerts/" + url.PathEscape(n.Alert.Name)
}

// labels are an alert's identity: its name, severity and key, below extra labels
// which they may not hide.
func labels(n notify.Notification, severity int, extra map[string]string) map[string]string {
	out := map[string]string{"alertname": n.Alert.Name, "severity": strconv.Itoa(severity)}
	for _, field := range slices.Sorted(maps.Keys(n.Alert.Key)) {
		name := labelName(field)
		if _, taken := out[name]; taken {
			name = "key_" + name
		}
		for base, i := name, 2; out[name] != ""; i++ {
			name = base + "_" + strconv.Itoa(i)
		}
		out[name] = strings.ToValidUTF8(n.Alert.Key[field], "�")
	}
	for name, value := range extra {
		out[name] = cmp.Or(out[name], value)
	}
	return out
}

// labelName is a field's name with the characters of Prometheus' labels.
func labelName(field string) string {
	name := strings.Map(func(r rune) rune {
		if r == '_' || '0' <= r && r <= '9' || 'A' <= r && r <= 'Z' || 'a' <= r && r <= 'z' {
			return r
		}
		return '_'
	}, field)
	if name == "" || '0' <= name[0] && name[0] <= '9' {
		name = "_" + name
	}
	return name
}
