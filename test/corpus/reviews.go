package corpus

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
)

type object = map[string]any

// users that send requests: people, controllers, and those who look like one.
var users = []string{
	"alice", "system:kube-controller-manager", "system:serviceaccount:kube-system:replicaset-controller",
	"system:serviceaccount:kube-system:job-controller", "system:serviceaccount:kube-system:evil-controller",
	"system:serviceaccount:argo:rollouts", "fleet-controller",
}

// A target is a kind with the path of its pod template.
type target struct{ group, version, kind, resource, path string }

var targets = []target{
	{"", "v1", "Pod", "pods", ""}, {"", "v1", "Pod", "pods", ""}, {"", "v1", "Pod", "pods", ""}, {"", "v1", "Pod", "pods", ""},
	{"", "v1", "ReplicationController", "replicationcontrollers", "spec.template"},
	{"apps", "v1", "ReplicaSet", "replicasets", "spec.template"},
	{"apps", "v1", "Deployment", "deployments", "spec.template"},
	{"apps", "v1", "StatefulSet", "statefulsets", "spec.template"},
	{"apps", "v1", "DaemonSet", "daemonsets", "spec.template"},
	{"batch", "v1", "Job", "jobs", "spec.template"},
	{"batch", "v1", "CronJob", "cronjobs", "spec.jobTemplate.spec.template"},
	{"argoproj.io", "v1alpha1", "Rollout", "rollouts", "spec.template"},
	{"serving.knative.dev", "v1", "Service", "services", "spec.template"},
	{"example.com", "v1", "Fleet", "fleets", "spec.workload.podTemplate"},
	{"example.com", "v1", "Pair", "pairs", "spec.first"}, {"example.com", "v1", "Pair", "pairs", "spec.first"},
	{"extensions", "v1beta1", "Deployment", "deployments", "spec.template"},
	{"", "v1", "ConfigMap", "configmaps", "data"},
	{"", "v1", "Service", "services", "spec.template"},
}

var owners = []object{
	{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "o", "uid": "1", "controller": true},
	{"apiVersion": "batch/v1", "kind": "Job", "name": "o", "uid": "1", "controller": true},
	{"apiVersion": "v1", "kind": "ReplicationController", "name": "o", "uid": "1", "controller": true},
	{"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "name": "o", "uid": "1", "controller": true},
	{"apiVersion": "example.com/v1", "kind": "Fleet", "name": "o", "uid": "1", "controller": true},
	{"apiVersion": "example.com/v1", "kind": "Pair", "name": "o", "uid": "1", "controller": true},
	{"apiVersion": "extensions/v1beta1", "kind": "ReplicaSet", "name": "o", "uid": "1", "controller": true},
	{"apiVersion": "v1", "kind": "Node", "name": "o", "uid": "1", "controller": true},
	{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "o", "uid": "1", "controller": false},
	{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "o", "uid": "1"},
}

func (g *gen) labels() object {
	out := object{}
	for _, k := range some(g, g.IntN(4), labelKeys[:5]) {
		out[k] = one(g, labelValues)
	}
	return out
}

func (g *gen) containers(prefix string, n int) []any {
	out := []any{}
	for i := range n {
		out = append(out, object{"name": fmt.Sprintf("%s-%d", prefix, i), "image": g.reference()})
	}
	return out
}

func (g *gen) podSpec() object {
	spec := object{"containers": g.containers("c", one(g, []int{0, 1, 1, 1, 1, 2, 3}))}
	if g.chance(20) {
		spec["initContainers"] = g.containers("init", 1+g.IntN(2))
	}
	if g.chance(15) {
		spec["ephemeralContainers"] = g.containers("debug", g.IntN(3))
	}
	if g.chance(25) {
		volumes := []any{object{"name": "scratch", "emptyDir": object{}}}
		for i := range g.IntN(3) {
			volumes = append(volumes, object{"name": fmt.Sprintf("v%d", i), "image": object{"reference": g.reference(), "pullPolicy": "Always"}})
		}
		spec["volumes"] = volumes
	}
	return spec
}

// put sets the value at a dotted path.
func put(o object, path string, value any) {
	steps := strings.Split(path, ".")
	for _, s := range steps[:len(steps)-1] {
		next, ok := o[s].(object)
		if !ok {
			next = object{}
			o[s] = next
		}
		o = next
	}
	o[steps[len(steps)-1]] = value
}

func clone(o object) object {
	b, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	var out object
	if err := json.Unmarshal(b, &out); err != nil {
		panic(err)
	}
	return out
}

// specPath is where the pod spec of a target is.
func (t target) specPath() string {
	if t.path == "" {
		return "spec"
	}
	return t.path + ".spec"
}

func lookup(o object, path string) object {
	for _, s := range strings.Split(path, ".") {
		o, _ = o[s].(object)
	}
	return o
}

func (g *gen) review() json.RawMessage {
	t := one(g, targets)
	namespace := one(g, namespaces)
	if t.kind == "Fleet" && g.chance(60) || g.chance(3) {
		namespace = "" // cluster-scoped
	}
	meta := object{"name": "it", "labels": g.labels()}
	if namespace != "" {
		meta["namespace"] = namespace
	}
	if g.chance(10) {
		delete(meta, "name")
		meta["generateName"] = "it-"
	}
	if g.chance(10) || t.path != "" && g.chance(40) { // which templates have all the same
		delete(meta, "labels")
	}
	if g.chance(40) {
		meta["ownerReferences"] = []any{one(g, owners)}
		if g.chance(25) {
			meta["ownerReferences"] = []any{owners[len(owners)-1-g.IntN(2)], one(g, owners)}
		}
	}
	obj := object{"apiVersion": strings.TrimPrefix(t.group+"/"+t.version, "/"), "kind": t.kind, "metadata": meta}
	put(obj, t.specPath(), g.podSpec())
	if t.path != "" {
		labels := g.labels()
		maps.Copy(labels, g.labels())
		put(obj, t.path+".metadata", object{"labels": labels})
		put(obj, "spec.replicas", 2)
	}
	if t.kind == "Pair" {
		g.pair(obj)
	}

	overrideGranted := g.chance(70)
	if g.chance(25) {
		annotations := object{}
		if !g.chance(15) {
			annotations[api.OverrideReasonAnnotation] = one(g, []string{"outage", "", "a test"})
		}
		if !g.chance(15) {
			annotations[api.OverrideUntilAnnotation] = one(g, []string{g.around(g.now).Format(time.RFC3339), "2099-01-01T00:00:00+02:00", "never"})
		}
		meta["annotations"] = annotations
	}
	op := one(g, []string{"CREATE", "CREATE", "CREATE", "UPDATE", "UPDATE", "UPDATE", "DELETE"})
	if g.chance(2) {
		op = "CONNECT"
	}
	request := object{
		"uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "kind": object{"group": t.group, "version": t.version, "kind": t.kind},
		"resource":  object{"group": t.group, "version": t.version, "resource": t.resource},
		"operation": op, "userInfo": object{"username": one(g, users)}, "object": obj, "oldObject": nil, "options": nil, "dryRun": false,
	}
	if g.chance(30) {
		request["userInfo"] = object{"username": users[1+g.IntN(2)], "groups": []any{"system:authenticated"}}
	}
	if namespace != "" {
		request["namespace"] = namespace
	}
	if name, ok := meta["name"]; ok {
		request["name"] = name
	}
	switch op {
	case "DELETE":
		request["object"], request["oldObject"] = nil, obj
	case "UPDATE":
		if !g.chance(8) {
			request["oldObject"] = g.oldObject(t, obj)
		}
		if t.kind == "Pod" && g.chance(35) {
			request["subResource"] = "ephemeralcontainers"
			if request["oldObject"] == nil {
				request["oldObject"] = g.oldObject(t, obj)
			}
		} else if g.chance(10) {
			request["subResource"] = one(g, []string{"status", "scale"})
		}
	case "CREATE":
		if g.chance(5) {
			request["subResource"] = one(g, []string{"binding", "eviction"})
		} else if g.chance(6) {
			delete(meta, "ownerReferences")
			g.malform(t, request, obj)
		}
	}

	doc := object{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
	switch g.IntN(4) {
	case 0:
		doc["namespaceLabels"] = nil
	case 1, 2:
		labels := g.labels()
		if g.chance(40) && namespace != "" {
			labels["kubernetes.io/metadata.name"] = namespace
		}
		doc["namespaceLabels"] = labels
	}
	if overrideGranted {
		doc["overrideGranted"] = true
	}
	if owner := g.owner(meta, obj, t); owner != nil {
		doc["owner"] = owner
	}
	b, err := json.Marshal(doc)
	if err != nil {
		panic(err)
	}
	return b
}

// owner is what stands beside a request as the owner of its object: the one that the reference
// names, with the same images, with some of them, or with others; or one that is not it.
func (g *gen) owner(meta, obj object, t target) object {
	references, _ := meta["ownerReferences"].([]any)
	if len(references) == 0 || g.chance(20) {
		return nil
	}
	ref := clone(references[len(references)-1].(object))
	path := "spec.template.spec"
	for _, other := range targets {
		if strings.TrimPrefix(other.group+"/"+other.version, "/") == ref["apiVersion"] && other.kind == ref["kind"] {
			path = other.specPath()
		}
	}
	owner := object{"apiVersion": ref["apiVersion"], "kind": ref["kind"], "metadata": object{"name": ref["name"], "uid": ref["uid"]}}
	if ns, ok := meta["namespace"]; ok && g.chance(80) {
		put(owner, "metadata.namespace", ns)
	}
	spec := object{}
	if of := lookup(obj, t.specPath()); of != nil {
		spec = clone(of)
	}
	switch list, _ := spec["containers"].([]any); g.IntN(8) {
	case 0:
		spec = g.podSpec()
	case 1:
		if len(list) > 1 {
			spec["containers"] = list[1:]
		}
	case 2:
		spec["containers"] = append(list, object{"name": "no-image"}, 7)
	}
	put(owner, path, spec)
	if owner["kind"] == "Pair" && g.chance(50) {
		g.pair(owner)
	}
	switch g.IntN(14) {
	case 0:
		put(owner, "metadata.uid", "2")
	case 1:
		put(owner, "metadata.name", "other")
	case 2:
		put(owner, "metadata.namespace", "elsewhere")
	case 3:
		owner["kind"] = "Deployment"
	case 4:
		owner["apiVersion"] = "v2"
	case 5:
		put(owner, path, "nothing")
	}
	return owner
}

// oldObject is what an update replaces: much the same, or with other images,
// without some of them, being deleted.
func (g *gen) oldObject(t target, obj object) object {
	old := clone(obj)
	spec := lookup(old, t.specPath())
	change := g.IntN(9)
	if spec == nil { // a Pair without its first template
		change = 0
	}
	switch change {
	case 0: // other labels only
		put(old, "metadata.labels", object{"app": "old"})
	case 1: // a restart
		if t.path != "" {
			put(old, t.path+".metadata.annotations", object{"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"})
		}
		put(old, "spec.replicas", 3)
	case 2: // fewer containers
		if list, _ := spec["containers"].([]any); len(list) > 1 {
			spec["containers"] = list[1:]
		}
		delete(spec, "ephemeralContainers")
	case 3: // the images change places
		spec["initContainers"] = spec["containers"]
		spec["containers"] = g.containers("c", 1)
	case 4:
		put(old, t.specPath(), g.podSpec())
	case 5, 6, 7: // another build of the same repositories
		list, _ := spec["containers"].([]any)
		for _, c := range list {
			if c, ok := c.(object); ok {
				image, _ := c["image"].(string)
				name, _, _ := strings.Cut(strings.TrimPrefix(image, "localhost:5000/"), ":")
				name, _, _ = strings.Cut(name, "@")
				if strings.HasPrefix(image, "localhost:5000/") {
					name = "localhost:5000/" + name
				}
				c["image"] = name + ":" + one(g, tags)
			}
		}
	}
	if t.kind == "Pair" && g.chance(50) {
		g.pair(old)
	}
	if g.chance(25) {
		put(old, "metadata.deletionTimestamp", "2026-01-01T00:00:00Z")
	}
	if g.chance(10) { // in the new object, where it says nothing
		put(obj, "metadata.deletionTimestamp", "2026-01-01T00:00:00Z")
	}
	return old
}

// pair gives an object of the kind Pair what there is at its other places, or nothing to run.
func (g *gen) pair(obj object) {
	spec := obj["spec"].(object)
	template := func() object {
		return object{"template": object{"metadata": object{"labels": g.labels()}, "spec": g.podSpec()}}
	}
	switch g.IntN(6) {
	case 0:
		spec["more"] = []any{template(), object{}, template()}
	case 1:
		spec["more"] = object{"b": template(), "a": template()}
	case 2:
		spec["image"], spec["steps"] = g.reference(), []any{object{"image": g.reference()}, object{"image": nil}, object{}, object{"image": ""}}
	case 3:
		delete(spec, "first")
		spec["ref"] = object{"name": "elsewhere"}
	case 4:
		delete(spec, "first")
		spec["steps"] = []any{object{"image": g.reference()}}
	}
}

// malformPair gives what is created a wrong shape at a place of the kind Pair.
func (g *gen) malformPair(obj object) {
	spec := obj["spec"].(object)
	switch g.IntN(7) {
	case 0:
		delete(spec, "first")
		delete(spec, "more")
		delete(spec, "image")
		delete(spec, "steps")
		delete(spec, "ref")
	case 1:
		spec["more"] = "all"
	case 2:
		spec["more"] = []any{nil}
	case 3:
		spec["steps"] = []any{object{"image": 5}}
	case 4:
		spec["image"] = []any{"nginx"}
	case 5:
		spec["more"] = []any{object{"template": "x"}}
	case 6:
		spec["more"] = []any{object{"template": object{"metadata": object{"labels": object{"app": 5}}, "spec": g.podSpec()}}}
	}
}

// malform gives what is created a wrong shape.
func (g *gen) malform(t target, request, obj object) {
	if t.kind == "Pair" {
		g.malformPair(obj)
		return
	}
	switch g.IntN(6) {
	case 0:
		request["object"] = nil
	case 1:
		put(obj, t.specPath(), "nothing")
	case 2:
		delete(obj, "spec")
	case 3:
		delete(lookup(obj, t.specPath()), "containers")
	case 4:
		put(obj, t.specPath()+".containers", object{"name": "c", "image": "nginx"})
	case 5:
		put(obj, t.specPath()+".initContainers", "nginx")
	}
}
