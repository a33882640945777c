package vulndb

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/anchore/grype/grype/db/v6/distribution"

	"github.com/assay-dev/assay/outgoing"
)

const (
	// partialPrefix begins the name of an archive that is being downloaded; its
	// checksum ends it. Beside it is, with validatorSuffix, what the server said
	// of its version (ETag or Last-Modified), without which it cannot go on.
	partialPrefix   = "partial-"
	validatorSuffix = ".validator"

	// answerWithin is how long a server may take to begin its answer, stallAfter
	// how long it may then be silent.
	answerWithin = 30 * time.Second
	stallAfter   = time.Minute
	// fruitless is how many attempts in a row may bring nothing.
	fruitless = 3
	// reportEvery is how many bytes are downloaded between two events.
	reportEvery = 1 << 20
)

// newClient asks with the proxies and certificates of the environment.
func newClient() *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = answerWithin
	t.OnProxyConnectResponse = func(_ context.Context, proxy *url.URL, _ *http.Request, answer *http.Response) error {
		if answer.StatusCode == http.StatusOK {
			return nil
		}
		return &proxyError{proxy: proxy.Redacted(), status: answer.Status}
	}
	return &http.Client{Transport: t, CheckRedirect: outgoing.StaySecure}
}

// proxyError is the refusal of a proxy.
type proxyError struct{ proxy, status string }

func (e *proxyError) Error() string {
	return fmt.Sprintf("the proxy %s refuses: %s; HTTPS_PROXY and NO_PROXY say which one is asked, and with which user", e.proxy, e.status)
}

// statusError is an answer other than the one that was asked for.
type statusError struct {
	url    string
	status string
	code   int
}

func (e *statusError) Error() string {
	if e.code == http.StatusProxyAuthRequired {
		return fmt.Sprintf("the proxy on the way to %s answers %s: name its user in HTTP_PROXY or HTTPS_PROXY", e.url, e.status)
	}
	return fmt.Sprintf("%s answers %s", e.url, e.status)
}

var errStalled = errors.New("nothing came for too long")

// get asks for a URL. Ranges are asked for with header.
func (s *Store) get(ctx context.Context, u *url.URL, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header = header.Clone()
	if req.Header == nil {
		req.Header = http.Header{}
	}
	req.Header.Set("User-Agent", "assay")
	req.Header.Set("Accept-Encoding", "identity") // lengths and checksums are those of what is published
	resp, err := s.cfg.HTTPClient.Do(req)
	if err != nil {
		return nil, explainHTTP(ctx, u, err)
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return resp, nil
	case http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable:
		if header.Get("Range") != "" {
			return resp, nil
		}
	}
	_ = resp.Body.Close()
	return nil, &statusError{url: u.Redacted(), status: resp.Status, code: resp.StatusCode}
}

// explainHTTP says in a user's terms why nothing answered.
func explainHTTP(ctx context.Context, u *url.URL, err error) error {
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err // its text has the URL, credentials and all
	}
	var refused *proxyError
	var untrusted *tls.CertificateVerificationError
	var op *net.OpError
	switch {
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case errors.As(err, &refused):
		return fmt.Errorf("asking %s: %w", u.Host, refused)
	case errors.As(err, &untrusted):
		return fmt.Errorf("the certificate of %s is not trusted: %w; where a proxy opens the traffic, put its authority's certificate in a file and name that in SSL_CERT_FILE", u.Host, untrusted.Err)
	case errors.As(err, &op) && op.Op == "proxyconnect":
		return fmt.Errorf("the proxy on the way to %s does not answer: %w; HTTPS_PROXY and NO_PROXY say which one is asked", u.Host, op.Err)
	}
	return fmt.Errorf("%s does not answer: %w", u.Host, err)
}

// download fetches an archive into the store's directory, or goes on where an
// earlier attempt broke off, and verifies its checksum. The update lock is the
// caller's, who removes the file.
func (s *Store) download(ctx context.Context, base *url.URL, a *distribution.Archive) (file, from string, err error) {
	want, ok := strings.CutPrefix(strings.ToLower(a.Checksum), "sha256:")
	if !ok || len(want) != 64 || strings.Trim(want, "0123456789abcdef") != "" {
		return "", "", fmt.Errorf("the listing gives no sha256 checksum but %q", a.Checksum)
	}
	u := *base
	u.Path, u.RawPath = path.Join(path.Dir(base.Path), path.Clean("/"+a.Path)), ""
	file = filepath.Join(s.cfg.Dir, partialPrefix+want)
	if err := s.forgetPartials(file); err != nil {
		return "", "", err
	}
	for again := false; ; again = true {
		resumed, err := s.fetchAll(ctx, &u, file)
		if err != nil {
			return "", "", fmt.Errorf("downloading %s: %w", u.Redacted(), s.roomFor(err))
		}
		got, err := fileSum(file)
		if err != nil {
			return "", "", err
		}
		if got == "sha256:"+want {
			return file, u.Redacted(), nil
		}
		info, err := os.Stat(file)
		if err != nil {
			return "", "", err
		}
		if err := removePartial(file); err != nil {
			return "", "", err
		}
		if resumed && !again {
			continue // the two parts may be of two files
		}
		return "", "", corrupt(fmt.Sprintf("the archive from %s has the sha256 checksum %s and %d bytes, the listing says %s; it is thrown away: try again, and ask a mirror or proxy in between when it stays so",
			u.Redacted(), strings.TrimPrefix(got, "sha256:"), info.Size(), want), nil)
	}
}

// forgetPartials removes what was downloaded of other archives.
func (s *Store) forgetPartials(but string) error {
	entries, err := os.ReadDir(s.cfg.Dir)
	if err != nil {
		return fmt.Errorf("listing the vulnerability databases: %w", err)
	}
	for _, e := range entries {
		file := filepath.Join(s.cfg.Dir, strings.TrimSuffix(e.Name(), validatorSuffix))
		if strings.HasPrefix(e.Name(), partialPrefix) && file != but {
			err = errors.Join(err, removePartial(file))
		}
	}
	return err
}

func removePartial(file string) error {
	var errs []error
	for _, f := range []string{file, file + validatorSuffix} {
		if err := os.Remove(f); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// fetchAll asks until the file is whole, as long as attempts bring something.
func (s *Store) fetchAll(ctx context.Context, u *url.URL, file string) (resumed bool, err error) {
	for vain := 0; ; {
		before := sizeOf(file)
		went, err := s.fetch(ctx, u, file)
		resumed = resumed || went
		if err == nil || ctx.Err() != nil || !passing(err) {
			return resumed, err
		}
		if vain++; sizeOf(file) > before {
			vain = 0
		}
		if vain >= fruitless {
			return resumed, fmt.Errorf("%w; the next update goes on from there", err)
		}
		select {
		case <-ctx.Done():
			return resumed, context.Cause(ctx)
		case <-time.After(s.pause << vain):
		}
	}
}

func sizeOf(file string) int64 {
	info, err := os.Stat(file)
	if err != nil {
		return 0
	}
	return info.Size()
}

// passing says whether another attempt may go better.
func passing(err error) bool {
	var status *statusError
	if errors.As(err, &status) {
		return status.code >= 500 || status.code == http.StatusTooManyRequests || status.code == http.StatusRequestTimeout
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Op != "proxyconnect"
	}
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, errStalled)
}

// fetch makes one attempt. It asks for the rest of what is there, if the server
// still has the same.
func (s *Store) fetch(ctx context.Context, u *url.URL, file string) (resumed bool, err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	have, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return false, err
	}
	header := http.Header{}
	if validator, err := readBounded(file+validatorSuffix, 1<<10); have > 0 && err == nil && len(validator) > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", have))
		header.Set("If-Range", string(validator))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	resp, err := s.get(ctx, u, header)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return true, nil // nothing is left to fetch: the checksum decides
	case resp.StatusCode == http.StatusPartialContent && strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", have)):
		resumed = true
	case resp.StatusCode == http.StatusPartialContent:
		return false, errors.Join(fmt.Errorf("%s answers with another part (%q) than was asked for", u.Redacted(), resp.Header.Get("Content-Range")), removePartial(file))
	default:
		have = 0
		if err := f.Truncate(0); err != nil {
			return false, err
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return false, err
		}
		validator := resp.Header.Get("ETag")
		if validator == "" || strings.HasPrefix(validator, "W/") {
			validator = resp.Header.Get("Last-Modified")
		}
		if err := writeAtomically(file+validatorSuffix, []byte(validator)); err != nil {
			return false, err
		}
	}
	total := int64(0)
	if resp.ContentLength >= 0 {
		total = have + resp.ContentLength
	}
	if total > s.cfg.MaxArchiveBytes {
		return resumed, fmt.Errorf("%w: the archive has %d bytes, the bound is %d", ErrTooLarge, total, s.cfg.MaxArchiveBytes)
	}
	stall := time.AfterFunc(s.stall, func() { cancel(errStalled) })
	defer stall.Stop()
	body := &counting{r: resp.Body, done: have, max: s.cfg.MaxArchiveBytes, came: func(done int64, end bool) {
		stall.Reset(s.stall)
		if end || done%reportEvery < 32<<10 {
			s.report(Event{Stage: Downloading, Done: done, Total: total})
		}
	}}
	body.came(have, true)
	_, err = io.Copy(f, body)
	var onDisk *fs.PathError
	switch {
	case err == nil:
		return resumed, nil
	case errors.Is(context.Cause(ctx), errStalled):
		err = errStalled
	case ctx.Err() != nil:
		return resumed, context.Cause(ctx)
	case errors.Is(err, ErrTooLarge), errors.As(err, &onDisk):
		return resumed, err
	default: // a connection that is reset may break off with other errors
		err = io.ErrUnexpectedEOF
	}
	of := ""
	if total > 0 {
		of = " of " + strconv.FormatInt(total, 10)
	}
	return resumed, fmt.Errorf("it broke off after %d%s bytes: %w", body.done, of, err)
}

// counting counts what is read, and fails over its bound.
type counting struct {
	r         io.Reader
	done, max int64
	came      func(done int64, end bool)
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.done += int64(n)
	if c.done > c.max {
		return 0, fmt.Errorf("%w: the archive has more than %d bytes", ErrTooLarge, c.max)
	}
	c.came(c.done, err != nil)
	return n, err
}
