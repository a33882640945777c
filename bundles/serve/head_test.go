package serve_test

import (
	"slices"
	"testing"
	"time"

	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/bundles/serve"
)

// A superseded version is there by its digest for a while, within bounds; no other one ever is in its place.
func TestDigests(t *testing.T) {
	h, s := server(t, serve.Limits{KeepBytes: 10})
	at := func(text string) string { return s.URL + "/bundles/names?digest=" + bundles.Digest([]byte(text)) }
	h.Set("names", []byte("one"))
	h.Set("other", []byte("two"))
	h.Set("names", []byte("three"))
	h.Set("names", []byte("four"))
	for text, want := range map[string]int{"one": 200, "three": 200, "four": 200, "two": 404, "": 404} {
		r := do(t, "GET", at(text), "Prefer", long, "If-None-Match", "x")
		if r.status != want || want == 200 && r.body != text {
			t.Errorf("%q: %d %s", text, r.status, r.body)
		}
	}
	if r := do(t, "GET", at("four"), "Prefer", long, "If-None-Match", etag("four")); r.status != 304 {
		t.Errorf("who has that digest already gets %d", r.status)
	}
	h.Set("names", []byte("five")) // "one", "three" and "four" are more than ten bytes
	if one, four := do(t, "GET", at("one")).status, do(t, "GET", at("four")).status; one != 404 || four != 200 {
		t.Errorf("beyond the bound: the oldest gives %d, the newest %d", one, four)
	}
	h.Remove("names")
	if r := do(t, "GET", at("nonsense")); r.status != 404 {
		t.Errorf("removed: %d", r.status)
	}
}

func TestIssue(t *testing.T) {
	h, s := server(t, serve.Limits{})
	key, public := signer(t)
	head := bundles.Head{Store: "store", Sequence: 7, Time: time.Unix(1e9, 5), Until: time.Unix(2e9, 0)}
	if err := h.Issue(head, key, []string{"names"}); err == nil {
		t.Error("a head names what is not served")
	}
	h.Set("names", []byte("one"))
	if err := h.Issue(head, key, []string{"names"}); err != nil {
		t.Fatal(err)
	}
	first := do(t, "GET", s.URL+"/bundles/head")
	verify, err := bundles.ParseVerificationKey([]byte(public))
	if err != nil {
		t.Fatal(err)
	}
	got, err := bundles.OpenHead([]byte(first.body), time.Now(), verify)
	if err != nil {
		t.Fatal(err)
	}
	if got.Store != "store" || got.Sequence != 7 || !got.Time.Equal(head.Time) || !got.Until.Equal(head.Until) || len(got.Parts) != 1 || got.Parts["names"] != bundles.Digest([]byte("one")) {
		t.Errorf("%+v", got)
	}
	// Replicas agree on its bytes.
	other := serve.New(serve.Limits{})
	other.Set("names", []byte("one"))
	if err := other.Issue(head, key, []string{"names"}); err != nil {
		t.Fatal(err)
	}
	a, err := other.Digests([]string{"head"})
	if err != nil || a["head"] != bundles.Digest([]byte(first.body)) {
		t.Errorf("the same head has other bytes: %v, %v", a, err)
	}
	if slices.Contains(bundles.Parts(), bundles.PartHead) {
		t.Error("the head is a part")
	}
}
