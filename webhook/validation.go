package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/assay-dev/assay/bundles/source/cluster"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/review"
)

// Validation answers AdmissionReviews of Assay's own kinds: what does not compile is
// refused, with all that is wrong. It also guards the labels of namespaces that
// policies look at: who could change them could choose the policies that apply.
type Validation struct {
	Engine *engine.Engine
	// MayOverride says who may change such labels; nil: everyone.
	MayOverride func(ctx context.Context, user string, who review.Requester, namespace string) (bool, error)
	Log         *slog.Logger
}

type validationRequest struct {
	UID       string `json:"uid"`
	Operation string `json:"operation"`
	Name      string `json:"name"`
	Resource  struct {
		Group    string `json:"group"`
		Resource string `json:"resource"`
	} `json:"resource"`
	SubResource string `json:"subResource"`
	UserInfo    struct {
		Username string              `json:"username"`
		UID      string              `json:"uid"`
		Groups   []string            `json:"groups"`
		Extra    map[string][]string `json:"extra"`
	} `json:"userInfo"`
	Object    json.RawMessage `json:"object"`
	OldObject json.RawMessage `json:"oldObject"`
}

// ServeHTTP answers one review.
func (v *Validation) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	text, err := readBody(w, r)
	if err != nil {
		return
	}
	var body struct {
		Request *validationRequest `json:"request"`
	}
	if err := json.Unmarshal(text, &body); err != nil || body.Request == nil || body.Request.UID == "" {
		http.Error(w, "the body is no AdmissionReview with a request", http.StatusBadRequest)
		return
	}
	q := body.Request
	response := &admissionv1.AdmissionResponse{Allowed: true}
	if status := v.fault(r.Context(), q); status != nil {
		response.Allowed, response.Result = false, status
		v.Log.Info("refused", "resource", q.Resource.Resource, "name", q.Name, "user", q.UserInfo.Username, "why", status.Message)
	}
	respond(w, q.UID, response)
}

func (v *Validation) fault(ctx context.Context, q *validationRequest) *metav1.Status {
	switch {
	case q.Operation == "DELETE" || q.Operation == "CONNECT" || q.SubResource != "":
		return nil
	case q.Resource.Group == "" && q.Resource.Resource == "namespaces":
		return v.relabelled(ctx, q)
	case !cluster.KindOf(q.Resource.Group, q.Resource.Resource):
		return nil
	}
	var o unstructured.Unstructured
	if err := o.UnmarshalJSON(q.Object); err != nil {
		return invalid(fmt.Sprintf("the object cannot be read: %v", err))
	}
	text, err := cluster.Text(&o)
	if err == nil {
		var set *policies.Set
		if set, err = policies.Parse(cluster.File(q.Resource.Resource, o.GetName()), text); err == nil {
			_, err = set.Compile()
		}
	}
	if err != nil {
		return invalid(fmt.Sprintf("%s %s does not compile:\n%v", o.GetKind(), o.GetName(), err))
	}
	return nil
}

func invalid(message string) *metav1.Status {
	return &metav1.Status{Status: metav1.StatusFailure, Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid, Message: cut(message, maxMessage)}
}

// relabelled refuses a change of labels that decide which policies apply.
func (v *Validation) relabelled(ctx context.Context, q *validationRequest) *metav1.Status {
	if v.MayOverride == nil || q.Operation != "UPDATE" {
		return nil
	}
	settings := v.Engine.Settings()
	if settings == nil {
		return refusal("no policies are loaded yet, so that the labels that they look at are not known")
	}
	before, err := labelsOf(q.OldObject)
	after, err2 := labelsOf(q.Object)
	if err != nil || err2 != nil {
		return refusal("the labels of the namespace cannot be read")
	}
	var changed []string
	for _, key := range settings.NamespaceKeys {
		was, had := before[key]
		is, has := after[key]
		if was != is || had != has {
			changed = append(changed, key)
		}
	}
	if len(changed) == 0 {
		return nil
	}
	slices.Sort(changed)
	may, err := v.MayOverride(ctx, q.UserInfo.Username, review.Requester{UID: q.UserInfo.UID, Groups: q.UserInfo.Groups, Extra: q.UserInfo.Extra}, "")
	if err != nil {
		v.Log.Error("asking for the right to change labels", "error", err)
	}
	if may {
		return nil
	}
	return refusal(fmt.Sprintf("policies look at the labels %s of namespaces: to change them, %s needs the verb %s on containeradmissionpolicies.containersecurity.tigera.io",
		strings.Join(slices.Compact(changed), ", "), q.UserInfo.Username, OverrideVerb))
}

func labelsOf(object json.RawMessage) (map[string]string, error) {
	var o struct {
		Metadata struct {
			Labels map[string]string `json:"labels"`
		} `json:"metadata"`
	}
	err := json.Unmarshal(object, &o)
	return maps.Clone(o.Metadata.Labels), err
}
