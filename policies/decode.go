package policies

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Bounds on what a user's file may hold.
const (
	// MaxFile is the largest file, in bytes.
	MaxFile = 4 << 20
	// maxNodes bounds the YAML nodes of a document with its aliases expanded.
	maxNodes = 200_000
	maxDepth = 64
)

// document is one YAML document with the line of its file that it starts after.
type document struct {
	file   *file
	node   *yaml.Node
	offset int // lines of the file before the document
}

// file is a user's file while it is read.
type file struct {
	name  string
	lines []string
	diags *Diagnostics
}

func newFile(name string, text []byte, diags *Diagnostics) *file {
	return &file{name: name, lines: strings.Split(string(text), "\n"), diags: diags}
}

// report adds a diagnostic. Line and column count from 1, the column in bytes.
func (f *file) report(line, column int, path, format string, args ...any) {
	d := Diagnostic{File: f.name, Line: line, Column: column, Path: path, Message: fmt.Sprintf(format, args...)}
	if line > 0 && line <= len(f.lines) {
		d.Source = strings.TrimRight(f.lines[line-1], "\r")
	}
	*f.diags = append(*f.diags, d)
}

func (d document) report(n *yaml.Node, path, format string, args ...any) {
	d.file.report(n.Line+d.offset, n.Column, path, format, args...)
}

var separator = regexp.MustCompile(`(?m)^---(?:[ \t].*)?\r?$\n?`)

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// documents parses a file. It splits at the separators itself, so that a
// syntax error in one document does not hide what is wrong in the next.
func (f *file) documents(text []byte) []document {
	var docs []document
	if len(text) > MaxFile {
		f.report(0, 0, "", "the file has %d bytes; at most %d are read", len(text), MaxFile)
		return nil
	}
	start, offset := 0, 0
	cut := func(end int) {
		part := text[start:end]
		var node yaml.Node
		dec := yaml.NewDecoder(bytes.NewReader(part))
		err := decodeNode(dec, &node)
		if errors.Is(err, io.EOF) || err == nil && len(node.Content) == 0 {
			return
		}
		if err != nil {
			line := 1
			if m := yamlLine.FindStringSubmatch(err.Error()); m != nil && m[1] != "" {
				line, _ = strconv.Atoi(m[1])
				// The library counts the lines of its parser, unlike those of its
				// scanner, from 0.
				if strings.Contains(err.Error(), "did not find expected") {
					line++
				}
			}
			f.report(line+offset, 1, "", "not YAML: %s", yamlLine.ReplaceAllString(err.Error(), ""))
			return
		}
		docs = append(docs, document{file: f, node: node.Content[0], offset: offset})
	}
	for _, at := range separator.FindAllIndex(text, -1) {
		// What follows `---` on its line belongs to the next document.
		cut(at[0])
		offset += bytes.Count(text[start:at[0]], []byte("\n"))
		start = at[0] + len("---")
	}
	cut(len(text))
	return docs
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

// decoder fills a Go value from YAML strictly: unknown and duplicate members and
// wrong types are reported, all of them.
type decoder struct {
	doc    document
	nodes  int
	places map[string]*yaml.Node // of every member that was there, by path
}

func (d document) decode(v any) map[string]*yaml.Node {
	dec := &decoder{doc: d, places: map[string]*yaml.Node{}}
	dec.value(d.node, reflect.ValueOf(v).Elem(), "", 0)
	return dec.places
}

func (d *decoder) report(n *yaml.Node, path, format string, args ...any) {
	d.doc.report(n, path, format, args...)
}

// spent counts a node against the bounds.
func (d *decoder) spent(n *yaml.Node, path string, depth int) bool {
	d.nodes++
	if d.nodes == maxNodes || depth == maxDepth {
		d.report(n, path, "the document is too large or nested too deeply")
	}
	return d.nodes >= maxNodes || depth >= maxDepth
}

func (d *decoder) value(n *yaml.Node, v reflect.Value, path string, depth int) {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if d.spent(n, path, depth) {
		return
	}
	if _, seen := d.places[path]; !seen {
		d.places[path] = n
	}
	if v.Type() == reflect.TypeFor[json.RawMessage]() {
		if raw, err := json.Marshal(d.plain(n, path, depth)); err == nil {
			v.SetBytes(raw)
		}
		return
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, v.Elem(), path, depth)
	case reflect.Struct:
		d.object(n, v, path, depth)
	case reflect.Map:
		d.mapping(n, v, path, depth)
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			d.report(n, path, "must be a list, not %s", describe(n))
			return
		}
		list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
		for i, item := range n.Content {
			at := fmt.Sprintf("%s[%d]", path, i)
			if item.Kind == yaml.ScalarNode && item.ShortTag() == "!!null" {
				d.report(item, at, "must not be empty")
				continue
			}
			d.value(item, list.Index(i), at, depth+1)
		}
		v.Set(list)
	default:
		d.scalar(n, v, path)
	}
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.ScalarNode {
		d.report(n, path, "must be a %s, not %s", typeName(v), describe(n))
		return
	}
	tag := n.ShortTag()
	switch v.Kind() {
	case reflect.String:
		if tag == "!!str" || tag == "!!timestamp" {
			v.SetString(n.Value)
			return
		}
		d.report(n, path, "must be a string, not %s; put it in quotes", describe(n))
		return
	case reflect.Bool:
		var b bool
		if tag == "!!bool" && n.Decode(&b) == nil {
			v.SetBool(b)
			return
		}
	case reflect.Int:
		var i int
		if tag == "!!int" && n.Decode(&i) == nil {
			v.SetInt(int64(i))
			return
		}
	case reflect.Float64:
		var f float64
		if (tag == "!!int" || tag == "!!float") && n.Decode(&f) == nil && !math.IsNaN(f) && !math.IsInf(f, 0) {
			v.SetFloat(f)
			return
		}
	}
	d.report(n, path, "must be a %s, not %s", typeName(v), describe(n))
}

func typeName(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Int:
		return "whole number"
	case reflect.Float64:
		return "number"
	case reflect.Bool:
		return "boolean (true or false)"
	}
	return "string"
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "an object"
	case yaml.SequenceNode:
		return "a list"
	}
	text := n.Value
	if len(text) > 40 {
		text = text[:40] + "…"
	}
	switch n.ShortTag() {
	case "!!bool":
		return "the boolean " + text
	case "!!int", "!!float":
		return "the number " + text
	case "!!null":
		return "nothing"
	}
	return strconv.Quote(text)
}

// pairs yields the members of a mapping, merge keys expanded, duplicates reported.
func (d *decoder) pairs(n *yaml.Node, path string, depth int, yield func(key, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		d.report(n, path, "must be an object, not %s", describe(n))
		return
	}
	seen := map[string]bool{}
	var merged []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch {
		case key.ShortTag() == "!!merge":
			merged = append(merged, value)
		case key.Kind != yaml.ScalarNode:
			d.report(key, path, "a member's name must be a string, not %s", describe(key))
		case seen[key.Value]:
			d.report(key, join(path, key.Value), "is given twice")
		default:
			seen[key.Value] = true
			yield(key, value)
		}
	}
	for _, m := range merged {
		for m.Kind == yaml.AliasNode {
			m = m.Alias
		}
		if d.spent(m, path, depth) {
			return
		}
		sources := []*yaml.Node{m}
		if m.Kind == yaml.SequenceNode {
			sources = m.Content
		}
		for _, s := range sources {
			d.pairs(resolve(s), path, depth+1, func(key, value *yaml.Node) {
				if !seen[key.Value] {
					seen[key.Value] = true
					yield(key, value)
				}
			})
		}
	}
}

func resolve(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func (d *decoder) object(n *yaml.Node, v reflect.Value, path string, depth int) {
	fields := map[string]reflect.Value{}
	collectFields(v, fields)
	d.pairs(n, path, depth, func(key, value *yaml.Node) {
		field, ok := fields[key.Value]
		if !ok {
			d.report(key, join(path, key.Value), "unknown field; known are %s", known(fields, key.Value))
			return
		}
		d.value(value, field, join(path, key.Value), depth+1)
	})
}

func collectFields(v reflect.Value, fields map[string]reflect.Value) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous {
			collectFields(v.Field(i), fields)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		fields[name] = v.Field(i)
	}
}

// known lists the field names, the one that was meant first.
func known(fields map[string]reflect.Value, given string) string {
	var names []string
	for name, f := range fields {
		if f.Type() != reflect.TypeFor[json.RawMessage]() {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if strings.EqualFold(name, given) || strings.HasPrefix(strings.ToLower(name), strings.ToLower(given)) {
			return fmt.Sprintf("%s (did you mean %s?)", strings.Join(names, ", "), name)
		}
	}
	return strings.Join(names, ", ")
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, path string, depth int) {
	m := reflect.MakeMap(v.Type())
	d.pairs(n, path, depth, func(key, value *yaml.Node) {
		item := reflect.New(v.Type().Elem()).Elem()
		d.value(value, item, join(path, key.Value), depth+1)
		m.SetMapIndex(reflect.ValueOf(key.Value), item)
	})
	v.Set(m)
}

// plain converts what is accepted and ignored, within the same bounds.
func (d *decoder) plain(n *yaml.Node, path string, depth int) any {
	n = resolve(n)
	if d.spent(n, path, depth) {
		return nil
	}
	switch n.Kind {
	case yaml.MappingNode:
		m := map[string]any{}
		d.pairs(n, path, depth, func(key, value *yaml.Node) { m[key.Value] = d.plain(value, join(path, key.Value), depth+1) })
		return m
	case yaml.SequenceNode:
		list := make([]any, 0, len(n.Content))
		for _, c := range n.Content {
			list = append(list, d.plain(c, path, depth+1))
		}
		return list
	}
	var v any
	if n.ShortTag() == "!!timestamp" || n.Decode(&v) != nil {
		return n.Value
	}
	return v
}
