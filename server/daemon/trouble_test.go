package daemon_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/assay-dev/assay/test/postgresql"
)

// A database that goes away gives errors to callers, never a wrong answer, and all
// goes on once it is back.
func TestDatabaseAway(t *testing.T) {
	address := postgresql.Start(t)
	admin, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.WithoutCancel(t.Context()))
	run := func(statement string) {
		t.Helper()
		if _, err := admin.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	run("CREATE DATABASE assay")
	w := start(t, strings.Replace(address, "/postgres?", "/assay?", 1), nil)
	w.want(201, "POST", "/api/v1/scans", report("nginx:1", 1, clock, map[string]float64{"CVE-2026-0001": 9.8}))
	run("ALTER DATABASE assay ALLOW_CONNECTIONS false")
	run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'assay'")
	status, header, text := w.send("POST", "/api/v1/scans", w.admin, nil, []byte(report("nginx:2", 2, clock, nil)))
	if status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" || strings.Contains(string(text), "assay\"") {
		t.Errorf("an upload: %d %s", status, text)
	}
	if status, _, text := w.send("GET", "/readyz", "", nil, nil); status != http.StatusServiceUnavailable {
		t.Errorf("readyz: %d %s", status, text)
	}
	if status, _, _ := w.send("GET", "/livez", "", nil, nil); status != http.StatusOK {
		t.Errorf("livez: %d", status)
	}
	run("ALTER DATABASE assay ALLOW_CONNECTIONS true")
	w.until("the database is back", func() bool {
		status, _, _ := w.send("POST", "/api/v1/scans", w.admin, nil, []byte(report("nginx:2", 2, clock, map[string]float64{"CVE-2026-0001": 9.8})))
		return status == http.StatusCreated || status == http.StatusOK
	})
	w.until("results follow again", func() bool {
		list := w.want(200, "GET", "/api/v1/images?result=Fail", "")
		return len(list["items"].([]any)) == 2
	})
	if strings.Contains(w.log.String(), "panic") {
		t.Errorf("it panicked: %s", w.log)
	}
}

// Fifty uploads at a time, some of them damaged: each has its own answer.
func TestManyUploads(t *testing.T) {
	w := start(t, "", nil)
	sbom := func(n int) string {
		var b strings.Builder
		b.WriteString(`{"bomFormat":"CycloneDX","specVersion":"1.5","version":1,"components":[`)
		for i := range 670 {
			if i > 0 {
				b.WriteString(",")
			}
			fmt.Fprintf(&b, `{"type":"library","bom-ref":"c%d","name":"package-%d","version":"1.%d.%d","purl":"pkg:pypi/package-%d@1.%d.%d"}`, i, i, i, n%7, i, i, n%7)
		}
		b.WriteString("]}")
		return b.String()
	}
	var group sync.WaitGroup
	var mu sync.Mutex
	statuses := map[int]int{}
	for n := range 50 {
		group.Go(func() {
			text := sbom(n)
			if n%5 < 2 {
				text = text[:len(text)*(n+1)/60]
			}
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, fmt.Sprintf("%s/api/v1/sboms?image=registry.example.com/s%d:1&digest=%s", w.base, n, digest(n)), strings.NewReader(text))
			if err != nil {
				t.Error(err)
				return
			}
			r.Header.Set("Authorization", "Bearer "+w.admin)
			answer, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Error(err)
				return
			}
			answer.Body.Close()
			mu.Lock()
			defer mu.Unlock()
			statuses[answer.StatusCode]++
		})
	}
	begun := time.Now()
	group.Wait()
	if statuses[http.StatusAccepted] != 30 || statuses[http.StatusUnprocessableEntity] != 20 {
		t.Errorf("answers: %v", statuses)
	}
	t.Logf("50 uploads in %s", time.Since(begun).Round(time.Millisecond))
	if list := w.want(200, "GET", "/api/v1/images?limit=1000", ""); len(list["items"].([]any)) != 30 {
		t.Errorf("%d images", len(list["items"].([]any)))
	}
	if list := w.want(200, "GET", "/api/v1/packages?name=package-7", ""); len(list["items"].([]any)) != 7 {
		t.Errorf("versions of package-7: %v", list)
	}
}
