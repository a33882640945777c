package doctor_test

import (
	"slices"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
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

// The webhook must be asked about each kind that the cluster's settings name, and about all built-in ones.
func TestExamineKinds(t *testing.T) {
	settings := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "assay.dev/v1alpha1", "kind": "AdmissionSettings", "metadata": map[string]any{"name": "default"},
		"spec": map[string]any{"customKinds": []any{
			map[string]any{"apiGroup": "argoproj.io", "kind": "Rollout"},
			map[string]any{"apiGroup": "jobset.x-k8s.io", "kind": "JobSet"},
			map[string]any{"apiGroup": "example.com", "kind": "Fleet", "podTemplatePath": "spec.template"},
		}},
	}}
	rule := func(group string, resources ...string) admissionv1.RuleWithOperations {
		return admissionv1.RuleWithOperations{
			Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update},
			Rule:       admissionv1.Rule{APIGroups: []string{group}, APIVersions: []string{"*"}, Resources: resources},
		}
	}
	builtin := []admissionv1.RuleWithOperations{
		rule("", "pods", "pods/ephemeralcontainers", "replicationcontrollers"),
		rule("apps", "daemonsets", "deployments", "replicasets", "statefulsets"),
		rule("batch", "cronjobs", "jobs"),
	}
	all := append(slices.Clone(builtin), rule("argoproj.io", "rollouts"), rule("jobset.x-k8s.io", "jobsets"), rule("example.com", "*"))
	for _, c := range []struct {
		rules []admissionv1.RuleWithOperations
		want  string
	}{
		{all, "the webhook is asked about all kinds"},
		{all[1:], "the webhook is not asked about: CREATE of pods, CREATE of replicationcontrollers, UPDATE of pods, UPDATE of pods/ephemeralcontainers, UPDATE of replicationcontrollers"},
		{append(slices.Clone(builtin), rule("argoproj.io", "workflows"), rule("jobset.x-k8s.io", "*")), "the webhook is not asked about: CREATE of argoproj.io/rollouts, CREATE of example.com/Fleet, UPDATE of argoproj.io/rollouts, UPDATE of example.com/Fleet"},
	} {
		client := fake.NewClientset(&admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "assay"}, Webhooks: []admissionv1.ValidatingWebhook{{Name: "workloads.assay.dev", Rules: c.rules}}})
		objects := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
			{Group: "containersecurity.tigera.io", Version: "v1beta1", Resource: "containeradmissionpolicies"}: "ContainerAdmissionPolicyList",
			{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}:              "CustomResourceDefinitionList",
			{Group: "assay.dev", Version: "v1alpha1", Resource: "admissionsettings"}:                           "AdmissionSettingsList",
		})
		if _, err := objects.Resource(schema.GroupVersionResource{Group: "assay.dev", Version: "v1alpha1", Resource: "admissionsettings"}).Create(t.Context(), settings, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		report, err := doctor.Examine(t.Context(), doctor.Config{Client: client, Dynamic: objects, Namespace: "assay-system", Service: "assay-webhook", Registration: "assay"})
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(report.Checks, func(c doctor.Check) bool { return c.Name == "registration" })
		if i < 0 || report.Checks[i].Message != c.want {
			t.Errorf("%+v\nwant %s", report.Checks, c.want)
		}
	}
}
