package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Bounds of a document, with its aliases expanded.
const (
	MaxFile  = 1 << 20 // bytes
	maxNodes = 50_000
	maxDepth = 16
	maxDiags = 200
)

// Diagnostic is one thing wrong with a file. Lines and columns count from 1, 0 is
// the whole file.
type Diagnostic struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Path    string `json:"path,omitempty"` // such as spec.receivers[0].url
	Message string `json:"message"`
}

// String is `file:line:column: path: message`.
func (d Diagnostic) String() string {
	var b strings.Builder
	b.WriteString(d.File)
	if d.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", d.Line, d.Column)
	}
	if d.Path != "" {
		b.WriteString(": " + d.Path)
	}
	return b.String() + ": " + d.Message
}

// Diagnostics is an error that holds all that is wrong, sorted by place.
type Diagnostics []Diagnostic

func (ds Diagnostics) Error() string {
	lines := make([]string, len(ds))
	for i, d := range ds {
		lines[i] = d.String()
	}
	return strings.Join(lines, "\n")
}

// decoder fills structs of text, booleans, whole numbers, lists, maps of texts
// and other structs from YAML, strictly: it reports every unknown or repeated
// member and wrong type.
type decoder struct {
	file   string
	diags  Diagnostics
	nodes  int
	places map[string]*yaml.Node // what was given, by path
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// decode reads the only document of a file into v, a pointer to a struct.
func (d *decoder) decode(text []byte, v any) {
	d.places = map[string]*yaml.Node{}
	if len(text) > MaxFile {
		d.report(nil, "", "the file has %d bytes; at most %d are read", len(text), MaxFile)
		return
	}
	var node, more yaml.Node
	stream := yaml.NewDecoder(bytes.NewReader(text))
	if err := parse(stream, &node); err != nil {
		at := &yaml.Node{Line: 1, Column: 1}
		if m := yamlLine.FindStringSubmatch(err.Error()); m != nil && m[1] != "" {
			at.Line, _ = strconv.Atoi(m[1])
		}
		d.report(at, "", "not YAML: %s", yamlLine.ReplaceAllString(err.Error(), ""))
		return
	}
	if err := parse(stream, &more); !errors.Is(err, io.EOF) {
		d.report(&more, "", "must hold one document")
	}
	d.value(node.Content[0], reflect.ValueOf(v).Elem(), "", 0)
}

// parse guards against a parser that panics: no text must end the process.
func parse(stream *yaml.Decoder, node *yaml.Node) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("yaml: %v", r)
		}
	}()
	return stream.Decode(node)
}

func (d *decoder) report(n *yaml.Node, path, format string, args ...any) {
	if len(d.diags) == maxDiags {
		return
	}
	diag := Diagnostic{File: d.file, Path: path, Message: fmt.Sprintf(format, args...)}
	if n != nil {
		diag.Line, diag.Column = n.Line, n.Column
	}
	d.diags = append(d.diags, diag)
}

// at reports what is wrong with a member, at the nearest place that was given. A
// member of the wrong type was reported already.
func (d *decoder) at(path, format string, args ...any) {
	if slices.ContainsFunc(d.diags, func(diag Diagnostic) bool { return diag.Path == path }) {
		return
	}
	for place := path; ; place = place[:max(0, strings.LastIndexAny(place, ".["))] {
		if n, ok := d.places[place]; ok || place == "" {
			d.report(n, path, format, args...)
			return
		}
	}
}

func (d *decoder) err() error {
	if len(d.diags) == 0 {
		return nil
	}
	slices.SortStableFunc(d.diags, func(a, b Diagnostic) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Path, b.Path), cmp.Compare(a.Message, b.Message))
	})
	return slices.Compact(d.diags)
}

func (d *decoder) value(n *yaml.Node, v reflect.Value, path string, depth int) {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if d.nodes++; d.nodes >= maxNodes || depth >= maxDepth {
		if d.nodes == maxNodes || depth == maxDepth {
			d.report(n, path, "the document is too large or nested too deeply")
		}
		return
	}
	d.places[path] = n
	switch v.Kind() {
	case reflect.Pointer:
		before := len(d.diags)
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, v.Elem(), path, depth)
		if len(d.diags) > before && v.Elem().Kind() != reflect.Struct {
			v.SetZero() // reported, and not to be judged as zero
		}
	case reflect.Struct, reflect.Map:
		d.object(n, v, path, depth)
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			d.report(n, path, "must be a list, not %s", describe(n))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
		for i, item := range n.Content {
			d.value(item, v.Index(i), fmt.Sprintf("%s[%d]", path, i), depth+1)
		}
	default:
		d.scalar(n, v, path)
	}
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, path string) {
	want := map[reflect.Kind]string{reflect.String: "a string", reflect.Bool: "true or false", reflect.Int: "a whole number"}[v.Kind()]
	tags := map[reflect.Kind]string{reflect.String: "!!str", reflect.Bool: "!!bool", reflect.Int: "!!int"}
	if n.Kind != yaml.ScalarNode || n.ShortTag() != tags[v.Kind()] || n.Decode(v.Addr().Interface()) != nil {
		d.report(n, path, "must be %s, not %s", want, describe(n))
	}
}

// describe does not quote: what stands in the wrong place may be a secret.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "an object"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!bool":
		return "a boolean"
	case "!!int", "!!float":
		return "a number"
	case "!!null":
		return "nothing"
	}
	return "a text"
}

// object fills a struct, or a map of texts.
func (d *decoder) object(n *yaml.Node, v reflect.Value, path string, depth int) {
	if n.Kind != yaml.MappingNode {
		d.report(n, path, "must be an object, not %s", describe(n))
		return
	}
	members := map[string]reflect.Value{}
	if v.Kind() == reflect.Struct {
		fields(v, members)
	} else {
		v.Set(reflect.MakeMap(v.Type()))
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		at := strings.TrimPrefix(path+"."+key.Value, ".")
		member, known := members[key.Value]
		switch {
		case key.Kind != yaml.ScalarNode || key.ShortTag() == "!!merge":
			d.report(key, path, "a member's name must be a plain string")
		case seen[key.Value]:
			d.report(key, at, "is given twice")
		case v.Kind() == reflect.Map:
			item := reflect.New(v.Type().Elem()).Elem()
			d.value(value, item, at, depth+1)
			v.SetMapIndex(reflect.ValueOf(key.Value), item)
		case !known:
			d.report(key, at, "unknown field; known are %s", names(members))
		default:
			d.value(value, member, at, depth+1)
		}
		seen[key.Value] = true
	}
}

func names(members map[string]reflect.Value) string {
	var out []string
	for name := range members {
		out = append(out, name)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// fields are the members of a struct and of those embedded in it, by JSON name.
func fields(v reflect.Value, out map[string]reflect.Value) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous {
			fields(v.Field(i), out)
			continue
		}
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "-" && name != "" {
			out[name] = v.Field(i)
		}
	}
}
