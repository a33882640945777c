package webhook

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/warning"
)

// The API server passes on each warning whole, however long and many they are.
func TestWarningsAreNotCut(t *testing.T) {
	for name, c := range map[string]struct{ n, length int }{
		"none": {0, 0}, "short": {3, 100}, "long": {3, 1000}, "just fit": {4, 1000}, "many": {25, 100}, "long and many": {25, 1000}, "too long for any": {5, 5000},
	} {
		var list []string
		for i := range c.n {
			list = append(list, fmt.Sprintf("%d %s", i, strings.Repeat("ä", c.length)))
		}
		sent := warnings(list)
		w := httptest.NewRecorder()
		filters.WithWarningRecorder(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			for _, text := range sent {
				warning.AddWarning(r.Context(), "", text)
			}
		})).ServeHTTP(w, httptest.NewRequest("POST", "/", nil))
		passed, errs := net.ParseWarningHeaders(w.Header().Values("Warning"))
		var got []string
		for _, p := range passed {
			got = append(got, p.Text)
		}
		if len(errs) > 0 || !slices.Equal(got, sent) {
			t.Errorf("%s: %d of %d warnings are passed on as they are: %v", name, len(got), len(sent), errs)
		}
		if more := c.n - maxWarnings; more > 0 && sent[len(sent)-1] != fmt.Sprintf("and %d more warnings", more) {
			t.Errorf("%s: the last one is %s", name, sent[len(sent)-1])
		}
		for i, text := range sent[:min(c.n, maxWarnings)] {
			if !utf8.ValidString(text) || !strings.HasPrefix(text, fmt.Sprintf("%d ", i)) || text != list[i] && !strings.HasSuffix(text, "…") {
				t.Errorf("%s: %.20s … ends in %q", name, text, text[max(0, len(text)-10):])
			}
		}
	}
}

// A text that is too long ends with how many more lines there are.
func TestLongTexts(t *testing.T) {
	many := strings.TrimSuffix(strings.Repeat(strings.Repeat("x", 99)+"\n", 50), "\n")
	for name, c := range map[string]struct {
		text string
		ends string
	}{
		"short":     {"a\nb", "a\nb"},
		"just fits": {strings.Repeat("x", 1000), "x"},
		"many":      {many, "x\nand 41 more"},
		"one":       {strings.Repeat("ä", 900), "ä…"},
		"one first": {strings.Repeat("ä", 900) + "\nb\nc", "ä…\nand 2 more"},
	} {
		got := lines(c.text, 1000)
		if len(got) > 1000 || !utf8.ValidString(got) || !strings.HasSuffix(got, c.ends) || len(c.text) <= 1000 && got != c.text {
			t.Errorf("%s: %d bytes, ending in %q", name, len(got), got[max(0, len(got)-30):])
		}
	}
}
