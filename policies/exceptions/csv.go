package exceptions

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/assay-dev/assay/api"
)

// Bounds of a CSV file; MaxBytes is that of an OpenVEX document, too.
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

// MoreFaults stands for the faults of a file beyond the first thousand.
type MoreFaults struct{ Count int }

func (m *MoreFaults) Error() string { return fmt.Sprintf("and %d more faults", m.Count) }

// rowFaults are the first faults of a file, and the number of the rest.
type rowFaults struct {
	list []error
	more int
}

func (f *rowFaults) add(all ...error) {
	room := max(0, min(len(all), maxFaults-len(f.list)))
	f.list = append(f.list, all[:room]...)
	f.more += len(all) - room
}

func (f *rowFaults) err() error {
	if f.more > 0 {
		return errors.Join(append(f.list, &MoreFaults{f.more})...)
	}
	return errors.Join(f.list...)
}

// ReadCSV reads exceptions as Calico's console takes them, and as [WriteCSV]
// writes them. Column names may be in any case and order, and unknown columns are
// ignored: a list of scan results with two columns added is read too. So the cells
// that a scope does not need are not looked at: all but CVE and justification for
// any, tags and digest for repo. Rows of empty cells are skipped, and rows that
// say the same give one exception. Commas, semicolons or tabs separate, as the
// header does.
//
// When any row is bad, no exception is returned, and the error joins a [RowError]
// for each fault. A quote that is never closed ends the reading.
func ReadCSV(r io.Reader) ([]api.VulnerabilityException, error) {
	limited := &io.LimitedReader{R: r, N: MaxBytes + 1}
	buffered := bufio.NewReaderSize(limited, 64<<10)
	separator, err := skipMark(buffered)
	if err != nil {
		return nil, err
	}
	in := csv.NewReader(buffered)
	in.Comma = separator
	in.FieldsPerRecord = -1
	in.ReuseRecord = true
	columns, err := readHeader(in)
	if err != nil {
		return nil, err
	}
	var list []api.VulnerabilityException
	var faults rowFaults
	seen := map[string]bool{}
	for rows := 1; ; rows++ {
		record, err := in.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if limited.N <= 0 {
			return nil, fmt.Errorf("the file has more than %d bytes", MaxBytes)
		}
		if syntax := (*csv.ParseError)(nil); errors.As(err, &syntax) {
			faults.add(&RowError{syntax.StartLine, "", "not CSV: " + syntax.Err.Error()})
			break // what follows a broken quote cannot be told
		}
		if err != nil {
			return nil, fmt.Errorf("reading: %w", err)
		}
		if rows > MaxRows {
			return nil, fmt.Errorf("there are more than %d rows", MaxRows)
		}
		if !slices.ContainsFunc(record, func(cell string) bool { return strings.TrimSpace(cell) != "" }) {
			continue
		}
		line, _ := in.FieldPos(0)
		if len(record) != columns.width {
			faults.add(&RowError{line, "", fmt.Sprintf("has %d fields, not %d", len(record), columns.width)})
			continue
		}
		rw := row{columns: columns, record: record, line: line}
		exception := object(rw.spec())
		faults.add(rw.faults...)
		if !seen[exception.Metadata.Name] {
			seen[exception.Metadata.Name] = true
			list = append(list, exception)
		}
	}
	if limited.N <= 0 {
		return nil, fmt.Errorf("the file has more than %d bytes", MaxBytes)
	}
	if err := faults.err(); err != nil {
		return nil, err
	}
	return list, nil
}

// skipMark skips a byte order mark and finds what separates the columns.
func skipMark(r *bufio.Reader) (separator rune, err error) {
	start, err := r.Peek(r.Size())
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, fmt.Errorf("reading: %w", err)
	}
	if bytes.HasPrefix(start, []byte("\xff\xfe")) || bytes.HasPrefix(start, []byte("\xfe\xff")) {
		return 0, errors.New("the file is UTF-16; save it as CSV in UTF-8")
	}
	first, _, _ := bytes.Cut(start, []byte("\n"))
	separator = ','
	for _, other := range ";\t" {
		if !bytes.ContainsRune(first, ',') && bytes.ContainsRune(first, other) {
			separator = other
		}
	}
	if bytes.HasPrefix(start, []byte("\ufeff")) {
		_, err = r.Discard(len("\ufeff"))
		return separator, err
	}
	return separator, nil
}

// columns tells where the known columns are.
type columns struct {
	at    map[string]int
	width int
	// foreign files have columns that are not ours: their Digest, Created and
	// Packages may be other things.
	foreign bool
}

func readHeader(in *csv.Reader) (columns, error) {
	wanted := strings.Join(Columns()[:6], ",")
	header, err := in.Read()
	if errors.Is(err, io.EOF) {
		return columns{}, errors.New("the file is empty; its first line must name the columns, such as " + wanted)
	}
	if err != nil {
		return columns{}, fmt.Errorf("not CSV: %w", err)
	}
	c := columns{at: map[string]int{}, width: len(header)}
	for i, name := range header {
		name = strings.TrimSpace(name)
		k := slices.IndexFunc(Columns(), func(known string) bool { return strings.EqualFold(name, known) })
		if k < 0 {
			c.foreign = c.foreign || name != ""
			continue
		}
		known := Columns()[k]
		if _, twice := c.at[known]; twice {
			return c, &RowError{1, known, "the column is there twice"}
		}
		c.at[known] = i
	}
	for _, name := range []string{"CVE", "Justification", "Scope"} {
		if _, ok := c.at[name]; !ok {
			return c, &RowError{1, name, "the column is missing; the columns are " + wanted}
		}
	}
	return c, nil
}

// row turns one record into an exception.
type row struct {
	columns
	record []string
	line   int
	faults []error
}

func (r *row) fault(column, message string) {
	if !slices.ContainsFunc(r.faults, func(e error) bool { return e.(*RowError).Column == column }) {
		r.faults = append(r.faults, &RowError{r.line, column, message})
	}
}

// text is a cell as it stands, cell one without the space around it.
func (r *row) text(column string) string {
	i, ok := r.at[column]
	if !ok {
		return ""
	}
	if !utf8.ValidString(r.record[i]) {
		r.fault(column, "is not UTF-8; save the file as CSV in UTF-8")
		return ""
	}
	return Unguard(r.record[i])
}

func (r *row) cell(column string) string {
	i, ok := r.at[column]
	if !ok || !utf8.ValidString(r.record[i]) {
		return r.text(column)
	}
	return strings.TrimSpace(Unguard(strings.TrimSpace(r.record[i])))
}

func (r *row) list(column string) []string {
	text := r.cell(column)
	if text == "" {
		return nil
	}
	var values []string
	if err := json.Unmarshal([]byte(text), &values); err != nil {
		r.fault(column, fmt.Sprintf("must be a JSON list of strings, such as [\"v1\",\"v2\"], not %.60q", text))
	}
	return values
}

func (r *row) spec() api.VulnerabilityExceptionSpec {
	spec := api.VulnerabilityExceptionSpec{
		CVE: api.NormalizeID(r.cell("CVE")), Scope: strings.ToLower(r.cell("Scope")),
		Justification: r.text("Justification"), Author: r.text("Author"), Created: r.cell("Created"), Expires: r.cell("Expires"),
	}
	if spec.Scope == "image_tags" { // as drafts of Calico's documentation have it
		spec.Scope = api.ScopeImage
	}
	switch spec.Scope {
	case api.ScopeRepo:
		spec.Registry, spec.Repository = r.cell("Registry"), r.cell("Repository")
	case api.ScopeImage:
		spec.Registry, spec.Repository, spec.Tags, spec.Digest = r.cell("Registry"), r.cell("Repository"), r.list("Tags"), r.cell("Digest")
		if r.foreign && !digestPattern.MatchString(spec.Digest) {
			spec.Digest = ""
		}
	}
	if packages := r.cell("Packages"); !r.foreign || strings.HasPrefix(packages, "[") || strings.Contains(packages, "pkg:") {
		spec.Packages = r.list("Packages")
	}
	if _, err := parseTime(spec.Created); err != nil && r.foreign {
		spec.Created = ""
	}
	if text := r.cell("Until"); text != "" {
		dec := json.NewDecoder(strings.NewReader(text))
		dec.DisallowUnknownFields()
		err := dec.Decode(&spec.Until)
		if _, end := dec.Token(); err != nil || !errors.Is(end, io.EOF) {
			r.fault("Until", "must be a JSON object such as {\"fixable\":true}")
		}
	}
	for _, f := range Validate(spec) {
		name, _, _ := strings.Cut(strings.Split(f.Path, "[")[0], ".")
		if name == "cve" {
			name = "CVE"
		}
		r.fault(strings.ToUpper(name[:1])+name[1:], f.Message)
	}
	return spec
}

// WriteCSV writes exceptions so that [ReadCSV] gives the same specs back, but for
// line ends in a text: a carriage return before a newline is lost. The names of
// the objects are not kept. Cells are guarded, see [Guard].
func WriteCSV(w io.Writer, list []api.VulnerabilityException) error {
	out := csv.NewWriter(w)
	if err := out.Write(Columns()); err != nil {
		return err
	}
	for _, e := range list {
		s := e.Spec
		tags, err := jsonCell(s.Tags, len(s.Tags) > 0)
		if err != nil {
			return err
		}
		packages, err := jsonCell(s.Packages, len(s.Packages) > 0)
		if err != nil {
			return err
		}
		until, err := jsonCell(s.Until, s.Until != nil)
		if err != nil {
			return fmt.Errorf("exception %s: %w", e.Metadata.Name, err)
		}
		record := []string{s.CVE, s.Registry, s.Repository, tags, s.Justification, s.Scope, s.Digest, s.Author, s.Created, s.Expires, packages, until}
		for i, cell := range record {
			record[i] = Guard(cell)
		}
		if err := out.Write(record); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

func jsonCell(v any, there bool) (string, error) {
	if !there {
		return "", nil
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return strings.TrimSpace(b.String()), err
}
