package documents

import (
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
)

// Group is one vulnerability of an image: all its records, in whatever package
// and under whatever alias.
type Group struct {
	// Names[0] is the canonical id; the rest are its aliases, sorted.
	Names []string
	// Score is the highest CVSS score of the members, nil when none has one.
	Score *float64
	// Members point into the list that was grouped.
	Members []*api.Vulnerability
}

// CanonicalID is the id that a vulnerability counts under: its own when that is
// a CVE, else its only CVE alias, else its own.
func CanonicalID(v api.Vulnerability) string {
	id := api.NormalizeID(v.ID)
	if strings.HasPrefix(id, "CVE-") {
		return id
	}
	var found string
	for _, a := range v.Aliases {
		if a = api.NormalizeID(a); !strings.HasPrefix(a, "CVE-") || a == found {
			continue
		}
		if found != "" {
			return id
		}
		found = a
	}
	return cmp.Or(found, id)
}

// Groups collects the vulnerabilities of an image by canonical id, the highest
// score first, those without score last, ties by id.
func Groups(vulnerabilities []api.Vulnerability) []Group {
	at := make(map[string]int, len(vulnerabilities))
	groups := make([]Group, 0, len(vulnerabilities))
	for i := range vulnerabilities {
		v := &vulnerabilities[i]
		id := CanonicalID(*v)
		n, ok := at[id]
		if !ok {
			n = len(groups)
			at[id] = n
			groups = append(groups, Group{Names: []string{id}})
		}
		g := &groups[n]
		g.Members = append(g.Members, v)
		if v.CVSS != nil && (g.Score == nil || *v.CVSS > *g.Score) {
			g.Score = v.CVSS
		}
		g.name(v.ID)
		for _, alias := range v.Aliases {
			g.name(alias)
		}
	}
	for i := range groups {
		slices.Sort(groups[i].Names[1:])
	}
	slices.SortFunc(groups, func(a, b Group) int {
		return cmp.Or(-compareScores(a.Score, b.Score), cmp.Compare(a.Names[0], b.Names[0]))
	})
	return groups
}

func (g *Group) name(id string) {
	if id = api.NormalizeID(id); !slices.Contains(g.Names, id) {
		g.Names = append(g.Names, id)
	}
}

func compareScores(a, b *float64) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return -1
	case b == nil:
		return 1
	}
	return cmp.Compare(*a, *b)
}

// imageDocument holds the scored CVEs in parallel arrays. Aliases are kept with
// the image that claims them: one hostile scan must not widen the exceptions of
// another image.
func imageDocument(scan api.Scan, groups []Group) map[string]any {
	ids, scores, aliases, packages := []any{}, []any{}, map[string]any{}, map[string]any{}
	for _, g := range groups {
		if len(g.Names) > 1 {
			aliases[g.Names[0]] = toAny(g.Names[1:])
		}
		if g.Score != nil {
			ids = append(ids, g.Names[0])
			scores = append(scores, number(*g.Score))
			if len(ids) <= namedCVEs && g.Members[0].Package != "" {
				packages[g.Names[0]] = packagesText(g.Members)
			}
		}
	}
	doc := map[string]any{"at": Time(scan.ScannedAt), "db": "", "ids": ids, "s": scores}
	if scan.Database != nil && !scan.Database.Built.IsZero() {
		doc["db"] = Time(scan.Database.Built)
	}
	if len(aliases) > 0 {
		doc["a"] = aliases
	}
	if len(packages) > 0 {
		doc["p"] = packages
	}
	if found := scan.FoundAt(); !found.Equal(scan.ScannedAt) {
		doc["found"] = Time(found)
	}
	if len(scan.Unplaced) > 0 {
		unplaced := make([]any, len(scan.Unplaced))
		for i, u := range scan.Unplaced {
			unplaced[i] = []any{u.Distro, json.Number(strconv.Itoa(u.Packages))}
		}
		doc["unplaced"] = unplaced
	}
	if scan.Way != "" {
		doc["way"] = string(scan.Way)
	}
	return doc
}

// namedCVEs is of how many CVEs of an image, the highest first, an evaluator knows packages and
// fixes: each text takes it some hundred bytes for each image.
const namedCVEs = 5

// maxPackages bounds the text of the packages of a CVE, in runes.
const maxPackages = 100

// packagesText says what has a vulnerability and what fixes it: "zlib 1, no fix", "a 1, fixed in 2,
// and 2 more".
func packagesText(members []*api.Vulnerability) string {
	more := map[[2]string]bool{}
	for _, m := range members {
		more[[2]string{m.Package, m.Version}] = true
	}
	text := strings.TrimSpace(members[0].Package + " " + members[0].Version)
	if fixed := members[0].Fix.Versions; len(fixed) > 0 {
		text += ", fixed in " + strings.Join(fixed, " or ")
	} else {
		text += ", no fix"
	}
	if n := len(more) - 1; n > 0 {
		text += ", and " + strconv.Itoa(n) + " more"
	}
	return oneLine(text, maxPackages)
}

// number writes a float with as few digits as tell it apart.
func number(f float64) json.Number {
	return json.Number(strconv.FormatFloat(f, 'f', -1, 64))
}

// detailsDocument holds the members of the groups that something looks into.
func detailsDocument(groups []Group, needs Needs) map[string]any {
	doc := map[string]any{}
	for _, g := range groups {
		if !needs.All && !slices.ContainsFunc(g.Names, func(n string) bool { return needs.IDs[n] }) {
			continue
		}
		members := make([]any, len(g.Members))
		for i, v := range g.Members {
			members[i] = member(*v)
		}
		doc[g.Names[0]] = members
	}
	return doc
}

func member(v api.Vulnerability) map[string]any {
	m := map[string]any{
		"severity": v.Severity,
		"fixed":    v.Fix.State == "fixed",
		"kev":      v.KEV,
		"package":  "",
		"version":  "",
	}
	if name, version, err := ParsePURL(v.PURL); err == nil {
		m["package"], m["version"] = name, version
	}
	if v.CVSS != nil {
		m["score"] = number(*v.CVSS)
	}
	if v.EPSS != nil {
		m["epss"] = number(*v.EPSS)
	}
	if t, ok := moment(v.Published); ok {
		m["published"] = Time(t)
	}
	if t, ok := moment(v.Fix.Available); ok {
		m["available"] = Time(t)
	}
	return m
}

// moment parses RFC 3339 or a bare UTC day.
func moment(s string) (time.Time, bool) {
	if s == "" {
		return time.Time{}, false
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}
