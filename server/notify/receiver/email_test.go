package receiver_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/server/notify"
	"github.com/assay-dev/assay/server/notify/receiver"
	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// mailServer is a real one, in memory.
type mailServer struct {
	mechanisms []string
	refuse     *smtp.SMTPError // of every recipient

	mu       sync.Mutex
	messages []message
}

type message struct {
	from string
	to   []string
	user string
	tls  bool
	text string
}

func (s *mailServer) NewSession(c *smtp.Conn) (smtp.Session, error) {
	_, secure := c.TLSConnectionState()
	return &session{server: s, message: message{tls: secure}}, nil
}

type session struct {
	server *mailServer
	message
}

func (s *session) AuthMechanisms() []string { return s.server.mechanisms }

func (s *session) Auth(mechanism string) (sasl.Server, error) {
	check := func(username, password string) error {
		if username != "assay" || password != token {
			return &smtp.SMTPError{Code: 535, Message: "no: " + username + " " + password} // quotes what it was sent
		}
		s.user = username
		return nil
	}
	if mechanism == sasl.Plain {
		return sasl.NewPlainServer(func(_, username, password string) error { return check(username, password) }), nil
	}
	return &loginServer{check: check}, nil
}

// loginServer is AUTH LOGIN, as servers ask it.
type loginServer struct {
	check    func(username, password string) error
	step     int
	username string
}

func (l *loginServer) Next(response []byte) ([]byte, bool, error) {
	l.step++
	switch l.step {
	case 1:
		return []byte("Username:"), false, nil
	case 2:
		l.username = string(response)
		return []byte("Password:"), false, nil
	}
	return nil, true, l.check(l.username, string(response))
}

func (s *session) Mail(from string, _ *smtp.MailOptions) error { s.from = from; return nil }
func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if s.server.refuse != nil {
		return s.server.refuse
	}
	s.to = append(s.to, to)
	return nil
}

func (s *session) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.text = string(text)
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	s.server.messages = append(s.server.messages, s.message)
	return nil
}

func (s *session) Reset()        { s.to = nil }
func (s *session) Logout() error { return nil }

// certificate is one of 127.0.0.1 that signs itself.
func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mail"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func caFile(t *testing.T, c *x509.Certificate) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// serve starts a mail server; with a certificate it offers STARTTLS, or speaks TLS
// from the first byte.
func (s *mailServer) serve(t *testing.T, c *tls.Certificate, implicit bool) string {
	t.Helper()
	server := smtp.NewServer(s)
	server.Domain = "localhost"
	server.AllowInsecureAuth = true
	server.ErrorLog = discard{}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if c != nil {
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{*c}}
		if implicit {
			listener = tls.NewListener(listener, server.TLSConfig)
		}
	}
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(listener) }()
	t.Cleanup(func() { server.Close(); <-done })
	return address
}

type discard struct{}

func (discard) Printf(string, ...any) {}
func (discard) Println(...any)        {}

func newEmail(t *testing.T, c receiver.EmailConfig) notify.Receiver {
	t.Helper()
	if c.From == "" {
		c.From = "Assay <assay@example.com>"
	}
	if c.To == nil {
		c.To = []string{"ops@example.com", `"Ünal, S." <sec@example.com>`}
	}
	r, err := receiver.NewEmail(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestEmail(t *testing.T) {
	c := certificate(t)
	for _, test := range []struct {
		name       string
		mechanisms []string
		tls        string
	}{
		{"starttls and plain", []string{"PLAIN", "LOGIN"}, ""},
		{"starttls and login", []string{"LOGIN"}, receiver.TLSRequired},
		{"implicit and plain", []string{"PLAIN"}, receiver.TLSImplicit},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := &mailServer{mechanisms: test.mechanisms}
			address := server.serve(t, &c, test.tls == receiver.TLSImplicit)
			r := newEmail(t, receiver.EmailConfig{Address: address, TLS: test.tls, CAFile: caFile(t, c.Leaf), Username: "assay", PasswordFrom: secretFile(t, token), ExternalURL: "https://assay.example.com"})
			first, last := opened(alert()), resolved(alert())
			for _, n := range []notify.Notification{first, first, last} {
				if err := r.Send(t.Context(), n); err != nil {
					t.Fatal(err)
				}
			}
			if len(server.messages) != 3 {
				t.Fatalf("%d messages arrived", len(server.messages))
			}
			got := server.messages[0]
			if !got.tls || got.user != "assay" || got.from != "assay@example.com" || !slices.Equal(got.to, []string{"ops@example.com", "sec@example.com"}) {
				t.Errorf("%+v", got)
			}
			m, body := readMail(t, got.text)
			if subject := m.Header.Get("Subject"); subject != "[Firing, severity 80] kev-in-production: 2 images with <known> & exploited CVEs" {
				t.Errorf("the subject is %q", subject)
			}
			if !strings.Contains(body, "namespace: shop") || !strings.Contains(body, "https://assay.example.com/alerts/kev-in-production") {
				t.Errorf("the body is %q", body)
			}
			again, _ := readMail(t, server.messages[1].text)
			over, body := readMail(t, server.messages[2].text)
			id := m.Header.Get("Message-ID")
			if id != "<"+first.ID+"@example.com>" || again.Header.Get("Message-ID") != id || over.Header.Get("Message-ID") == id || over.Header.Get("In-Reply-To") != id || !strings.Contains(body, "until: ") {
				t.Errorf("message IDs are %s, %s, %s in reply to %s", id, again.Header.Get("Message-ID"), over.Header.Get("Message-ID"), over.Header.Get("In-Reply-To"))
			}
		})
	}
}

func readMail(t *testing.T, text string) (*mail.Message, string) {
	t.Helper()
	m, err := mail.ReadMessage(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	for _, line := range strings.Split(text, "\r\n") {
		if len(line) > 998 || strings.ContainsAny(line, "\r\n") {
			t.Errorf("the line %.80q… has %d bytes or bare line ends", line, len(line))
		}
	}
	if _, err := mail.ParseAddressList(m.Header.Get("To")); err != nil {
		t.Errorf("To: %v", err)
	}
	body, err := io.ReadAll(quotedprintable.NewReader(m.Body))
	if err != nil {
		t.Fatal(err)
	}
	return m, string(body)
}

// No text of an alert becomes a header, an end of the message or a command.
func TestEmailInjection(t *testing.T) {
	server := &mailServer{}
	r := newEmail(t, receiver.EmailConfig{Address: server.serve(t, nil, false)})
	hostile := "x\r\nBcc: evil@example.com\r\n\r\nbody\r\n.\r\nMAIL FROM:<evil@example.com>\r\n\u2028ü\x00=?utf-8?q?=0D=0ABcc:_e@example.com?="
	n := opened(api.Alert{Name: hostile, Severity: 50, Summary: hostile + strings.Repeat("ü", 5000), Description: hostile, Key: map[string]string{hostile: hostile}})
	if err := r.Send(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	if len(server.messages) != 1 || len(server.messages[0].to) != 2 {
		t.Fatalf("arrived: %+v", server.messages)
	}
	m, _ := readMail(t, server.messages[0].text)
	known := []string{"Date", "From", "To", "Subject", "Message-Id", "Auto-Submitted", "Mime-Version", "Content-Type", "Content-Transfer-Encoding"}
	for name := range m.Header {
		if !slices.Contains(known, name) {
			t.Errorf("the header %s was injected", name)
		}
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	if err != nil || strings.ContainsAny(subject, "\r\n\x00") {
		t.Errorf("the subject is %q, %v", subject, err)
	}
	for _, config := range []receiver.EmailConfig{
		{Address: "mail:25", From: "a@example.com\r\nBcc: e@example.com", To: []string{"b@example.com"}},
		{Address: "mail:25", From: "a@example.com", To: []string{"b@example.com>\r\nRCPT TO:<e@example.com"}},
		{Address: "mail:25", From: "\"a\r\nBcc: e\"@example.com", To: []string{"b@example.com"}},
		{Address: "mail", From: "a@example.com", To: []string{"b@example.com"}},
	} {
		if _, err := receiver.NewEmail(config); err == nil {
			t.Errorf("%+v is taken", config)
		}
	}
}

func TestEmailFaults(t *testing.T) {
	c := certificate(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for _, test := range []struct {
		name      string
		server    *mailServer
		config    receiver.EmailConfig
		temporary bool
		want      string
	}{
		{"wrong password", &mailServer{mechanisms: []string{"PLAIN"}}, receiver.EmailConfig{CAFile: caFile(t, c.Leaf), Username: "assay", PasswordFrom: secretFile(t, "wrong"+token)}, false, "535 to AUTH"},
		{"greylisted", &mailServer{refuse: &smtp.SMTPError{Code: 451, Message: "later"}}, receiver.EmailConfig{CAFile: caFile(t, c.Leaf)}, true, "451 to RCPT"},
		{"no such user", &mailServer{refuse: &smtp.SMTPError{Code: 550, Message: "no"}}, receiver.EmailConfig{CAFile: caFile(t, c.Leaf)}, false, "550 to RCPT"},
		{"untrusted certificate", &mailServer{}, receiver.EmailConfig{}, true, "not trusted"},
		{"password missing", &mailServer{mechanisms: []string{"PLAIN"}}, receiver.EmailConfig{CAFile: caFile(t, c.Leaf), Username: "assay", PasswordFrom: receiver.Secret{Env: "ASSAY_TEST_UNSET"}}, true, "ASSAY_TEST_UNSET"},
		{"silence", nil, receiver.EmailConfig{Address: silent.Addr().String()}, true, "no answer in time"},
	} {
		t.Run(test.name, func(t *testing.T) {
			timeout := time.Minute
			if test.server != nil {
				test.config.Address = test.server.serve(t, &c, false)
			} else {
				timeout = 50 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			err := newEmail(t, test.config).Send(ctx, opened(alert()))
			var again *notify.Temporary
			if err == nil || errors.As(err, &again) != test.temporary || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("%v, temporary %v, want %q, temporary %v", err, again != nil, test.want, test.temporary)
			}
			checkSecrets(t, err.Error())
			if test.server != nil && len(test.server.messages) > 0 {
				t.Error("a message arrived")
			}
		})
	}
}

// A server without TLS gets neither a message nor a password, unless it is on
// this machine; plain text elsewhere must be asked for.
func TestEmailNeedsTLS(t *testing.T) {
	server := &mailServer{mechanisms: []string{"PLAIN"}}
	address := server.serve(t, nil, false)
	if err := newEmail(t, receiver.EmailConfig{Address: address, Username: "assay", PasswordFrom: secretFile(t, token)}).Send(t.Context(), opened(alert())); err != nil {
		t.Errorf("on loopback: %v", err)
	}
	// The unspecified address leads to this machine, and is no loopback address.
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	host := net.JoinHostPort("0.0.0.0", port)
	err = newEmail(t, receiver.EmailConfig{Address: host}).Send(t.Context(), opened(alert()))
	if err == nil || !strings.Contains(err.Error(), "STARTTLS") {
		t.Errorf("elsewhere: %v", err)
	}
	err = newEmail(t, receiver.EmailConfig{Address: host, TLS: receiver.TLSNone, Username: "assay", PasswordFrom: secretFile(t, token)}).Send(t.Context(), opened(alert()))
	if err == nil || !strings.Contains(err.Error(), "without TLS") {
		t.Errorf("a password elsewhere: %v", err)
	}
	if err := newEmail(t, receiver.EmailConfig{Address: host, TLS: receiver.TLSNone}).Send(t.Context(), opened(alert())); err != nil {
		t.Errorf("asked for: %v", err)
	}
	if len(server.messages) != 2 {
		t.Errorf("%d messages arrived, want 2", len(server.messages))
	}
}
