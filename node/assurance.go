package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
)

// assurances are the resource that switches the scanner of a cluster on and off.
var assurances = schema.GroupVersionResource{Group: "image-assurance.operator.tigera.io", Version: "v1", Resource: "imageassurances"}

// assuranceName is that of the one object that counts.
const assuranceName = "default"

// lookEvery is how often a cluster without the resource is asked for it.
const lookEvery = 30 * time.Second

// followAssurance obeys the ImageAssurance resource. Until the cluster has answered
// nothing is scanned or told, for it may say that nothing shall be.
func (a *Agent) followAssurance(ctx context.Context) error {
	said := false
	for {
		_, err := a.Assurance.Resource(assurances).List(ctx, metav1.ListOptions{Limit: 1})
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			break
		}
		if apierrors.IsNotFound(err) {
			a.apply(nil) // the cluster does not know the kind
		} else if !said {
			said = true
			a.Log.Error("reading ImageAssurance; asking again", "error", err)
		}
		pause(ctx, lookEvery, nil)
		if ctx.Err() != nil {
			return nil
		}
	}
	factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(a.Assurance, 0, metav1.NamespaceAll, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", assuranceName).String()
	})
	informer := factory.ForResource(assurances).Informer()
	found := func(x any) {
		if o, ok := x.(*unstructured.Unstructured); ok && o.GetName() == assuranceName {
			a.apply(o)
		}
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    found,
		UpdateFunc: func(_, x any) { found(x) },
		DeleteFunc: func(any) { a.apply(nil) },
	}); err != nil {
		return fmt.Errorf("following ImageAssurance: %w", err)
	}
	go func() {
		if cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) && len(informer.GetStore().List()) == 0 {
			a.apply(nil)
		}
	}()
	informer.RunWithContext(ctx)
	return nil
}

// apply takes the resource, or its absence, which leaves the decision to the configuration.
func (a *Agent) apply(o *unstructured.Unstructured) {
	next := &settings{Enabled: true, Known: true, Excluded: slices.Clone(a.ExcludeNamespaces)}
	var faults []string
	if o != nil {
		text := func(field string) string {
			v, ok, err := unstructured.NestedString(o.Object, "spec", field)
			if err != nil {
				faults = append(faults, fmt.Sprintf("spec.%s is no text", field))
			}
			if !ok {
				return ""
			}
			return v
		}
		switch v := text("clusterScanner"); v {
		case "Enabled":
		case "Disabled", "":
			next.Enabled = false // Calico's default
		default:
			next.Enabled = false
			faults = append(faults, fmt.Sprintf("spec.clusterScanner is %.40q, not Enabled or Disabled: the scanner stays off", v))
		}
		if v := text("criSocketPath"); v != "" && strings.TrimPrefix(v, "unix://") != strings.TrimPrefix(a.CRISocket, "unix://") {
			faults = append(faults, fmt.Sprintf("spec.criSocketPath %s is not that of --cri-socket: a running pod cannot mount another, so change it in the DaemonSet", v))
		}
		if v := text("containerdVolumeMountPath"); v != "" && v != a.Root {
			faults = append(faults, fmt.Sprintf("spec.containerdVolumeMountPath %s is not that of --containerd-root: a running pod cannot mount another, so change it in the DaemonSet", v))
		}
		namespaces, _, err := unstructured.NestedStringSlice(o.Object, "spec", "exclusions", "namespaces")
		if err != nil {
			// Better too little told of than what was to be left out.
			next.Enabled = false
			faults = append(faults, "spec.exclusions.namespaces is no list of texts: the scanner stays off")
		}
		next.Excluded = append(next.Excluded, namespaces...)
	}
	before := a.settings.Swap(next)
	if before.Known && before.Enabled == next.Enabled && slices.Equal(before.Excluded, next.Excluded) {
		return
	}
	for _, f := range faults {
		a.Log.Warn("ImageAssurance default", "fault", f)
	}
	a.Log.Info("the scanner is switched", "on", next.Enabled, "by_resource", o != nil, "excluded_namespaces", next.Excluded)
	kick(a.look)
}

// ClusterName is the name of a cluster that was given none: it stays the same for the
// cluster's whole life.
func ClusterName(ctx context.Context, c dynamic.Interface) (string, error) {
	o, err := c.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}).Get(ctx, "kube-system", metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("naming the cluster by its namespace kube-system: %w", err)
	}
	if o.GetUID() == "" {
		return "", fmt.Errorf("naming the cluster: its namespace kube-system has no UID")
	}
	return "cluster-" + string(o.GetUID()), nil
}
