package reference

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
)

var instanceFields = []string{"cluster", "namespace", "pod", "container", "node"}

// otherNames are those that Calico has for fields.
var otherNames = map[string]string{"image_tag": "tag", "cluster_name": "cluster", "node_name": "node"}

// valuesOf gives the values of a field as text: none where it is absent, all
// members of a list. The instance may be nil.
func valuesOf(e api.Event, i *api.Instance, field string) []string {
	optional := func(s string) []string {
		if s == "" {
			return nil
		}
		return []string{s}
	}
	number := func(f *float64) []string {
		if f == nil {
			return nil
		}
		return []string{formatFloat(*f)}
	}
	if name, other := otherNames[field]; other {
		field = name
	}
	switch field {
	case "time":
		return []string{e.Time}
	case "type":
		return optional(string(e.Type))
	case "registry":
		return []string{e.Registry}
	case "repository":
		return []string{e.Repository}
	case "image":
		return []string{e.Image}
	case "result":
		return []string{string(e.Result)}
	case "tag":
		return optional(e.Tag)
	case "digest":
		return optional(e.Digest)
	case "previous_result":
		return optional(string(e.PreviousResult))
	case "source":
		return optional(e.Source)
	case "error":
		return optional(e.Error)
	case "changed":
		return []string{strconv.FormatBool(e.Changed)}
	case "fixable":
		return []string{strconv.FormatBool(e.Fixable)}
	case "kev":
		return []string{strconv.FormatBool(e.KEV)}
	case "max_cvss_score":
		return number(e.MaxCVSSScore)
	case "epss":
		return number(e.EPSS)
	case "cve":
		return e.CVE
	case "package":
		return e.Package
	}
	if i == nil {
		return nil
	}
	switch field {
	case "cluster":
		return optional(i.Cluster)
	case "namespace":
		return optional(i.Namespace)
	case "pod":
		return optional(i.Pod)
	case "container":
		return optional(i.Container)
	case "node":
		return optional(i.Node)
	}
	panic("field " + field)
}

func formatFloat(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// A query is a term or a combination of queries: op is true, AND, OR, NOT, a
// comparison, IN or NOTIN.
type query struct {
	op     string
	field  string
	values []string
	kids   []query
}

func (q query) holds(e api.Event, i *api.Instance) bool {
	switch q.op {
	case "true":
		return true
	case "AND":
		return q.kids[0].holds(e, i) && q.kids[1].holds(e, i)
	case "OR":
		return q.kids[0].holds(e, i) || q.kids[1].holds(e, i)
	case "NOT":
		return !q.kids[0].holds(e, i)
	case "!=":
		return !query{op: "=", field: q.field, values: q.values}.holds(e, i)
	case "NOTIN":
		return !query{op: "IN", field: q.field, values: q.values}.holds(e, i)
	}
	for _, have := range valuesOf(e, i, q.field) {
		for _, want := range q.values {
			if compareField(q.op, q.field, have, want) {
				return true
			}
		}
	}
	return false
}

func compareField(op, field, have, want string) bool {
	order := strings.Compare(have, want)
	switch field {
	case "max_cvss_score", "epss":
		x, err1 := strconv.ParseFloat(have, 64)
		y, err2 := strconv.ParseFloat(want, 64)
		if err1 != nil || err2 != nil {
			panic("number " + want)
		}
		order = 0
		if x < y {
			order = -1
		} else if x > y {
			order = 1
		}
	case "time":
		x, err1 := time.Parse(time.RFC3339, have)
		y, err2 := time.Parse(time.RFC3339, want)
		if err1 != nil || err2 != nil {
			panic("time " + want)
		}
		order = x.Compare(y)
	case "fixable", "kev", "changed":
	default:
		if op == "IN" {
			return wildcard(want).MatchString(have)
		}
	}
	switch op {
	case "=", "IN":
		return order == 0
	case "<":
		return order < 0
	case "<=":
		return order <= 0
	case ">":
		return order > 0
	case ">=":
		return order >= 0
	}
	panic("operator " + op)
}

// wildcard turns * and ? into a regular expression for the whole value.
func wildcard(pattern string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	for _, r := range pattern {
		switch r {
		case '*':
			b.WriteString(".*")
		case '?':
			b.WriteString(".")
		default:
			b.WriteString(regexp.QuoteMeta(string(r)))
		}
	}
	b.WriteString(`\z`)
	return regexp.MustCompile(b.String())
}

// aboutInstances says whether a term about the running instances stands in the query.
func (q query) aboutInstances() bool {
	return slices.Contains(instanceFields, cmp.Or(otherNames[q.field], q.field)) || slices.ContainsFunc(q.kids, query.aboutInstances)
}

var queryToken = regexp.MustCompile(`^(?:"[^"]*"|'[^']*'|\$\{[^}]*\}|<=|>=|!=|[(){},=<>]|[^\s(){},=<>!"']+)`)

// parseQuery parses a query; an empty one holds for every event.
func parseQuery(s string, subs []api.Substitution) (query, error) {
	p := &queryParser{subs: subs}
	for rest := strings.TrimSpace(s); rest != ""; rest = strings.TrimSpace(rest) {
		t := queryToken.FindString(rest)
		if t == "" {
			return query{}, fmt.Errorf("query %q: unexpected %q", s, rest)
		}
		p.tokens = append(p.tokens, t)
		rest = rest[len(t):]
	}
	if len(p.tokens) == 0 {
		return query{op: "true"}, nil
	}
	q, err := p.or()
	if err == nil && len(p.tokens) > 0 {
		err = fmt.Errorf("query %q: unexpected %q", s, p.tokens)
	}
	return q, err
}

type queryParser struct {
	tokens []string
	subs   []api.Substitution
}

func (p *queryParser) peek() string {
	if len(p.tokens) == 0 {
		return ""
	}
	return p.tokens[0]
}

func (p *queryParser) next() string {
	t := p.peek()
	if t != "" {
		p.tokens = p.tokens[1:]
	}
	return t
}

// eat takes a token or keyword, in either case, if it is next.
func (p *queryParser) eat(word string) bool {
	if !strings.EqualFold(p.peek(), word) {
		return false
	}
	p.next()
	return true
}

func (p *queryParser) or() (query, error) { return p.binary("OR", p.and) }

func (p *queryParser) and() (query, error) { return p.binary("AND", p.not) }

func (p *queryParser) binary(op string, operand func() (query, error)) (query, error) {
	left, err := operand()
	for err == nil && p.eat(op) {
		var right query
		right, err = operand()
		left = query{op: op, kids: []query{left, right}}
	}
	return left, err
}

func (p *queryParser) not() (query, error) {
	if p.eat("NOT") {
		q, err := p.not()
		return query{op: "NOT", kids: []query{q}}, err
	}
	if p.eat("(") {
		q, err := p.or()
		if err == nil && !p.eat(")") {
			err = fmt.Errorf("query: ) expected before %q", p.tokens)
		}
		return q, err
	}
	return p.term()
}

func (p *queryParser) term() (query, error) {
	q := query{field: unquote(p.next())}
	q.op = strings.ToUpper(p.next())
	switch q.op {
	case "=", "!=", "<", "<=", ">", ">=":
		values, err := p.value()
		if err == nil && len(values) != 1 {
			err = fmt.Errorf("query: %s takes one value", q.op)
		}
		q.values = values
		return q, err
	case "IN", "NOTIN":
		if strings.HasPrefix(p.peek(), "${") {
			values, err := p.value()
			q.values = values
			return q, err
		}
		if !p.eat("{") {
			return q, fmt.Errorf("query: { expected before %q", p.tokens)
		}
		for !p.eat("}") {
			values, err := p.value()
			if err != nil {
				return q, err
			}
			q.values = append(q.values, values...)
			if !p.eat(",") && p.peek() != "}" {
				return q, fmt.Errorf("query: } expected before %q", p.tokens)
			}
		}
		return q, nil
	}
	return q, fmt.Errorf("query: %q is no operator", q.op)
}

// value is one value, or those of a substitution.
func (p *queryParser) value() ([]string, error) {
	t := p.next()
	if t == "" || strings.ContainsAny(t[:1], "(){},=<>!") {
		return nil, fmt.Errorf("query: a value expected, not %q", t)
	}
	if name, ok := strings.CutPrefix(t, "${"); ok {
		for _, s := range p.subs {
			if s.Name == strings.TrimSuffix(name, "}") {
				return s.Values, nil
			}
		}
		return nil, fmt.Errorf("query: no substitution %s", t)
	}
	return []string{unquote(t)}, nil
}

func unquote(t string) string {
	if len(t) >= 2 && (t[0] == '"' || t[0] == '\'') {
		return t[1 : len(t)-1]
	}
	return t
}
