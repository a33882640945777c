package exceptions

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/openvex/go-vex/pkg/vex"
)

// Bounds of an OpenVEX document: of what its statements say about one id of a
// vulnerability and one package, of the comparisons that taking statements back
// needs, and of the faults that are reported.
const (
	maxStatements  = 100_000
	maxComparisons = 20_000_000
	maxFaults      = 1000
)

// ReadVEX reads an OpenVEX document (https://github.com/openvex/spec, 0.2.0).
// Statements not_affected and fixed become exceptions for the packages that they
// name, one for each id of the vulnerability, since its aliases may be known to
// the document alone. The statement's time is when the exception was created.
//
// A product that is an image (a package URL of type oci or docker, or a
// reference) gives the scope image or, without tag and digest, repo, and its
// subcomponents the packages; any other package URL is itself the package, in any
// image. What cannot be placed is an error, such as pkg:oci without
// repository_url, and then nothing is returned.
//
// By OpenVEX a later statement replaces an earlier one about the same. So an
// affected or under_investigation takes back every earlier exception that it may
// be about: a statement about an image is also about each of its packages, and one
// about a package also about that package in each image. An exception that is
// wider than what is taken back falls as a whole: nothing stays covered against a
// later statement.
func ReadVEX(r io.Reader) ([]api.VulnerabilityException, error) {
	text, err := io.ReadAll(io.LimitReader(r, MaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading: %w", err)
	}
	if len(text) > MaxBytes {
		return nil, fmt.Errorf("the document has more than %d bytes", MaxBytes)
	}
	doc, err := parseVEX(text)
	if err != nil {
		return nil, fmt.Errorf("not OpenVEX 0.2.0: %w", err)
	}
	c := &vexCollector{doc: doc, parent: map[string]string{}, groups: map[string]map[vexKey]api.VulnerabilityExceptionSpec{}}
	for _, s := range doc.Statements {
		c.unite(vulnerabilityIDs(s.Vulnerability))
	}
	for _, i := range c.inOrder() {
		c.statement(i)
	}
	if c.tooMany() && len(c.faults) == 0 {
		return nil, fmt.Errorf("the document has more than %d statements about products", maxStatements)
	}
	if len(c.faults) > 0 {
		return nil, errors.Join(c.faults...)
	}
	var list []api.VulnerabilityException
	for _, group := range c.groups {
		for _, spec := range group {
			list = append(list, object(spec))
		}
	}
	slices.SortFunc(list, func(a, b api.VulnerabilityException) int { return cmp.Compare(a.Metadata.Name, b.Metadata.Name) })
	return list, nil
}

// parseVEX guards against a parser that panics on hostile text.
func parseVEX(text []byte) (doc *vex.VEX, err error) {
	defer func() {
		if r := recover(); r != nil {
			doc, err = nil, fmt.Errorf("%v", r)
		}
	}()
	doc, err = vex.Parse(text)
	if err == nil && !strings.HasPrefix(doc.Context, vex.Context) {
		err = fmt.Errorf("@context must start with %s, not %.60q", vex.Context, doc.Context)
	}
	return doc, err
}

// vulnerabilityIDs are the name of a vulnerability, or what its IRI ends with,
// and then those of its aliases that can be ids.
func vulnerabilityIDs(v vex.Vulnerability) []string {
	name := string(v.Name)
	if name == "" {
		name = v.ID[strings.LastIndexAny(v.ID, "/=#")+1:]
	}
	ids := []string{api.NormalizeID(name)}
	seen := map[string]bool{ids[0]: true}
	for _, alias := range v.Aliases {
		if id := api.NormalizeID(string(alias)); idPattern.MatchString(id) && !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	return ids
}

// A vexKey is what one exception is about.
type vexKey struct {
	id string
	target
}

type vexCollector struct {
	doc *vex.VEX
	// parent leads from an id to another name of the same vulnerability, and at
	// last to the one that stands for all.
	parent      map[string]string
	groups      map[string]map[vexKey]api.VulnerabilityExceptionSpec
	count       int
	comparisons int
	faults      []error
}

func (c *vexCollector) fault(at, format string, args ...any) {
	c.faults = append(c.faults, fmt.Errorf("%s: %s", at, fmt.Sprintf(format, args...)))
}

// tooMany says that a bound is passed, and the rest is of no use.
func (c *vexCollector) tooMany() bool {
	return c.count > maxStatements || c.comparisons > maxComparisons || len(c.faults) >= maxFaults
}

func (c *vexCollector) representative(id string) string {
	root := id
	for c.parent[root] != "" {
		root = c.parent[root]
	}
	for id != root {
		id, c.parent[id] = c.parent[id], root
	}
	return root
}

func (c *vexCollector) unite(ids []string) {
	for _, id := range ids[1:] {
		if a, b := c.representative(ids[0]), c.representative(id); a != b {
			c.parent[b] = a
		}
	}
}

// at is the time of a statement, which inherits that of the document.
func (c *vexCollector) at(i int) time.Time {
	for _, t := range []*time.Time{c.doc.Statements[i].Timestamp, c.doc.Timestamp} {
		if t != nil && !t.IsZero() {
			return t.UTC()
		}
	}
	return time.Time{}
}

// inOrder are the positions of the statements by time, those of one time as they stand.
func (c *vexCollector) inOrder() []int {
	order := make([]int, len(c.doc.Statements))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return c.at(a).Compare(c.at(b)) })
	return order
}

func (c *vexCollector) statement(i int) {
	s, at := &c.doc.Statements[i], fmt.Sprintf("statements[%d]", i)
	if !s.Status.Valid() {
		c.fault(at, "status must be one of %s, not %.60q", strings.Join(vex.Statuses(), ", "), s.Status)
		return
	}
	ids := vulnerabilityIDs(s.Vulnerability)
	root := c.representative(ids[0])
	covers := s.Status == vex.StatusNotAffected || s.Status == vex.StatusFixed
	if covers {
		switch {
		case s.Justification != "" && !s.Justification.Valid():
			c.fault(at, "justification must be one of %s, not %.60q", strings.Join(vex.Justifications(), ", "), s.Justification)
			return
		case s.Status == vex.StatusNotAffected && s.Justification == "" && s.ImpactStatement == "":
			c.fault(at, "not_affected needs a justification or an impact_statement")
			return
		}
		if !idPattern.MatchString(ids[0]) {
			c.fault(at, "vulnerability: must have a name, such as CVE-2021-44228, not %.60q", ids[0])
			return
		}
		if len(s.Products) == 0 {
			c.fault(at, "names no product")
		}
	}
	for p, product := range s.Products {
		if c.tooMany() {
			return
		}
		targets, faults := targetsOf(product)
		if !covers {
			// What cannot be placed has made no exception either.
			for _, t := range targets {
				if c.tooMany() {
					return
				}
				c.takeBack(root, t)
			}
			continue
		}
		for _, err := range faults[:min(len(faults), maxFaults)] {
			c.fault(fmt.Sprintf("%s.products[%d]", at, p), "%v", err)
		}
		for _, t := range targets {
			for _, id := range ids {
				if c.tooMany() {
					return
				}
				c.put(at, root, vexKey{id, t}, c.spec(i, id, t))
			}
		}
	}
}

func (c *vexCollector) spec(i int, id string, t target) api.VulnerabilityExceptionSpec {
	spec := t.spec()
	spec.CVE, spec.Author, spec.Justification = id, c.doc.Author, justification(&c.doc.Statements[i])
	if at := c.at(i); !at.IsZero() {
		spec.Created = at.Format(time.RFC3339)
	}
	return spec
}

func (c *vexCollector) put(at, root string, key vexKey, spec api.VulnerabilityExceptionSpec) {
	for _, f := range Validate(spec) {
		c.fault(at, "%s: %s", f.Path, f.Message)
	}
	group := c.groups[root]
	if group == nil {
		group = map[vexKey]api.VulnerabilityExceptionSpec{}
		c.groups[root] = group
	}
	c.count++
	group[key] = spec
}

func (c *vexCollector) takeBack(root string, t target) {
	c.comparisons += len(c.groups[root]) + 1
	for key := range c.groups[root] {
		if key.overlaps(t) {
			delete(c.groups[root], key)
		}
	}
}

func justification(s *vex.Statement) string {
	parts := []string{"OpenVEX " + string(s.Status)}
	for _, text := range []string{string(s.Justification), s.ImpactStatement, s.StatusNotes} {
		if text != "" {
			parts = append(parts, text)
		}
	}
	return strings.Join(parts, ": ")
}
