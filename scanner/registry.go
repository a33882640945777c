package scanner

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/outgoing"
)

// registryContent reads one repository of a registry.
type registryContent struct {
	puller *remote.Puller
	repo   name.Repository
	host   string
	cache  *blobCache
}

// Find says what a reference leads to in its registry: the digest, the platform and,
// where it is one of several platforms, the index. No layer is read.
func (s *Scanner) Find(ctx context.Context, reference string) (api.Scan, error) {
	o := s.blank(reference)
	f, err := s.openRegistry(ctx, reference)
	if err == nil {
		err = o.describe(f, Input{Kind: Registry, Value: reference}, "")
	}
	if err != nil {
		return o.Scan, scrubbed(err)
	}
	return o.Scan, nil
}

// openRegistry finds the image of a reference in its registry.
func (s *Scanner) openRegistry(ctx context.Context, value string) (*found, error) {
	ref, err := api.ParseReference(value)
	if err != nil {
		return nil, err
	}
	var options []name.Option
	if s.cfg.InsecureHTTP {
		options = append(options, name.Insecure)
	}
	parsed, err := name.ParseReference(ref.String(), options...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInput, err)
	}
	// A puller keeps the outcome of its first handshake, a cancelled one too,
	// hence one for each scan.
	puller, err := remote.NewPuller(s.remoteOptions(parsed.Context().RegistryStr())...)
	if err != nil {
		return nil, fmt.Errorf("preparing the pull: %w", err)
	}
	what := "tag " + ref.Tag
	if ref.Digest != "" {
		what = "digest " + ref.Digest
	}
	root, err := puller.Get(ctx, parsed)
	if err != nil {
		return nil, registryError(ref.Host, what, err)
	}
	c := &registryContent{puller: puller, repo: parsed.Context(), host: ref.Host, cache: s.cache}
	r := s.resolver(&preloaded{content: c, digest: root.Digest, raw: root.Manifest})
	f, err := r.resolve(ctx, root.Descriptor)
	if err != nil {
		return nil, err
	}
	f.source, f.repository = Registry, &c.repo
	f.repoDigests = []string{ref.WrittenName() + "@" + root.Digest.String()}
	if ref.Tag != "" {
		f.tags = []string{ref.WrittenName() + ":" + ref.Tag}
	}
	return f, nil
}

func (s *Scanner) remoteOptions(host string) []remote.Option {
	return []remote.Option{
		remote.WithAuthFromKeychain(s.cfg.Keychain), remote.WithTransport(s.transport(host)), remote.WithUserAgent(s.cfg.UserAgent),
		// The transport tries again, at the pace of the registry.
		remote.WithRetryBackoff(remote.Backoff{Steps: 1}), remote.WithRetryStatusCodes(), remote.WithRetryPredicate(func(error) bool { return false }),
	}
}

// transport carries the requests to one registry.
func (s *Scanner) transport(host string) http.RoundTripper {
	return &outgoing.Registry{Base: s.cfg.Transport, Host: host, PlainHTTP: s.cfg.InsecureHTTP, Realms: s.cfg.Realms}
}

func (c *registryContent) manifest(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	got, err := c.puller.Get(ctx, c.repo.Digest(d.Digest.String()))
	if err != nil {
		return nil, registryError(c.host, "manifest "+d.Digest.String(), err)
	}
	return io.NopCloser(bytes.NewReader(got.Manifest)), nil
}

func (c *registryContent) blob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	return c.cache.open(ctx, d, func() (io.ReadCloser, error) {
		l, err := c.puller.Layer(ctx, c.repo.Digest(d.Digest.String()))
		if err != nil {
			return nil, registryError(c.host, "blob "+d.Digest.String(), err)
		}
		rc, err := l.Compressed()
		if err != nil {
			return nil, registryError(c.host, "blob "+d.Digest.String(), err)
		}
		return rc, nil
	})
}

// preloaded is content whose root manifest was fetched already.
type preloaded struct {
	content
	digest v1.Hash
	raw    []byte
}

func (p *preloaded) manifest(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	if d.Digest == p.digest {
		return io.NopCloser(bytes.NewReader(p.raw)), nil
	}
	return p.content.manifest(ctx, d)
}
