package vulndb

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anchore/grype/grype/search"
	syftpkg "github.com/anchore/syft/syft/pkg"
)

const ownAdvisory = `{"id":"ACME-2026-1","aliases":["CVE-2026-1000"],"summary":"Ours","published":"2026-01-01T00:00:00Z",
 "severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],
 "affected":[{"package":{"ecosystem":"npm","name":"lodash"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"},{"fixed":"9.0.0"}]}]},
  {"package":{"ecosystem":"Debian:12","name":"openssl"},"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"}]}]}]}`

// npmNames are "namespace ID" of what a database says of an npm package.
func npmNames(t *testing.T, s *Store, name string) []string {
	t.Helper()
	db, err := s.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	found, err := db.Provider.FindVulnerabilities(search.ByPackageName(name), search.ByEcosystem(syftpkg.JavaScript, syftpkg.NpmPkg))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, v := range found {
		out = append(out, v.Namespace+" "+v.ID)
		if v.Metadata == nil {
			t.Errorf("%s: no metadata", v.ID)
		}
	}
	slices.Sort(out)
	return out
}

func put(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func TestMerge(t *testing.T) {
	dir := t.TempDir()
	clock := builtAt().Add(time.Hour)
	s := testStore(t, func(c *Config) {
		c.Advisories = []string{dir}
		c.Now = func() time.Time { clock = clock.Add(time.Second); return clock }
	})
	archive := testArchive(t, builtAt())
	published, err := s.Import(t.Context(), archive)
	if err != nil {
		t.Fatal(err)
	}
	const ghsa = "github:language:javascript GHSA-35jh-r3h4-6jhm"
	const own = "own:language:javascript ACME-2026-1"
	if got := npmNames(t, s, "lodash"); !slices.Equal(got, []string{ghsa}) {
		t.Fatalf("published alone: %v", got)
	}
	if res, err := s.Merge(t.Context()); err != nil || res.Merged || res.Status.Checksum != published.Checksum {
		t.Errorf("an empty folder made a generation: %+v, %v", res, err)
	}

	put(t, dir, "own.json", ownAdvisory)
	res, err := s.Merge(t.Context())
	if err != nil || !res.Merged || res.Advisories != 1 || !res.Status.Built.Equal(builtAt()) || !strings.Contains(res.Status.Source, "1 own advis") {
		t.Fatalf("merge: %+v, %v", res, err)
	}
	if got := npmNames(t, s, "lodash"); !slices.Equal(got, []string{ghsa, own}) {
		t.Errorf("merged: %v", got)
	}
	merged := res.Status
	if res, err := s.Merge(t.Context()); err != nil || res.Merged || res.Status.Path != merged.Path {
		t.Errorf("the same again: %+v, %v", res, err)
	}
	list, err := s.Generations(t.Context())
	if err != nil || list[0].Advisories != 1 || list[1].Advisories != 0 {
		t.Errorf("generations: %+v, %v", list, err)
	}

	// The same two make the same bytes.
	if _, err := s.Rollback(t.Context(), list[1].Name); err != nil {
		t.Fatal(err)
	}
	res, err = s.Merge(t.Context())
	if err != nil || !res.Merged || res.Status.Path == merged.Path || !bytes.Equal(read(t, res.Status.Path), read(t, merged.Path)) {
		t.Errorf("merging the same two gave other bytes: %+v, %v", res, err)
	}

	// All that is wrong is told, and what was good goes on.
	put(t, dir, "bad.json", `{"id":`)
	put(t, dir, "worse.json", `{"id":"ACME-2"}`)
	res, err = s.Merge(t.Context())
	if err != nil || res.Merged || !errors.Is(res.Refused, ErrAdvisory) || !strings.Contains(res.Refused.Error(), "bad.json:1") || !strings.Contains(res.Refused.Error(), "worse.json: ACME-2") {
		t.Errorf("bad advisories: %+v, %v", res, err)
	}
	if _, err := s.Import(t.Context(), archive); !errors.Is(err, ErrAdvisory) {
		t.Errorf("importing with bad advisories: %v", err)
	}
	if got := npmNames(t, s, "lodash"); !slices.Equal(got, []string{ghsa, own}) {
		t.Errorf("after bad ones: %v", got)
	}

	// A removed one is gone, and the published database is back as it was.
	for _, name := range []string{"own.json", "bad.json", "worse.json"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if res, err = s.Merge(t.Context()); err != nil || !res.Merged || res.Status.Checksum != list[1].Checksum {
		t.Errorf("removed: %+v, %v", res, err)
	}
	if got := npmNames(t, s, "lodash"); !slices.Equal(got, []string{ghsa}) {
		t.Errorf("removed: %v", got)
	}
	// What comes later has them, too.
	put(t, dir, "own.json", ownAdvisory)
	if _, err := s.Import(t.Context(), archive); err != nil {
		t.Fatal(err)
	}
	if got := npmNames(t, s, "lodash"); !slices.Equal(got, []string{ghsa, own}) {
		t.Errorf("imported: %v", got)
	}
	left, _ := filepath.Glob(filepath.Join(s.cfg.Dir, workPrefix+"*"))
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestExport(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "own.json", ownAdvisory)
	s := testStore(t, func(c *Config) { c.Advisories = []string{dir} })
	if _, err := s.Import(t.Context(), testArchive(t, builtAt())); err != nil {
		t.Fatal(err)
	}
	for _, published := range []bool{false, true} {
		out := filepath.Join(t.TempDir(), "carried.tar.zst")
		sum, _, err := s.Export(t.Context(), out, published)
		if err != nil {
			t.Fatal(err)
		}
		away := testStore(t)
		if _, err := away.ImportSum(t.Context(), out, "sha256:"+strings.Repeat("0", 64)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("another checksum: %v", err)
		}
		if _, err := away.ImportSum(t.Context(), out, "garbage"); err == nil {
			t.Error("no checksum: no error")
		}
		if _, err := away.ImportSum(t.Context(), out, sum); err != nil {
			t.Fatal(err)
		}
		if got := npmNames(t, away, "lodash"); len(got) != map[bool]int{false: 2, true: 1}[published] {
			t.Errorf("published %v: %v", published, got)
		}
		other := testStore(t, func(c *Config) { c.Advisories = []string{dir} })
		if _, err := other.Import(t.Context(), out); (err == nil) != published {
			t.Errorf("own advisories into own advisories: published %v: %v", published, err)
		}
	}
	if _, _, err := s.Export(t.Context(), t.TempDir(), false); err == nil {
		t.Error("a folder was replaced")
	}
}

// A newer published database gets the last good advisories, while the newest are bad.
func TestLastGoodAdvisories(t *testing.T) {
	const ghsa, own = "github:language:javascript GHSA-35jh-r3h4-6jhm", "own:language:javascript ACME-2026-1"
	dir := t.TempDir()
	put(t, dir, "own.json", `{"id":`)
	clock := builtAt().Add(time.Hour)
	configure := func(c *Config) {
		c.Advisories = []string{dir}
		c.Now = func() time.Time { clock = clock.Add(time.Second); return clock }
	}
	newer := builtAt().Add(time.Minute)
	s := testStore(t, configure)
	s.cfg.LatestURL = published(t, read(t, testArchive(t, builtAt())), builtAt(), nil)
	if _, err := s.Update(t.Context()); !errors.Is(err, ErrAdvisory) {
		t.Fatalf("bad ones, and none before: %v", err)
	}
	if _, err := s.Status(t.Context()); !errors.Is(err, ErrMissing) {
		t.Fatalf("a database without the advisories was installed: %v", err)
	}
	put(t, dir, "own.json", ownAdvisory)
	first, err := s.Update(t.Context())
	if err != nil || first.Refused != nil {
		t.Fatalf("%+v, %v", first, err)
	}
	put(t, dir, "own.json", `{"id":`)
	s.cfg.LatestURL = published(t, read(t, testArchive(t, newer)), newer, nil)
	res, err := s.Update(t.Context())
	if err != nil || !res.Updated || !errors.Is(res.Refused, ErrAdvisory) || !strings.Contains(res.Refused.Error(), "own.json:1") || !res.Status.Built.Equal(newer) {
		t.Fatalf("%+v, %v", res, err)
	}
	if got := npmNames(t, s, "lodash"); !slices.Equal(got, []string{ghsa, own}) {
		t.Errorf("without the last good ones: %v", got)
	}
	list, err := s.Generations(t.Context())
	if err != nil || list[0].Digest == "" || list[0].Digest != list[1].Digest || list[0].Base == "" || list[0].Base == list[1].Base || list[0].Base == list[0].Checksum {
		t.Errorf("origins: %+v, %v", list, err)
	}

	// A published database that came without them is made whole by a merge.
	plain := testStore(t, func(c *Config) { c.Dir, c.Now = s.cfg.Dir, s.cfg.Now })
	newest := newer.Add(time.Minute)
	if _, err := plain.Import(t.Context(), testArchive(t, newest)); err != nil {
		t.Fatal(err)
	}
	merged, err := s.Merge(t.Context())
	if err != nil || !merged.Merged || !errors.Is(merged.Refused, ErrAdvisory) || !merged.Status.Built.Equal(newest) {
		t.Fatalf("%+v, %v", merged, err)
	}
	if got := npmNames(t, s, "lodash"); !slices.Equal(got, []string{ghsa, own}) {
		t.Errorf("merged: %v", got)
	}
	// None at all is a good state, too.
	put(t, dir, "own.json", `[]`)
	if _, err := s.Merge(t.Context()); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "own.json", `{"id":`)
	if res, err := s.Merge(t.Context()); err != nil || res.Merged || res.Refused == nil || res.Advisories != 0 {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestState(t *testing.T) {
	dir := t.TempDir()
	s := testStore(t)
	st, err := s.State(t.Context())
	if err != nil || !strings.Contains(st.Error, "there is no") || st.LastUpdate != nil || len(st.Generations) > 0 {
		t.Fatalf("without a database: %+v, %v", st, err)
	}
	s.cfg.LatestURL = published(t, read(t, testArchive(t, builtAt())), builtAt(), nil)
	if _, err := s.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.cfg.LatestURL += "/none"
	if _, err := s.Update(t.Context()); err == nil {
		t.Fatal("no error")
	}
	s.cfg.Advisories = []string{dir}
	s.cfg.Now = func() time.Time { return builtAt().Add(2 * time.Hour) }
	put(t, dir, "own.json", ownAdvisory)
	res, err := s.Merge(t.Context())
	if err != nil || res.Changes == nil || res.Changes.Added != 2 || res.Changes.Removed != 0 || res.Changes.Packages != 2 {
		t.Fatalf("merge: %+v, %v", res, err)
	}
	st, err = s.State(t.Context())
	if err != nil || st.Error != "" || len(st.Generations) != 2 || st.Generations[0].Changes == nil || *st.Generations[0].Changes != *res.Changes ||
		st.Generations[0].Changes.Against != st.Generations[1].Checksum || st.Generations[0].Base != st.Generations[1].Checksum {
		t.Fatalf("%+v, %v", st, err)
	}
	if st.LastUpdate == nil || st.LastUpdate.Updated || !strings.Contains(st.LastUpdate.Error, "404") {
		t.Errorf("last update: %+v", st.LastUpdate)
	}
	names := []string{}
	for _, p := range st.Providers {
		names = append(names, p.Name)
		if p.Captured.IsZero() {
			t.Errorf("%s: no date", p.Name)
		}
	}
	if !slices.Contains(names, "own") || !slices.Contains(names, "nvd") {
		t.Errorf("providers: %v", names)
	}
	s.cfg.MaxAge = time.Minute
	if st, err := s.State(t.Context()); err != nil || !strings.Contains(st.Error, "too old") {
		t.Errorf("old: %+v, %v", st, err)
	}
	s.cfg.MaxAge, s.cfg.MaxCompareBytes = 0, 1000
	put(t, dir, "own.json", strings.Replace(ownAdvisory, "ACME-2026-1", "ACME-2026-2", 1))
	if res, err := s.Merge(t.Context()); err != nil || !res.Merged || res.Changes != nil {
		t.Errorf("a comparison over its bound: %+v, %v", res, err)
	}
}
