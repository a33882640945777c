package match

import (
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/anchore/grype/grype/db/v6/name"
	"github.com/anchore/grype/grype/distro"
	"github.com/anchore/grype/grype/search"
	"github.com/anchore/grype/grype/version"
	"github.com/anchore/grype/grype/vulnerability"
	syftpkg "github.com/anchore/syft/syft/pkg"

	"github.com/assay-dev/assay/scanner/vulndb"
)

// recorder keeps the errors of the database, which Grype's matching logs and
// then forgets: a damaged database would look like one that knows nothing. It also
// keeps what was looked up.
type recorder struct {
	vulnerability.Provider
	searches map[string]bool // nil: they are not kept

	mu    sync.Mutex
	first error
}

// provider gives the recorder with the optional interfaces of what it wraps.
func (r *recorder) provider() vulnerability.Provider {
	if eol, ok := r.Provider.(vulnerability.EOLChecker); ok {
		return struct {
			*recorder
			eolChecker
		}{r, eolChecker{eol}}
	}
	return r
}

type eolChecker struct{ of vulnerability.EOLChecker }

func (e eolChecker) GetOperatingSystemEOL(d *distro.Distro) (eol, eoas *time.Time, err error) {
	return e.of.GetOperatingSystemEOL(d)
}

func (r *recorder) FindVulnerabilities(criteria ...vulnerability.Criteria) ([]vulnerability.Vulnerability, error) {
	found, err := r.Provider.FindVulnerabilities(criteria...)
	if err != nil && search.ValidateCriteria(criteria) == nil && !aboutPackage(err) {
		r.note(err)
	}
	if r.searches != nil {
		for _, set := range search.CriteriaIterator(criteria) {
			r.mu.Lock()
			for _, key := range keysOf(set) {
				r.searches[key] = true
			}
			r.mu.Unlock()
		}
	}
	return found, err
}

func (r *recorder) note(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.first == nil {
		r.first = err
	}
}

// keysOf are the keys of a search. What it finds changes only if what the database
// says under one of them does.
func keysOf(criteria []vulnerability.Criteria) (keys []string) {
	var names []string
	var types []syftpkg.Type
	for _, c := range criteria {
		switch c := c.(type) {
		case *search.PackageNameCriteria:
			names = append(names, c.PackageName)
		case *search.EcosystemCriteria:
			types = append(types, c.PackageType)
		case *search.CPECriteria:
			keys = append(keys, vulndb.ProductKey(c.CPE.Attributes.Product))
		}
	}
	for _, n := range names {
		keys = append(keys, vulndb.NameKey(n))
		for _, t := range types { // as Grype's provider words it
			keys = append(keys, vulndb.NameKey(name.Normalize(n, t)))
		}
	}
	if len(keys) == 0 {
		return []string{vulndb.AnyKey}
	}
	return keys
}

func (r *recorder) err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.first
}

// aboutPackage says that an error is about the package that was searched for
// (a version that cannot be compared, a CPE without product), not the database.
func aboutPackage(err error) bool {
	var nonFatal version.NonFatalConstraintError
	var comparison *version.UnsupportedComparisonError
	return errors.Is(err, version.ErrUnsupportedVersion) || errors.Is(err, version.ErrNoVersionProvided) ||
		errors.As(err, &nonFatal) || errors.As(err, &comparison) ||
		strings.Contains(err.Error(), "must specify product to search by CPE")
}
