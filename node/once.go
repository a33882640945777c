package node

import (
	"context"
	"errors"
	"time"
)

// SchemaReport marks a [Report].
const SchemaReport = "assay.dev/node/v1"

// Report is the document of `assay node --once -o json`.
type Report struct {
	Schema     string    `json:"schema"`
	Cluster    string    `json:"cluster"`
	Node       string    `json:"node"`
	Containers int       `json:"containers"`
	Images     []Scanned `json:"images"` // in the order in which they were scanned
}

// Once scans what is on the node now, tells the server, if there is one, and ends when
// all is told. What another node scans is left to it. progress, which may be nil, hears of each image.
func (a *Agent) Once(ctx context.Context, progress func(Scanned)) (Report, error) {
	report := Report{Schema: SchemaReport, Cluster: a.Cluster, Node: a.Node, Images: []Scanned{}}
	if a.Assurance != nil {
		follow, cancel := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- a.followAssurance(follow) }()
		for !a.settings.Load().Known && pause(ctx, time.Second, a.look) {
		}
		cancel()
		if err := errors.Join(ctx.Err(), <-ended); err != nil {
			return report, err
		}
	}
	if err := a.takeInventory(ctx); err != nil {
		return report, err
	}
	a.read.Store(true)
	defer a.giveBack()
	report.Containers = len(a.inventory.instances)
	if a.Server != nil {
		var r reporter
		if err := r.tellAll(ctx, a, a.inventory.instances); err != nil {
			return report, err
		}
	}
	note := func(s Scanned) {
		report.Images = append(report.Images, s)
		if progress != nil {
			progress(s)
		}
	}
	var wait backoff
	for ctx.Err() == nil {
		one, ok, rest := a.next(ctx, &wait)
		if ok {
			note(a.scan(ctx, one))
			continue
		}
		if rest > 0 {
			break
		}
	}
	if err := ctx.Err(); err != nil {
		return report, err
	}
	a.mu.Lock()
	for d, i := range a.inventory.images {
		s := Scanned{Digest: d, Images: i.Names, Running: i.Running}
		switch a.states[d].kind {
		case settled:
			s.State = "known"
		case others, fresh, mine:
			s.State = "claimed"
		case failed, givenUp:
			s.State, s.Error = "failed", a.tries.get(d).Error
		default:
			continue
		}
		if !report.has(d) {
			report.Images = append(report.Images, s)
		}
	}
	a.mu.Unlock()
	if a.Server == nil {
		return report, nil
	}
	_, err := a.sendAll(ctx)
	return report, err
}

func (r Report) has(digest string) bool {
	for _, s := range r.Images {
		if s.Digest == digest {
			return true
		}
	}
	return false
}
