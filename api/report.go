package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// ParseScanReport reads a scan report. What it claims as results does not count.
func ParseScanReport(text []byte) ([]Scan, error) {
	var report ScanReport
	if err := json.Unmarshal(text, &report); err != nil {
		return nil, fmt.Errorf("not a scan report: %w", PlaceJSON(text, err))
	}
	if report.Schema != SchemaScan {
		return nil, fmt.Errorf("not a scan report: its schema is %.60q, not %s", report.Schema, SchemaScan)
	}
	for i, s := range report.Images {
		if err := s.Validate(); err != nil {
			return nil, fmt.Errorf("images[%d]: %w", i, err)
		}
	}
	return report.Images, nil
}

// PlaceJSON adds line and column to an error of encoding/json.
func PlaceJSON(text []byte, err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	offset := int64(-1)
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &kind):
		offset = kind.Offset
	}
	if offset < 0 || offset > int64(len(text)) {
		return err
	}
	before := text[:offset]
	line := bytes.Count(before, []byte("\n")) + 1
	column := int(offset) - bytes.LastIndexByte(before, '\n') - 1
	return fmt.Errorf("line %d, column %d: %w", line, max(column, 1), err)
}
