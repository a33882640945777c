package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"

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
	Kind      struct {
		Kind string `json:"kind"`
	} `json:"kind"`
	Resource struct {
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
		metav1.TypeMeta
		Request *validationRequest `json:"request"`
	}
	err = json.Unmarshal(text, &body)
	wrongType := errors.As(err, new(*json.UnmarshalTypeError))
	if err != nil && !wrongType || body.Request == nil || body.Request.UID == "" || !review.KnownVersion(body.APIVersion, body.Kind) {
		http.Error(w, "the body is no AdmissionReview of admission.k8s.io/v1 or v1beta1 with a request", http.StatusBadRequest)
		return
	}
	q := body.Request
	response := &admissionv1.AdmissionResponse{Allowed: true}
	var status *metav1.Status
	if wrongType {
		status = invalid(fmt.Sprintf("malformed: %v", err))
	} else {
		status = v.fault(r.Context(), q)
	}
	if status != nil {
		response.Allowed, response.Result = false, status
		v.Log.Info("refused", "resource", q.Resource.Resource, "name", q.Name, "user", q.UserInfo.Username, "why", status.Message)
	}
	respond(w, body.APIVersion, q.UID, response)
}

func (v *Validation) fault(ctx context.Context, q *validationRequest) *metav1.Status {
	switch {
	case !slices.Contains([]string{"CREATE", "UPDATE", "DELETE", "CONNECT"}, q.Operation):
		return invalid("malformed: the operation must be CREATE, UPDATE, DELETE or CONNECT")
	case q.Kind.Kind == "" || q.Resource.Resource == "":
		return invalid("malformed: the kind or the resource is missing")
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
