package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/server/auth"
	"github.com/assay-dev/assay/store"
)

func decodeStrict(text []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return jsonFault(text, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return bad("the body has more than one JSON value, or text after it")
	}
	if isNull(text) {
		return unprocessable("the body is null; nothing was changed")
	}
	return nil
}

// jsonFault says where a JSON text is wrong.
func jsonFault(text []byte, err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	offset := int64(-1)
	pointer := ""
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &kind):
		offset, pointer = kind.Offset, "/"+strings.ReplaceAll(kind.Field, ".", "/")
	}
	fault := Fault{Pointer: pointer, Detail: strings.TrimPrefix(err.Error(), "json: ")}
	if offset >= 0 && offset <= int64(len(text)) {
		before := text[:offset]
		fault.Line = bytes.Count(before, []byte("\n")) + 1
		fault.Column = max(1, int(offset)-bytes.LastIndexByte(before, '\n')-1)
	}
	return &refused{status: http.StatusBadRequest, detail: "the body is not the JSON that is wanted here", faults: []Fault{fault}}
}

// values are what a parameter takes, as the description has it; what reads it refuses all else.
type values struct {
	kind        string // string, boolean, integer or number
	format      string
	least, most float64  // of numbers
	words       []string // the only ones
	list        bool     // of some of the words, with commas
	needed      bool     // the parameter cannot be left out
}

var (
	anyText = values{kind: "string"}
	needed  = values{kind: "string", needed: true}
	aFlag   = values{kind: "boolean"}
	aMoment = values{kind: "string", format: "date-time"}
	aLimit  = wholeNumbers(1, 1000)
	anID    = wholeNumbers(1, 1<<53)
	results = []string{string(api.Pass), string(api.Warned), string(api.Fail), string(api.Unknown)}
)

func oneOf(words ...string) values  { return values{kind: "string", words: words} }
func someOf(words ...string) values { return values{kind: "string", words: words, list: true} }

func wholeNumbers(least, most float64) values {
	return values{kind: "integer", least: least, most: most}
}
func numbers(least, most float64) values { return values{kind: "number", least: least, most: most} }

// renamed are parameters by the names that they had before; these are still taken.
var renamed = map[string]string{"inForce": "in_force", "dryRun": "dry_run", "scannedAfter": "scanned_after", "scannedBefore": "scanned_before", "before": "after"}

// query reads the parameters of a request, and notes what is wrong with them.
type query struct {
	values map[string][]string
	known  map[string]bool
	faults []Fault
	denied error // what the scope of who asks does not allow; it goes over faults
}

func queryOf(r *http.Request) *query {
	q := &query{known: map[string]bool{}}
	var err error
	if q.values, err = url.ParseQuery(r.URL.RawQuery); err != nil {
		q.fault("", "%v", err)
	}
	for old, name := range renamed {
		if list, ok := q.values[old]; ok {
			q.values[name] = append(q.values[name], list...)
			delete(q.values, old)
		}
	}
	return q
}

// maxParameter bounds one value, in bytes.
const maxParameter = 4 << 10

func (q *query) text(name string) string {
	q.known[name] = true
	list := q.values[name]
	switch {
	case len(list) == 0:
		return ""
	case len(list) > 1:
		q.fault(name, "is given %d times", len(list))
	case len(list[0]) > maxParameter:
		q.fault(name, "is longer than %d bytes", maxParameter)
	default:
		return list[0]
	}
	return ""
}

func (q *query) fault(name, format string, args ...any) {
	q.faults = append(q.faults, Fault{Pointer: name, Detail: fmt.Sprintf(format, args...)})
}

// list is a parameter of several values with commas.
func (q *query) list(name string) []string {
	text := q.text(name)
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

func (q *query) flag(name string) *bool {
	text := q.text(name)
	if text == "" {
		return nil
	}
	b, err := strconv.ParseBool(text)
	if err != nil {
		q.fault(name, "must be true or false, not %.40q", text)
		return nil
	}
	return &b
}

func (q *query) number(name string, low, high float64) *float64 {
	text := q.text(name)
	if text == "" {
		return nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || !(f >= low && f <= high) {
		q.fault(name, "must be a number from %v to %v, not %.40q", low, high, text)
		return nil
	}
	return &f
}

func (q *query) integer(name string, low, high int64) int64 {
	text := q.text(name)
	if text == "" {
		return 0
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < low || n > high {
		q.fault(name, "must be a whole number from %d to %d, not %.40q", low, high, text)
		return 0
	}
	return n
}

func (q *query) time(name string) time.Time {
	text := q.text(name)
	if text == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		q.fault(name, "must be RFC 3339, such as 2026-01-31T00:00:00Z, not %.40q", text)
	}
	return t
}

// reference is a name of an image.
func (q *query) reference(name string) string {
	text := q.text(name)
	if text == "" {
		return ""
	}
	if _, err := api.ParseReference(text); err != nil {
		q.fault(name, "%v", err)
	}
	return text
}

func (q *query) oneOf(name string, known ...string) string {
	text := q.text(name)
	if text != "" && !slices.Contains(known, text) {
		q.fault(name, "must be one of %s, not %.40q", strings.Join(known, ", "), text)
	}
	return text
}

func (q *query) page() store.Page {
	return store.Page{Sort: q.text("sort"), After: q.text("after"), Limit: int(q.integer("limit", 1, 1000))}
}

// knows refuses parameters that a route does not have.
func (x *route) knows(r *http.Request) error {
	q := queryOf(r)
	for _, p := range x.query {
		q.known[p.name] = true
	}
	return q.err()
}

// older is the id of the last item of the page before, in lists of which the newest come first.
func (q *query) older() int64 { return q.integer("after", 1, 1<<53) }

// within is the cluster that a list is narrowed to: the asked one, and no other than the scope's.
func (q *query) within(id auth.Identity, asked string) string {
	switch scope := id.Scope; {
	case scope.Group != "" && scope.Cluster == "":
		q.denied = forbidden("a scope that names a group and no cluster reads no lists; the token is for %s", scope)
	case scope.Cluster == "":
	case asked != "" && asked != scope.Cluster:
		q.denied = forbidden("the token is for %s", scope)
	default:
		return scope.Cluster
	}
	return asked
}

// err is what is wrong, all at once; parameters that nothing asked for are, too.
func (q *query) err() error {
	if q.denied != nil {
		return q.denied
	}
	for _, name := range slices.Sorted(maps.Keys(q.values)) {
		switch {
		case q.known[name]:
		case len(q.known) == 0:
			q.fault(name, "is not known here: this takes no parameters")
		default:
			q.fault(name, "is not known here; known are %s", strings.Join(slices.Sorted(maps.Keys(q.known)), ", "))
		}
	}
	if len(q.faults) == 0 {
		return nil
	}
	return &refused{status: http.StatusBadRequest, detail: "the parameters are not valid", faults: q.faults}
}

// answer writes JSON.
func answer(w http.ResponseWriter, status int, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("writing the answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n')) // a client that went away is no error
	return nil
}
