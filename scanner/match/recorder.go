package match

import (
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/anchore/grype/grype/distro"
	"github.com/anchore/grype/grype/search"
	"github.com/anchore/grype/grype/version"
	"github.com/anchore/grype/grype/vulnerability"
)

// recorder keeps the errors of the database, which Grype's matching logs and
// then forgets: a damaged database would look like one that knows nothing.
type recorder struct {
	vulnerability.Provider

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
		r.mu.Lock()
		if r.first == nil {
			r.first = err
		}
		r.mu.Unlock()
	}
	return found, err
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
