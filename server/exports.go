package server

import (
	"encoding/csv"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/policies/exceptions"
	"github.com/assay-dev/assay/store"
)

func decimal(f *float64) string {
	if f == nil {
		return ""
	}
	return strconv.FormatFloat(*f, 'f', -1, 64)
}

// download begins a file; its writes keep the connection alive for as long as they go on.
func (s *Server) download(w http.ResponseWriter, kind, name string) {
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Disposition", `attachment; filename="`+name+`"`)
}

// exportTimeout bounds the time in which a client must take the next part of an export.
const exportTimeout = time.Minute

// table writes rows as CSV, flushed now and then, to a client that takes them in time.
type table struct {
	out     *csv.Writer
	control *http.ResponseController
	rows    int
}

func newTable(w http.ResponseWriter) *table {
	return &table{out: csv.NewWriter(w), control: http.NewResponseController(w)}
}

func (t *table) row(cells ...string) error {
	for i := range cells {
		cells[i] = exceptions.Guard(cells[i])
	}
	if t.rows++; t.rows%500 == 1 {
		_ = t.control.SetWriteDeadline(time.Now().Add(exportTimeout)) // not every writer has one
		t.out.Flush()
	}
	return t.out.Write(cells)
}

func (t *table) end() error {
	t.out.Flush()
	return t.out.Error()
}

var imageCells = []string{"Registry", "Repository", "Tags", "Digest", "Result", "Max CVSS Score", "Scanned", "Fixable", "KEV", "EPSS", "Running Instances"}

func cellsOf(m store.Image) []string {
	tags := "[]"
	if m.Tag != "" {
		text, err := json.Marshal([]string{m.Tag})
		if err == nil {
			tags = string(text)
		}
	}
	return []string{m.Registry, m.Repository, tags, m.Digest, string(m.Result), decimal(m.MaxCVSS), m.ScannedAt,
		strconv.FormatBool(m.Fixable), strconv.FormatBool(m.KEV), decimal(m.EPSS), strconv.Itoa(m.Instances)}
}

// countedCells come last, so that the cells before them stay where they were.
var countedCells = []string{"Findings Without Score", "Packages Not Looked Up"}

// countedOf is empty where nothing was counted.
func countedOf(m store.Image) []string {
	cells := []string{"", ""}
	for i, n := range []*int{m.Unscored, m.Unplaced} {
		if n != nil {
			cells[i] = strconv.Itoa(*n)
		}
	}
	return cells
}

// exportImages writes a row for each image, or with pods for each container that runs one.
func (s *Server) exportImages(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r)
	f, pods := s.filter(r, q), q.flag("pods")
	if err := q.err(); err != nil {
		return err
	}
	s.download(w, "text/csv; charset=utf-8", "images.csv")
	out := newTable(w)
	if pods == nil || !*pods {
		if err := out.row(slices.Concat(imageCells, countedCells)...); err != nil {
			return err
		}
		return s.ended(s.Store.EachImage(r.Context(), f, func(m store.Image) error { return out.row(append(cellsOf(m), countedOf(m)...)...) }), out)
	}
	if err := out.row(slices.Concat(imageCells, []string{"Cluster", "Namespace", "Pod", "Container", "Stale"}, countedCells)...); err != nil {
		return err
	}
	return s.ended(s.Store.EachPod(r.Context(), f, func(m store.Image, list []store.StaleInstance) error {
		if len(list) == 0 {
			list = []store.StaleInstance{{}}
		}
		for _, i := range list {
			stale := ""
			if i.Pod != "" {
				stale = strconv.FormatBool(i.Stale)
			}
			if err := out.row(slices.Concat(cellsOf(m), []string{i.Cluster, i.Namespace, i.Pod, i.Container, stale}, countedOf(m))...); err != nil {
				return err
			}
		}
		return nil
	}), out)
}

// ended ends a file. After its beginning nothing but a broken connection can tell that
// it is not whole.
func (s *Server) ended(err error, out *table) error {
	if err == nil {
		err = out.end()
	}
	if err != nil {
		s.Log.Error("an export broke off", "error", err)
		panic(http.ErrAbortHandler)
	}
	return nil
}

var vulnerabilityCells = []string{"CVE", "Registry", "Repository", "Tags", "Digest", "Package", "Version", "Type", "CVSS Score", "Severity", "Fixed In", "EPSS", "KEV", "Exception", "Result"}

// exportVulnerabilities writes a row for each vulnerability of each image. With
// Justification and Scope added it can be imported as exceptions.
func (s *Server) exportVulnerabilities(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r)
	f := s.filter(r, q)
	if err := q.err(); err != nil {
		return err
	}
	s.download(w, "text/csv; charset=utf-8", "vulnerabilities.csv")
	out := newTable(w)
	if err := out.row(append([]string{}, vulnerabilityCells...)...); err != nil {
		return err
	}
	now := s.Now()
	return s.ended(s.Store.EachScan(r.Context(), f, func(m store.Image, scan api.Scan) error {
		if len(scan.Vulnerabilities) == 0 {
			return nil
		}
		if err := s.Live.Engine().In(m.Reader).Annotate(r.Context(), m.Image, m.Digest, &scan, now); err != nil {
			return err
		}
		tags := cellsOf(m)[2]
		for _, v := range scan.Vulnerabilities {
			exception := ""
			if v.Exception != nil {
				exception = v.Exception.Justification
			}
			if err := out.row(documents.CanonicalID(v), m.Registry, m.Repository, tags, m.Digest, v.Package, v.Version, v.Type, decimal(v.CVSS), v.Severity,
				strings.Join(v.Fix.Versions, " "), decimal(v.EPSS), strconv.FormatBool(v.KEV), exception, string(m.Result)); err != nil {
				return err
			}
		}
		return nil
	}), out)
}

// exportJSON writes a scan report: each image with its vulnerabilities and the
// exceptions that cover them, as `assay scan -o json` does.
func (s *Server) exportJSON(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r)
	f := s.filter(r, q)
	if err := q.err(); err != nil {
		return err
	}
	s.download(w, "application/json", "images.json")
	control := http.NewResponseController(w)
	schema, err := json.Marshal(api.SchemaScan)
	if err != nil {
		return err
	}
	_, err = w.Write([]byte(`{"schema":` + string(schema) + `,"images":[`))
	separator := ""
	now := s.Now()
	if err == nil {
		err = s.Store.EachScan(r.Context(), f, func(m store.Image, scan api.Scan) error {
			if scan.ScannedAt.IsZero() {
				return nil
			}
			if err := s.Live.Engine().In(m.Reader).Annotate(r.Context(), m.Image, m.Digest, &scan, now); err != nil {
				return err
			}
			scan.Image = m.Image
			text, err := json.Marshal(scan)
			if err != nil {
				return err
			}
			_ = control.SetWriteDeadline(time.Now().Add(exportTimeout)) // not every writer has one
			_, err = w.Write(append([]byte(separator+"\n"), text...))
			separator = ","
			return err
		})
	}
	if err == nil {
		_, err = w.Write([]byte("\n]}\n"))
	}
	if err != nil {
		s.Log.Error("an export broke off", "error", err)
		panic(http.ErrAbortHandler)
	}
	return nil
}
