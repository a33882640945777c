// Package stream reads files of YAML and JSON documents, one after another: what
// follows a line --- or ..., and JSON values with or without anything between them.
// It reads all that a file holds, or says where it stopped: nothing is dropped. One
// document that cannot be read does not hide the others. What is wrong is told by
// file, document, line and column, with the line itself ([Diagnostic]).
package stream

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Config bounds what is read. Each bound must be given.
type Config struct {
	Document int // bytes of one document
	Total    int // bytes in all
	Nodes    int // values of one document, its aliases expanded; all readings of it together
	Depth    int // of values in values
	// Secret keeps values out of messages and their lines.
	Secret bool
}

// Document is one document of a file. It is not to be used by several goroutines.
type Document struct {
	File   string
	Number int // from 1; empty documents do not count
	Line   int // where it starts, from 1
	Column int // in bytes, from 1
	// Text is the document as it stands, without the line --- before it.
	Text []byte
	// JSON says that it is valid JSON, as opposed to YAML.
	JSON bool

	first  int    // line of the file that Text begins in
	lead   []byte // what stands before it in its first line, as far as it is kept
	inline bool   // --- does
	lines  []string
	node   *yaml.Node
	spent  int // of the bound on values
	config Config
}

// Reader reads the documents of one file. It is not to be used by several goroutines.
type Reader struct {
	file   string
	in     *bufio.Reader
	config Config

	number       int
	line, column int
	lead         []byte // of the line, as far as it is kept
	total        int
	inline       bool // the line begins with ---
	afterJSON    bool
	queue        []*Document
	end          error // what every further call gives
}

// NewReader reads a file of some name.
func NewReader(file string, in io.Reader, config Config) *Reader {
	return &Reader{file: file, in: bufio.NewReaderSize(in, 64<<10), config: config, line: 1, column: 1}
}

// Next is the next document. The error is io.EOF after the last; [Diagnostics] for a
// document that cannot be read, after which Next may be called again; any other is
// that of reading the file, which is over then.
func (r *Reader) Next() (*Document, error) {
	if len(r.queue) > 0 {
		d := r.queue[0]
		r.queue = r.queue[1:]
		return d, nil
	}
	for r.end == nil {
		d, err := r.next()
		if d != nil || err != nil {
			return d, err
		}
	}
	return nil, r.end
}

// All reads all documents of a text. Those that can be read are given beside the
// error, which is [Diagnostics].
func All(file string, text []byte, config Config) ([]*Document, error) {
	var list []*Document
	var diags Diagnostics
	for r := NewReader(file, bytes.NewReader(text), config); ; {
		d, err := r.Next()
		var bad Diagnostics
		switch {
		case errors.Is(err, io.EOF):
			return list, diags.Err()
		case errors.As(err, &bad):
			diags = append(diags, bad...)
		case err != nil:
			return list, err
		default:
			list = append(list, d)
		}
	}
}

// maxFaults bounds what is told of one file.
const maxFaults = 1000

// Each gives fn each document of a file. What is wrong with one does not hide the others:
// the error is [Diagnostics] of all that was found, where fn says it at the document's
// place; or of reading the file.
func Each(file string, in io.Reader, config Config, fn func(*Document) error) error {
	var faults Diagnostics
	for r := NewReader(file, in, config); ; {
		if len(faults) > maxFaults {
			return fmt.Errorf("%w\nand more: there are more than %d faults", faults[:maxFaults].Err(), maxFaults)
		}
		d, err := r.Next()
		if errors.Is(err, io.EOF) {
			return faults.Err()
		}
		if err == nil {
			err = fn(d)
		}
		var bad Diagnostics
		switch {
		case errors.As(err, &bad):
			faults = append(faults, bad...)
		case err != nil && d != nil:
			faults = append(faults, d.FaultAt(d.Line, d.Column, "", "%v", err))
		case err != nil:
			return fmt.Errorf("reading %s: %w", file, err)
		}
	}
}

// One reads the only document of a text. The error is [Diagnostics], for a text with
// none, too.
func One(file string, text []byte, config Config) (*Document, error) {
	docs, err := All(file, text, config)
	switch {
	case err != nil:
		return nil, err
	case len(docs) == 0:
		return nil, Diagnostics{{File: file, Message: "there is nothing in it"}}
	case len(docs) > 1:
		return nil, docs[1].fault(docs[1].Line, docs[1].Column, "there must be one document, and this is another one")
	}
	return docs[0], nil
}

const bom = "\xef\xbb\xbf"

// next takes a step: a document, a fault, or neither.
func (r *Reader) next() (*Document, error) {
	b, err := r.peek()
	if r.end != nil {
		return nil, err // of the bounds
	}
	if err != nil {
		r.end = err
		return nil, nil
	}
	switch {
	case b == ' ' || b == '\t' || b == '\n' || b == '\r' || b == '\x1e': // which jq --seq writes
		r.skip(1)
		return nil, nil
	case r.column == 1 && r.marker() != "":
		r.inline = r.marker() == "---"
		r.afterJSON = false
		r.skip(len("---"))
		return nil, nil
	case b == bom[0] && r.ahead(bom):
		r.skip(len(bom))
		r.column -= len(bom)
		r.lead = r.lead[:max(0, len(r.lead)-len(bom))]
		return nil, nil
	case b == 0xff && r.ahead("\xff\xfe") || b == 0xfe && r.ahead("\xfe\xff"):
		return nil, r.fatal("is UTF-16, as PowerShell writes it; save it as UTF-8")
	case b == '#' || r.column == 1 && (r.ahead("%YAML ") || r.ahead("%TAG ")):
		for err == nil && b != '\n' && b != '\r' {
			r.skip(1)
			b, err = r.peek()
		}
		if r.end != nil {
			return nil, err // of the bounds
		}
		return nil, nil
	}
	d := &Document{File: r.file, Number: r.number + 1, Line: r.line, Column: r.column, first: r.line, lead: bytes.Clone(r.lead), config: r.config}
	switch {
	case (b == '{' || b == '[') && !r.ahead("{{"):
		var s brackets
		if err := r.take(d, s.closes); err != nil {
			r.number++
			return nil, err
		}
		r.afterJSON = s.closed
	case r.afterJSON:
		err := r.take(d, never)
		r.number++
		return nil, cmp.Or(err, d.fault(d.Line, d.Column, "nothing reads the text after a JSON value; a line --- separates documents"))
	default:
		if err := r.take(d, never); err != nil {
			r.number++
			return nil, err
		}
	}
	if json.Valid(d.Text) && utf8.Valid(d.Text) && !bytes.Equal(bytes.TrimSpace(d.Text), []byte("null")) {
		r.number++
		d.JSON = true
		return d, nil
	}
	return r.parse(d)
}

// take adds bytes to a document until a marker, or the byte that done is true of.
func (r *Reader) take(d *Document, done func(byte) bool) error {
	d.inline = r.inline
	size := 0
	for stop := false; !stop && (r.column > 1 || size == 0 || r.marker() == ""); {
		if _, err := r.peek(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			r.end = cmp.Or(r.end, err)
			return err
		}
		window, _ := r.in.Peek(r.in.Buffered())
		n := 0
		for n < len(window) && !stop {
			b := window[n]
			if b < ' ' && b != '\t' && b != '\n' && b != '\r' && b != '\x1e' {
				return r.fatal("is no text: it has the byte 0x%02x", b)
			}
			n++
			stop = done(b)
			if b == '\n' || b == '\r' {
				break
			}
		}
		if size += n; size > r.config.Document {
			done = never // to the marker after it
			stop = false
		} else {
			d.Text = append(d.Text, window[:n]...)
		}
		r.skip(n)
	}
	if size > r.config.Document {
		d.Text = nil
		return d.fault(d.Line, d.Column, "the document is larger than %d bytes", r.config.Document)
	}
	return nil
}

func never(byte) bool { return false }

// peek is the next byte, which is not taken.
func (r *Reader) peek() (byte, error) {
	b, err := r.in.Peek(1)
	if len(b) == 0 {
		return 0, err
	}
	if r.total >= r.config.Total {
		return 0, r.fatal("the file is larger than %d bytes", r.config.Total)
	}
	return b[0], nil
}

// skip takes some bytes of one line, its end included.
func (r *Reader) skip(n int) {
	text, _ := r.in.Peek(n)
	last := text[n-1]
	r.lead = append(r.lead, text[:min(n, max(0, maxSource-len(r.lead)))]...)
	_, _ = r.in.Discard(n) // they were peeked at
	r.total += n
	r.column += n
	if last == '\n' || last == '\r' && !r.ahead("\n") {
		r.line, r.column, r.lead, r.inline = r.line+1, 1, r.lead[:0], false
	}
}

func (r *Reader) ahead(text string) bool {
	b, _ := r.in.Peek(len(text))
	return string(b) == text
}

// marker is the --- or ... that the line begins with, "" without.
func (r *Reader) marker() string {
	b, _ := r.in.Peek(4)
	if len(b) < 3 || len(b) == 4 && !bytes.ContainsRune([]byte(" \t\r\n"), rune(b[3])) {
		return ""
	}
	if m := string(b[:3]); m == "---" || m == "..." {
		return m
	}
	return ""
}

// fatal is a fault that nothing is read after.
func (r *Reader) fatal(format string, args ...any) error {
	r.end = io.EOF
	return Diagnostics{{File: r.file, Document: r.number + 1, Line: r.line, Column: r.column, Message: fmt.Sprintf(format, args...)}}
}
