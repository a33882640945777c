package vulndb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/anchore/grype/grype/db/v6/distribution"

	"github.com/assay-dev/assay/api"
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
	// Changes is what the new generation changed; nil without one, or where that
	// could not be found out.
	Changes *api.DatabaseChanges
	// Refused is why the newest own advisories are not in it, but the last good
	// ones; nil when they are. It joins one [*AdvisoryError] for each problem.
	Refused error
}

// Update installs the newest published database, unless the current one is as
// new. The archive must have the published checksum and build time.
//
// What was downloaded when an update broke off is used by the next one. Of several
// processes that update one directory, one does and the others wait.
//
// When own advisories cannot be used, the last good ones are merged, and where
// there are none, nothing is installed.
func (s *Store) Update(ctx context.Context) (res *UpdateResult, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.Timeout,
		fmt.Errorf("the update took longer than %s; the next one goes on with what was downloaded", s.cfg.Timeout))
	defer cancel()
	if err := s.makeDir(); err != nil {
		return nil, err
	}
	unlock, err := s.lock(ctx, updateLockFile)
	if err != nil {
		return nil, err
	}
	defer unlock()
	defer func() { s.noteUpdate(err == nil && res.Updated, err) }()
	latest, base, err := s.latest(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking for the newest vulnerability database: %w", err)
	}
	res = &UpdateResult{}
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
	work, done, err := s.work(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	archive, from, err := s.download(ctx, base, &latest.Archive)
	if err == nil {
		s.report(Event{Stage: Verifying})
		if err = s.prepare(ctx, archive, work, from); err == nil || ctx.Err() == nil && !isFull(err) {
			err = errors.Join(err, removePartial(archive))
		}
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
	own, err := s.own(ctx)
	if err != nil {
		return nil, err
	}
	if res.Changes, err = s.activate(ctx, work, own); err != nil {
		return nil, err
	}
	res.Updated, res.Refused = true, own.refused
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
	res.Updated, res.Status, res.Changes, res.Refused = merged.Merged, merged.Status, merged.Changes, merged.Refused
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
	ctx, cancel := context.WithTimeoutCause(ctx, answerWithin, fmt.Errorf("%s does not answer within %s", u.Host, answerWithin))
	defer cancel()
	resp, err := s.get(ctx, u, nil)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(&boundedReader{r: resp.Body, left: maxListing, max: maxListing})
	if err != nil {
		return nil, nil, fmt.Errorf("reading %s: %w", u.Redacted(), err)
	}
	doc, err := distribution.NewLatestFromReader(bytes.NewReader(body))
	if err != nil {
		begin, _, _ := strings.Cut(strings.TrimSpace(string(body[:min(len(body), 60)])), "\n")
		return nil, nil, fmt.Errorf("%s is no listing of databases, it begins %q: does a proxy or a page to sign in at answer? (%w)", u.Redacted(), begin, err)
	}
	if doc == nil || doc.Path == "" || doc.Built.IsZero() {
		return nil, nil, fmt.Errorf("%s names no database", u.Redacted())
	}
	if doc.SchemaVersion.Model != v6.ModelVersion {
		return nil, nil, fmt.Errorf("%s: %w: %s, where Assay reads v%d: upgrade Assay, or name a listing of that schema", u.Redacted(), ErrSchema, doc.SchemaVersion, v6.ModelVersion)
	}
	return doc, u, nil
}
