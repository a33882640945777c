package server

import (
	"cmp"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strings"

	"github.com/assay-dev/assay/store"
)

func (s *Server) getNewVulnerabilities(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r)
	since, limit := q.time("since"), q.integer("limit", 1, 1000)
	if err := q.err(); err != nil {
		return err
	}
	if since.IsZero() {
		since = s.Now().AddDate(0, 0, -7)
	}
	list, err := s.Store.NewVulnerabilities(r.Context(), since, int(cmp.Or(limit, 100)))
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, itemsOf(list))
}

func (s *Server) getTrend(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r)
	days := q.integer("days", 1, 400)
	if err := q.err(); err != nil {
		return err
	}
	list, err := s.Store.Trend(r.Context(), s.Now().AddDate(0, 0, -int(cmp.Or(days, 30))))
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, itemsOf(list))
}

func (s *Server) getViews(w http.ResponseWriter, r *http.Request) error {
	list, err := s.Store.Views(r.Context(), identity(r).Name)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, itemsOf(list))
}

// maxView bounds the name of a view, in bytes.
const maxView = 100

// ViewAddress is the address of a page that a user keeps; Name, where given, is that of the path.
type ViewAddress struct {
	Name    string `json:"name,omitempty"`
	Address string `json:"address"`
}

func (s *Server) putView(w http.ResponseWriter, r *http.Request) error {
	var v ViewAddress
	if err := s.decode(w, r, &v); err != nil {
		return err
	}
	name := r.PathValue("name")
	faults := plain("/name", name)
	if v.Name != "" && v.Name != name {
		faults = append(faults, Fault{Pointer: "/name", Detail: "is not that of the path"})
	}
	if strings.TrimSpace(name) == "" || len(name) > maxView {
		faults = append(faults, Fault{Pointer: "/name", Detail: "is missing or longer than 100 bytes"})
	}
	if !strings.HasPrefix(v.Address, "/") || strings.HasPrefix(v.Address, "//") || strings.Contains(v.Address, `\`) || len(v.Address) > maxParameter {
		faults = append(faults, Fault{Pointer: "/address", Detail: "must be the path of a page, such as /images?result=Fail, of at most 4096 bytes"})
	}
	if len(faults) > 0 {
		return &refused{status: http.StatusUnprocessableEntity, detail: "the view is not valid", faults: faults}
	}
	view := store.SavedView{Name: name, Address: v.Address}
	owner := identity(r).Name
	kept, err := s.Store.Views(r.Context(), owner)
	if err != nil {
		return err
	}
	if len(kept) >= store.MaxViews {
		return unprocessable("a user keeps at most %d views: remove one", store.MaxViews)
	}
	if err := s.Store.Write(r.Context(), func(t *store.Tx) error { return t.SetView(r.Context(), owner, view) }); err != nil {
		return err
	}
	return answer(w, http.StatusOK, view)
}

func (s *Server) deleteView(w http.ResponseWriter, r *http.Request) error {
	if err := s.Store.Write(r.Context(), func(t *store.Tx) error {
		return t.SetView(r.Context(), identity(r).Name, store.SavedView{Name: r.PathValue("name")})
	}); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// getProgram gives the program that runs here, so that a pipeline scans with the version of
// its server.
func (s *Server) getProgram(w http.ResponseWriter, r *http.Request) error {
	path, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding the program: %w", err)
	}
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("reading the program: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("reading the program: %w", err)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", fmt.Sprintf(`attachment; filename="assay-%s-%s"`, runtime.GOOS, runtime.GOARCH))
	http.ServeContent(w, r, "", info.ModTime(), file)
	return nil
}
