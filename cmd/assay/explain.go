package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/engine"
)

// scansByDigest gives the scan that counts of each digest: the newest without an error.
func scansByDigest(scans []api.Scan) engine.Scans {
	newest := map[string]api.Scan{}
	for _, s := range scans {
		if old, ok := newest[s.Digest]; s.Error == "" && s.Digest != "" && (!ok || !s.ScannedAt.Before(old.ScannedAt)) {
			newest[s.Digest] = s
		}
	}
	return func(digest string) (api.Scan, bool) {
		s, ok := newest[digest]
		return s, ok
	}
}

func (a *app) printExplanation(x api.Explanation) {
	line := func(indent int, format string, args ...any) {
		fmt.Fprintf(a.out, "%s%s\n", strings.Repeat("  ", indent), printable(fmt.Sprintf(format, args...)))
	}
	for _, image := range x.Images {
		line(2, "why %s (container %s):", image.Image, image.Container)
		if len(image.Matched)+len(image.Noted) == 0 {
			line(3, "no rule matches")
		}
		for i, m := range slices.Concat(image.Matched, image.Noted) {
			verb := "matches too"
			switch {
			case m.Mode != api.Enforce:
				verb = "matches, in " + m.Mode + " mode"
			case i == 0:
				verb = "decides"
			}
			line(3, "%s rule %d at %s %s: %s", m.Policy, m.Rule, m.Source, verb, m.Action)
		}
		if u := image.Unknown; u != nil {
			line(3, "the result is Unknown, since %s: %s", u.Why, u.Remedy)
		}
		for _, v := range image.Vulnerabilities {
			line(3, "%s%s%s", v.ID, inBrackets(v.Score), packagesText(v.Packages))
		}
		for _, e := range image.Exceptions {
			line(3, "exception %s for %s at %s: %s", orDash(e.Name), e.CVE, e.Key, exceptionState(e))
		}
		if image.Counterfactual != nil {
			a.printCounterfactual(line, *image.Counterfactual)
		}
	}
}

func (a *app) printCounterfactual(line func(int, string, ...any), c api.Counterfactual) {
	if len(c.Options) == 0 {
		line(2, "to admit it: %s", c.Reason)
		return
	}
	for i, o := range c.Options {
		lead := "to admit it"
		if i > 0 {
			lead = "or"
		}
		then := string(o.Result)
		if o.Reason != "" {
			then += ": " + o.Reason
		}
		line(2, "%s (%d %s, then %s):", lead, len(o.Changes), plural(len(o.Changes), "change", "changes"), then)
		for _, change := range o.Changes {
			line(3, "%s", changeText(change))
		}
	}
}

func changeText(c api.Change) string {
	switch {
	case c.Scan:
		return "scan it again"
	case c.Exception != "":
		return "add an exception for " + c.Exception
	}
	var fixes []string
	for _, id := range slices.Sorted(maps.Keys(c.Upgrade.Fixes)) {
		fixed := strings.Join(c.Upgrade.Fixes[id], " or ")
		if fixed == "" {
			fixed = "a fixed version"
		}
		fixes = append(fixes, fmt.Sprintf("%s in %s", id, fixed))
	}
	return fmt.Sprintf("upgrade %s %s: fixes %s", c.Upgrade.Package, c.Upgrade.Version, strings.Join(fixes, ", "))
}

func inBrackets(score *float64) string {
	if score == nil {
		return ""
	}
	return " (" + scoreText(score) + ")"
}

func packagesText(packages []api.VulnerablePackage) string {
	var texts []string
	for _, p := range packages {
		fix := "no fix"
		if len(p.FixedIn) > 0 {
			fix = "fixed in " + strings.Join(p.FixedIn, " or ")
		}
		texts = append(texts, fmt.Sprintf("%s %s, %s", p.Package, p.Version, fix))
	}
	if len(texts) == 0 {
		return ""
	}
	return ": " + strings.Join(texts, "; ")
}

func exceptionState(e api.ExplainedException) string {
	switch {
	case e.Covers:
		return "covers it"
	case !e.Reaches:
		return "is for another tag or digest"
	case !e.InForce:
		return "ended " + e.Expires
	}
	return "does not cover it: its packages or conditions leave some of it out"
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}
