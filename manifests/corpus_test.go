package manifests_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	kyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/manifests"
	"github.com/assay-dev/assay/review"
)

// A file is one as they stand in public repositories: the text, the images that were put into
// workloads, in their order, and whether kubectl's decoder sees all of its documents.
type file struct {
	text    string
	images  []string
	kubectl bool
}

type gen struct {
	*rand.Rand
	images []string
	n      int
}

func (g *gen) one(from ...string) string { return from[g.IntN(len(from))] }

// image is a reference as people write them, each another one.
func (g *gen) image() string {
	g.n++
	image := fmt.Sprintf(g.one("nginx:%d", "ghcr.io/org/app-%d", "quay.io/a/b/c:v%d-rc.1", "registry.example.com:5000/x:%d", "docker.io/library/redis@sha256:%064x", "r/%d"), g.n)
	g.images = append(g.images, image)
	return image
}

type object = map[string]any

func (g *gen) podSpec() object {
	container := func(i int) any {
		c := object{"name": fmt.Sprintf("c%d", i), "image": g.image()}
		if g.IntN(2) == 0 {
			c["args"] = []any{"--image=not/an-image:1", "{}", "---", "- a: b", "it's \"quoted\" # no comment"}
			c["env"] = []any{object{"name": "IMAGE", "value": "image: none"}, object{"name": "X", "valueFrom": object{"fieldRef": object{"fieldPath": "metadata.name"}}}}
		}
		if g.IntN(4) == 0 {
			c["resources"] = object{"limits": object{"cpu": 0.5, "memory": "1Gi"}, "requests": object{"cpu": "100m"}}
		}
		return c
	}
	spec := object{}
	if g.IntN(3) == 0 {
		spec["initContainers"] = []any{container(0)}
	}
	containers := []any{}
	for i := range 1 + g.IntN(3) {
		containers = append(containers, container(i))
	}
	spec["containers"] = containers
	if g.IntN(8) == 0 {
		spec["volumes"] = []any{object{"name": "m", "image": object{"reference": g.image()}}, object{"name": "e", "emptyDir": object{}}}
	}
	return spec
}

// workload is an object of some kind, with images or without.
func (g *gen) workload() object {
	meta := object{"name": fmt.Sprintf("it-%d", g.n), "labels": object{"app.kubernetes.io/name": "it", "version": "1.10"}}
	template := func() object {
		return object{"metadata": object{"labels": object{"app": "it"}}, "spec": g.podSpec()}
	}
	switch kind := g.one("Pod", "Deployment", "Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "ReplicaSet", "ConfigMap", "Service", "CustomResourceDefinition"); kind {
	case "Pod":
		return object{"apiVersion": "v1", "kind": kind, "metadata": meta, "spec": g.podSpec()}
	case "Job":
		return object{"apiVersion": "batch/v1", "kind": kind, "metadata": meta, "spec": object{"template": template()}}
	case "CronJob":
		return object{"apiVersion": "batch/v1", "kind": kind, "metadata": meta, "spec": object{"schedule": "*/5 * * * *", "jobTemplate": object{"spec": object{"template": template()}}}}
	case "ConfigMap":
		return object{"apiVersion": "v1", "kind": kind, "metadata": meta, "data": object{"pod.yaml": "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - image: in/a-text:1\n---\nx: |\n  y\n", "empty": "", "json": "{\"image\": \"in/json\"}"}}
	case "Service":
		return object{"apiVersion": "v1", "kind": kind, "metadata": meta, "spec": object{"ports": []any{object{"port": 80, "targetPort": "http"}}, "clusterIP": nil}}
	case "CustomResourceDefinition":
		return object{"apiVersion": "apiextensions.k8s.io/v1", "kind": kind, "metadata": meta, "spec": object{"names": object{"listKind": "XList"}, "schema": object{"properties": object{"items": object{"type": "array"}}}}}
	default:
		return object{"apiVersion": "apps/v1", "kind": kind, "metadata": meta, "spec": object{"replicas": 2, "template": template()}}
	}
}

// list is a list of workloads, of one kind without naming it, or of lists.
func (g *gen) list(depth int) object {
	if g.IntN(3) == 0 {
		items := []any{}
		for range g.IntN(4) {
			items = append(items, object{"metadata": object{"name": "x"}, "spec": object{"template": object{"spec": g.podSpec()}}})
		}
		return object{"apiVersion": "apps/v1", "kind": "DeploymentList", "metadata": object{"resourceVersion": ""}, "items": items}
	}
	items := []any{}
	for range g.IntN(4) {
		if depth < 2 && g.IntN(4) == 0 {
			items = append(items, g.list(depth+1))
		} else {
			items = append(items, g.workload())
		}
	}
	return object{"apiVersion": "v1", "kind": "List", "items": items}
}

func must(text []byte, err error) string {
	if err != nil {
		panic(err)
	}
	return string(text)
}

// blockStyle writes YAML by a library of its own, indented and commented as people do.
func (g *gen) blockStyle(o object) string {
	text := must(yaml.Marshal(o))
	switch g.IntN(5) {
	case 0: // commented
		text = "# Source: chart/templates/it.yaml\n" + strings.Replace(text, "\nkind:", " # of it\nkind:", 1)
	case 1: // all of it indented
		lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
		for i, l := range lines {
			if l != "" {
				lines[i] = "  " + l
			}
		}
		text = strings.Join(lines, "\n") + "\n"
	case 2: // with an anchor that is used
		text = strings.Replace(text, "labels:\n        app: it", "labels: &labels\n        app: it\n      annotations: *labels", 1)
	}
	return text
}

// file is one with a few documents in a form of its own. The order of images is that of the text
// where members are sorted by their names, as all writers here do.
func (g *gen) file() file {
	g.images = nil
	var docs []object
	for range 1 + g.IntN(4) {
		if g.IntN(3) == 0 {
			docs = append(docs, g.list(0))
		} else {
			docs = append(docs, g.workload())
		}
	}
	f := file{images: g.images, kubectl: true}
	var b strings.Builder
	switch g.IntN(8) {
	case 0: // JSON, one behind the other
		for _, d := range docs {
			b.WriteString(must(json.Marshal(d)))
		}
	case 1: // as jq writes it
		for _, d := range docs {
			b.WriteString(must(json.MarshalIndent(d, "", "  ")) + "\n")
		}
	case 2: // JSON between YAML
		f.kubectl = false
		for i, d := range docs {
			if i%2 == 0 {
				b.WriteString("---\n" + must(json.MarshalIndent(d, "", "    ")) + "\n")
			} else {
				b.WriteString("---\n" + g.blockStyle(d))
			}
		}
	case 3: // ended, not separated
		f.kubectl = false
		for _, d := range docs {
			b.WriteString(g.blockStyle(d) + "...\n")
		}
	case 4: // as Helm writes it, with documents that hold nothing
		for _, d := range docs {
			b.WriteString("---\n# Source: chart/templates/none.yaml\n---\n" + g.blockStyle(d))
		}
		b.WriteString("---\n\n")
	case 5: // with a mark of the byte order, and comments after separators
		f.kubectl = false
		b.WriteString("\xef\xbb\xbf")
		for i, d := range docs {
			if i > 0 {
				b.WriteString("--- # next\n")
			}
			b.WriteString(g.blockStyle(d))
		}
	default:
		for i, d := range docs {
			if i > 0 {
				b.WriteString("---\n")
			}
			b.WriteString(g.blockStyle(d))
		}
	}
	f.text = b.String()
	switch g.IntN(6) {
	case 0:
		f.text = strings.ReplaceAll(f.text, "\n", "\r\n")
		f.kubectl = false
	case 1:
		f.text = strings.ReplaceAll(f.text, "\n", "\r")
		f.kubectl = false
	case 2:
		f.text = strings.TrimRight(f.text, "\n")
	}
	return f
}

// read gives the images that are judged, and what else is said.
func read(t *testing.T, text string) (images []string, r *manifests.Reader) {
	t.Helper()
	r = &manifests.Reader{Kinds: review.KindsOf(api.AdmissionSettingsSpec{}), Namespace: "default"}
	if err := r.Read("f", strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	for _, o := range r.Found() {
		for _, c := range o.Review.Containers {
			images = append(images, c.Image)
		}
	}
	return images, r
}

// byKubectl extracts the images with Kubernetes' own decoders and types.
func byKubectl(t *testing.T, text string) (images []string) {
	t.Helper()
	for d := kyaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096); ; {
		var raw runtime.RawExtension
		if err := d.Decode(&raw); errors.Is(err, io.EOF) {
			return images
		} else if err != nil {
			t.Fatalf("kubectl: %v\n%s", err, text)
		}
		if raw.Raw = bytes.TrimSpace(raw.Raw); len(raw.Raw) > 0 && !bytes.Equal(raw.Raw, []byte("null")) {
			var o unstructured.Unstructured
			if err := json.Unmarshal(raw.Raw, &o.Object); err != nil {
				t.Fatal(err)
			}
			images = append(images, typed(t, o.Object)...)
		}
	}
}

func typed(t *testing.T, o object) (images []string) {
	t.Helper()
	if items, ok := o["items"].([]any); ok {
		for _, item := range items {
			item := item.(object)
			if _, ok := item["kind"]; !ok {
				item["kind"] = strings.TrimSuffix(o["kind"].(string), "List")
			}
			images = append(images, typed(t, item)...)
		}
		return images
	}
	path := map[string][]string{"Pod": {"spec"}, "CronJob": {"spec", "jobTemplate", "spec", "template", "spec"}}[o["kind"].(string)]
	if slices.Contains([]string{"Deployment", "StatefulSet", "DaemonSet", "Job", "ReplicaSet"}, o["kind"].(string)) {
		path = []string{"spec", "template", "spec"}
	}
	if path == nil {
		return nil
	}
	spec, _, err := unstructured.NestedMap(o, path...)
	if err != nil {
		t.Fatal(err)
	}
	var pod corev1.PodSpec
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(spec, &pod); err != nil {
		t.Fatal(err)
	}
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		images = append(images, c.Image)
	}
	for _, v := range pod.Volumes {
		if v.Image != nil {
			images = append(images, v.Image.Reference)
		}
	}
	return images
}

// No image of a file is left out, and none is made up, whatever the form of the file.
func TestCorpus(t *testing.T) {
	const files = 4000
	g := &gen{Rand: rand.New(rand.NewPCG(15, 1))}
	images, beside, objects := 0, 0, 0
	for i := range files {
		f := g.file()
		got, r := read(t, f.text)
		if faults := r.Faults(); len(faults) > 0 {
			t.Fatalf("file %d: %v\n%s", i, faults, f.text)
		}
		objects += len(r.Found())
		want := slices.Sorted(slices.Values(f.images))
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Fatalf("file %d: judged are\n%q, put in were\n%q\n%s", i, got, want, f.text)
		}
		images += len(got)
		if f.kubectl {
			beside++
			if other := slices.Sorted(slices.Values(byKubectl(t, f.text))); !slices.Equal(got, other) {
				t.Fatalf("file %d: judged are\n%q, Kubernetes reads\n%q\n%s", i, got, other, f.text)
			}
		}
	}
	t.Logf("%d files with %d objects and %d images; Kubernetes' decoders read %d of the files alike", files, objects, images, beside)
	if images < 2*files || beside < files/4 {
		t.Error("the corpus is too thin")
	}
}

// A list of a thousand Deployments as the API server gives it, managedFields and all.
func TestLargeList(t *testing.T) {
	var b strings.Builder
	b.WriteString("apiVersion: v1\nkind: List\nitems:\n")
	for i := range 1000 {
		fmt.Fprintf(&b, "- apiVersion: apps/v1\n  kind: Deployment\n  metadata:\n    name: d%d\n    managedFields:\n", i)
		for j := range 3 {
			fmt.Fprintf(&b, "    - manager: m%d\n      time: \"2026-06-01T12:00:00Z\"\n      fieldsV1:\n", j)
			for k := range 60 {
				fmt.Fprintf(&b, "        f:m%d:\n          .: {}\n          k:{\"name\":\"c%d\"}:\n            f:image: {}\n", k, k)
			}
		}
		fmt.Fprintf(&b, "  spec:\n    template:\n      spec:\n        containers:\n        - name: c\n          image: nginx:%d\n", i)
	}
	images, r := read(t, b.String())
	if len(images) != 1000 || len(r.Faults()) > 0 || images[999] != "nginx:999" {
		t.Errorf("%d images of %d bytes, %v", len(images), b.Len(), r.Faults())
	}
}

// FuzzRead reads any bytes: nothing panics, and what is not read is a fault.
func FuzzRead(f *testing.F) {
	g := &gen{Rand: rand.New(rand.NewPCG(15, 2))}
	for range 30 {
		f.Add(g.file().text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		_, r := read(t, text)
		for _, d := range r.Faults() {
			if d.File != "f" || d.Message == "" {
				t.Errorf("%q: %v", text, d)
			}
		}
	})
}
