package console

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/server"
	"github.com/assay-dev/assay/store"
)

func (c *Console) exceptions(r *http.Request) (*page, error) {
	l := &list{Noun: "exception", Filters: []filter{
		{Name: "cve", Label: "CVE", Hint: "an id or alias"},
		{Name: "in_force", Label: "In force", Options: yesNo},
		{Name: "origin", Label: "From", Options: []option{{"", "anywhere"}, {"api", "here"}, {"policies", "the policies folder"}}},
	}, Columns: []column{{Name: "cve", Label: "CVE"}, {Name: "scope", Label: "For"}, {Name: "why", Label: "Justification"}, {Name: "author", Label: "Author", Optional: true},
		{Name: "created", Label: "Created", Optional: true}, {Name: "expires", Label: "Ends"}, {Name: "state", Label: "State"}, {Name: "images", Label: "Images that have it", Number: true}, {Name: "origin", Label: "From", Optional: true}}}
	q := l.read(r)
	q.Del("sort")
	var found store.List[server.ListedException]
	if err := c.get(r, "/exceptions", q, &found); err != nil {
		return nil, err
	}
	for _, e := range found.Items {
		state := "in force"
		if !e.InForce {
			state = "ended"
		} else if end, ok := timeOf(e.Spec.Expires); ok && end.Sub(c.Now()) < soon {
			state = "ends soon"
		}
		images := number(e.Images)
		if e.Images > 0 {
			images.Link = withQuery("/images", "cve", e.Spec.CVE)
		} else {
			images.Text, images.Title = "none", "no image has the vulnerability: the exception is not needed now"
		}
		x := row{Cells: []cell{linkTo(e.Spec.CVE, "/vulnerabilities/"+url.PathEscape(e.Spec.CVE)), text(reach(e.Spec)), text(cut(e.Spec.Justification, 200)), text(e.Spec.Author), when(e.Spec.Created), when(e.Spec.Expires), text(state), images, text(map[string]string{"api": "here", "policies": "policies folder"}[e.Origin])}}
		if e.Origin == "api" {
			x.ID = e.Metadata.Name
		}
		l.Rows = append(l.Rows, x)
	}
	l.Exports = []link{{"CSV of those made here", "/api/v1/exports/exceptions.csv"}}
	l.Actions = []action{{"/exceptions/delete", "Delete", "Delete the marked exceptions? Their CVEs count again at once."}}
	l.Empty = "There is no exception. Add one from any CVE of an image, or import a CSV file."
	l.finish(r, "", found.Next)
	return &page{name: "list", Title: "Exceptions", Nav: "exceptions", Live: "exceptions", Body: l}, nil
}

// reach words what an exception is for.
func reach(e api.VulnerabilityExceptionSpec) string {
	name := strings.TrimPrefix(cmp.Or(e.Registry, "docker.io/library")+"/"+e.Repository, "/")
	s := "all images"
	switch e.Scope {
	case api.ScopeRepo:
		s = name
	case api.ScopeImage:
		s = name + ":" + strings.Join(e.Tags, ", ")
		if e.Digest != "" {
			s = name + "@" + short(e.Digest)
		}
	}
	if len(e.Packages) > 0 {
		s += " (through " + strings.Join(e.Packages, ", ") + ")"
	}
	return s
}

// exceptionBody is the form of an exception, and what it would do.
type exceptionBody struct {
	CVE, Scope, Registry, Repository, Tags, Digest, Justification, Expires string
	Image                                                                  string
	Previewed                                                              bool
	Effect                                                                 *server.Impact
}

func (c *Console) newException(r *http.Request) (*page, error) {
	q := r.URL.Query()
	b := exceptionBody{CVE: q.Get("cve"), Scope: cmp.Or(q.Get("scope"), api.ScopeImage), Image: q.Get("image"), Digest: q.Get("digest"), Registry: q.Get("registry"), Repository: q.Get("repository"), Tags: q.Get("tags")}
	if ref, err := api.ParseReference(b.Image); err == nil && b.Repository == "" {
		b.Registry, b.Repository, b.Tags = ref.Registry(), ref.Repository(), ref.Tag
	}
	if b.Repository == "" {
		b.Scope = cmp.Or(q.Get("scope"), api.ScopeAny)
	}
	return &page{name: "exception", Title: "New exception", Nav: "exceptions", Body: b}, nil
}

// exceptionOf is what the form says.
func exceptionOf(form url.Values) (b exceptionBody, e api.VulnerabilityException, err error) {
	get := func(name string) string { return strings.TrimSpace(form.Get(name)) }
	b = exceptionBody{CVE: get("cve"), Scope: get("scope"), Registry: get("registry"), Repository: get("repository"), Tags: get("tags"), Digest: get("digest"), Justification: get("justification"), Expires: get("expires"), Image: get("image")}
	e.Spec = api.VulnerabilityExceptionSpec{CVE: b.CVE, Scope: b.Scope, Justification: b.Justification}
	if b.Scope != api.ScopeAny {
		e.Spec.Registry, e.Spec.Repository = b.Registry, b.Repository
	}
	if b.Scope == api.ScopeImage {
		if e.Spec.Digest = b.Digest; b.Digest == "" || form.Get("by") == "tags" {
			e.Spec.Digest = ""
			e.Spec.Tags = strings.FieldsFunc(b.Tags, func(r rune) bool { return r == ',' || r == ' ' })
		}
	}
	if b.Expires != "" {
		var t time.Time
		for _, layout := range []string{time.RFC3339, "2006-01-02T15:04", time.DateOnly} {
			if t, err = time.Parse(layout, b.Expires); err == nil {
				break
			}
		}
		if err != nil {
			return b, e, &fault{Status: http.StatusUnprocessableEntity, Title: "The exception is not valid", Detail: "Its end is a date such as 2026-12-31, counted in UTC."}
		}
		e.Spec.Expires = t.UTC().Format(time.RFC3339)
	}
	return b, e, nil
}

// addException shows what an exception would do; once that was shown, it is kept.
func (c *Console) addException(w http.ResponseWriter, r *http.Request) (*page, error) {
	if err := r.ParseForm(); err != nil {
		return nil, badForm(err)
	}
	b, e, err := exceptionOf(r.PostForm)
	if err == nil && r.PostForm.Get("do") == "save" {
		if err = c.send(r, http.MethodPost, "/exceptions", e, nil); err == nil {
			to := "/exceptions"
			if b.Image != "" && b.Digest != "" {
				to = imageURL(b.Image, b.Digest)
			}
			return seeOther(w, r, to, "The exception of "+b.CVE+" is in force")
		}
	} else if err == nil {
		if err = c.send(r, http.MethodPost, "/impact", server.ImpactQuestion{Exceptions: []api.VulnerabilityException{e}}, &b.Effect); err == nil {
			b.Previewed = true
		}
	}
	p := &page{name: "exception", Title: "New exception", Nav: "exceptions", Body: b}
	return p, p.refuse(err)
}

// refuse shows a fault on the page of the form that it is about; any other error is given back.
func (p *page) refuse(err error) error {
	var f *fault
	if err == nil || !errors.As(err, &f) {
		return err
	}
	p.Fault, p.status = f, f.Status
	return nil
}

func (c *Console) deleteException(w http.ResponseWriter, r *http.Request) (*page, error) {
	if err := r.ParseForm(); err != nil {
		return nil, badForm(err)
	}
	n := 0
	for _, name := range r.PostForm["id"] {
		if name == "" {
			continue
		}
		if err := c.send(r, http.MethodDelete, "/exceptions/"+segment(name), nil, nil); err != nil {
			return nil, err
		}
		n++
	}
	return seeOther(w, r, "/exceptions", plural(n, "exception")+" deleted")
}

type importBody struct {
	Checked *server.Imported
	Text    string
	File    string
}

func (c *Console) importPage(*http.Request) (*page, error) {
	return &page{name: "import", Title: "Import exceptions", Nav: "exceptions", Body: importBody{}}, nil
}

// importExceptions checks a file first, and takes it once its rows were seen to be good.
func (c *Console) importExceptions(w http.ResponseWriter, r *http.Request) (*page, error) {
	if err := r.ParseMultipartForm(8 << 20); err != nil {
		return nil, badForm(err)
	}
	b := importBody{Text: r.FormValue("text"), File: r.FormValue("name")}
	if file, header, err := r.FormFile("file"); err == nil {
		defer file.Close()
		content, err := io.ReadAll(file)
		if err != nil {
			return nil, badForm(err)
		}
		b.Text, b.File = string(content), header.Filename
	}
	media := "text/csv"
	if strings.HasPrefix(strings.TrimSpace(b.Text), "{") {
		media = "application/json"
	}
	p := &page{name: "import", Title: "Import exceptions", Nav: "exceptions"}
	q := url.Values{}
	if r.FormValue("do") != "save" {
		q.Set("dryRun", "true")
	}
	var done server.Imported
	err := c.ask(r, http.MethodPost, "/imports/exceptions", q, media, bytes.NewReader([]byte(b.Text)), &done)
	if err == nil && !done.DryRun {
		return seeOther(w, r, "/exceptions", plural(done.Exceptions, "exception")+" imported")
	}
	if err == nil {
		b.Checked = &done
	}
	p.Body = b
	return p, p.refuse(err)
}
