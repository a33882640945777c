package vulndb

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/anchore/grype/grype/distro"
	"github.com/anchore/grype/grype/vulnerability"
	"gorm.io/gorm"
)

// dated is Grype's provider, with the dates that its interface leaves out.
type dated struct {
	vulnerability.Provider
	vulnerability.EOLChecker
	vulnerability.StoreMetadataProvider
	reader v6.Reader
}

func newProvider(reader v6.Reader) vulnerability.Provider {
	if r, ok := reader.(interface{ GetDB() *gorm.DB }); ok {
		// By default two connections stay open: with more readers than that, most
		// questions would open the file anew.
		if pool, err := r.GetDB().DB(); err == nil {
			pool.SetMaxIdleConns(2 * runtime.GOMAXPROCS(0))
		}
	}
	p := v6.NewVulnerabilityProvider(reader)
	eol, hasEOL := p.(vulnerability.EOLChecker)
	metadata, hasMetadata := p.(vulnerability.StoreMetadataProvider)
	if !hasEOL || !hasMetadata {
		return p
	}
	return &dated{Provider: p, EOLChecker: eol, StoreMetadataProvider: metadata, reader: reader}
}

// Published is when the vulnerability of a reference was published, which
// Grype's metadata do not say; nil when the database does not know.
func (p *dated) Published(ref vulnerability.Reference) (*time.Time, error) {
	name, _, _ := strings.Cut(ref.Namespace, ":")
	found, err := p.reader.GetVulnerabilities(&v6.VulnerabilitySpecifier{Name: ref.ID, Providers: []string{name}}, nil)
	if err != nil {
		return nil, fmt.Errorf("looking up %s: %w", ref.ID, err)
	}
	for _, v := range found {
		if v.PublishedDate != nil {
			return v.PublishedDate, nil
		}
	}
	return nil, nil
}

// HasDistro says whether the database has a distribution, under whatever name and version
// Grype takes it for where it searches for what affects a package.
func (p *dated) HasDistro(d distro.Distro) (bool, error) {
	if d.Type == distro.AlmaLinux { // what affects its packages are the records of the one it rebuilds
		d.Type = distro.RedHat
	}
	for _, channel := range append([]string{""}, d.Channels...) {
		found, err := p.reader.GetOperatingSystems(v6.OSSpecifier{
			Name: d.Name(), MajorVersion: d.MajorVersion(), MinorVersion: d.MinorVersion(),
			RemainingVersion: d.RemainingVersion(), LabelVersion: d.LabelVersion(), Channel: channel,
		})
		switch {
		case errors.Is(err, v6.ErrMissingOSIdentification):
			return false, nil // such as a release without a name
		case err != nil:
			return false, fmt.Errorf("looking up the distribution %s: %w", d.Name(), err)
		case len(found) > 0:
			return true, nil
		}
	}
	return false, nil
}

// private words a database file for Grype's reader so that each connection has
// a cache of its own. Grype asks SQLite for one cache for all, which lets them
// read only one after the other. It opens the URI "file:" + directory +
// "/vulnerability.db?cache=shared&…": the directory given to it here holds the
// whole URI and ends in "#", after which SQLite reads no further.
func private(file string) string {
	escaped := strings.NewReplacer("%", "%25", "?", "%3f", "#", "%23").Replace(file)
	return escaped + "?cache=private&immutable=1&mode=ro#"
}

// checkPath refuses the characters that Grype's writer, which does not escape
// them, would read as the end of the path.
func checkPath(dir string) error {
	if strings.ContainsAny(dir, "%?#") {
		return fmt.Errorf("the path %q has a %%, ? or #, which Grype's database cannot be written under", dir)
	}
	return nil
}
