package scanner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/platforms"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/assay-dev/assay/api"
)

// StoredImage is an image that a containerd holds for its machine's platform.
type StoredImage struct {
	// Digest is that of the platform's manifest, ConfigDigest that of its
	// configuration, which is the id by which CRI knows the image.
	Digest, ConfigDigest string
	// Index is the digest of the index around it, or empty.
	Index string
	// Names are its references, those with tags first, each normalised; there may be none.
	Names []string
	// Err says why its manifest cannot be read. Digest is then that of containerd's
	// record, and ConfigDigest is empty.
	Err error
}

// ContainerdStore lists the images of one containerd for a program that goes on
// running. It is safe for concurrent use. [ContainerdStore.Close] ends it.
type ContainerdStore struct {
	client   *client.Client
	scanner  *Scanner
	space    string
	platform string

	mu    sync.Mutex
	known map[string]StoredImage // by the digest of the record; without names
}

// ContainerdStore connects to containerd. The Config needs its ContainerdNamespace.
func (s *Scanner) ContainerdStore() (*ContainerdStore, error) {
	c, err := s.dialContainerd()
	if err != nil {
		return nil, err
	}
	return &ContainerdStore{client: c, scanner: s, space: s.cfg.ContainerdNamespace, known: map[string]StoredImage{},
		platform: firstOf(s.cfg.Platform, machinePlatform())}, nil
}

func machinePlatform() string {
	p := platforms.DefaultSpec()
	return platformText(&v1.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant})
}

// Close ends the connection.
func (t *ContainerdStore) Close() error { return t.client.Close() }

// Images lists the images, sorted by digest, each once. A manifest is read once.
func (t *ContainerdStore) Images(ctx context.Context) ([]StoredImage, error) {
	ctx = namespaces.WithNamespace(ctx, t.space)
	records, err := t.client.ImageService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing containerd's images: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	all, seen := map[string]*StoredImage{}, map[string]bool{}
	for _, record := range records {
		target := record.Target.Digest.String()
		seen[target] = true
		one, ok := t.known[target]
		if !ok {
			one = t.resolve(ctx, record)
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			// What cannot be read may come yet: a pull writes the record last, other tools do not.
			if one.Err == nil {
				t.known[target] = one
			}
		}
		if all[one.Digest] == nil {
			all[one.Digest] = &one
		}
		into := all[one.Digest]
		into.Index = firstOf(into.Index, one.Index)
		if name := recordName(record.Name); name != "" && !slices.Contains(into.Names, name) {
			into.Names = append(into.Names, name)
		}
	}
	for target := range t.known {
		if !seen[target] {
			delete(t.known, target)
		}
	}
	list := make([]StoredImage, 0, len(all))
	for _, one := range all {
		slices.SortFunc(one.Names, func(a, b string) int {
			return cmp.Or(cmp.Compare(strings.Count(a, "@"), strings.Count(b, "@")), cmp.Compare(a, b))
		})
		list = append(list, *one)
	}
	slices.SortFunc(list, func(a, b StoredImage) int { return cmp.Compare(a.Digest, b.Digest) })
	return list, nil
}

// resolve finds the image of the machine's platform. An image of another platform that
// is here all the same is taken as it is.
func (t *ContainerdStore) resolve(ctx context.Context, record images.Image) StoredImage {
	root, err := rootOf(record)
	var f *found
	if err == nil {
		r := t.scanner.resolver(storeContent{t.client.ContentStore(), t.space})
		r.platform = t.platform
		f, err = r.resolve(ctx, root)
		var other *platformError
		if errors.As(err, &other) {
			r.platform = ""
			f, err = r.resolve(ctx, root)
		}
	}
	if err != nil {
		return StoredImage{Digest: record.Target.Digest.String(), Err: scrubbed(err)}
	}
	one := StoredImage{Digest: f.digest, ConfigDigest: f.configDigest().String()}
	if f.index != nil {
		one.Index = f.index.Digest
	}
	return one
}

// recordName is the reference in the name of a record; CRI's records by id name nothing.
func recordName(name string) string {
	if strings.HasPrefix(name, "sha256:") {
		return ""
	}
	ref, err := api.ParseReference(name)
	if err != nil {
		return ""
	}
	return ref.String()
}
