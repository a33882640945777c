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

// While the webhook is away, namespaces can be updated in all but their labels. It is asked of every way
// to change these, and of each new namespace; not of the two without which no cluster and no webhook comes up.
func TestOnlyChangesOfLabelsAreAsked(t *testing.T) {
	kind, resource := corev1.SchemeGroupVersion.WithKind("Namespace"), corev1.SchemeGroupVersion.WithResource("namespaces")
	a, b := map[string]string{"environment": "a"}, map[string]string{"environment": "b"}
	forged := map[string]string{corev1.LabelMetadataName: "kube-system"}
	type request struct {
		chart, name, subresource string
		create                   bool
		before, after            map[string]string
	}
	for name, c := range map[string]struct {
		request
		asked bool
	}{
		"same":                       {request{"default", "tenant", "", false, a, map[string]string{"environment": "a"}}, false},
		"none":                       {request{"default", "tenant", "", false, nil, nil}, false},
		"changed":                    {request{"default", "tenant", "", false, a, b}, true},
		"changed by status":          {request{"default", "tenant", "status", false, a, b}, true},
		"changed by finalize":        {request{"default", "tenant", "finalize", false, a, b}, true},
		"finalized":                  {request{"default", "tenant", "finalize", false, a, a}, false},
		"added":                      {request{"default", "tenant", "", false, nil, a}, true},
		"removed":                    {request{"default", "tenant", "", false, a, nil}, true},
		"created":                    {request{"default", "tenant", "", true, nil, a}, true},
		"created without labels":     {request{"default", "tenant", "", true, nil, nil}, true},
		"created, its name made":     {request{"default", "", "", true, nil, a}, true},
		"created, its label forged":  {request{"default", "", "", true, nil, forged}, true},
		"the webhook's own":          {request{"default", "assay-system", "", false, a, b}, false},
		"the webhook's own, created": {request{"default", "assay-system", "", true, nil, a}, false},
		"kube-system":                {request{"default", "kube-system", "", false, a, b}, false},
		"excluded":                   {request{"server", "calico-system", "", false, a, b}, false},
		"excluded, created":          {request{"server", "calico-system", "", true, nil, a}, true},
		"not excluded":               {request{"server", "tenant", "", false, a, b}, true},
	} {
		w := all[*admissionv1.ValidatingWebhookConfiguration](named(t, c.chart))[0].Webhooks[2]
		if w.NamespaceSelector != nil || w.ObjectSelector != nil {
			t.Fatalf("%s: a selector looks at labels that a request can forge", c.chart)
		}
		compiler := cel.NewConditionCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
		matcher := webhook.NewValidatingWebhookAccessor("", "assay", &w).GetCompiledMatcher(compiler)
		after := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: c.name, Labels: c.after, Annotations: map[string]string{"new": ""}}}
		attributes := admission.NewAttributesRecord(after, nil, kind, "", c.name, resource, c.subresource, admission.Create, &metav1.CreateOptions{}, false, nil)
		if !c.create {
			before := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: c.name, Labels: c.before}}
			attributes = admission.NewAttributesRecord(after, before, kind, "", c.name, resource, c.subresource, admission.Update, &metav1.UpdateOptions{}, false, nil)
		}
		versioned, err := admission.NewVersionedAttributes(attributes, kind, admission.NewObjectInterfacesFromScheme(scheme.Scheme))
		if err != nil {
			t.Fatal(err)
		}
		if m := matcher.Match(t.Context(), versioned, nil, nil); m.Error != nil || m.Matches != c.asked {
			t.Errorf("%s: asked %t: %v", name, m.Matches, m.Error)
		}
	}
}
