package server

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/assay-dev/assay/api"
)

// What reads a report takes no more and no less than encoding/json takes of it.
func FuzzReadScans(f *testing.F) {
	for _, s := range []string{
		`{"schema":"assay.dev/scan/v1","images":[{"image":"nginx:1","digest":"sha256:a","scanned_at":"2026-01-01T00:00:00Z","vulnerabilities":[{"id":"CVE-1","cvss":9.8}]}]}`,
		`{"image":"nginx:1","scanned_at":"2026-01-01T00:00:00Z"}`, `{"images":[],"schema":"x"}`, `{}`, `[]`, ``, `{"images":{}}`, `{"schema":1}`, `{"images":[1]}`, `{"image":1}`, `{"a":{"b":[{}]}}`, "{\"images\":[{}",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		scans, err := readScans(strings.NewReader(text))
		if err != nil {
			if p := problemOf(err); p.Status < 400 || p.Status > 499 || p.Detail == "" {
				t.Fatalf("%q: %+v of %v", text, p, err)
			}
			return
		}
		var whole struct {
			Images []api.Scan `json:"images"`
		}
		d := json.NewDecoder(strings.NewReader(text))
		if err := d.Decode(&whole); err != nil {
			t.Fatalf("%q is taken, and encoding/json says %v", text, err)
		}
		_ = scans
	})
}

// Parameters never panic, and what is wrong with them is the caller's fault.
func FuzzQuery(f *testing.F) {
	for _, s := range []string{"limit=1&after=x&sort=-score", "kev=maybe", "epss=NaN", "score=1e309", "a=b;c=d", "%zz", "result=Fail,Pass,", "scannedAfter=yesterday", "search=%00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.URL.RawQuery = text
		q := queryOf(r)
		got := filter(q, identity(r))
		q.page()
		if err := q.err(); err != nil {
			if p := problemOf(err); p.Status != 400 {
				t.Fatalf("%q: %+v", text, p)
			}
		} else if got.EPSS != nil && !(*got.EPSS >= 0 && *got.EPSS <= 1) {
			t.Fatalf("%q: %v", text, *got.EPSS)
		}
	})
}
