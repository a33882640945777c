package webhook

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	certutil "k8s.io/client-go/util/cert"
)

// Between the request to end and the end, each answer is the last one of its connection:
// no review is written to a connection that is just closed.
func TestClientsLeaveBeforeTheEnd(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := certutil.GenerateSelfSignedCertKey("127.0.0.1", []net.IP{net.IPv4(127, 0, 0, 1)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := dynamiccertificates.NewStaticCertKeyContent("test", cert, key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(cert)
	s := Serving{Listener: listener, Certificate: pair, MaxInFlight: 4, ShutdownDelay: time.Second, Metrics: prometheus.NewRegistry(),
		Handlers: map[string]http.Handler{"/admit": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "answer") })}}
	ctx, end := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	ask := func() (*http.Response, error) {
		r, err := client.Post("https://"+listener.Addr().String()+"/admit", "application/json", nil)
		if err == nil {
			_, _ = io.Copy(io.Discard, r.Body)
			_ = r.Body.Close()
		}
		return r, err
	}
	var r *http.Response
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if r, err = ask(); err == nil || time.Now().After(deadline) {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if r.Close || r.ProtoMajor != 1 {
		t.Errorf("before the end: close %v, HTTP/%d", r.Close, r.ProtoMajor)
	}
	end()
	if r, err = ask(); err != nil {
		t.Fatal(err)
	}
	if r.StatusCode != http.StatusOK || !r.Close {
		t.Errorf("after the end was asked for: %s, close %v", r.Status, r.Close)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
