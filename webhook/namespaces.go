package webhook

import (
	"context"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"
)

// Namespaces knows the labels of the cluster's namespaces: it follows them, and
// looks up one that it has not heard of. It may be used concurrently.
type Namespaces struct {
	client   metadata.Interface
	informer cache.SharedIndexInformer
	lister   cache.GenericLister
	log      *slog.Logger
}

var namespaceResource = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}

// lookupFor bounds the look-up of a namespace that is not known yet.
const lookupFor = time.Second

// NewNamespaces follows nothing before Run.
func NewNamespaces(client metadata.Interface, log *slog.Logger) *Namespaces {
	informers := metadatainformer.NewSharedInformerFactory(client, 0)
	of := informers.ForResource(namespaceResource)
	// Names and labels are all that counts.
	_ = of.Informer().SetTransform(func(x any) (any, error) {
		if m, ok := x.(*metav1.PartialObjectMetadata); ok {
			return &metav1.PartialObjectMetadata{TypeMeta: m.TypeMeta, ObjectMeta: metav1.ObjectMeta{
				Name: m.Name, Labels: m.Labels, ResourceVersion: m.ResourceVersion, UID: m.UID,
			}}, nil
		}
		return x, nil
	})
	return &Namespaces{client: client, informer: of.Informer(), lister: of.Lister(), log: log}
}

// Run follows the namespaces until the context ends.
func (n *Namespaces) Run(ctx context.Context) { n.informer.RunWithContext(ctx) }

// Synced says whether all namespaces were listed once.
func (n *Namespaces) Synced() bool { return n.informer.HasSynced() }

// Labels gives nil where they are not known, and never nil where they are.
func (n *Namespaces) Labels(ctx context.Context, name string) map[string]string {
	var meta metav1.Object
	object, err := n.lister.Get(name)
	if err == nil {
		meta, _ = object.(metav1.Object)
	} else {
		ctx, cancel := context.WithTimeout(ctx, lookupFor)
		defer cancel()
		found, err := n.client.Resource(namespaceResource).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			if !apierrors.IsNotFound(err) {
				n.log.Error("looking up a namespace", "namespace", name, "error", err)
			}
			return nil
		}
		meta = found
	}
	if meta == nil {
		return nil
	}
	labels := map[string]string{}
	for k, v := range meta.GetLabels() {
		labels[k] = v
	}
	return labels
}
