package child

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/assay-dev/assay/outgoing"
)

// What a child asks of a registry goes through its parent, over a socket: the rates, the
// certificates and what may be reached at all are the parent's, for all of its children.

const (
	askedHeader  = "Assay-Url"
	hostHeader   = "Assay-Host"
	failedHeader = "Assay-Failed"
	// finalHeader says that a guard of the parent refuses it, now and later.
	finalHeader = "Assay-Final"
	// maxAsked bounds the requests of one child at a time.
	maxAsked = 32
)

// serve carries out requests that come over a socket, until end is called.
func serve(network http.RoundTripper) (socket string, end func(), err error) {
	if network == nil {
		network = http.DefaultTransport
	}
	// A path of its own: those of sockets are short.
	dir, err := os.MkdirTemp("", "assay-")
	if err != nil {
		return "", nil, err
	}
	socket = filepath.Join(dir, "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		_ = os.RemoveAll(dir)
		return "", nil, err
	}
	slots := make(chan struct{}, maxAsked)
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		slots <- struct{}{}
		defer func() { <-slots }()
		carry(w, r, network)
	})}
	go func() { _ = server.Serve(listener) }()
	return socket, func() {
		_ = server.Close()
		_ = os.RemoveAll(dir)
	}, nil
}

func carry(w http.ResponseWriter, r *http.Request, network http.RoundTripper) {
	fail := func(err error) {
		w.Header().Set(failedHeader, url.QueryEscape(err.Error()))
		if errors.As(err, new(*outgoing.Refused)) {
			w.Header().Set(finalHeader, "true")
		}
		w.WriteHeader(http.StatusBadGateway)
	}
	to, err := url.Parse(r.Header.Get(askedHeader))
	if err != nil || to.Scheme != "https" && to.Scheme != "http" {
		fail(fmt.Errorf("no address of a registry: %.100q", r.Header.Get(askedHeader)))
		return
	}
	out := r.Clone(r.Context())
	out.URL, out.RequestURI, out.Host = to, "", r.Header.Get(hostHeader)
	out.Header.Del(askedHeader)
	out.Header.Del(hostHeader)
	if r.ContentLength == 0 {
		out.Body = nil
	}
	answer, err := network.RoundTrip(out)
	if err != nil {
		fail(err)
		return
	}
	defer answer.Body.Close()
	maps.Copy(w.Header(), answer.Header)
	w.WriteHeader(answer.StatusCode)
	_, _ = io.Copy(w, answer.Body)
}

// transport sends requests over a parent's socket.
type transport struct{ base *http.Transport }

func through(socket string) *transport {
	return &transport{&http.Transport{DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	in := r.Clone(r.Context())
	in.Header.Set(askedHeader, r.URL.String())
	in.Header.Set(hostHeader, r.Host)
	in.URL = &url.URL{Scheme: "http", Host: "parent", Path: "/"}
	answer, err := t.base.RoundTrip(in)
	if err != nil {
		return nil, err
	}
	if why := answer.Header.Get(failedHeader); why != "" {
		_ = answer.Body.Close()
		text, err := url.QueryUnescape(why)
		if err != nil {
			text = why
		}
		return nil, &carryError{text, answer.Header.Get(finalHeader) != ""}
	}
	answer.Request = r
	return answer, nil
}

// carryError is what the parent met.
type carryError struct {
	text  string
	final bool
}

func (e *carryError) Error() string { return e.text }
