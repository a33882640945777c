package deploy

import (
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/webhook"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/client-go/kubernetes/scheme"
)

// While the webhook is away, namespaces can be updated in all but their labels.
func TestOnlyChangesOfLabelsAreAsked(t *testing.T) {
	w := all[*admissionv1.ValidatingWebhookConfiguration](named(t, "default"))[0].Webhooks[2]
	compiler := cel.NewConditionCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	matcher := webhook.NewValidatingWebhookAccessor("", "assay", &w).GetCompiledMatcher(compiler)
	kind, resource := corev1.SchemeGroupVersion.WithKind("Namespace"), corev1.SchemeGroupVersion.WithResource("namespaces")
	a, b := map[string]string{"environment": "a"}, map[string]string{"environment": "b"}
	for name, c := range map[string]struct {
		before, after map[string]string
		asked         bool
	}{
		"same":    {a, map[string]string{"environment": "a"}, false},
		"none":    {nil, nil, false},
		"changed": {a, b, true},
		"added":   {nil, a, true},
		"removed": {a, nil, true},
	} {
		before := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "tenant", Labels: c.before}}
		after := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "tenant", Labels: c.after, Annotations: map[string]string{"new": ""}}}
		attributes := admission.NewAttributesRecord(after, before, kind, "", "tenant", resource, "", admission.Update, &metav1.UpdateOptions{}, false, nil)
		versioned, err := admission.NewVersionedAttributes(attributes, kind, admission.NewObjectInterfacesFromScheme(scheme.Scheme))
		if err != nil {
			t.Fatal(err)
		}
		if m := matcher.Match(t.Context(), versioned, nil, nil); m.Error != nil || m.Matches != c.asked {
			t.Errorf("%s: asked %t: %v", name, m.Matches, m.Error)
		}
	}
}
