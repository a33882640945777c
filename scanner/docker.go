package scanner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/assay-dev/assay/api"
)

// daemonWait bounds how long a daemon may take to say that it is there.
const daemonWait = 3 * time.Second

// openDocker finds an image that the Docker daemon holds. It never makes the
// daemon pull. errAbsent tells that the daemon does not answer or lacks the image.
func (s *Scanner) openDocker(ctx context.Context, value, dir string) (*found, error) {
	options := []client.Opt{client.FromEnv}
	if s.cfg.DockerHost != "" {
		options = append(options, client.WithHost(s.cfg.DockerHost))
	}
	c, err := client.New(options...)
	if err != nil {
		return nil, fmt.Errorf("%w: connecting to the Docker daemon: %w", errAbsent, err)
	}
	defer c.Close()
	wait, cancel := context.WithTimeout(ctx, daemonWait)
	defer cancel()
	if _, err := c.Ping(wait, client.PingOptions{}); err != nil {
		return nil, fmt.Errorf("%w: the Docker daemon does not answer: %w", errAbsent, err)
	}

	ref, err := api.ParseReference(value)
	if err != nil {
		return nil, err
	}
	name := ref.String()
	if ref.Digest != "" {
		name = ref.WrittenName() + "@" + ref.Digest
	}
	info, err := c.ImageInspect(ctx, name)
	if errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("%w: the Docker daemon has no image %s", errAbsent, value)
	}
	if err != nil {
		return nil, fmt.Errorf("asking the Docker daemon for the image: %w", err)
	}
	if info.Size > s.cfg.MaxImageBytes {
		return nil, byteLimit("MaxImageBytes", "the image unpacks to", s.cfg.MaxImageBytes)
	}
	f, err := s.saveFromDocker(ctx, c, name, dir)
	if err != nil {
		return nil, err
	}
	f.source, f.name = Docker, ""
	f.repoDigests = info.RepoDigests
	return f, nil
}

// saveFromDocker writes the image into dir and opens it there.
func (s *Scanner) saveFromDocker(ctx context.Context, c *client.Client, name, dir string) (*found, error) {
	rc, err := s.dockerSave(ctx, c, name)
	if err != nil {
		return nil, fmt.Errorf("reading the image from the Docker daemon: %w", err)
	}
	defer rc.Close()
	// The tar holds headers and the manifests of the image besides its layers.
	limit := s.cfg.MaxImageBytes + 64<<20
	file, err := spool(ctx, rc, dir, limit, byteLimit("MaxImageBytes", "the image unpacks to", s.cfg.MaxImageBytes))
	if err != nil {
		return nil, fmt.Errorf("reading the image from the Docker daemon: %w", err)
	}
	t, err := indexTar(file, s.cfg.MaxFiles)
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("reading the image from the Docker daemon: %w", err)
	}
	f, err := s.savedImage(ctx, t, "")
	if err != nil {
		t.Close()
		return nil, err
	}
	f.close = t.Close
	f.warnings = nil
	return f, nil
}

// dockerSave asks for one platform where one is configured and the daemon
// knows how to.
func (s *Scanner) dockerSave(ctx context.Context, c *client.Client, name string) (io.ReadCloser, error) {
	if p := s.cfg.Platform; p != "" {
		parsed, err := v1.ParsePlatform(p)
		if err != nil {
			return nil, err
		}
		rc, err := c.ImageSave(ctx, []string{name}, client.ImageSaveWithPlatforms(ocispec.Platform{
			OS: parsed.OS, Architecture: parsed.Architecture, Variant: parsed.Variant}))
		if err == nil {
			return rc, nil
		}
		s.cfg.Log.Debug("asking the Docker daemon for one platform", "error", scrub(err.Error()))
	}
	return c.ImageSave(ctx, []string{name})
}

// openReference looks for a reference in the local daemons, then in its registry.
func (s *Scanner) openReference(ctx context.Context, value, dir string) (*found, error) {
	if !s.cfg.NoDaemons {
		for _, open := range []func() (*found, error){
			func() (*found, error) { return s.openDocker(ctx, value, dir) },
			func() (*found, error) { return s.openContainerd(ctx, value) },
		} {
			f, err := open()
			if err == nil {
				return f, nil
			}
			var wrong *platformError
			if !errors.Is(err, errAbsent) && !errors.As(err, &wrong) || ctx.Err() != nil {
				return nil, err
			}
			s.cfg.Log.Debug("looking for the image in a local daemon", "image", value, "outcome", scrub(err.Error()))
		}
	}
	f, err := s.openRegistry(ctx, value)
	if err != nil {
		if hint := schemeHint(value); hint != "" && !strings.Contains(err.Error(), hint) {
			return nil, fmt.Errorf("%w (%s)", err, hint)
		}
	}
	return f, err
}
