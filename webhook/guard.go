package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/review"
)

// guard refuses what chooses the policies of a namespace, but to who may override these: labels
// that they look at, changed by an update or given to a new namespace, and a new namespace of a
// name that is excluded.
func (v *Validation) guard(ctx context.Context, q *validationRequest) *metav1.Status {
	if v.MayOverride == nil {
		return nil
	}
	settings := v.Engine.Settings()
	if settings == nil {
		return refusal("no policies are loaded yet, so that the labels that they look at are not known")
	}
	after, err := namespaceOf(q.Object)
	if err != nil {
		return refusal(fmt.Sprintf("the namespace cannot be read: %v", err))
	}
	before := namespaceMeta{}
	created := q.Operation == "CREATE"
	if !created {
		if before, err = namespaceOf(q.OldObject); err != nil {
			return refusal(fmt.Sprintf("the namespace that was there cannot be read: %v", err))
		}
	}
	var said string
	if excluded := after.excluded(settings.Excluded); created && excluded != "" {
		said = fmt.Sprintf("AdmissionSettings excludes the namespace %s: to make it", excluded)
	} else if keys := relabelled(before.Labels, after.Labels, slices.Concat(settings.NamespaceKeys, v.GuardedLabels)); len(keys) == 0 {
		return nil
	} else if said = fmt.Sprintf("policies look at the labels %s of namespaces: to change them", strings.Join(keys, ", ")); created {
		said = fmt.Sprintf("policies look at the labels %s of namespaces: to make a namespace with them", strings.Join(keys, ", "))
	}
	may, err := v.MayOverride(ctx, q.UserInfo.Username, review.Requester{UID: q.UserInfo.UID, Groups: q.UserInfo.Groups, Extra: q.UserInfo.Extra}, "")
	if err != nil {
		v.Log.Error("asking for the right to choose the policies of a namespace", "error", err)
	}
	if may {
		return nil
	}
	return refusal(fmt.Sprintf("%s, %s needs the verb %s on containeradmissionpolicies.containersecurity.tigera.io for all namespaces", said, q.UserInfo.Username, OverrideVerb))
}

// relabelled are the guarded labels that differ. The label of the name is the API server's own.
func relabelled(before, after map[string]string, guarded []string) (keys []string) {
	if slices.Contains(guarded, policies.AllLabels) {
		guarded = slices.AppendSeq(slices.Collect(maps.Keys(before)), maps.Keys(after))
	}
	for _, key := range guarded {
		was, had := before[key]
		is, has := after[key]
		if key != corev1.LabelMetadataName && (was != is || had != has) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

type namespaceMeta struct {
	Name, GenerateName string
	Labels             map[string]string
}

// excluded is the excluded name that a new namespace has, or may be given; "" is none.
func (m namespaceMeta) excluded(names []string) string {
	for _, name := range names {
		if name == m.Name || m.Name == "" && strings.HasPrefix(name, m.GenerateName) {
			return name
		}
	}
	return ""
}

func namespaceOf(object json.RawMessage) (namespaceMeta, error) {
	var o *struct {
		Metadata namespaceMeta `json:"metadata"`
	}
	if err := json.Unmarshal(object, &o); err != nil {
		return namespaceMeta{}, err
	}
	if o == nil {
		return namespaceMeta{}, fmt.Errorf("it is missing")
	}
	return o.Metadata, nil
}
