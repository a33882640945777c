package webhook

import (
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/review"
)

// Owners reads the owners of what controllers create. It asks the API server each time: a template
// that was read before may have changed since, and a controller is ahead of any watch.
type Owners struct {
	Client dynamic.Interface
	// Mapper knows the resources of custom kinds.
	Mapper meta.ResettableRESTMapper
}

// ownerFor bounds the reading of an owner.
const ownerFor = time.Second

// Get reads the object that an owner reference in a namespace names. Who uses it must look whether
// its UID is that of the reference.
func (o Owners) Get(ctx context.Context, ref review.Owner, namespace string) (map[string]any, error) {
	ctx, cancel := context.WithTimeout(ctx, ownerFor)
	defer cancel()
	resource, namespaced, err := o.resource(ref)
	if err != nil {
		return nil, err
	}
	if !namespaced {
		namespace = ""
	}
	object, err := o.Client.Resource(resource).Namespace(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return object.Object, nil
}

func (o Owners) resource(ref review.Owner) (resource schema.GroupVersionResource, namespaced bool, err error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return resource, false, err
	}
	for _, w := range api.BuiltinWorkloads() { // they need no discovery
		if w.ID() == gv.Group+"/"+ref.Kind {
			return gv.WithResource(w.Resource), true, nil
		}
	}
	mapping, err := o.Mapper.RESTMapping(schema.GroupKind{Group: gv.Group, Kind: ref.Kind}, gv.Version)
	if meta.IsNoMatchError(err) {
		o.Mapper.Reset() // it may have been installed since
	}
	if err != nil {
		return resource, false, err
	}
	return mapping.Resource, mapping.Scope.Name() == meta.RESTScopeNameNamespace, nil
}

// ownerImages finds out what the owner's template names, where that counts. Whatever the review says of
// it, and where the owner cannot be read, it is not known.
func (a *Admission) ownerImages(ctx context.Context, in *review.Input, settings *engine.Settings) {
	in.Review.OwnerImages = nil
	if a.Owner == nil || settings == nil || settings.Children != api.ChildrenSameImages || in.Owner == nil ||
		in.Review.Operation != "CREATE" || !isController(settings, in.Review.User) {
		return
	}
	object, err := a.Owner(ctx, *in.Owner, in.Review.Namespace)
	if err == nil {
		if in.Review.OwnerImages = in.OwnerImages(object, kindsOf(settings)); in.Review.OwnerImages == nil {
			err = fmt.Errorf("it is not the object that the owner reference names, or has no pod template")
		}
	}
	if err != nil {
		a.Log.Error("reading an owner; all images of its child are judged", "kind", in.Owner.Kind, "namespace", in.Review.Namespace, "name", in.Owner.Name, "error", err)
	}
}

// isController keeps others from having objects read. Whether a controller made it for such an owner is Rego's.
func isController(s *engine.Settings, user string) bool {
	if slices.Contains(s.Controllers, user) {
		return true
	}
	for _, k := range s.Kinds {
		if slices.Contains(k.Controllers, user) {
			return true
		}
	}
	return false
}
