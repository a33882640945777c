package exceptions

import (
	"strings"
	"testing"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// computes is what a spreadsheet does that folds characters and leaves out what it does not show.
func computes(cell string) bool {
	folded := strings.TrimLeftFunc(norm.NFKC.String(cell), func(r rune) bool { return !unicode.IsPrint(r) || unicode.IsSpace(r) })
	return folded != "" && strings.ContainsAny(folded[:1], "=+-@") || strings.ContainsAny(cell[:min(1, len(cell))], "\t\r\n")
}

func FuzzGuard(f *testing.F) {
	for _, lead := range []string{"", " ", "\t", "\r", "\n", "\r\n", "\u00a0", "\u3000", "\u2003", "\u0085", "\ufeff", "\u200b", "\u2060", "\u00ad", "\u202e", "\x00", "\x1f", "'", " '", "' ", "''", "'\u3000'"} {
		for _, sign := range []string{"=", "+", "-", "@", "＝", "＋", "－", "＠", "﹦", "﹢", "﹣", "﹫", "−", "a", ""} {
			f.Add(lead + sign + "cmd|' /C calc'!A0")
		}
	}
	f.Fuzz(func(t *testing.T, cell string) {
		guarded := Guard(cell)
		if computes(guarded) {
			t.Errorf("a spreadsheet would compute %q", guarded)
		}
		if got := Unguard(guarded); got != cell {
			t.Errorf("%q became %q, and then %q", cell, guarded, got)
		}
	})
}

func TestGuardLeavesTheRest(t *testing.T) {
	for _, cell := range []string{"", "CVE-2021-44228", "nginx", "'quoted'", " a", "[\"=x\"]", "1.5", "'", "a=b"} {
		if got := Guard(cell); got != cell {
			t.Errorf("%q became %q", cell, got)
		}
	}
}
