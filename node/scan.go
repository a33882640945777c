package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/scanner"
	"github.com/assay-dev/assay/scanner/child"
	"github.com/assay-dev/assay/server/client"
)

// kind is how far an image is.
type kind int

const (
	fresh    kind = iota // nothing is known
	mine                 // this node scans it, until the claim ends
	scanning             // it is being scanned
	queued               // its SBOM waits to be sent
	settled              // the server has its SBOM
	others               // another node scans it, until the claim ends
	failed               // until it is tried again
	givenUp              // it failed too often
)

// state of an image. Until is when it is looked at again; the zero time is never.
type state struct {
	kind  kind
	until time.Time
}

const (
	// claimed is how many images an agent claims at a time: few, so that the nodes share
	// the work, and none waits until its claim ends.
	claimedAtOnce = 8
	// margin is what must be left of a claim for a scan to begin.
	margin = time.Minute
	// askAgain is when the server is asked again about what it had.
	askAgain = 24 * time.Hour
	// refusedWait is the wait after the server refused this agent.
	refusedWait = time.Minute
)

// forget drops what is known of images that are not on the node. The caller holds mu.
func (a *Agent) forget(stored []scanner.StoredImage) {
	here := map[string]bool{}
	for _, s := range stored {
		here[s.Digest] = true
	}
	for d, s := range a.states {
		if !here[d] && s.kind != scanning && s.kind != queued {
			delete(a.states, d)
		}
	}
	a.tries.only(func(d string) bool { return here[d] })
}

func (a *Agent) setState(digest string, k kind, until time.Time) {
	a.mu.Lock()
	a.states[digest] = state{k, until}
	a.mu.Unlock()
}

// due are the images that are to be claimed or scanned now, what runs first; and when
// the next is due.
func (a *Agent) due(now time.Time) (list []image, next time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	begun := map[string]int{}
	for d, i := range a.inventory.images {
		s := a.states[d]
		switch s.kind {
		case scanning, queued:
			continue
		case fresh, mine:
		default:
			if s.until.IsZero() {
				continue
			}
			if s.until.After(now) {
				if next.IsZero() || s.until.Before(next) {
					next = s.until
				}
				continue
			}
		}
		t := a.tries.get(d)
		if t.Count >= maxTries || t.Begun >= maxBegun {
			a.states[d] = state{givenUp, time.Time{}}
			continue
		}
		if t.Next.After(now) {
			a.states[d] = state{failed, t.Next}
			if next.IsZero() || t.Next.Before(next) {
				next = t.Next
			}
			continue
		}
		list = append(list, i)
		begun[d] = t.Begun
	}
	slices.SortFunc(list, func(x, y image) int {
		if x.Running != y.Running {
			if x.Running {
				return -1
			}
			return 1
		}
		// What ended the agent may do so again: others come before it.
		return cmp.Or(cmp.Compare(begun[x.Digest], begun[y.Digest]), cmp.Compare(x.Digest, y.Digest))
	})
	return list, next
}

// scanAll scans what is on the node, so many at a time as the configuration says.
func (a *Agent) scanAll(ctx context.Context) error {
	defer a.giveBack()
	var g errgroup.Group
	slots := make(chan struct{}, a.Parallel)
	var wait backoff
	for ctx.Err() == nil {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			continue
		}
		one, ok, rest := a.next(ctx, &wait)
		if !ok {
			<-slots
			pause(ctx, rest, a.toScan)
			continue
		}
		g.Go(func() error {
			defer func() { <-slots; kick(a.toScan) }()
			a.scan(ctx, one)
			return nil
		})
	}
	return g.Wait()
}

// next gives an image to scan, which is this node's to scan, or how long to wait.
func (a *Agent) next(ctx context.Context, wait *backoff) (image, bool, time.Duration) {
	now := time.Now()
	list, soon := a.due(now)
	rest := time.Hour
	if !soon.IsZero() {
		rest = soon.Sub(now)
	}
	if len(list) == 0 {
		return image{}, false, rest
	}
	one := list[0]
	a.mu.Lock()
	s := a.states[one.Digest]
	a.mu.Unlock()
	if a.Server != nil && (s.kind != mine || now.Add(margin).After(s.until)) {
		batch := list[:min(len(list), claimedAtOnce)]
		digests := make([]string, len(batch))
		for i := range batch {
			digests[i] = batch[i].Digest
		}
		claims, err := a.Server.Claims(ctx, client.Claims{Cluster: a.Cluster, Node: a.Node, Digests: digests})
		switch {
		case ctx.Err() != nil:
			return image{}, false, 0
		case err != nil && !away(err):
			a.Log.Error("the server refuses to say what this node is to scan; asking again", "error", err)
			return image{}, false, refusedWait
		case err != nil && !a.queue.roomy():
			a.Log.Warn("the server does not answer, and the queue has no room for more", "error", err)
			return image{}, false, wait.next()
		case err != nil:
			// The work goes on, and what others did meanwhile is not sent.
			a.Log.Warn("the server does not answer; images are scanned and kept meanwhile", "error", err)
		default:
			wait.n = 0
			a.takeClaims(claims, digests)
			a.mu.Lock()
			s = a.states[one.Digest]
			a.mu.Unlock()
			if s.kind != mine {
				return image{}, false, 0 // the list has changed
			}
		}
	}
	a.setState(one.Digest, scanning, s.until)
	return one, true, 0
}

// takeClaims notes what the server says. What it does not speak of is asked for later.
func (a *Agent) takeClaims(claims []client.Claim, asked []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	for _, d := range asked {
		a.states[d] = state{others, now.Add(refusedWait)}
	}
	for _, c := range claims {
		if !slices.Contains(asked, c.Digest) {
			continue
		}
		switch c.State {
		case client.ClaimScan:
			// A clock that differs from the server's must not make a claim of no use.
			a.states[c.Digest] = state{mine, later(c.Until, now.Add(2*margin))}
		case client.ClaimKnown:
			a.states[c.Digest] = state{settled, now.Add(askAgain)}
		case client.ClaimClaimed:
			a.states[c.Digest] = state{others, later(c.Until, now.Add(5*time.Second))}
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// giveBack lets other nodes scan what this one will not.
func (a *Agent) giveBack() {
	if a.Server == nil {
		return
	}
	var digests []string
	a.mu.Lock()
	for d, s := range a.states {
		if s.kind == mine || s.kind == scanning {
			digests = append(digests, d)
			delete(a.states, d)
		}
	}
	a.mu.Unlock()
	a.release(digests)
}

// releaseWait bounds giving claims back, which end by themselves too.
const releaseWait = 3 * time.Second

func (a *Agent) release(digests []string) {
	if len(digests) == 0 || a.Server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), releaseWait)
	defer cancel()
	for part := range slices.Chunk(digests, client.MaxClaims) {
		if err := a.Server.ReleaseClaims(ctx, client.Claims{Cluster: a.Cluster, Node: a.Node, Digests: part}); err != nil {
			a.Log.Warn("giving claims back; they end by themselves", "error", err)
			return
		}
	}
}

// Scanned is what became of an image.
type Scanned struct {
	Digest   string   `json:"digest"`
	Images   []string `json:"images"`
	Running  bool     `json:"running"`
	State    string   `json:"state"` // scanned, known, claimed or failed
	Packages int      `json:"packages,omitempty"`
	Error    string   `json:"error,omitempty"`
	// CPUSeconds, PeakMemory (bytes) and Seconds are what the scan took.
	CPUSeconds float64 `json:"cpu_seconds,omitempty"`
	PeakMemory int64   `json:"peak_memory,omitempty"`
	Seconds    float64 `json:"seconds,omitempty"`
}

// runner runs scans within the agent's bounds.
func (a *Agent) runner() *child.Runner {
	return &child.Runner{Command: a.Command, CPU: a.CPU, MemoryFlag: "--memory", DiskFlag: "--disk", Log: a.Log, Stopped: func() string {
		if !a.settings.Load().Enabled {
			return "the scanner was switched off"
		}
		return ""
	}}
}

func mebibytes(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }

// scan scans one image and queues what came of it.
func (a *Agent) scan(ctx context.Context, one image) Scanned {
	done := Scanned{Digest: one.Digest, Images: one.Names, Running: one.Running, State: "failed"}
	log := a.Log.With("image", one.Names[0], "digest", one.Digest)
	before := a.tries.get(one.Digest)
	// Counted before it begins: an image that ends this very process counts too.
	now := time.Now()
	after := try{Count: before.Count + 1, Next: now.Add(a.Retry << before.Count)}
	fail := func(err error) Scanned {
		log.Error("scanning an image", "error", err)
		a.setState(one.Digest, failed, time.Now().Add(a.Retry))
		done.Error = err.Error()
		return done
	}
	if err := a.tries.set(one.Digest, try{Count: before.Count, Begun: before.Begun + 1, Error: before.Error}); err != nil {
		return fail(err)
	}
	dir, err := os.MkdirTemp(a.work, "scan-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	result := child.Result{}
	var used child.Usage
	if one.Err != nil {
		result = child.Result{Error: one.Err.Error(), Absent: scanner.IsAbsent(one.Err)}
	} else if result, used, err = a.runner().Run(ctx, child.Task{Address: a.Address, Namespace: a.Namespace, Root: a.Root, Name: one.Names[0], Digest: one.Digest,
		Dir: dir, Memory: a.Memory, Disk: a.Disk, Timeout: a.Timeout}, nil); err != nil || !a.settings.Load().Enabled {
		// Stopped, not failed.
		if back := a.tries.set(one.Digest, before); back != nil {
			log.Error("keeping count of scans", "error", back)
		}
		a.mu.Lock()
		a.states[one.Digest] = state{mine, a.states[one.Digest].until}
		a.mu.Unlock()
		if err == nil || ctx.Err() != nil {
			done.Error = "the scan was stopped"
			return done
		}
		return fail(err)
	}
	done.Packages, done.Error = result.Scan.Packages, result.Error
	done.CPUSeconds, done.PeakMemory, done.Seconds = used.CPU.Seconds(), used.Memory, used.Duration.Seconds()
	a.metrics.scanned(result.Error == "", used)
	item := item{Digest: one.Digest, Names: one.Names[:min(len(one.Names), maxNames)], Running: one.Running, Made: time.Now()}
	sbom := filepath.Join(dir, child.SBOMFile)
	if result.Error != "" {
		log.Warn("an image could not be scanned", "error", result.Error, "try", after.Count, "of", maxTries, "cpu", used.CPU, "memory", mebibytes(used.Memory))
		after.Error = result.Error
		if err := a.tries.set(one.Digest, after); err != nil {
			return fail(err)
		}
		a.setState(one.Digest, failed, after.Next)
		if result.Absent {
			a.release([]string{one.Digest}) // others may have all of it; what is wrong with an image is so for all
		}
		if before.Error == result.Error {
			return done // the server knows
		}
		sbom = ""
		item.Failed = &api.Scan{Image: item.Names[0], Digest: one.Digest, ConfigDigest: one.ConfigDigest, Result: api.Unknown, ScannedAt: item.Made.UTC(),
			Source: string(scanner.Containerd), Error: result.Error, Vulnerabilities: []api.Vulnerability{}}
	} else {
		done.State = "scanned"
		for _, w := range result.Scan.Warnings {
			log.Warn("scanning an image", "warning", w)
		}
		log.Info("an image was scanned", "packages", result.Scan.Packages, "distro", result.Scan.Distro, "cpu", used.CPU.Round(time.Millisecond),
			"memory", mebibytes(used.Memory), "duration", used.Duration.Round(time.Millisecond))
	}
	if a.Server == nil {
		_ = a.tries.set(one.Digest, before)
		a.setState(one.Digest, settled, time.Time{})
		return done
	}
	a.mu.Lock()
	until := a.states[one.Digest].until
	a.mu.Unlock()
	dropped, err := a.queue.add(item, sbom)
	for _, d := range dropped {
		a.setState(d, others, time.Now().Add(a.Retry))
	}
	if errors.Is(err, errFull) {
		log.Warn("the queue has no room", "error", err)
		_ = a.tries.forget(one.Digest)
		a.setState(one.Digest, others, time.Now().Add(a.Retry))
		return done
	}
	if err != nil {
		return fail(err)
	}
	if result.Error == "" {
		a.setState(one.Digest, queued, until)
		if err := a.tries.forget(one.Digest); err != nil {
			log.Error("keeping count of scans", "error", err)
		}
	}
	kick(a.toSend)
	return done
}

// maxNames bounds the references of one image that are told of.
const maxNames = 10

// send sends what waits in the queue, what runs first.
func (a *Agent) send(ctx context.Context) error {
	var wait backoff
	for ctx.Err() == nil {
		rest, err := a.sendAll(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			rest = wait.next()
			if !away(err) {
				rest = refusedWait
			}
			a.Log.Warn("what was scanned waits on disk; sending it again", "error", err, "wait", rest.Round(time.Second))
			pause(ctx, rest, nil)
			continue
		}
		wait.n = 0
		pause(ctx, rest, a.toSend)
	}
	return nil
}

// sendAll sends what waits; it says when to look again.
func (a *Agent) sendAll(ctx context.Context) (time.Duration, error) {
	rest := time.Minute
	var refused error
	for _, i := range a.queue.list() {
		if !a.settings.Load().Enabled {
			return rest, nil
		}
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		a.mu.Lock()
		s := a.states[i.Digest]
		a.mu.Unlock()
		if i.Failed == nil && time.Now().After(s.until) {
			// Made without a claim, or by an agent that was killed, or long ago.
			state, until, err := a.claimAgain(ctx, i.Digest)
			if err != nil {
				return 0, err
			}
			switch state {
			case client.ClaimKnown:
				if err := a.queue.remove(i); err != nil {
					return 0, err
				}
				a.setState(i.Digest, settled, time.Now().Add(askAgain))
				continue
			case client.ClaimClaimed:
				rest = min(rest, max(time.Until(until), time.Second))
				continue
			}
		}
		if err := a.sendOne(ctx, i); err != nil {
			if away(err) {
				return 0, err
			}
			refused = err // the token may be for some images only: others go on
		}
	}
	return rest, refused
}

func (a *Agent) claimAgain(ctx context.Context, digest string) (string, time.Time, error) {
	claims, err := a.Server.Claims(ctx, client.Claims{Cluster: a.Cluster, Node: a.Node, Digests: []string{digest}})
	if err != nil {
		return "", time.Time{}, err
	}
	for _, c := range claims {
		if c.Digest == digest {
			return c.State, c.Until, nil
		}
	}
	return "", time.Time{}, fmt.Errorf("sending claims: the server says nothing of %s", digest)
}

// sendOne sends an item under each of its names, and removes it.
func (a *Agent) sendOne(ctx context.Context, i item) error {
	var err error
	switch {
	case i.Failed != nil:
		_, err = a.Server.Scans(ctx, api.ScanReport{Schema: api.SchemaScan, Images: []api.Scan{*i.Failed}})
	default:
		var sbom []byte
		if _, sbom, err = readItem(i.file, true); err != nil {
			a.Log.Error("a file of the queue is damaged; its image is scanned again", "file", i.file, "error", err)
			a.setState(i.Digest, fresh, time.Time{})
			return a.queue.remove(i)
		}
		for _, name := range i.Names {
			if err = a.Server.PackedSBOM(ctx, name, i.Digest, sbom); err != nil {
				break
			}
		}
	}
	if permanent(err) {
		a.Log.Error("the server refuses what was scanned; it is scanned again later", "image", i.Names[0], "digest", i.Digest, "error", err)
		a.metrics.refused.Inc()
		t := a.tries.get(i.Digest)
		if i.Failed == nil {
			t = try{Count: t.Count + 1, Next: time.Now().Add(a.Retry << t.Count), Error: t.Error}
			if err := a.tries.set(i.Digest, t); err != nil {
				return err
			}
			a.setState(i.Digest, failed, t.Next)
		}
		return a.queue.remove(i)
	}
	if err != nil {
		return err
	}
	a.metrics.sent.Inc()
	if i.Failed == nil {
		a.setState(i.Digest, settled, time.Now().Add(askAgain))
	}
	return a.queue.remove(i)
}
