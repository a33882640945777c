// Package mutation changes Rego one condition, operator, constant or rule at a
// time. Its tests hold that each such change to the library and to what package
// policies generates is noticed, or is listed with the reason why it cannot be.
package mutation

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Mutant is one change to a module's text.
type Mutant struct {
	// ID names the change by module, rule and text, not by line: it stays when
	// other lines change. It is unique within a module.
	ID string
	// Kind is the ID with the constants left out, for modules that are generated.
	Kind string
	Line int

	edits []edit
}

// edit replaces the bytes [from, to) of a text.
type edit struct {
	from, to int
	by       string
}

// Apply gives the text with the change made.
func (m Mutant) Apply(text string) string { return apply(text, m.edits) }

// ApplyAll gives the text with all of the changes made that do not touch each
// other; of those that do, the first.
func ApplyAll(text string, mutants []Mutant) string {
	var edits []edit
	for _, m := range mutants {
		edits = append(edits, m.edits...)
	}
	return apply(text, edits)
}

func apply(text string, edits []edit) string {
	var b strings.Builder
	end := 0
	for _, e := range slices.SortedStableFunc(slices.Values(edits), func(a, b edit) int { return cmp.Compare(a.from, b.from) }) {
		if e.from < end {
			continue
		}
		b.WriteString(text[end:e.from])
		b.WriteString(e.by)
		end = e.to
	}
	return b.String() + text[end:]
}

// Mutants lists the changes to a module, in a fixed order: each condition
// dropped (true in its place) and negated, or with its "not" or "with" taken
// away; each comparison and sum with its neighbours; each rule body and else
// branch dropped (false before it); each constant changed; each member of an
// array, set or object left out; each every made a some.
func Mutants(file, text string) ([]Mutant, error) {
	module, err := ast.ParseModuleWithOpts(file, text, ast.ParserOptions{RegoVersion: ast.RegoV1})
	if err != nil {
		return nil, fmt.Errorf("mutating %s: %w", file, err)
	}
	w := &walker{file: file, text: text, seen: map[string]int{}}
	for _, r := range module.Rules {
		w.rule = r.Head.Ref().String()
		w.ofRule(r)
	}
	return w.found, nil
}

type walker struct {
	file, text, rule string
	path             []string // of object keys above a constant
	seen             map[string]int
	found            []Mutant
}

var spaces = regexp.MustCompile(`\s+`)

func oneLine(s string) string {
	return strings.TrimSpace(spaces.ReplaceAllString(s, " "))
}

// inKinds are the parts of generated text that differ between mutants of a kind.
var inKinds = []struct {
	pattern *regexp.Regexp
	by      string
}{
	{regexp.MustCompile("\"(?:[^\"\\\\]|\\\\.)*\"|`[^`]*`"), "#"},
	{regexp.MustCompile(`\b(selector|query|value)_\d+`), "$1"},
	{regexp.MustCompile(`\b\d+(?:\.\d+)?\b`), "#"},
	{regexp.MustCompile(`\b(input\.)?(labels|namespaceLabels)(\.\w+|\[#\])`), "labels[#]"},
	{regexp.MustCompile(`\b(e|n)(\.[a-z_]+|\[#\])`), "$1[#]"},
	{regexp.MustCompile(`e\[#\] (>|<=) (data\.assay\.alerts|input\.now)`), "e.at $1 $2"},
	{regexp.MustCompile(`([\[{])(?:#|\{#: #\})(?:, (?:#|\{#: #\}))*`), "$1#"},
	{regexp.MustCompile(`#: value(?:, #: value)+`), "#: value"},
	{regexp.MustCompile(`\b(hits|keys|since)(\.[\w.-]+|\[#\])`), "$1[#]"},
	{regexp.MustCompile(`^(notes|selector): `), "hits: "},
	{regexp.MustCompile(`^query: `), "hits[#][i]: "},
}

var word = regexp.MustCompile(`^[a-z_]+$`)

// kindOf leaves the constants and the names of a text out.
func kindOf(s string) string {
	for _, part := range inKinds {
		s = part.pattern.ReplaceAllString(s, part.by)
	}
	return s
}

func (w *walker) add(line int, what, before, after string, edits ...edit) {
	path, kind := w.rule, w.rule
	if len(w.path) > 0 {
		path += "." + strings.Join(w.path, ".")
		if last := w.path[len(w.path)-1]; word.MatchString(last) && (len(w.path) > 1 || w.rule == "options") {
			kind += "." + last
		}
	}
	change := what + ": " + oneLine(before)
	if after != "" {
		change += " → " + oneLine(after)
	}
	general := change
	if what == "rule dropped" {
		general, _, _ = strings.Cut(change, " := ") // the rest is a table, each its own
	}
	id := w.file + ": " + path + ": " + change
	if w.seen[id]++; w.seen[id] > 1 {
		id += " #" + strconv.Itoa(w.seen[id])
	}
	w.found = append(w.found, Mutant{ID: id, Kind: w.file + ": " + kindOf(kindOf(kind)+": "+general), Line: line, edits: edits})
}

func at(l *ast.Location) (from, to int) { return l.Offset, l.Offset + len(l.Text) }

func source(l *ast.Location) string { return string(l.Text) }

// ofRule walks a rule and its else branches.
func (w *walker) ofRule(r *ast.Rule) {
	from, line := r.Location.Offset, r.Location.Row
	bodied := w.hasBody(r)
	end := w.lineEnd(r)
	head := strings.SplitN(w.text[from:end], "\n", 2)[0]
	switch {
	case r.Default:
		w.add(line, "rule dropped", head, "", edit{from, end, ""})
	case !bodied:
		w.add(line, "rule dropped", head, "", edit{end, end, " if false"})
	case source(r.Body[0].Location) == "false":
		w.add(line, "rule dropped", head, "", edit{from, end, ""})
	case strings.HasSuffix(w.text[:r.Body[0].Location.Offset], "if "):
		from, to := at(r.Body[0].Location)
		w.add(line, "rule dropped", head, "", edit{from, to, "false"})
	default:
		from := r.Body[0].Location.Offset
		w.add(line, "rule dropped", head, "", edit{from, from, "false; "})
	}
	for _, t := range []*ast.Term{r.Head.Key, r.Head.Value} {
		if t != nil {
			w.term(t)
		}
	}
	for _, t := range r.Head.Args {
		w.term(t)
	}
	for _, t := range r.Head.Ref() {
		w.term(t)
	}
	if bodied {
		w.body(r.Body)
	}
	if r.Else != nil {
		w.ofRule(r.Else)
	}
}

// lineEnd is the end of the line on which a rule's head ends: its location may
// cover the first word only.
func (w *walker) lineEnd(r *ast.Rule) int {
	_, end := at(r.Location)
	if r.Body == nil || !w.hasBody(r) {
		for _, t := range append(slices.Clone(r.Head.Args), r.Head.Value) {
			if t != nil && t.Location != nil {
				_, to := at(t.Location)
				end = max(end, to)
			}
		}
	} else {
		end = r.Body[0].Location.Offset
	}
	return end + strings.IndexByte(w.text[end:]+"\n", '\n')
}

var comments = regexp.MustCompile(`(?m)^\s*#.*$`)

// hasBody tells a body as written from the one that the parser makes.
func (w *walker) hasBody(r *ast.Rule) bool {
	if len(r.Body) == 0 || r.Body[0].Location == nil {
		return false
	}
	w.locate(r)
	from, to := r.Location.Offset, r.Body[0].Location.Offset
	if to <= from {
		return false
	}
	before := strings.TrimRight(comments.ReplaceAllString(w.text[from:to], ""), " \t\n{")
	return strings.HasSuffix(before, "if")
}

// locate mends the place of "else := x if y", which the parser gives y too.
func (w *walker) locate(r *ast.Rule) {
	e := r.Body[0]
	if e.Location.Offset != r.Location.Offset || r.Head.Value == nil {
		return
	}
	_, from := at(r.Head.Value.Location)
	_, to := at(e.Location)
	if rest, ok := strings.CutPrefix(w.text[from:max(from, to)], " if "); ok {
		place := *e.Location
		place.Offset, place.Text = to-len(rest), []byte(rest)
		e.Location = &place
	}
}

func (w *walker) body(b ast.Body) {
	for _, e := range b {
		w.expr(e)
	}
}

var neighbours = map[string][]string{
	"==": {"!="}, "!=": {"=="}, "<": {"<=", ">="}, "<=": {"<", ">"}, ">": {">=", "<"}, ">=": {">", "<="},
	"+": {"-"}, "-": {"+"}, "*": {"/"}, "/": {"*"},
}

var infix = map[string]string{
	ast.Equal.Name: "==", ast.NotEqual.Name: "!=", ast.LessThan.Name: "<", ast.LessThanEq.Name: "<=", ast.GreaterThan.Name: ">",
	ast.GreaterThanEq.Name: ">=", ast.Plus.Name: "+", ast.Minus.Name: "-", ast.Multiply.Name: "*", ast.Divide.Name: "/",
}

func (w *walker) expr(e *ast.Expr) {
	from, to := at(e.Location)
	text, line := source(e.Location), e.Location.Row
	_, declares := e.Terms.(*ast.SomeDecl)
	every, isEvery := e.Terms.(*ast.Every)
	switch {
	case declares || text == "true":
	case e.IsAssignment():
	case isEvery:
		w.add(line, "dropped", text, "", edit{from, to, "true"})
		_, head := at(every.Domain.Location)
		open := head + strings.IndexByte(w.text[head:to], '{')
		w.add(line, "every → some", w.text[from:head], "", edit{from, from + len("every"), "some"}, edit{open, open + 1, "\n"}, edit{to - 1, to, ""})
	case e.Negated:
		w.add(line, "dropped", text, "", edit{from, to, "true"})
		w.add(line, "not removed", text, "", edit{from, from + len("not"), ""})
	default:
		w.add(line, "dropped", text, "", edit{from, to, "true"})
		w.add(line, "negated", text, "", edit{from, from, "not "})
	}
	if len(e.With) > 0 {
		with := e.With[0].Location.Offset
		w.add(line, "with removed", text, "", edit{with, to, ""})
	}
	switch terms := e.Terms.(type) {
	case *ast.Term:
		w.term(terms)
	case []*ast.Term:
		w.call(terms)
	case *ast.SomeDecl:
		for _, t := range terms.Symbols {
			w.term(t)
		}
	case *ast.Every:
		w.term(terms.Domain)
		w.body(terms.Body)
	}
	for _, with := range e.With {
		w.term(with.Value)
	}
}

func (w *walker) call(terms []*ast.Term) {
	operator := infix[terms[0].Value.String()]
	if operator != "" && len(terms) == 3 && terms[1].Location.Offset < terms[2].Location.Offset {
		_, left := at(terms[1].Location)
		right, end := at(terms[2].Location)
		if gap := strings.Index(w.text[left:right], operator); gap >= 0 {
			from := left + gap
			before := w.text[terms[1].Location.Offset:end]
			for _, other := range neighbours[operator] {
				e := edit{from, from + len(operator), other}
				w.add(terms[1].Location.Row, "operator", before, operator+" "+other, e)
			}
		}
	}
	for _, t := range terms[1:] {
		w.term(t)
	}
}

func (w *walker) term(t *ast.Term) {
	if t.Location == nil {
		return
	}
	from, to := at(t.Location)
	text, line := source(t.Location), t.Location.Row
	switch v := t.Value.(type) {
	case ast.String:
		if by, ok := otherText(text); ok {
			w.add(line, "constant", text, by, edit{from, to, by})
		}
	case ast.Number:
		if by, ok := otherNumber(text); ok {
			w.add(line, "constant", text, by, edit{from, to, by})
		}
	case ast.Boolean:
		if by := strconv.FormatBool(!bool(v)); text == "true" || text == "false" {
			w.add(line, "constant", text, by, edit{from, to, by})
		}
	case *ast.Array:
		var members []*ast.Term
		v.Foreach(func(m *ast.Term) { members = append(members, m) })
		w.members(t, members, members)
	case ast.Set:
		w.members(t, v.Slice(), v.Slice())
	case ast.Object:
		var keys, values []*ast.Term
		v.Foreach(func(k, v *ast.Term) { keys, values = append(keys, k), append(values, v) })
		w.members(t, keys, values)
	case ast.Call:
		w.call(v)
	case ast.Ref:
		w.term(v[0])
		for _, part := range v[1:] {
			w.term(part)
		}
	case *ast.ArrayComprehension:
		w.term(v.Term)
		w.body(v.Body)
	case *ast.SetComprehension:
		w.term(v.Term)
		w.body(v.Body)
	case *ast.ObjectComprehension:
		w.term(v.Key)
		w.term(v.Value)
		w.body(v.Body)
	}
}

// otherText is another text than the literal one; ok is false for what is no
// literal, such as the parts of input.kind.
func otherText(literal string) (other string, ok bool) {
	if len(literal) < 2 || literal[0] != '"' && literal[0] != '`' {
		return "", false
	}
	return `"~"`, literal != `"~"`
}

// otherNumber is one more than a number of one digit, and ten times and more of
// others: near enough to show an edge, far enough not to be rounded away.
func otherNumber(literal string) (other string, ok bool) {
	if literal == "" || strings.Trim(literal, "0123456789.") != "" {
		return "", false
	}
	if n, err := strconv.Atoi(literal); err == nil && n < 10 {
		return strconv.Itoa(n + 1), true
	}
	return "1" + literal, true
}

// members leaves out each member of a collection: from its key to the end of its value.
func (w *walker) members(t *ast.Term, keys, values []*ast.Term) {
	type span struct {
		from, to, line int
		key, value     *ast.Term
	}
	var spans []span
	for i, k := range keys {
		if k.Location == nil || values[i].Location == nil {
			return
		}
		from, _ := at(k.Location)
		_, to := at(values[i].Location)
		spans = append(spans, span{from, to, k.Location.Row, k, values[i]})
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	for i, s := range spans {
		e := edit{s.from, s.to, ""}
		if i == 0 {
			e.from = t.Location.Offset + 1
		}
		switch {
		case i+1 < len(spans):
			e.to = spans[i+1].from
		case i > 0:
			e.from = spans[i-1].to
		}
		if _, isSet := t.Value.(ast.Set); isSet && len(spans) == 1 {
			from, to := at(t.Location)
			e = edit{from, to, "set()"}
		}
		w.add(s.line, "member left out", w.text[s.from:s.to], "", e)
	}
	for _, s := range spans {
		if s.key != s.value {
			w.term(s.key)
			if name, ok := s.key.Value.(ast.String); ok {
				w.path = append(w.path, string(name))
				w.term(s.value)
				w.path = w.path[:len(w.path)-1]
				continue
			}
		}
		w.term(s.value)
	}
}
