package api

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Bounds on the lists of a scan.
const (
	maxLayers      = 1000
	maxInstruction = 2000 // bytes
	maxUnplaced    = 20
	maxDistro      = 128 // bytes
)

// Validate checks what a scan that was read from a file must have for a
// decision to rest on it.
func (s Scan) Validate() error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if s.Digest != "" && !digestPattern.MatchString(s.Digest) {
		add("digest %.80q is no sha256:<64 hexadecimal digits>", s.Digest)
	}
	if s.Index != nil {
		if !digestPattern.MatchString(s.Index.Digest) {
			add("index.digest %.80q is no digest", s.Index.Digest)
		}
		for platform, d := range s.Index.Platforms {
			if !digestPattern.MatchString(d) {
				add("index.platforms[%q]: %.80q is no digest", platform, d)
			}
		}
	}
	if s.Index != nil {
		if err := s.Index.Check(); err != nil {
			errs = append(errs, err)
		}
	}
	if err := s.CheckManifest(); err != nil {
		errs = append(errs, err)
	}
	if s.ScannedAt.IsZero() {
		add("scanned_at is missing")
	} else if s.Found.After(s.ScannedAt) {
		add("found %s is after scanned_at %s", s.Found.Format(time.RFC3339), s.ScannedAt.Format(time.RFC3339))
	}
	if s.Way != "" && !slices.Contains(Ways(), s.Way) {
		add("way %.40q is none of %v", s.Way, Ways())
	}
	if len(s.Layers) > maxLayers {
		add("layers: there are %d, more than %d", len(s.Layers), maxLayers)
	} else {
		for i, l := range s.Layers {
			if !digestPattern.MatchString(l.DiffID) || l.Digest != "" && !digestPattern.MatchString(l.Digest) {
				add("layers[%d]: diff_id %.80q or digest %.80q is no digest", i, l.DiffID, l.Digest)
			}
			if len(l.CreatedBy) > maxInstruction {
				add("layers[%d]: created_by has more than %d bytes", i, maxInstruction)
			}
		}
	}
	if b := s.Base; b != nil && (b.Digest != "" && !digestPattern.MatchString(b.Digest) || len(b.Name) > maxInstruction) {
		add("base: digest %.80q is no digest, or the name is longer than %d bytes", b.Digest, maxInstruction)
	}
	if len(s.Unplaced) > maxUnplaced {
		add("unplaced: there are %d, more than %d", len(s.Unplaced), maxUnplaced)
	} else {
		for i, u := range s.Unplaced {
			if u.Packages < 1 || len(u.Distro) > maxDistro {
				add("unplaced[%d]: packages %d is less than 1, or distro is longer than %d bytes", i, u.Packages, maxDistro)
			}
		}
	}
	for i, v := range s.Vulnerabilities {
		if v.ID == "" {
			add("vulnerabilities[%d]: id is missing", i)
		}
		if v.CVSS != nil && (*v.CVSS < 0 || *v.CVSS > 10) {
			add("vulnerabilities[%d] (%s): cvss %v is not from 0 to 10", i, v.ID, *v.CVSS)
		}
		if v.EPSS != nil && (*v.EPSS < 0 || *v.EPSS > 1) {
			add("vulnerabilities[%d] (%s): epss %v is not from 0 to 1", i, v.ID, *v.EPSS)
		}
	}
	return errors.Join(errs...)
}

// Validate checks what an event must have.
func (e Event) Validate() error {
	if _, err := time.Parse(time.RFC3339, e.Time); err != nil {
		return fmt.Errorf("time must be RFC 3339, not %.60q", e.Time)
	}
	switch e.Type {
	case "", ImageDetection, PodDetection:
	default:
		return fmt.Errorf("type must be %s or %s, not %.60q", ImageDetection, PodDetection, e.Type)
	}
	switch e.Result {
	case Pass, Warned, Fail, Unknown:
		return nil
	}
	return fmt.Errorf("result must be Pass, Warn, Fail or Unknown, not %.60q", e.Result)
}
