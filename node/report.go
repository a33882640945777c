package node

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/assay-dev/assay/server/client"
)

// reporter tells the server what runs: all of it once, and then what changed.
type reporter struct {
	epoch    string // "" until all was told
	sequence int64
	told     map[client.InstanceKey]client.Instance
}

// least is the time between two reports, so that containers that come and go do not flood the server.
const least = time.Second

// report tells the server what runs, until ctx ends. A node that cannot be read says
// nothing, not even that it is there.
func (a *Agent) report(ctx context.Context) error {
	var r reporter
	var wait backoff
	var last time.Time
	for {
		rest := a.Heartbeat - time.Since(last)
		if !pause(ctx, rest, a.toReport) {
			return nil
		}
		if !a.read.Load() && r.epoch == "" || !a.settings.Load().Known {
			pause(ctx, least, nil)
			continue
		}
		a.mu.Lock()
		now := maps.Clone(a.inventory.instances)
		a.mu.Unlock()
		sent, err := r.tell(ctx, a, now, time.Since(last) >= a.Heartbeat && a.read.Load())
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			d := wait.next()
			if !away(err) {
				d = refusedWait
			}
			a.Log.Warn("telling the server what runs; trying again", "error", err, "wait", d.Round(time.Second))
			a.metrics.reportErrors.Inc()
			pause(ctx, d, nil)
			kick(a.toReport)
			continue
		}
		wait.n = 0
		if sent {
			last = time.Now()
			pause(ctx, least, nil)
		} else if time.Since(last) >= a.Heartbeat {
			last = time.Now() // unread: silent, until the next
		}
	}
}

// tell sends what is new. It says whether anything was sent.
func (r *reporter) tell(ctx context.Context, a *Agent, now map[client.InstanceKey]client.Instance, heartbeat bool) (bool, error) {
	if r.epoch == "" {
		return true, r.tellAll(ctx, a, now)
	}
	changes := client.InstanceChanges{Cluster: a.Cluster, Node: a.Node, Epoch: r.epoch, Sequence: r.sequence, Set: []client.Instance{}, Removed: []client.InstanceKey{}}
	for _, key := range sortedKeys(now) {
		if before, ok := r.told[key]; !ok || before != now[key] {
			changes.Set = append(changes.Set, now[key])
		}
	}
	for _, key := range sortedKeys(r.told) {
		if _, ok := now[key]; !ok {
			changes.Removed = append(changes.Removed, key)
		}
	}
	kind := "changes"
	switch {
	case len(changes.Set)+len(changes.Removed) > 0:
		changes.Sequence++
	case heartbeat:
		kind = "heartbeat"
	default:
		return false, nil
	}
	err := a.Server.ChangeInstances(ctx, changes)
	var refused *client.Error
	if errors.As(err, &refused) && refused.Status == http.StatusConflict {
		a.Log.Info("the server asks for all that runs")
		r.epoch = ""
		return true, r.tellAll(ctx, a, now)
	}
	if err != nil {
		return false, err
	}
	r.told, r.sequence = now, changes.Sequence
	a.metrics.reports.WithLabelValues(kind).Inc()
	return true, nil
}

func (r *reporter) tellAll(ctx context.Context, a *Agent, now map[client.InstanceKey]client.Instance) error {
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	all := client.Instances{Cluster: a.Cluster, Node: a.Node, Epoch: hex.EncodeToString(b), Instances: []client.Instance{}}
	for _, key := range sortedKeys(now) {
		all.Instances = append(all.Instances, now[key])
	}
	if err := a.Server.PutInstances(ctx, all); err != nil {
		return err
	}
	r.epoch, r.sequence, r.told = all.Epoch, 0, now
	a.metrics.reports.WithLabelValues("full").Inc()
	return nil
}

func sortedKeys(m map[client.InstanceKey]client.Instance) []client.InstanceKey {
	return slices.SortedFunc(maps.Keys(m), func(a, b client.InstanceKey) int {
		return strings.Compare(a.Namespace+"\x00"+a.Pod+"\x00"+a.Container, b.Namespace+"\x00"+b.Pod+"\x00"+b.Container)
	})
}
