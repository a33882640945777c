package attestation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/assay-dev/assay/api"
)

// Bounds on what one search reads, whatever the registry has. A list that is longer is
// cut, with a word among what was ignored.
const (
	maxReferrers = 100
	maxLayers    = 50
	maxBlobs     = 100
	maxRequests  = 400
	maxTotal     = 256 << 20
	maxManifest  = 4 << 20
	maxAnnotated = 1 << 20
	maxIgnored   = 10
)

// Media types of layers.
const (
	typeEnvelope  = "application/vnd.dsse.envelope.v1+json"
	typeSignature = "application/vnd.dev.cosign.simplesigning.v1+json"
	typeStatement = "application/vnd.in-toto+json"
	typeBundle    = "application/vnd.dev.sigstore.bundle"
)

// typesSBOM are those of SBOMs that are attached as they are.
var typesSBOM = []string{"text/spdx", "application/spdx", "application/vnd.cyclonedx", "application/vnd.syft"}

// Image is where to look, and what for.
type Image struct {
	Repository name.Repository
	// Options carry the credentials and the user agent; Transport the requests. Each
	// request is made once: trying again is the transport's.
	Options   []remote.Option
	Transport http.RoundTripper
	// Digest is that of the platform's manifest.
	Digest string
	// Index is the index that the reference led to, if any.
	Index *api.Index
}

// Found is an SBOM that a trusted signer vouches for.
type Found struct {
	// Document is the SBOM in the JSON of its format.
	Document []byte
	// SBOM is its origin; its format is for who reads the document.
	SBOM api.AttestedSBOM
}

// Find gives accept each SBOM that a trusted signer vouches for, until it takes one: those
// that say the image's own digest before those of its index, the latest first. It
// returns what was ignored, with the reasons, and whether one was taken. An error says
// that the registry could not be asked.
func (v *Verifier) Find(ctx context.Context, image Image, accept func(*Found) error) (taken bool, ignored []string, err error) {
	parent := ctx
	ctx, cancel := context.WithTimeout(ctx, v.timeout)
	defer cancel()
	b := &budget{base: image.Transport}
	b.requests.Store(maxRequests)
	b.bytes.Store(maxTotal)
	options := append(slices.Clone(image.Options), remote.WithTransport(b))
	puller, err := remote.NewPuller(options...)
	if err != nil {
		return false, nil, err
	}
	s := &search{verifier: v, ctx: ctx, image: image, puller: puller, options: append(options, remote.WithContext(ctx)), seen: map[string]bool{}}
	err = s.run()
	if err != nil && parent.Err() == nil && ctx.Err() != nil {
		err = fmt.Errorf("the registry took longer than %s", v.timeout)
	}
	if parent.Err() != nil {
		return false, nil, parent.Err()
	}
	slices.SortStableFunc(s.found, func(a, b candidate) int {
		if a.own != b.own {
			if a.own {
				return -1
			}
			return 1
		}
		return b.at.Compare(a.at)
	})
	for i := range s.found {
		c := &s.found[i]
		if refused := accept(&c.Found); refused != nil {
			s.ignore(c.where, refused)
			continue
		}
		return true, s.notes(), nil
	}
	return false, s.notes(), err
}

// search is one look for an image's SBOMs.
type search struct {
	verifier *Verifier
	ctx      context.Context
	image    Image
	puller   *remote.Puller
	options  []remote.Option

	seen    map[string]bool // digests of manifests that were read
	blobs   int
	found   []candidate
	ignored []string
	more    int
	scans   int
	// indexSigner is who signed the index as an image.
	indexSigner *signer
}

type candidate struct {
	Found
	signer
	where string
	own   bool
}

// ignore notes what is not used.
func (s *search) ignore(where string, why error) {
	if errors.Is(why, errNoSBOM) {
		return
	}
	text := clip(fmt.Sprintf("an attestation was ignored (%s): %v", where, why), 500)
	if slices.Contains(s.ignored, text) {
		return
	}
	if len(s.ignored) == maxIgnored {
		s.more++
		return
	}
	s.ignored = append(s.ignored, text)
}

func clip(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "") + "…"
	}
	return s
}

// notes are the words about what was not used.
func (s *search) notes() []string {
	notes := slices.Clone(s.ignored)
	if s.more > 0 {
		notes = append(notes, fmt.Sprintf("%d more attestations were ignored", s.more))
	}
	if s.scans > 0 {
		notes = append(notes, fmt.Sprintf("%d signed vulnerability scans are attached: a scan is never taken from elsewhere, for the result is computed here", s.scans))
	}
	return notes
}

// run reads all that is attached to the image and to its index.
func (s *search) run() error {
	if s.image.Index == nil || s.image.Index.Digest == s.image.Digest {
		return s.attached(s.image.Digest)
	}
	// The index first, for its signature covers what BuildKit puts into it.
	err := s.attached(s.image.Index.Digest)
	return errors.Join(err, s.builtIn(), s.attached(s.image.Digest))
}

// attached reads the referrers and the tags of a digest.
func (s *search) attached(digest string) error {
	var errs []error
	list, err := remote.Referrers(s.image.Repository.Digest(digest), s.options...)
	var index *v1.IndexManifest
	if err == nil {
		index, err = list.IndexManifest()
	}
	if err != nil {
		errs = append(errs, fmt.Errorf("asking for the referrers of %s: %w", digest, err))
	} else {
		read := 0
		for _, d := range index.Manifests {
			kind := firstOf(d.ArtifactType, string(d.MediaType))
			if !strings.HasPrefix(string(d.MediaType), "application/vnd.oci.image.manifest") || foreign(d.ArtifactType) {
				continue
			}
			if read++; read > maxReferrers {
				s.ignore("the referrers of "+digest, fmt.Errorf("it has more than %d referrers, and the others were not read", maxReferrers))
				break
			}
			errs = append(errs, s.manifest("referrer "+kind, s.image.Repository.Digest(d.Digest.String()), digest))
		}
	}
	tag := strings.Replace(digest, ":", "-", 1)
	for _, suffix := range []string{".sig", ".att", ".sbom"} {
		errs = append(errs, s.manifest("tag "+tag+suffix, s.image.Repository.Tag(tag+suffix), digest))
	}
	return errors.Join(errs...)
}

// foreign says that a type of referrers is certainly nothing that is read here.
func foreign(artifact string) bool {
	if artifact == "" || strings.HasPrefix(artifact, "application/vnd.oci.") {
		return false
	}
	for _, known := range append([]string{typeBundle, typeEnvelope, typeSignature, typeStatement, "application/vnd.dev.cosign"}, typesSBOM...) {
		if strings.HasPrefix(artifact, known) {
			return false
		}
	}
	return true
}

func firstOf(list ...string) string {
	for _, s := range list {
		if s != "" {
			return s
		}
	}
	return ""
}

// absent says that a registry has not what was asked for.
func absent(err error) bool {
	var te *transport.Error
	return errors.As(err, &te) && te.StatusCode == http.StatusNotFound
}

// manifest reads what a manifest attaches to a digest; one that is not there is no error.
func (s *search) manifest(where string, ref name.Reference, digest string) error {
	got, err := s.puller.Get(s.ctx, ref)
	if err != nil {
		if absent(err) {
			return nil
		}
		return fmt.Errorf("reading %s: %w", where, err)
	}
	if s.seen[got.Digest.String()] {
		return nil
	}
	s.seen[got.Digest.String()] = true
	m, err := v1.ParseManifest(bytes.NewReader(got.Manifest))
	if err != nil || got.MediaType.IsIndex() {
		s.ignore(where, errors.New("it is no manifest that can be read"))
		return nil
	}
	return s.layers(where, m, digest, nil)
}

// layers reads the layers of a manifest that is attached to a digest; by is who signed
// what holds the manifest, if anybody did.
func (s *search) layers(where string, m *v1.Manifest, digest string, by *signer) error {
	list := m.Layers
	if len(list) > maxLayers {
		// Cosign appends: the last are the latest.
		s.ignore(where, fmt.Errorf("it has %d layers, and all but the last %d were not read", len(list), maxLayers))
		list = list[len(list)-maxLayers:]
	}
	var errs []error
	for _, l := range list {
		kind := string(l.MediaType)
		isSBOM := slices.ContainsFunc(typesSBOM, func(t string) bool { return strings.HasPrefix(kind, t) })
		switch {
		case isSBOM:
			s.ignore(where, errors.New("the SBOM is attached as it is: nobody signed it"))
			continue
		case kind != typeEnvelope && kind != typeSignature && kind != typeStatement && !strings.HasPrefix(kind, typeBundle):
			continue
		}
		if s.blobs++; s.blobs > maxBlobs {
			s.ignore(where, fmt.Errorf("more than %d attestations are attached to the image, and the others were not read", maxBlobs))
			break
		}
		text, err := s.blob(l)
		switch {
		case err != nil && s.ctx.Err() == nil && !errors.Is(err, errBudget):
			s.ignore(where, err)
		case err != nil:
			errs = append(errs, err)
		default:
			if err := s.read(where, l, text, digest, by); err != nil {
				s.ignore(where, err)
			}
		}
	}
	return errors.Join(errs...)
}

// blob reads a layer; its digest is verified.
func (s *search) blob(d v1.Descriptor) ([]byte, error) {
	limit := s.verifier.maxBytes
	if d.Size > limit {
		return nil, fmt.Errorf("it has %d bytes, more than %d", d.Size, limit)
	}
	annotated := 0
	for k, text := range d.Annotations {
		annotated += len(k) + len(text)
	}
	if annotated > maxAnnotated {
		return nil, fmt.Errorf("its annotations have more than %d bytes", maxAnnotated)
	}
	layer, err := s.puller.Layer(s.ctx, s.image.Repository.Digest(d.Digest.String()))
	if err != nil {
		return nil, fmt.Errorf("fetching it: %w", err)
	}
	rc, err := layer.Compressed()
	if err != nil {
		return nil, fmt.Errorf("fetching it: %w", err)
	}
	defer rc.Close()
	text, err := io.ReadAll(io.LimitReader(rc, limit+1))
	if err != nil {
		return nil, fmt.Errorf("fetching it: %w", err)
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("it has more than %d bytes", limit)
	}
	return text, nil
}

// read verifies one attachment of a digest, and keeps it if it is an SBOM of the image.
func (s *search) read(where string, l v1.Descriptor, text []byte, digest string, by *signer) error {
	var b *bundleFile
	var err error
	switch kind := string(l.MediaType); {
	case strings.HasPrefix(kind, typeBundle):
		b, err = readBundle(text)
	case kind == typeSignature:
		return s.readImageSignature(l, text, digest)
	case kind == typeEnvelope || kind == typeStatement && isEnvelope(text):
		b, err = readEnvelope(text, l.Annotations)
	case by == nil:
		return errors.New("the statement is not signed")
	default:
		return s.keep(where, l, text, *by)
	}
	if err != nil {
		return err
	}
	if b.proto.GetMessageSignature() != nil {
		return errNoSBOM // of a file, not of a statement
	}
	payload, err := b.payload()
	if err != nil {
		return err
	}
	who, err := s.verifier.signed(b, nil)
	if err != nil {
		return fmt.Errorf("it is not verified: %w", err)
	}
	return s.keep(where, l, payload, who)
}

func isEnvelope(text []byte) bool {
	var e struct {
		PayloadType string `json:"payloadType"`
	}
	return json.Unmarshal(text, &e) == nil && e.PayloadType != ""
}

// readImageSignature notes who signed the index as an image.
func (s *search) readImageSignature(l v1.Descriptor, text []byte, digest string) error {
	if !s.isIndex(digest) {
		return nil // the signature of an image says nothing of its packages
	}
	b, err := readSignature(text, l.Annotations)
	if err != nil {
		return err
	}
	who, err := s.verifier.signed(b, text)
	if err != nil {
		return fmt.Errorf("the signature of the index is not verified: %w", err)
	}
	signed, err := signedDigest(text)
	if err != nil {
		return err
	}
	if signed != digest {
		return fmt.Errorf("the signature is of %s, not of the index", clip(signed, 100))
	}
	s.indexSigner = &who
	return nil
}

func (s *search) isIndex(digest string) bool {
	return s.image.Index != nil && digest == s.image.Index.Digest && digest != s.image.Digest
}

// alone says that the index holds no other platform.
func (s *search) alone() bool {
	for _, d := range s.image.Index.Platforms {
		if d != s.image.Digest {
			return false
		}
	}
	return true
}

// keep takes a statement that who signed, if it is an SBOM of the image.
func (s *search) keep(where string, l v1.Descriptor, text []byte, who signer) error {
	st, err := readStatement(text)
	if err != nil {
		return err
	}
	subject := s.image.Digest
	if !st.about(subject) {
		if s.image.Index == nil || !st.about(s.image.Index.Digest) {
			return fmt.Errorf("the statement is about another image than %s", s.image.Digest)
		}
		subject = s.image.Index.Digest
	}
	if st.PredicateType == predicateSign && s.isIndex(subject) {
		s.indexSigner = &who
		return nil
	}
	if st.scanOnly() {
		s.scans++
		return nil
	}
	document, err := st.sbom()
	if err != nil {
		return err
	}
	if subject != s.image.Digest && !s.alone() {
		return fmt.Errorf("it is about an index of %d platforms, and does not say which: attach it to the digest of the platform", len(s.image.Index.Platforms))
	}
	c := candidate{signer: who, where: where, own: subject == s.image.Digest, Found: Found{Document: document, SBOM: api.AttestedSBOM{
		Origin: api.OriginAttestation, Digest: l.Digest.String(), PredicateType: clip(st.PredicateType, 200), Subject: subject, Signer: who.Signer,
	}}}
	if !who.at.IsZero() {
		c.SBOM.SignedAt = &who.at
	}
	s.found = append(s.found, c)
	return nil
}

// builtIn reads BuildKit's attestation manifests of the image in its index.
func (s *search) builtIn() error {
	got, err := s.puller.Get(s.ctx, s.image.Repository.Digest(s.image.Index.Digest))
	if err != nil {
		return fmt.Errorf("reading the index: %w", err)
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(got.Manifest))
	if err != nil {
		return fmt.Errorf("reading the index: %w", err)
	}
	read := 0
	for _, d := range index.Manifests {
		if d.Annotations["vnd.docker.reference.type"] != "attestation-manifest" || d.Annotations["vnd.docker.reference.digest"] != s.image.Digest {
			continue
		}
		if read++; read > maxReferrers {
			break
		}
		const where = "attestation manifest in the index"
		raw, err := s.puller.Get(s.ctx, s.image.Repository.Digest(d.Digest.String()))
		if err != nil {
			return fmt.Errorf("reading %s: %w", where, err)
		}
		m, err := v1.ParseManifest(bytes.NewReader(raw.Manifest))
		if err != nil {
			s.ignore(where, errors.New("it is no manifest that can be read"))
			continue
		}
		var list []v1.Descriptor
		for _, l := range m.Layers {
			p := l.Annotations["in-toto.io/predicate-type"]
			if l.MediaType != types.MediaType(typeStatement) || !versionOf(p, predicateSPDX) && !versionOf(p, predicateCycloneDX) {
				continue // provenance, mostly
			}
			list = append(list, l)
		}
		m.Layers = list
		if len(list) > 0 && s.indexSigner == nil {
			s.ignore(where, errors.New("the statement is not signed, and no trusted signature covers the index that holds it"))
			continue
		}
		if err := s.layers(where, m, s.image.Index.Digest, s.indexSigner); err != nil {
			return err
		}
	}
	return nil
}

var errBudget = errors.New("the registry sent more than is read for one image")

// budget bounds the requests and the bytes of one search.
type budget struct {
	base     http.RoundTripper
	requests atomic.Int64
	bytes    atomic.Int64
}

// RoundTrip is that of [http.RoundTripper].
func (b *budget) RoundTrip(r *http.Request) (*http.Response, error) {
	if b.requests.Add(-1) < 0 {
		return nil, fmt.Errorf("%w: more than %d requests", errBudget, maxRequests)
	}
	resp, err := b.base.RoundTrip(r)
	if err == nil {
		left := int64(maxTotal)
		if path := r.URL.Path; strings.Contains(path, "/manifests/") || strings.Contains(path, "/referrers/") {
			left = maxManifest
		}
		resp.Body = &countedBody{resp.Body, b, left}
	}
	return resp, err
}

type countedBody struct {
	io.ReadCloser
	budget *budget
	left   int64
}

func (c *countedBody) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if c.left -= int64(n); c.left < 0 {
		return 0, fmt.Errorf("%w: a manifest of more than %d bytes", errBudget, maxManifest)
	}
	if c.budget.bytes.Add(-int64(n)) < 0 {
		return 0, fmt.Errorf("%w: more than %d bytes", errBudget, maxTotal)
	}
	return n, err
}
