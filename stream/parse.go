package stream

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// brackets finds where a value ends that begins with one: JSON, and YAML in its manner.
type brackets struct {
	open                     []byte // the brackets that close what is open
	quote, last              byte
	escaped, comment, closed bool
}

// closes is told each byte, and true at the one that closes the first bracket.
func (s *brackets) closes(b byte) bool {
	switch {
	case s.comment:
		s.comment = b != '\n' && b != '\r'
	case s.escaped:
		s.escaped = false
	case s.quote == '"' && b == '\\':
		s.escaped = true
	case s.quote != 0:
		if b == s.quote {
			s.quote = 0
		}
	case (b == '"' || b == '\'') && strings.IndexByte("{}[],:'\" \t\r\n", s.last) >= 0:
		s.quote = b
	case b == '#' && strings.IndexByte(" \t\r\n", s.last) >= 0:
		s.comment = true
	case b == '{' || b == '[':
		s.open = append(s.open, b+2) // } and ] are two after { and [
	case len(s.open) > 0 && b == s.open[len(s.open)-1]:
		s.open = s.open[:len(s.open)-1]
		s.closed = len(s.open) == 0
	}
	s.last = b
	return s.closed
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// parse reads the YAML of a document. What the library takes for several documents
// is several; one without content is none.
func (r *Reader) parse(d *Document) (*Document, error) {
	// The parser sees the columns of the file, and the --- before the text.
	pad := bytes.Repeat([]byte(" "), d.Column-1)
	if d.inline || len(bytes.TrimSpace(d.lead)) == 0 {
		copy(pad, d.lead)
	}
	dec := yaml.NewDecoder(io.MultiReader(bytes.NewReader(pad), bytes.NewReader(d.Text)))
	for {
		var node yaml.Node
		err := decodeNode(dec, &node)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			r.queue = nil
			r.number = d.Number
			return nil, d.notYAML(err)
		}
		if len(node.Content) == 0 || node.Content[0].Kind == yaml.ScalarNode && node.Content[0].ShortTag() == "!!null" {
			continue
		}
		shift(node.Content[0], d.Line-1)
		r.number++
		r.queue = append(r.queue, &Document{File: d.File, Number: r.number, Line: node.Content[0].Line, Column: node.Content[0].Column, Text: d.Text,
			first: d.Line, lead: d.lead, node: node.Content[0], config: d.config})
	}
	if len(r.queue) == 0 {
		return nil, nil
	}
	return r.Next()
}

// decodeNode guards against a parser that panics: hostile text must not end the process.
func decodeNode(dec *yaml.Decoder, node *yaml.Node) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("yaml: %v", r)
		}
	}()
	return dec.Decode(node)
}

func shift(n *yaml.Node, lines int) {
	n.Line += lines
	for _, c := range n.Content {
		shift(c, lines)
	}
}

// notYAML says where the parser stopped. It tells lines only: the column is where
// the line's text begins.
func (d *Document) notYAML(err error) error {
	if jsonLike.Match(d.Text) {
		return d.notJSON()
	}
	message := yamlLine.ReplaceAllString(err.Error(), "")
	line := 1
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil && m[1] != "" {
		line, _ = strconv.Atoi(m[1])
		// The library counts the lines of its parser, unlike those of its
		// scanner, from 0.
		if strings.Contains(message, "did not find expected") {
			line++
		}
	}
	if strings.Contains(message, "did not find expected <document start>") {
		message = "there is text after the end of the document, which nothing reads; a line --- separates documents"
	} else {
		message = "not YAML: " + message
	}
	list := lines(bytes.TrimRight(d.Text, " \t\r\n"))
	line = min(line, len(list))
	column := d.Column
	if text := list[line-1]; line > 1 {
		column = 1 + len(text) - len(strings.TrimLeft(text, " \t"))
	}
	if i := slices.IndexFunc(list, func(l string) bool { return strings.Contains(l, "{{") }); i >= 0 {
		message += fmt.Sprintf("%s (line %d)", renderFirst, d.Line+i)
	}
	return d.fault(d.Line+line-1, column, "%s", message)
}

var jsonLike = regexp.MustCompile(`^(\{\s*"|\[\s*[\[{"])`)

// notJSON says where what looks like JSON ceases to be.
func (d *Document) notJSON() error {
	err := json.Unmarshal(d.Text, new(any))
	offset := len(d.Text)
	if syntax := new(json.SyntaxError); errors.As(err, &syntax) {
		offset = max(0, int(syntax.Offset)-1)
	} else if err == nil {
		err = errors.New("it is not UTF-8")
	}
	line, column := d.placeInText(offset)
	return d.fault(line, column, "not JSON: %v", err)
}

// renderFirst is what to do with a template.
const renderFirst = "; it looks like a template: render it first, as helm template does"

// lines splits a text as editors count its lines.
func lines(text []byte) []string {
	return strings.Split(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(text)), "\n")
}
