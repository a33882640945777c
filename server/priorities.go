package server

import (
	"cmp"
	"context"
	"errors"
	"net/http"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/priority"
	"github.com/assay-dev/assay/store"
)

// PriorityList is a page of the actions to take, the first to take first.
type PriorityList struct {
	api.Priorities
	// Total is the number of actions.
	Total int    `json:"total"`
	Next  string `json:"next,omitempty"`
}

// BaseView is what an image is built on, with what a newer build would change.
type BaseView struct {
	api.BaseImage
	// Rebase is absent where the image is built on the newest build that was scanned, where
	// a newer one removes nothing, or where none is known.
	Rebase *api.Action `json:"rebase,omitempty"`
}

// KeepRanking keeps the order of actions in step with the store until the context ends, so
// that who asks for it need not wait.
func (s *Server) KeepRanking(ctx context.Context) error { return s.ranking.Run(ctx) }

func (s *Server) getPriorities(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r)
	f, after, limit := s.filter(r, q), q.text("after"), q.integer("limit", 1, 1000)
	if err := q.err(); err != nil {
		return err
	}
	return s.answerOrder(w, r, f, after, int(limit))
}

// getImagePriorities is the order for one image under all of its names, or under one.
func (s *Server) getImagePriorities(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r)
	reference, after, limit := q.reference("reference"), q.text("after"), q.integer("limit", 1, 1000)
	if err := q.err(); err != nil {
		return err
	}
	rows, err := s.references(r, r.PathValue("digest"))
	if err != nil {
		return err
	}
	f, err := imageFilter(r, rows[0].Digest)
	if err != nil {
		return err
	}
	f.Dismissed = &rows[0].Dismissed // all names of a digest are, or none
	if f.Reference = reference; reference != "" {
		ref, err := api.ParseReference(reference)
		if err != nil {
			return bad("reference: %v", err)
		}
		f.Reference = ref.Canonical()
	}
	return s.answerOrder(w, r, f, after, int(limit))
}

// imageFilter is for a digest, within the scope of who asks.
func imageFilter(r *http.Request, digest string) (store.Filter, error) {
	q := query{}
	cluster := q.within(identity(r), "")
	return store.Filter{Digest: digest, Within: identity(r).Scope.Registry, Cluster: cluster}, q.denied
}

func (s *Server) answerOrder(w http.ResponseWriter, r *http.Request, f store.Filter, after string, limit int) error {
	order, err := s.ranking.Order(r.Context(), f, seesBases(r))
	if err != nil {
		return err
	}
	list, next, err := order.Page(after, cmp.Or(limit, 100))
	if errors.Is(err, priority.ErrCursor) {
		return store.ErrCursor
	}
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, PriorityList{Priorities: api.Priorities{Schema: api.SchemaPriorities, Images: order.Images(), Running: order.Running(), Items: list}, Total: order.Len(), Next: next})
}

// seesBases says whether who asks may know of images outside of a scope, which bases may be.
func seesBases(r *http.Request) bool {
	return identity(r).Scope.All()
}

// base is what an image is built on, nil where nothing is known; it is written into its scan.
func (s *Server) base(r *http.Request, reference string, scan *api.Scan) (*BaseView, error) {
	if !seesBases(r) {
		return nil, nil
	}
	base, err := s.ranking.Base(r.Context(), scan.Digest)
	if err != nil {
		return nil, err
	}
	priority.Annotate(scan, base)
	if base == nil {
		return nil, nil
	}
	view := &BaseView{BaseImage: *scan.Base}
	f := store.Filter{Digest: scan.Digest}
	if ref, err := api.ParseReference(reference); err == nil {
		f.Reference = ref.Canonical()
	}
	order, err := s.ranking.Order(r.Context(), f, true)
	if err != nil {
		return nil, err
	}
	list, _, err := order.Page("", order.Len()+1)
	if err != nil {
		return nil, err
	}
	for i := range list {
		if list[i].Rebase != nil {
			view.Rebase = &list[i]
		}
	}
	return view, nil
}
