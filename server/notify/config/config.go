// Package config reads the document that says who is notified of what. It checks
// all of it, and reports everything that is wrong by line and column.
package config

import (
	"errors"
	"fmt"
	"net"
	"net/mail"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/server/notify"
	"github.com/assay-dev/assay/server/notify/receiver"
)

// Kind is the kind of the document; its apiVersion is [api.GroupAssay].
const Kind = "Notifications"

// Bounds of a document.
const (
	maxReceivers = 100
	maxRoutes    = 1000
	maxText      = 2000 // bytes of a text
	maxTo        = 50
)

// Notifications is the document.
type Notifications struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   Metadata `json:"metadata,omitzero"`
	Spec       Spec     `json:"spec"`
}

// Metadata names the document.
type Metadata struct {
	Name string `json:"name,omitempty"`
}

// Spec is who is notified of what.
type Spec struct {
	// ExternalURL is where people reach this server; notifications link to it.
	ExternalURL string     `json:"externalURL,omitempty"`
	Receivers   []Receiver `json:"receivers"`
	// Routes are tried in their order. Without any, all receivers get all alerts.
	Routes []Route `json:"routes,omitempty"`
}

// Receiver has a name and one of the others.
type Receiver struct {
	Name         string                       `json:"name"`
	Alertmanager *receiver.AlertmanagerConfig `json:"alertmanager,omitempty"`
	Webhook      *receiver.WebhookConfig      `json:"webhook,omitempty"`
	Slack        *receiver.SlackConfig        `json:"slack,omitempty"`
	Email        *receiver.EmailConfig        `json:"email,omitempty"`
	Kubernetes   *receiver.KubernetesConfig   `json:"kubernetes,omitempty"`
}

// Parse reads and checks a document. The error is [Diagnostics].
func Parse(file string, text []byte) (*Notifications, error) {
	d := &decoder{}
	n := &Notifications{}
	d.decode(file, text, n)
	if d.places != nil {
		d.check(n)
	}
	if err := d.err(); err != nil {
		return nil, err
	}
	for i := range n.Spec.Receivers {
		n.Spec.Receivers[i].setExternalURL(n.Spec.ExternalURL)
	}
	return n, nil
}

// Open makes the receivers, by name. It reads the certificate authorities that
// they trust; secrets are read when something is sent.
func (n *Notifications) Open() (map[string]notify.Receiver, error) {
	out := map[string]notify.Receiver{}
	var failed []error
	for _, r := range n.Spec.Receivers {
		opened, err := r.open()
		if err != nil {
			failed = append(failed, fmt.Errorf("receiver %s: %w", r.Name, err))
		}
		out[r.Name] = opened
	}
	if err := errors.Join(failed...); err != nil {
		return nil, err
	}
	return out, nil
}

func (r Receiver) open() (notify.Receiver, error) {
	switch {
	case r.Alertmanager != nil:
		return receiver.NewAlertmanager(*r.Alertmanager)
	case r.Webhook != nil:
		return receiver.NewWebhook(*r.Webhook)
	case r.Slack != nil:
		return receiver.NewSlack(*r.Slack)
	case r.Email != nil:
		return receiver.NewEmail(*r.Email)
	}
	return receiver.NewKubernetes(*r.Kubernetes)
}

func (r Receiver) setExternalURL(u string) {
	switch {
	case r.Alertmanager != nil:
		r.Alertmanager.ExternalURL = u
	case r.Slack != nil:
		r.Slack.ExternalURL = u
	case r.Email != nil:
		r.Email.ExternalURL = u
	}
}

var (
	name      = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$`)
	namespace = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	variable  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	label     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

func (d *decoder) check(n *Notifications) {
	if n.APIVersion != api.GroupAssay {
		d.at("apiVersion", "must be %s", api.GroupAssay)
	}
	if n.Kind != Kind {
		d.at("kind", "must be %s", Kind)
	}
	s := n.Spec
	if s.ExternalURL != "" {
		d.url("spec.externalURL", s.ExternalURL)
	}
	if len(s.Receivers) == 0 || len(s.Receivers) > maxReceivers {
		d.at("spec.receivers", "must have from 1 to %d receivers", maxReceivers)
		return
	}
	if len(s.Routes) > maxRoutes {
		d.at("spec.routes", "must have at most %d routes", maxRoutes)
		return
	}
	var names []string
	for i, r := range s.Receivers {
		path := fmt.Sprintf("spec.receivers[%d]", i)
		switch {
		case !name.MatchString(r.Name):
			d.at(path+".name", "must be of 1 to 63 small letters, digits, dots and dashes")
		case slices.Contains(names, r.Name):
			d.at(path+".name", "%s is given twice", r.Name)
		}
		names = append(names, r.Name)
		d.receiver(path, r)
	}
	for i := range s.Routes {
		d.route(fmt.Sprintf("spec.routes[%d]", i), &s.Routes[i], names)
	}
	for path, node := range d.places {
		if len(node.Value) > maxText {
			d.at(path, "has %d bytes; at most %d are allowed", len(node.Value), maxText)
		}
	}
}

func (d *decoder) receiver(path string, r Receiver) {
	kinds := 0
	if c := r.Alertmanager; c != nil {
		kinds++
		at := path + ".alertmanager"
		d.url(at+".url", c.URL)
		d.auth(at, c.Auth)
		for key, value := range c.Labels {
			if !label.MatchString(key) || value == "" {
				d.at(at+".labels."+key, "must have a name of letters, digits and underscores, and a value")
			}
		}
	}
	if c := r.Webhook; c != nil {
		kinds++
		at := path + ".webhook"
		switch {
		case c.URL == "" && !c.URLFrom.IsSet():
			d.at(at, "needs url or urlFrom")
		case c.URL != "" && c.URLFrom.IsSet():
			d.at(at+".urlFrom", "is given beside url")
		case c.URL != "":
			d.url(at+".url", c.URL)
		default:
			d.secret(at+".urlFrom", c.URLFrom)
		}
		d.secret(at+".signingKeyFrom", c.SigningKeyFrom)
		d.auth(at, c.Auth)
	}
	if c := r.Slack; c != nil {
		kinds++
		d.secret(path+".slack.urlFrom", c.URLFrom)
	}
	if c := r.Email; c != nil {
		kinds++
		d.email(path+".email", *c)
	}
	if c := r.Kubernetes; c != nil {
		kinds++
		at := path + ".kubernetes"
		if c.URL != "" {
			d.url(at+".url", c.URL)
		}
		if c.TokenFrom.IsSet() {
			d.secret(at+".tokenFrom", c.TokenFrom)
		}
		if !namespace.MatchString(c.Namespace) {
			d.at(at+".namespace", "must be the name of a namespace")
		}
	}
	if kinds != 1 {
		d.at(path, "must have one of alertmanager, webhook, slack, email and kubernetes")
	}
}

func (d *decoder) email(at string, c receiver.EmailConfig) {
	if host, port, err := net.SplitHostPort(c.Address); err != nil || host == "" || port == "" {
		d.at(at+".address", "must be host:port, such as mail.example.com:587")
	}
	if !slices.Contains([]string{"", receiver.TLSRequired, receiver.TLSImplicit, receiver.TLSNone}, c.TLS) {
		d.at(at+".tls", "must be %s, %s or %s", receiver.TLSRequired, receiver.TLSImplicit, receiver.TLSNone)
	}
	d.login(at, c.Username, c.PasswordFrom)
	if c.Username != "" && c.TLS == receiver.TLSNone {
		d.at(at+".tls", "must not be %s beside a password", receiver.TLSNone)
	}
	if _, err := mail.ParseAddress(c.From); err != nil {
		d.at(at+".from", "must be an e-mail address")
	}
	if len(c.To) == 0 || len(c.To) > maxTo {
		d.at(at+".to", "must have from 1 to %d addresses", maxTo)
	}
	for i, to := range c.To {
		if _, err := mail.ParseAddress(to); err != nil {
			d.at(fmt.Sprintf("%s.to[%d]", at, i), "must be an e-mail address")
		}
	}
}

func (d *decoder) auth(at string, a receiver.Auth) {
	if a.TokenFrom.IsSet() {
		d.secret(at+".tokenFrom", a.TokenFrom)
		if a.Username != "" {
			d.at(at+".username", "is given beside tokenFrom")
		}
	}
	d.login(at, a.Username, a.PasswordFrom)
}

func (d *decoder) login(at, username string, password receiver.Secret) {
	switch {
	case username != "":
		d.secret(at+".passwordFrom", password)
		if strings.ContainsFunc(username, func(r rune) bool { return r < ' ' }) {
			d.at(at+".username", "must not have control characters")
		}
	case password.IsSet():
		d.at(at+".passwordFrom", "needs a username")
	}
}

func (d *decoder) secret(at string, s receiver.Secret) {
	switch {
	case (s.File == "") == (s.Env == ""):
		d.at(at, "must have one of file and env, where the secret is")
	case s.Env != "" && !variable.MatchString(s.Env):
		d.at(at+".env", "must be the name of a variable, not its value")
	case strings.ContainsRune(s.File, 0):
		d.at(at+".file", "must be the name of a file")
	}
}

// url does not quote what it refuses: it may hold a password.
func (d *decoder) url(at, text string) {
	switch u, err := url.Parse(text); {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		d.at(at, "must be an http or https URL")
	case u.User != nil:
		d.at(at, "must not hold a name or password; give them by username and passwordFrom")
	case u.Fragment != "":
		d.at(at, "must not have a fragment")
	}
}
