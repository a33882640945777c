package console

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"golang.org/x/sync/errgroup"

	"github.com/assay-dev/assay/server"
)

// fault is what the API refused, or could not do: problem details for people.
type fault struct {
	Status int            `json:"status"`
	Title  string         `json:"title"`
	Detail string         `json:"detail"`
	Errors []server.Fault `json:"errors"`
}

func (f *fault) Error() string { return f.Detail }

// reply collects an answer of the API.
type reply struct {
	header http.Header
	status int
	text   bytes.Buffer
}

func (r *reply) Header() http.Header { return r.header }

func (r *reply) WriteHeader(status int) { r.status = status }

func (r *reply) Write(text []byte) (int, error) { return r.text.Write(text) }

// get asks the API in the name of who sent r.
func (c *Console) get(r *http.Request, path string, query url.Values, out any) error {
	return c.ask(r, http.MethodGet, path, query, "", nil, out)
}

// send asks the API to do something; in is JSON, nil none.
func (c *Console) send(r *http.Request, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	return c.ask(r, method, path, nil, "application/json", body, out)
}

// ask gives a *fault where the API does not do what was asked.
func (c *Console) ask(r *http.Request, method, path string, query url.Values, media string, body io.Reader, out any) error {
	target := "/api/v1" + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	request, err := http.NewRequestWithContext(r.Context(), method, target, body)
	if err != nil {
		return fmt.Errorf("asking the API: %w", err)
	}
	if media != "" {
		request.Header.Set("Content-Type", media)
	}
	answer := &reply{header: http.Header{}, status: http.StatusOK}
	c.API.ServeHTTP(answer, request)
	if answer.status >= http.StatusMultipleChoices {
		f := &fault{}
		if json.Unmarshal(answer.text.Bytes(), f) != nil || f.Detail == "" {
			f.Detail = answer.text.String()
		}
		f.Status = answer.status
		if f.Title == "" {
			f.Title = http.StatusText(answer.status)
		}
		return f
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer.text.Bytes(), out); err != nil {
		return fmt.Errorf("reading the answer of %s: %w", path, err)
	}
	return nil
}

// segment is a value as one part of a path of the API.
func segment(value string) string { return url.PathEscape(value) }

// question is what a page asks the API, and where the answer goes.
type question struct {
	path  string
	query url.Values
	into  any
}

// getAll asks several questions, some at a time: a page of many parts is there sooner.
func (c *Console) getAll(r *http.Request, list []question) error {
	g, ctx := errgroup.WithContext(r.Context())
	g.SetLimit(4)
	r = r.WithContext(ctx)
	for _, q := range list {
		g.Go(func() error { return c.get(r, q.path, q.query, q.into) })
	}
	return g.Wait()
}
