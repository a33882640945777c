package daemon_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-dev/assay/store/storetest"
)

// What a body leaves out is never reset: the request is refused, whole, and says what is missing.
func TestNothingIsReset(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T, url func() string) {
		w := start(t, url(), nil)
		all := `{"warn":5,"fail":9,"failOnKEV":true,"grace":{"days":3,"from":"Published"}}`
		w.want(200, "PUT", "/api/v1/thresholds", all)
		w.want(200, "PUT", "/api/v1/runtime-view", `{"enabled":true}`)
		w.want(201, "POST", "/api/v1/scans", report("a/b:1", 1, clock, nil))
		w.want(200, "PUT", "/api/v1/images/"+digest(1)+"/dismissed", `{"dismissed":true}`)
		instance := fmt.Sprintf(`{"namespace":"n","pod":"p","container":"c","image":"a/b:1","digest":%q}`, digest(1))
		w.want(204, "PUT", "/api/v1/instances", `{"cluster":"prod","node":"n","instances":[`+instance+`]}`)
		w.want(200, "PUT", "/api/v1/views/mine", `{"address":"/images"}`)
		w.want(200, "PUT", "/api/v1/exceptions/e1", `{"spec":{"cve":"CVE-2026-0001","scope":"any","justification":"x"}}`)
		state := func() string {
			var all []any
			for _, path := range []string{"thresholds", "runtime-view", "images?dismissed=true", "instances", "views", "exceptions", "exceptions/e1", "tokens"} {
				all = append(all, path, w.want(200, "GET", "/api/v1/"+path, ""))
			}
			text, err := json.MarshalIndent(all, "", " ")
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
		before := state()
		for _, x := range []struct{ method, path, body, says string }{
			{"PUT", "thresholds", `{}`, "/warn is missing"},
			{"PUT", "thresholds", `null`, "null"},
			{"PUT", "thresholds", ` null `, "null"},
			{"PUT", "thresholds", `{"warn":5}`, "/fail is missing"},
			{"PUT", "thresholds", `{"warn":5,"fail":null,"failOnKEV":true,"grace":null}`, "/fail is null"},
			{"PUT", "thresholds", `{"warn":5,"fail":9}`, "/failOnKEV is set now"},
			{"PUT", "thresholds", `{"WARN":5,"Fail":9,"failOnKEV":true}`, "/grace is set now"},
			{"PUT", "runtime-view", `null`, "null"},
			{"PUT", "runtime-view", `{}`, "/enabled is missing"},
			{"PUT", "runtime-view", `{"enabled":null}`, "/enabled is null"},
			{"PUT", "images/" + digest(1) + "/dismissed", `{}`, "/dismissed is missing"},
			{"PUT", "images/" + digest(1) + "/dismissed", `null`, "null"},
			{"PUT", "instances", `{"cluster":"prod","node":"n"}`, "/instances is missing"},
			{"PUT", "instances", `{"cluster":"prod","node":"n","instances":null}`, "/instances is null"},
			{"PUT", "instances", `null`, "null"},
			{"PUT", "views/mine", `{}`, "/address is missing"},
			{"PUT", "exceptions/e1", `{}`, "spec"},
			{"PUT", "exceptions/e1", `null`, "null"},
			{"PUT", "exceptions/e1", `{"spec":null}`, "spec"},
			{"POST", "tokens", `{}`, "/role is missing"},
			{"POST", "tokens", `{"name":"a\u0007b","role":"viewer"}`, "cannot be seen"},
			{"PUT", "instances", `{"cluster":"pr\u001bod","node":"n","instances":[]}`, "cannot be seen"},
			{"PUT", "instances", `{"cluster":"prod","node":"n","instances":[` + strings.Replace(instance, `"p"`, `"p\u0000"`, 1) + `]}`, "cannot be seen"},
			{"PUT", "views/a%0Ab", `{"address":"/images"}`, "cannot be seen"},
			{"PUT", "exceptions/a%07b", `{"spec":{"cve":"CVE-2026-0001","scope":"any","justification":"x"}}`, "metadata.name"},
		} {
			status, _, text := w.send(x.method, "/api/v1/"+x.path, w.admin, nil, []byte(x.body))
			var p struct {
				Detail string
				Errors []struct{ Pointer, Detail string }
			}
			if err := json.Unmarshal(text, &p); err != nil {
				t.Errorf("%v: %.300s", err, text)
			}
			said := p.Detail
			for _, e := range p.Errors {
				said += "; " + e.Pointer + " " + e.Detail
			}
			if status != 422 || !strings.Contains(said, x.says) {
				t.Errorf("%s %s %s: %d, want 422 with %q: %s", x.method, x.path, x.body, status, x.says, said)
			}
		}
		if after := state(); after != before {
			t.Errorf("something was changed:\n%s\nand before:\n%s", after, before)
		}
		// What is taken back is named.
		w.want(200, "PUT", "/api/v1/thresholds", `{"warn":4,"fail":7,"failOnKEV":false,"grace":null}`)
		w.want(200, "PUT", "/api/v1/thresholds", `{"warn":4,"fail":7}`)
	})
}

// A change of what was read is refused where somebody else changed it meanwhile.
func TestIfMatch(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T, url func() string) {
		w := start(t, url(), nil)
		exception := func(why string) string {
			return fmt.Sprintf(`{"spec":{"cve":"CVE-2026-0001","scope":"any","justification":%q,"created":"2026-01-01T00:00:00Z"}}`, why)
		}
		w.want(200, "PUT", "/api/v1/exceptions/e1", exception("one"))
		for path, bodies := range map[string][2]string{
			"/api/v1/thresholds":    {`{"warn":3,"fail":8}`, `{"warn":2,"fail":9}`},
			"/api/v1/runtime-view":  {`{"enabled":false}`, `{"enabled":true}`},
			"/api/v1/exceptions/e1": {exception("two"), exception("three")},
		} {
			tag := func() string {
				status, h, text := w.send("GET", path, w.admin, nil, nil)
				if status != 200 || len(h.Get("ETag")) < 10 || h.Get("ETag")[0] != '"' {
					t.Fatalf("%s: %d, ETag %q: %s", path, status, h.Get("ETag"), text)
				}
				return h.Get("ETag")
			}
			put := func(want int, match, body string) {
				t.Helper()
				if status, _, text := w.send("PUT", path, w.admin, map[string]string{"If-Match": match}, []byte(body)); status != want {
					t.Errorf("%s with If-Match %s: %d, want %d: %s", path, match, status, want, text)
				}
			}
			read := tag()
			if again := tag(); again != read {
				t.Errorf("%s: %s, and then %s", path, read, again)
			}
			put(412, `"another"`, bodies[0])
			put(412, `W/`+read, bodies[0]) // a weak one never matches
			put(200, read, bodies[0])
			put(412, read, bodies[1]) // the second of two who read the same
			if now := tag(); now == read {
				t.Errorf("%s: still %s", path, now)
			}
			put(200, `"another", `+tag(), bodies[1])
			put(200, `*`, bodies[0])
		}
		remove := func(want int, path, match string) {
			t.Helper()
			if status, _, text := w.send("DELETE", path, w.admin, map[string]string{"If-Match": match}, nil); status != want {
				t.Errorf("%s with If-Match %s: %d, want %d: %s", path, match, status, want, text)
			}
		}
		remove(412, "/api/v1/exceptions/e1", `"another"`)
		remove(204, "/api/v1/exceptions/e1", `*`)
		if status, _, _ := w.send("PUT", "/api/v1/exceptions/e1", w.admin, map[string]string{"If-Match": "*"}, []byte(exception("four"))); status != 412 {
			t.Errorf("one that is gone was put in the place of nothing: %d", status)
		}
	})
}

// An address says which methods it takes, and a body of another type is not read as JSON.
func TestMethodsAndTypes(t *testing.T) {
	t.Parallel()
	w := start(t, filepath.Join(t.TempDir(), "assay.db"), nil)
	for path, allow := range map[string]string{"/api/v1/thresholds": "GET, HEAD, PUT", "/api/v1/scans": "POST", "/livez": "GET, HEAD"} {
		status, h, text := w.send("DELETE", path, w.admin, nil, nil)
		if status != 405 || h.Get("Allow") != allow || !strings.Contains(string(text), allow) {
			t.Errorf("%s: %d, Allow %q: %s", path, status, h.Get("Allow"), text)
		}
		if status, _, text := w.send("DELETE", path, "", nil, nil); status != 401 {
			t.Errorf("%s without a credential: %d: %s", path, status, text)
		}
	}
	for kind, want := range map[string]int{
		"": 200, "application/json": 200, "application/json; charset=utf-8": 200, "application/vnd.assay+json": 200, "application/x-www-form-urlencoded": 200,
		"text/plain": 415, "text/csv": 415, "application/xml": 415, "multipart/form-data; boundary=x": 415, ";": 415,
	} {
		if status, _, text := w.send("PUT", "/api/v1/runtime-view", w.admin, map[string]string{"Content-Type": kind}, []byte(`{"enabled":true}`)); status != want {
			t.Errorf("%s: %d, want %d: %s", kind, status, want, text)
		}
	}
}
