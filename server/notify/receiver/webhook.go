package receiver

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/assay-dev/assay/server/notify"
)

// SchemaNotification marks the body of a webhook.
const SchemaNotification = "assay.dev/notification/v1"

// ReplayWindow is how far the time of a signed request may be from a receiver's clock.
const ReplayWindow = 5 * time.Minute

// Bounds of a signing key, in bytes, those of the Standard Webhooks specification.
const minKey, maxKey = 24, 64

// WebhookConfig is a generic webhook. Its URL is plain or, where it holds a
// secret, in a file or variable.
type WebhookConfig struct {
	URL     string `json:"url,omitempty"`
	URLFrom Secret `json:"urlFrom,omitzero"`
	CAFile  string `json:"caFile,omitempty"`
	Auth
	// SigningKeyFrom is whsec_ and the base64 of 24 to 64 bytes.
	SigningKeyFrom Secret `json:"signingKeyFrom"`
	Kinds
}

type webhook struct {
	WebhookConfig
	client *http.Client
}

// NewWebhook gives a receiver that posts a JSON document, signed as Standard
// Webhooks are (standardwebhooks.com): HMAC-SHA256 over ID, timestamp and body.
func NewWebhook(config WebhookConfig) (notify.Receiver, error) {
	client, err := newClient(config.CAFile)
	if err != nil {
		return nil, err
	}
	return &webhook{config, client}, nil
}

func (w *webhook) Takes(kind notify.Kind) bool { return w.takes(kind, true) }

// Payload is the body of a webhook.
type Payload struct {
	Schema string `json:"schema"` // SchemaNotification
	notify.Notification
}

func (w *webhook) Send(ctx context.Context, n notify.Notification) error {
	url := w.URL
	if w.URLFrom.IsSet() {
		var err error
		if url, err = w.URLFrom.read(); err != nil {
			return err
		}
	}
	text, err := w.SigningKeyFrom.read()
	if err != nil {
		return err
	}
	key, err := signingKey(text)
	if err != nil {
		return &notify.Temporary{Err: fmt.Errorf("the secret in %s: %w", w.SigningKeyFrom, err)}
	}
	body, err := json.Marshal(Payload{SchemaNotification, n})
	if err != nil {
		return fmt.Errorf("writing the notification: %w", err)
	}
	timestamp := strconv.FormatInt(n.Sent.Unix(), 10)
	header := http.Header{}
	header.Set("Webhook-Id", n.ID)
	header.Set("Webhook-Timestamp", timestamp)
	header.Set("Webhook-Signature", signaturePrefix+base64.StdEncoding.EncodeToString(signature(key, n.ID, timestamp, body)))
	header.Set("Idempotency-Key", n.ID)
	if err := w.set(header); err != nil {
		return err
	}
	return post(ctx, w.client, url, header, body)
}

const signaturePrefix = "v1,"

func signature(key []byte, id, timestamp string, body []byte) []byte {
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", id, timestamp, body)
	return mac.Sum(nil)
}

// signingKey decodes whsec_BASE64. Its errors have nothing of the text.
func signingKey(text string) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(text, "whsec_"))
	if err != nil || len(key) < minKey || len(key) > maxKey {
		return nil, fmt.Errorf("must be whsec_ and the base64 of %d to %d bytes", minKey, maxKey)
	}
	return key, nil
}

// ErrSignature is a request that does not come from who has the key, or is replayed.
var ErrSignature = errors.New("the signature does not hold")

// Verify is for those who receive: it checks the signature of a request's header
// and whole body with keys as in the configuration, more than one while a key is
// changed. A replay within [ReplayWindow] passes, and is known by its Webhook-Id.
func Verify(header http.Header, body []byte, now time.Time, keys ...string) error {
	id, timestamp := header.Get("Webhook-Id"), header.Get("Webhook-Timestamp")
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil || id == "" || len(id) > 256 {
		return fmt.Errorf("%w: Webhook-Id and Webhook-Timestamp are missing or malformed", ErrSignature)
	}
	if at := time.Unix(seconds, 0); now.Sub(at).Abs() > ReplayWindow {
		return fmt.Errorf("%w: it was made more than %s before or after now", ErrSignature, ReplayWindow)
	}
	for _, text := range keys {
		key, err := signingKey(text)
		if err != nil {
			return fmt.Errorf("a signing key %w", err)
		}
		want := signature(key, id, timestamp, body)
		for _, given := range strings.Fields(header.Get("Webhook-Signature")) {
			encoded, ok := strings.CutPrefix(given, signaturePrefix)
			if got, err := base64.StdEncoding.DecodeString(encoded); ok && err == nil && hmac.Equal(got, want) {
				return nil
			}
		}
	}
	return ErrSignature
}
