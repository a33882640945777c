package deploy

import (
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	policyv1 "k8s.io/api/policy/v1"
)

// Neither a rolling update nor a drained node takes the webhook away.
func TestRollout(t *testing.T) {
	for _, i := range installations(t) {
		budgets := all[*policyv1.PodDisruptionBudget](i)
		for _, d := range all[*appsv1.Deployment](i) {
			if d.Name != "assay-webhook" {
				continue
			}
			update := d.Spec.Strategy.RollingUpdate
			if d.Spec.Replicas == nil || *d.Spec.Replicas < 2 || update == nil || update.MaxUnavailable.String() != "0" || update.MaxSurge.String() == "0" {
				t.Errorf("%s: %v replicas, a rolling update of %+v", i.name, d.Spec.Replicas, d.Spec.Strategy)
			}
			spec := d.Spec.Template.Spec
			if len(spec.TopologySpreadConstraints) == 0 && (spec.Affinity == nil || spec.Affinity.PodAntiAffinity == nil) {
				t.Errorf("%s: nothing keeps the replicas on nodes of their own", i.name)
			}
			if !slices.ContainsFunc(budgets, func(b *policyv1.PodDisruptionBudget) bool {
				return b.Name == d.Name && b.Spec.MaxUnavailable != nil && b.Spec.MaxUnavailable.IntValue() < int(*d.Spec.Replicas)
			}) {
				t.Errorf("%s: no PodDisruptionBudget keeps a replica", i.name)
			}
		}
	}
}

// What asks the webhook goes with it: a registration that stayed would refuse everything.
func TestUninstall(t *testing.T) {
	for _, i := range installations(t) {
		for _, r := range all[*admissionv1.ValidatingWebhookConfiguration](i) {
			for name := range r.Annotations {
				if strings.HasPrefix(name, "helm.sh/") {
					t.Errorf("%s: the registration has %s, and Helm leaves it", i.name, name)
				}
			}
		}
	}
}
