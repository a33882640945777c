package query

import (
	"fmt"
	"slices"
	"strings"
)

type kind int

const (
	end          kind = iota
	word              // an identifier, a number or a keyword
	quoted            // a string in quotes
	operator          // = != < <= > >=
	symbol            // ( ) { } ,
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

func (t token) isKeyword(k string) bool { return t.kind == word && strings.EqualFold(t.text, k) }

func (t token) anyKeyword() bool {
	return t.kind == word && slices.Contains([]string{"AND", "OR", "NOT", "IN", "NOTIN"}, strings.ToUpper(t.text))
}

const space = " \t\r\n"

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
		switch c := rest[0]; {
		case c == '"' || c == '\'':
			text, n := unquote(rest)
			if n == 0 {
				return nil, &Error{at, fmt.Sprintf("the string has no closing %c", c)}
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
		case strings.IndexByte("=!<>", c) >= 0:
			op := rest[:1]
			if len(rest) > 1 && rest[1] == '=' && c != '=' {
				op = rest[:2]
			}
			if op == "!" {
				return nil, &Error{at, "expected !=, found a single !"}
			}
			add(operator, op, len(op))
		default:
			n := strings.IndexFunc(rest, func(r rune) bool { return !wordRune(r) })
			if n < 0 {
				n = len(rest)
			}
			if n == 0 {
				return nil, &Error{at, fmt.Sprintf("unexpected character %q; put values with such characters in quotes", []rune(rest)[0])}
			}
			add(word, rest[:n], n)
		}
	}
}

// wordRune says what may stand in a value without quotes: what CVE ids, image
// references and wildcards are made of.
func wordRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("_-./:@*?+", r)
}

// unquote reads a string in quotes; a backslash keeps a quote or a backslash. The
// length is 0 when the string has no end.
func unquote(s string) (text string, length int) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == s[0]:
			return b.String(), i + 1
		case s[i] == '\\' && i+1 < len(s) && (s[i+1] == '\\' || s[i+1] == '"' || s[i+1] == '\''):
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(s[i])
		}
	}
	return "", 0
}
