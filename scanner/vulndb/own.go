package vulndb

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/spf13/afero"
)

const (
	// ownFile is in the directory of a merged database, and has its own advisories
	// as they were read: the last good ones, when newer ones are bad.
	ownFile = "advisories.json"
	maxOwn  = 1 << 30
)

// ownAdvisories are those of the configuration, or the last good ones.
type ownAdvisories struct {
	configured bool
	list       []*advisory
	digest     string // "" without any
	// refused is why the newest are not used.
	refused error
}

// own reads the own advisories.
func (s *Store) own(ctx context.Context) (own ownAdvisories, err error) {
	if len(s.cfg.Advisories) == 0 {
		return own, nil
	}
	own.configured = true
	own.list, err = readAdvisories(ctx, s.cfg.Advisories)
	if err != nil && ctx.Err() != nil {
		return own, ctx.Err()
	} else if err != nil {
		own.refused = fmt.Errorf("reading own advisories: %w", err)
		var found bool
		if own.list, found = s.lastGood(ctx); !found {
			return own, own.refused
		}
	}
	if len(own.list) == 0 {
		return own, nil
	}
	content, err := json.Marshal(recordsOf(own.list, ""))
	if err != nil {
		return own, err
	}
	sum := sha256.Sum256(content)
	own.digest = "sha256:" + hex.EncodeToString(sum[:])
	return own, nil
}

// lastGood gives the own advisories of the generation that last had them
// configured.
func (s *Store) lastGood(ctx context.Context) ([]*advisory, bool) {
	generations, err := s.Generations(ctx)
	if err != nil {
		return nil, false
	}
	for _, g := range generations {
		dir := filepath.Dir(g.Path)
		r := readRecord(dir)
		if !r.Own {
			continue
		}
		if r.Advisories == 0 {
			return nil, true
		}
		file := filepath.Join(dir, ownFile)
		content, err := readBounded(file, maxOwn)
		if err != nil {
			continue
		}
		if list, problems := parseOSV(file, content); len(problems) == 0 && len(list) == r.Advisories {
			return list, true
		}
	}
	return nil, false
}

// record is what a generation in dir says of the own advisories in it.
func (o ownAdvisories) record(dir string) generationRecord {
	r := generationRecord{Own: o.configured, Advisories: len(o.list), Digest: o.digest}
	if len(o.list) > 0 {
		if m, err := v6.ReadImportMetadata(afero.NewOsFs(), filepath.Join(dir, upstreamDir)); err == nil {
			r.Base = m.Digest
		}
	}
	return r
}

// mergeOwn merges own advisories into the prepared database of dir, and keeps
// them beside it.
func (s *Store) mergeOwn(ctx context.Context, dir string, own ownAdvisories) error {
	if len(own.list) == 0 {
		return nil
	}
	raw := make([]json.RawMessage, 0, len(own.list))
	for _, a := range own.list {
		raw = append(raw, a.raw)
	}
	content, err := json.Marshal(raw)
	if err != nil {
		return err
	}
	if err := writeAtomically(filepath.Join(dir, ownFile), content); err != nil {
		return fmt.Errorf("keeping own advisories: %w", err)
	}
	return mergeInto(ctx, dir, own.list)
}

// CheckAge says whether a database that was built at that time is too old:
// [ErrExpired].
func (s *Store) CheckAge(built time.Time) error { return s.expired(built) }

// Advisories are the files and folders of own advisories that are configured.
func (s *Store) Advisories() []string { return s.cfg.Advisories }

// Current is the directory of the current database: the same as long as none
// other becomes current.
func (s *Store) Current() (string, error) { return s.current() }
