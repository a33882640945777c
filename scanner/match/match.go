package match

import (
	"context"
	"errors"
	"fmt"

	"github.com/anchore/grype/grype"
	grypematch "github.com/anchore/grype/grype/match"
	"github.com/anchore/grype/grype/matcher"
	"github.com/anchore/grype/grype/matcher/dpkg"
	"github.com/anchore/grype/grype/matcher/java"
	"github.com/anchore/grype/grype/matcher/rpm"
	"github.com/anchore/grype/grype/matcher/stock"
	"github.com/anchore/grype/grype/version"
	"github.com/anchore/grype/grype/vulnerability"
	syftpkg "github.com/anchore/syft/syft/pkg"
	"github.com/anchore/syft/syft/sbom"

	"github.com/assay-dev/assay/api"
)

// ErrNoDatabase says that a [Matcher] has no database to match against.
var ErrNoDatabase = errors.New("there is no vulnerability database to match against")

// Matcher matches SBOMs against one vulnerability database. It is safe for
// concurrent use as long as its provider is, which Grype's is.
type Matcher struct {
	provider vulnerability.Provider
}

// New makes a Matcher over a database that stays open for as long as the
// Matcher is used.
func New(provider vulnerability.Provider) *Matcher {
	return &Matcher{provider: provider}
}

// Match finds the vulnerabilities of an SBOM: the highest score first (those
// without score last), then by id, package, version and PURL. A database that
// cannot be read is an error, never an SBOM without vulnerabilities.
func (m *Matcher) Match(ctx context.Context, s sbom.SBOM) ([]api.Vulnerability, error) {
	if m == nil || m.provider == nil {
		return nil, ErrNoDatabase
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	packages, pkgContext := packagesOf(s)
	rec := &recorder{Provider: m.provider}
	// Grype's VulnerabilityMatcher keeps state of its run, so each run has its own.
	vm := grype.VulnerabilityMatcher{
		VulnerabilityProvider: rec.provider(),
		Matchers:              matcher.NewDefaultMatchers(matcherConfig()),
		IgnoreRules:           kernelHeaderRules(),
	}
	found, _, err := vm.FindMatchesContext(ctx, packages, pkgContext)
	if cerr := ctx.Err(); cerr != nil {
		return nil, cerr
	}
	if err = errors.Join(err, rec.err()); err != nil {
		return nil, fmt.Errorf("matching against the vulnerability database: %w", err)
	}
	out, err := convert(ctx, found.Sorted(), rec, layerOrder(s))
	if err != nil {
		return nil, fmt.Errorf("reading the vulnerability database: %w", err)
	}
	return out, nil
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
