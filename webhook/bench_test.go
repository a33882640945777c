package webhook

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
)

// BenchmarkAdmission is a review of a Pod, from its bytes to those of the answer, with
// policies of which one applies.
func BenchmarkAdmission(b *testing.B) {
	for _, n := range []int{1, 200} {
		b.Run(fmt.Sprintf("%d policies", n), func(b *testing.B) {
			var text strings.Builder
			for i := range n - 1 {
				fmt.Fprintf(&text, "apiVersion: containersecurity.tigera.io/v1beta1\nkind: ContainerAdmissionPolicy\nmetadata: {name: p%d}\nspec: {rules: [{action: Reject, imagePath: {operator: IsOneOf, values: ['^registry\\.example\\.com/team-%d/']}}]}\n---\n", i, i)
			}
			a, _ := admission(b, text.String()+allowAll)
			a.Record = nil
			env := strings.Repeat(`{"name":"SETTING","value":"xxxxxxxxxxxxxxxxxxxx"},`, 60)
			body := strings.Replace(somePod, `"image":"nginx"`, `"image":"nginx","env":[`+strings.TrimSuffix(env, ",")+`]`, 1)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				w := httptest.NewRecorder()
				a.ServeHTTP(w, httptest.NewRequest("POST", "/admit?timeout=10s", strings.NewReader(body)))
				if w.Code != 200 {
					b.Fatal(w.Body)
				}
			}
		})
	}
}
