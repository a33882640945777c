package pace

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		value string
		want  time.Duration
		ok    bool
	}{
		{"", 0, false},
		{"0", 0, true},
		{"7", 7 * time.Second, true},
		{" 120 ", 2 * time.Minute, true},
		{"-1", 0, false},
		{"1.5", 0, false},
		{"soon", 0, false},
		{"99999999999999999999999", 1 << 31 * time.Second, true},
		{"4294967296", 1 << 31 * time.Second, true},
		{"Mon, 23 Nov 2026 12:00:30 GMT", 30 * time.Second, true},
		{"Monday, 23-Nov-26 12:01:00 GMT", time.Minute, true},
		{"Mon Nov 23 12:00:05 2026", 5 * time.Second, true},
		{"Mon, 23 Nov 2026 11:00:00 GMT", 0, true},
		{"Mon, 23 Nov 9999 11:00:00 GMT", 1 << 31 * time.Second, true},
		{"2026-11-23T12:00:30Z", 0, false},
	} {
		if got, ok := RetryAfter(c.value, now); got != c.want || ok != c.ok {
			t.Errorf("%q: %v %v, want %v %v", c.value, got, ok, c.want, c.ok)
		}
	}
}

// get sends one request, and gives its status.
func get(t *testing.T, tr *Transport, url string) (int, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := tr.RoundTrip(r)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, err
}

// serve answers with each of some statuses in turn, then with 200, and counts.
func serve(t *testing.T, header string, statuses ...int) (string, *atomic.Int64) {
	t.Helper()
	var n atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		i := int(n.Add(1)) - 1
		if i >= len(statuses) {
			return
		}
		if header != "" {
			w.Header().Set("Retry-After", header)
		}
		if statuses[i] == 0 {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(statuses[i])
	}))
	t.Cleanup(s.Close)
	return s.URL, &n
}

func TestAttempts(t *testing.T) {
	for _, c := range []struct {
		name     string
		statuses []int
		status   int
		sent     int64
	}{
		{"nothing fails", nil, 200, 1},
		{"what passes", []int{500, 502, 503, 504, 429}, 200, 6},
		{"resets", []int{0, 0}, 200, 3},
		{"what does not pass", []int{500, 500, 500, 500, 500, 500, 500}, 500, 6},
		{"what the registry means", []int{404}, 404, 1},
		{"no credentials", []int{401}, 401, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			url, sent := serve(t, "", c.statuses...)
			status, err := get(t, New(Config{Backoff: time.Millisecond}), url)
			if err != nil || status != c.status || sent.Load() != c.sent {
				t.Errorf("%d %v after %d requests, want %d after %d", status, err, sent.Load(), c.status, c.sent)
			}
		})
	}
	if _, err := get(t, New(Config{}), "http://127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("%v", err)
	}
}

// What one request is told holds for all.
func TestAllWait(t *testing.T) {
	var mu sync.Mutex
	var told time.Time
	var early, sent int
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		sent++
		switch {
		case told.IsZero():
			told = time.Now()
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(429)
		case time.Since(told) < time.Second:
			early++
		}
	}))
	defer s.Close()
	tr := New(Config{Backoff: time.Millisecond})
	if status, err := get(t, New(Config{Backoff: time.Millisecond, Attempts: 1}), s.URL); status != 429 || err != nil {
		t.Fatal(status, err)
	}
	told = time.Time{}
	if status, err := get(t, tr, s.URL); status != 200 || err != nil {
		t.Fatal(status, err)
	}
	told = time.Time{}
	var group sync.WaitGroup
	// The first is told to wait; then the others start, and wait too.
	group.Go(func() { _, _ = get(t, tr, s.URL) })
	for {
		mu.Lock()
		begun := !told.IsZero()
		mu.Unlock()
		if begun {
			break
		}
		time.Sleep(time.Millisecond)
	}
	for h := tr.host(strings.TrimPrefix(s.URL, "http://")); ; time.Sleep(time.Millisecond) {
		h.mu.Lock()
		paused := time.Until(h.until) > 0
		h.mu.Unlock()
		if paused {
			break
		}
	}
	for range 10 {
		group.Go(func() {
			if status, err := get(t, tr, s.URL); status != 200 || err != nil {
				t.Error(status, err)
			}
		})
	}
	group.Wait()
	if early != 0 || sent != 1+2+2+10 {
		t.Errorf("%d of %d requests came while all were to wait", early, sent)
	}
}

func TestTooLongWait(t *testing.T) {
	url, sent := serve(t, "3600", 429)
	tr := New(Config{Backoff: time.Millisecond})
	for range 3 {
		if _, err := get(t, tr, url); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "asks to wait until 2") {
			t.Errorf("%v", err)
		}
	}
	if sent.Load() != 1 {
		t.Errorf("%d requests were sent", sent.Load())
	}
}

func TestRate(t *testing.T) {
	url, _ := serve(t, "")
	tr := New(Config{Rate: 20})
	start := time.Now()
	for range 30 { // 20 at once, then one each 50 ms
		if _, err := get(t, tr, url); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(start); took < 450*time.Millisecond {
		t.Errorf("30 requests took %s", took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r, _ := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if _, err := tr.RoundTrip(r); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// A registry that says nothing is asked again; the body may take its time.
func TestSilence(t *testing.T) {
	var n atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 1 {
			<-r.Context().Done()
			return
		}
		_, _ = w.Write([]byte("a"))
		_ = http.NewResponseController(w).Flush()
		time.Sleep(150 * time.Millisecond)
		_, _ = w.Write([]byte("b"))
	}))
	defer s.Close()
	if status, err := get(t, New(Config{Backoff: time.Millisecond, HeaderTimeout: 100 * time.Millisecond}), s.URL); err != nil || status != 200 || n.Load() != 2 {
		t.Errorf("%d %v after %d requests", status, err, n.Load())
	}
	if _, err := get(t, New(Config{Backoff: time.Millisecond, Attempts: 1, HeaderTimeout: time.Nanosecond}), s.URL); !errors.Is(err, errSilent) {
		t.Errorf("%v", err)
	}
}
