package follow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/bundles/serve"
)

// fetchHead waits for another head than the one in force; nil when there is none yet.
func (f *Follower) fetchHead(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience+mostDelay)
	defer cancel()
	f.mu.Lock()
	have, failing := f.etag, f.fault != nil
	f.mu.Unlock()
	request, err := f.request(ctx, bundles.HeadOf(f.View), "")
	if err != nil {
		return nil, err
	}
	if have != "" {
		request.Header.Set("If-None-Match", have)
	}
	if !failing { // else an answer at once says that all is well again
		request.Header.Set("Prefer", fmt.Sprintf("modes=snapshot;wait=%d", int(wait.Seconds())))
	}
	begun := time.Now()
	response, err := f.ask(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusNotModified:
		// Who does not hold requests is polled.
		if since := time.Since(begun); since < time.Second && !failing {
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
		return nil, nil
	case http.StatusOK:
		return f.body(response, bundles.MaxHead)
	case http.StatusNotFound:
		return nil, fmt.Errorf("asking %s: there is no head at %s: the server is not ready, or it is of a release before heads, and must be upgraded first", f.base, request.URL.Path)
	}
	return nil, fmt.Errorf("asking %s: the server answers %s", f.base, response.Status)
}

// fetch has a part at hand for read.
func (f *Follower) fetch(ctx context.Context, name, digest string) error {
	if _, err := f.read(name, digest); err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience+10*time.Minute)
	defer cancel()
	request, err := f.request(ctx, name, digest)
	if err != nil {
		return err
	}
	response, err := f.ask(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return fmt.Errorf("asking %s: %s: %w", f.base, name, errMoved)
	default:
		return fmt.Errorf("asking %s: %s: the server answers %s", f.base, name, response.Status)
	}
	text, err := f.body(response, bundles.MaxBundle)
	if err != nil {
		return err
	}
	if bundles.Digest(text) != digest {
		return fmt.Errorf("asking %s: %s: %w", f.base, name, errMoved)
	}
	return f.write(name, digest, text)
}

// request is one of a bundle: of a digest, or with "" of the present one.
func (f *Follower) request(ctx context.Context, name, digest string) (*http.Request, error) {
	parts := strings.Split(name, "/")
	for i := range parts { // names have percent signs of their own
		parts[i] = url.PathEscape(parts[i])
	}
	address := f.base.JoinPath(append([]string{serve.Prefix}, parts...)...)
	if digest != "" {
		address.RawQuery = url.Values{"digest": {digest}}.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return nil, err
	}
	if f.TokenFile != "" {
		token, err := os.ReadFile(f.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("reading the token: %w", err)
		}
		request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	return request, nil
}

func (f *Follower) ask(request *http.Request) (*http.Response, error) {
	response, err := f.client.Do(request)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, fmt.Errorf("asking %s: %w", f.base, err)
	}
	return response, nil
}

func (f *Follower) body(response *http.Response, limit int64) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", response.Request.URL.Path, limit)
	}
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", f.base, err)
	}
	return text, nil
}
