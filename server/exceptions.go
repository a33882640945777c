package server

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/policies/exceptions"
	"github.com/assay-dev/assay/server/follow"
	"github.com/assay-dev/assay/store"
)

// ListedException is an exception with where it comes from.
type ListedException struct {
	api.VulnerabilityException
	// Origin is "api", or "policies" for one of the policies folder, which the API cannot change.
	Origin string `json:"origin"`
	// InForce is false for one that came to its end.
	InForce bool `json:"in_force"`
	// Images are how many images have the vulnerability, whether or not it is excepted for them.
	Images int `json:"images"`
}

// exceptionPlace is where an exception stands in the list: those of the API come before those of the policies that are
// equal otherwise. As base64 of JSON it is the cursor of the list.
type exceptionPlace struct {
	store.ExceptionKey
	Origin string `json:"origin"`
}

func (p exceptionPlace) compare(other exceptionPlace) int {
	return cmp.Or(p.Compare(other.ExceptionKey), cmp.Compare(p.Origin, other.Origin))
}

func (p exceptionPlace) String() string {
	text, err := json.Marshal(p)
	if err != nil {
		panic(err) // texts have a JSON form
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// exceptionPlaceOf reads a cursor; nil for "".
func exceptionPlaceOf(cursor string) (*exceptionPlace, error) {
	if cursor == "" {
		return nil, nil
	}
	p := &exceptionPlace{}
	text, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || json.Unmarshal(text, p) != nil || p.End == "" || p.Origin == "" {
		return nil, store.ErrCursor
	}
	return p, nil
}

func (s *Server) getExceptions(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r)
	page, origin := q.page(), q.oneOf("origin", "api", "policies")
	f := store.ExceptionFilter{CVE: q.text("cve"), InForce: q.flag("in_force"), Now: s.Now()}
	if err := q.err(); err != nil {
		return err
	}
	after, err := exceptionPlaceOf(page.After)
	if err != nil {
		return err
	}
	limit := cmp.Or(page.Limit, 100)
	list := []ListedException{}
	add := func(e api.VulnerabilityException, from string) {
		list = append(list, ListedException{VulnerabilityException: e, Origin: from})
	}
	if set, _, _ := s.Live.Policies(); set != nil && origin != "api" {
		for _, e := range set.Exceptions {
			if p := (exceptionPlace{store.KeyOf(e), "policies"}); f.Fits(p.ExceptionKey) && (after == nil || p.compare(*after) > 0) {
				add(e, p.Origin)
			}
		}
	}
	err = s.Store.View(r.Context(), func(t *store.Tx) error {
		if origin == "policies" {
			return nil
		}
		var key *store.ExceptionKey
		if after != nil {
			key = &after.ExceptionKey
		}
		kept, err := t.ExceptionsAfter(r.Context(), f, key, limit+1)
		for _, e := range kept {
			add(e, "api")
		}
		return err
	})
	if err != nil {
		return err
	}
	placeOf := func(e ListedException) exceptionPlace {
		return exceptionPlace{store.KeyOf(e.VulnerabilityException), e.Origin}
	}
	slices.SortFunc(list, func(a, b ListedException) int { return placeOf(a).compare(placeOf(b)) })
	answered := store.List[ListedException]{Items: list}
	if len(list) > limit {
		answered.Items, answered.Next = list[:limit], placeOf(list[limit-1]).String()
	}
	ids := make([]string, len(answered.Items))
	for i, e := range answered.Items {
		ids[i] = e.Spec.CVE
	}
	images, err := s.Store.ImagesWith(r.Context(), ids)
	if err != nil {
		return err
	}
	force := true
	in := store.ExceptionFilter{InForce: &force, Now: f.Now}
	for i, e := range answered.Items {
		answered.Items[i].InForce, answered.Items[i].Images = in.Fits(placeOf(e).ExceptionKey), images[api.NormalizeID(e.Spec.CVE)]
	}
	return answer(w, http.StatusOK, answered)
}

// kept are the exceptions of the store.
func (s *Server) kept(r *http.Request) (kept []api.VulnerabilityException, err error) {
	return kept, s.Store.View(r.Context(), func(t *store.Tx) (err error) {
		kept, err = t.Exceptions(r.Context())
		return err
	})
}

// exceptionOf reads and validates one exception; what the caller need not say is filled in.
func (s *Server) exceptionOf(w http.ResponseWriter, r *http.Request, name string) (e api.VulnerabilityException, err error) {
	text, err := s.text(w, r)
	if err != nil {
		return e, err
	}
	return s.readException(r, text, name)
}

func (s *Server) readException(r *http.Request, text []byte, name string) (e api.VulnerabilityException, err error) {
	if err := decodeStrict(text, &e); err != nil {
		return e, err
	}
	e.APIVersion, e.Kind = cmp.Or(e.APIVersion, api.GroupAssay), cmp.Or(e.Kind, api.KindVulnerabilityException)
	e.Spec.Author = cmp.Or(e.Spec.Author, identity(r).Name)
	e.Spec.Created = cmp.Or(e.Spec.Created, s.Now().UTC().Format(time.RFC3339))
	if name != "" && e.Metadata.Name != "" && e.Metadata.Name != name {
		return e, unprocessable("metadata.name is %q, and the path names %q", e.Metadata.Name, name)
	}
	e.Metadata.Name = cmp.Or(name, e.Metadata.Name, nameOf(e.Spec))
	if text, err = json.Marshal(e); err != nil {
		return e, err
	}
	set, err := policies.Parse("exception.json", text)
	if err != nil {
		return e, placeless(err)
	}
	return set.Exceptions[0], nil
}

// nameOf names an exception by what it says.
func nameOf(e api.VulnerabilityExceptionSpec) string {
	sum := sha256.Sum256(fmt.Append(nil, e.CVE, e.Scope, e.Registry, e.Repository, e.Tags, e.Digest, e.Packages, e.Expires, e.Justification))
	id := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, strings.ToLower(e.CVE))
	return strings.Trim(id[:min(len(id), 60)], "-") + "-" + hex.EncodeToString(sum[:4])
}

func (s *Server) postException(w http.ResponseWriter, r *http.Request) error {
	e, err := s.exceptionOf(w, r, "")
	if err != nil {
		return err
	}
	return s.putExceptions(w, r, http.StatusCreated, false, e)
}

func (s *Server) putException(w http.ResponseWriter, r *http.Request) error {
	e, err := s.exceptionOf(w, r, r.PathValue("name"))
	if err != nil {
		return err
	}
	return s.putExceptions(w, r, http.StatusOK, true, e)
}

func (s *Server) putExceptions(w http.ResponseWriter, r *http.Request, status int, replace bool, e api.VulnerabilityException) error {
	action := map[bool]string{false: "add", true: "replace"}[replace]
	requests, err := s.except(r, action, []api.VulnerabilityException{e}, replace)
	if err != nil {
		return err
	}
	added := AddedException{VulnerabilityException: e}
	switch {
	case len(requests) > 0:
		status, added.Request = http.StatusAccepted, requests[0]
	case !s.settled(r.Context()):
		status = http.StatusAccepted
	}
	return answer(w, status, added)
}

func (s *Server) getException(w http.ResponseWriter, r *http.Request) error {
	var e api.VulnerabilityException
	err := s.Store.View(r.Context(), func(t *store.Tx) (err error) {
		e, err = t.Exception(r.Context(), r.PathValue("name"))
		return err
	})
	if err != nil {
		return err
	}
	return answerTagged(w, http.StatusOK, e, e)
}

func (s *Server) deleteException(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	if err := s.change(r, func(a *audited) error {
		was, err := a.Exception(r.Context(), name)
		if err != nil {
			return err
		}
		if err := a.matched(was); err != nil {
			return err
		}
		if err := a.note("remove", auditException, name, was, nil); err != nil {
			return err
		}
		return a.RemoveException(r.Context(), name)
	}); err != nil {
		return err
	}
	s.settled(r.Context())
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// Imported is what an import did, or with dryRun would have done.
type Imported struct {
	Exceptions int  `json:"exceptions"`
	DryRun     bool `json:"dry_run"`
	// Requests are those that somebody else must approve; until then nothing is in force.
	Requests []int64 `json:"requests,omitempty"`
}

// importExceptions takes a CSV file in Calico's columns, or an OpenVEX document: all
// or nothing. What is there already, by name, is replaced.
func (s *Server) importExceptions(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r)
	dry := q.flag("dry_run")
	if err := q.err(); err != nil {
		return err
	}
	in, err := s.body(w, r, exceptions.MaxBytes, documentCost)
	if err != nil {
		return err
	}
	defer in.Close()
	read := exceptions.ReadCSV
	switch kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); kind {
	case "text/csv", "text/plain":
	case "application/json":
		read = exceptions.ReadVEX
	default:
		return &refused{status: http.StatusUnsupportedMediaType, detail: fmt.Sprintf("Content-Type %.60q is not known here: text/csv for Calico's columns, application/json for OpenVEX", kind)}
	}
	list, err := read(in)
	if err != nil {
		if rowErrors(err) != nil {
			return err
		}
		wrong := &refused{status: http.StatusUnprocessableEntity, detail: "nothing was imported: some statements are not valid"}
		var joined interface{ Unwrap() []error }
		if !errors.As(err, &joined) {
			return unprocessable("%v", err)
		}
		for _, e := range joined.Unwrap() {
			wrong.faults = listFault(wrong.faults, Fault{Detail: e.Error()})
		}
		return wrong
	}
	now := s.Now().UTC().Format(time.RFC3339)
	for i := range list {
		list[i].Spec.Author = cmp.Or(list[i].Spec.Author, identity(r).Name)
		list[i].Spec.Created = cmp.Or(list[i].Spec.Created, now)
	}
	done := Imported{Exceptions: len(list), DryRun: dry != nil && *dry}
	if done.DryRun {
		return answer(w, http.StatusOK, done)
	}
	if len(list) == 0 {
		return answer(w, http.StatusOK, done)
	}
	if done.Requests, err = s.except(r, "import", list, true); err != nil {
		return err
	}
	status := http.StatusOK
	if len(done.Requests) > 0 || !s.settled(r.Context()) {
		status = http.StatusAccepted
	}
	return answer(w, status, done)
}

func (s *Server) exportExceptions(w http.ResponseWriter, r *http.Request) error {
	list, err := s.kept(r)
	if err != nil {
		return err
	}
	slices.SortStableFunc(list, policies.CompareExceptions)
	w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	w.Header().Set("Content-Disposition", `attachment; filename="exceptions.csv"`)
	return exceptions.WriteCSV(w, list)
}

// ThresholdsView are the thresholds in force, and where they come from.
type ThresholdsView struct {
	api.ThresholdsSpec
	Origin string `json:"origin"` // default, api, or the place in the policies folder
}

func (s *Server) getThresholds(w http.ResponseWriter, r *http.Request) error {
	t, origin := s.Live.Thresholds()
	state := thresholdsState(t, origin)
	warn, fail := policies.Limits(t)
	t.Warn, t.Fail = &warn, &fail
	return answerTagged(w, http.StatusOK, state, ThresholdsView{t, origin})
}

// thresholdsState is what If-Match compares: the thresholds as they were set, nil for the default.
func thresholdsState(t api.ThresholdsSpec, origin string) any {
	if origin == "default" {
		return nil
	}
	return t
}

// putThresholds sets all thresholds: a body names warn, fail, and each option that is set now,
// if only to take it back.
func (s *Server) putThresholds(w http.ResponseWriter, r *http.Request) error {
	text, err := s.text(w, r)
	if err != nil {
		return err
	}
	var t api.ThresholdsSpec
	if err := decodeStrict(text, &t); err != nil {
		return err
	}
	said, err := membersOf(text)
	if err != nil {
		return err
	}
	if err := checkThresholds(t); err != nil {
		return err
	}
	if _, origin := s.Live.Thresholds(); origin != "default" && origin != "api" {
		return &refused{status: http.StatusConflict, detail: "the thresholds stand in the policies, at " + origin + ": change them there"}
	}
	if err := said.whole([]string{"warn", "fail"}); err != nil {
		return err
	}
	if err := s.change(r, func(a *audited) error {
		was, err := a.was(follow.SettingThresholds)
		if err != nil {
			return err
		}
		var now api.ThresholdsSpec
		origin := "api"
		if err := a.Setting(r.Context(), follow.SettingThresholds, &now); errors.Is(err, store.ErrNotFound) {
			origin = "default"
		} else if err != nil {
			return err
		}
		if err := a.matched(thresholdsState(now, origin)); err != nil {
			return err
		}
		set, _ := was.(map[string]any)
		if err := said.named(slices.Sorted(maps.Keys(set))); err != nil {
			return err
		}
		if err := a.note("set", auditThresholds, "default", was, t); err != nil {
			return err
		}
		return a.SetSetting(r.Context(), follow.SettingThresholds, t)
	}); err != nil {
		return err
	}
	status := http.StatusOK
	if !s.settled(r.Context()) {
		status = http.StatusAccepted
	}
	return answerTagged(w, status, t, t)
}
