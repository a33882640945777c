package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/server/auth"
	"github.com/assay-dev/assay/server/jobs"
	"github.com/assay-dev/assay/store"
)

// Uploaded is what became of a scan or SBOM that was uploaded.
type Uploaded struct {
	Image  string `json:"image"`
	Digest string `json:"digest,omitempty"`
	// New is false where the very same was there already.
	New bool `json:"new"`
	// Result and MaxCVSS are absent where they are not computed yet.
	Result  api.Result `json:"result,omitempty"`
	MaxCVSS *float64   `json:"max_cvss,omitempty"`
}

// UploadedList is the answer to an upload.
type UploadedList struct {
	Images []Uploaded `json:"images"`
}

// maxUploaded bounds the scans of one request.
const maxUploaded = 10_000

// maxAhead is how far the clock of a scanner may be ahead.
const maxAhead = 10 * time.Minute

// postScans stores a scan report, or one scan: all or nothing.
func (s *Server) postScans(w http.ResponseWriter, r *http.Request) error {
	in, err := s.body(w, r, s.limits.Upload, scanCost)
	if err != nil {
		return err
	}
	defer in.Close()
	scans, err := readScans(in)
	if err != nil {
		return err
	}
	if err := s.check(r, scans); err != nil {
		return err
	}
	for i := range scans { // whatever the body says
		scans[i].Scope, scans[i].Way = identity(r).Scope, wayOf(r)
	}
	list := UploadedList{Images: make([]Uploaded, len(scans))}
	created := false
	err = s.handIn(r, func(t *store.Tx) error {
		created = false
		for i, scan := range scans {
			added, err := t.AddScan(r.Context(), scan)
			if err != nil {
				return err
			}
			created = created || added.New
			list.Images[i] = Uploaded{Image: scan.Image, Digest: scan.Digest, New: added.New}
		}
		return nil
	})
	if err != nil {
		return err
	}
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	if !s.settled(r.Context()) {
		return answer(w, http.StatusAccepted, list)
	}
	now := s.Now()
	for i := range list.Images {
		u := &list.Images[i]
		u.Result = api.Unknown
		if scans[i].Error != "" || u.Digest == "" {
			continue
		}
		c, err := s.Live.Engine().In(readerOf(r)).Classify(r.Context(), u.Image, u.Digest, now)
		if err != nil {
			return err
		}
		u.Result, u.MaxCVSS = c.Result, c.MaxCVSS
	}
	return answer(w, status, list)
}

// readScans reads a report scan by scan, or one scan.
func readScans(in io.Reader) ([]api.Scan, error) {
	d := json.NewDecoder(in)
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		if err == nil {
			err = fmt.Errorf("it must be an object, not %v", t)
		}
		return nil, streamFault(d, err)
	}
	var scans []api.Scan
	schema := ""
	one := map[string]json.RawMessage{}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, streamFault(d, err)
		}
		name, _ := key.(string)
		switch name {
		case "schema":
			if err := d.Decode(&schema); err != nil {
				return nil, streamFault(d, err)
			}
		case "images":
			if t, err := d.Token(); err != nil || t != json.Delim('[') {
				if err == nil {
					err = errors.New("images must be a list")
				}
				return nil, streamFault(d, err)
			}
			for d.More() {
				if len(scans) == maxUploaded {
					return nil, unprocessable("a report has at most %d images", maxUploaded)
				}
				var scan api.Scan
				if err := d.Decode(&scan); err != nil {
					return nil, streamFault(d, err)
				}
				scans = append(scans, scan)
			}
			if _, err := d.Token(); err != nil {
				return nil, streamFault(d, err)
			}
		default:
			var raw json.RawMessage
			if err := d.Decode(&raw); err != nil {
				return nil, streamFault(d, err)
			}
			one[name] = raw
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, streamFault(d, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, streamFault(d, errors.New("there is more behind the report"))
	}
	if _, ok := one["image"]; ok && scans == nil && schema == "" {
		text, err := json.Marshal(one)
		if err != nil {
			return nil, err
		}
		var scan api.Scan
		if err := json.Unmarshal(text, &scan); err != nil {
			return nil, jsonFault(nil, err)
		}
		return []api.Scan{scan}, nil
	}
	if schema != api.SchemaScan {
		return nil, unprocessable("the body is no scan report: its schema is %.60q, not %s", schema, api.SchemaScan)
	}
	return scans, nil
}

// streamFault says where a stream of JSON is wrong.
func streamFault(d *json.Decoder, err error) error {
	detail := err.Error()
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		detail = "it ends too early"
	}
	return &refused{status: http.StatusBadRequest, detail: "the body is not the JSON that is wanted here",
		faults: []Fault{{Detail: fmt.Sprintf("after byte %d: %s", d.InputOffset(), detail)}}}
}

// check finds all that is wrong with scans.
func (s *Server) check(r *http.Request, scans []api.Scan) error {
	if len(scans) == 0 {
		return unprocessable("the report has no image")
	}
	id := identity(r)
	var faults []Fault
	for i, scan := range scans {
		fault := func(pointer string, err error) {
			faults = listFault(faults, Fault{Pointer: fmt.Sprintf("/images/%d%s", i, pointer), Detail: err.Error()})
		}
		if err := scan.Validate(); err != nil {
			fault("", err)
		}
		ref, err := api.ParseReference(scan.Image)
		switch {
		case err != nil:
			fault("/image", fmt.Errorf("%w; name the image with --as", err))
		case ref.Digest != "" && scan.Digest != "" && ref.Digest != scan.Digest && (scan.Index == nil || scan.Index.Digest != ref.Digest):
			fault("/digest", fmt.Errorf("is another than that of %s", scan.Image))
		case !id.Scope.AllowsImage(scan.Image):
			return forbidden("the token is for %s, which %s is not in", id.Scope, scan.Image)
		case id.Role == auth.Node && scan.Error == "":
			return forbidden("the role node sends SBOMs, and scans that failed; results are for the role scanner")
		}
		if scan.Digest == "" && scan.Error == "" {
			fault("/digest", errors.New("is missing: only a scan that failed may have none"))
		}
		if scan.Packages < 0 || scan.Packages == 0 && scan.Error == "" && len(scan.Vulnerabilities) == 0 {
			fault("/packages", fmt.Errorf("is %d: a scan that found no package says nothing of the image; say so in error, and it is Unknown", scan.Packages))
		}
		if scan.ScannedAt.After(s.Now().Add(maxAhead)) {
			fault("/scanned_at", fmt.Errorf("%s is in the future", scan.ScannedAt.Format(time.RFC3339)))
		}
	}
	if faults == nil {
		return nil
	}
	return &refused{status: http.StatusUnprocessableEntity, detail: "nothing was stored: some scans are not valid", faults: faults}
}

// postSBOM keeps an SBOM, which is matched soon and then every day.
func (s *Server) postSBOM(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r)
	image, digest := q.text("image"), q.text("digest")
	if err := q.err(); err != nil {
		return err
	}
	in, err := s.body(w, r, s.limits.Upload, sbomCost)
	if err != nil {
		return err
	}
	defer in.Close()
	text, err := s.seekable(r, in)
	if err != nil {
		return err
	}
	kept, err := s.DecodeSBOM(text, image, digest)
	if err != nil {
		return unprocessable("%v", err)
	}
	if err := kept.Scan.Validate(); err != nil && kept.Scan.ScannedAt.IsZero() {
		kept.Scan.ScannedAt = s.Now()
		err = kept.Scan.Validate()
		kept.Scan.ScannedAt = time.Time{}
		if err != nil {
			return unprocessable("%v", err)
		}
	}
	if id := identity(r); !id.Scope.AllowsImage(kept.Scan.Image) {
		return forbidden("the token is for %s, which %s is not in", id.Scope, kept.Scan.Image)
	}
	kept.Scan.Scope, kept.Scan.Way = identity(r).Scope, wayOf(r)
	fresh := false
	if err := s.handIn(r, func(t *store.Tx) (err error) {
		fresh, err = t.AddSBOM(r.Context(), kept)
		return err
	}); err != nil {
		return err
	}
	if fresh {
		s.Jobs.Kick(r.Context(), jobs.Match, kept.Scan.Digest)
	}
	return answer(w, http.StatusAccepted, UploadedList{Images: []Uploaded{{Image: kept.Scan.Image, Digest: kept.Scan.Digest, New: fresh}}})
}

// wayOf is how the evidence of a request came to be known.
func wayOf(r *http.Request) api.Way {
	if identity(r).Role == auth.Node {
		return api.FromNode
	}
	return api.Uploaded
}

// readerOf is the cluster in which whoever asks is told results.
func readerOf(r *http.Request) string {
	scope := identity(r).Scope
	if scope.Cluster == "" && scope.Group != "" {
		return store.GroupReader(scope.Group)
	}
	return scope.Cluster
}

// ScanRequest names images by reference.
type ScanRequest struct {
	Images []string `json:"images"`
}

// ScanRequested says which of them will be scanned, and why others will not.
type ScanRequested struct {
	Accepted []string `json:"accepted"`
	Refused  []Fault  `json:"refused"`
}

// maxScanRequest bounds the images of one request.
const maxScanRequest = 100

// postScanRequest has images scanned that a webhook met and nobody has scanned.
func (s *Server) postScanRequest(w http.ResponseWriter, r *http.Request) error {
	var asked ScanRequest
	if err := s.decode(w, r, &asked); err != nil {
		return err
	}
	if s.MayScan == nil {
		return &refused{status: http.StatusConflict, detail: "this server scans no images by itself; --scan-images has it do so"}
	}
	if n := len(asked.Images); n == 0 || n > maxScanRequest {
		return unprocessable("images must name 1 to %d images", maxScanRequest)
	}
	answered := ScanRequested{Accepted: []string{}, Refused: []Fault{}}
	for i, image := range asked.Images {
		pointer := fmt.Sprintf("/images/%d", i)
		ref, err := api.ParseReference(image)
		if err == nil {
			err = s.MayScan(ref.String())
		}
		if err != nil {
			answered.Refused = listFault(answered.Refused, Fault{Pointer: pointer, Detail: err.Error()})
			continue
		}
		if id := identity(r); !id.Scope.AllowsImage(image) {
			answered.Refused = listFault(answered.Refused, Fault{Pointer: pointer, Detail: "the token is for " + id.Scope.String()})
			continue
		}
		s.Jobs.Kick(r.Context(), jobs.Scan, ref.String())
		answered.Accepted = append(answered.Accepted, image)
	}
	answered.Refused = append([]Fault{}, listed(answered.Refused)...)
	return answer(w, http.StatusAccepted, answered)
}
