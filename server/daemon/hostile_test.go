package daemon_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-dev/assay/server/daemon"
)

// memory is what this process has, now or at the most since the last reset, in bytes; 0 where
// the system does not tell.
func memory(t *testing.T, field string) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			kib, _ := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			return kib << 10
		}
	}
	return 0
}

// repeated is a text packed with gzip: some before, a piece n times, some after.
func repeated(t *testing.T, before, piece string, n int, after string) []byte {
	t.Helper()
	var out bytes.Buffer
	z, _ := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	write := func(s string) {
		if _, err := z.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	write(before)
	const batch = 1000
	many := strings.Repeat(piece, batch)
	for ; n >= batch; n -= batch {
		write(many)
	}
	write(strings.Repeat(piece, n))
	write(after)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// What is uploaded takes a bounded memory, however small it is and whatever it unfolds to, and
// the server answers others meanwhile. ASSAY_HOSTILE_UPLOADS says how many there are at once.
func TestHostileUploads(t *testing.T) {
	w := start(t, "", nil)
	n := 14
	if text := os.Getenv("ASSAY_HOSTILE_UPLOADS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	const scan = `{"schema":"assay.dev/scan/v1","images":[{"image":"registry.example.com/a:1","digest":"sha256:` + "%064d" + `","scanned_at":"2026-01-01T00:00:00Z","vulnerabilities":[{}`
	scans := fmt.Sprintf(scan, 1)
	const syft = `{"schema":{"version":"16.0.0","url":"https://raw.githubusercontent.com/anchore/syft/main/schema/json/schema-16.0.0.json"},"descriptor":{"name":"syft"},"source":{"type":"image","metadata":{}},"artifacts":[{"id":"0","name":"a","version":"1","type":"deb"}`
	kinds := []struct {
		name, path string
		body       []byte
		kind       string
	}{
		{"empty vulnerabilities", "scans", repeated(t, scans, ",{}", 1_500_000, "]}]}"), ""},
		{"vulnerabilities that just fit", "scans", repeated(t, scans, ",{}", 95_000, "]}]}"), ""},
		{"empty images", "scans", repeated(t, `{"schema":"assay.dev/scan/v1","images":[{}`, ",{}", 9_998, "]}"), ""},
		{"one long text", "scans", repeated(t, `{"image":"`, strings.Repeat("a", 1000), 120_000, `"}`), ""},
		{"a text that just fits", "scans", repeated(t, `{"schema":"assay.dev/scan/v1","x":"`, strings.Repeat("a", 1000), 85_000, `","images":[]}`), ""},
		{"nested lists", "scans", repeated(t, "", "[", 60_000_000, ""), ""},
		{"packages", "sboms?image=registry.example.com/a:1&digest=sha256:" + strings.Repeat("1", 64), repeated(t, syft, `,{"id":"1"}`, 5_000_000, "]}"), ""},
		{"packages that just fit", "sboms?image=registry.example.com/a:1&digest=sha256:" + strings.Repeat("1", 64), repeated(t, syft, `,{"id":"1","name":"a","version":"1","type":"deb"}`, 95_000, "]}"), ""},
		{"components that just fit", "sboms?image=registry.example.com/a:1&digest=sha256:" + strings.Repeat("1", 64), repeated(t, `{"bomFormat":"CycloneDX","specVersion":"1.5","components":[{"type":"library","name":"a","version":"1"}`, `,{"type":"library","name":"a","version":"1"}`, 95_000, "]}"), ""},
		{"a long text in an SBOM", "sboms?image=registry.example.com/a:1", repeated(t, `{"bomFormat":"CycloneDX","specVersion":"1.5","serialNumber":"`, strings.Repeat("a", 1000), 50_000, `"}`), ""},
		{"tags in an SBOM", "sboms?image=registry.example.com/a:1", repeated(t, `<?xml version="1.0"?><bom xmlns="http://cyclonedx.org/schema/bom/1.5"><components>`, "<component/>", 9_000_000, "</components></bom>"), ""},
		{"a review", "admit", repeated(t, `{"request":{"object":{"a":[0`, ",[]", 2_000_000, "]}}}"), ""},
		{"rows", "imports/exceptions", repeated(t, "CVE,Justification,Scope\n", "x,,\n", 12_000_000, ""), "text/csv"},
		{"rows that just fit", "imports/exceptions", repeated(t, "CVE,Justification,Scope\n", "x,,\n", 90_000, ""), "text/csv"},
	}
	debug.FreeOSMemory()
	rest := memory(t, "VmRSS")
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		t.Skip("the system does not tell the most memory of a time: ", err)
	}
	var all sync.WaitGroup
	for i := range n {
		k := kinds[i%len(kinds)]
		all.Go(func() {
			r, err := http.NewRequestWithContext(t.Context(), "POST", w.base+"/api/v1/"+k.path, bytes.NewReader(k.body))
			if err != nil {
				t.Error(err)
				return
			}
			r.Header.Set("Authorization", "Bearer "+w.admin)
			r.Header.Set("Content-Encoding", "gzip")
			r.Header.Set("Content-Type", "application/json")
			if k.kind != "" {
				r.Header.Set("Content-Type", k.kind)
			}
			begun := time.Now()
			answer, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Error(k.name, err)
				return
			}
			answer.Body.Close()
			t.Logf("%s, %d KiB: %s after %s", k.name, len(k.body)>>10, answer.Status, time.Since(begun).Round(time.Millisecond))
			if answer.StatusCode == 500 {
				t.Errorf("%s: %s", k.name, answer.Status)
			}
		})
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	slowest := time.Duration(0)
	for ended := false; !ended; {
		select {
		case <-done:
			ended = true
		case <-time.After(100 * time.Millisecond):
		}
		begun := time.Now()
		w.want(200, "POST", "/api/v1/classify", `{"image":"registry.example.com/other:1"}`)
		slowest = max(slowest, time.Since(begun))
	}
	peak := memory(t, "VmHWM")
	t.Logf("%d uploads: %d MiB above the %d MiB of rest; the slowest other answer took %s", n, (peak-rest)>>20, rest>>20, slowest.Round(time.Millisecond))
	if peak-rest > 400<<20 {
		t.Errorf("%d MiB above rest", (peak-rest)>>20)
	}
	if files, err := os.ReadDir(filepath.Join(w.data, "bodies")); err != nil || len(files) > 0 {
		t.Errorf("%d bodies are left: %v", len(files), err)
	}
}

// However much is wrong, an answer lists twenty faults and the number of the rest.
func TestFaultsAreListed(t *testing.T) {
	w := start(t, "", nil)
	var images []string
	for i := range 200 {
		images = append(images, fmt.Sprintf(`{"image":"registry.example.com/a:%d","packages":1,"scanned_at":"2026-01-01T00:00:00Z"}`, i))
	}
	for name, c := range map[string]struct {
		path, kind, body, more string
	}{
		"scans": {"scans", "application/json", `{"schema":"assay.dev/scan/v1","images":[` + strings.Join(images, ",") + `]}`, "and 180 more"},
		"rows":  {"imports/exceptions", "text/csv", "CVE,Justification,Scope\n" + strings.Repeat("x\n", 5000), "and 4980 more"},
	} {
		status, _, text := w.send("POST", "/api/v1/"+c.path, w.admin, map[string]string{"Content-Type": c.kind}, []byte(c.body))
		if status != 422 || strings.Count(string(text), `"detail"`) != 22 || !strings.Contains(string(text), c.more) {
			t.Errorf("%s: %d, %d faults: %.3000s", name, status, strings.Count(string(text), `"detail"`), text)
		}
	}
}

// Bodies that stop half-way take nothing from others, and end in time.
func TestSlowBodies(t *testing.T) {
	w := start(t, "", func(c *daemon.Config) { c.Limits.Request = 2 * time.Second })
	var all sync.WaitGroup
	for range 100 {
		c, err := net.Dial("tcp", strings.TrimPrefix(w.base, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "POST /api/v1/scans HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 1000\r\n\r\n{", w.admin)
		all.Go(func() {
			defer c.Close()
			text, err := io.ReadAll(c)
			if err != nil || !strings.Contains(string(text), "408 Request Timeout") {
				t.Errorf("%v: %.300s", err, text)
			}
		})
	}
	begun := time.Now()
	if status, _, text := w.send("POST", "/api/v1/scans", w.admin, nil, []byte(report("registry.example.com/a:1", 1, clock, nil))); status != 201 && status != 202 {
		t.Errorf("an upload beside them: %d %s", status, text)
	}
	if took := time.Since(begun); took > 1500*time.Millisecond {
		t.Errorf("an upload took %s beside bodies that never come", took)
	}
	all.Wait()
}
