package server

import (
	"strings"
	"testing"
)

// A member that is given twice, in another case, does not come past what is held of it.
func TestWholeBodies(t *testing.T) {
	for body, want := range map[string]string{
		`{"cluster":"c","instances":[]}`:                               "",
		`{"Cluster":"c","INSTANCES":[]}`:                               "",
		`{"cluster":"c","instances":[{"image":"a"}],"Instances":null}`: "/instances is null",
		`{"cluster":"c","Instances":null,"instances":[{"image":"a"}]}`: "/instances is null",
		`{"cluster":"c","instances":[{"image":"a"}],"instances":null}`: "/instances is null",
		`{"cluster":null,"CLUSTER":"c"}`:                               "/cluster is null; /instances is missing",
		` null `:                                                       "the body is null; nothing was changed",
	} {
		for range 20 { // a map has no order
			var report InstanceReport
			got := ""
			if err := decodeWhole([]byte(body), &report); err != nil {
				p := problemOf(err)
				got = p.Detail
				var each []string
				for _, f := range p.Errors {
					each = append(each, f.Pointer+" "+f.Detail)
				}
				if each != nil {
					got = strings.Join(each, "; ")
				}
				if p.Status != 422 {
					t.Errorf("%s: %d", body, p.Status)
				}
			}
			if got != want {
				t.Fatalf("%s: %q, want %q", body, got, want)
			}
		}
	}
}
