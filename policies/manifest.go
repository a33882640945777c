package policies

import (
	"encoding/json"

	"go.yaml.in/yaml/v3"
)

// JSONDocument is one document of a YAML stream as JSON.
type JSONDocument struct {
	JSON []byte
	Line int // where it starts, from 1
}

// YAMLToJSON converts a stream of YAML documents, or JSON, within the bounds of a
// policy file. The error is [Diagnostics].
func YAMLToJSON(name string, text []byte) ([]JSONDocument, error) {
	var diags Diagnostics
	var out []JSONDocument
	f := newFile(name, text, &diags)
	for _, doc := range f.documents(text) {
		var raw json.RawMessage
		doc.decode(&raw)
		if len(raw) > 0 && string(raw) != "null" {
			out = append(out, JSONDocument{JSON: raw, Line: doc.node.Line + doc.offset})
		}
	}
	return out, diags.err()
}

// YAMLNode converts a value to YAML by its JSON form, members in their order.
func YAMLNode(v any) (*yaml.Node, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var node yaml.Node
	if err := yaml.Unmarshal(text, &node); err != nil {
		return nil, err
	}
	block(&node)
	return node.Content[0], nil
}

// block takes the style of JSON off.
func block(n *yaml.Node) {
	n.Style &^= yaml.FlowStyle
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		n.Style = 0 // the encoder quotes what needs it
	}
	for _, c := range n.Content {
		block(c)
	}
}
