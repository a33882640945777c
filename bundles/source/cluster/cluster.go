// Package cluster takes policies from a cluster's custom resources, and writes into
// their status whether they are in force.
package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/yaml"

	"github.com/assay-dev/assay/bundles/source"
	"github.com/assay-dev/assay/policies"
)

// Source follows the kinds of a policies folder, but for Rego. An object that does
// not compile does not hold up the others: its last good version stays in force,
// and where there is none, nothing changes until it is put right.
type Source struct {
	Client dynamic.Interface
	// Replica names this process in the status of policies.
	Replica string
	// Counts gives what became of each policy's rules here; nil writes none.
	Counts func() map[string]Count
	Now    func() time.Time
	Log    *slog.Logger
}

// Count is what a policy decided: images, since Since.
type Count struct {
	Since             time.Time
	Allowed, Rejected int64
}

// kinds are followed where the cluster has them; the first must be there.
var kinds = []schema.GroupVersionResource{
	{Group: "containersecurity.tigera.io", Version: "v1beta1", Resource: "containeradmissionpolicies"},
	{Group: "assay.dev", Version: "v1alpha1", Resource: "vulnerabilityexceptions"},
	{Group: "assay.dev", Version: "v1alpha1", Resource: "thresholds"},
	{Group: "assay.dev", Version: "v1alpha1", Resource: "admissionsettings"},
	{Group: "assay.dev", Version: "v1alpha1", Resource: "verdictalerts"},
	{Group: "projectcalico.org", Version: "v3", Resource: "globalalerts"},
}

const (
	// settle is how long changes are gathered, as kubectl apply of a folder makes many.
	settle = 200 * time.Millisecond
	// statusEvery is the least time between two writes of counts.
	statusEvery = 30 * time.Second
	// lookEvery is how often a kind that the cluster did not have is looked for.
	lookEvery = 30 * time.Second
)

// Run implements source.Source.
func (s Source) Run(ctx context.Context, emit func(source.Update)) error {
	if s.Now == nil {
		s.Now = time.Now
	}
	f := &follower{Source: s, emit: source.Changes(emit), good: map[string][]byte{}, changed: make(chan struct{}, 1), synced: map[schema.GroupVersionResource]cache.SharedIndexInformer{}}
	var group errgroup.Group
	for i, kind := range kinds {
		group.Go(func() error {
			f.watch(ctx, kind, i == 0)
			return nil
		})
	}
	group.Go(func() error {
		f.work(ctx)
		return nil
	})
	return group.Wait()
}

type follower struct {
	Source
	emit    func(source.Update)
	changed chan struct{}
	good    map[string][]byte // the last version of each object that was in force, by file name

	mu     sync.Mutex
	synced map[schema.GroupVersionResource]cache.SharedIndexInformer
	absent int // kinds that the cluster does not have
}

func (f *follower) kick() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// watch waits until the cluster has the kind, and then follows it.
func (f *follower) watch(ctx context.Context, kind schema.GroupVersionResource, needed bool) {
	counted := false
	for {
		_, err := f.Client.Resource(kind).List(ctx, metav1.ListOptions{Limit: 1})
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			break
		}
		missing := apierrors.IsNotFound(err) && !needed
		if !missing {
			f.Log.Error("listing policies; trying again", "resource", kind.Resource, "error", err)
		}
		if missing && !counted {
			counted = true
			f.mu.Lock()
			f.absent++
			f.mu.Unlock()
			f.kick()
		}
		pause := lookEvery
		if !missing {
			pause = 2 * time.Second
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
	informer := dynamicinformer.NewFilteredDynamicInformer(f.Client, kind, metav1.NamespaceAll, 0, cache.Indexers{}, nil).Informer()
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { f.kick() }, DeleteFunc: func(any) { f.kick() },
		UpdateFunc: func(before, after any) {
			if !sameContent(before, after) {
				f.kick()
			}
		},
	}
	if _, err := informer.AddEventHandler(handler); err != nil {
		f.Log.Error("following policies", "resource", kind.Resource, "error", err)
		return
	}
	f.mu.Lock()
	f.synced[kind] = informer
	if counted {
		f.absent--
	}
	f.mu.Unlock()
	go func() {
		cache.WaitForCacheSync(ctx.Done(), informer.HasSynced)
		f.kick()
	}()
	informer.RunWithContext(ctx)
}

// sameContent leaves out changes of a status, our own among them.
func sameContent(a, b any) bool {
	x, ok1 := a.(*unstructured.Unstructured)
	y, ok2 := b.(*unstructured.Unstructured)
	return ok1 && ok2 && x.GetGeneration() == y.GetGeneration() && maps.Equal(x.GetAnnotations(), y.GetAnnotations()) && x.GetUID() == y.GetUID()
}

func (f *follower) work(ctx context.Context) {
	ticker := time.NewTicker(statusEvery)
	defer ticker.Stop()
	var objects map[string]*unstructured.Unstructured
	var faults map[string]policies.Diagnostics
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-f.changed:
			select {
			case <-ctx.Done():
				return
			case <-time.After(settle):
			}
			found, ok := f.objects()
			if !ok {
				continue
			}
			objects = found
			faults = f.load(objects)
		}
		if objects != nil {
			f.writeStatus(ctx, objects, faults)
		}
	}
}

// objects are all that there are, by file name; ok is false until all kinds were listed.
func (f *follower) objects() (all map[string]*unstructured.Unstructured, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.synced)+f.absent < len(kinds) {
		return nil, false
	}
	all = map[string]*unstructured.Unstructured{}
	for kind, informer := range f.synced {
		if !informer.HasSynced() {
			return nil, false
		}
		for _, x := range informer.GetStore().List() {
			if o, ok := x.(*unstructured.Unstructured); ok {
				all[kind.Resource+"/"+o.GetName()+".yaml"] = o
			}
		}
	}
	return all, true
}

// Text is an object as a file of a policies folder, without what the cluster adds.
func Text(o *unstructured.Unstructured) ([]byte, error) {
	c := map[string]any{"apiVersion": o.GetAPIVersion(), "kind": o.GetKind(), "spec": o.Object["spec"]}
	meta := map[string]any{"name": o.GetName()}
	if labels := o.GetLabels(); len(labels) > 0 {
		meta["labels"] = labels
	}
	annotations := maps.Clone(o.GetAnnotations())
	delete(annotations, "kubectl.kubernetes.io/last-applied-configuration")
	if len(annotations) > 0 {
		meta["annotations"] = annotations
	}
	c["metadata"] = meta
	for key, value := range o.Object {
		if _, ok := c[key]; !ok && key != "status" {
			c[key] = value
		}
	}
	return yaml.Marshal(c)
}

// load puts the objects in force, and gives what is wrong with each.
func (f *follower) load(objects map[string]*unstructured.Unstructured) map[string]policies.Diagnostics {
	files, faults := map[string][]byte{}, map[string]policies.Diagnostics{}
	for name, o := range objects {
		text, err := Text(o)
		if err == nil {
			_, err = policies.Parse(name, text)
		}
		if err != nil {
			faults[name] = diagnostics(name, err)
			if text = f.good[name]; text == nil {
				// Left out, it could admit what it is there to refuse.
				f.emit(source.Update{Revision: "unusable " + name, Err: faults[name]})
				return faults
			}
		}
		files[name] = text
	}
	set, err := policies.ParseFiles(files)
	if err == nil {
		_, err = set.Compile()
	}
	sum := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(sum, "%d %s %d %s", len(name), name, len(files[name]), files[name])
	}
	revision := "sha256:" + hex.EncodeToString(sum.Sum(nil))
	if err != nil { // each is good, and together they are not
		for _, d := range diagnostics("", err) {
			faults[d.File] = append(faults[d.File], d)
		}
		f.emit(source.Update{Revision: revision, Err: err})
		return faults
	}
	f.good = files
	if len(faults) > 0 {
		f.Log.Error("objects that do not compile; their last good versions stay in force", "objects", slices.Sorted(maps.Keys(faults)))
	}
	f.emit(source.Update{Set: set, Revision: revision})
	return faults
}

func diagnostics(name string, err error) policies.Diagnostics {
	var list policies.Diagnostics
	if errors.As(err, &list) {
		return list
	}
	return policies.Diagnostics{{File: name, Message: err.Error()}}
}

// status is what is written into an object.
type status struct {
	ObservedGeneration int64           `json:"observedGeneration"`
	Compiled           bool            `json:"compiled"`
	Errors             []statusError   `json:"errors,omitempty"`
	Decisions          []statusOfCount `json:"decisions,omitempty"`
}

type statusError struct {
	Path    string `json:"path,omitempty"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Message string `json:"message"`
}

type statusOfCount struct {
	Replica  string `json:"replica"`
	Since    string `json:"since"`
	At       string `json:"at"`
	Allowed  int64  `json:"allowed"`
	Rejected int64  `json:"rejected"`
}

// goneAfter is when the counts of a replica that is not heard of any more go.
const goneAfter = 10 * time.Minute

func (f *follower) writeStatus(ctx context.Context, objects map[string]*unstructured.Unstructured, faults map[string]policies.Diagnostics) {
	counts := map[string]Count{}
	if f.Counts != nil {
		counts = f.Counts()
	}
	byResource := map[string]schema.GroupVersionResource{}
	for _, k := range kinds {
		byResource[k.Resource] = k
	}
	for _, name := range slices.Sorted(maps.Keys(objects)) {
		resource, _, _ := strings.Cut(name, "/")
		kind := byResource[resource]
		if kind.Group == "projectcalico.org" {
			continue // another's kind, whose status is another's
		}
		o := objects[name]
		f.mu.Lock()
		informer := f.synced[kind]
		f.mu.Unlock()
		if x, ok, _ := informer.GetStore().GetByKey(o.GetName()); ok { // the newest status
			if now, ok := x.(*unstructured.Unstructured); ok && now.GetGeneration() == o.GetGeneration() {
				o = now
			}
		}
		next := f.status(o, faults[name], counts[o.GetName()], resource == kinds[0].Resource)
		if next == nil {
			continue
		}
		c := o.DeepCopy()
		c.Object["status"] = next
		_, err := f.Client.Resource(kind).UpdateStatus(ctx, c, metav1.UpdateOptions{FieldManager: "assay"})
		if err != nil && ctx.Err() == nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			f.Log.Warn("writing the status of a policy", "object", name, "error", err)
		}
	}
}

// status is nil where the object has it already.
func (f *follower) status(o *unstructured.Unstructured, faults policies.Diagnostics, count Count, counted bool) map[string]any {
	var before status
	if text, err := json.Marshal(o.Object["status"]); err == nil {
		_ = json.Unmarshal(text, &before) // what another wrote in another form is replaced
	}
	next := status{ObservedGeneration: o.GetGeneration(), Compiled: len(faults) == 0}
	for _, d := range faults[:min(len(faults), 20)] {
		next.Errors = append(next.Errors, statusError{d.Path, d.Line, d.Column, d.Message})
	}
	now := f.Now().UTC()
	if counted && f.Counts != nil {
		mine := statusOfCount{Replica: f.Replica, Since: count.Since.UTC().Format(time.RFC3339), At: now.Format(time.RFC3339),
			Allowed: count.Allowed, Rejected: count.Rejected}
		for _, d := range before.Decisions {
			at, err := time.Parse(time.RFC3339, d.At)
			if d.Replica == f.Replica {
				same := d
				same.At = mine.At
				if same == mine && err == nil && now.Sub(at) < goneAfter/2 {
					mine.At = d.At // nothing new
				}
				continue
			}
			if err == nil && now.Sub(at) < goneAfter {
				next.Decisions = append(next.Decisions, d)
			}
		}
		next.Decisions = append(next.Decisions, mine)
		slices.SortFunc(next.Decisions, func(a, b statusOfCount) int { return strings.Compare(a.Replica, b.Replica) })
	}
	text, err := json.Marshal(next)
	if err != nil {
		return nil
	}
	if old, err := json.Marshal(before); err == nil && string(old) == string(text) && o.Object["status"] != nil {
		return nil
	}
	out := map[string]any{}
	dec := json.NewDecoder(strings.NewReader(string(text)))
	dec.UseNumber()
	if dec.Decode(&out) != nil {
		return nil
	}
	return normal(out).(map[string]any)
}

// normal has the numbers of a status as unstructured objects have them.
func normal(x any) any {
	switch x := x.(type) {
	case map[string]any:
		for k, v := range x {
			x[k] = normal(v)
		}
	case []any:
		for i, v := range x {
			x[i] = normal(v)
		}
	case json.Number:
		n, _ := x.Int64()
		return n
	}
	return x
}

// File is the name under which diagnostics speak of an object of a resource.
func File(resource, name string) string { return resource + "/" + name + ".yaml" }

// KindOf says whether a resource is one of Assay's kinds, by group and resource.
func KindOf(group, resource string) bool {
	return slices.ContainsFunc(kinds, func(k schema.GroupVersionResource) bool { return k.Group == group && k.Resource == resource })
}
