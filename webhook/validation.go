package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/assay-dev/assay/bundles/source/cluster"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/review"
)

// Validation answers AdmissionReviews of Assay's own kinds: what does not compile is
// refused, with all that is wrong. It also guards the namespaces: who could change the
// labels that policies look at, or make a namespace that is excluded, could choose the
// policies that apply.
type Validation struct {
	Engine *engine.Engine
	// MayOverride says who may do that; nil: everyone.
	MayOverride func(ctx context.Context, user string, who review.Requester, namespace string) (bool, error)
	// GuardedLabels are further ones, by which the registration itself selects namespaces.
	GuardedLabels []string
	Log           *slog.Logger
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
	case q.Operation == "DELETE" || q.Operation == "CONNECT":
		return nil
	case q.Resource.Group == "" && q.Resource.Resource == "namespaces":
		return v.guard(ctx, q) // whatever the subresource: metadata can be changed through each
	case q.SubResource != "" || !cluster.KindOf(q.Resource.Group, q.Resource.Resource):
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
