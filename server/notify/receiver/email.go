package receiver

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"net/smtp"
	"net/textproto"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/assay-dev/assay/outgoing"
	"github.com/assay-dev/assay/server/notify"
)

// Ways of an e-mail receiver to use TLS.
const (
	TLSRequired = "starttls" // the default
	TLSImplicit = "implicit" // from the first byte, usually port 465
	TLSNone     = "none"
)

// EmailConfig is a mail server and who gets mail from it.
type EmailConfig struct {
	Address string `json:"address"` // host:port
	// TLS is starttls, implicit or none. Absent: STARTTLS, which only a server on
	// the loopback interface may lack.
	TLS          string   `json:"tls,omitempty"`
	CAFile       string   `json:"caFile,omitempty"`
	Username     string   `json:"username,omitempty"`
	PasswordFrom Secret   `json:"passwordFrom,omitzero"`
	From         string   `json:"from"`
	To           []string `json:"to"`
	Kinds
	// ExternalURL is where this server is seen; messages name it.
	ExternalURL string `json:"-"`
}

type email struct {
	EmailConfig
	host string
	from *mail.Address
	to   []*mail.Address
	tls  *tls.Config
}

// NewEmail gives a receiver that sends one message to all recipients, or, when
// the server refuses one of them, to none.
func NewEmail(config EmailConfig) (notify.Receiver, error) {
	host, _, err := net.SplitHostPort(config.Address)
	if err != nil {
		return nil, fmt.Errorf("the address must be host:port: %w", err)
	}
	e := &email{EmailConfig: config, host: host}
	if e.from, err = mail.ParseAddress(config.From); err != nil {
		return nil, fmt.Errorf("the sender %q: %w", config.From, err)
	}
	for _, to := range config.To {
		address, err := mail.ParseAddress(to)
		if err != nil {
			return nil, fmt.Errorf("the recipient %q: %w", to, err)
		}
		e.to = append(e.to, address)
	}
	if e.tls, err = tlsConfig(config.CAFile); err != nil {
		return nil, err
	}
	e.tls.ServerName = host
	return e, nil
}

func (e *email) Takes(kind notify.Kind) bool { return e.takes(kind, false) }

func (e *email) Send(ctx context.Context, n notify.Notification) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", e.Address)
	if err != nil {
		return &notify.Temporary{Err: network(err)}
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return &notify.Temporary{Err: network(err)}
		}
	}
	if e.TLS == TLSImplicit {
		conn = tls.Client(conn, e.tls)
	}
	client, err := smtp.NewClient(conn, e.host)
	if err != nil {
		return reply("the greeting", err)
	}
	defer client.Close()
	return e.converse(client, n)
}

func (e *email) converse(client *smtp.Client, n notify.Notification) error {
	name := "localhost"
	if host, err := os.Hostname(); err == nil && isDomain(host) {
		name = host
	}
	if err := client.Hello(name); err != nil {
		return reply("EHLO", err)
	}
	if err := e.secure(client); err != nil {
		return err
	}
	if e.Username != "" {
		if err := e.login(client); err != nil {
			return err
		}
	}
	if err := client.Mail(e.from.Address); err != nil {
		return reply("MAIL FROM", err)
	}
	for _, to := range e.to {
		if err := client.Rcpt(to.Address); err != nil {
			return reply("RCPT TO "+to.Address, err)
		}
	}
	w, err := client.Data()
	if err != nil {
		return reply("DATA", err)
	}
	if _, err := w.Write(e.message(n)); err != nil {
		return reply("the message", err)
	}
	if err := w.Close(); err != nil {
		return reply("the message", err)
	}
	_ = client.Quit() // it has the message
	return nil
}

func (e *email) secure(client *smtp.Client) error {
	if e.TLS == TLSNone || e.TLS == TLSImplicit {
		return nil
	}
	if offered, _ := client.Extension("STARTTLS"); offered {
		if err := client.StartTLS(e.tls); err != nil {
			return reply("STARTTLS", err)
		}
		return nil
	}
	if outgoing.IsLoopback(e.host) {
		return nil
	}
	return errors.New("the mail server does not offer STARTTLS; nothing was sent")
}

func (e *email) login(client *smtp.Client) error {
	if _, secure := client.TLSConnectionState(); !secure && !outgoing.IsLoopback(e.host) {
		return errors.New("a password is not sent without TLS")
	}
	password, err := e.PasswordFrom.read()
	if err != nil {
		return err
	}
	_, offered := client.Extension("AUTH")
	methods := strings.Fields(strings.ToUpper(offered))
	auth := smtp.PlainAuth("", e.Username, password, e.host)
	if !slices.Contains(methods, "PLAIN") && slices.Contains(methods, "LOGIN") {
		auth = &loginAuth{e.Username, password}
	}
	if err := client.Auth(auth); err != nil {
		return reply("AUTH", err)
	}
	return nil
}

// loginAuth is AUTH LOGIN: the server asks for the name, then for the password.
type loginAuth struct{ username, password string }

func (a *loginAuth) Start(*smtp.ServerInfo) (string, []byte, error) { return "LOGIN", nil, nil }

func (a *loginAuth) Next(question []byte, more bool) ([]byte, error) {
	switch {
	case !more:
		return nil, nil
	case bytes.HasPrefix(bytes.ToLower(question), []byte("user")):
		return []byte(a.username), nil
	case bytes.HasPrefix(bytes.ToLower(question), []byte("pass")):
		return []byte(a.password), nil
	}
	return nil, errors.New("unexpected challenge")
}

// reply tells which command failed and with what status, not with what text: a
// server may quote what it was sent.
func reply(command string, err error) error {
	var status *textproto.Error
	var protocol textproto.ProtocolError
	switch {
	case errors.As(err, &status) && status.Code/100 == 5:
		return fmt.Errorf("the mail server answered %d to %s", status.Code, command)
	case errors.As(err, &status):
		err = fmt.Errorf("the mail server answered %d to %s", status.Code, command)
	case errors.As(err, &protocol):
		err = fmt.Errorf("%s: it does not speak SMTP", command)
	default:
		err = fmt.Errorf("%s: %w", command, network(err))
	}
	return &notify.Temporary{Err: err}
}

func isDomain(host string) bool {
	for _, r := range host {
		if r != '.' && r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') {
			return false
		}
	}
	return host != "" && len(host) < 256
}

// message is the whole of it. Texts of an alert reach the header only as encoded
// words or without line ends; the body is quoted-printable.
func (e *email) message(n notify.Notification) []byte {
	domain := e.from.Address[strings.LastIndexByte(e.from.Address, '@')+1:]
	messageID := func(id string) string { return "<" + id + "@" + domain + ">" }
	subject := shorten(fmt.Sprintf("[%s] %s: %s", headline(n), n.Alert.Name, n.Alert.Summary), maxSummary)
	subject = strings.Join(strings.Fields(subject), " ")
	var to []string
	for _, address := range e.to {
		to = append(to, address.String())
	}
	var b bytes.Buffer
	header := func(name, value string) { fmt.Fprintf(&b, "%s: %s\r\n", name, value) }
	header("Date", n.Sent.Format(time.RFC1123Z))
	header("From", e.from.String())
	header("To", strings.Join(to, ",\r\n "))
	header("Subject", strings.ReplaceAll(mime.BEncoding.Encode("utf-8", subject), " =?", "\r\n =?"))
	header("Message-ID", messageID(n.ID))
	if n.ID != n.Episode {
		header("In-Reply-To", messageID(n.Episode))
		header("References", messageID(n.Episode))
	}
	header("Auto-Submitted", "auto-generated")
	header("MIME-Version", "1.0")
	header("Content-Type", "text/plain; charset=utf-8")
	header("Content-Transfer-Encoding", "quoted-printable")
	b.WriteString("\r\n")
	w := quotedprintable.NewWriter(&b)
	fmt.Fprint(w, strings.ReplaceAll(e.body(n), "\n", "\r\n"))
	w.Close() // writing to memory does not fail
	return b.Bytes()
}

func (e *email) body(n notify.Notification) string {
	lines := []string{headline(n) + ": " + shorten(n.Alert.Name, maxKeyField), "", shorten(n.Alert.Summary, maxSummary)}
	if d := n.Alert.Description; d != "" && d != n.Alert.Summary {
		lines = append(lines, shorten(d, maxDescription))
	}
	lines = append(lines, "")
	lines = append(lines, keyFields(n)...)
	lines = append(lines, "since: "+n.Opened.Format(time.RFC3339))
	if n.Kind == notify.Resolve {
		lines = append(lines, "until: "+n.Time.Format(time.RFC3339))
	}
	if url := alertURL(e.ExternalURL, n); url != "" {
		lines = append(lines, "", url)
	}
	return strings.Join(lines, "\n") + "\n"
}
