package scanner

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/assay-dev/assay/outgoing"
)

var (
	// ErrInput is wrapped by errors about what the user wrote: nothing was scanned.
	ErrInput = errors.New("invalid input")
	// ErrNotMatched is the error of a scan without a [Matcher]. Its SBOM is complete.
	ErrNotMatched = errors.New("no vulnerability database: the packages were not matched")
	// ErrNotAssessed is wrapped when neither a package nor a distribution was
	// found, which says nothing about the image.
	ErrNotAssessed = errors.New("not assessed")
	// ErrCorrupt is wrapped when content does not have the digest or the size that it should have.
	ErrCorrupt = errors.New("corrupt content")

	// ErrNoImage is wrapped when what a reference leads to is something else than a
	// container image: a signature, a chart, an artifact.
	ErrNoImage = errors.New("no container image")

	// errAbsent says that a daemon does not answer or has not the image.
	errAbsent = errors.New("not there")
)

// LimitError says that a bound of the [Config] stopped a scan.
type LimitError struct {
	// Field is the field of Config that holds the bound.
	Field string
	// What was bounded, with the bound, in words.
	What string
}

// Error names the bound and its field.
func (e *LimitError) Error() string { return fmt.Sprintf("%s (the limit %s)", e.What, e.Field) }

func byteLimit(field, what string, n int64) error {
	return &LimitError{Field: field, What: fmt.Sprintf("%s more than %s", what, bytesText(n))}
}

// bytesText writes a number of bytes in binary units.
func bytesText(n int64) string {
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d bytes", n)
	}
	return fmt.Sprintf("%.4g %s", f, units[i])
}

var (
	urlQuery = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://[^ "'?]*)\?[^\s"']*`)
	// What follows the host keeps the digest of name:tag@sha256:… from reading as a host.
	urlUser   = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^ /"']*@`)
	bareUser  = regexp.MustCompile(`([^\s/"'@:]+):[^\s/"'@]+@([^\s"':]+)(:?)`)
	authValue = regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9+/=._~-]{8,}`)
)

// scrub takes credentials out of a text that users and logs see: the user
// part and the query of URLs, and the values of authorization headers.
func scrub(s string) string {
	s = urlQuery.ReplaceAllString(s, "$1")
	s = urlUser.ReplaceAllString(s, "$1")
	s = bareUser.ReplaceAllStringFunc(s, func(m string) string {
		parts := bareUser.FindStringSubmatch(m)
		if digest := parts[2]; parts[3] == ":" && (digest == "sha256" || digest == "sha384" || digest == "sha512") {
			return m
		}
		return parts[2] + parts[3]
	})
	return authValue.ReplaceAllString(s, "$1 ***")
}

// textError is an error whose text is fixed, for what it wraps may say too much.
type textError struct {
	text string
	err  error
}

func (e *textError) Error() string { return e.text }
func (e *textError) Unwrap() error { return e.err }

// scrubbed is err with a text without credentials.
func scrubbed(err error) error {
	text := err.Error()
	if clean := scrub(text); clean != text {
		return &textError{clean, err}
	}
	return err
}

// registryError says in the user's terms what a registry answered about what,
// such as "the tag nosuch".
func registryError(host, what string, err error) error {
	say := func(format string, args ...any) error {
		return &textError{"the registry " + host + " " + fmt.Sprintf(format, args...), err}
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	var not *outgoing.Refused
	if errors.As(err, &not) {
		return say("is not asked: %v", not)
	}
	var te *transport.Error
	if errors.As(err, &te) {
		code := transport.ErrorCode("")
		if len(te.Errors) > 0 {
			code = te.Errors[0].Code
		}
		switch {
		case code == transport.NameUnknownErrorCode:
			return say("says there is no such repository")
		case code == transport.ManifestUnknownErrorCode || code == transport.BlobUnknownErrorCode:
			return say("says there is no such %s", what)
		case te.StatusCode == http.StatusUnauthorized || code == transport.UnauthorizedErrorCode:
			return say("asks for credentials: none were found for it, or it does not accept them")
		case te.StatusCode == http.StatusForbidden || code == transport.DeniedErrorCode:
			return say("denies access (or there is no such repository)")
		case te.StatusCode == http.StatusTooManyRequests || code == transport.TooManyRequestsErrorCode:
			return say("refuses further requests for now: its rate limit is reached")
		case te.StatusCode == http.StatusNotFound:
			return say("says there is no such %s", what)
		}
		return say("failed: HTTP status %d %s", te.StatusCode, scrub(diagnostics(te)))
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		if ue.Timeout() {
			return say("does not answer in time")
		}
		var ne net.Error
		if errors.As(ue.Err, &ne) {
			return say("cannot be reached: %s", scrub(ue.Err.Error()))
		}
		return say("cannot be reached: %s", scrub(ue.Err.Error()))
	}
	return say("failed: %s", scrub(err.Error()))
}

// diagnostics is what a registry said of its failure, cut short.
func diagnostics(te *transport.Error) string {
	text := http.StatusText(te.StatusCode)
	for _, d := range te.Errors {
		text += fmt.Sprintf("; %s: %.200s", d.Code, d.Message)
	}
	return text
}

// IsAbsent says that an image, or a part of it, is not where it was looked for.
func IsAbsent(err error) bool { return errors.Is(err, errAbsent) }
