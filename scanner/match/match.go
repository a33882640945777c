package match

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/anchore/grype/grype"
	grypematch "github.com/anchore/grype/grype/match"
	"github.com/anchore/grype/grype/matcher"
	"github.com/anchore/grype/grype/matcher/dpkg"
	"github.com/anchore/grype/grype/matcher/java"
	"github.com/anchore/grype/grype/matcher/rpm"
	"github.com/anchore/grype/grype/matcher/stock"
	"github.com/anchore/grype/grype/pkg"
	"github.com/anchore/grype/grype/version"
	"github.com/anchore/grype/grype/vulnerability"
	"github.com/anchore/syft/syft/artifact"
	syftpkg "github.com/anchore/syft/syft/pkg"
	"github.com/anchore/syft/syft/sbom"

	"github.com/assay-dev/assay/api"
)

// ErrNoDatabase says that a [Matcher] has no database to match against.
var ErrNoDatabase = errors.New("there is no vulnerability database to match against")

// Matcher matches SBOMs against one vulnerability database, and remembers what it
// found of each package. It is safe for concurrent use as long as its provider is, which
// Grype's is.
type Matcher struct {
	provider vulnerability.Provider
	memo     *memo
}

// New makes a Matcher over a database that stays open for as long as the
// Matcher is used.
func New(provider vulnerability.Provider) *Matcher {
	return &Matcher{provider: provider, memo: newMemo()}
}

// Found is what matching gives.
type Found struct {
	// Vulnerabilities have the highest score first (those without score last), then are by
	// id, package, version and PURL.
	Vulnerabilities []api.Vulnerability
	// Unplaced are the packages of which nothing could be looked up, the most first.
	Unplaced []api.Unplaced
	// Searches are what was looked up for those packages that [Noted] was not said of.
	Searches []Search
}

// Match finds the vulnerabilities of an SBOM, and the packages of which nothing could be
// looked up: see [Found]. A database that cannot be read is an error, never an SBOM
// without vulnerabilities.
func (m *Matcher) Match(ctx context.Context, s sbom.SBOM) ([]api.Vulnerability, []api.Unplaced, error) {
	if m == nil || m.provider == nil {
		return nil, nil, ErrNoDatabase
	}
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	packages, err := PackagesOf(s)
	if err != nil {
		return nil, nil, err
	}
	found, err := m.MatchPackages(ctx, packages)
	return found.Vulnerabilities, found.Unplaced, err
}

// MatchPackages is Match of packages that were kept.
//
// The matchers of Grype look at one package at a time, and their answers are remembered;
// all that follows, across packages, is done by Grype each time.
func (m *Matcher) MatchPackages(ctx context.Context, packages Packages) (Found, error) {
	if m == nil || m.provider == nil {
		return Found{}, ErrNoDatabase
	}
	known := m.memo.use()
	list, entries := make([]pkg.Package, len(packages.rows)), make(map[pkg.ID]*entry, len(packages.rows))
	for i, r := range packages.rows {
		e, err := known.entry(r.Content)
		if err != nil {
			return Found{}, err
		}
		list[i] = e.pkg
		list[i].ID = idAt(i)
		entries[list[i].ID] = e
	}
	for i, r := range packages.rows {
		if r.Related == nil {
			continue
		}
		list[i].RelatedPackages = make(map[artifact.RelationshipType][]*pkg.Package, len(r.Related))
		for relation, places := range r.Related {
			for _, at := range places {
				list[i].RelatedPackages[relation] = append(list[i].RelatedPackages[relation], &list[at])
			}
		}
	}
	rec := &recorder{Provider: m.provider}
	matchers := matcher.NewDefaultMatchers(matcherConfig())
	for i := range matchers {
		matchers[i] = &remembering{Matcher: matchers[i], entries: entries, memo: known, faults: rec}
	}
	// Grype's VulnerabilityMatcher keeps state of its run, so each run has its own.
	vm := grype.VulnerabilityMatcher{VulnerabilityProvider: silent{m.provider}, Matchers: matchers, IgnoreRules: kernelHeaderRules()}
	found, _, err := vm.FindMatchesContext(ctx, list, pkg.Context{})
	if cerr := ctx.Err(); cerr != nil {
		return Found{}, cerr
	}
	if err = errors.Join(err, rec.err()); err != nil {
		return Found{}, fmt.Errorf("matching against the vulnerability database: %w", err)
	}
	out, err := convert(ctx, *found, rec, packages, known)
	if err != nil {
		return Found{}, fmt.Errorf("reading the vulnerability database: %w", err)
	}
	result := Found{Vulnerabilities: out}
	if result.Unplaced, err = m.unplaced(ctx, list, packages.distro); err != nil {
		return Found{}, fmt.Errorf("reading the vulnerability database: %w", err)
	}
	for _, e := range entries {
		if !e.noted.Load() {
			result.Searches = append(result.Searches, e.search())
		}
	}
	return result, nil
}

// idAt is the id of the package at a place.
func idAt(i int) pkg.ID { return pkg.ID(strconv.Itoa(i)) }

// silent is a provider for what Grype asks to show the progress of a run, which is
// the severity of each match again. Nobody looks.
type silent struct{ vulnerability.Provider }

func (silent) VulnerabilityMetadata(vulnerability.Reference) (*vulnerability.Metadata, error) {
	return nil, nil
}

// matcherConfig is the default of the grype command (cmd/grype/cli/options).
func matcherConfig() matcher.Config {
	return matcher.Config{
		Java:  java.MatcherConfig{UseCPEs: false},
		Stock: stock.MatcherConfig{UseCPEs: true},
		Dpkg:  dpkg.MatcherConfig{MissingEpochStrategy: version.MissingEpochStrategyZero},
		Rpm:   rpm.MatcherConfig{MissingEpochStrategy: version.MissingEpochStrategyAuto},
	}
}

// kernelHeaderRules are the only rules that the grype command has by default:
// packages of kernel headers do not inherit the kernel's vulnerabilities.
func kernelHeaderRules() []grypematch.IgnoreRule {
	rule := func(name, upstream string, t syftpkg.Type) grypematch.IgnoreRule {
		return grypematch.IgnoreRule{
			Package:   grypematch.IgnoreRulePackage{Name: name, UpstreamName: upstream, Type: string(t)},
			MatchType: grypematch.ExactIndirectMatch,
		}
	}
	return []grypematch.IgnoreRule{
		rule("kernel-headers", "kernel", syftpkg.RpmPkg),
		rule("linux(-.*)?-headers-.*", "linux.*", syftpkg.DebPkg),
		rule("linux-libc-dev", "linux", syftpkg.DebPkg),
		rule("linux-kbuild-.*", "linux.*", syftpkg.DebPkg),
	}
}
