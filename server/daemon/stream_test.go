package daemon_test

import (
	"bufio"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"
)

// listen gives the lines of the stream of changes.
func (w *world) listen(ctx context.Context, last string) *bufio.Scanner {
	w.t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, w.base+"/api/v1/stream", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+w.admin)
	if last != "" {
		r.Header.Set("Last-Event-ID", last)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { answer.Body.Close() })
	if answer.StatusCode != http.StatusOK || answer.Header.Get("Content-Type") != "text/event-stream" {
		w.t.Fatalf("the stream: %s", answer.Status)
	}
	return bufio.NewScanner(answer.Body)
}

// Who listens hears of each change once, also over a broken connection.
func TestStream(t *testing.T) {
	w := start(t, "", nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	first, leave := context.WithCancel(ctx)
	lines := w.listen(first, "")
	if !lines.Scan() || lines.Text() != ": changes follow" {
		t.Fatalf("it begins with %q", lines.Text())
	}
	w.want(201, "POST", "/api/v1/scans", report("nginx:1", 1, clock, map[string]float64{"CVE-2026-0001": 9.8}))
	id, heard := "", map[string]bool{}
	for !heard["results"] && lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
			if v == id {
				t.Errorf("change %s twice", id)
			}
			id = v
		}
		if v, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			heard[v] = true
		}
	}
	if !heard["scan"] || !heard["image"] || !heard["name"] {
		t.Errorf("heard of %v", heard)
	}
	leave()
	w.want(201, "POST", "/api/v1/scans", report("nginx:2", 2, clock, nil))
	lines = w.listen(ctx, id)
	for lines.Scan() {
		if strings.Contains(lines.Text(), digest(2)) {
			return
		}
		if strings.Contains(lines.Text(), digest(1)) {
			t.Errorf("again: %s", lines.Text())
		}
	}
	t.Error("what came meanwhile was not told")
}
