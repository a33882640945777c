package api

import "fmt"

// Validate says what is wrong with a report.
func (r ScanReport) Validate() error {
	if r.Schema != SchemaScan {
		return fmt.Errorf("not a scan report: its schema is %.60q, not %s", r.Schema, SchemaScan)
	}
	for i, s := range r.Images {
		if err := s.Validate(); err != nil {
			return fmt.Errorf("images[%d]: %w", i, err)
		}
	}
	return nil
}
