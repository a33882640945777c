package node

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic/fake"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/node/nodetest"
	"github.com/assay-dev/assay/scanner"
	"github.com/assay-dev/assay/server/client"
)

func digestOf(c string) string { return "sha256:" + strings.Repeat(c, 64) }

func TestTake(t *testing.T) {
	const repo = "registry.example.com/app"
	stored := []scanner.StoredImage{
		{Digest: digestOf("a"), ConfigDigest: digestOf("1"), Index: digestOf("f"), Names: []string{repo + ":1", repo + "@" + digestOf("f")}},
		{Digest: digestOf("b"), ConfigDigest: digestOf("2"), Names: []string{repo + "@" + digestOf("b")}},
		{Digest: digestOf("c"), ConfigDigest: digestOf("2"), Names: []string{"mirror.example.com/app:2"}}, // packed otherwise
		{Digest: digestOf("d"), ConfigDigest: digestOf("3"), Names: []string{"registry.k8s.io/pause:3.10"}},
		{Digest: digestOf("e"), ConfigDigest: digestOf("4")},
	}
	run := func(namespace, pod, image, id string, created int64) container {
		c := container{running: true, created: created, instance: client.Instance{Namespace: namespace, Pod: pod, Container: "c", Image: image}}
		if strings.HasPrefix(id, "@") {
			c.instance.Digest = id[1:]
		} else {
			c.instance.ConfigDigest = id
		}
		return c
	}
	exited := func(c container) container { c.running = false; return c }
	for name, x := range map[string]struct {
		containers  []container
		excluded    []string
		runningOnly bool
		instances   string // pod image digest, by pod
		images      string // digest's letter, + where it runs
	}{
		"at rest":            {images: "a b c"},
		"only what runs":     {runningOnly: true, containers: []container{run("x", "p", repo+":1", digestOf("1"), 1)}, instances: "p " + repo + ":1 a", images: "a+"},
		"by digest of index": {containers: []container{run("x", "p", repo+":1", "@"+digestOf("f"), 1)}, instances: "p " + repo + ":1 a", images: "a+ b c"},
		"the name decides between manifests": {containers: []container{run("x", "p", "mirror.example.com/app:2", digestOf("2"), 1)},
			instances: "p mirror.example.com/app:2 c", images: "a b c+"},
		"no name but that of the image": {containers: []container{run("x", "p", "", digestOf("1"), 1)}, instances: "p " + repo + ":1 a", images: "a+ b c"},
		"an image that is gone":         {containers: []container{run("x", "p", repo+":9", digestOf("9"), 1)}, instances: "p " + repo + ":9 ", images: "a b c"},
		"an unnamed image that runs":    {containers: []container{run("x", "p", repo+":4", digestOf("4"), 1)}, instances: "p " + repo + ":4 e", images: "a b c e+"},
		"pause runs":                    {containers: []container{run("x", "p", "registry.k8s.io/pause:3.10", digestOf("3"), 1)}, instances: "p registry.k8s.io/pause:3.10 d", images: "a b c d+"},
		"excluded":                      {excluded: []string{"kube-system"}, containers: []container{run("kube-system", "p", repo+":1", digestOf("1"), 1)}, images: "b c"},
		"excluded, and ended":           {excluded: []string{"kube-system"}, containers: []container{exited(run("kube-system", "p", repo+":1", digestOf("1"), 1))}, images: "b c"},
		"excluded, and used elsewhere": {excluded: []string{"kube-system"}, containers: []container{run("kube-system", "p", repo+":1", digestOf("1"), 1), exited(run("x", "q", repo+":1", digestOf("1"), 2))},
			images: "a b c"},
		"the newer of one name": {containers: []container{run("x", "p", repo+":1", digestOf("1"), 2), run("x", "p", repo+":9", digestOf("9"), 1)}, instances: "p " + repo + ":1 a", images: "a+ b c"},
	} {
		t.Run(name, func(t *testing.T) {
			v := take(stored, x.containers, &settings{Enabled: true, Excluded: x.excluded}, x.runningOnly)
			letter := map[string]string{}
			for _, l := range strings.Split("abcdef", "") {
				letter[digestOf(l)] = l
			}
			var instances, images []string
			for _, i := range v.instances {
				instances = append(instances, i.Pod+" "+i.Image+" "+letter[i.Digest])
			}
			for _, d := range slices.Sorted(maps.Keys(v.images)) {
				l := letter[d]
				if v.images[d].Running {
					l += "+"
				}
				images = append(images, l)
				for _, n := range v.images[d].Names {
					if ref, err := api.ParseReference(n); err != nil || ref.Digest != "" && ref.Digest != d {
						t.Errorf("%s is named %s, which the server refuses", l, n)
					}
				}
			}
			if got := strings.Join(instances, ", "); got != x.instances {
				t.Errorf("runs %q, want %q", got, x.instances)
			}
			if got := strings.Join(images, " "); got != x.images {
				t.Errorf("images %q, want %q", got, x.images)
			}
		})
	}
	if got := namesOf(stored[0].Names, digestOf("a")); !slices.Equal(got, []string{repo + ":1"}) {
		t.Errorf("names %v", got)
	}
}

// The queue never has more than it may, and drops what rests before what runs, the oldest first.
func TestQueueIsBounded(t *testing.T) {
	dir := t.TempDir()
	sbom := filepath.Join(dir, "sbom")
	log := slog.New(slog.DiscardHandler)
	const most = 3000
	q, err := openQueue(filepath.Join(dir, "q"), most, log)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Now()
	for n := range 300 {
		if err := os.WriteFile(sbom, bytes.Repeat([]byte("x"), 1+rand.IntN(600)), 0o600); err != nil {
			t.Fatal(err)
		}
		before := q.list()
		i := item{Digest: fmt.Sprintf("sha256:%064x", rand.IntN(40)), Names: []string{"x"}, Running: rand.IntN(3) == 0, Made: at.Add(time.Duration(n) * time.Second)}
		dropped, err := q.add(i, sbom)
		if err == errFull {
			if i.Running || slices.ContainsFunc(q.list(), func(o item) bool { return !o.Running }) {
				t.Fatal("full, with room to be made")
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range dropped {
			gone := before[slices.IndexFunc(before, func(o item) bool { return o.Digest == d })]
			for _, o := range q.list() {
				if o.Digest != i.Digest && (gone.Running && !o.Running || gone.Running == o.Running && o.Made.Before(gone.Made)) {
					t.Fatalf("%+v was dropped before %+v", gone, o)
				}
			}
		}
		if items, bytes, _ := q.state(); bytes > most || items != len(q.list()) {
			t.Fatalf("%d bytes", bytes)
		}
		if n%50 == 0 { // a kill
			if err := os.WriteFile(filepath.Join(dir, "q", "part-1"), []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "q", "1"+itemSuffix), []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
			want := q.list()
			if q, err = openQueue(filepath.Join(dir, "q"), most, log); err != nil {
				t.Fatal(err)
			}
			got := q.list()
			if !slices.EqualFunc(got, want, func(a, b item) bool {
				return a.file == b.file && a.Digest == b.Digest && a.size == b.size && a.Running == b.Running
			}) {
				t.Fatalf("after a kill %v, want %v", got, want)
			}
		}
	}
	for _, i := range q.list() {
		if err := q.remove(i); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := os.ReadDir(filepath.Join(dir, "q")); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func FuzzItem(f *testing.F) {
	f.Add([]byte(`{"schema":"` + schemaItem + `","digest":"sha256:x","names":["a"]}` + "\nSBOM"))
	f.Add([]byte(`{"schema":"` + schemaItem + `","digest":"sha256:x","names":["a"],"failed":{"error":"x"}}` + "\n"))
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "x")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		i, body, err := readItem(path, true)
		if err == nil && (len(i.Names) == 0 || i.Digest == "" || i.Failed == nil && len(body) == 0 || !bytes.HasSuffix(text, body)) {
			t.Errorf("%q reads as %+v with %q", text, i, body)
		}
	})
}

func TestTriesAreOfOneVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tries.json")
	open := func(version string) *tries {
		x, err := openTries(path, version)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	if err := open("1").set("a", try{Count: 3}); err != nil {
		t.Fatal(err)
	}
	if n := open("1").get("a").Count; n != 3 {
		t.Errorf("%d tries, want 3", n)
	}
	if n := open("2").get("a").Count; n != 0 {
		t.Errorf("another version has %d tries", n)
	}
	if err := os.WriteFile(path, []byte("{torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n := open("1").get("a").Count; n != 0 {
		t.Errorf("a damaged file has %d tries", n)
	}
}

// An image whose scans never end, for the agent was killed each time, is left at last.
func TestBegunScansCount(t *testing.T) {
	b := newBed(t)
	d, _ := b.containerd.Add(t, npmImage(t, "p", "1.0.0"), "registry.example.com/p:1")
	other, _ := b.containerd.Add(t, npmImage(t, "q", "1.0.0"), "registry.example.com/q:1")
	kept, err := openTries(filepath.Join(b.config.Dir, "tries.json"), b.config.Version)
	if err != nil {
		t.Fatal(err)
	}
	if err := kept.set(d, try{Begun: maxBegun}); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.eventually("the other image", func() bool { return len(b.server.SBOMs()) == 1 })
	if b.server.SBOMs()[other].Document == nil || b.server.Claimed(d) != "" {
		t.Error("the image that kills agents was scanned")
	}
}

func assurance(spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "image-assurance.operator.tigera.io/v1", "kind": "ImageAssurance",
		"metadata": map[string]any{"name": "default"}, "spec": spec}}
}

func TestAssurance(t *testing.T) {
	b := newBed(t)
	web, webID := b.containerd.Add(t, npmImage(t, "web", "1.0.0"), "registry.example.com/web:1")
	_, systemID := b.containerd.Add(t, npmImage(t, "system", "1.0.0"), "registry.example.com/system:1")
	b.cri.Run(nodetest.Container{Namespace: "shop", Pod: "web", Name: "c", Image: "registry.example.com/web:1", ID: webID})
	b.cri.Run(nodetest.Container{Namespace: "kube-system", Pod: "system", Name: "c", Image: "registry.example.com/system:1", ID: systemID})
	kinds := map[schema.GroupVersionResource]string{assurances: "ImageAssuranceList"}
	cluster := fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), kinds, assurance(map[string]any{"clusterScanner": "Disabled"}))
	b.config.Assurance = cluster
	b.start()
	b.eventually("an empty node", func() bool { runs, ok := b.server.Runs("n1"); return ok && len(runs) == 0 })
	b.eventually("a heartbeat", func() bool { return slices.Contains(b.server.Reports(), "heartbeat") })
	if len(b.server.SBOMs()) != 0 {
		t.Fatal("scanned, though it is switched off")
	}
	set := func(spec map[string]any) {
		t.Helper()
		if _, err := cluster.Resource(assurances).Update(t.Context(), assurance(spec), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	set(map[string]any{"clusterScanner": "Enabled", "criSocketPath": "/run/other.sock", "exclusions": map[string]any{"namespaces": []any{"kube-system"}}})
	b.eventually("the container", func() bool { runs, _ := b.server.Runs("n1"); return len(runs) == 1 })
	b.eventually("its SBOM", func() bool { return b.server.SBOMs()[web].Document != nil })
	if len(b.server.SBOMs()) != 1 {
		t.Error("an excluded namespace was scanned")
	}
	if !strings.Contains(b.log.String(), "spec.criSocketPath") {
		t.Error("the log says nothing of a field that is not honoured")
	}
	for _, off := range []map[string]any{{"clusterScanner": "enabled"}, {"clusterScanner": "Enabled", "exclusions": map[string]any{"namespaces": "shop"}}} {
		set(off)
		b.eventually("off", func() bool { runs, _ := b.server.Runs("n1"); return len(runs) == 0 })
		set(map[string]any{"clusterScanner": "Enabled"})
		b.eventually("on", func() bool { runs, _ := b.server.Runs("n1"); return len(runs) == 2 })
	}
	if err := cluster.Resource(assurances).Delete(t.Context(), "default", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	b.eventually("all, without a resource", func() bool { return len(b.server.SBOMs()) == 2 })
}

func TestClusterName(t *testing.T) {
	namespace := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": "kube-system", "uid": "u-1"}}}
	name, err := ClusterName(t.Context(), fake.NewSimpleDynamicClient(runtime.NewScheme(), namespace))
	if name != "cluster-u-1" || err != nil {
		t.Errorf("%q, %v", name, err)
	}
	if _, err := ClusterName(t.Context(), fake.NewSimpleDynamicClient(runtime.NewScheme())); err == nil {
		t.Error("a cluster without kube-system has a name")
	}
}
