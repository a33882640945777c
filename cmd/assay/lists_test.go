package main

import (
	"strings"
	"testing"
)

func TestSplitList(t *testing.T) {
	for text, want := range map[string]string{
		"a":                      "a",
		"a,b":                    "a|b",
		" a , ^b/ ,":             "a|^b/",
		"":                       "",
		" , ":                    "",
		`web:1\.[0-9]{2,3},api:`: `web:1\.[0-9]{2,3}|api:`,
		"(a,b),c":                "(a,b)|c",
		"[,(]a,b":                "[,(]a|b",
		`\[a,b`:                  `\[a|b`,
		`a\,b,c`:                 `a\,b|c`,
		"a),b":                   "a)|b",
		"(a,b":                   "(a,b", // which does not compile, and is said to
	} {
		if got := strings.Join(splitList(text), "|"); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}
