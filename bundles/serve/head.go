package serve

import (
	"fmt"
	"time"

	"github.com/assay-dev/assay/bundles"
)

// HeadEvery is the time between two heads where no part changes.
const HeadEvery = time.Minute

// DefaultValidFor is for how long data.assay.fresh admits by a head.
const DefaultValidFor = 10 * time.Minute

// Issue serves the head of a view, which names the bundles that are served under the names now, signed; a
// nil key leaves it unsigned. The head is given without its parts. One that is not
// served is an error. Who may not read all of them may not read the head.
func (h *Handler) Issue(head bundles.Head, key *bundles.SigningKey, names []string) (err error) {
	if head.Parts, err = h.Digests(names); err != nil {
		return err
	}
	b, err := head.Bundle()
	if err != nil {
		return err
	}
	text, err := bundles.Pack(b, key)
	if err != nil {
		return err
	}
	h.Set(bundles.HeadOf(head.View), text)
	return nil
}

// Digests are those of the bundles that are served under names at one moment, as bundles.Digest makes them.
func (h *Handler) Digests(names []string) (map[string]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	digests := map[string]string{}
	for _, name := range names {
		v := h.bundles[name]
		if v == nil {
			return nil, fmt.Errorf("issuing the head: there is no bundle %q", name)
		}
		digests[name] = v.digest()
	}
	return digests, nil
}
