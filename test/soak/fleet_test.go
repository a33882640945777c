package soak

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-dev/assay/server/client"
	"github.com/assay-dev/assay/server/daemon"
)

const (
	containers = 30  // of a node
	kinds      = 300 // of images in the fleet
	minutes    = 10  // of heartbeats
	// churn is how many in a thousand nodes have a change in a minute.
	churn = 50
)

// nodes is how many report: 40, or ASSAY_FLEET.
func nodes() int {
	if n, err := strconv.Atoi(os.Getenv("ASSAY_FLEET")); err == nil && n > 0 {
		return n
	}
	return 40
}

// reporter is a node, as its agent reports it. Clusters have the same names of nodes and Pods.
type reporter struct {
	cluster, name string
	sequence      int64
	rand          *rand.Rand
	runs          []client.Instance
}

func (r *reporter) container() client.Instance {
	n := r.rand.IntN(kinds)
	return client.Instance{Namespace: "shop", Pod: fmt.Sprintf("%s-%06d", r.name, r.rand.IntN(1_000_000)), Container: "main",
		Image: fmt.Sprintf("registry.example.com/shop/i%d:1", n), Digest: digest(n)}
}

// change ends one container, and starts another.
func (r *reporter) change() client.InstanceChanges {
	i := r.rand.IntN(len(r.runs))
	before := r.runs[i]
	r.runs[i] = r.container()
	for r.runs[i].Pod == before.Pod {
		r.runs[i] = r.container()
	}
	r.sequence++
	c := r.silence()
	c.Set, c.Removed = []client.Instance{r.runs[i]}, []client.InstanceKey{{Namespace: before.Namespace, Pod: before.Pod, Container: before.Container}}
	return c
}

func (r *reporter) silence() client.InstanceChanges {
	return client.InstanceChanges{Cluster: r.cluster, Node: r.name, Epoch: "e-" + r.name, Sequence: r.sequence, Set: []client.Instance{}, Removed: []client.InstanceKey{}}
}

// used is the CPU time of a process so far, and its peak memory in bytes.
func used(t *testing.T, pid int) (cpu time.Duration, peak int64) {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	status, err2 := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err = errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	for _, f := range fields[11:13] { // in hundredths of a second
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		cpu += time.Duration(n) * 10 * time.Millisecond
	}
	if _, after, ok := strings.Cut(string(status), "VmHWM:"); ok {
		kib, err := strconv.ParseInt(strings.Fields(after)[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		peak = kib << 10
	}
	return cpu, peak
}

// A fleet of two clusters reports to one server with SQLite: everything, and then minutes of
// heartbeats and a few changes, as fast as they are taken. Each image is given to one node.
func TestFleet(t *testing.T) {
	s := prepare(t, "", "http://127.0.0.1:9")
	s.start()
	defer func() { s.kill() }()
	s.ready()
	fleet := make([]*reporter, nodes())
	for i := range fleet {
		fleet[i] = &reporter{cluster: []string{"eu", "us"}[i%2], name: fmt.Sprintf("node-%d", i/2), rand: rand.New(rand.NewPCG(uint64(i/2), 1))}
		pods := map[string]bool{}
		for len(fleet[i].runs) < containers {
			if c := fleet[i].container(); !pods[c.Pod] {
				pods[c.Pod] = true
				fleet[i].runs = append(fleet[i].runs, c)
			}
		}
	}

	const workers = 8
	var clients [workers]*client.Client
	for w := range clients {
		var err error
		if clients[w], err = client.New(client.Config{URL: "http://" + s.address, TokenFile: filepath.Join(s.data, daemon.AdminToken)}); err != nil {
			t.Fatal(err)
		}
	}
	// phase has each node do something, and tells what it took.
	phase := func(name string, times int, do func(c *client.Client, r *reporter) error) {
		t.Helper()
		cpu, _ := used(t, s.cmd.Process.Pid)
		begun := time.Now()
		for range times {
			var group sync.WaitGroup
			for w := range workers {
				group.Go(func() {
					for i := w; i < len(fleet); i += workers {
						if err := do(clients[w], fleet[i]); err != nil {
							t.Errorf("%s: %s of %s: %v", name, fleet[i].name, fleet[i].cluster, err)
							return
						}
					}
				})
			}
			group.Wait()
			if t.Failed() {
				t.Fatal(s.log.String())
			}
		}
		took := time.Since(begun)
		after, peak := used(t, s.cmd.Process.Pid)
		n := float64(times * len(fleet))
		t.Logf("%d nodes, %s: %.0f requests in %.1f s, %.0f a second; %.2f CPU-s, %.2f ms a request; peak memory %d MiB",
			len(fleet), name, n, took.Seconds(), n/took.Seconds(), (after - cpu).Seconds(), (after-cpu).Seconds()*1000/n, peak>>20)
	}

	phase("everything", 1, func(c *client.Client, r *reporter) error {
		return c.PutInstances(t.Context(), client.Instances{Cluster: r.cluster, Node: r.name, Epoch: "e-" + r.name, Instances: r.runs})
	})
	var mu sync.Mutex
	given, all := map[string]int{}, map[string]bool{}
	phase("claims", 1, func(c *client.Client, r *reporter) error {
		asked := client.Claims{Cluster: r.cluster, Node: r.name}
		for _, i := range r.runs {
			asked.Digests = append(asked.Digests, i.Digest)
		}
		list, err := c.Claims(t.Context(), asked)
		mu.Lock()
		defer mu.Unlock()
		once := map[string]bool{}
		for _, claim := range list {
			all[claim.Digest] = true
			if claim.State == client.ClaimScan && !once[claim.Digest] {
				once[claim.Digest] = true
				given[claim.Digest]++
			}
		}
		return err
	})
	for d := range all {
		if given[d] != 1 {
			t.Errorf("%s was given to %d nodes", d, given[d])
		}
	}
	phase("heartbeats", minutes, func(c *client.Client, r *reporter) error {
		return c.ChangeInstances(t.Context(), r.silence())
	})
	phase("heartbeats and changes", minutes, func(c *client.Client, r *reporter) error {
		if r.rand.IntN(1000) < churn {
			return c.ChangeInstances(t.Context(), r.change())
		}
		return c.ChangeInstances(t.Context(), r.silence())
	})

	want := map[string]string{}
	for _, r := range fleet {
		for _, i := range r.runs {
			want[r.cluster+"/"+i.Pod+" on "+r.name] = i.Image
		}
	}
	got := map[string]string{}
	for after := ""; ; {
		status, text := s.send(http.MethodGet, "/api/v1/instances?limit=1000&after="+after, "")
		var page struct {
			Items []struct{ Cluster, Pod, Node, Image string }
			Next  string
		}
		if err := json.Unmarshal(text, &page); err != nil || status != http.StatusOK {
			t.Fatalf("what runs: %d %v %s", status, err, text)
		}
		for _, i := range page.Items {
			got[i.Cluster+"/"+i.Pod+" on "+i.Node] = i.Image
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d containers are known, not %d", len(got), len(want))
	}
	for k, image := range want {
		if got[k] != image {
			t.Errorf("%s runs %s, and is known to run %q", k, image, got[k])
		}
	}
}
