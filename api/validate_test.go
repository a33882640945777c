package api

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestValidateLayers(t *testing.T) {
	id := "sha256:" + strings.Repeat("a", 64)
	good := Scan{ScannedAt: time.Unix(1, 0), Layers: []Layer{{DiffID: id, Digest: id, CreatedBy: "RUN x"}, {DiffID: id}}, Base: &BaseImage{Name: "debian:12", Digest: id}}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func(*Scan){
		"layers[1]: diff_id":    func(s *Scan) { s.Layers[1].DiffID = "" },
		"layers[0]: diff_id":    func(s *Scan) { s.Layers[0].Digest = "x" },
		"layers[0]: created_by": func(s *Scan) { s.Layers[0].CreatedBy = strings.Repeat("x", 3000) },
		"layers: there are":     func(s *Scan) { s.Layers = make([]Layer, 2000) },
		"base: digest":          func(s *Scan) { s.Base = &BaseImage{Digest: "x"} },
	} {
		s := good
		s.Layers = append([]Layer{}, good.Layers...)
		change(&s)
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestValidateUnplaced(t *testing.T) {
	// What a matcher counts is 32 runes long at most, of four bytes each.
	good := Scan{ScannedAt: time.Unix(1, 0), Unplaced: []Unplaced{{Packages: 1}, {Distro: strings.Repeat("\U0001F427", 32), Packages: 2}}}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for name, list := range map[string][]Unplaced{
		"none":      {{Distro: "debian 99"}},
		"too long":  {{Distro: strings.Repeat("x", 1000), Packages: 1}},
		"too many":  slices.Repeat([]Unplaced{{Packages: 1}}, 1000),
		"less than": {{Packages: -1}},
	} {
		s := good
		s.Unplaced = list
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), "unplaced") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
