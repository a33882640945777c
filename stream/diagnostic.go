package stream

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Diagnostic is one thing wrong with a user's file, in the user's terms.
type Diagnostic struct {
	// File is relative to the folder that was loaded, or as it was given.
	File string `json:"file"`
	// Document counts the documents of the file from 1; 0 where it has none.
	Document int `json:"document,omitempty"`
	// Line and Column count from 1; 0 means that the place is the whole file.
	Line   int `json:"line,omitempty"`
	Column int `json:"column,omitempty"`
	// Path is the member, such as spec.rules[0].imagePath.values[1].
	Path    string `json:"path,omitempty"`
	Message string `json:"message"`
	// Source is the text of the line; of a file with secrets only the member's name, and
	// nothing where more stands before the column.
	Source string `json:"source,omitempty"`
}

// String is `file:line:column: path: message`, without the source. Behind the place
// stands which document it is, but for the first.
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
	if d.Document > 1 {
		fmt.Fprintf(&b, "document %d: ", d.Document)
	}
	if d.Path != "" {
		b.WriteString(d.Path + ": ")
	}
	b.WriteString(d.Message)
	return b.String()
}

// maxSource is how long a line may be that is shown, in bytes.
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

// Fault is a diagnostic at a node of the document.
func (d *Document) Fault(n *yaml.Node, path, format string, args ...any) Diagnostic {
	return d.diagnostic(n.Line, n.Column, path, fmt.Sprintf(format, args...))
}

// FaultAt is a diagnostic at a line and a column of the file.
func (d *Document) FaultAt(line, column int, path, format string, args ...any) Diagnostic {
	return d.diagnostic(line, column, path, fmt.Sprintf(format, args...))
}

func (d *Document) fault(line, column int, format string, args ...any) error {
	return Diagnostics{d.FaultAt(line, column, "", format, args...)}
}

func (d *Document) diagnostic(line, column int, path, message string) Diagnostic {
	out := Diagnostic{File: d.File, Document: d.Number, Line: line, Column: column, Path: path, Message: message}
	if d.lines == nil {
		d.lines = lines(d.Text)
	}
	if i := line - d.first; i >= 0 && i < len(d.lines) {
		out.Source = d.lines[i]
		if i == 0 {
			out.Source = string(d.lead) + out.Source
		}
		if d.config.Secret {
			if out.Source = out.Source[:max(0, min(column-1, len(out.Source)))]; onlyName.MatchString(out.Source) {
				out.Source += "…"
			} else {
				out.Source = ""
			}
		}
	}
	if len(out.Source) > maxSource {
		out.Source = ""
	}
	return out
}

// onlyName is the beginning of a line that shows no value.
var onlyName = regexp.MustCompile(`^[ \t-]*(?:[\w.-]+:[ \t]*)?["']?$`)

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

// Err is the diagnostics as an error, sorted and without repeats; nil when there are none.
func (ds Diagnostics) Err() error {
	if len(ds) == 0 {
		return nil
	}
	return ds.sorted()
}
