package store

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
)

// A probe that finds no answer leaves what was known of the disk: it is no sign that there is room again.
func TestProbeWithoutAnswer(t *testing.T) {
	s, err := Open(t.Context(), Config{URL: filepath.Join(t.TempDir(), "assay.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Probe(ended); err != nil {
		t.Errorf("of a disk of which nothing bad is known: %v", err)
	}
	s.failing.Store(true)
	if err := s.Probe(ended); !errors.Is(err, ErrUnwritable) {
		t.Errorf("of a disk that was full: %v", err)
	}
	if err := s.Probe(t.Context()); err != nil || s.failing.Load() {
		t.Errorf("once it can be written: %v", err)
	}
}
