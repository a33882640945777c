package store

import (
	"context"
	"errors"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
)

// ClaimState says who makes the SBOM of a digest.
type ClaimState string

// States of a claim.
const (
	ClaimScan    ClaimState = "scan"    // who asked does, and sends it before Until
	ClaimKnown   ClaimState = "known"   // it is stored
	ClaimClaimed ClaimState = "claimed" // another node does, or nobody after a failure: ask again after Until
)

// Claim is what the store says of a digest.
type Claim struct {
	Digest string     `json:"digest"`
	State  ClaimState `json:"state"`
	Until  string     `json:"until,omitempty"`
}

// failurePauses are how long nobody is given a digest after it failed once, twice and so on.
var failurePauses = []time.Duration{10 * time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour}

// Claim gives digests without an SBOM to a node of a cluster, each to one node of its scope's space at a
// time. A node that asks again keeps what it has; what it did not send in time goes to whoever
// asks next. What is known is what counts for all names in the clusters of the scope: an SBOM of another cluster is none here.
func (t *Tx) Claim(ctx context.Context, scope api.Scope, cluster, node string, digests []string, lease time.Duration) ([]Claim, error) {
	if len(digests) == 0 {
		return []Claim{}, nil
	}
	args := make([]any, len(digests))
	for i, d := range digests {
		args[i] = clean(d)
	}
	known := map[string]bool{}
	space := originOf(scope).Space
	if err := t.each(ctx, "SELECT i.digest FROM images i JOIN sboms b ON b.image_id = i.id JOIN origins o ON o.id = i.origin_id WHERE o.registry = '' AND o.space IN ('', ?) AND i.digest IN ("+marks(len(args))+")", append([]any{space}, args...), func(scan func(...any) error) error {
		var d string
		err := scan(&d)
		known[d] = true
		return err
	}); err != nil {
		return nil, err
	}
	type held struct {
		cluster, node, until string
		failed               bool
	}
	holders := map[string]held{}
	if err := t.each(ctx, "SELECT digest, cluster, node, until, failed FROM claims WHERE space = ? AND digest IN ("+marks(len(args))+")", append([]any{space}, args...), func(scan func(...any) error) error {
		var d string
		var h held
		err := scan(&d, &h.cluster, &h.node, &h.until, &h.failed)
		holders[d] = h
		return err
	}); err != nil {
		return nil, err
	}
	cluster, node = clean(cluster), clean(node)
	until := documents.Time(parseTime(t.at).Add(lease))
	out := make([]Claim, len(digests))
	for i, d := range digests {
		d = clean(d)
		h, ok := holders[d]
		switch {
		case known[d]:
			out[i] = Claim{Digest: digests[i], State: ClaimKnown}
			continue
		case ok && h.until > t.at && (h.failed || h.cluster != cluster || h.node != node):
			out[i] = Claim{digests[i], ClaimClaimed, h.until}
			continue
		}
		if _, err := t.exec(ctx, `INSERT INTO claims (digest, space, cluster, node, until, attempts, failed, identity) VALUES (?, ?, ?, ?, ?, 0, FALSE, ?)
			ON CONFLICT (digest, space) DO UPDATE SET cluster = excluded.cluster, node = excluded.node, until = excluded.until, failed = FALSE, identity = excluded.identity`, d, space, cluster, node, until, t.identity); err != nil {
			return nil, err
		}
		t.holds(d, "", 0)
		holders[d] = held{cluster, node, until, false}
		out[i] = Claim{digests[i], ClaimScan, until}
	}
	return out, nil
}

// Release gives back what a node claimed, so that another is given it.
func (t *Tx) Release(ctx context.Context, scope api.Scope, cluster, node string, digests []string) error {
	space := originOf(scope).Space
	for _, d := range digests {
		if _, err := t.exec(ctx, "DELETE FROM claims WHERE digest = ? AND space = ? AND cluster = ? AND node = ? AND failed = FALSE AND attempts = 0", clean(d), space, clean(cluster), clean(node)); err != nil {
			return err
		}
		// What failed before keeps its number of failures.
		if _, err := t.exec(ctx, "UPDATE claims SET until = ? WHERE digest = ? AND space = ? AND cluster = ? AND node = ? AND failed = FALSE", t.at, clean(d), space, clean(cluster), clean(node)); err != nil {
			return err
		}
	}
	return nil
}

// claimDone ends the claims of a digest whose SBOM came: those of the space, and where all share it those of all.
func (t *Tx) claimDone(ctx context.Context, space, digest string) error {
	_, err := t.exec(ctx, "DELETE FROM claims WHERE digest = ? AND (space = ? OR CAST(? AS TEXT) = '')", digest, space, space)
	return err
}

// claimFailed ends a claim with a pause, longer each time, before anybody is given the digest again.
func (t *Tx) claimFailed(ctx context.Context, space, digest string) error {
	var attempts int
	switch err := t.one(ctx, "SELECT attempts FROM claims WHERE digest = ? AND space = ? AND failed = FALSE", []any{digest, space}, &attempts); {
	case errors.Is(err, ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	pause := failurePauses[min(attempts, len(failurePauses)-1)]
	_, err := t.exec(ctx, "UPDATE claims SET attempts = attempts + 1, failed = TRUE, until = ? WHERE digest = ? AND space = ?", documents.Time(parseTime(t.at).Add(pause)), digest, space)
	return err
}
