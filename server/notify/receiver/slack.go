package receiver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/assay-dev/assay/server/notify"
)

// SlackConfig is an incoming webhook of Slack, whose URL is a secret.
type SlackConfig struct {
	URLFrom Secret `json:"urlFrom"`
	CAFile  string `json:"caFile,omitempty"`
	Kinds
	// ExternalURL is where this server is seen; messages link to it.
	ExternalURL string `json:"-"`
}

type slack struct {
	SlackConfig
	client *http.Client
}

// NewSlack gives a receiver that posts messages.
func NewSlack(config SlackConfig) (notify.Receiver, error) {
	client, err := newClient(config.CAFile)
	if err != nil {
		return nil, err
	}
	return &slack{config, client}, nil
}

func (s *slack) Takes(kind notify.Kind) bool { return s.takes(kind, false) }

// slackCode is how Slack says what was wrong, such as channel_is_archived.
var slackCode = regexp.MustCompile(`^[a-z]+(_[a-z]+){1,5}$`)

func (s *slack) Send(ctx context.Context, n notify.Notification) error {
	url, err := s.URLFrom.read()
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]any{"text": s.text(n), "unfurl_links": false, "unfurl_media": false})
	if err != nil {
		return fmt.Errorf("writing the message: %w", err)
	}
	err = post(ctx, s.client, url, http.Header{}, body)
	if refused := (*refusal)(nil); errors.As(err, &refused) {
		code := strings.TrimSpace(string(refused.body))
		if len(code) <= 60 && slackCode.MatchString(code) && !strings.Contains(url, code) {
			return fmt.Errorf("%w: %s", err, code)
		}
	}
	return err
}

// Bounds of a message's parts, in characters, before they are escaped. All of it
// escaped stays below the 40,000 that Slack cuts messages at.
const (
	maxSummary     = 300
	maxDescription = 2000
	maxKeyField    = 200
	maxKeyFields   = 10
)

func (s *slack) text(n notify.Notification) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%s* %s\n%s", headline(n), escape(shorten(n.Alert.Name, maxKeyField)), escape(shorten(n.Alert.Summary, maxSummary)))
	if d := n.Alert.Description; d != "" && d != n.Alert.Summary {
		b.WriteString("\n" + escape(shorten(d, maxDescription)))
	}
	for _, field := range keyFields(n) {
		b.WriteString("\n• " + escape(field))
	}
	if url := alertURL(s.ExternalURL, n); url != "" {
		fmt.Fprintf(&b, "\n<%s|Show>", escape(url))
	}
	return b.String()
}

// headline is what happened, and how grave it is.
func headline(n notify.Notification) string {
	what := map[notify.Kind]string{notify.Open: "Firing", notify.Refresh: "Firing", notify.Update: "Changed", notify.Resolve: "Resolved"}[n.Kind]
	return what + ", severity " + strconv.Itoa(n.Alert.Severity)
}

// keyFields are "name: value", in order, bounded.
func keyFields(n notify.Notification) []string {
	var out []string
	for i, name := range slices.Sorted(maps.Keys(n.Alert.Key)) {
		if i == maxKeyFields {
			return append(out, "…")
		}
		out = append(out, shorten(name, maxKeyField)+": "+shorten(n.Alert.Key[name], maxKeyField))
	}
	return out
}

// escape keeps a text from being a link or a mention in Slack.
func escape(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(text)
}

// shorten cuts a text after so many characters, and makes control characters
// other than line ends into spaces.
func shorten(text string, limit int) string {
	var b strings.Builder
	for _, r := range text {
		if limit == 0 {
			return b.String() + "…"
		}
		if r != '\n' && (r < ' ' || r == 0x7f) {
			r = ' '
		}
		b.WriteRune(r)
		limit--
	}
	return b.String()
}
