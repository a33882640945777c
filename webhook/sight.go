package webhook

import (
	"context"
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/util/cache"
)

// Sight asks a server to scan images that the webhook meets and nobody has scanned,
// each once in a while. It may be used concurrently.
type Sight struct {
	// Ask asks the server.
	Ask func(ctx context.Context, images []string) error
	Log *slog.Logger

	asked *cache.LRUExpireCache // images
	queue chan string
}

const (
	maxAsked   = 10_000
	askedFor   = 10 * time.Minute // an image is asked for again after this
	maxWaiting = 1000             // images that wait to be asked for
	askAtMost  = 100              // images in one request
)

// NewSight asks for nothing before Run.
func NewSight(ask func(context.Context, []string) error, log *slog.Logger) *Sight {
	return &Sight{Ask: ask, Log: log, asked: cache.NewLRUExpireCache(maxAsked), queue: make(chan string, maxWaiting)}
}

// Unknown has images asked for, and says whether all of them are or were.
func (s *Sight) Unknown(images []string) bool {
	for _, image := range images {
		if _, ok := s.asked.Get(image); ok {
			continue
		}
		select {
		case s.queue <- image:
			s.asked.Add(image, nil, askedFor)
		default:
			return false
		}
	}
	return true
}

// Run asks until the context ends.
func (s *Sight) Run(ctx context.Context) {
	for {
		var images []string
		select {
		case <-ctx.Done():
			return
		case image := <-s.queue:
			images = append(images, image)
		}
		for more := true; more && len(images) < askAtMost; {
			select {
			case image := <-s.queue:
				images = append(images, image)
			default:
				more = false
			}
		}
		if err := s.Ask(ctx, images); err != nil {
			for _, image := range images {
				s.asked.Remove(image)
			}
			s.Log.Error("asking the server for scans", "images", len(images), "error", err)
		}
	}
}
