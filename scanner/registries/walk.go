package registries

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/scanner/pace"
)

// Found is one name of a registry, and where it leads to.
type Found struct {
	// Name is the reference, "registry.example.com/team/app:1.0", or with a digest for
	// what has no tag.
	Name string
	// Digest is that of the manifest or index.
	Digest string
	// Index says that it is an index.
	Index bool
	// Err says why it is not known where the name leads to.
	Err error
	// Repository says that Name is a repository, whose tags could not be listed.
	Repository bool
}

// At is the reference of the very digest.
func (f Found) At() string {
	name := f.Name
	if before, _, untagged := strings.Cut(name, "@"); untagged {
		name = before
	} else if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name = name[:i]
	}
	return name + "@" + f.Digest
}

// Listing counts what a walk came across.
type Listing struct {
	Repositories, Names atomic.Int64
	// LeftOut are tags that the filters leave out, and repositories, whose tags are
	// then not listed.
	LeftOut atomic.Int64
	// Signatures are tags of signatures and attestations, which are left out.
	Signatures atomic.Int64
}

// Nothing says why a walk to its end met no name of a registry; nil where it met one.
func (l *Listing) Nothing(registry string) error {
	switch {
	case l.Names.Load() > 0:
		return nil
	case l.LeftOut.Load() > 0:
		return fmt.Errorf("the filters leave out all that %s lists: %d tags and repositories", registry, l.LeftOut.Load())
	case l.Signatures.Load() > 0:
		return fmt.Errorf("%s lists nothing but %d signatures", registry, l.Signatures.Load())
	}
	return fmt.Errorf("%s lists no tags", registry)
}

// Walk lists a registry, and calls fn with each name that passes the filters, several
// at once. It ends with the first error of fn, or where the registry cannot be listed;
// what is wrong with one repository or tag is given to fn.
func Walk(ctx context.Context, s Source, listing *Listing, fn func(context.Context, Found) error) error {
	t, err := s.check()
	if err != nil {
		return err
	}
	return t.walk(ctx, listing, fn)
}

func (t target) walk(ctx context.Context, listing *Listing, fn func(context.Context, Found) error) error {
	w := &walker{target: t, listing: listing, fn: fn, lookups: make(chan struct{}, t.Lookups)}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(t.Lookups)
	err := t.repositories(ctx, func(repository string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := api.ParseReference(t.host + "/" + repository); err != nil || strings.ContainsAny(repository, ":@") {
			return fn(ctx, Found{Name: t.host + "/" + fmt.Sprintf("%.200q", repository), Err: errors.New("the registry lists a repository of this name, which none may have"), Repository: true})
		}
		if anyMatches(t.Exclude, repository) {
			listing.LeftOut.Add(1)
			return nil
		}
		group.Go(func() error { return w.repository(ctx, repository, 0) })
		return nil
	})
	// An error of a repository has ended the listing, which says less.
	if of := group.Wait(); of != nil {
		return of
	}
	return err
}

type walker struct {
	target
	listing *Listing
	fn      func(context.Context, Found) error
	lookups chan struct{} // as many as may run
}

// fatal says whether an error is of the whole walk.
func fatal(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, pace.ErrBusy)
}

// repository lists the tags of one, and asks for each.
func (w *walker) repository(ctx context.Context, repository string, depth int) error {
	w.listing.Repositories.Add(1)
	full := w.host + "/" + repository
	s, err := w.session(ctx, repository)
	if err == nil {
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(w.Lookups)
		err = s.pages(ctx, "/v2/"+repository+"/tags/list", func(p *page) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			w.page(ctx, group, s, repository, p)
			for _, child := range p.Children {
				if !isGoogle(w.host) || len(w.Repositories) > 0 {
					break
				}
				if _, err := api.ParseReference(full + "/" + child); err != nil || depth == maxDepth {
					return fmt.Errorf("%s lists the folder %.200q", full, child)
				}
				if anyMatches(w.Exclude, repository+"/"+child) {
					w.listing.LeftOut.Add(1)
					continue
				}
				if err := w.repository(ctx, repository+"/"+child, depth+1); err != nil {
					return &stop{err}
				}
			}
			return nil
		})
		if of := group.Wait(); of != nil {
			return of
		}
	}
	var ended *stop
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ended):
		return ended.error
	case fatal(ctx, err):
		return err
	case status(err) == http.StatusNotFound && len(w.Repositories) == 0:
		return nil // its last tag is gone, or it went after it was listed
	}
	var worded *said
	if !errors.As(err, &worded) && status(err) != 0 {
		err = w.say(err)
	}
	return w.fn(ctx, Found{Name: full, Repository: true, Err: fmt.Errorf("listing the tags of %s: %w", full, err)})
}

// page starts to ask for each tag of a page.
func (w *walker) page(ctx context.Context, group *errgroup.Group, s *session, repository string, p *page) {
	full := w.host + "/" + repository
	// Where the registry says what each tag leads to, nothing needs to be asked.
	leads := map[string]Found{}
	for digest, m := range p.Manifests {
		f := Found{Digest: digest, Index: m.MediaType.IsIndex()}
		if _, err := v1.NewHash(digest); err != nil {
			continue
		}
		for _, tag := range m.Tags {
			leads[tag] = f
		}
		if name := repository + "@" + digest; len(m.Tags) == 0 && w.Untagged && w.takes(name) {
			f.Name = w.host + "/" + name
			w.listing.Names.Add(1)
			group.Go(func() error { return w.fn(ctx, f) })
		}
	}
	for _, tag := range p.Tags {
		name := repository + ":" + tag
		switch {
		case signature.MatchString(tag):
			w.listing.Signatures.Add(1)
			continue
		case !w.takes(name):
			w.listing.LeftOut.Add(1)
			continue
		}
		w.listing.Names.Add(1)
		if _, err := api.ParseReference(full + ":" + tag); err != nil {
			group.Go(func() error {
				return w.fn(ctx, Found{Name: full, Err: fmt.Errorf("%s lists the tag %.200q, which none may be", full, tag)})
			})
			continue
		}
		f, known := leads[tag]
		f.Name = full + ":" + tag
		group.Go(func() error {
			if !known {
				select {
				case w.lookups <- struct{}{}:
				case <-ctx.Done():
					return ctx.Err()
				}
				err := s.lookup(ctx, repository, tag, &f)
				<-w.lookups
				if err != nil && fatal(ctx, err) {
					return err
				}
				if err != nil {
					f.Err = fmt.Errorf("%s: %w", f.Name, w.say(err))
				}
			}
			return w.fn(ctx, f)
		})
	}
}

// accepted are the manifests that images have.
var accepted = func() string {
	list := []types.MediaType{types.OCIImageIndex, types.DockerManifestList, types.OCIManifestSchema1, types.DockerManifestSchema2}
	text := make([]string, len(list))
	for i, t := range list {
		text[i] = string(t)
	}
	return strings.Join(text, ",")
}()

// maxManifest bounds a manifest, in bytes.
const maxManifest = 8 << 20

// lookup asks where a tag leads to: by HEAD, and by GET where HEAD does not say.
func (s *session) lookup(ctx context.Context, repository, tag string, f *Found) error {
	at := s.base
	at.Path = "/v2/" + repository + "/manifests/" + tag
	for _, method := range []string{http.MethodHead, http.MethodGet} {
		request, err := http.NewRequestWithContext(ctx, method, at.String(), nil)
		if err != nil {
			return err
		}
		request.Header.Set("Accept", accepted)
		response, err := s.client.Do(request)
		if err != nil {
			return err
		}
		err = transport.CheckError(response, http.StatusOK)
		digest, body := v1.Hash{}, []byte(nil)
		if err == nil && method == http.MethodGet {
			if body, err = io.ReadAll(io.LimitReader(response.Body, maxManifest+1)); err == nil && len(body) > maxManifest {
				err = fmt.Errorf("the manifest has more than %d bytes", maxManifest)
			}
		}
		response.Body.Close()
		switch code := status(err); {
		case method == http.MethodHead && (code == http.StatusNotFound || code == http.StatusMethodNotAllowed || code == http.StatusBadRequest || code == http.StatusNotImplemented):
			continue
		case err != nil:
			return err
		case method == http.MethodHead:
			if digest, err = v1.NewHash(response.Header.Get("Docker-Content-Digest")); err != nil || digest.Algorithm != "sha256" || response.Header.Get("Content-Type") == "" {
				continue
			}
		default:
			digest, _, err = v1.SHA256(strings.NewReader(string(body)))
			if err != nil {
				return err
			}
		}
		mediaType, _, _ := strings.Cut(response.Header.Get("Content-Type"), ";")
		f.Digest, f.Index = digest.String(), types.MediaType(strings.TrimSpace(mediaType)).IsIndex()
		return nil
	}
	return errors.New("the registry does not say where the tag leads to")
}
