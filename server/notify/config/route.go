package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/assay-dev/assay/server/notify"
)

// Route sends the alerts that match to receivers. The first that matches is the
// last that is tried, unless it says Continue.
type Route struct {
	Match     Match    `json:"match,omitzero"`
	Receivers []string `json:"receivers"` // none: these alerts are kept silent
	Continue  bool     `json:"continue,omitempty"`
}

// Match holds when all that is given holds. In patterns, * is any text, also
// none, and ? any character.
type Match struct {
	Alert    []string       `json:"alert,omitempty"` // patterns, of which one matches
	Severity *SeverityRange `json:"severity,omitempty"`
	// Key has patterns for fields of the alert's key; a field that it lacks is empty.
	Key map[string]string `json:"key,omitempty"`

	alert []*regexp.Regexp
	key   map[string]*regexp.Regexp
}

// SeverityRange includes both ends.
type SeverityRange struct {
	Min *int `json:"min,omitempty"` // absent: 1
	Max *int `json:"max,omitempty"` // absent: 100
}

func (r SeverityRange) bounds() (low, high int) {
	low, high = 1, 100
	if r.Min != nil {
		low = *r.Min
	}
	if r.Max != nil {
		high = *r.Max
	}
	return low, high
}

func (d *decoder) route(path string, r *Route, receivers []string) {
	for i, name := range r.Receivers {
		if !slices.Contains(receivers, name) {
			d.at(fmt.Sprintf("%s.receivers[%d]", path, i), "no receiver has this name")
		}
	}
	if d.places[path+".receivers"] == nil {
		d.at(path+".receivers", "is missing; [] keeps alerts silent")
	}
	m := &r.Match
	if s := m.Severity; s != nil {
		if low, high := s.bounds(); low < 1 || high > 100 || low > high {
			d.at(path+".match.severity", "must be a range within 1 to 100")
		}
	}
	for _, p := range m.Alert {
		m.alert = append(m.alert, pattern(p))
	}
	m.key = map[string]*regexp.Regexp{}
	for field, p := range m.Key {
		m.key[field] = pattern(p)
	}
}

func pattern(text string) *regexp.Regexp {
	text = text[:min(len(text), maxText)] // a longer one is reported
	return regexp.MustCompile(`(?s)^` + strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(regexp.QuoteMeta(text)) + `$`)
}

func (m *Match) holds(n notify.Notification) bool {
	matches := func(re *regexp.Regexp) bool { return re.MatchString(n.Alert.Name) }
	if len(m.alert) > 0 && !slices.ContainsFunc(m.alert, matches) {
		return false
	}
	if m.Severity != nil {
		if low, high := m.Severity.bounds(); n.Alert.Severity < low || n.Alert.Severity > high {
			return false
		}
	}
	for field, re := range m.key {
		if !re.MatchString(n.Alert.Key[field]) {
			return false
		}
	}
	return true
}

// route gives the names of the receivers of a notification, each once.
func (s *Spec) route(n notify.Notification) []string {
	var out []string
	if len(s.Routes) == 0 {
		for _, r := range s.Receivers {
			out = append(out, r.Name)
		}
	}
	for i := range s.Routes {
		r := &s.Routes[i]
		if !r.Match.holds(n) {
			continue
		}
		for _, name := range r.Receivers {
			if !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
		if !r.Continue {
			break
		}
	}
	return out
}

// Deliveries are a notification's, to the receivers of its routes that take its
// kind. An update that changes the severity may change the routes: who comes in
// is told of an opening, who falls out of a resolution.
func (n *Notifications) Deliveries(receivers map[string]notify.Receiver, x notify.Notification) []notify.Delivery {
	var out []notify.Delivery
	add := func(name string, x notify.Notification) {
		if r := receivers[name]; r != nil && r.Takes(x.Kind) {
			out = append(out, notify.NewDelivery(name, x))
		}
	}
	is := n.Spec.route(x)
	if x.PreviousSeverity == 0 {
		for _, name := range is {
			add(name, x)
		}
		return out
	}
	entered, left := x, x
	entered.Kind, entered.PreviousSeverity = notify.Open, 0
	left.Kind, left.Alert.Severity, left.PreviousSeverity = notify.Resolve, x.PreviousSeverity, 0
	was := n.Spec.route(left)
	for _, name := range is {
		if slices.Contains(was, name) {
			add(name, x)
		} else {
			add(name, entered)
		}
	}
	for _, name := range was {
		if !slices.Contains(is, name) {
			add(name, left)
		}
	}
	return out
}
