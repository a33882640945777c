package query

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

type kind int

const (
	end          kind = iota
	word              // an identifier, a number or a keyword
	quoted            // a string in quotes
	operator          // = != < <= > >=
	symbol            // ( ) { } , and keywords written as && || !
	substitution      // ${name}
)

type token struct {
	kind kind
	text string
	at   int // byte offset
}

func (t token) String() string {
	if t.kind == end {
		return "the end"
	}
	return fmt.Sprintf("%.40q", t.text)
}

func (t token) isValue() bool { return t.kind == word || t.kind == quoted }

// is says whether the token is a symbol, or a keyword in any case.
func (t token) is(s string) bool {
	return t.kind == symbol && t.text == s || t.kind == word && strings.EqualFold(t.text, s)
}

func (t token) anyKeyword() bool {
	return t.kind == word && slices.Contains([]string{"AND", "OR", "NOT", "IN", "NOTIN"}, strings.ToUpper(t.text))
}

const space = " \t\r\n"

// tokenize splits a query. Of text/scanner, which Calico's parser rests on, it
// keeps that comments are skipped and that there are three sorts of quotes.
func tokenize(src string) ([]token, *Error) {
	var tokens []token
	at := 0
	add := func(k kind, text string, length int) {
		tokens = append(tokens, token{k, text, at})
		at += length
	}
	for {
		at += len(src[at:]) - len(strings.TrimLeft(src[at:], space))
		rest := src[at:]
		if rest == "" {
			return append(tokens, token{end, "", at}), nil
		}
		if n, is := comment(rest); is {
			if n == 0 {
				return nil, &Error{at, "the comment has no closing */"}
			}
			at += n
			continue
		}
		switch c := rest[0]; {
		case c == '"' || c == '\'' || c == '`':
			text, n, err := unquote(rest)
			if err != nil {
				return nil, &Error{at + err.Offset, err.Message}
			}
			add(quoted, text, n)
		case strings.HasPrefix(rest, "${"):
			n := strings.IndexByte(rest, '}')
			if n < 0 {
				return nil, &Error{at, "${ has no closing }"}
			}
			add(substitution, strings.TrimSpace(rest[2:n]), n+1)
		case strings.IndexByte("(){},", c) >= 0:
			add(symbol, rest[:1], 1)
		case strings.HasPrefix(rest, "&&"):
			add(symbol, "AND", 2)
		case strings.HasPrefix(rest, "||"):
			add(symbol, "OR", 2)
		case strings.IndexByte("=!<>", c) >= 0:
			op, n := rest[:1], 1
			after := strings.TrimLeft(rest[1:], space)
			if c != '=' && strings.HasPrefix(after, "=") {
				op, n = op+"=", len(rest)-len(after)+1
			}
			if op == "!" {
				add(symbol, "NOT", 1)
			} else {
				add(operator, op, n)
			}
		default:
			n := wordLength(rest)
			if whole := rest[:valueLength(rest)]; len(whole) > n {
				return nil, &Error{at, fmt.Sprintf("put %.60q in quotes: what has none is letters, digits and _, or a number", whole)}
			}
			if n == 0 {
				r, _ := utf8.DecodeRuneInString(rest)
				return nil, &Error{at, fmt.Sprintf("unexpected character %q; put values with such characters in quotes", r)}
			}
			add(word, rest[:n], n)
		}
	}
}

// comment gives the length of the comment that a text starts with, 0 for one
// that has no end.
func comment(s string) (length int, is bool) {
	switch {
	case strings.HasPrefix(s, "//"):
		if n := strings.IndexByte(s, '\n'); n >= 0 {
			return n, true
		}
		return len(s), true
	case strings.HasPrefix(s, "/*"):
		if n := strings.Index(s[2:], "*/"); n >= 0 {
			return n + 4, true
		}
		return 0, true
	}
	return 0, false
}

// wordLength is the length of the identifier or number that a text starts with, which need no quotes.
func wordLength(s string) int {
	if n := len(number.FindString(s)); n > 0 {
		return n
	}
	n := strings.IndexFunc(s, func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) })
	if n < 0 {
		n = len(s)
	}
	return n
}

// number is what Calico's parser takes for one, but for octal, hexadecimal and binary ones.
var number = regexp.MustCompile(`^(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?`)

// valueLength is that of what one would read as one value, such as a CVE id, a reference or a wildcard.
func valueLength(s string) int {
	n := strings.IndexFunc(s, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("_-./:@*?+", r)
	})
	if n < 0 {
		return len(s)
	}
	return n
}

// unquote reads a string in quotes with the escapes of Go, or in back quotes
// without. The offset of an error counts from the start of the string.
func unquote(s string) (text string, length int, fault *Error) {
	quote, rest := s[0], s[1:]
	if quote == '`' {
		if n := strings.IndexByte(rest, '`'); n >= 0 {
			return rest[:n], n + 2, nil
		}
		return "", 0, &Error{0, "the string has no closing `"}
	}
	var b strings.Builder
	for rest != "" {
		switch {
		case rest[0] == quote:
			if !utf8.ValidString(b.String()) {
				return "", 0, &Error{0, "the string is not UTF-8"}
			}
			return b.String(), len(s) - len(rest) + 1, nil
		case rest[0] != '\\':
			b.WriteByte(rest[0])
			rest = rest[1:]
		case len(rest) > 1 && (rest[1] == '"' || rest[1] == '\''):
			b.WriteByte(rest[1])
			rest = rest[2:]
		default:
			r, multibyte, after, err := strconv.UnquoteChar(rest, quote)
			if err != nil {
				return "", 0, &Error{len(s) - len(rest), `unknown escape; write \\ for a backslash`}
			}
			if multibyte {
				b.WriteRune(r)
			} else {
				b.WriteByte(byte(r))
			}
			rest = after
		}
	}
	return "", 0, &Error{0, fmt.Sprintf("the string has no closing %c", quote)}
}
