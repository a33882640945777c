package pushdown

import (
	"fmt"
	"slices"
	"strings"

	"github.com/assay-dev/assay/policies/query"
)

// writer writes SQL and gathers its arguments, in the order of their marks.
type writer struct {
	dialect string
	terms   []query.Node
	args    []any
}

// marks adds arguments and is their marks.
func (w *writer) marks(values []any) string {
	w.args = append(w.args, values...)
	return strings.TrimSuffix(strings.Repeat("?, ", len(values)), ", ")
}

// filter is the condition that some instance of the event, or the event, passes.
func (w *writer) filter(f *filter) string {
	var event, instance []node
	for _, n := range f.conjuncts {
		if f.usesInstance(n) {
			instance = append(instance, n)
		} else {
			event = append(event, n)
		}
	}
	where := w.joined("AND", event)
	if len(instance) > 0 {
		where += " AND EXISTS (SELECT 1 FROM " + w.instances() + " WHERE " + w.joined("AND", instance) + ")"
	}
	return where
}

// joined is TRUE without nodes.
func (w *writer) joined(op string, nodes []node) string {
	if len(nodes) == 0 {
		return "TRUE"
	}
	parts := make([]string, len(nodes))
	for i, n := range nodes {
		parts[i] = w.condition(n)
	}
	return balanced(op, parts)
}

// balanced makes a tree of low depth, which databases bound.
func balanced(op string, parts []string) string {
	if len(parts) == 1 {
		return parts[0]
	}
	half := len(parts) / 2
	return "(" + balanced(op, parts[:half]) + " " + op + " " + balanced(op, parts[half:]) + ")"
}

// condition writes a node. As in Rego, "not" of what is neither true nor false is true.
func (w *writer) condition(n node) string {
	switch n.op {
	case "and", "or":
		return w.joined(strings.ToUpper(n.op), n.kids)
	case "not":
		return "NOT COALESCE(" + w.condition(n.kids[0]) + ", FALSE)"
	case "term":
		return w.term(w.terms[n.term])
	case "in":
		return w.compared(n.field) + " IN (" + w.marks(n.values) + ")"
	}
	operators := map[string]string{"eq": "=", "ne": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
	return w.compared(n.field) + " " + operators[n.op] + " " + w.marks(n.values)
}

// term writes what the compile API has no word for: members of lists, wildcards.
func (w *writer) term(n query.Node) string {
	switch n := n.(type) {
	case query.Compare: // of a list
		return w.some(n.Field, w.ordered("member.value")+" "+n.Op+" "+w.marks([]any{n.Value.Text}))
	case query.In:
		if n.Field.List {
			return w.some(n.Field, w.among(w.ordered("member.value"), n.Values))
		}
		return w.among(w.compared(n.Field), n.Values)
	}
	panic(fmt.Sprintf("pushdown: unexpected term %T", n))
}

// some is the condition that a member of a list satisfies another.
func (w *writer) some(list query.Field, condition string) string {
	return "EXISTS (SELECT 1 FROM " + w.members(list, "member") + " WHERE " + condition + ")"
}

// among is the condition that a text is one of the values, or matches one.
func (w *writer) among(text string, values []query.Value) string {
	var exact []any
	for _, v := range values {
		if !v.Wildcard {
			exact = append(exact, v.Text)
		}
	}
	var tests []string
	if len(exact) > 0 {
		tests = append(tests, text+" IN ("+w.marks(exact)+")")
	}
	for _, v := range values {
		switch {
		case !v.Wildcard:
		case w.dialect == SQLite:
			tests = append(tests, text+" GLOB "+w.marks([]any{strings.ReplaceAll(v.Text, "[", "[[]")}))
		default:
			like := strings.NewReplacer(`\`, `\\`, "%", `\%`, "_", `\_`, "*", "%", "?", "_").Replace(v.Text)
			tests = append(tests, text+" LIKE "+w.marks([]any{like}))
		}
	}
	return balanced("OR", tests)
}

// column is a field of the event, or of the instance; an absent text is NULL.
// Instances leave out what is empty.
func (w *writer) column(f query.Field) string {
	switch {
	case f.Instance:
		return "(instance.value ->> '" + f.Name + "')"
	case slices.Contains([]string{"type", "tag", "digest", "previous_result", "source", "error"}, f.Name):
		return "NULLIF(events." + f.Name + ", '')"
	}
	return "events." + f.Name
}

// compared is a column as it stands in a comparison.
func (w *writer) compared(f query.Field) string {
	if f.Type == query.Text || f.Type == query.Time {
		return w.ordered(w.column(f))
	}
	return w.column(f)
}

// ordered is a text that compares by its bytes, as SQLite's do anyway.
func (w *writer) ordered(text string) string {
	if w.dialect == PostgreSQL {
		return text + ` COLLATE "C"`
	}
	return text
}

// members is the table of the members of a list, as NAME.value.
func (w *writer) members(list query.Field, name string) string {
	if w.dialect == SQLite {
		return "json_each(events." + list.Name + ") AS " + name
	}
	column := "CAST(events." + list.Name + " AS jsonb)"
	return "jsonb_array_elements_text(CASE WHEN jsonb_typeof(" + column + ") = 'array' THEN " + column + " END) AS " + name + "(value)"
}

// instances is the table of the instances of an event: one with nothing known
// where there is none.
func (w *writer) instances() string {
	if w.dialect == SQLite {
		return "json_each(CASE WHEN json_array_length(events.instances) > 0 THEN events.instances ELSE '[{}]' END) AS instance"
	}
	const column = "CAST(events.instances AS jsonb)"
	return "jsonb_array_elements(CASE WHEN jsonb_typeof(" + column + ") = 'array' AND " + column + " <> '[]' THEN " + column + " ELSE '[{}]' END) AS instance(value)"
}
