package policies

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Diagnostic is one thing wrong with a user's file, in the user's terms.
type Diagnostic struct {
	// File is relative to the folder that was loaded, or as it was given.
	File string `json:"file"`
	// Line and Column count from 1; 0 means that the place is the whole file.
	Line   int `json:"line,omitempty"`
	Column int `json:"column,omitempty"`
	// Path is the member, such as spec.rules[0].imagePath.values[1].
	Path    string `json:"path,omitempty"`
	Message string `json:"message"`
	// Source is the text of the line.
	Source string `json:"source,omitempty"`
}

// String is `file:line:column: path: message`, without the source.
func (d Diagnostic) String() string {
	var b strings.Builder
	b.WriteString(d.File)
	if d.Line > 0 {
		fmt.Fprintf(&b, ":%d", d.Line)
		if d.Column > 0 {
			fmt.Fprintf(&b, ":%d", d.Column)
		}
	}
	b.WriteString(": ")
	if d.Path != "" {
		b.WriteString(d.Path + ": ")
	}
	b.WriteString(d.Message)
	return b.String()
}

const maxSource = 160

// Excerpt is the source line with a caret below the column, or "".
func (d Diagnostic) Excerpt() string {
	if d.Source == "" || d.Column == 0 {
		return ""
	}
	line := strings.ReplaceAll(d.Source, "\t", " ")
	if len(line) > maxSource || d.Column > len(line)+1 {
		return ""
	}
	return "    " + line + "\n    " + strings.Repeat(" ", len([]rune(line[:d.Column-1]))) + "^"
}

// Diagnostics is an error that holds all that is wrong, sorted by place.
type Diagnostics []Diagnostic

// Error lists every diagnostic with its source line and a caret.
func (ds Diagnostics) Error() string {
	var lines []string
	for _, d := range ds {
		lines = append(lines, d.String())
		if e := d.Excerpt(); e != "" {
			lines = append(lines, e)
		}
	}
	return strings.Join(lines, "\n")
}

func (ds Diagnostics) sorted() Diagnostics {
	slices.SortStableFunc(ds, func(a, b Diagnostic) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Path, b.Path), cmp.Compare(a.Message, b.Message))
	})
	return slices.Compact(ds)
}

// err is the diagnostics as an error, nil when there are none.
func (ds Diagnostics) err() error {
	if len(ds) == 0 {
		return nil
	}
	return ds.sorted()
}
