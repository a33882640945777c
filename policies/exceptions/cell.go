package exceptions

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// formula are the characters that make a spreadsheet compute a cell; some take wide and
// small forms, too.
const formula = "=+-@＝＋－＠﹦﹢﹣﹫−"

// suspicious says whether a spreadsheet may take a cell for a formula. Some leave out the
// white space in front of it, and what cannot be seen; nor do apostrophes change the answer.
func suspicious(cell string) bool {
	r, n := utf8.DecodeRuneInString(strings.TrimLeft(cell, "'"))
	if n > 0 && strings.ContainsRune("\t\r\n", r) {
		return true
	}
	r, n = utf8.DecodeRuneInString(strings.TrimLeftFunc(cell, func(r rune) bool {
		return r == '\'' || unicode.IsSpace(r) || unicode.In(r, unicode.Cc, unicode.Cf)
	}))
	return n > 0 && strings.ContainsRune(formula, r)
}

// Guard keeps a cell of a CSV file from being a formula in a spreadsheet: an apostrophe
// comes in front of one that may be taken for such, whatever apostrophes and spaces it
// begins with. [Unguard] gives the cell back.
func Guard(cell string) string {
	if suspicious(cell) {
		return "'" + cell
	}
	return cell
}

// Unguard takes off the apostrophe that [Guard] puts in front, and no other.
func Unguard(cell string) string {
	if strings.HasPrefix(cell, "'") && suspicious(cell) {
		return cell[1:]
	}
	return cell
}
