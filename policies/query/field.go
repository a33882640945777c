package query

import (
	"fmt"
	"slices"
	"strings"
)

// Type is what the values of a field are.
type Type int

// Types of fields.
const (
	Text   Type = iota // compared byte-wise
	Number             // a decimal number
	Bool               // true or false
	Time               // RFC 3339
)

// Field is one field of the vulnerability data set (api.Event).
type Field struct {
	Name string
	Type Type
	// List fields hold when a member does.
	List bool
	// Instance fields are those of a running instance: one instance must
	// satisfy all terms about them.
	Instance bool
}

// Fields lists the data set.
func Fields() []Field {
	return []Field{
		{Name: "time", Type: Time}, {Name: "type"},
		{Name: "registry"}, {Name: "repository"}, {Name: "tag"}, {Name: "digest"}, {Name: "image"},
		{Name: "result"}, {Name: "previous_result"}, {Name: "source"}, {Name: "error"},
		{Name: "changed", Type: Bool}, {Name: "fixable", Type: Bool}, {Name: "kev", Type: Bool},
		{Name: "max_cvss_score", Type: Number}, {Name: "epss", Type: Number},
		{Name: "cve", List: true}, {Name: "package", List: true},
		{Name: "cluster", Instance: true}, {Name: "namespace", Instance: true},
		{Name: "pod", Instance: true}, {Name: "container", Instance: true}, {Name: "node", Instance: true},
	}
}

// Resolve finds a field by its name, or by the name that it has in Calico's
// vulnerability data set. The result has Assay's name.
func Resolve(name string) (Field, bool) {
	if ours, theirs := vendors[name]; theirs {
		name = ours
	}
	return Lookup(name)
}

// vendors are the names of fields that only Calico's data set has, with ours. Its validator compares them with = alone
// (sets it does not look into).
var vendors = map[string]string{"image_tag": "tag", "cluster_name": "cluster", "node_name": "node", "type": "type"}

// Lookup finds a field by name.
func Lookup(name string) (Field, bool) {
	for _, f := range Fields() {
		if f.Name == name {
			return f, true
		}
	}
	return Field{}, false
}

func unknownField(name string) string {
	var names []string
	nearest, distance := "", 3
	for _, f := range Fields() {
		names = append(names, f.Name)
		if d := EditDistance(strings.ToLower(name), f.Name); d < distance && d < len(f.Name)-1 {
			nearest, distance = f.Name, d
		}
	}
	for _, f := range Fields() {
		if nearest == "" && len(name) > 2 && (strings.HasPrefix(f.Name, strings.ToLower(name)) || strings.Contains(f.Name, "_"+strings.ToLower(name)+"_")) {
			nearest = f.Name
		}
	}
	hint := ""
	if nearest != "" {
		hint = fmt.Sprintf(" (did you mean %s?)", nearest)
	}
	slices.Sort(names)
	return fmt.Sprintf("unknown field %.60q%s; known are %s", name, hint, strings.Join(names, ", "))
}

// EditDistance counts the bytes to insert, remove or replace; of long names it
// says only that they are far.
func EditDistance(a, b string) int {
	if len(a) > 40 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
