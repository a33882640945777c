package console

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/server"
	"github.com/assay-dev/assay/store"
)

// known are the results of images that were scanned.
const known = "Fail,Warn,Pass"

// imageFilters are those of the list of images, the usual ones first.
func imageFilters() []filter {
	results := []option{{known, "any but Unknown"}, {"", "any"}, {"Fail", "Fail"}, {"Warn", "Warn"}, {"Pass", "Pass"}, {"Unknown", "Unknown"}, {"Fail,Warn", "Fail or Warn"}}
	return []filter{
		{Name: "search", Label: "Image", Hint: "part of the reference"},
		{Name: "cve", Label: "CVE", Hint: "CVE-2026-1234 or an alias"},
		{Name: "result", Label: "Result", Options: results},
		{Name: "namespace", Label: "Namespace", Hint: "where it runs"},
		{Name: "running", Label: "Running", Options: yesNo, More: true},
		{Name: "cluster", Label: "Cluster", Hint: "where it runs", More: true},
		{Name: "registry", Label: "Registry", Hint: "docker.io/library", More: true},
		{Name: "repository", Label: "Repository", Hint: "nginx", More: true},
		{Name: "tag", Label: "Tag", More: true},
		{Name: "package", Label: "Package", Hint: "log4j-core", More: true},
		{Name: "version", Label: "Package version", More: true},
		{Name: "below", Label: "Versions below", Hint: "2.17", More: true},
		{Name: "kev", Label: "Known exploited", Options: yesNo, More: true},
		{Name: "fixable", Label: "Has a fix", Options: yesNo, More: true},
		{Name: "epss", Label: "EPSS at least", Hint: "0 to 1", More: true},
		{Name: "score", Label: "Score at least", Hint: "0 to 10", More: true},
		{Name: "digest", Label: "Digest", Hint: "sha256:…", More: true},
		{Name: "dismissed", Label: "Dismissed", Options: []option{{"", "no"}, {"true", "yes"}}, More: true},
	}
}

func (c *Console) images(r *http.Request) (*page, error) {
	l := &list{Noun: "image", Filters: imageFilters(), Columns: []column{
		{Name: "image", Label: "Image", Sort: "image"},
		{Name: "result", Label: "Result", Sort: "result"},
		{Name: "score", Label: "Max CVSS", Sort: "score", Down: true, Number: true, Optional: true},
		{Name: "epss", Label: "EPSS", Number: true, Optional: true},
		{Name: "marks", Label: "Marks", Optional: true},
		{Name: "running", Label: "Running", Sort: "instances", Down: true, Number: true, Optional: true},
		{Name: "scanned", Label: "Last scan", Sort: "scanned", Down: true, Optional: true},
		{Name: "digest", Label: "Digest", Optional: true},
		{Name: "packages", Label: "Packages", Number: true, Optional: true, Hidden: true},
		{Name: "distro", Label: "Distribution", Optional: true, Hidden: true},
		{Name: "first", Label: "First seen", Optional: true, Hidden: true},
	}}
	q := l.read(r)
	if !r.URL.Query().Has("result") { // what was never scanned would hide what was
		l.choose("result", known)
		q.Set("result", known)
	}
	if q.Get("sort") == "" {
		q.Set("sort", "-score")
	}
	var found store.List[store.Image]
	if err := c.get(r, "/images", q, &found); err != nil {
		return nil, err
	}
	for _, m := range found.Items {
		marks := cell{Kind: "chips"}
		for _, x := range []struct {
			on   bool
			text string
		}{{m.KEV, "exploited"}, {m.Fixable, "fix"}, {m.Error != "", "last scan failed"}, {m.Dismissed, "dismissed"}} {
			if x.on {
				marks.List = append(marks.List, link{Text: x.text})
			}
		}
		running := number(m.Instances)
		if m.Instances > 0 {
			running.Link = withQuery("/running", "digest", m.Digest)
			running.Title = strings.Join(m.Clusters, ", ")
		}
		l.Rows = append(l.Rows, row{ID: m.Digest, Cells: []cell{{Kind: "image", Text: m.Image, Link: imageURL(m.Image, m.Digest)}, resultCell(m.Result), scoreCell(m.MaxCVSS), epssCell(m.EPSS), marks, running,
			when(m.ScannedAt), digestCell(m.Digest), number(m.Packages), text(m.Distro), when(m.FirstSeen)}})
	}
	for i := range l.Rows {
		if l.Rows[i].ID == "" { // nothing can be asked about an image whose digest is not known
			l.Rows[i].Cells[0].Link = ""
		}
	}
	l.Exports = exports(q, link{"CSV, a row for each image", "/api/v1/exports/images.csv"}, link{"CSV, with the pods", "/api/v1/exports/images.csv?pods=true"},
		link{"CSV, a row for each image and CVE", "/api/v1/exports/vulnerabilities.csv"}, link{"JSON", "/api/v1/exports/images.json"})
	l.Actions = []action{{"dismiss", "Dismiss", ""}, {"show", "Show again", ""}, {"rescan", "Scan again", ""}, {"delete", "Delete", "Delete what is known of the marked images?"}}
	l.Empty = "No image fits. Scan one with “assay scan IMAGE --apiurl URL --token TOKEN”, or take filters away."
	l.finish(r, "-score", found.Next)
	return &page{name: "list", Title: "Images", Nav: "images", Live: "results image scan", Body: l}, nil
}

// changeImages does what a button says to the images that are marked.
func (c *Console) changeImages(w http.ResponseWriter, r *http.Request) (*page, error) {
	if err := r.ParseForm(); err != nil {
		return nil, badForm(err)
	}
	marked, done := slices.Compact(slices.Sorted(slices.Values(r.PostForm["id"]))), ""
	what := r.PostForm.Get("action")
	if len(marked) == 0 {
		return nil, &fault{Status: http.StatusUnprocessableEntity, Title: "No image is marked", Detail: "Mark one or more rows of the list, and press the button again."}
	}
	for _, digest := range marked {
		var err error
		switch what {
		case "dismiss", "show":
			done = map[string]string{"dismiss": "dismissed", "show": "shown again"}[what]
			err = c.send(r, http.MethodPut, "/images/"+segment(digest)+"/dismissed", server.Dismissal{Dismissed: what == "dismiss"}, nil)
		case "delete":
			done = "deleted"
			err = c.send(r, http.MethodDelete, "/images/"+segment(digest), nil, nil)
		case "rescan":
			done = "asked to be scanned"
			var view server.ImageView
			if err = c.get(r, "/images/"+segment(digest), nil, &view); err == nil {
				err = c.send(r, http.MethodPost, "/scan-requests", server.ScanRequest{Images: []string{view.References[0].Image}}, nil)
			}
		default:
			return nil, &fault{Status: http.StatusBadRequest, Title: "Nothing was done", Detail: "The form says nothing that is known here."}
		}
		if err != nil {
			return nil, err
		}
	}
	return seeOther(w, r, r.URL.RequestURI(), plural(len(marked), "image")+" "+done)
}

func badForm(err error) error {
	return &fault{Status: http.StatusBadRequest, Title: "The form could not be read", Detail: err.Error()}
}

func (c *Console) running(r *http.Request) (*page, error) {
	filters := imageFilters()
	filters = slices.DeleteFunc(filters, func(f filter) bool { return f.Name == "running" || f.Name == "dismissed" })
	for i := range filters {
		if filters[i].Name == "result" {
			filters[i].Options = filters[i].Options[1:]
		}
		if filters[i].Name == "cluster" {
			filters[i].More = false
		}
	}
	l := &list{Noun: "container", Filters: filters, Columns: []column{
		{Name: "cluster", Label: "Cluster", Optional: true}, {Name: "namespace", Label: "Namespace"}, {Name: "pod", Label: "Pod"}, {Name: "container", Label: "Container", Optional: true},
		{Name: "image", Label: "Image"}, {Name: "result", Label: "Result"}, {Name: "score", Label: "Max CVSS", Number: true, Optional: true},
		{Name: "node", Label: "Node", Optional: true}, {Name: "since", Label: "Runs since", Optional: true}, {Name: "seen", Label: "Last seen", Optional: true, Hidden: true},
	}}
	q := l.read(r)
	var found store.List[store.RunningInstance]
	if err := c.get(r, "/instances", q, &found); err != nil {
		return nil, err
	}
	for _, i := range found.Items {
		image := cell{Kind: "image", Text: i.Image}
		if i.Digest != "" {
			image.Link = imageURL(i.Image, i.Digest)
		}
		l.Rows = append(l.Rows, row{Cells: []cell{text(i.Cluster), text(i.Namespace), text(i.Pod), text(i.Container), image, resultCell(i.Result), scoreCell(i.MaxCVSS), nodeCell(i), when(i.FirstSeen), when(i.LastSeen)}})
	}
	l.Exports = exports(q, link{"CSV", "/api/v1/exports/images.csv?pods=true&running=true"})
	l.Empty = "No container that is known fits. What runs is reported by “assay node” on each node, or by PUT /api/v1/instances."
	l.finish(r, "", found.Next)
	return &page{name: "list", Title: "Running images", Nav: "running", Live: "instances results", Body: l}, nil
}

func nodeCell(i store.RunningInstance) cell {
	c := text(i.Node)
	if i.Stale {
		c = cell{Kind: "chips", List: []link{{Text: i.Node}, {Text: "silent"}}}
	}
	return c
}

// imageBody is all of the page of one image.
type imageBody struct {
	View      server.ImageView
	Reference string
	Row       store.Image
	Counted   int // vulnerabilities that no exception covers
	Excepted  int
	Fixable   int
	Shown     []api.Vulnerability
	More      int
	Filter    struct{ Search, Fix, Covered string }
	Runs      []store.RunningInstance
	History   []store.ScanSummary
	Packages  []store.PackageImages
	Changes   []store.StoredEvent
	Why       []api.Vulnerability // the worst that count
	Admission *admission
	First     []api.Action
	Actions   int
	Later     bool // the order of actions is being made
}

// Instruction is what made a layer, by its digest or the digest of its tar.
func (b *imageBody) Instruction(layer string) string {
	for _, l := range b.View.Scan.Layers {
		if layer != "" && (l.Digest == layer || l.DiffID == layer) {
			return l.CreatedBy
		}
	}
	return ""
}

// admission is what would be said of a Pod that runs an image.
type admission struct {
	Namespace, Labels string
	Fault             *fault
	Explained         *api.Explanation
}

// most are the rows of a table inside a page.
const most = 100

func (c *Console) image(r *http.Request) (*page, error) {
	digest, asked := r.PathValue("digest"), r.URL.Query()
	b := imageBody{Reference: asked.Get("reference")}
	q := url.Values{}
	if b.Reference != "" {
		q.Set("reference", b.Reference)
	}
	path := "/images/" + segment(digest)
	err := c.get(r, path, q, &b.View)
	if err != nil {
		return nil, err
	}
	b.Row = b.View.References[0]
	for _, x := range b.View.References {
		if api.SameReference(x.Image, b.Reference) {
			b.Row = x
		}
	}
	b.Reference = b.Row.Image
	if err := c.vulnerabilitiesOf(&b, asked); err != nil {
		return nil, err
	}
	if b.Admission, err = c.admission(r, b.Reference); err != nil {
		return nil, err
	}
	// After a start or a large change the order is made anew, which the rest of the page does not wait for.
	soon, cancel := context.WithTimeout(r.Context(), 300*time.Millisecond)
	defer cancel()
	var first server.PriorityList
	err = c.get(r.WithContext(soon), path+"/priorities", url.Values{"reference": {b.Reference}, "limit": {"5"}}, &first)
	if err != nil && soon.Err() == nil {
		return nil, err
	}
	b.First, b.Actions, b.Later = first.Items, first.Total, err != nil
	var runs store.List[store.RunningInstance]
	if err := c.get(r, "/instances", url.Values{"digest": {digest}, "limit": {fmt.Sprint(most)}}, &runs); err != nil {
		return nil, err
	}
	b.Runs = runs.Items
	var history server.Items[store.ScanSummary]
	if err := c.get(r, path+"/scans", url.Values{"limit": {"20"}}, &history); err != nil {
		return nil, err
	}
	b.History = history.Items
	var events store.List[store.StoredEvent]
	if err := c.get(r, "/events", url.Values{"digest": {digest}, "changed": {"true"}, "limit": {"20"}}, &events); err != nil {
		return nil, err
	}
	b.Changes = events.Items
	var packages store.List[store.PackageImages]
	if err := c.get(r, "/packages", url.Values{"digest": {digest}, "limit": {fmt.Sprint(most)}}, &packages); err != nil {
		return nil, err
	}
	b.Packages = packages.Items
	return &page{name: "image", Title: b.Reference, Nav: "images", Live: "results image exceptions", Body: &b}, nil
}

// vulnerabilitiesOf are those of an image that fit the filters of its page.
func (c *Console) vulnerabilitiesOf(b *imageBody, asked url.Values) error {
	if b.View.Scan == nil {
		return nil
	}
	b.Filter.Search, b.Filter.Fix, b.Filter.Covered = strings.TrimSpace(asked.Get("find")), asked.Get("fix"), asked.Get("covered")
	all := slices.Clone(b.View.Scan.Vulnerabilities)
	slices.SortStableFunc(all, func(x, y api.Vulnerability) int {
		return cmp.Or(cmp.Compare(orZero(y.CVSS), orZero(x.CVSS)), cmp.Compare(orZero(y.EPSS), orZero(x.EPSS)))
	})
	find := strings.ToLower(b.Filter.Search)
	for _, v := range all {
		covered := v.Exception != nil
		if covered {
			b.Excepted++
		} else {
			b.Counted++
			if len(b.Why) < 5 && v.CVSS != nil {
				b.Why = append(b.Why, v)
			}
		}
		if v.Fix.State == "fixed" {
			b.Fixable++
		}
		switch {
		case find != "" && !strings.Contains(strings.ToLower(v.ID+" "+strings.Join(v.Aliases, " ")+" "+v.Package), find),
			b.Filter.Fix == "true" && v.Fix.State != "fixed", b.Filter.Fix == "false" && v.Fix.State == "fixed",
			b.Filter.Covered == "true" && !covered, b.Filter.Covered == "false" && covered:
		case len(b.Shown) == most:
			b.More++
		default:
			b.Shown = append(b.Shown, v)
		}
	}
	return nil
}

func orZero(f *float64) float64 {
	if f == nil {
		return -1
	}
	return *f
}

// admission asks what would be decided about a Pod with an image, in a namespace with labels
// written as key=value, with commas.
func (c *Console) admission(r *http.Request, image string) (*admission, error) {
	asked := r.URL.Query()
	a := &admission{Namespace: cmp.Or(strings.TrimSpace(asked.Get("namespace")), "default"), Labels: strings.TrimSpace(asked.Get("labels"))}
	labels := map[string]string{}
	for _, pair := range strings.FieldsFunc(a.Labels, func(r rune) bool { return r == ',' || r == ' ' }) {
		key, value, _ := strings.Cut(pair, "=")
		labels[key] = value
	}
	labels["kubernetes.io/metadata.name"] = a.Namespace
	review := map[string]any{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "namespaceLabels": labels, "request": map[string]any{
		"uid": "console", "kind": map[string]string{"group": "", "version": "v1", "kind": "Pod"}, "resource": map[string]string{"group": "", "version": "v1", "resource": "pods"},
		"namespace": a.Namespace, "name": "pod", "operation": "CREATE", "userInfo": map[string]any{"username": "console"},
		"object": map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "pod", "namespace": a.Namespace}, "spec": map[string]any{"containers": []any{map[string]string{"name": "main", "image": image}}}},
	}}
	err := c.send(r, http.MethodPost, "/explain", review, &a.Explained)
	if errors.As(err, &a.Fault) {
		return a, nil
	}
	return a, err
}

// prioritiesBody is a page of what to do first.
type prioritiesBody struct {
	list
	server.PriorityList
}

// priorities are what to do first in the images that fit the filters.
func (c *Console) priorities(r *http.Request) (*page, error) {
	b := &prioritiesBody{list: list{Noun: "action", Filters: slices.DeleteFunc(imageFilters(), func(f filter) bool { return f.Name == "result" })}}
	q := b.read(r)
	q.Del("sort")
	q.Set("limit", "25")
	if err := c.get(r, "/priorities", q, &b.PriorityList); err != nil {
		return nil, err
	}
	b.finish(r, "", b.PriorityList.Next)
	return &page{name: "priorities", Title: "Fix first", Nav: "priorities", Live: "results instances", Body: b}, nil
}
