// Package disk_test fills the disk of a server, which takes a file system of a bounded size, and so root.
package disk_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/assay-dev/assay/test/e2e/built"
	"github.com/assay-dev/assay/test/e2e/cluster"
	"github.com/assay-dev/assay/test/e2e/process"
)

// A server whose disk is full says so: it is not ready, its metrics tell, and what it cannot keep it does not take. Once
// there is room again it goes on by itself, with all that it took.
func TestFullDisk(t *testing.T) {
	data := t.TempDir()
	if err := syscall.Mount("tmpfs", data, "tmpfs", 0, "size=96m"); err != nil {
		t.Fatalf("mounting a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(data, 0); err != nil {
			t.Error(err)
		}
	})
	dir := t.TempDir()
	program := filepath.Join(dir, "assay")
	if err := built.Go("../../..", nil, "build", "-trimpath", "-o", program, "./cmd/assay"); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	p, err := process.Start(dir, program, "serve", "--data", data, "--listen", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
		log, err := os.ReadFile(filepath.Join(dir, "assay.log"))
		if err != nil || !strings.Contains(string(log), "nothing can be stored") || !strings.Contains(string(log), "data can be stored again") {
			t.Errorf("the log does not tell: %v\n%s", err, log)
		}
	})
	admin := ""
	send := func(method, path, body string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+address+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+admin)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			return 0, err.Error()
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			return 0, err.Error()
		}
		return answer.StatusCode, string(text)
	}
	becomes := func(status int, metric, says string) {
		t.Helper()
		cluster.Eventually(t, func() error {
			got, text := send("GET", "/readyz", "")
			if got != status || !strings.Contains(text, says) {
				return fmt.Errorf("/readyz is %d, want %d: %s", got, status, text)
			}
			if admin == "" {
				return nil
			}
			if _, text := send("GET", "/metrics", ""); !strings.Contains(text, "\nassay_storage_writable "+metric+"\n") {
				return fmt.Errorf("assay_storage_writable is not %s:\n%s", metric, text)
			}
			return nil
		})
	}
	becomes(200, "1", "ok")
	secret, err := os.ReadFile(filepath.Join(data, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	admin = strings.TrimSpace(string(secret))
	upload := func(n int) bool {
		t.Helper()
		cves := make([]string, 2000)
		for i := range cves {
			cves[i] = fmt.Sprintf(`{"id":"CVE-2026-%05d","package":"p%d-%d","version":"1","type":"deb","cvss":9.8}`, i, n, i)
		}
		status, text := send("POST", "/api/v1/scans", fmt.Sprintf(`{"schema":"assay.dev/scan/v1","images":[{"image":"registry.example.com/shop/web:%d","digest":"sha256:%064x","source":"registry","platform":"linux/amd64","scanned_at":%q,"packages":1,"database":{"built":"2026-01-01T00:00:00Z","checksum":"xxh64:1"},"vulnerabilities":[%s]}]}`,
			n, n+1, time.Now().UTC().Format(time.RFC3339), strings.Join(cves, ",")))
		switch {
		case status == 201 || status == 202:
			return true
		case status != 503:
			t.Fatalf("upload %d: %d: %s", n, status, text)
		}
		return false
	}
	var kept []int
	if !upload(0) {
		t.Fatal("nothing is taken at the start")
	}
	kept = append(kept, 0)

	filler, err := os.Create(filepath.Join(data, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	for chunk := make([]byte, 64<<10); ; {
		if _, err := filler.Write(chunk); errors.Is(err, syscall.ENOSPC) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	becomes(503, "0", "nothing can be stored")
	refused := 0
	for n := 1; n <= 20; n++ {
		if upload(n) {
			kept = append(kept, n)
		} else {
			refused++
		}
	}
	if refused == 0 {
		t.Error("nothing was refused: is the disk full?")
	}
	if status, text := send("GET", "/livez", ""); status != 200 {
		t.Errorf("it does not live: %d %s", status, text)
	}

	if err := filler.Truncate(0); err != nil {
		t.Fatal(err)
	}
	becomes(200, "1", "ok")
	if !upload(21) {
		t.Error("nothing is taken although there is room")
	}
	kept = append(kept, 21)
	for _, n := range kept {
		if status, text := send("GET", fmt.Sprintf("/api/v1/images/sha256:%064x", n+1), ""); status != 200 || !strings.Contains(text, fmt.Sprintf("p%d-1999", n)) {
			t.Errorf("upload %d was taken, and is not there: %d %.200s", n, status, text)
		}
	}
	t.Logf("%d uploads refused, %d kept", refused, len(kept))
}
