package deploy

import (
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	apiservercel "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/client-go/kubernetes/scheme"
)

// validator is the chart's fallback as an API server compiles it, with its parameters.
func validator(t *testing.T) (validating.Validator, *corev1.ConfigMap) {
	t.Helper()
	i := named(t, "elsewhere")
	policy := all[*admissionv1.ValidatingAdmissionPolicy](i)[0]
	if *policy.Spec.FailurePolicy != admissionv1.Ignore {
		t.Errorf("failurePolicy is %s", *policy.Spec.FailurePolicy)
	}
	c, err := cel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if err != nil {
		t.Fatal(err)
	}
	with := cel.OptionalVariableDeclarations{HasParams: true}
	for _, v := range policy.Spec.Variables {
		if r := c.CompileAndStoreVariable(&validating.Variable{Name: v.Name, Expression: v.Expression}, with, environment.StoredExpressions); r.Error != nil {
			t.Fatalf("%s: %v", v.Name, r.Error)
		}
	}
	rule := policy.Spec.Validations[0]
	conditions := c.CompileCondition([]cel.ExpressionAccessor{&validating.ValidationCondition{Expression: rule.Expression}}, with, environment.StoredExpressions)
	messages := c.CompileCondition([]cel.ExpressionAccessor{&validating.MessageExpressionCondition{MessageExpression: rule.MessageExpression}}, with, environment.StoredExpressions)
	audit := c.CompileCondition(nil, with, environment.StoredExpressions)
	for _, e := range append(conditions.CompilationErrors(), messages.CompilationErrors()...) {
		t.Fatal(e)
	}
	closed := admissionv1.Fail // so that errors show
	return validating.NewValidator(conditions, nil, audit, messages, &closed, nil), all[*corev1.ConfigMap](i)[0]
}

func TestFallback(t *testing.T) {
	v, params := validator(t)
	bad := "registry.example.com/shop/web@sha256:" + strings.Repeat("1", 64)
	good := "registry.example.com/shop/web@sha256:" + strings.Repeat("2", 64)
	pod := func(images ...string) *corev1.Pod {
		p := &corev1.Pod{}
		for _, image := range images {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Image: image})
		}
		return p
	}
	inner := func(change func(*corev1.PodSpec)) *corev1.Pod {
		p := pod(good)
		change(&p.Spec)
		return p
	}
	for name, c := range map[string]struct {
		pod, old *corev1.Pod
		params   *corev1.ConfigMap
		refused  bool
	}{
		"good":     {pod: pod(good, "nginx", "nginx:1"), params: params},
		"bad":      {pod: pod(good, bad), params: params, refused: true},
		"with tag": {pod: pod(strings.Replace(bad, "@", ":1@", 1)), params: params, refused: true},
		"init":     {pod: inner(func(s *corev1.PodSpec) { s.InitContainers = []corev1.Container{{Image: bad}} }), params: params, refused: true},
		"ephemeral": {pod: inner(func(s *corev1.PodSpec) {
			s.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Image: bad}}}
		}), params: params, refused: true},
		"volume": {pod: inner(func(s *corev1.PodSpec) {
			s.Volumes = []corev1.Volume{{Name: "a"}, {VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: bad}}}}
		}), params: params, refused: true},
		"runs":    {pod: pod(bad), old: pod(bad), params: params},
		"added":   {pod: pod(good, bad), old: pod(good), params: params, refused: true},
		"no list": {pod: pod(bad), params: &corev1.ConfigMap{}},
	} {
		var old runtime.Object
		operation := admission.Create
		if c.old != nil {
			old, operation = c.old, admission.Update
		}
		kind, resource := corev1.SchemeGroupVersion.WithKind("Pod"), corev1.SchemeGroupVersion.WithResource("pods")
		attributes := admission.NewAttributesRecord(c.pod, old, kind, "default", "web", resource, "", operation, &metav1.CreateOptions{}, false, nil)
		versioned, err := admission.NewVersionedAttributes(attributes, kind, admission.NewObjectInterfacesFromScheme(scheme.Scheme))
		if err != nil {
			t.Fatal(err)
		}
		result := v.Validate(t.Context(), schema.GroupVersionResource(resource), versioned, c.params, nil, apiservercel.RuntimeCELCostBudget, nil)
		d := result.Decisions[0]
		if d.Evaluation == validating.EvalError || (d.Action == validating.ActionDeny) != c.refused {
			t.Errorf("%s: %s %s: %s", name, d.Action, d.Evaluation, d.Message)
		}
		if c.refused && !strings.Contains(d.Message, "known to fail: registry.example.com/shop/web") {
			t.Errorf("%s: %s", name, d.Message)
		}
	}
}
