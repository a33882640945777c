package contender

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/assay-dev/assay/test/bench/fleet"
	"github.com/open-policy-agent/frameworks/constraint/pkg/client"
	"github.com/open-policy-agent/frameworks/constraint/pkg/client/drivers/rego"
	"github.com/open-policy-agent/frameworks/constraint/pkg/client/reviews"
	"github.com/open-policy-agent/frameworks/constraint/pkg/core/templates"
	"github.com/open-policy-agent/gatekeeper/v3/pkg/target"
	"github.com/open-policy-agent/gatekeeper/v3/pkg/util"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
)

// Gatekeeper is its constraint framework with its own target and Rego driver:
// one ConstraintTemplate, one constraint for each policy, whose rules are its
// parameters. The facts are an object of the inventory.
type Gatekeeper struct{ client *client.Client }

//go:embed gatekeeper.rego
var template string

const constraintKind = "ImageRules"

// NewGatekeeper compiles the template and adds the constraints.
func NewGatekeeper(ctx context.Context, policies []fleet.Policy, facts Facts) (*Gatekeeper, error) {
	driver, err := rego.New(rego.Tracing(false), rego.Externs("inventory"))
	if err != nil {
		return nil, fmt.Errorf("making Gatekeeper's driver: %w", err)
	}
	c, err := client.NewClient(client.Targets(&target.K8sValidationTarget{}), client.Driver(driver), client.EnforcementPoints(util.WebhookEnforcementPoint))
	if err != nil {
		return nil, fmt.Errorf("making Gatekeeper's client: %w", err)
	}
	t := &templates.ConstraintTemplate{ObjectMeta: metav1.ObjectMeta{Name: "imagerules"}}
	t.Spec.CRD.Spec.Names.Kind = constraintKind
	t.Spec.CRD.Spec.Validation = &templates.Validation{OpenAPIV3Schema: &apiextensions.JSONSchemaProps{Type: "object", XPreserveUnknownFields: ptr.To(true)}}
	t.Spec.Targets = []templates.Target{{Target: target.Name, Code: []templates.Code{{Engine: "Rego", Source: &templates.Anything{Value: map[string]any{"version": "v1", "rego": template}}}}}}
	if _, err := c.AddTemplate(ctx, t); err != nil {
		return nil, fmt.Errorf("adding Gatekeeper's template: %w", err)
	}
	for _, p := range policies {
		constraint, err := constraintOf(p)
		if err != nil {
			return nil, err
		}
		if _, err := c.AddConstraint(ctx, constraint); err != nil {
			return nil, fmt.Errorf("adding constraint %s: %w", p.Metadata.Name, err)
		}
	}
	images := map[string]any{}
	for image, f := range facts {
		images[image] = map[string]any{"result": string(f.Result), "scanned_at": f.ScannedAt.UTC().Format(time.RFC3339)}
	}
	_, err = c.AddData(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "bench.assay.dev/v1", "kind": "ImageFacts", "metadata": map[string]any{"name": "fleet"}, "images": images,
	}})
	if err != nil {
		return nil, fmt.Errorf("adding facts to Gatekeeper's inventory: %w", err)
	}
	return &Gatekeeper{c}, nil
}

func constraintOf(p fleet.Policy) (*unstructured.Unstructured, error) {
	var rules []any
	for _, r := range p.Spec.Rules {
		rule := map[string]any{"action": r.Action, "pattern": r.ImagePath.Values[0]}
		if r.ImageScanStatus != nil {
			rule["results"] = r.ImageScanStatus.Values
		}
		if r.ImageLastScan != nil {
			rule["before"] = moment(r.ImageLastScan).Format(time.RFC3339)
		}
		rules = append(rules, rule)
	}
	match := map[string]any{"kinds": []any{map[string]any{"apiGroups": []any{"apps"}, "kinds": []any{"Deployment"}}}}
	if p.LabelKey != "" {
		match["labelSelector"] = map[string]any{"matchExpressions": []any{map[string]any{"key": p.LabelKey, "operator": "In", "values": p.LabelValues}}}
	}
	text, err := json.Marshal(map[string]any{
		"apiVersion": "constraints.gatekeeper.sh/v1beta1", "kind": constraintKind, "metadata": map[string]any{"name": p.Metadata.Name},
		"spec": map[string]any{"enforcementAction": "deny", "match": match, "parameters": map[string]any{"rules": rules}},
	})
	if err != nil {
		return nil, fmt.Errorf("writing constraint %s: %w", p.Metadata.Name, err)
	}
	u := &unstructured.Unstructured{}
	return u, u.UnmarshalJSON(text)
}

// Name is "Gatekeeper".
func (g *Gatekeeper) Name() string { return "Gatekeeper" }

// Admit reviews the request as Gatekeeper's webhook does: with the raw object in
// it, which the framework decodes.
func (g *Gatekeeper) Admit(ctx context.Context, r *fleet.Review) (Verdict, error) {
	v := Verdict{Rejected: []string{}}
	request := &admissionv1.AdmissionRequest{
		Kind: metav1.GroupVersionKind{Group: r.Flat.Group, Version: "v1", Kind: r.Flat.Kind}, Operation: admissionv1.Create,
		Name: r.Flat.Name, Namespace: r.Flat.Namespace, Object: runtime.RawExtension{Raw: r.Raw},
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.Flat.Namespace}}
	responses, err := g.client.Review(ctx, &target.AugmentedReview{AdmissionRequest: request, Namespace: namespace, IsAdmission: true},
		reviews.EnforcementPoint(util.WebhookEnforcementPoint))
	if err != nil {
		return v, err
	}
	for _, result := range responses.Results() {
		v.Rejected = append(v.Rejected, result.Msg)
	}
	v.Allowed = len(v.Rejected) == 0
	slices.Sort(v.Rejected)
	v.Rejected = slices.Compact(v.Rejected)
	return v, nil
}
