package console

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/server"
	"github.com/assay-dev/assay/store"
)

// list is a page of rows with what narrows and orders them. Its state is its address, so that
// a view can be kept and shared.
type list struct {
	Filters []filter
	Columns []column
	Rows    []row
	// First and Next are the addresses of pages; "" where there is none.
	First, Next string
	Exports     []link
	Empty       string // what to do where nothing is there
	Actions     []action
	Noun        string // what a row is
	Narrowed    bool   // some filter is set
	Clear       string // the address without filters
	Here        string // the address of this view
	Views       []store.SavedView
}

// filter is a field of the form above a list.
type filter struct {
	Name, Label, Hint, Value string
	Options                  []option // of a choice; none is a text
	More                     bool     // stands with the rarer ones
}

type option struct{ Value, Label string }

// column is one of a list. Sort names its order in the API, "" where it has none.
type column struct {
	Name, Label, Sort string
	Down              bool   // the first click gives the highest first
	Address           string // of the other order
	Order             string // ascending, descending or ""
	Number            bool
	Hidden            bool
	Optional          bool
}

type row struct {
	ID    string // what an action is told
	Cells []cell
}

// cell is a value and how it is shown.
type cell struct {
	// Kind is text, link, image, result, score, epss, time, digest, flag, number, code, chips or muted.
	Kind  string
	Text  string
	Link  string
	Title string
	List  []link
	Score *float64
}

type link struct{ Text, To string }

// action is a button for the rows that are marked.
type action struct{ Value, Label, Confirm string }

func text(s string) cell           { return cell{Kind: "text", Text: s} }
func number(n int) cell            { return cell{Kind: "number", Text: fmt.Sprint(n)} }
func linkTo(s, to string) cell     { return cell{Kind: "link", Text: s, Link: to} }
func when(s string) cell           { return cell{Kind: "time", Text: s} }
func resultCell(r api.Result) cell { return cell{Kind: "result", Text: string(r)} }
func scoreCell(f *float64) cell    { return cell{Kind: "score", Score: f} }
func epssCell(f *float64) cell     { return cell{Kind: "epss", Score: f} }
func digestCell(d string) cell     { return cell{Kind: "digest", Text: d} }
func flagCell(on bool, s string) cell {
	if !on {
		return cell{Kind: "text"}
	}
	return cell{Kind: "flag", Text: s}
}

// pageSize is how many rows a page has: a screen or two, and quick to read.
const pageSize = "50"

// read takes the parameters of a list from an address: those of its filters, its order and place.
func (l *list) read(r *http.Request) url.Values {
	asked, out := r.URL.Query(), url.Values{"limit": {pageSize}}
	for i, f := range l.Filters {
		if v := strings.TrimSpace(asked.Get(f.Name)); v != "" {
			l.Filters[i].Value, l.Narrowed = v, true
			out.Set(f.Name, v)
		}
	}
	for _, name := range []string{"sort", "after", "before"} {
		if v := asked.Get(name); v != "" {
			out.Set(name, v)
		}
	}
	return out
}

// choose sets what a filter shows where nobody set it.
func (l *list) choose(name, value string) {
	for i := range l.Filters {
		if l.Filters[i].Name == name {
			l.Filters[i].Value = value
		}
	}
}

// address is that of a request with other parameters; an empty value takes one away.
func address(r *http.Request, change ...string) string {
	q := r.URL.Query()
	for i := 0; i+1 < len(change); i += 2 {
		if change[i+1] == "" {
			q.Del(change[i])
		} else {
			q.Set(change[i], change[i+1])
		}
	}
	if len(q) == 0 {
		return r.URL.Path
	}
	return r.URL.Path + "?" + q.Encode()
}

// finish fills in what follows from a request: orders, pages and the columns that are chosen.
func (l *list) finish(r *http.Request, sort, next string) {
	asked := r.URL.Query()
	if asked.Has("sort") {
		sort = asked.Get("sort")
	}
	chosen := asked["col"]
	for i := range l.Columns {
		c := &l.Columns[i]
		if c.Sort != "" {
			to := c.Sort
			if c.Down {
				to = "-" + to
			}
			switch strings.TrimPrefix(sort, "-") {
			case c.Sort:
				c.Order = "ascending"
				if strings.HasPrefix(sort, "-") {
					c.Order = "descending"
				}
				to = strings.TrimPrefix(sort, "-")
				if c.Order == "ascending" {
					to = "-" + to
				}
			}
			c.Address = address(r, "sort", to, "after", "")
		}
		if c.Optional && len(chosen) > 0 {
			c.Hidden = !slices.Contains(chosen, c.Name)
		}
	}
	for i := range l.Rows {
		l.Rows[i].Cells = slices.Clone(l.Rows[i].Cells)
		kept := l.Rows[i].Cells[:0]
		for j, v := range l.Rows[i].Cells {
			if !l.Columns[j].Hidden {
				kept = append(kept, v)
			}
		}
		l.Rows[i].Cells = kept
	}
	if asked.Get("after") != "" || asked.Get("before") != "" {
		l.First = address(r, "after", "", "before", "")
	}
	if next != "" {
		l.Next = address(r, "after", next)
	}
	l.Clear = r.URL.Path
	l.Here = address(r, "after", "", "before", "")
	if l.Noun == "" {
		l.Noun = "row"
	}
}

// Visible are the columns that are shown.
func (l *list) Visible() []column {
	return slices.DeleteFunc(slices.Clone(l.Columns), func(c column) bool { return c.Hidden })
}

// Choices are the columns that can be left out.
func (l *list) Choices() []column {
	return slices.DeleteFunc(slices.Clone(l.Columns), func(c column) bool { return !c.Optional })
}

// Common and Rare are the two parts of the form.
func (l *list) Common() []filter { return l.part(false) }

// Rare are the filters that stand folded.
func (l *list) Rare() []filter { return l.part(true) }

func (l *list) part(more bool) []filter {
	return slices.DeleteFunc(slices.Clone(l.Filters), func(f filter) bool { return f.More != more })
}

// RareUsed says whether a folded filter is set.
func (l *list) RareUsed() bool {
	return slices.ContainsFunc(l.Rare(), func(f filter) bool { return f.Value != "" })
}

// exports adds the filters of a list to the addresses of files.
func exports(q url.Values, files ...link) []link {
	q = maps.Clone(q)
	for _, name := range []string{"limit", "sort", "after"} {
		q.Del(name)
	}
	for i, f := range files {
		path, own, _ := strings.Cut(f.To, "?")
		all := q.Encode()
		if own != "" && all != "" {
			own += "&"
		}
		if own+all != "" {
			path += "?" + own + all
		}
		files[i].To = path
	}
	return files
}

// cut shortens a text to n runes.
func cut(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}

var yesNo = []option{{"", "any"}, {"true", "yes"}, {"false", "no"}}

// views adds the views that the user keeps to a list.
func (c *Console) views(r *http.Request, l *list) error {
	var kept server.Items[store.SavedView]
	err := c.get(r, "/views", nil, &kept)
	l.Views = kept.Items
	if f := (*fault)(nil); errors.As(err, &f) && f.Status == http.StatusForbidden {
		return nil // who has a scope keeps none
	}
	return err
}

// setView keeps a view, or forgets it.
func (c *Console) setView(w http.ResponseWriter, r *http.Request) (*page, error) {
	if err := r.ParseForm(); err != nil {
		return nil, badForm(err)
	}
	v := store.SavedView{Name: strings.TrimSpace(r.PostForm.Get("name")), Address: local(r.PostForm.Get("address"))}
	if v.Name == "" {
		return nil, &fault{Status: http.StatusUnprocessableEntity, Title: "The view was not saved", Detail: "It needs a name."}
	}
	if r.PostForm.Get("do") == "forget" {
		if err := c.send(r, http.MethodDelete, "/views/"+segment(v.Name), nil, nil); err != nil {
			return nil, err
		}
		return seeOther(w, r, v.Address, "The view "+v.Name+" is forgotten")
	}
	if err := c.send(r, http.MethodPut, "/views/"+segment(v.Name), v, nil); err != nil {
		return nil, err
	}
	return seeOther(w, r, v.Address, "The view "+v.Name+" is saved")
}
