package intake

import (
	"errors"
	"fmt"
	"io"
)

// TooMany is a text that has more in it than is taken, or is nested deeper.
type TooMany struct{ What string }

func (e *TooMany) Error() string { return "the body has " + e.What }

// maxName bounds what is kept of a name, in bytes.
const maxName = 32

// MaxDepth bounds how deep JSON is nested.
const MaxDepth = 200

// Shape is what a text unfolds to, counted without building it: the values and names of JSON;
// of any other text its lines and tags, whichever are more.
type Shape struct {
	Bytes    int64
	Elements int64
	Objects  int64 // of those, the objects and lists of JSON, but for slight ones
	// Slight are those objects and lists that are the value of a member of a slight name, or in a list that
	// is: see [Measure].
	Slight int64
	// Known are names of members, of Elements, that [Measure] was told of.
	Known int64

	names   map[string]bool
	name    []byte             // of the text that ended last; more than maxName of it are not kept
	odd     bool               // it has an escape, or is longer
	member  bool               // a value follows the name of a member
	small   bool               // which is slight
	inSmall [MaxDepth + 1]bool // by depth: a list whose elements are

	json, begun bool
	inString    bool
	escaped     bool
	inWord      bool
	depth       int
	lines, tags int64
}

// Write implements io.Writer: the text goes through it in any pieces. Nesting deeper than
// MaxDepth is a *TooMany.
func (s *Shape) Write(p []byte) (int, error) {
	s.Bytes += int64(len(p))
	for _, b := range p {
		if !s.begun {
			if b == ' ' || b == '\t' || b == '\r' || b == '\n' || b == 0xEF || b == 0xBB || b == 0xBF {
				continue
			}
			s.begun, s.json = true, b == '{' || b == '['
		}
		if !s.json {
			switch b {
			case '\n':
				s.lines++
			case '<':
				s.tags++
			}
			continue
		}
		if s.inString {
			switch {
			case s.escaped:
				s.escaped = false
			case b == '\\':
				s.escaped, s.odd = true, true
			case b == '"':
				s.inString = false
			case len(s.name) == maxName:
				s.odd = true
			default:
				s.name = append(s.name, b)
			}
			continue
		}
		switch b {
		case '"':
			s.inString, s.inWord = true, false
			s.name, s.odd = s.name[:0], false
			s.Elements++
		case '{', '[':
			s.inWord = false
			s.Elements++
			slight := s.small
			if !s.member {
				slight = s.depth >= 0 && s.inSmall[s.depth]
			}
			s.member = false
			if slight {
				s.Slight++
			} else {
				s.Objects++
			}
			if s.depth++; s.depth > MaxDepth {
				return 0, &TooMany{fmt.Sprintf("values nested deeper than %d", MaxDepth)}
			}
			if s.depth >= 0 {
				s.inSmall[s.depth] = slight && b == '['
			}
		case '}', ']':
			s.inWord, s.member = false, false
			s.depth--
		case ':':
			s.inWord = false
			slight, known := s.names[string(s.name)]
			s.member, s.small = true, slight && !s.odd
			if known && !s.odd {
				s.Known++
			}
		case ',':
			s.inWord, s.member = false, false
		case ' ', '\t', '\r', '\n':
			s.inWord = false
		default:
			if !s.inWord {
				s.inWord = true
				s.Elements++
			}
		}
	}
	if !s.json {
		s.Elements = max(s.lines, s.tags)
	}
	return len(p), nil
}

// Measure reads a text to its end and gives its shape. It ends early, with a *TooMany, where
// there are more than limit bytes, or where fits says why the shape so far is too much.
// It counts members whose names are among some, written so, of at most 32 bytes and without an escape: those of which
// what is read takes little memory are true.
func Measure(in io.Reader, limit int64, names map[string]bool, fits func(*Shape) error) (Shape, error) {
	s := Shape{names: names}
	buffer := make([]byte, 32<<10)
	for {
		n, err := in.Read(buffer)
		if _, err := s.Write(buffer[:n]); err != nil {
			return s, err
		}
		if s.Bytes > limit {
			return s, &TooMany{fmt.Sprintf("more than %d bytes", limit)}
		}
		if err := fits(&s); err != nil {
			return s, err
		}
		if errors.Is(err, io.EOF) {
			return s, nil
		}
		if err != nil {
			return s, err
		}
	}
}
