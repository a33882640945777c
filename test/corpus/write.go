package corpus

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/assay-dev/assay/api"
)

// WriteFolder writes the case as the files that the command line reads:
// policies/all.yaml, scans.json, events.jsonl and review-N.json from 0.
func WriteFolder(dir string, c Case) error {
	if err := os.MkdirAll(filepath.Join(dir, "policies"), 0o755); err != nil {
		return err
	}
	var policies bytes.Buffer
	for _, o := range objects(c) {
		if err := document(&policies, o); err != nil {
			return err
		}
	}
	scans, err := json.MarshalIndent(api.ScanReport{Schema: api.SchemaScan, Images: c.World.Scans}, "", "  ")
	if err != nil {
		return err
	}
	var events bytes.Buffer
	for _, e := range c.Events {
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		events.Write(append(line, '\n'))
	}
	files := map[string][]byte{
		"policies/all.yaml": policies.Bytes(), "scans.json": append(scans, '\n'), "events.jsonl": events.Bytes(),
	}
	for i, r := range c.Reviews {
		var doc map[string]any
		if err := json.Unmarshal(r, &doc); err != nil {
			return err
		}
		doc["now"] = c.Now.UTC().Format(time.RFC3339Nano)
		b, err := json.MarshalIndent(doc, "", "  ")
		if err != nil {
			return err
		}
		files[fmt.Sprintf("review-%d.json", i)] = append(b, '\n')
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// objects are all that belongs into a policies folder.
func objects(c Case) []any {
	var out []any
	for _, p := range c.World.Policies {
		out = append(out, p)
	}
	for _, a := range c.World.Alerts {
		out = append(out, a)
	}
	for _, e := range c.World.Exceptions {
		out = append(out, e)
	}
	if c.World.Thresholds != nil {
		out = append(out, c.World.Thresholds)
	}
	if c.World.Settings != nil {
		out = append(out, c.World.Settings)
	}
	return out
}

// document appends a YAML document, which is JSON.
func document(b *bytes.Buffer, object any) error {
	text, err := json.MarshalIndent(object, "", "  ")
	if err != nil {
		return err
	}
	if b.Len() > 0 {
		b.WriteString("---\n")
	}
	b.Write(append(text, '\n'))
	return nil
}
