package bundles

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/util"
)

// canonical appends a JSON value in the form whose SHA-256 OPA signs: members in
// the order of their names, no white space, numbers as they were written, and no
// more escapes than JSON needs. A json.RawMessage that has this form is taken as
// it is; a value of no plain JSON type goes through encoding/json. Lists and
// objects that are nil are empty.
func canonical(to []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case map[string]any:
		return object(to, v)
	case map[string]json.RawMessage:
		return object(to, v)
	case map[string]map[string]json.RawMessage:
		return object(to, v)
	case []any:
		to = append(to, '[')
		for i, x := range v {
			if i > 0 {
				to = append(to, ',')
			}
			var err error
			if to, err = canonical(to, x); err != nil {
				return nil, err
			}
		}
		return append(to, ']'), nil
	case string:
		if utf8.ValidString(v) {
			return quote(to, v)
		}
	case json.RawMessage:
		if isCanonical(v) {
			return append(to, v...), nil
		}
		var decoded any
		if err := util.UnmarshalJSON(v, &decoded); err != nil {
			return nil, fmt.Errorf("a document is no JSON: %w", err)
		}
		return canonical(to, decoded)
	case json.Number:
		return canonical(to, json.RawMessage(v))
	}
	return marshaled(to, v)
}

func marshaled(to []byte, v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("a document is no JSON: %w", err)
	}
	return canonical(to, json.RawMessage(text))
}

func object[V any](to []byte, members map[string]V) ([]byte, error) {
	from := to
	to = append(to, '{')
	for i, name := range slices.Sorted(maps.Keys(members)) {
		if !utf8.ValidString(name) {
			return marshaled(from, members)
		}
		if i > 0 {
			to = append(to, ',')
		}
		var err error
		if to, err = quote(to, name); err != nil {
			return nil, err
		}
		if to, err = canonical(append(to, ':'), members[name]); err != nil {
			return nil, err
		}
	}
	return append(to, '}'), nil
}

// quote appends a text, which is UTF-8, as a JSON string.
func quote(to []byte, s string) ([]byte, error) {
	from := len(to)
	to = append(append(append(to, '"'), s...), '"')
	if isCanonical(to[from:]) {
		return to, nil
	}
	var buf bytes.Buffer
	encoder := json.NewEncoder(&buf)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(s); err != nil {
		return nil, err
	}
	return append(to[:from], bytes.TrimSuffix(buf.Bytes(), []byte("\n"))...), nil
}

// maxDepth is how deep isCanonical looks.
const maxDepth = 64

// isCanonical reports whether a text is JSON in canonical form, of the kind that
// scans come in: strings of ASCII without escapes, no deeper than maxDepth. Of any
// other text it says no, which costs time alone.
func isCanonical(text []byte) bool {
	end, ok := skipValue(text, 0, 0)
	return ok && end == len(text)
}

// skipValue is where the value ends that begins at a place, if it is canonical.
func skipValue(text []byte, at, depth int) (end int, ok bool) {
	if at == len(text) || depth > maxDepth {
		return 0, false
	}
	switch text[at] {
	case '{':
		return skipObject(text, at, depth)
	case '[':
		return skipArray(text, at, depth)
	case '"':
		return skipString(text, at)
	case 't':
		return skipWord(text, at, "true")
	case 'f':
		return skipWord(text, at, "false")
	case 'n':
		return skipWord(text, at, "null")
	}
	return skipNumber(text, at)
}

func skipWord(text []byte, at int, word string) (end int, ok bool) {
	end = at + len(word)
	return end, end <= len(text) && string(text[at:end]) == word
}

func skipObject(text []byte, at, depth int) (end int, ok bool) {
	at++
	if at < len(text) && text[at] == '}' {
		return at + 1, true
	}
	for before := []byte(nil); ; at++ {
		end, ok = skipString(text, at)
		if !ok || end == len(text) || text[end] != ':' {
			return 0, false
		}
		name := text[at:end]
		if before != nil && bytes.Compare(before[1:len(before)-1], name[1:len(name)-1]) >= 0 {
			return 0, false
		}
		before = name
		if at, ok = skipValue(text, end+1, depth+1); !ok || at == len(text) {
			return 0, false
		}
		switch text[at] {
		case '}':
			return at + 1, true
		case ',':
		default:
			return 0, false
		}
	}
}

func skipArray(text []byte, at, depth int) (end int, ok bool) {
	at++
	if at < len(text) && text[at] == ']' {
		return at + 1, true
	}
	for ; ; at++ {
		if at, ok = skipValue(text, at, depth+1); !ok || at == len(text) {
			return 0, false
		}
		switch text[at] {
		case ']':
			return at + 1, true
		case ',':
		default:
			return 0, false
		}
	}
}

func skipString(text []byte, at int) (end int, ok bool) {
	if at >= len(text) || text[at] != '"' {
		return 0, false
	}
	for i, c := range text[at+1:] {
		switch {
		case c == '"':
			return at + i + 2, true
		case c < ' ' || c == '\\' || c >= utf8.RuneSelf:
			return 0, false
		}
	}
	return 0, false
}

func skipNumber(text []byte, at int) (end int, ok bool) {
	digits := func() bool {
		from := at
		for at < len(text) && '0' <= text[at] && text[at] <= '9' {
			at++
		}
		return at > from
	}
	is := func(chars string) bool {
		if at < len(text) && bytes.IndexByte([]byte(chars), text[at]) >= 0 {
			at++
			return true
		}
		return false
	}
	is("-")
	if !is("0") && !digits() {
		return 0, false
	}
	if is(".") && !digits() {
		return 0, false
	}
	if is("eE") {
		is("+-")
		if !digits() {
			return 0, false
		}
	}
	return at, true
}
