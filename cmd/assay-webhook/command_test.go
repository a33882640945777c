package main

import "testing"

// There is one command: any word beside its flags is refused.
func TestUnknownWords(t *testing.T) {
	if command().HasSubCommands() {
		t.Error("there are commands below it, which must refuse what is none of them")
	}
	for _, args := range [][]string{{"srve"}, {"help"}, {"--policies", "policies", "serve"}, {"--nosuch"}} {
		if code := run(t.Context(), args); code != 2 {
			t.Errorf("%q: exit status %d", args, code)
		}
	}
}
