package intake

import (
	"errors"
	"fmt"
	"io"
)

// TooMany is a text that has more in it than is taken, or is nested deeper.
type TooMany struct{ What string }

func (e *TooMany) Error() string { return "the body has " + e.What }

// MaxDepth bounds how deep JSON is nested.
const MaxDepth = 200

// Shape is what a text unfolds to, counted without building it: the values and names of JSON;
// of any other text its lines and tags, whichever are more.
type Shape struct {
	Bytes    int64
	Elements int64
	Objects  int64 // of those, the objects and lists of JSON

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
				s.escaped = true
			case b == '"':
				s.inString = false
			}
			continue
		}
		switch b {
		case '"':
			s.inString, s.inWord = true, false
			s.Elements++
		case '{', '[':
			s.inWord = false
			s.Elements++
			s.Objects++
			if s.depth++; s.depth > MaxDepth {
				return 0, &TooMany{fmt.Sprintf("values nested deeper than %d", MaxDepth)}
			}
		case '}', ']':
			s.inWord = false
			s.depth--
		case ',', ':', ' ', '\t', '\r', '\n':
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
func Measure(in io.Reader, limit int64, fits func(*Shape) error) (Shape, error) {
	var s Shape
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
