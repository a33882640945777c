package console

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/assay-dev/assay/server"
	"github.com/assay-dev/assay/store"
)

func (c *Console) vulnerabilities(r *http.Request) (*page, error) {
	l := &list{Noun: "CVE", Filters: []filter{
		{Name: "id", Label: "CVE", Hint: "part of the id"},
		{Name: "package", Label: "Package", Hint: "openssl"},
		{Name: "severity", Label: "Severity", Options: []option{{"", "any"}, {"Critical", "Critical"}, {"High", "High"}, {"Medium", "Medium"}, {"Low", "Low"}, {"Negligible", "Negligible"}, {"Unknown", "Unknown"}}},
		{Name: "kev", Label: "Known exploited", Options: yesNo},
		{Name: "epss", Label: "EPSS at least", Hint: "0 to 1", More: true},
		{Name: "score", Label: "Score at least", Hint: "0 to 10", More: true},
	}, Columns: []column{
		{Name: "id", Label: "CVE", Sort: "id"}, {Name: "severity", Label: "Severity"}, {Name: "score", Label: "CVSS", Sort: "score", Down: true, Number: true},
		{Name: "epss", Label: "EPSS", Sort: "epss", Down: true, Number: true}, {Name: "kev", Label: "Known exploited"}, {Name: "images", Label: "Images", Sort: "images", Down: true, Number: true},
	}}
	q := l.read(r)
	if q.Get("sort") == "" {
		q.Set("sort", "-score")
	}
	var found store.List[store.Vulnerability]
	if err := c.get(r, "/vulnerabilities", q, &found); err != nil {
		return nil, err
	}
	for _, v := range found.Items {
		images := number(v.Images)
		images.Link = withQuery("/images", "cve", v.ID)
		l.Rows = append(l.Rows, row{Cells: []cell{linkTo(v.ID, "/vulnerabilities/"+url.PathEscape(v.ID)), {Kind: "severity", Text: v.Severity}, scoreCell(v.Score), epssCell(v.EPSS), flagCell(v.KEV, "exploited"), images}})
	}
	l.Empty = "No vulnerability fits. Nothing was found in any image, or the filters leave nothing."
	l.finish(r, "-score", found.Next)
	return &page{name: "list", Title: "CVEs", Nav: "vulnerabilities", Live: "image", Body: l}, nil
}

type vulnerabilityBody struct {
	View server.VulnerabilityView
	// Images have it, Runs are containers of them.
	Images []store.Image
	Runs   []store.RunningInstance
	More   bool
	// Fixable are the images in which a package has a fixed version.
	Packages []affectedPackage
	Excepted []server.ListedException
	// MoreExcepted says that there are more exceptions than are shown.
	MoreExcepted bool
}

type affectedPackage struct {
	store.Package
	Images  int
	Fixable bool
}

func (c *Console) vulnerability(r *http.Request) (*page, error) {
	id := r.PathValue("id")
	var b vulnerabilityBody
	if err := c.get(r, "/vulnerabilities/"+segment(id), nil, &b.View); err != nil {
		return nil, err
	}
	var images store.List[store.Image]
	if err := c.get(r, "/images", url.Values{"cve": {id}, "limit": {fmt.Sprint(most)}, "sort": {"-instances"}}, &images); err != nil {
		return nil, err
	}
	b.Images, b.More = images.Items, images.Next != ""
	var runs store.List[store.RunningInstance]
	if err := c.get(r, "/instances", url.Values{"cve": {id}, "limit": {fmt.Sprint(most)}}, &runs); err != nil {
		return nil, err
	}
	b.Runs = runs.Items
	at := map[store.Package]int{}
	for _, a := range b.View.Affected {
		i, ok := at[a.Package]
		if !ok {
			i = len(b.Packages)
			at[a.Package] = i
			b.Packages = append(b.Packages, affectedPackage{Package: a.Package})
		}
		b.Packages[i].Images++
		b.Packages[i].Fixable = b.Packages[i].Fixable || a.Fixable
	}
	var excepted store.List[server.ListedException]
	if err := c.get(r, "/exceptions", url.Values{"cve": {id}, "limit": {"50"}}, &excepted); err != nil {
		return nil, err
	}
	b.Excepted, b.MoreExcepted = excepted.Items, excepted.Next != ""
	return &page{name: "vulnerability", Title: b.View.ID, Nav: "vulnerabilities", Live: "image exceptions", Body: &b}, nil
}

func (c *Console) packages(r *http.Request) (*page, error) {
	l := &list{Noun: "package", Filters: []filter{
		{Name: "search", Label: "Package", Hint: "part of the name"}, {Name: "version", Label: "Version"},
		{Name: "type", Label: "Type", Hint: "deb, java-archive"}, {Name: "name", Label: "Exact name", Hint: "log4j-core", More: true}, {Name: "below", Label: "Versions below, of the exact name", Hint: "2.17", More: true},
	}, Columns: []column{{Name: "name", Label: "Package"}, {Name: "version", Label: "Version"}, {Name: "type", Label: "Type"}, {Name: "images", Label: "Images", Number: true}}}
	q := l.read(r)
	var found store.List[store.PackageImages]
	if err := c.get(r, "/packages", q, &found); err != nil {
		return nil, err
	}
	for _, p := range found.Items {
		images := number(p.Images)
		images.Link = withQuery("/images", "package", p.Name, "version", p.Version)
		l.Rows = append(l.Rows, row{Cells: []cell{text(p.Name), {Kind: "code", Text: p.Version}, text(p.Type), images}})
	}
	l.Empty = "No package fits. Packages come with SBOMs: upload one with “assay scan --apiurl”, or POST /api/v1/sboms."
	l.finish(r, "", found.Next)
	return &page{name: "list", Title: "Packages", Nav: "packages", Live: "sbom", Body: l}, nil
}
