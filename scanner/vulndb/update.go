package vulndb

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/anchore/grype/grype/db/v6/distribution"
)

// maxListing bounds the listing of databases.
const maxListing = 1 << 20

// UpdateResult tells what an update did.
type UpdateResult struct {
	// Updated says that a newer database was installed, or own advisories were merged anew.
	Updated bool
	// Status is that of the database that is current now.
	Status *Status
	// Held is when the newest database was built that Rollback left, where
	// nothing newer is published; else zero.
	Held time.Time
	// Warning is what the publisher says of the schema's future; else empty.
	Warning string
}

// Update installs the newest published database, unless the current one is as
// new. The archive must have the published checksum and build time.
func (s *Store) Update(ctx context.Context) (*UpdateResult, error) {
	latest, base, err := s.latest(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking for the newest vulnerability database: %w", err)
	}
	res := &UpdateResult{}
	switch latest.Status {
	case distribution.StatusDeprecated:
		res.Warning = "databases of this schema will soon no longer be published: upgrade Assay"
	case distribution.StatusEndOfLife:
		res.Warning = "databases of this schema are no longer published: upgrade Assay"
	}
	// Whatever is wrong with the current database, a sound one replaces it.
	// One that was left by Rollback is not fetched again.
	if now, err := s.Status(ctx); err == nil && !latest.Built.After(now.Built) {
		res.Status = now
		return s.remerge(ctx, res)
	} else if held := s.held(); err == nil && !latest.Built.After(held) {
		res.Status, res.Held = now, held
		return s.remerge(ctx, res)
	}
	work, err := s.work()
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	archive := work + ".archive"
	defer os.Remove(archive)
	from, err := s.download(ctx, base, &latest.Archive, archive)
	if err == nil {
		err = s.prepare(ctx, archive, work, from)
	}
	if err != nil {
		return nil, fmt.Errorf("updating the vulnerability database: %w", err)
	}
	d, err := v6.ReadDescription(filepath.Join(work, v6.VulnerabilityDBFileName))
	if err != nil {
		return nil, fmt.Errorf("updating the vulnerability database: %w", corrupt("reading its description", err))
	}
	if d.Built.String() != latest.Built.String() {
		return nil, fmt.Errorf("updating the vulnerability database: %w",
			corrupt(fmt.Sprintf("it was built on %s, the listing says %s", d.Built, latest.Built), nil))
	}
	if err := s.activate(ctx, work); err != nil {
		return nil, err
	}
	res.Updated = true
	res.Status, err = s.Status(ctx)
	return res, err
}

// remerge makes a new generation where own advisories changed since.
func (s *Store) remerge(ctx context.Context, res *UpdateResult) (*UpdateResult, error) {
	if len(s.cfg.Advisories) == 0 {
		return res, nil
	}
	merged, err := s.Merge(ctx)
	if err != nil {
		return nil, err
	}
	res.Updated, res.Status = merged.Merged, merged.Status
	return res, nil
}

// latest reads the listing and gives its URL, to which archives are relative.
func (s *Store) latest(ctx context.Context) (*distribution.LatestDocument, *url.URL, error) {
	text := s.cfg.LatestURL
	if !strings.HasSuffix(text, ".json") {
		text = strings.TrimRight(text, "/") + "/v" + strconv.Itoa(v6.ModelVersion) + "/" + distribution.LatestFileName
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, nil, fmt.Errorf("the URL of the listing cannot be read: %w", err)
	}
	body, err := s.get(ctx, u)
	if err != nil {
		return nil, nil, err
	}
	defer body.Close()
	doc, err := distribution.NewLatestFromReader(&boundedReader{r: body, left: maxListing, max: maxListing})
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", u.Redacted(), err)
	}
	if doc == nil || doc.Path == "" || doc.Built.IsZero() {
		return nil, nil, fmt.Errorf("%s names no database", u.Redacted())
	}
	if doc.SchemaVersion.Model != v6.ModelVersion {
		return nil, nil, fmt.Errorf("%s: %w: %s", u.Redacted(), ErrSchema, doc.SchemaVersion)
	}
	return doc, u, nil
}

func (s *Store) get(ctx context.Context, u *url.URL) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "assay")
	resp, err := s.cfg.HTTPClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("%s answers %s", u.Redacted(), resp.Status)
	}
	return resp.Body, nil
}

// download fetches an archive and verifies its checksum.
func (s *Store) download(ctx context.Context, base *url.URL, a *distribution.Archive, to string) (from string, err error) {
	want, ok := strings.CutPrefix(a.Checksum, "sha256:")
	if !ok {
		return "", fmt.Errorf("the listing gives no sha256 checksum but %q", a.Checksum)
	}
	u := *base
	u.Path, u.RawPath = path.Join(path.Dir(base.Path), path.Clean("/"+a.Path)), ""
	body, err := s.get(ctx, &u)
	if err != nil {
		return "", err
	}
	defer body.Close()
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(f, sum), &boundedReader{r: body, left: s.cfg.MaxArchiveBytes, max: s.cfg.MaxArchiveBytes})
	if err = errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("downloading %s: %w", u.Redacted(), err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); !strings.EqualFold(got, want) {
		return "", corrupt(fmt.Sprintf("the archive has the sha256 checksum %s, the listing says %s", got, want), nil)
	}
	return u.Redacted(), nil
}
