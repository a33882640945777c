package exceptions

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/assay-dev/assay/api"
)

// Bounds of a CSV file.
const (
	MaxBytes = 64 << 20
	MaxRows  = 500_000
)

// Columns are written in this order. The first six are Calico's; of what is
// read, these must be there: CVE, Justification and Scope.
func Columns() []string {
	return []string{"CVE", "Registry", "Repository", "Tags", "Justification", "Scope", "Digest", "Author", "Created", "Expires", "Packages", "Until"}
}

// RowError is a fault in one row. Line counts from 1, Column is the column's name.
type RowError struct {
	Line            int
	Column, Message string
}

func (e *RowError) Error() string {
	if e.Column == "" {
		return fmt.Sprintf("line %d: %s", e.Line, e.Message)
	}
	return fmt.Sprintf("line %d: %s: %s", e.Line, e.Column, e.Message)
}

// ReadCSV reads exceptions. Column names may be in any case and order; unknown
// columns are ignored. When any row is bad, no exception is returned, and the
// error joins a [RowError] for each fault.
func ReadCSV(r io.Reader) ([]api.VulnerabilityException, error) {
	limited := &io.LimitedReader{R: r, N: MaxBytes + 1}
	buffered := bufio.NewReader(limited)
	if bom, err := buffered.Peek(3); err == nil && string(bom) == "\ufeff" {
		if _, err := buffered.Discard(3); err != nil {
			return nil, err
		}
	}
	in := csv.NewReader(buffered)
	in.FieldsPerRecord = -1
	in.ReuseRecord = true
	header, err := in.Read()
	if errors.Is(err, io.EOF) {
		return nil, errors.New("the file is empty; its first line must name the columns, such as " + strings.Join(Columns()[:6], ","))
	}
	if err != nil {
		return nil, fmt.Errorf("not CSV: %w", err)
	}
	index, err := columnIndex(header)
	if err != nil {
		return nil, err
	}
	var list []api.VulnerabilityException
	var faults []error
	width := len(header)
	for rows := 1; ; rows++ {
		record, err := in.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		line, _ := in.FieldPos(0)
		var syntax *csv.ParseError
		switch {
		case errors.As(err, &syntax):
			faults = append(faults, &RowError{syntax.StartLine, "", "not CSV: " + syntax.Err.Error()})
			return nil, errors.Join(faults...) // what follows a broken quote cannot be told
		case err != nil:
			return nil, fmt.Errorf("reading: %w", err)
		case rows > MaxRows:
			return nil, fmt.Errorf("there are more than %d rows", MaxRows)
		case len(record) != width:
			faults = append(faults, &RowError{line, "", fmt.Sprintf("has %d fields, not %d", len(record), width)})
			continue
		}
		spec, bad := readRow(record, index, line)
		faults = append(faults, bad...)
		list = append(list, object(spec))
	}
	if limited.N <= 0 {
		return nil, fmt.Errorf("the file has more than %d bytes", MaxBytes)
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return list, nil
}

func columnIndex(header []string) (map[string]int, error) {
	index := map[string]int{}
	for i, name := range header {
		for _, known := range Columns() {
			if !strings.EqualFold(strings.TrimSpace(name), known) {
				continue
			}
			if _, twice := index[known]; twice {
				return nil, &RowError{1, known, "the column is there twice"}
			}
			index[known] = i
		}
	}
	for _, name := range []string{"CVE", "Justification", "Scope"} {
		if _, ok := index[name]; !ok {
			return nil, &RowError{1, name, "the column is missing; the columns are " + strings.Join(Columns()[:6], ",")}
		}
	}
	return index, nil
}

func readRow(record []string, index map[string]int, line int) (spec api.VulnerabilityExceptionSpec, faults []error) {
	cell := func(column string) string {
		if i, ok := index[column]; ok {
			return unguard(strings.TrimSpace(record[i]))
		}
		return ""
	}
	add := func(column, message string) { faults = append(faults, &RowError{line, column, message}) }
	list := func(column string) []string {
		text := cell(column)
		if text == "" {
			return nil
		}
		var values []string
		if err := json.Unmarshal([]byte(text), &values); err != nil {
			add(column, fmt.Sprintf("must be a JSON list of strings, such as [\"v1\",\"v2\"], not %.60q", text))
		}
		return values
	}
	spec = api.VulnerabilityExceptionSpec{
		CVE: api.NormalizeID(cell("CVE")), Scope: strings.ToLower(cell("Scope")),
		Registry: cell("Registry"), Repository: cell("Repository"), Tags: list("Tags"), Digest: cell("Digest"),
		Justification: cell("Justification"), Author: cell("Author"), Created: cell("Created"), Expires: cell("Expires"), Packages: list("Packages"),
	}
	if text := cell("Until"); text != "" {
		dec := json.NewDecoder(strings.NewReader(text))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&spec.Until); err != nil {
			add("Until", "must be a JSON object such as {\"fixable\":true}")
		}
	}
	switch spec.Scope {
	case api.ScopeAny:
		// A scan list that was exported has the image's name in these columns.
		spec.Registry, spec.Repository, spec.Tags, spec.Digest = "", "", nil, ""
	case api.ScopeRepo:
		spec.Tags, spec.Digest = nil, ""
	}
	columns := map[string]string{"cve": "CVE"}
	for _, f := range Validate(spec) {
		name, _, _ := strings.Cut(strings.Split(f.Path, "[")[0], ".")
		column, ok := columns[name]
		if !ok {
			column = strings.ToUpper(name[:1]) + name[1:]
		}
		if !slices.ContainsFunc(faults, func(e error) bool { return e.(*RowError).Column == column }) {
			add(column, f.Message)
		}
	}
	return spec, faults
}

// WriteCSV writes exceptions so that [ReadCSV] gives them back. A cell that a
// spreadsheet would take for a formula gets an apostrophe in front, which
// reading takes off.
func WriteCSV(w io.Writer, list []api.VulnerabilityException) error {
	out := csv.NewWriter(w)
	if err := out.Write(Columns()); err != nil {
		return err
	}
	for _, e := range list {
		s := e.Spec
		record := []string{s.CVE, s.Registry, s.Repository, marshal(s.Tags), s.Justification, s.Scope, s.Digest, s.Author, s.Created, s.Expires, marshal(s.Packages), ""}
		if s.Until != nil {
			record[11] = marshalAny(s.Until)
		}
		for i, cell := range record {
			record[i] = guard(cell)
		}
		if err := out.Write(record); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

func marshal(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return marshalAny(list)
}

func marshalAny(v any) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // plain values: cannot fail
	}
	return strings.TrimSpace(b.String())
}

const formula = "=+-@\t\r"

func guard(cell string) string {
	rest := strings.TrimLeft(cell, "'")
	if rest != "" && strings.IndexByte(formula, rest[0]) >= 0 {
		return "'" + cell
	}
	return cell
}

func unguard(cell string) string {
	rest := strings.TrimLeft(cell, "'")
	if rest != "" && rest != cell && strings.IndexByte(formula, rest[0]) >= 0 {
		return cell[1:]
	}
	return cell
}
