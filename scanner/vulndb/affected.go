package vulndb

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/anchore/grype/grype/version"
)

// affected is one affected package: which kind, and which of its versions.
type affected struct {
	// namespace is as in the records of the builder: "github:npm", "debian:12".
	namespace string
	name      string
	intervals []interval
	available string
}

// os says that the package is of a distribution.
func (a affected) os() bool { return !strings.HasPrefix(a.namespace, "github:") }

// provider is the first part of the namespace.
func (a affected) provider() string {
	p, _, _ := strings.Cut(a.namespace, ":")
	return p
}

// format is how versions of the package compare.
func (a affected) format() version.Format {
	switch a.namespace {
	case "github:go":
		return version.GolangFormat
	case "github:npm", "github:rust":
		return version.SemanticFormat
	case "github:gem":
		return version.GemFormat
	case "github:maven":
		return version.MavenFormat
	case "github:python":
		return version.PythonFormat
	}
	if a.provider() == "debian" {
		return version.DebFormat
	}
	return version.ApkFormat
}

// interval is a constraint as Grype reads it, and the version that ends it.
type interval struct{ constraint, fixed string }

func (o *osvAffected) onlyGit() bool {
	if o.Package.Name != "" || o.Package.Ecosystem != "" || len(o.Ranges) == 0 {
		return false
	}
	for _, r := range o.Ranges {
		if r.Type != "GIT" {
			return false
		}
	}
	return true
}

// namespaceOf reads an ecosystem of OSV.
func namespaceOf(ecosystem string) (string, error) {
	base, release, _ := strings.Cut(ecosystem, ":")
	switch base {
	case "Go":
		return "github:go", nil
	case "npm":
		return "github:npm", nil
	case "PyPI":
		return "github:python", nil
	case "RubyGems":
		return "github:gem", nil
	case "Maven":
		return "github:maven", nil
	case "crates.io":
		return "github:rust", nil
	case "Debian":
		if !regexp.MustCompile(`^\d{1,3}$`).MatchString(release) {
			return "", fmt.Errorf("the ecosystem %q names no release: write such as Debian:12", ecosystem)
		}
		return "debian:" + release, nil
	case "Alpine":
		v := strings.TrimPrefix(release, "v")
		if v != "edge" && !regexp.MustCompile(`^\d{1,3}\.\d{1,3}$`).MatchString(v) {
			return "", fmt.Errorf("the ecosystem %q names no release: write such as Alpine:v3.20", ecosystem)
		}
		return "alpine:" + v, nil
	case "":
		return "", errors.New("package.ecosystem is missing")
	}
	return "", fmt.Errorf("the ecosystem %q is none of Go, npm, PyPI, RubyGems, Maven, crates.io, Debian:N and Alpine:vX.Y", ecosystem)
}

func (o *osvAffected) resolve() (affected, error) {
	ns, err := namespaceOf(o.Package.Ecosystem)
	if err != nil {
		return affected{}, err
	}
	a := affected{namespace: ns, name: o.Package.Name}
	if !validID(a.name) {
		return a, fmt.Errorf("package.name is none: %q", a.name)
	}
	if a.available, err = moment("database_specific.fix_available", o.DatabaseSpecific.FixAvailable); err != nil {
		return a, err
	}
	for i, r := range o.Ranges {
		switch r.Type {
		case "GIT":
			continue
		case "SEMVER", "ECOSYSTEM":
		default:
			return a, fmt.Errorf("ranges[%d]: the type %q is none of SEMVER, ECOSYSTEM and GIT", i, r.Type)
		}
		in, err := a.read(r.Events)
		if err != nil {
			return a, fmt.Errorf("ranges[%d]: %w", i, err)
		}
		a.intervals = append(a.intervals, in...)
	}
	if err := a.addVersions(o.Versions); err != nil {
		return a, err
	}
	if len(a.intervals) == 0 {
		return a, errors.New("it says of no version that it is affected")
	}
	return a, nil
}

// read makes intervals of the events of a range.
func (a *affected) read(events []osvEvent) ([]interval, error) {
	var out []interval
	events = a.inOrder(events)
	open, from := false, ""
	for _, e := range events {
		set := 0
		for _, v := range []string{e.Introduced, e.Fixed, e.LastAffected, e.Limit} {
			if v != "" {
				set++
			}
		}
		if set != 1 {
			return nil, errors.New("an event is one of introduced, fixed, last_affected and limit")
		}
		if e.Limit != "" {
			continue // limits speak of branches of commits
		}
		v := e.Introduced + e.Fixed + e.LastAffected
		if v != "0" {
			if err := a.checkVersion(v); err != nil {
				return nil, err
			}
		}
		switch {
		case e.Introduced != "" && open:
			return nil, fmt.Errorf("introduced %s comes before the end of what was introduced in %s", v, from)
		case e.Introduced != "":
			open, from = true, v
		case !open:
			return nil, fmt.Errorf("%s comes without introduced", v)
		case e.Fixed != "":
			out = append(out, interval{join(from, "<", v), v})
			open = false
		default:
			out = append(out, interval{join(from, "<=", v), ""})
			open = false
		}
	}
	if open {
		out = append(out, interval{join(from, "", ""), ""})
	}
	if len(out) == 0 {
		return nil, errors.New("it has no events")
	}
	return out, nil
}

// inOrder sorts events by their versions, as OSV reads them in whatever order
// they stand. Where versions do not compare, the order stays as it is.
func (a *affected) inOrder(events []osvEvent) []osvEvent {
	at := func(e osvEvent) string { return e.Introduced + e.Fixed + e.LastAffected }
	comparable := true
	sorted := slices.Clone(events)
	slices.SortStableFunc(sorted, func(x, y osvEvent) int {
		v, w := at(x), at(y)
		switch {
		case v == w:
			return 0
		case v == "0" && x.Introduced != "":
			return -1
		case w == "0" && y.Introduced != "":
			return 1
		}
		order, err := version.New(v, a.format()).Compare(version.New(w, a.format()))
		if err != nil {
			comparable = false
		}
		return order
	})
	if !comparable {
		return events
	}
	return sorted
}

// join words a constraint. From the beginning to no end it is empty: any version.
func join(from, op, to string) string {
	var parts []string
	if from != "0" {
		parts = append(parts, ">= "+from)
	}
	if to != "" {
		parts = append(parts, op+" "+to)
	}
	return strings.Join(parts, ", ")
}

// checkVersion refuses what would change the meaning of a constraint.
func (a *affected) checkVersion(v string) error {
	if !validID(v) || strings.ContainsAny(v, "<>=,|!()\"'") {
		return fmt.Errorf("%q is no version", v)
	}
	if err := version.New(v, a.format()).Validate(); err != nil {
		return fmt.Errorf("%q is no version: %w", v, err)
	}
	return nil
}

// addVersions adds the versions that are listed and in no range.
func (a *affected) addVersions(versions []string) error {
	ranges := a.intervals
	for _, v := range versions {
		if err := a.checkVersion(v); err != nil {
			if len(ranges) > 0 {
				continue // lists hold odd versions of old; the ranges speak for them
			}
			return fmt.Errorf("versions: %w", err)
		}
		if !a.covers(ranges, v) {
			a.intervals = append(a.intervals, interval{"= " + v, ""})
		}
	}
	return nil
}

func (a *affected) covers(ranges []interval, v string) bool {
	for _, r := range ranges {
		if r.constraint == "" {
			return true
		}
		c, err := version.GetConstraint(r.constraint, a.format())
		if err != nil {
			continue
		}
		if ok, err := c.Satisfied(version.New(v, a.format())); err == nil && ok {
			return true
		}
	}
	return false
}
