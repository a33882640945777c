package regotest_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/engine/regotest"
	"github.com/assay-dev/assay/policies"
)

func run(t *testing.T, text string, c regotest.Config) ([]regotest.Result, error) {
	t.Helper()
	set, err := policies.Load(fstest.MapFS{"a_test.rego": {Data: []byte(text)}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := bundles.Build(bundles.Content{Policies: set})
	if err != nil {
		t.Fatal(err)
	}
	return regotest.Run(t.Context(), set, b, c)
}

func TestRun(t *testing.T) {
	const text = "package a_test\n\ntest_good if 1 == 1\n\ntest_bad if 1 == 2\n"
	results, err := run(t, text, regotest.Config{Deadline: time.Minute, Memory: 1 << 30})
	if err != nil || len(results) != 2 || !results[0].Pass || results[1].Pass || results[1].Name != "a_test.test_bad" || results[1].File != "a_test.rego" || results[1].Line != 5 {
		t.Errorf("%+v, %v", results, err)
	}
	if results, err = run(t, text, regotest.Config{Pattern: "good"}); err != nil || len(results) != 1 {
		t.Errorf("%+v, %v", results, err)
	}
}

// A test that takes too long, or too much, ends the run with an error that says so.
func TestBounds(t *testing.T) {
	const endless = "package a_test\n\ntest_endless if {\n\tsome a in numbers.range(1, 3000)\n\tsome b in numbers.range(1, 3000)\n\tsome c in numbers.range(1, 3000)\n\ta + b + c == 0\n}\n"
	if _, err := run(t, endless, regotest.Config{Deadline: 100 * time.Millisecond}); err == nil || !strings.Contains(err.Error(), "longer than 100ms") {
		t.Errorf("it took too long: %v", err)
	}
	const large = "package a_test\n\ntest_large if {\n\tall := [[a, b, c] | some a in numbers.range(1, 3000); some b in numbers.range(1, 3000); some c in numbers.range(1, 3000)]\n\tcount(all) == 0\n}\n"
	if _, err := run(t, large, regotest.Config{Deadline: time.Minute, Memory: 64 << 20}); err == nil || !strings.Contains(err.Error(), "MiB of memory") {
		t.Errorf("it took too much: %v", err)
	}
	local := httptest.NewServer(http.NotFoundHandler())
	defer local.Close()
	results, err := run(t, "package a_test\n\ntest_net if http.send({\"url\": \""+local.URL+"\", \"method\": \"get\"}).status_code == 404\n", regotest.Config{})
	if err == nil && (len(results) != 1 || results[0].Pass) {
		t.Errorf("a test reached the network: %+v", results)
	}
}
