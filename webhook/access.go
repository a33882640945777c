package webhook

import (
	"context"
	"fmt"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"

	"github.com/assay-dev/assay/review"
)

// OverrideVerb is the RBAC verb on containeradmissionpolicies that break-glass needs,
// in the namespace of the workload, and the change of labels that policies look at, for
// all namespaces.
const OverrideVerb = "override"

// askFor bounds the question to the API server.
const askFor = 2 * time.Second

// Access asks the cluster who may override policies.
type Access struct {
	Client authorizationclient.SubjectAccessReviewInterface
}

// MayOverride asks for the requester of a review, in a namespace ("" for all).
func (a Access) MayOverride(ctx context.Context, user string, who review.Requester, namespace string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	extra := map[string]authorizationv1.ExtraValue{}
	for k, v := range who.Extra {
		extra[k] = v
	}
	answer, err := a.Client.Create(ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: user, UID: who.UID, Groups: who.Groups, Extra: extra,
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Group: "containersecurity.tigera.io", Version: "v1beta1", Resource: "containeradmissionpolicies", Verb: OverrideVerb, Namespace: namespace,
		},
	}}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("asking for the right to override: %w", err)
	}
	return answer.Status.Allowed && !answer.Status.Denied, nil
}
