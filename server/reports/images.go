package reports

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/store"
)

// MaxVulnerabilities bounds those of an ImageScan.
const MaxVulnerabilities = 5000

// images reads scans of images, and instances of them.
type images struct {
	store    *store.Store
	annotate func(ctx context.Context, cluster, image, digest string, scan *api.Scan, now time.Time) error
	now      func() time.Time

	mu     sync.Mutex
	counts map[int64]counts // by scan, which never changes
}

// counts are of the vulnerabilities of a scan.
type counts struct {
	severities   Severities
	fixable, kev int
}

// maxCounts bounds the scans whose counts are remembered.
const maxCounts = 200_000

// resources are all that are served.
func (s *images) resources() []*resource {
	of := []string{"Result", "MaxCVSS", "Critical#", "High#", "Fixable#", "Image", "+Digest", "+KEV#", "+Packages#", "+Running#", "+Scanned"}
	cells := func(o runtime.Object) []any {
		var r Report
		switch o := o.(type) {
		case *ImageScan:
			r = o.Report
		case *ImageScanSummary:
			r = o.Report
		}
		scanned := "never"
		if r.ScannedAt != nil {
			scanned = r.ScannedAt.UTC().Format(time.RFC3339)
		}
		return []any{r.Result, score(r.MaxCVSS), r.Severities.Critical, r.Severities.High, r.Fixable, r.Image, r.Digest, r.KEV, r.Packages, r.Instances, scanned}
	}
	return []*resource{
		{kind: "ImageScan", plural: "imagescans", singular: "imagescan", short: "imgscan", selectable: ofImages,
			object: func() runtime.Object { return &ImageScan{} }, list: func() runtime.Object { return &List[ImageScan]{} },
			columns: columns(of...), cells: cells, locate: s.locate, complete: s.complete, now: s.now,
			page: s.page(func(m metav1.ObjectMeta, r Report) runtime.Object { return &ImageScan{ObjectMeta: m, Report: r} })},
		{kind: "ImageScanSummary", plural: "imagescansummaries", singular: "imagescansummary", short: "imgsum", selectable: ofImages,
			object: func() runtime.Object { return &ImageScanSummary{} }, list: func() runtime.Object { return &List[ImageScanSummary]{} },
			columns: columns(of...), cells: cells, locate: s.locate, now: s.now,
			page: s.page(func(m metav1.ObjectMeta, r Report) runtime.Object { return &ImageScanSummary{ObjectMeta: m, Report: r} })},
		{kind: "RunningImage", plural: "runningimages", singular: "runningimage", short: "runimg", selectable: ofRunning, namespaced: true,
			object: func() runtime.Object { return &RunningImage{} }, list: func() runtime.Object { return &List[RunningImage]{} },
			columns: columns("Result", "MaxCVSS", "Image", "Pod", "Container", "Cluster", "+Digest", "+Node"),
			cells: func(o runtime.Object) []any {
				i := o.(*RunningImage)
				return []any{i.Result, score(i.MaxCVSS), i.Image, i.Pod, i.Container, i.Cluster, i.Digest, i.Node}
			},
			locate: func(context.Context, *query) error { return nil }, page: s.running, now: s.now},
	}
}

var (
	separators = regexp.MustCompile(`[^a-z0-9]*[^a-z0-9.][^a-z0-9]*`)
	dots       = regexp.MustCompile(`\.+`)
	// imageName has the digest's first digits, by which the store finds the row.
	imageName = regexp.MustCompile(`^[a-z0-9.-]{1,60}-([0-9a-f]{12}|nodigest)-[a-z2-7]{8}$`)
)

// readable is a text as the beginning of a DNS-1123 name.
func readable(text string) string {
	text = dots.ReplaceAllString(separators.ReplaceAllString(strings.ToLower(text), "-"), ".")
	return cmp.Or(strings.Trim(text[:min(len(text), 60)], "-."), "x")
}

// hash tells apart what reads the same.
func hash(parts ...string) (short string, id types.UID) {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:5])), types.UID(fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16]))
}

// metaOf names a reference and a digest: "nginx-1.25-4bf5122f3449-k3m4x2qa".
func metaOf(image, digest string) (metav1.ObjectMeta, error) {
	ref, err := api.ParseReference(image)
	if err != nil {
		return metav1.ObjectMeta{}, err
	}
	_, digits, found := strings.Cut(digest, ":")
	if !found {
		digits = "nodigest"
	}
	short, id := hash(image, digest)
	return metav1.ObjectMeta{Name: readable(strings.TrimSuffix(ref.Repository()+"-"+ref.Tag, "-")) + "-" + digits[:min(len(digits), 12)] + "-" + short, UID: id}, nil
}

// moment reads the store's time; nil is none.
func moment(text string) *metav1.Time {
	t, err := time.Parse(api.TimeLayout, text)
	if err != nil {
		return nil
	}
	return &metav1.Time{Time: t}
}

// label sets a label where the value is a valid one.
func label(m map[string]string, key, value string) {
	if value != "" && len(validation.IsValidLabelValue(value)) == 0 {
		m[key] = value
	}
}

// locate finds the reference and the digest of a name.
func (s *images) locate(ctx context.Context, q *query) error {
	parts := imageName.FindStringSubmatch(q.name)
	if parts == nil {
		q.none = true
		return nil
	}
	where, args := []string{}, []any{}
	for _, kind := range []string{"sha256:", "sha384:", "sha512:"} {
		where, args = append(where, "digest >= ? AND digest < ?"), append(args, kind+parts[1], kind+parts[1]+"g")
	}
	if parts[1] == "nodigest" {
		where, args = []string{"digest = ''"}, nil
	}
	found := false
	err := s.store.SelectRows(ctx, "SELECT image, digest FROM listings WHERE "+strings.Join(where, " OR ")+" ORDER BY id", args, func(scan func(...any) error) error {
		var image, digest string
		if err := scan(&image, &digest); err != nil || found {
			return err
		}
		if m, err := metaOf(image, digest); err != nil || m.Name != q.name {
			return err
		}
		found = true
		ref, err := api.ParseReference(image)
		q.reference(ref)
		if digest != "" {
			q.set(&q.filter.Digest, digest)
		}
		return err
	})
	q.none = q.none || !found
	return err
}

// page gives pages of objects that are made of rows of the list of images.
func (s *images) page(object func(metav1.ObjectMeta, Report) runtime.Object) func(context.Context, query, store.Page) ([]runtime.Object, string, error) {
	return func(ctx context.Context, q query, p store.Page) ([]runtime.Object, string, error) {
		list, err := s.store.Images(ctx, q.filter, p)
		if err != nil {
			return nil, "", err
		}
		metas := map[int64]metav1.ObjectMeta{}
		var rows []store.Image
		for _, row := range list.Items {
			m, err := metaOf(row.Image, row.Digest)
			if err != nil {
				return nil, "", err
			}
			if q.name == "" || q.name == m.Name {
				rows, metas[row.ID] = append(rows, row), m
			}
		}
		counted, err := s.count(ctx, rows)
		if err != nil {
			return nil, "", err
		}
		objects := make([]runtime.Object, len(rows))
		for i, row := range rows {
			m, c := metas[row.ID], counted[row.Piece]
			if at := moment(row.FirstSeen); at != nil {
				m.CreationTimestamp = *at
			}
			m.Labels = map[string]string{LabelResult: string(row.Result), LabelKEV: fmt.Sprint(row.KEV), LabelFixable: fmt.Sprint(row.Fixable)}
			label(m.Labels, LabelRepository, row.Repository)
			objects[i] = object(m, Report{
				Image: row.Image, Digest: row.Digest, Registry: row.Registry, Repository: row.Repository, Tag: row.Tag, Platform: row.Platform, Distro: row.Distro,
				Result: string(row.Result), MaxCVSS: row.MaxCVSS, ScannedAt: moment(row.ScannedAt), Severities: c.severities, Fixable: c.fixable, KEV: c.kev,
				Packages: row.Packages, Instances: row.Instances, Source: row.Source, Error: row.Error,
			})
		}
		return objects, list.Next, nil
	}
}

// count gives the counts of the newest scans of rows, by their pieces of evidence.
func (s *images) count(ctx context.Context, rows []store.Image) (map[int64]counts, error) {
	counted, scans := map[int64]counts{}, map[int64]int64{}
	var pieces []any
	for _, row := range rows {
		pieces = append(pieces, row.Piece)
	}
	if len(pieces) == 0 {
		return counted, nil
	}
	query := "SELECT id, scan_id FROM images WHERE scan_id IS NOT NULL AND id IN (?" + strings.Repeat(", ?", len(pieces)-1) + ")"
	if err := s.store.SelectRows(ctx, query, pieces, func(scan func(...any) error) error {
		var piece, id int64
		err := scan(&piece, &id)
		scans[piece] = id
		return err
	}); err != nil {
		return nil, err
	}
	missing := []int64{}
	s.mu.Lock()
	for piece, id := range scans {
		c, ok := s.counts[id]
		if counted[piece] = c; !ok {
			missing = append(missing, piece)
		}
	}
	s.mu.Unlock()
	err := s.store.View(ctx, func(t *store.Tx) error {
		return t.ImageDocuments(ctx, store.Within{Pieces: missing}, true, func(d store.ImageDocument) (err error) {
			counted[d.Piece], err = countOf(d)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.counts == nil || len(s.counts)+len(missing) > maxCounts {
		s.counts = map[int64]counts{}
	}
	for _, piece := range missing {
		s.counts[scans[piece]] = counted[piece]
	}
	return counted, nil
}

var severities = []string{"critical", "high", "medium", "low", "negligible"} // the worst first

func countOf(d store.ImageDocument) (c counts, err error) {
	numbers := []*int{&c.severities.Critical, &c.severities.High, &c.severities.Medium, &c.severities.Low, &c.severities.Negligible, &c.severities.Unknown}
	for id, raw := range d.Details {
		var members []struct {
			Severity   string
			Fixed, KEV bool
		}
		if err := json.Unmarshal(raw, &members); err != nil {
			return c, fmt.Errorf("reading the details of %s in %s: %w", id, d.Digest, err)
		}
		worst, fixed, kev := len(severities), false, false
		for _, m := range members {
			if n := slices.Index(severities, strings.ToLower(m.Severity)); n >= 0 {
				worst = min(worst, n)
			}
			fixed, kev = fixed || m.Fixed, kev || m.KEV
		}
		*numbers[worst]++
		if fixed {
			c.fixable++
		}
		if kev {
			c.kev++
		}
	}
	return c, nil
}

// complete adds the vulnerabilities of the newest scan.
func (s *images) complete(ctx context.Context, object runtime.Object) error {
	i := object.(*ImageScan)
	scan, reader, err := s.store.Scan(ctx, i.Digest, i.Image, "")
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err == nil && s.annotate != nil {
		err = s.annotate(ctx, reader, i.Image, i.Digest, &scan, s.now())
	}
	if err != nil {
		return err
	}
	slices.SortStableFunc(scan.Vulnerabilities, func(a, b api.Vulnerability) int {
		scoreOf := func(v api.Vulnerability) float64 {
			if v.CVSS == nil {
				return -1
			}
			return *v.CVSS
		}
		return cmp.Or(cmp.Compare(scoreOf(b), scoreOf(a)), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Package, b.Package))
	})
	n := min(len(scan.Vulnerabilities), MaxVulnerabilities)
	i.MoreVulnerabilities = len(scan.Vulnerabilities) - n
	for _, v := range scan.Vulnerabilities[:n] {
		r := Vulnerability{ID: v.ID, Package: v.Package, Version: v.Version, Type: v.Type, Severity: v.Severity, CVSS: v.CVSS, EPSS: v.EPSS, KEV: v.KEV, Fix: v.Fix.State, FixedIn: v.Fix.Versions}
		if v.Exception != nil {
			r.Exception = v.Exception.Justification
		}
		i.Vulnerabilities = append(i.Vulnerabilities, r)
	}
	return nil
}

// running gives a page of containers that run.
func (s *images) running(ctx context.Context, q query, p store.Page) ([]runtime.Object, string, error) {
	list, err := s.store.Instances(ctx, q.filter, p)
	if err != nil {
		return nil, "", err
	}
	var objects []runtime.Object
	for _, row := range list.Items {
		short, id := hash(row.Cluster, row.Namespace, row.Pod, row.Container)
		o := &RunningImage{
			ObjectMeta: metav1.ObjectMeta{Name: readable(row.Pod) + "-" + short, Namespace: row.Namespace, UID: id, Labels: map[string]string{LabelResult: string(row.Result)}},
			Cluster:    row.Cluster, Pod: row.Pod, Container: row.Container, Node: row.Node, Image: row.Image, Digest: row.Digest, Result: string(row.Result), MaxCVSS: row.MaxCVSS, LastSeen: moment(row.LastSeen),
		}
		if q.name != "" && q.name != o.Name {
			continue
		}
		ref, err := api.ParseReference(row.Image)
		if err != nil {
			return nil, "", err
		}
		label(o.Labels, LabelRepository, ref.Repository())
		label(o.Labels, LabelCluster, row.Cluster)
		if at := moment(row.FirstSeen); at != nil {
			o.CreationTimestamp = *at
		}
		objects = append(objects, o)
	}
	return objects, list.Next, nil
}
