package policies

import "encoding/json"

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
