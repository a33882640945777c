package vulndb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/anchore/grype/grype/db"
	"github.com/anchore/grype/grype/db/provider"
	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/spf13/afero"

	"github.com/assay-dev/assay/api"
)

// maxAdvisoryFile bounds a file of advisories.
const maxAdvisoryFile = 256 << 20

// BuildResult tells what was built.
type BuildResult struct {
	// Path is the archive or the database file.
	Path string
	// Advisories is the number of those written, CVEs that of the CVEs they name.
	Advisories, CVEs int
	// Database is what scans will say of it.
	Database api.ScanDatabase
}

// Build makes a database from advisories in OSV's format: .json files of one
// advisory or an array of them, and folders that are searched for such files.
// out is an archive that [Store.Import] takes where it ends in .tar.zst, else a
// directory. The same advisories and time give the same bytes.
//
// When advisories cannot be used, the error joins one [*AdvisoryError] for
// each problem of each file, and nothing is written.
func Build(ctx context.Context, paths []string, out string, built time.Time) (res *BuildResult, err error) {
	if built.IsZero() {
		return nil, errors.New("the time of building is not set")
	}
	built = built.UTC().Truncate(time.Second)
	advisories, err := readAdvisories(ctx, paths)
	if err != nil {
		return nil, err
	}
	if len(advisories) == 0 {
		return nil, fmt.Errorf("%w: there are no advisories to build a database from", ErrAdvisory)
	}
	archive := strings.HasSuffix(out, ".tar.zst")
	if err := errors.Join(checkPath(out), checkOut(out, archive)); err != nil {
		return nil, err
	}
	parent := filepath.Dir(filepath.Clean(out))
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return nil, fmt.Errorf("making the directory of the database: %w", err)
	}
	work, err := os.MkdirTemp(parent, ".assay-build-")
	if err != nil {
		return nil, fmt.Errorf("making a directory to build in: %w", err)
	}
	defer os.RemoveAll(work)

	dir := filepath.Join(work, "db")
	records := recordsOf(advisories, built.Format(time.DateOnly))
	if err := compile(ctx, records, work, dir, built); err != nil {
		return nil, fmt.Errorf("building the vulnerability database: %w", err)
	}
	res = &BuildResult{Path: out, Advisories: len(advisories), CVEs: len(records["nvd"])}
	if !archive {
		if err := v6.Hydrater()(dir); err != nil {
			return nil, fmt.Errorf("indexing the vulnerability database: %w", err)
		}
		if err := settle(filepath.Join(dir, v6.VulnerabilityDBFileName), built); err != nil {
			return nil, err
		}
	}
	meta, err := v6.WriteImportMetadata(afero.NewOsFs(), dir, "assay db build")
	if err != nil {
		return nil, fmt.Errorf("writing the checksum of the database: %w", err)
	}
	res.Database = api.ScanDatabase{
		Built: built, Schema: fmt.Sprintf("v%d.%d.%d", v6.ModelVersion, v6.Revision, v6.Addition), Checksum: meta.Digest,
	}
	if archive {
		packed := filepath.Join(work, "packed")
		if err := pack(ctx, dir, packed, built); err != nil {
			return nil, fmt.Errorf("packing the vulnerability database: %w", err)
		}
		return res, os.Rename(packed, out)
	}
	res.Path = filepath.Join(out, v6.VulnerabilityDBFileName)
	return res, place(dir, out, filepath.Join(work, "old"))
}

// checkOut refuses to replace what is no database.
func checkOut(out string, archive bool) error {
	if out == "" {
		return errors.New("where to write the vulnerability database is not set")
	}
	info, err := os.Stat(out)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case archive && !info.Mode().IsRegular():
		return fmt.Errorf("%s is there and is no file", out)
	case archive:
		return nil
	case !info.IsDir():
		return fmt.Errorf("%s is a file: name a directory, or an archive that ends in .tar.zst", out)
	}
	entries, err := os.ReadDir(out)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != v6.VulnerabilityDBFileName && e.Name() != v6.ImportMetadataFileName {
			return fmt.Errorf("%s holds %s, which is of no vulnerability database: name an empty directory", out, e.Name())
		}
	}
	return nil
}

func place(dir, out, old string) error {
	if err := os.Rename(out, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replacing the vulnerability database: %w", err)
	}
	if err := os.Rename(dir, out); err != nil {
		return errors.Join(fmt.Errorf("placing the vulnerability database: %w", err), os.Rename(old, out))
	}
	return nil
}

// readAdvisories reads files and folders, and orders what they hold.
func readAdvisories(ctx context.Context, paths []string) ([]*advisory, error) {
	files, errs := advisoryFiles(paths)
	var out []*advisory
	first := map[string]string{}
	for _, file := range files {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		content, err := readBounded(file, maxAdvisoryFile)
		if err != nil {
			errs = append(errs, &AdvisoryError{File: file, Err: err})
			continue
		}
		list, problems := parseOSV(file, content)
		errs = append(errs, problems...)
		for _, a := range list {
			if other, ok := first[a.id]; ok {
				errs = append(errs, &AdvisoryError{File: file, ID: a.id, Err: fmt.Errorf("it is also in %s", other)})
				continue
			}
			first[a.id] = file
			out = append(out, a)
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	slices.SortFunc(out, func(a, b *advisory) int { return strings.Compare(a.id, b.id) })
	return out, nil
}

func advisoryFiles(paths []string) (files []string, errs []error) {
	for _, p := range paths {
		err := filepath.WalkDir(p, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			// A mounted ConfigMap has its files a second time, in a folder "..date".
			if d.IsDir() && path != p && strings.HasPrefix(d.Name(), "..") {
				return fs.SkipDir
			}
			// A file that is named counts whatever its name; in folders only .json does.
			if !d.IsDir() && (path == p || strings.EqualFold(filepath.Ext(path), ".json")) {
				files = append(files, path)
			}
			return nil
		})
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("there is no %s", p)
		}
		if err != nil {
			errs = append(errs, &AdvisoryError{File: p, Err: err})
		}
	}
	slices.Sort(files)
	return slices.Compact(files), errs
}

func readBounded(file string, limit int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(content)) > limit {
		err = fmt.Errorf("%w: a file of advisories has at most %d bytes", ErrTooLarge, limit)
	}
	return content, err
}

// compile runs Grype's builder over the records.
func compile(ctx context.Context, records map[string][]record, work, dir string, built time.Time) error {
	names := sortedKeys(records)
	// NVD comes first: its severities stand in where others have none.
	slices.SortStableFunc(names, func(a, b string) int {
		switch {
		case a == b:
			return 0
		case a == "nvd":
			return -1
		case b == "nvd":
			return 1
		}
		return 0
	})
	var states provider.States
	for _, name := range names {
		st, err := writeWorkspace(ctx, work, name, records[name], built)
		if err != nil {
			return err
		}
		states = append(states, *st)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	err := db.Build(db.BuildConfig{
		SchemaVersion: v6.ModelVersion, Directory: dir, States: states, Timestamp: built,
		IncludeCPEParts: []string{"a", "h", "o"},
	})
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return settle(filepath.Join(dir, v6.VulnerabilityDBFileName), built)
}

// writeWorkspace lays out the records of one provider as Grype's builder expects.
func writeWorkspace(ctx context.Context, work, name string, records []record, built time.Time) (*provider.State, error) {
	w := provider.NewWorkspace(work, "in-"+name)
	if err := os.MkdirAll(w.ResultsPath(), 0o755); err != nil {
		return nil, err
	}
	for i, r := range records {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		content, err := json.Marshal(r)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(w.ResultsPath(), fmt.Sprintf("%08d.json", i)), content, 0o644); err != nil {
			return nil, err
		}
	}
	if err := w.EnsureListingFile(); err != nil {
		return nil, err
	}
	listing, err := provider.NewFile(w.ListingPath())
	if err != nil {
		return nil, err
	}
	listing.Path = "results/" + filepath.Base(w.ListingPath())
	content, err := json.Marshal(provider.State{
		Provider: name, Version: 1, Processor: "assay", Timestamp: built, Listing: listing, Store: "flat-file",
	})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(w.StatePath(), content, 0o644); err != nil {
		return nil, err
	}
	return w.ReadState()
}
