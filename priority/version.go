package priority

import (
	"cmp"
	"slices"
	"strings"
)

// Compare orders two versions of packages of a type (Syft's: deb, rpm, apk, npm, …) as that
// ecosystem does: negative where a is the lower. It is total: texts that are no versions
// are compared part by part.
func Compare(kind, a, b string) int {
	switch kind {
	case "deb":
		return compareEpochs(a, b, "0", debian)
	case "rpm":
		return compareEpochs(a, b, "0", rpm)
	case "apk":
		return apk(a, b)
	case "python":
		return compareEpochs(strings.ReplaceAll(plain(a), "!", ":"), strings.ReplaceAll(plain(b), "!", ":"), "0", func(a, b string) int {
			a, ownA, _ := strings.Cut(a, "+")
			b, ownB, _ := strings.Cut(b, "+")
			return cmp.Or(released(a, b, false), released(ownA, ownB, false))
		})
	case "java-archive", "jenkins-plugin":
		return released(plain(a), plain(b), false)
	}
	// The rest follow semantic versioning, more or less: a build is no part of the order.
	a, _, _ = strings.Cut(plain(a), "+")
	b, _, _ = strings.Cut(plain(b), "+")
	return released(a, b, true)
}

// plain is a version without the letter that some put before it, as "v1.2" and "go1.21".
func plain(s string) string {
	s = strings.ToLower(strings.TrimSpace(s))
	for _, prefix := range []string{"v", "go"} {
		if rest, ok := strings.CutPrefix(s, prefix); ok && rest != "" && isDigit(rest[0]) {
			return rest
		}
	}
	return s
}

func isDigit(c byte) bool  { return '0' <= c && c <= '9' }
func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

// number compares runs of digits of any length.
func number(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
}

// run cuts off what a text begins with of the bytes that fit.
func run(s string, fits func(byte) bool) (head, rest string) {
	n := 0
	for n < len(s) && fits(s[n]) {
		n++
	}
	return s[:n], s[n:]
}

// compareEpochs compares what is before a colon as a number, then version and release.
func compareEpochs(a, b, none string, part func(a, b string) int) int {
	split := func(s string) (epoch, version, release string) {
		epoch = none
		if head, rest := run(s, isDigit); head != "" && strings.HasPrefix(rest, ":") {
			epoch, s = head, rest[1:]
		}
		version = s
		if i := strings.LastIndexByte(s, '-'); i >= 0 {
			version, release = s[:i], s[i+1:]
		}
		return epoch, version, release
	}
	epochA, versionA, releaseA := split(a)
	epochB, versionB, releaseB := split(b)
	if c := cmp.Or(number(epochA, epochB), part(versionA, versionB)); c != 0 {
		return c
	}
	return part(releaseA, releaseB)
}

// debian compares as dpkg does: what is no digit by letters first, a tilde before all.
func debian(a, b string) int {
	rank := func(s string) int {
		switch {
		case s == "" || isDigit(s[0]):
			return 0
		case s[0] == '~':
			return -1
		case isLetter(s[0]):
			return int(s[0])
		}
		return int(s[0]) + 256
	}
	for a != "" || b != "" {
		for (a != "" && !isDigit(a[0])) || (b != "" && !isDigit(b[0])) {
			if c := cmp.Compare(rank(a), rank(b)); c != 0 {
				return c
			}
			a, b = a[min(1, len(a)):], b[min(1, len(b)):]
		}
		var x, y string
		x, a = run(a, isDigit)
		y, b = run(b, isDigit)
		if c := number(x, y); c != 0 {
			return c
		}
	}
	return 0
}

// rpm compares as rpmvercmp does.
func rpm(a, b string) int {
	mark := func(c byte) bool { return !isDigit(c) && !isLetter(c) && c != '~' && c != '^' }
	for {
		_, a = run(a, mark)
		_, b = run(b, mark)
		tildeA, tildeB := strings.HasPrefix(a, "~"), strings.HasPrefix(b, "~")
		if tildeA || tildeB {
			if !tildeA || !tildeB {
				return map[bool]int{true: -1, false: 1}[tildeA]
			}
			a, b = a[1:], b[1:]
			continue
		}
		caretA, caretB := strings.HasPrefix(a, "^"), strings.HasPrefix(b, "^")
		if caretA || caretB {
			switch {
			case a == "":
				return -1
			case b == "":
				return 1
			case !caretA:
				return 1
			case !caretB:
				return -1
			}
			a, b = a[1:], b[1:]
			continue
		}
		if a == "" || b == "" {
			return cmp.Compare(len(a), len(b))
		}
		numeric := isDigit(a[0])
		fits := isLetter
		if numeric {
			fits = isDigit
		}
		var x, y string
		x, a = run(a, fits)
		y, b = run(b, fits)
		if y == "" { // another kind: digits are the newer
			return map[bool]int{true: 1, false: -1}[numeric]
		}
		c := cmp.Compare(x, y)
		if numeric {
			c = number(x, y)
		}
		if c != 0 {
			return c
		}
	}
}

// apk compares as Alpine's package manager does: numbers, a letter, suffixes, a release.
func apk(a, b string) int {
	split := func(s string) (numbers, letter string, suffixes []string, release string) {
		if i := strings.LastIndex(s, "-r"); i >= 0 {
			s, release = s[:i], s[i+2:]
		}
		parts := strings.Split(s, "_")
		numbers, letter = run(parts[0], func(c byte) bool { return isDigit(c) || c == '.' })
		return numbers, letter, parts[1:], release
	}
	numbersA, letterA, suffixesA, releaseA := split(a)
	numbersB, letterB, suffixesB, releaseB := split(b)
	partsA, partsB := strings.Split(numbersA, "."), strings.Split(numbersB, ".")
	for i := range min(len(partsA), len(partsB)) {
		x, y := partsA[i], partsB[i]
		c := number(x, y)
		if i > 0 && (strings.HasPrefix(x, "0") || strings.HasPrefix(y, "0")) { // as decimals
			c = cmp.Compare(x, y)
		}
		if c != 0 {
			return c
		}
	}
	if c := cmp.Or(cmp.Compare(len(partsA), len(partsB)), cmp.Compare(letterA, letterB)); c != 0 {
		return c
	}
	rank := func(list []string, i int) (int, string) {
		if i >= len(list) {
			return 0, ""
		}
		name, n := run(list[i], isLetter)
		switch name {
		case "alpha":
			return -4, n
		case "beta":
			return -3, n
		case "pre":
			return -2, n
		case "rc":
			return -1, n
		case "cvs":
			return 1, n
		case "svn":
			return 2, n
		case "git":
			return 3, n
		case "hg":
			return 4, n
		}
		return 5, n // p, and what is not known
	}
	for i := range max(len(suffixesA), len(suffixesB)) {
		x, n := rank(suffixesA, i)
		y, m := rank(suffixesB, i)
		if c := cmp.Or(cmp.Compare(x, y), number(n, m)); c != 0 {
			return c
		}
	}
	return number(releaseA, releaseB)
}

// word is a part of a version behind the numbers that it begins with. Its rank says what it
// makes of a release: below 0 it is one before it. The end of a version has the rank 0.
type word struct {
	rank int
	text string
}

func (w word) compare(v word) int {
	if c := cmp.Compare(w.rank, v.rank); c != 0 || w.rank != digits {
		return cmp.Or(c, cmp.Compare(w.text, v.text))
	}
	return number(w.text, v.text)
}

// digits is the rank of numbers.
const digits = 10

// ranks are those of the words that ecosystems know; others are after the release.
var ranks = map[string]int{"dev": -7, "alpha": -6, "a": -6, "beta": -5, "b": -5, "milestone": -4, "m": -4, "rc": -3, "cr": -3, "c": -3, "pre": -3, "preview": -3, "snapshot": -2, "sp": 1}

// released compares the numbers that versions begin with, where zeros more are the same, and
// then words. strict says that a dash makes it a version before the release, whose parts
// compare as semantic versioning has it.
func released(a, b string, strict bool) int {
	numbersA, wordsA := parts(a, strict)
	numbersB, wordsB := parts(b, strict)
	return cmp.Or(slices.CompareFunc(numbersA, numbersB, number), compareWords(wordsA, wordsB))
}

func compareWords(a, b []word) int {
	for i := range max(len(a), len(b)) {
		var x, y word
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if c := x.compare(y); c != 0 {
			return c
		}
	}
	return 0
}

func parts(s string, strict bool) (numbers []string, words []word) {
	head, rest := run(s, func(c byte) bool { return isDigit(c) || c == '.' })
	for n := range strings.SplitSeq(head, ".") {
		numbers = append(numbers, strings.TrimLeft(n, "0"))
	}
	for len(numbers) > 0 && numbers[len(numbers)-1] == "" {
		numbers = numbers[:len(numbers)-1]
	}
	if strict && strings.HasPrefix(rest, "-") {
		words = append(words, word{rank: -10})
		for id := range strings.SplitSeq(rest[1:], ".") {
			if n, other := run(id, isDigit); other == "" {
				words = append(words, word{digits, n})
			} else {
				words = append(words, word{digits + 1, id})
			}
		}
		return numbers, words
	}
	for rest != "" {
		var w string
		_, rest = run(rest, func(c byte) bool { return !isDigit(c) && !isLetter(c) })
		if w, rest = run(rest, isDigit); w != "" {
			words = append(words, word{digits, w})
			continue
		}
		w, rest = run(rest, isLetter)
		switch rank, known := ranks[w]; {
		case w == "", w == "final", w == "ga", w == "release":
		case known:
			words = append(words, word{rank: rank})
		default:
			words = append(words, word{5, w})
		}
	}
	return numbers, words
}
