package doctor_test

import (
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/assay-dev/assay/webhook/doctor"
)

// Whoever examines a cluster changes nothing in it.
func TestExamineOnlyReads(t *testing.T) {
	client := fake.NewClientset(
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "assay-webhook", Namespace: "assay-system"}},
		&admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "assay"}, Webhooks: []admissionv1.ValidatingWebhook{{
			Name: "workloads.assay.dev", ClientConfig: admissionv1.WebhookClientConfig{
				Service: &admissionv1.ServiceReference{Namespace: "assay-system", Name: "assay-webhook"}, CABundle: []byte("none"),
			},
		}}},
	)
	objects := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		{Group: "containersecurity.tigera.io", Version: "v1beta1", Resource: "containeradmissionpolicies"}: "ContainerAdmissionPolicyList",
		{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}:              "CustomResourceDefinitionList",
	})
	if _, err := doctor.Examine(t.Context(), doctor.Config{Client: client, Dynamic: objects, Namespace: "assay-system", Service: "assay-webhook", Registration: "assay"}); err != nil {
		t.Fatal(err)
	}
	all := append(client.Actions(), objects.Actions()...)
	if len(all) < 5 {
		t.Fatalf("it asked %d times", len(all))
	}
	for _, a := range all {
		if verb := a.GetVerb(); verb != "get" && verb != "list" {
			t.Errorf("%s %s", verb, a.GetResource())
		}
	}
}
