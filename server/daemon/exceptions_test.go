package daemon_test

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/bundles/source"
	"github.com/assay-dev/assay/server"
	"github.com/assay-dev/assay/server/daemon"
	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/storetest"
)

// The list of exceptions is read page by page: each is on one page, in one order, whether it is of the policies or of
// the API, although some come and go between the pages; and a cursor of another list is refused.
func TestExceptionsInPages(t *testing.T) {
	storetest.Run(t, func(t *testing.T, database func() string) {
		folder := policiesFolder(t)
		type listed struct{ end, cve, name, origin string }
		var want []listed
		var own strings.Builder
		now := time.Now().UTC()
		ends := []string{"", now.Add(-time.Hour).Format(time.RFC3339), now.Add(time.Hour).Format(time.RFC3339), now.Add(48*time.Hour).Format("2006-01-02T15:04:05") + "+02:00", now.AddDate(1, 0, 0).Format(time.RFC3339)}
		spec := func(i int) (cve, end string) { return fmt.Sprintf("CVE-2026-%04d", 1+i*7%23), ends[i*5%7%len(ends)] }
		for i := range 30 { // names that the API has, too
			cve, end := spec(i)
			want = append(want, listed{end, cve, fmt.Sprintf("e%03d", i), "policies"})
			fmt.Fprintf(&own, "---\napiVersion: assay.dev/v1alpha1\nkind: VulnerabilityException\nmetadata: {name: e%03d}\nspec: {cve: %s, scope: any, justification: j, expires: %q}\n", i, cve, end)
		}
		if err := os.WriteFile(filepath.Join(folder, "e.yaml"), []byte(strings.ReplaceAll(own.String(), `, expires: ""`, "")), 0o600); err != nil {
			t.Fatal(err)
		}
		w := start(t, database(), func(c *daemon.Config) { c.Source = source.Folder{Path: folder, Log: c.Log} })
		for i := range 70 {
			cve, end := spec(i)
			want = append(want, listed{end, cve, fmt.Sprintf("e%03d", i), "api"})
			w.want(201, "POST", "/api/v1/exceptions", fmt.Sprintf(`{"metadata":{"name":"e%03d"},"spec":{"cve":%q,"scope":"any","justification":"j","expires":%q}}`, i, strings.ToLower(cve), end))
		}
		at := func(end string) time.Time {
			if end == "" {
				return time.Unix(1<<40, 0)
			}
			when, err := time.Parse(time.RFC3339, end)
			if err != nil {
				t.Fatal(err)
			}
			return when
		}
		slices.SortFunc(want, func(a, b listed) int {
			return cmp.Or(at(a.end).Compare(at(b.end)), cmp.Compare(a.cve, b.cve), cmp.Compare(a.name, b.name), cmp.Compare(a.origin, b.origin))
		})
		page := func(q url.Values) (list store.List[server.ListedException]) {
			t.Helper()
			status, _, text := w.send("GET", "/api/v1/exceptions?"+q.Encode(), w.admin, nil, nil)
			if err := json.Unmarshal(text, &list); err != nil || status != 200 {
				t.Fatalf("%d %v: %s", status, err, text)
			}
			return list
		}
		whole := func(q url.Values, between func()) (got []listed) {
			t.Helper()
			for {
				list := page(q)
				for _, e := range list.Items {
					if e.InForce != at(e.Spec.Expires).After(now) {
						t.Errorf("%s: in force %v until %s", e.Metadata.Name, e.InForce, e.Spec.Expires)
					}
					got = append(got, listed{e.Spec.Expires, strings.ToUpper(e.Spec.CVE), e.Metadata.Name, e.Origin})
				}
				if list.Next == "" {
					return got
				}
				if between != nil {
					between()
				}
				q.Set("after", list.Next)
			}
		}
		fits := func(keep func(listed) bool) []listed {
			return slices.DeleteFunc(slices.Clone(want), func(l listed) bool { return !keep(l) })
		}
		for _, limit := range []string{"1", "7", "100", "1000"} {
			for _, x := range []struct {
				q    url.Values
				keep func(listed) bool
			}{
				{url.Values{}, func(listed) bool { return true }},
				{url.Values{"origin": {"api"}}, func(l listed) bool { return l.origin == "api" }},
				{url.Values{"origin": {"policies"}}, func(l listed) bool { return l.origin == "policies" }},
				{url.Values{"in_force": {"true"}}, func(l listed) bool { return at(l.end).After(now) }},
				{url.Values{"in_force": {"false"}, "origin": {"api"}}, func(l listed) bool { return l.origin == "api" && !at(l.end).After(now) }},
				{url.Values{"cve": {"cve-2026-0008"}}, func(l listed) bool { return l.cve == "CVE-2026-0008" }},
				{url.Values{"cve": {"CVE-1999-0001"}}, func(listed) bool { return false }},
			} {
				asked := x.q.Encode()
				x.q.Set("limit", limit)
				if got := whole(x.q, nil); !slices.Equal(got, fits(x.keep)) {
					t.Errorf("%s by %s:\n%v\nwant\n%v", asked, limit, got, fits(x.keep))
				}
			}
		}

		// One that comes behind the reader, and the one that the cursor names going away, moves no other.
		n := 0
		got := whole(url.Values{"limit": {"9"}}, func() {
			n++
			w.want(201, "POST", "/api/v1/exceptions", fmt.Sprintf(`{"metadata":{"name":"early%d"},"spec":{"cve":"CVE-2026-0001","scope":"any","justification":"j","expires":"2020-01-01T00:00:00Z"}}`, n))
			if last := want[9*n-1]; last.origin == "api" {
				w.want(204, "DELETE", "/api/v1/exceptions/"+last.name, "")
			}
		})
		if !slices.Equal(got, want) {
			t.Errorf("while others come and go:\n%v\nwant\n%v", got, want)
		}
		other := base64.RawURLEncoding.EncodeToString([]byte(`{"s":"","v":null,"i":1}`)) // of the images
		for _, bad := range []string{"x", "1", "e30", "bnVsbA", other} {
			w.want(400, "GET", "/api/v1/exceptions?after="+url.QueryEscape(bad), "")
		}
		w.want(400, "GET", "/api/v1/exceptions?limit=1001", "")
	})
}
