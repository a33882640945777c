package stream

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Value converts a node to the types of JSON (map[string]any, []any, string, bool,
// numbers, nil) as kubectl reads it, by sigs.k8s.io/yaml: yes and on are booleans, and
// of two members of one name the last counts, of which there is a warning. The error
// is [Diagnostics].
func (d *Document) Value(n *yaml.Node) (value any, warnings Diagnostics, err error) {
	c := &converter{doc: d}
	value = c.value(n, "", 0)
	return value, c.warnings, c.faults.Err()
}

type converter struct {
	doc              *Document
	warnings, faults Diagnostics
	full             bool
}

func (c *converter) fault(n *yaml.Node, path, format string, args ...any) {
	c.faults = append(c.faults, c.doc.Fault(n, path, format, args...))
}

func (c *converter) value(n *yaml.Node, path string, depth int) any {
	n = Resolve(n)
	switch n.Kind {
	case yaml.MappingNode:
		m := make(map[string]any, len(n.Content)/2)
		c.members(n, m, path, depth)
		return m
	case yaml.SequenceNode:
		if c.spent(n, path, depth) {
			return nil
		}
		list := make([]any, len(n.Content))
		for i, item := range n.Content {
			if c.full {
				return nil
			}
			list[i] = c.value(item, path+"["+strconv.Itoa(i)+"]", depth+1)
		}
		return list
	}
	if c.spent(n, path, depth) {
		return nil
	}
	v, err := scalar(n)
	if err != nil {
		c.fault(n, path, "%v", err)
	}
	return v
}

// spent counts a value against the bounds.
func (c *converter) spent(n *yaml.Node, path string, depth int) bool {
	fault, over := c.doc.over(depth)
	if over && !c.full {
		c.fault(n, path, "%s", fault)
	}
	c.full = c.full || over
	return over
}

// members adds those of a mapping to m. Where a merge key stands, what it brings
// replaces what stands before it.
func (c *converter) members(n *yaml.Node, m map[string]any, path string, depth int) {
	if c.spent(n, path, depth) {
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content) && !c.full; i += 2 {
		key, value := Resolve(n.Content[i]), n.Content[i+1]
		if key.ShortTag() == "!!merge" {
			c.merge(Resolve(value), m, path, depth)
			continue
		}
		name, err := keyText(key)
		if err != nil {
			c.fault(key, path, "%v%s", err, c.doc.templateAt(key))
			continue
		}
		at := join(path, name)
		if seen[name] {
			c.warnings = append(c.warnings, c.doc.Fault(key, at, "is given twice; the last one counts"))
		}
		seen[name] = true
		m[name] = c.value(value, at, depth+1)
	}
}

func (c *converter) merge(n *yaml.Node, m map[string]any, path string, depth int) {
	sources := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		sources = slices.Clone(n.Content)
		slices.Reverse(sources) // the first counts
	}
	for _, s := range sources {
		s = Resolve(s)
		if s.Kind != yaml.MappingNode {
			c.fault(s, path, "<< must bring an object, or a list of them, not %s", c.doc.Describe(s))
			return
		}
		c.members(s, m, path, depth+1)
	}
}

// oldBooleans are those of YAML 1.1 that YAML 1.2 takes for texts.
var oldBooleans = map[string]bool{
	"y": true, "Y": true, "yes": true, "Yes": true, "YES": true, "on": true, "On": true, "ON": true,
	"n": false, "N": false, "no": false, "No": false, "NO": false, "off": false, "Off": false, "OFF": false,
}

func scalar(n *yaml.Node) (any, error) {
	tag := n.ShortTag()
	plain := n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0
	if b, ok := oldBooleans[n.Value]; ok && plain && (tag == "!!bool" || tag == "!!str" && n.Style&yaml.TaggedStyle == 0) {
		return b, nil
	}
	var v any
	switch tag {
	case "!!str", "!!timestamp":
		return n.Value, nil
	case "!!null", "!!bool", "!!int", "!!float", "!!binary":
		if err := n.Decode(&v); err != nil {
			return nil, fmt.Errorf("is no %s", strings.TrimPrefix(tag, "!!"))
		}
	default:
		return n.Value, nil // a tag that nobody knows
	}
	if f, ok := v.(float64); ok && (math.IsNaN(f) || math.IsInf(f, 0)) {
		return nil, fmt.Errorf("must be a number that JSON has, not %s", n.Value)
	}
	return v, nil
}

// keyText is a member's name as a text.
func keyText(n *yaml.Node) (string, error) {
	if n.Kind != yaml.ScalarNode {
		return "", fmt.Errorf("a member's name must be a text")
	}
	v, err := scalar(n)
	switch k := v.(type) {
	case string:
		return k, nil
	case bool:
		return strconv.FormatBool(k), nil
	case int:
		return strconv.Itoa(k), nil
	case float64:
		return strconv.FormatFloat(k, 'g', -1, 32), nil
	}
	if err == nil {
		err = fmt.Errorf("a member's name must be a text")
	}
	return "", err
}

// templateAt is a hint where a line is one of a template.
func (d *Document) templateAt(n *yaml.Node) string {
	if strings.Contains(d.Fault(n, "", "").Source, "{{") {
		return renderFirst
	}
	return ""
}

// asJSON is the document as JSON: as it stands, or converted by [Document.Value].
func (d *Document) asJSON() ([]byte, Diagnostics, error) {
	if d.JSON {
		return d.Text, nil, nil
	}
	n, err := d.Node()
	if err != nil {
		return nil, nil, err
	}
	v, warnings, err := d.Value(n)
	if err != nil {
		return nil, nil, err
	}
	text, err := json.Marshal(v)
	return text, warnings, err
}

// Unmarshal fills v as encoding/json does: members that v does not have are left out.
// The error is [Diagnostics].
func (d *Document) Unmarshal(v any) error {
	text, _, err := d.asJSON()
	if err != nil {
		return err
	}
	err = json.Unmarshal(text, v)
	if wrong := new(json.UnmarshalTypeError); errors.As(err, &wrong) {
		line, column := d.Line, d.Column
		if d.JSON {
			line, column = d.placeInText(int(wrong.Offset))
		}
		return Diagnostics{d.FaultAt(line, column, wrong.Field, "must not be of the type %s", strings.Fields(wrong.Value)[0])}
	}
	if err != nil {
		return d.fault(d.Line, d.Column, "%v", err)
	}
	return nil
}

// placeInText is the line and the column of a byte of the document.
func (d *Document) placeInText(offset int) (line, column int) {
	before := lines(d.Text[:min(max(offset, 0), len(d.Text))])
	column = 1 + len(before[len(before)-1])
	if len(before) == 1 {
		column += d.Column - 1
	}
	return d.Line + len(before) - 1, column
}

// Object is one object of a document: all of it, or an item of a list.
type Object struct {
	Node *yaml.Node
	Path string // such as items[3], "" for all of it
	// APIVersion and Kind are what the object says, or what its list is of.
	APIVersion, Kind string
}

// Objects are the objects of a document, those of lists in lists as well; the lists
// come beside them. A list is a List, or a kind that ends in List with an object, or
// nothing, in items. What can be read is given beside the error, which is [Diagnostics].
func (d *Document) Objects() (objects []Object, lists []*yaml.Node, err error) {
	n, err := d.Node()
	if err != nil {
		return nil, nil, err
	}
	var faults Diagnostics
	over := "" // which bound
	var add func(n *yaml.Node, path, version, kind string, depth int)
	add = func(n *yaml.Node, path, version, kind string, depth int) {
		n = Resolve(n)
		if fault, is := d.over(depth); is {
			over = fault
			faults = append(faults, d.Fault(n, path, "%s", fault))
			return
		}
		if n.Kind == yaml.MappingNode {
			version, kind = orElse(MemberText(n, "apiVersion"), version), orElse(MemberText(n, "kind"), kind)
		}
		items := Member(n, "items")
		if !isList(kind, items) {
			objects = append(objects, Object{Node: n, Path: path, APIVersion: version, Kind: kind})
			return
		}
		lists = append(lists, n)
		if items == nil || items.Kind != yaml.SequenceNode && items.ShortTag() != "!!null" {
			faults = append(faults, d.Fault(n, join(path, "items"), "a %s needs a list of items", kind))
			return
		}
		of := strings.TrimSuffix(kind, "List")
		if of == "" {
			version = ""
		}
		for i, item := range items.Content {
			if over != "" {
				return
			}
			add(item, join(path, "items")+"["+strconv.Itoa(i)+"]", version, of, depth+1)
		}
	}
	add(n, "", "", "", 0)
	return objects, lists, faults.Err()
}

func isList(kind string, items *yaml.Node) bool {
	if kind == "List" {
		return true
	}
	return strings.HasSuffix(kind, "List") && items != nil && items.Kind == yaml.SequenceNode &&
		(len(items.Content) == 0 || slices.ContainsFunc(items.Content, func(n *yaml.Node) bool { return Resolve(n).Kind == yaml.MappingNode }))
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// Member is the value of a member of a mapping, nil without. Of several the last counts.
func Member(n *yaml.Node, name string) *yaml.Node {
	if n.Kind == yaml.MappingNode {
		for i := len(n.Content) - 2; i >= 0; i -= 2 {
			if Resolve(n.Content[i]).Value == name {
				return Resolve(n.Content[i+1])
			}
		}
	}
	return nil
}

// MemberText is the text of a member, "" without.
func MemberText(n *yaml.Node, name string) string {
	if m := Member(n, name); m != nil && m.Kind == yaml.ScalarNode && m.ShortTag() != "!!null" {
		return m.Value
	}
	return ""
}
