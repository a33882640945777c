package receiver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/assay-dev/assay/server/notify"
)

// EventRecorder writes Events into a cluster. An event whose name is there
// already counts as written.
type EventRecorder interface {
	Record(context.Context, Event) error
}

// Event is one of events.k8s.io/v1, as far as notifications need it.
type Event struct {
	APIVersion          string     `json:"apiVersion"`
	Kind                string     `json:"kind"`
	Metadata            Metadata   `json:"metadata"`
	EventTime           string     `json:"eventTime"` // RFC 3339 with microseconds
	ReportingController string     `json:"reportingController"`
	ReportingInstance   string     `json:"reportingInstance"`
	Action              string     `json:"action"`
	Reason              string     `json:"reason"`
	Regarding           Reference  `json:"regarding"`
	Related             *Reference `json:"related,omitempty"` // the pod of the alert's key
	Note                string     `json:"note"`              // at most 1024 bytes
	Type                string     `json:"type"`              // Normal or Warning
}

// Metadata is an object's.
type Metadata struct {
	Name      string            `json:"name"`
	Namespace string            `json:"namespace"`
	Labels    map[string]string `json:"labels,omitempty"`
}

// Reference names an object.
type Reference struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
}

// KubernetesConfig is a cluster's API server and the namespace of the Events. The
// defaults are those of a pod.
type KubernetesConfig struct {
	URL       string `json:"url,omitempty"`
	CAFile    string `json:"caFile,omitempty"`
	TokenFrom Secret `json:"tokenFrom,omitzero"`
	Namespace string `json:"namespace"`
	Kinds
}

// Where a pod finds its API server.
const (
	inClusterURL   = "https://kubernetes.default.svc"
	inClusterCA    = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
	inClusterToken = "/var/run/secrets/kubernetes.io/serviceaccount/token"
)

// NewKubernetes gives a receiver of Events by the API server of a configuration.
func NewKubernetes(config KubernetesConfig) (notify.Receiver, error) {
	if config.URL == "" {
		config.URL = inClusterURL
		if config.CAFile == "" {
			config.CAFile = inClusterCA
		}
	}
	if !config.TokenFrom.IsSet() {
		config.TokenFrom = Secret{File: inClusterToken}
	}
	client, err := newClient(config.CAFile)
	if err != nil {
		return nil, err
	}
	return &kubernetes{config.Kinds, config.Namespace, &restRecorder{config, client}}, nil
}

// NewEvents gives a receiver that writes Events of a namespace by a recorder.
func NewEvents(recorder EventRecorder, namespace string, kinds Kinds) notify.Receiver {
	return &kubernetes{kinds, namespace, recorder}
}

type kubernetes struct {
	Kinds
	namespace string
	recorder  EventRecorder
}

func (k *kubernetes) Takes(kind notify.Kind) bool { return k.takes(kind, false) }

// Bounds of the API server, in bytes.
const (
	maxNote       = 1024
	maxObjectName = 253
)

// Send writes an Event whose name is made of the idempotency key: the API server
// itself refuses a duplicate.
func (k *kubernetes) Send(ctx context.Context, n notify.Notification) error {
	event := Event{
		APIVersion: "events.k8s.io/v1", Kind: "Event",
		Metadata:            Metadata{Name: "assay-" + n.ID, Namespace: k.namespace},
		EventTime:           n.Time.UTC().Format("2006-01-02T15:04:05.000000Z"),
		ReportingController: "assay.dev/notify", ReportingInstance: "assay", Action: "Evaluate",
		Reason: "AlertFiring", Type: "Warning",
		Regarding: Reference{APIVersion: "projectcalico.org/v3", Kind: "GlobalAlert", Namespace: k.namespace, Name: shorten(n.Alert.Name, maxObjectName)},
		Note:      note(n),
	}
	switch n.Kind {
	case notify.Update:
		event.Reason = "AlertChanged"
	case notify.Resolve:
		event.Reason, event.Type = "AlertResolved", "Normal"
	}
	if pod, namespace := n.Alert.Key["pod"], n.Alert.Key["namespace"]; pod != "" && namespace != "" {
		event.Related = &Reference{APIVersion: "v1", Kind: "Pod", Namespace: namespace, Name: pod}
	}
	return k.recorder.Record(ctx, event)
}

func note(n notify.Notification) string {
	text := headline(n) + ": " + n.Alert.Summary
	if fields := keyFields(n); len(fields) > 0 {
		text += " (" + strings.Join(fields, ", ") + ")"
	}
	for limit := maxNote; ; limit -= 100 { // characters have up to four bytes
		if short := shorten(text, limit); len(short) <= maxNote {
			return short
		}
	}
}

// restRecorder posts to an API server.
type restRecorder struct {
	config KubernetesConfig
	client *http.Client
}

func (r *restRecorder) Record(ctx context.Context, event Event) error {
	token, err := r.config.TokenFrom.read()
	if err != nil {
		return err
	}
	body, err := json.Marshal(event)
	if err != nil {
		return fmt.Errorf("writing the event: %w", err)
	}
	address := strings.TrimRight(r.config.URL, "/") + "/apis/events.k8s.io/v1/namespaces/" + url.PathEscape(event.Metadata.Namespace) + "/events"
	err = post(ctx, r.client, address, http.Header{"Authorization": {"Bearer " + token}}, body)
	var refused *refusal
	if errors.As(err, &refused) && refused.status == http.StatusConflict {
		return nil // it was written before
	}
	if refused != nil && refused.status == http.StatusUnauthorized {
		return &notify.Temporary{Err: err, After: time.Minute} // the token may be on its way
	}
	return err
}
