package admission_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// kinds are the workloads, with their image, name and namespace left open.
var kinds = map[string]string{
	"Pod":                   `{"apiVersion":"v1","kind":"Pod","metadata":META,"spec":SPEC}`,
	"ReplicationController": `{"apiVersion":"v1","kind":"ReplicationController","metadata":META,"spec":{"replicas":0,"selector":{"app":"x"},"template":TEMPLATE}}`,
	"ReplicaSet":            `{"apiVersion":"apps/v1","kind":"ReplicaSet","metadata":META,"spec":{"replicas":0,"selector":{"matchLabels":{"app":"x"}},"template":TEMPLATE}}`,
	"Deployment":            `{"apiVersion":"apps/v1","kind":"Deployment","metadata":META,"spec":{"replicas":0,"selector":{"matchLabels":{"app":"x"}},"template":TEMPLATE}}`,
	"StatefulSet":           `{"apiVersion":"apps/v1","kind":"StatefulSet","metadata":META,"spec":{"replicas":0,"serviceName":"x","selector":{"matchLabels":{"app":"x"}},"template":TEMPLATE}}`,
	"DaemonSet":             `{"apiVersion":"apps/v1","kind":"DaemonSet","metadata":META,"spec":{"selector":{"matchLabels":{"app":"x"}},"template":TEMPLATE}}`,
	"Job":                   `{"apiVersion":"batch/v1","kind":"Job","metadata":META,"spec":{"suspend":true,"template":TEMPLATE}}`,
	"CronJob":               `{"apiVersion":"batch/v1","kind":"CronJob","metadata":META,"spec":{"suspend":true,"schedule":"* * * * *","jobTemplate":{"spec":{"template":TEMPLATE}}}}`,
}

// object is one of a kind, in a namespace, with an image.
func object(kind, namespace, name, image string) string {
	spec := fmt.Sprintf(`{"restartPolicy":%q,"containers":[{"name":"app","image":%q}]}`, restartPolicy(kind), image)
	return strings.NewReplacer(
		"META", fmt.Sprintf(`{"name":%q,"namespace":%q,"labels":{"app":"x"}}`, name, namespace),
		"TEMPLATE", `{"metadata":{"labels":{"app":"x"}},"spec":`+spec+`}`, "SPEC", spec,
	).Replace(kinds[kind])
}

func restartPolicy(kind string) string {
	if kind == "Job" || kind == "CronJob" {
		return "Never"
	}
	return "Always"
}

func pod(name, image string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: image}}},
	}
}

func client(t testing.TB, c *rest.Config) kubernetes.Interface {
	t.Helper()
	k, err := kubernetes.NewForConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func dryRun(t testing.TB, p *corev1.Pod, namespace string) error {
	t.Helper()
	_, err := shared.Client.CoreV1().Pods(namespace).Create(t.Context(), p, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	return err
}

// edit lets a user change workloads in a namespace, as an ordinary tenant.
func edit(t testing.TB, namespace, user string) *rest.Config {
	t.Helper()
	shared.Apply(t, fmt.Sprintf(`
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: edit-%[2]s, namespace: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: %[2]s}]
`, namespace, user))
	return shared.As(user)
}
