package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/server/auth"
	"github.com/assay-dev/assay/store"
)

// filter reads the parameters that narrow lists of images, within the scope of who asks.
func filter(q *query, id auth.Identity) store.Filter {
	f := store.Filter{
		Registry: api.CanonicalPrefix(q.text("registry")), Repository: q.text("repository"), Tag: q.text("tag"), Digest: q.text("digest"), Search: q.text("search"),
		CVE: q.text("cve"), Package: q.text("package"), Version: q.text("version"), Cluster: q.text("cluster"), Namespace: q.text("namespace"),
		Running: q.flag("running"), Stale: q.flag("stale"), KEV: q.flag("kev"), Fixable: q.flag("fixable"), Dismissed: q.flag("dismissed"),
		EPSS: q.number("epss", 0, 1), Score: q.number("score", 0, 10), ScannedAfter: q.time("scanned_after"), ScannedBefore: q.time("scanned_before"),
		Within: id.Scope.Registry,
	}
	for _, r := range q.list("result") {
		switch api.Result(r) {
		case api.Pass, api.Warned, api.Fail, api.Unknown:
			f.Results = append(f.Results, api.Result(r))
		default:
			q.fault("result", "must be of Pass, Warn, Fail and Unknown, with commas, not %.40q", r)
		}
	}
	f.Cluster = q.within(id, f.Cluster)
	return f
}

// filter reads the same, and the versions of a package that are below one.
func (s *Server) filter(r *http.Request, q *query) store.Filter {
	f, below := filter(q, identity(r)), q.text("below")
	if below == "" {
		return f
	}
	if f.Package == "" || f.Version != "" {
		q.fault("below", "needs the name of a package beside it, and no version")
		return f
	}
	list, err := s.below(r.Context(), store.PackageFilter{Name: f.Package}, below)
	if err != nil {
		q.fault("below", "%v", err)
		return f
	}
	f.Versions = []string{}
	for _, p := range list {
		f.Versions = append(f.Versions, p.Version)
	}
	return f
}

// maxVersions bounds the versions of one package that are compared.
const maxVersions = 5000

// below are the packages that fit a filter with a name, in versions below one. A version that
// cannot be compared is taken for one below: who asks where something old is wants to see it.
func (s *Server) below(ctx context.Context, f store.PackageFilter, limit string) (found []store.PackageImages, err error) {
	if s.VersionBelow == nil {
		return nil, errors.New("versions are not compared here")
	}
	for p := (store.Page{Limit: 1000}); ; {
		list, err := s.Store.Packages(ctx, f, p)
		if err != nil {
			return nil, err
		}
		for _, x := range list.Items {
			if less, err := s.VersionBelow(x.Type, x.Version, limit); less || err != nil {
				found = append(found, x)
			}
		}
		if p.After = list.Next; p.After == "" {
			return found, nil
		}
		if len(found) > maxVersions {
			return nil, fmt.Errorf("there are more than %d versions: name one", maxVersions)
		}
	}
}

// filterParameters are those of filter, for the description.
var filterParameters = []parameter{
	{"registry", "all of the name but its last component, such as docker.io/library", anyText}, {"repository", "the last component of the name", anyText}, {"tag", "", anyText}, {"digest", "", anyText},
	{"search", "part of the reference, in any case", anyText}, {"cve", "the id of a vulnerability, or an alias", anyText}, {"package", "the name of a package", anyText}, {"version", "of a package", anyText}, {"below", "versions of the package that come before this one", anyText},
	{"cluster", "where it runs", anyText}, {"namespace", "where it runs", anyText}, {"running", "", aFlag}, {"stale", "whether it runs on a node that fell silent", aFlag}, {"kev", "whether a vulnerability is known to be exploited", aFlag},
	{"fixable", "whether a vulnerability has a fixed version", aFlag}, {"dismissed", "true shows those that are; else those that are not", aFlag}, {"epss", "at least, 0 to 1", numbers(0, 1)},
	{"score", "the maximum at least, 0 to 10", numbers(0, 10)}, {"scanned_after", "", aMoment}, {"scanned_before", "", aMoment}, {"result", "Pass, Warn, Fail, Unknown, with commas", someOf(results...)},
}

func (s *Server) getImages(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r)
	f, p := s.filter(r, q), q.page()
	if err := q.err(); err != nil {
		return err
	}
	list, err := s.Store.Images(r.Context(), f, p)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, list)
}

// CountList are numbers of images by result.
type CountList struct {
	Counts map[api.Result]int `json:"counts"`
}

func (s *Server) getCounts(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r)
	f := s.filter(r, q)
	if err := q.err(); err != nil {
		return err
	}
	counts, err := s.Store.Counts(r.Context(), f)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, CountList{counts})
}

// ImageView is all that is known of a digest.
type ImageView struct {
	Digest string `json:"digest"`
	// References are its rows in lists, one for each name.
	References []store.Image `json:"references"`
	// Scan is the newest one without error, as the reference that was asked for has it:
	// with its result and the exceptions that cover its vulnerabilities.
	Scan *api.Scan `json:"scan,omitempty"`
	// Base is what it is built on; absent where nothing is known, and for tokens with a scope.
	Base *BaseView `json:"base,omitempty"`
	// Evidence is what is known of its packages, and by whom; of another cluster's nothing is told to
	// tokens with a scope. Disagree says that some of it is of other packages.
	Evidence []store.Evidence `json:"evidence"`
	Disagree bool             `json:"disagree,omitempty"`
}

// references are the rows of a digest that the caller may see.
func (s *Server) references(r *http.Request, digest string) ([]store.Image, error) {
	all := false
	f, err := imageFilter(r, digest)
	if err != nil {
		return nil, err
	}
	var rows []store.Image
	for _, dismissed := range []*bool{nil, &all} {
		if dismissed != nil {
			*dismissed = true
		}
		f.Dismissed = dismissed
		list, err := s.Store.Images(r.Context(), f, store.Page{Limit: 1000})
		if err != nil {
			return nil, err
		}
		rows = append(rows, list.Items...)
	}
	if len(rows) == 0 {
		return nil, store.ErrNotFound
	}
	return rows, nil
}

func (s *Server) getImage(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r)
	reference := q.reference("reference")
	cluster := cmp.Or(identity(r).Scope.Cluster, q.text("cluster"))
	if err := q.err(); err != nil {
		return err
	}
	view := ImageView{Digest: r.PathValue("digest")}
	var err error
	if view.References, err = s.references(r, view.Digest); err != nil {
		return err
	}
	if reference == "" {
		reference = view.References[0].Image
	} else if !identity(r).Scope.All() && !slices.ContainsFunc(view.References, func(m store.Image) bool { return api.SameReference(m.Image, reference) }) {
		return forbidden("the token is for %s", identity(r).Scope)
	}
	if view.Evidence, view.Disagree, err = s.evidence(r, view.Digest); err != nil {
		return err
	}
	scan, reader, err := s.Store.Scan(r.Context(), view.Digest, reference, cluster)
	if errors.Is(err, store.ErrNotFound) {
		return answer(w, http.StatusOK, view)
	}
	if err != nil {
		return err
	}
	if err := s.Live.Engine().In(reader).Annotate(r.Context(), reference, view.Digest, &scan, s.Now()); err != nil {
		return err
	}
	scan.Image, view.Scan = reference, &scan
	if view.Base, err = s.base(r, reference, &scan); err != nil {
		return err
	}
	return answer(w, http.StatusOK, view)
}

// evidence is what is known of a digest, and whether it disagrees, as far as the scope reaches.
func (s *Server) evidence(r *http.Request, digest string) ([]store.Evidence, bool, error) {
	list, _, err := s.Store.Evidence(r.Context(), digest)
	if err != nil {
		return nil, false, err
	}
	scope := identity(r).Scope
	list = slices.DeleteFunc(list, func(e store.Evidence) bool {
		return scope.Cluster != "" && e.Scope.Cluster != "" && e.Scope.Cluster != scope.Cluster || scope.Group != "" && e.Scope.Group != "" && e.Scope.Group != scope.Group ||
			!scope.All() && scope.Cluster == "" && e.Scope.Cluster != ""
	})
	return append([]store.Evidence{}, list...), store.Disagree(list), nil
}

// Items is a list that comes whole.
type Items[T any] struct {
	Items []T `json:"items"`
}

func itemsOf[T any](list []T) Items[T] {
	if list == nil {
		list = []T{}
	}
	return Items[T]{list}
}

func (s *Server) getHistory(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r)
	before, limit := q.older(), q.integer("limit", 1, 1000)
	if err := q.err(); err != nil {
		return err
	}
	if _, err := s.references(r, r.PathValue("digest")); err != nil {
		return err
	}
	list, err := s.Store.History(r.Context(), r.PathValue("digest"), before, int(cmp.Or(limit, 100)))
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, itemsOf(list))
}

func (s *Server) getSBOM(w http.ResponseWriter, r *http.Request) error {
	if _, err := s.references(r, r.PathValue("digest")); err != nil {
		return err
	}
	kept, err := s.sbom(r)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Disposition", `attachment; filename="`+strings.ReplaceAll(r.PathValue("digest"), ":", "-")+`.syft.json"`)
	_, _ = w.Write(kept.Document)
	return nil
}

// sbom is the SBOM of the evidence that counts newest within the scope.
func (s *Server) sbom(r *http.Request) (store.SBOM, error) {
	list, _, err := s.evidence(r, r.PathValue("digest"))
	if err != nil {
		return store.SBOM{}, err
	}
	slices.SortStableFunc(list, func(a, b store.Evidence) int { return b.Found.Compare(a.Found) })
	for _, e := range list {
		kept, err := s.Store.SBOM(r.Context(), e.Piece)
		if err == nil || !errors.Is(err, store.ErrNotFound) {
			return kept, err
		}
	}
	return store.SBOM{}, store.ErrNotFound
}

// Dismissal says whether lists hide an image.
type Dismissal struct {
	Dismissed bool `json:"dismissed"`
}

// dismissedImage is what the audit log has of an image.
type dismissedImage struct {
	Images    []string `json:"images"`
	Dismissed bool     `json:"dismissed"`
}

func (s *Server) putDismissed(w http.ResponseWriter, r *http.Request) error {
	var d Dismissal
	if err := s.decode(w, r, &d); err != nil {
		return err
	}
	if err := s.change(r, func(a *audited) error {
		names, was, err := a.NamesOf(r.Context(), r.PathValue("digest"))
		if err != nil {
			return err
		}
		if err := a.note("dismiss", auditImage, r.PathValue("digest"), dismissedImage{names, was}, dismissedImage{names, d.Dismissed}); err != nil {
			return err
		}
		return a.Dismiss(r.Context(), r.PathValue("digest"), d.Dismissed)
	}); err != nil {
		return err
	}
	return answer(w, http.StatusOK, d)
}

func (s *Server) deleteImage(w http.ResponseWriter, r *http.Request) error {
	if err := s.change(r, func(a *audited) error {
		names, was, err := a.NamesOf(r.Context(), r.PathValue("digest"))
		if err != nil {
			return err
		}
		if err := a.note("remove", auditImage, r.PathValue("digest"), dismissedImage{names, was}, nil); err != nil {
			return err
		}
		return a.DeleteImage(r.Context(), r.PathValue("digest"))
	}); err != nil {
		return err
	}
	s.settled(r.Context())
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) getVulnerabilities(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r)
	f := store.VulnerabilityFilter{ID: q.text("id"), Severity: q.text("severity"), Package: q.text("package"), KEV: q.flag("kev"), EPSS: q.number("epss", 0, 1), Score: q.number("score", 0, 10)}
	p := q.page()
	if err := q.err(); err != nil {
		return err
	}
	list, err := s.Store.Vulnerabilities(r.Context(), f, p)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, list)
}

// VulnerabilityView is a vulnerability and where it is.
type VulnerabilityView struct {
	store.Vulnerability
	// Affected are packages of images, at most 10,000.
	Affected []store.Affected `json:"affected"`
}

func (s *Server) getVulnerability(w http.ResponseWriter, r *http.Request) error {
	v, list, err := s.Store.Affected(r.Context(), r.PathValue("id"), 10_000)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, VulnerabilityView{v, list})
}

func (s *Server) getPackages(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r)
	below := q.text("below")
	f := store.PackageFilter{Name: q.text("name"), Version: q.text("version"), Type: q.text("type"), Search: q.text("search"), Digest: q.text("digest")}
	p := q.page()
	if err := q.err(); err != nil {
		return err
	}
	if below != "" {
		if f.Name == "" {
			return bad("below needs the name of a package beside it")
		}
		found, err := s.below(r.Context(), f, below)
		if err != nil {
			return bad("below: %v", err)
		}
		return answer(w, http.StatusOK, store.List[store.PackageImages]{Items: itemsOf(found).Items})
	}
	list, err := s.Store.Packages(r.Context(), f, p)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, list)
}

func (s *Server) getInstances(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r)
	f, p := s.filter(r, q), q.page()
	if err := q.err(); err != nil {
		return err
	}
	list, err := s.Store.Instances(r.Context(), f, p)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, list)
}

func (s *Server) getNames(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r)
	image := q.text("image")
	if err := q.err(); err != nil {
		return err
	}
	ref, err := api.ParseReference(image)
	if err != nil {
		return bad("image: %v", err)
	}
	if !identity(r).Scope.AllowsImage(image) {
		return forbidden("the token is for %s", identity(r).Scope)
	}
	list, err := s.Store.Names(r.Context(), ref.Name(), 1000)
	if err != nil {
		return err
	}
	if cluster := q.within(identity(r), ""); cluster != "" || q.denied != nil {
		if q.denied != nil {
			return q.denied
		}
		if list, err = s.namesIn(r.Context(), cluster, ref, list); err != nil {
			return err
		}
	}
	return answer(w, http.StatusOK, itemsOf(list))
}

// namesIn are the observations that a cluster made itself, and of those that all share the ones whose
// images run there, by their own digest or by that of an index that leads to one.
func (s *Server) namesIn(ctx context.Context, cluster string, ref api.Reference, all []store.NameObservation) (list []store.NameObservation, err error) {
	runs := map[string]bool{}
	for p := (store.Page{Limit: 1000}); ; {
		rows, err := s.Store.Images(ctx, store.Filter{Cluster: cluster, Registry: ref.Registry(), Repository: ref.Repository()}, p)
		if err != nil {
			return nil, err
		}
		for _, m := range rows.Items {
			runs[m.Digest] = true
		}
		if p.After = rows.Next; p.After == "" {
			break
		}
	}
	var shared []string
	for _, o := range all {
		if o.Cluster == "" && !runs[o.Digest] {
			shared = append(shared, o.Digest)
		}
	}
	leads := map[string]bool{}
	look := func(x store.IndexDocument) error {
		for _, platform := range x.Platforms {
			leads[x.Digest] = leads[x.Digest] || runs[platform]
		}
		return nil
	}
	if err := s.Store.View(ctx, func(t *store.Tx) error {
		if err := t.Indexes(ctx, append([]string{}, shared...), look); err != nil {
			return err
		}
		return t.ClaimsReadBy(ctx, cluster, append([]string{}, shared...), look)
	}); err != nil {
		return nil, err
	}
	for _, o := range all {
		if o.Cluster == cluster || o.Cluster == "" && (runs[o.Digest] || leads[o.Digest]) {
			list = append(list, o)
		}
	}
	return list, nil
}

func (s *Server) getEvents(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r)
	f := store.EventFilter{Image: q.text("image"), Digest: q.text("digest"), Result: api.Result(q.oneOf("result", results...)), Type: api.EventType(q.oneOf("type", string(api.ImageDetection), string(api.PodDetection))), Changed: q.flag("changed"), Since: q.time("since"), Until: q.time("until")}
	p := q.page()
	if err := q.err(); err != nil {
		return err
	}
	list, err := s.Store.Events(r.Context(), f, p)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, list)
}

func (s *Server) getMenu(of string) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		list, err := s.Store.Menu(r.Context(), of)
		if err != nil {
			return err
		}
		return answer(w, http.StatusOK, itemsOf(list))
	}
}
