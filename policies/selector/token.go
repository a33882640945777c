package selector

import (
	"fmt"
	"strings"
)

type kind int

const (
	end kind = iota
	label
	text
	openSet
	closeSet
	comma
	eq
	ne
	in
	notIn
	not
	contains
	startsWith
	endsWith
	all
	has
	global
	open
	closed
	and
	or
)

type token struct {
	kind kind
	text string // of a label, a has(…) or a quoted value
	at   int    // byte offset
	end  int
	src  *string
}

func (t token) String() string {
	if t.kind == end {
		return "the end"
	}
	s := (*t.src)[t.at:t.end]
	if len(s) > 30 {
		s = s[:30] + "…"
	}
	return fmt.Sprintf("%q", s)
}

// symbols are the tokens of fixed spelling, the longer before its prefix.
var symbols = []struct {
	spelling string
	kind     kind
}{
	{"==", eq}, {"!=", ne}, {"&&", and}, {"||", or}, {"!", not}, {"(", open}, {")", closed},
	{"{", openSet}, {"}", closeSet}, {",", comma},
}

const space = " \t"

// tokenize splits a selector. What a word means depends on what is before it:
// after a label it is an operator, which need not be set off from what follows.
func tokenize(src string) ([]token, *Error) {
	var tokens []token
	at := 0
	add := func(k kind, value string, length int) {
		tokens = append(tokens, token{k, value, at, at + length, &src})
		at += length
	}
	for {
		at += len(src[at:]) - len(strings.TrimLeft(src[at:], space))
		rest := src[at:]
		if rest == "" {
			return append(tokens, token{end, "", at, at, &src}), nil
		}
		if c := rest[0]; c == '\'' || c == '"' {
			n := strings.IndexByte(rest[1:], c)
			if n < 0 {
				return nil, &Error{at, fmt.Sprintf("the value has no closing %c", c)}
			}
			add(text, rest[1:1+n], n+2)
			continue
		}
		if k, n, ok := symbol(rest); ok {
			add(k, "", n)
			continue
		}
		k, value, n, err := word(rest, len(tokens) > 0 && tokens[len(tokens)-1].kind == label)
		if err != "" {
			return nil, &Error{at, err}
		}
		add(k, value, n)
	}
}

func symbol(rest string) (kind, int, bool) {
	for _, s := range symbols {
		if strings.HasPrefix(rest, s.spelling) {
			return s.kind, len(s.spelling), true
		}
	}
	return 0, 0, false
}

// word reads a label, a function or, after a label, an operator.
func word(rest string, afterLabel bool) (k kind, value string, length int, err string) {
	switch {
	case strings.ContainsRune("=&|", rune(rest[0])):
		return 0, "", 0, fmt.Sprintf("expected %[1]c%[1]c, found a single %[1]c", rest[0])
	case afterLabel:
		for _, op := range []struct {
			words []string
			kind  kind
		}{{[]string{"contains"}, contains}, {[]string{"starts", "with"}, startsWith}, {[]string{"ends", "with"}, endsWith}, {[]string{"not", "in"}, notIn}, {[]string{"in"}, in}} {
			if n := words(rest, op.words); n > 0 {
				return op.kind, "", n, ""
			}
		}
		return 0, "", 0, "expected ==, !=, in, not in, contains, starts with or ends with after the label"
	}
	for name, k := range map[string]kind{"has(": has, "all(": all, "global(": global} {
		if !strings.HasPrefix(rest, name) {
			continue
		}
		inner := strings.TrimLeft(rest[len(name):], space)
		if k == has {
			if value = identifier(inner); value == "" {
				return 0, "", 0, "has( needs the name of a label"
			}
			if len(value) > maxLabel {
				return 0, "", 0, tooLong(value)
			}
			inner = strings.TrimLeft(inner[len(value):], space)
		}
		if !strings.HasPrefix(inner, ")") {
			return 0, "", 0, name + " has no closing )"
		}
		return k, value, len(rest) - len(inner) + 1, ""
	}
	if value = identifier(rest); value == "" {
		return 0, "", 0, fmt.Sprintf("unexpected character %q", []rune(rest)[0])
	}
	if len(value) > maxLabel {
		return 0, "", 0, tooLong(value)
	}
	return label, value, len(value), ""
}

// maxLabel is the length of the longest name of a label that Calico's parser takes.
const maxLabel = 512

func tooLong(label string) string {
	return fmt.Sprintf("the label %.30s… has %d bytes; at most %d are allowed", label, len(label), maxLabel)
}

// words matches an operator's words with any space, or none, between them.
func words(rest string, list []string) int {
	left := rest
	for i, w := range list {
		if i > 0 {
			left = strings.TrimLeft(left, space)
		}
		if !strings.HasPrefix(left, w) {
			return 0
		}
		left = left[len(w):]
	}
	return len(rest) - len(left)
}

// identifier is the longest prefix that can be the name of a label.
func identifier(s string) string {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("_./-", c) >= 0) {
			return s[:i]
		}
	}
	return s
}
