package webhook

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sync/singleflight"
	"k8s.io/apimachinery/pkg/util/cache"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/outgoing"
)

// Resolver asks registries which digest a tag means now, where what was scanned and seen
// running is not enough. It may be used concurrently.
type Resolver struct {
	// Names are those below which tags are resolved, such as registry.example.com/shop; "*"
	// is all. Whoever creates a workload has this server ask the registry that it names.
	Names []string
	// Transport carries the requests.
	Transport http.RoundTripper
	Realms    outgoing.Realms
	Log       *slog.Logger

	tags   *cache.LRUExpireCache // references → digests
	asking singleflight.Group
}

const (
	resolveFor = time.Second      // the deadline of all images of a review
	tagFor     = 20 * time.Second // how long a tag is taken to mean a digest
	maxTags    = 10_000
)

// NewResolver asks for nothing by itself. Registries are asked at public addresses, and in
// these networks.
func NewResolver(names []string, networks []netip.Prefix, log *slog.Logger) *Resolver {
	return &Resolver{Names: names, Transport: outgoing.Networks{Public: true, Allowed: networks}.Transport(), Log: log, tags: cache.NewLRUExpireCache(maxTags)}
}

// Resolve adds digests to containers that have a tag. Where a registry does not answer
// in time, the container stays as it is, and a tag means what it was last seen with.
func (r *Resolver) Resolve(ctx context.Context, containers []api.Container) {
	ctx, cancel := context.WithTimeout(ctx, resolveFor)
	defer cancel()
	var all sync.WaitGroup
	for i := range containers {
		c := &containers[i]
		if c.Name == "" || c.Digest != "" || !r.wanted(c.Name) {
			continue
		}
		if digest, ok := r.tags.Get(c.Normal); ok {
			c.Digest = digest.(string)
			continue
		}
		all.Go(func() {
			digest, err := r.ask(ctx, c.Normal)
			if err != nil {
				r.Log.Warn("a tag is not resolved", "image", c.Normal, "error", err)
				return
			}
			c.Digest = digest
		})
	}
	all.Wait()
}

// wanted says whether a canonical name is among those that are asked for.
func (r *Resolver) wanted(image string) bool {
	for _, n := range r.Names {
		n = api.CanonicalPrefix(strings.TrimSuffix(n, "/"))
		if n == "*" || image == n || strings.HasPrefix(image, n+"/") {
			return true
		}
	}
	return false
}

func (r *Resolver) ask(ctx context.Context, image string) (string, error) {
	answer := r.asking.DoChan(image, func() (any, error) {
		ref, err := name.ParseReference(image)
		if err != nil {
			return "", err
		}
		// Others may wait for the same answer: it does not end with the one that asked first.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resolveFor)
		defer cancel()
		found, err := remote.Head(ref, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithUserAgent("assay-webhook"),
			remote.WithTransport(&outgoing.Registry{Base: r.Transport, Host: ref.Context().RegistryStr(), Realms: r.Realms}))
		if err != nil {
			return "", err
		}
		digest := found.Digest.String()
		r.tags.Add(image, digest, tagFor)
		return digest, nil
	})
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case got := <-answer:
		digest, _ := got.Val.(string)
		return digest, got.Err
	}
}
