package daemon_test

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/assay-dev/assay/server/daemon"
)

// Spans go to where OpenTelemetry's variables say.
func TestTrace(t *testing.T) {
	var spans atomic.Int32
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/traces" && r.ContentLength > 0 {
			spans.Add(1)
		}
	}))
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	w := start(t, "", func(c *daemon.Config) { c.Trace = true })
	w.want(200, "GET", "/api/v1/images", "")
	w.stop()
	if spans.Load() == 0 {
		t.Error("no span was sent")
	}
}
