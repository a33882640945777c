package policies

import (
	"encoding/json"

	"go.yaml.in/yaml/v3"
)

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
