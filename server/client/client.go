// Package client sends scans and SBOMs to a server.
package client

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/outgoing"
)

// Config says which server, and with what credential.
type Config struct {
	// URL is that of the server, with or without /api/v1.
	URL string
	// Token is sent over https, and over http to this machine alone.
	Token string
	// TokenFile holds the token in the place of Token; it is read at each request.
	TokenFile string
	// CAFile has further certificates to trust.
	CAFile string
	// Attempts at one request; 0 is 5. They are a second apart, then two, and so on.
	Attempts int
	// Warn, where given, is told why a request is sent again.
	Warn      func(error)
	UserAgent string
}

// Client is safe for concurrent use.
type Client struct {
	config Config
	base   *url.URL
	http   *http.Client
}

// New checks a configuration; it sends nothing.
func New(c Config) (*Client, error) {
	base, err := url.Parse(strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(c.URL, "/"), "/api/v1"), "/"))
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" || base.User != nil {
		return nil, errors.New("the URL of the server must be such as https://assay.example.com, without user and password")
	}
	if (c.Token != "" || c.TokenFile != "") && base.Scheme == "http" {
		if !outgoing.IsLoopback(base.Hostname()) {
			return nil, fmt.Errorf("the token would cross the network in the clear: use https for %s", base.Host)
		}
	}
	if c.Attempts <= 0 {
		c.Attempts = 5
	}
	if c.Warn == nil {
		c.Warn = func(error) {}
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if c.CAFile != "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		text, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading certificates: %w", err)
		}
		if !pool.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("reading certificates: %s has none", c.CAFile)
		}
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
	}
	return &Client{config: c, base: base, http: &http.Client{
		Transport: transport, Timeout: 5 * time.Minute,
		CheckRedirect: outgoing.NoRedirects, // the body would not go along
	}}, nil
}

// ErrRefused is wrapped when the server does not take what was sent, and would take
// something else: it is too large, is not valid, or the token is not for that image.
var ErrRefused = errors.New("the server refuses it")

// Uploaded is what the server says of an image that was sent.
type Uploaded struct {
	Image   string     `json:"image"`
	Digest  string     `json:"digest"`
	New     bool       `json:"new"`
	Result  api.Result `json:"result"` // "" where it is not computed yet
	MaxCVSS *float64   `json:"max_cvss"`
}

// Scans sends a report: all of it is stored, or nothing. Sent again it changes nothing.
func (c *Client) Scans(ctx context.Context, report api.ScanReport) ([]Uploaded, error) {
	text, err := json.Marshal(report)
	if err != nil {
		return nil, fmt.Errorf("writing the scans: %w", err)
	}
	return c.post(ctx, "scans", nil, text)
}

// SBOM sends an SBOM in any format that the server knows, with the reference and, where
// it does not say so itself, the digest that it is of.
func (c *Client) SBOM(ctx context.Context, image, digest string, document []byte) error {
	_, err := c.post(ctx, "sboms", url.Values{"image": {image}, "digest": {digest}}, document)
	return err
}

// Image is the newest scan that the server has of a digest, with its result and the
// exceptions that cover its vulnerabilities, as the reference has them; nil where it has none.
func (c *Client) Image(ctx context.Context, image, digest string) (*api.Scan, error) {
	var answer struct {
		Scan *api.Scan `json:"scan"`
	}
	err := c.call(ctx, request{method: http.MethodGet, what: "images/" + digest, query: url.Values{"reference": {image}}}, &answer)
	var refused *Error
	if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		return nil, nil
	}
	return answer.Scan, err
}

// PackedSBOM sends an SBOM that is packed with zstd already.
func (c *Client) PackedSBOM(ctx context.Context, image, digest string, packed []byte) error {
	return c.call(ctx, request{method: http.MethodPost, what: "sboms", query: url.Values{"image": {image}, "digest": {digest}}, encoding: "zstd", body: packed}, nil)
}

// Decisions sends records of decisions; those that the server has change nothing.
func (c *Client) Decisions(ctx context.Context, list []api.AdmissionRecord) error {
	text, err := json.Marshal(map[string]any{"items": list})
	if err == nil {
		_, err = c.post(ctx, "decisions", nil, text)
	}
	return err
}

// RequestScans asks the server to scan images.
func (c *Client) RequestScans(ctx context.Context, images []string) error {
	text, err := json.Marshal(map[string]any{"images": images})
	if err == nil {
		_, err = c.post(ctx, "scan-requests", nil, text)
	}
	return err
}

// Text is a body or an answer that is not JSON, with its media type.
type Text struct {
	Type  string
	Bytes []byte
}

// Call sends a request of any route: its method, its path below /api/v1, its parameters,
// and a body, which is written as JSON where it is no [Text]; none for nil. The answer is
// read from JSON into what answer points at, or into a [*Text]; nil leaves it. It is asked
// again as often as Config says. An answer of more than 64 MB is an error: for those is
// [Client.Open].
func (c *Client) Call(ctx context.Context, method, path string, query url.Values, body, answer any) error {
	r := request{method: method, what: strings.TrimPrefix(path, "/"), query: query}
	switch body := body.(type) {
	case nil:
	case Text:
		r.media, r.body = body.Type, body.Bytes
	default:
		var err error
		if r.body, err = json.Marshal(body); err != nil {
			return fmt.Errorf("writing what goes to %s: %w", r.what, err)
		}
	}
	return c.call(ctx, r, answer)
}

// Open reads an answer as it comes: an export, a download, the stream of events. It is
// asked for once, and takes as long as ctx lets it; the caller closes it.
func (c *Client) Open(ctx context.Context, path string, query url.Values) (io.ReadCloser, error) {
	r := request{method: http.MethodGet, what: strings.TrimPrefix(path, "/"), query: query}
	long := &http.Client{Transport: c.http.Transport, CheckRedirect: c.http.CheckRedirect}
	response, _, err := c.do(ctx, long, r)
	if err == nil && response.StatusCode/100 != 2 {
		defer response.Body.Close()
		_, err = read(response, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("asking %s for %s: %w", c.base, r.what, err)
	}
	return response.Body, nil
}

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 64 << 20

// Error is a request that the server refused, or could not answer.
type Error struct {
	Status int
	text   string
}

func (e *Error) Error() string { return e.text }

// request is one request as it goes over the wire, its body packed.
type request struct {
	method, what, encoding string
	media                  string // "" is JSON
	query                  url.Values
	body                   []byte
}

func (c *Client) post(ctx context.Context, what string, query url.Values, body []byte) ([]Uploaded, error) {
	var answer struct {
		Images []Uploaded `json:"images"`
	}
	err := c.json(ctx, http.MethodPost, what, query, body, &answer)
	return answer.Images, err
}

// json sends a body packed with gzip, and reads the answer, if any, into answer.
func (c *Client) json(ctx context.Context, method, what string, query url.Values, body []byte, answer any) error {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(body); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return c.call(ctx, request{method: method, what: what, query: query, encoding: "gzip", body: packed.Bytes()}, answer)
}

// call sends a request until it is answered, as often as it may.
func (c *Client) call(ctx context.Context, r request, answer any) error {
	for attempt := 1; ; attempt++ {
		after, err := c.send(ctx, r, answer)
		if err == nil {
			return nil
		}
		if after < 0 || attempt == c.config.Attempts || ctx.Err() != nil {
			return fmt.Errorf("sending %s to %s: %w", r.what, c.base, err)
		}
		c.config.Warn(err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(max(after, time.Second<<(attempt-1))):
		}
	}
}

// send gives a negative time with errors that another attempt would meet again.
func (c *Client) send(ctx context.Context, r request, answer any) (time.Duration, error) {
	response, after, err := c.do(ctx, c.http, r)
	if err != nil {
		return after, err
	}
	defer response.Body.Close()
	return read(response, answer)
}

// do sends a request, and gives what comes back, whatever its status.
func (c *Client) do(ctx context.Context, by *http.Client, r request) (*http.Response, time.Duration, error) {
	target := c.base.JoinPath("api/v1", r.what)
	target.RawQuery = r.query.Encode()
	request, err := http.NewRequestWithContext(ctx, r.method, target.String(), bytes.NewReader(r.body))
	if err != nil {
		return nil, -1, err
	}
	request.Header.Set("Content-Type", cmp.Or(r.media, "application/json"))
	if r.encoding != "" {
		request.Header.Set("Content-Encoding", r.encoding)
	}
	request.Header.Set("User-Agent", c.config.UserAgent)
	token := c.config.Token
	if c.config.TokenFile != "" {
		text, err := os.ReadFile(c.config.TokenFile)
		if err != nil {
			return nil, 0, fmt.Errorf("reading the token: %w", err)
		}
		token = strings.TrimSpace(string(text))
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := by.Do(request)
	if err != nil {
		var wrong *tls.CertificateVerificationError
		if errors.As(err, &wrong) {
			return nil, -1, wrong
		}
		return nil, 0, errors.Unwrap(err) // without the URL, which is said once
	}
	return response, 0, nil
}

// read reads an answer, as send gives it.
func read(response *http.Response, answer any) (time.Duration, error) {
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil {
		return 0, err
	}
	if len(text) > maxAnswer {
		return -1, fmt.Errorf("the answer has more than %d MB", maxAnswer>>20)
	}
	if response.StatusCode/100 == 2 {
		if raw, ok := answer.(*Text); ok {
			*raw = Text{response.Header.Get("Content-Type"), text}
			return 0, nil
		}
		if len(text) == 0 || answer == nil {
			return 0, nil
		}
		if err := json.Unmarshal(text, answer); err != nil {
			return -1, fmt.Errorf("the answer is not that of an Assay server: %w", err)
		}
		return 0, nil
	}
	err = &Error{Status: response.StatusCode, text: problem(response.Status, text)}
	switch response.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusBadGateway, http.StatusGatewayTimeout:
		seconds, _ := strconv.Atoi(response.Header.Get("Retry-After")) // a date, which few send, is no wait
		return min(time.Duration(max(seconds, 0))*time.Second, time.Minute), err
	case http.StatusForbidden, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return -1, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return -1, err
}

// maxFaults bounds the faults that an error shows.
const maxFaults = 10

// problem is what a server says in problem details, or its status.
func problem(status string, text []byte) string {
	var said struct {
		Detail string `json:"detail"`
		Errors []struct {
			Pointer string `json:"pointer"`
			Detail  string `json:"detail"`
		} `json:"errors"`
	}
	if json.Unmarshal(text, &said) != nil || said.Detail == "" {
		return "the server answers " + status
	}
	b := strings.Builder{}
	b.WriteString(said.Detail + " (" + status + ")")
	for i, e := range said.Errors {
		if i == maxFaults {
			fmt.Fprintf(&b, "\n  and %d more", len(said.Errors)-i)
			break
		}
		b.WriteString("\n  " + strings.TrimSpace(e.Pointer+": "+e.Detail))
	}
	return b.String()
}
