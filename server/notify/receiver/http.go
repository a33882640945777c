// Package receiver has what notifications are sent to: Alertmanager, a signed
// webhook, Slack, e-mail and Kubernetes Events. Each is made from its
// configuration, as a document of package notify/config has it. Addresses are an
// administrator's; redirects are not followed, so that neither secrets nor texts
// go where nobody sent them. Errors name neither secrets nor what a server
// answered beside its status.
package receiver

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/assay-dev/assay/outgoing"
	"github.com/assay-dev/assay/server/notify"
)

const maxAnswer = 64 << 10 // bytes of a body that is read, so that the connection is kept

// Kinds chooses notifications, for receivers that people read.
type Kinds struct {
	SendResolved *bool `json:"sendResolved,omitempty"` // absent: true
	SendUpdates  *bool `json:"sendUpdates,omitempty"`  // absent: false, true for webhooks
}

func (k Kinds) takes(kind notify.Kind, updates bool) bool {
	switch {
	case kind == notify.Open:
		return true
	case kind == notify.Resolve:
		return k.SendResolved == nil || *k.SendResolved
	case kind == notify.Update && k.SendUpdates != nil:
		return *k.SendUpdates
	}
	return kind == notify.Update && updates
}

// Auth is how a receiver is told who sends: a bearer token, or a name and password.
type Auth struct {
	TokenFrom    Secret `json:"tokenFrom,omitzero"`
	Username     string `json:"username,omitempty"`
	PasswordFrom Secret `json:"passwordFrom,omitzero"`
}

// set writes the header of a request.
func (a Auth) set(header http.Header) error {
	switch {
	case a.TokenFrom.IsSet():
		token, err := a.TokenFrom.read()
		if err != nil {
			return err
		}
		header.Set("Authorization", "Bearer "+token)
	case a.Username != "":
		password, err := a.PasswordFrom.read()
		if err != nil {
			return err
		}
		header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(a.Username+":"+password)))
	}
	return nil
}

// tlsConfig trusts the system's authorities, or those of a file instead.
func tlsConfig(caFile string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile == "" {
		return config, nil
	}
	text, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate authorities: %w", err)
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s has no certificate in PEM form", caFile)
	}
	return config, nil
}

func newClient(caFile string) (*http.Client, error) {
	config, err := tlsConfig(caFile)
	if err != nil {
		return nil, err
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: config, ForceAttemptHTTP2: true,
			MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: outgoing.NoRedirects,
	}, nil
}

// refusal is an answer that is no success.
type refusal struct {
	status int
	body   []byte // at most maxAnswer bytes, which may hold anything
}

func (r *refusal) Error() string {
	text := fmt.Sprintf("the answer was %d %s", r.status, http.StatusText(r.status))
	if r.status/100 == 3 {
		text += "; redirects are not followed"
	}
	return text
}

// post sends a JSON body. An error is a [refusal], or temporary.
func post(ctx context.Context, client *http.Client, url string, header http.Header, body []byte) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return errors.New("the URL is not valid") // the error has the URL, which may be secret
	}
	request.Header = header
	header.Set("Content-Type", "application/json")
	header.Set("User-Agent", "assay")
	response, err := client.Do(request)
	if err != nil {
		return &notify.Temporary{Err: network(err)}
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	status := response.StatusCode
	refused := &refusal{status: status, body: answer}
	switch {
	case status/100 == 2 && err != nil:
		return &notify.Temporary{Err: network(err)}
	case status/100 == 2:
		return nil
	case status/100 == 5, status == http.StatusTooManyRequests, status == http.StatusRequestTimeout, status == http.StatusTooEarly:
		return &notify.Temporary{Err: refused, After: retryAfter(response.Header)}
	}
	return refused
}

// retryAfter is what the header asks for, 0 without.
func retryAfter(header http.Header) time.Duration {
	text := header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	at, err := http.ParseTime(text)
	since, err2 := http.ParseTime(header.Get("Date"))
	if err != nil || err2 != nil {
		return 0
	}
	return max(0, at.Sub(since))
}

// network tells what went wrong between two machines, in words that have nothing
// of the request: errors of net/http may quote its URL or the answer.
func network(err error) error {
	var (
		op       *net.OpError
		dns      *net.DNSError
		verify   *tls.CertificateVerificationError
		record   tls.RecordHeaderError
		number   syscall.Errno
		timedOut interface{ Timeout() bool }
	)
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, net.ErrClosed), errors.As(err, &timedOut) && timedOut.Timeout():
		return errors.New("no answer in time")
	case errors.As(err, &verify):
		return fmt.Errorf("its certificate is not trusted: %w", verify.Err)
	case errors.As(err, &dns):
		return fmt.Errorf("looking its name up: %s", cmp.Or(dns.Err, "failed"))
	case errors.As(err, &record):
		return errors.New("it does not speak TLS")
	case errors.As(err, &number):
		return fmt.Errorf("connecting: %w", number)
	case errors.As(err, &op):
		return fmt.Errorf("connecting: %w", op.Err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the connection was closed")
	}
	return errors.New("the connection failed")
}
