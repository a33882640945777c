package stream

import (
	"encoding/json"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// jsonNode makes nodes of a text that is valid JSON, with their places in the file.
type jsonNode struct {
	text      []byte
	at        int
	line      int // of the file
	lineBegan int // where in the text; negative where the line begins before it
	nodes     int
	config    Config
}

// Node is the value that the document holds; its lines and columns are those of the file.
func (d *Document) Node() (*yaml.Node, error) {
	if d.node == nil {
		p := &jsonNode{text: d.Text, line: d.Line, lineBegan: 1 - d.Column, config: d.config}
		node, err := p.value(0)
		if err != nil {
			return nil, d.fault(p.line, p.at-p.lineBegan+1, "%v", err)
		}
		d.node = node
	}
	return d.node, nil
}

// space skips what separates values: white space, commas and colons.
func (p *jsonNode) space() {
	for ; p.at < len(p.text) && strings.IndexByte(" \t\r\n,:", p.text[p.at]) >= 0; p.at++ {
		if b := p.text[p.at]; b == '\n' || b == '\r' && (p.at+1 == len(p.text) || p.text[p.at+1] != '\n') {
			p.line++
			p.lineBegan = p.at + 1
		}
	}
}

func (p *jsonNode) value(depth int) (*yaml.Node, error) {
	p.space()
	if p.nodes++; p.nodes > 2*p.config.Nodes { // names of members count here
		return nil, fmt.Errorf("the document has more than %d values", p.config.Nodes)
	}
	if depth > p.config.Depth {
		return nil, fmt.Errorf("the document is nested more than %d deep", p.config.Depth)
	}
	n := &yaml.Node{Kind: yaml.ScalarNode, Line: p.line, Column: p.at - p.lineBegan + 1}
	switch b := p.text[p.at]; b {
	case '{', '[':
		n.Kind, n.Style, n.Tag = yaml.SequenceNode, yaml.FlowStyle, "!!seq"
		if b == '{' {
			n.Kind, n.Tag = yaml.MappingNode, "!!map"
		}
		p.at++
		for p.space(); p.text[p.at] != b+2; p.space() { // } and ] are two after { and [
			c, err := p.value(depth + 1)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, c)
		}
		p.at++
	case '"':
		end := p.at + 1
		for ; p.text[end] != '"'; end++ {
			if p.text[end] == '\\' {
				end++
			}
		}
		n.Style, n.Tag = yaml.DoubleQuotedStyle, "!!str"
		if err := json.Unmarshal(p.text[p.at:end+1], &n.Value); err != nil {
			return nil, err
		}
		p.at = end + 1
	default:
		end := p.at
		for ; end < len(p.text) && strings.IndexByte(" \t\r\n,]}", p.text[end]) < 0; end++ {
		}
		n.Value = string(p.text[p.at:end])
		p.at = end
		switch {
		case n.Value == "null":
			n.Tag = "!!null"
		case n.Value == "true" || n.Value == "false":
			n.Tag = "!!bool"
		case strings.ContainsAny(n.Value, ".eE"):
			n.Tag = "!!float"
		default:
			n.Tag = "!!int"
		}
	}
	return n, nil
}
