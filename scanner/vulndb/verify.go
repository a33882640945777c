package vulndb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/spf13/afero"
)

// accept verifies a database that came from elsewhere, makes its indexes and
// writes its checksum.
func accept(ctx context.Context, dir, source string) (err error) {
	defer guard(&err)
	file := filepath.Join(dir, v6.VulnerabilityDBFileName)
	if err := checkDigest(dir, file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := checkContent(ctx, file); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := v6.Hydrater()(dir); err != nil {
		return corrupt("indexing the database", err)
	}
	if _, err := v6.WriteImportMetadata(afero.NewOsFs(), dir, source); err != nil {
		return fmt.Errorf("writing the checksum of the database: %w", err)
	}
	return nil
}

// guard makes an error of a panic in the reading of a file that came from elsewhere.
func guard(err *error) {
	if e := recover(); e != nil {
		*err = corrupt(fmt.Sprintf("reading it failed inside: %v", e), nil)
	}
}

// checkDigest compares a database with the checksum beside it; fs.ErrNotExist without one.
func checkDigest(dir, file string) error {
	if _, err := os.Stat(filepath.Join(dir, v6.ImportMetadataFileName)); err != nil {
		return err
	}
	afs := afero.NewOsFs()
	m, err := v6.ReadImportMetadata(afs, dir)
	if err != nil {
		return corrupt("reading its checksum", err)
	}
	digest, err := v6.CalculateDBDigest(afs, file)
	if err != nil {
		return fmt.Errorf("computing the checksum of the database: %w", err)
	}
	if digest != m.Digest {
		return corrupt(fmt.Sprintf("its checksum is %s and should be %s", digest, m.Digest), nil)
	}
	return nil
}

// checkContent reads through the file: it must be a sound SQLite database of
// schema 6 that knows vulnerabilities.
func checkContent(ctx context.Context, file string) error {
	if err := checkHeader(file); err != nil {
		return err
	}
	gdb, err := v6.NewLowLevelDB(file, false, false, false)
	if err != nil {
		return corrupt("opening it", err)
	}
	defer func() {
		if sqlDB, err := gdb.DB(); err == nil {
			_ = sqlDB.Close()
		}
	}()
	var findings []string
	err = gdb.WithContext(ctx).Raw("PRAGMA quick_check(5)").Scan(&findings).Error
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return corrupt("checking it", err)
	}
	if len(findings) != 1 || findings[0] != "ok" {
		return corrupt(strings.Join(findings, "; "), nil)
	}
	var meta v6.DBMetadata
	if err := gdb.First(&meta).Error; err != nil {
		return fmt.Errorf("%w: it is no database of Grype's schema %d: %w", ErrSchema, v6.ModelVersion, err)
	}
	if err := checkMetadata(&meta); err != nil {
		return err
	}
	var known int64
	if err := gdb.Model(&v6.VulnerabilityHandle{}).Limit(1).Count(&known).Error; err != nil {
		return corrupt("counting its vulnerabilities", err)
	}
	if known == 0 {
		return corrupt("it knows no vulnerabilities", nil)
	}
	return nil
}

func checkHeader(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("opening the vulnerability database: %w", err)
	}
	defer f.Close()
	header := make([]byte, 16)
	if _, err := io.ReadFull(f, header); err != nil || !bytes.Equal(header, []byte("SQLite format 3\x00")) {
		return corrupt(filepath.Base(file)+" is no SQLite database", nil)
	}
	return nil
}

func checkMetadata(m *v6.DBMetadata) error {
	if m.Model != v6.ModelVersion {
		return fmt.Errorf("%w: %s, where Assay reads v%d", ErrSchema, schemaText(m), v6.ModelVersion)
	}
	if m.BuildTimestamp == nil || m.BuildTimestamp.IsZero() {
		return corrupt("it does not say when it was built", nil)
	}
	return nil
}

func schemaText(m *v6.DBMetadata) string {
	return fmt.Sprintf("v%d.%d.%d", m.Model, m.Revision, m.Addition)
}

// expired judges the age of a database.
func (s *Store) expired(built time.Time) error {
	if s.cfg.MaxAge < 0 {
		return nil
	}
	if age := s.cfg.Now().Sub(built); age > s.cfg.MaxAge {
		return &ExpiredError{Built: built, Age: age, Max: s.cfg.MaxAge}
	}
	return nil
}
