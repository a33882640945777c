package nodetest

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/server/client"
)

// Server keeps what agents tell it, and hands out claims, as the API of package server
// does. It is safe for concurrent use.
type Server struct {
	URL string
	// Fail, where set, gives the status of a request in the place of an answer; 0 lets it through.
	Fail func(*http.Request) int
	// ClaimFor is how long a claim lasts; 0 is 15 minutes.
	ClaimFor time.Duration

	mu     sync.Mutex
	claims map[string]claim
	sboms  map[string]SBOM
	posts  map[string]int // of SBOMs, by digest
	failed []api.Scan
	nodes  map[string]nodeState
	kinds  []string // of reports, in order: full, changes, heartbeat
}

// SBOM is one that an agent sent.
type SBOM struct {
	Images   []string // names under which it came
	Document []byte
}

type claim struct {
	node  string
	until time.Time
}

type nodeState struct {
	epoch    string
	sequence int64
	runs     map[client.InstanceKey]client.Instance
}

// StartServer starts one that ends with the test.
func StartServer(tb testing.TB) *Server {
	tb.Helper()
	s := &Server{claims: map[string]claim{}, sboms: map[string]SBOM{}, posts: map[string]int{}, nodes: map[string]nodeState{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v1/claims", s.postClaims)
	mux.HandleFunc("DELETE /api/v1/claims", s.deleteClaims)
	mux.HandleFunc("POST /api/v1/sboms", s.postSBOM)
	mux.HandleFunc("POST /api/v1/scans", s.postScans)
	mux.HandleFunc("PUT /api/v1/instances", s.putInstances)
	mux.HandleFunc("POST /api/v1/instances/changes", s.changeInstances)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		fail := s.Fail
		s.mu.Unlock()
		if fail != nil {
			if code := fail(r); code != 0 {
				http.Error(w, `{"detail":"as the test wants it"}`, code)
				return
			}
		}
		mux.ServeHTTP(w, r)
	}))
	tb.Cleanup(web.Close)
	s.URL = web.URL
	return s
}

// SetFail changes Fail while agents are at work.
func (s *Server) SetFail(f func(*http.Request) int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Fail = f
}

// SBOMs gives those that were sent, by digest.
func (s *Server) SBOMs() map[string]SBOM {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.sboms)
}

// Failed gives the failed scans, in order.
func (s *Server) Failed() []api.Scan {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.failed)
}

// Runs gives what runs on a node; ok is false where nothing was told of it.
func (s *Server) Runs(node string) (runs map[client.InstanceKey]client.Instance, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.nodes[node]
	return maps.Clone(n.runs), ok
}

// Reports gives the kinds of reports that came: full, changes or heartbeat.
func (s *Server) Reports() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.kinds)
}

// Claimed gives the node that has the claim of an image, or "".
func (s *Server) Claimed(digest string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.claims[digest].node
}

// Claim gives a claim to a node.
func (s *Server) Claim(digest, node string, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claims[digest] = claim{node, until}
}

// Forget makes the server ask a node for all that runs.
func (s *Server) Forget(node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.nodes, node)
}

func read(w http.ResponseWriter, r *http.Request, to any) bool {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return false
		}
		body = z
	}
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		http.Error(w, fmt.Sprintf(`{"detail":%q}`, err), http.StatusBadRequest)
		return false
	}
	return true
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func (s *Server) postClaims(w http.ResponseWriter, r *http.Request) {
	var asked client.Claims
	if !read(w, r, &asked) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	lasts := s.ClaimFor
	if lasts == 0 {
		lasts = 15 * time.Minute
	}
	items := []client.Claim{}
	for _, d := range asked.Digests {
		c, ok := s.claims[d]
		switch {
		case s.sboms[d].Document != nil:
			items = append(items, client.Claim{Digest: d, State: client.ClaimKnown})
		case ok && c.node != asked.Node && c.until.After(now):
			items = append(items, client.Claim{Digest: d, State: client.ClaimClaimed, Until: c.until})
		default:
			s.claims[d] = claim{asked.Node, now.Add(lasts)}
			items = append(items, client.Claim{Digest: d, State: client.ClaimScan, Until: now.Add(lasts)})
		}
	}
	answer(w, map[string]any{"items": items})
}

func (s *Server) deleteClaims(w http.ResponseWriter, r *http.Request) {
	var given client.Claims
	if !read(w, r, &given) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range given.Digests {
		if s.claims[d].node == given.Node {
			delete(s.claims, d)
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) postSBOM(w http.ResponseWriter, r *http.Request) {
	image, digest := r.URL.Query().Get("image"), r.URL.Query().Get("digest")
	if r.Header.Get("Content-Encoding") != "zstd" {
		http.Error(w, `{"detail":"not packed with zstd"}`, http.StatusUnsupportedMediaType)
		return
	}
	z, err := zstd.NewReader(r.Body)
	if err != nil {
		http.Error(w, `{"detail":"no zstd"}`, http.StatusBadRequest)
		return
	}
	defer z.Close()
	text, err := io.ReadAll(z)
	ref, wrong := api.ParseReference(image)
	if err != nil || !json.Valid(text) || wrong != nil || ref.Digest != "" && ref.Digest != digest {
		http.Error(w, `{"detail":"no SBOM of that image"}`, http.StatusUnprocessableEntity)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.sboms[digest]
	if !slices.Contains(one.Images, image) {
		one.Images = append(one.Images, image)
	}
	one.Document = text
	s.sboms[digest] = one
	s.posts[digest]++
	delete(s.claims, digest)
	w.WriteHeader(http.StatusAccepted)
	answer(w, map[string]any{"images": []any{}})
}

func (s *Server) postScans(w http.ResponseWriter, r *http.Request) {
	var report api.ScanReport
	if !read(w, r, &report) {
		return
	}
	for _, scan := range report.Images {
		if err := scan.Validate(); err != nil {
			http.Error(w, fmt.Sprintf(`{"detail":%q}`, err), http.StatusUnprocessableEntity)
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = append(s.failed, report.Images...)
	answer(w, map[string]any{"images": []any{}})
}

func (s *Server) putInstances(w http.ResponseWriter, r *http.Request) {
	var all client.Instances
	if !read(w, r, &all) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := nodeState{epoch: all.Epoch, sequence: all.Sequence, runs: map[client.InstanceKey]client.Instance{}}
	for _, i := range all.Instances {
		n.runs[client.InstanceKey{Namespace: i.Namespace, Pod: i.Pod, Container: i.Container}] = i
	}
	s.nodes[all.Node] = n
	s.kinds = append(s.kinds, "full")
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) changeInstances(w http.ResponseWriter, r *http.Request) {
	var c client.InstanceChanges
	if !read(w, r, &c) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.nodes[c.Node]
	empty := len(c.Set)+len(c.Removed) == 0
	if !ok || n.epoch != c.Epoch || empty && c.Sequence != n.sequence || !empty && c.Sequence != n.sequence+1 {
		http.Error(w, `{"detail":"send all anew"}`, http.StatusConflict)
		return
	}
	n.sequence = c.Sequence
	for _, k := range c.Removed {
		delete(n.runs, k)
	}
	for _, i := range c.Set {
		n.runs[client.InstanceKey{Namespace: i.Namespace, Pod: i.Pod, Container: i.Container}] = i
	}
	s.nodes[c.Node] = n
	if empty {
		s.kinds = append(s.kinds, "heartbeat")
	} else {
		s.kinds = append(s.kinds, "changes")
	}
	w.WriteHeader(http.StatusNoContent)
}

// Posts counts how often the SBOM of each image was sent.
func (s *Server) Posts() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.posts)
}

// Add makes the server know an image.
func (s *Server) Add(digest string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sboms[digest] = SBOM{Document: []byte("{}")}
}
