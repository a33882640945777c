package auth

import (
	"regexp"
	"strings"
	"testing"
)

func TestNewToken(t *testing.T) {
	form := regexp.MustCompile(`^assay_[A-Za-z0-9_-]{49}$`)
	seen := map[string]bool{}
	for range 1000 {
		token := NewToken()
		if !form.MatchString(token) || !IsToken(token) || seen[token] {
			t.Fatalf("token %q: malformed or made twice", token)
		}
		seen[token] = true
	}
}

// A token with one other character is no token, wherever the character is.
func TestChecksum(t *testing.T) {
	token := NewToken()
	for i := range token {
		for _, c := range []byte("Aa9_-.") {
			if c == token[i] {
				continue
			}
			if other := token[:i] + string(c) + token[i+1:]; IsToken(other) {
				t.Errorf("IsToken holds with %q at %d", c, i)
			}
		}
	}
	loose := TokenPrefix + strings.Repeat("A", randomLen-1) + "B" // decodes to 256 zero bits, as A would
	for _, s := range []string{"", "assay_", loose + checksum(loose), token + "A", token[:len(token)-1], " " + token, strings.ToUpper(token)} {
		if IsToken(s) {
			t.Errorf("IsToken(%q) holds", s)
		}
	}
}

func FuzzIsToken(f *testing.F) {
	f.Add(NewToken())
	f.Add("assay_")
	f.Add(strings.Repeat("=", 55))
	form := regexp.MustCompile(`^assay_[A-Za-z0-9_-]{49}$`)
	f.Fuzz(func(t *testing.T, s string) {
		if IsToken(s) && !form.MatchString(s) {
			t.Errorf("%q is taken for a token", s)
		}
	})
}

func FuzzBearer(f *testing.F) {
	for _, s := range []string{"Bearer abc", "bearer  abc ", "Basic YTpi", "Bearer", "Bearer ", "Bearer a b", "Bearer\tabc", "", "Bearer a\x00b", "Bearer ä"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		token, ok := bearer([]string{header})
		if !ok {
			if token != "" {
				t.Errorf("%q is refused and gives %q", header, token)
			}
			return
		}
		if token == "" || len(token) > maxToken || strings.ContainsAny(token, " \t\r\n\x00") || !strings.Contains(header, token) {
			t.Errorf("%q gives %q", header, token)
		}
		if again, ok := bearer([]string{"Bearer " + token}); !ok || again != token {
			t.Errorf("%q does not come back", token)
		}
	})
}

func TestBearer(t *testing.T) {
	for _, c := range []struct {
		header []string
		want   string
	}{
		{[]string{"Bearer abc"}, "abc"},
		{[]string{"bEARER   abc  "}, "abc"},
		{[]string{"Bearer " + strings.Repeat("a", maxToken)}, strings.Repeat("a", maxToken)},
		{[]string{"Bearer " + strings.Repeat("a", maxToken+1)}, ""},
		{[]string{"Bearer abc", "Bearer abc"}, ""},
		{[]string{"Basic YTpi"}, ""},
		{[]string{"Bearer a b"}, ""},
		{[]string{"Bearerabc"}, ""},
		{[]string{""}, ""},
	} {
		if token, ok := bearer(c.header); token != c.want || ok != (c.want != "") {
			t.Errorf("bearer(%.40q) = %.40q, %v", c.header, token, ok)
		}
	}
}
