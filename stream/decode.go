package stream

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Places are the nodes of the members that a decoded document has, by path.
type Places map[string]*yaml.Node

// At is the place of a member, or of the nearest one around it that is there.
func (p Places) At(path string) (n *yaml.Node, found string) {
	for {
		if n, ok := p[path]; ok || path == "" {
			return n, path
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
}

// decoder fills a Go value from YAML strictly: unknown and duplicate members and
// wrong types are reported, all of them.
type decoder struct {
	doc    *Document
	diags  *Diagnostics
	full   bool
	places Places
}

// Decode fills v, a pointer to a struct with JSON names, from a node of the document.
// It is strict: members that v does not have, that are given twice or have another type
// are added to diags, all of them.
func (d *Document) Decode(n *yaml.Node, v any, diags *Diagnostics) Places {
	dec := &decoder{doc: d, diags: diags, places: Places{"": Resolve(n)}}
	dec.value(n, reflect.ValueOf(v).Elem(), "", 0)
	return dec.places
}

func (d *decoder) report(n *yaml.Node, path, format string, args ...any) {
	*d.diags = append(*d.diags, d.doc.Fault(n, path, format, args...))
}

func (d *decoder) describe(n *yaml.Node) string { return d.doc.Describe(n) }

// spent counts a node against the bounds.
func (d *decoder) spent(n *yaml.Node, path string, depth int) bool {
	fault, over := d.doc.over(depth)
	if over && !d.full {
		d.report(n, path, "%s", fault)
	}
	d.full = d.full || over
	return over
}

// over counts a value against the bounds, and says whether it is over them.
func (d *Document) over(depth int) (string, bool) {
	d.spent++
	switch {
	case d.spent > d.config.Nodes:
		return fmt.Sprintf("the document has more than %d values", d.config.Nodes), true
	case depth > d.config.Depth:
		return fmt.Sprintf("the document is nested more than %d deep", d.config.Depth), true
	}
	return "", false
}

func (d *decoder) value(n *yaml.Node, v reflect.Value, path string, depth int) {
	n = Resolve(n)
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
		before := len(*d.diags)
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, v.Elem(), path, depth)
		if len(*d.diags) > before && v.Elem().Kind() != reflect.Struct {
			v.SetZero() // reported, and not to be judged as zero
		}
	case reflect.Struct:
		d.object(n, v, path, depth)
	case reflect.Map:
		d.mapping(n, v, path, depth)
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			d.report(n, path, "must be a list, not %s", d.describe(n))
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
		d.report(n, path, "must be a %s, not %s", typeName(v), d.describe(n))
		return
	}
	tag := n.ShortTag()
	switch v.Kind() {
	case reflect.String:
		if tag == "!!str" || tag == "!!timestamp" {
			v.SetString(n.Value)
			return
		}
		d.report(n, path, "must be a string, not %s; put it in quotes", d.describe(n))
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
	d.report(n, path, "must be a %s, not %s", typeName(v), d.describe(n))
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

// Describe says what a node is, as "the number 5". A secret document's are not quoted.
func (d *Document) Describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "an object"
	case yaml.SequenceNode:
		return "a list"
	}
	tag := n.ShortTag()
	if tag == "!!null" {
		return "nothing"
	}
	if d.config.Secret {
		return cmp.Or(map[string]string{"!!bool": "a boolean", "!!int": "a number", "!!float": "a number"}[tag], "a text")
	}
	text := n.Value
	if len(text) > 40 {
		text = strings.ToValidUTF8(text[:40], "") + "…"
	}
	switch tag {
	case "!!bool":
		return "the boolean " + text
	case "!!int", "!!float":
		return "the number " + text
	}
	return strconv.Quote(text)
}

// pairs yields the members of a mapping, merge keys expanded, duplicates reported.
func (d *decoder) pairs(n *yaml.Node, path string, depth int, yield func(key, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		d.report(n, path, "must be an object, not %s", d.describe(n))
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
			d.report(key, path, "a member's name must be a string, not %s", d.describe(key))
		case seen[key.Value]:
			d.report(key, join(path, key.Value), "is given twice")
		default:
			seen[key.Value] = true
			yield(key, value)
		}
	}
	for _, m := range merged {
		m = Resolve(m)
		if d.spent(m, path, depth) {
			return
		}
		sources := []*yaml.Node{m}
		if m.Kind == yaml.SequenceNode {
			sources = m.Content
		}
		for _, s := range sources {
			d.pairs(Resolve(s), path, depth+1, func(key, value *yaml.Node) {
				if !seen[key.Value] {
					seen[key.Value] = true
					yield(key, value)
				}
			})
		}
	}
}

// Resolve is the node that an alias stands for, or the node itself.
func Resolve(n *yaml.Node) *yaml.Node {
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
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" {
			fields[name] = v.Field(i)
		}
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
	n = Resolve(n)
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
