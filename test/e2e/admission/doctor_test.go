package admission_test

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// assay doctor says what is wrong with an installation.
func TestDoctor(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "assay")
	if out, err := exec.Command("go", "build", "-C", "../../..", "-o", binary, "./cmd/assay").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	namespace := shared.Namespace(t, nil)
	examine := func() (code int, states map[string]string, text string) {
		t.Helper()
		cmd := exec.Command(binary, "doctor", "--kubeconfig", shared.Kubeconfig, "-n", namespace, "--registration", "doctor", "-o", "json")
		out, err := cmd.Output()
		if err != nil {
			code = cmd.ProcessState.ExitCode()
		}
		var report struct {
			Schema string
			Checks []struct{ Name, State, Message string }
		}
		if err := json.Unmarshal(out, &report); err != nil || report.Schema != "assay.dev/doctor/v1" {
			t.Fatalf("%v: %s", err, out)
		}
		states = map[string]string{}
		for _, c := range report.Checks {
			states[c.Name] = c.State
		}
		return code, states, string(out)
	}
	code, states, text := examine()
	if code != 1 || states["registration"] != "fail" || states["replicas"] != "fail" || states["API server"] != "ok" {
		t.Errorf("nothing is installed: %d %s", code, text)
	}

	define(t)
	h := start(t, seed, scans())
	register(t, h, "doctor")
	shared.Service(t, namespace, "assay-webhook", 443)
	yes, node := true, []string{"node-0", "node-1"}
	endpoints := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "assay-webhook-1", Labels: map[string]string{"kubernetes.io/service-name": "assay-webhook"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.0.0.1"}, NodeName: &node[0], Conditions: discoveryv1.EndpointConditions{Ready: &yes}},
			{Addresses: []string{"10.0.0.2"}, NodeName: &node[1], Conditions: discoveryv1.EndpointConditions{Ready: &yes}},
		},
	}
	if _, err := shared.Client.DiscoveryV1().EndpointSlices(namespace).Create(t.Context(), endpoints, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if code, states, text = examine(); code != 0 || states["registration"] != "ok" || states["replicas"] != "ok" || states["definitions"] != "ok" || states["failure policy"] != "ok" || states["certificate"] != "warn" || states["namespace labels"] != "warn" {
		t.Errorf("all is well: %d %s", code, text)
	}

	configurations := shared.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	c, err := configurations.Get(t.Context(), "doctor", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.Webhooks = append(c.Webhooks, *c.Webhooks[0].DeepCopy())
	c.Webhooks[1].Name = "labels.assay.dev"
	c.Webhooks[1].Rules = []admissionregistrationv1.RuleWithOperations{{
		Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create, admissionregistrationv1.Update},
		Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"namespaces", "namespaces/*"}},
	}}
	ignore, exact := admissionregistrationv1.Ignore, admissionregistrationv1.Exact
	c.Webhooks[0].FailurePolicy, c.Webhooks[0].MatchPolicy = &ignore, &exact
	for i, r := range c.Webhooks[0].Rules {
		if r.APIGroups[0] == "batch" {
			c.Webhooks[0].Rules[i].Resources = []string{"jobs"}
		}
	}
	if _, err := configurations.Update(t.Context(), c, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := shared.Client.CoreV1().Secrets(namespace).Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "broken"}, Data: map[string][]byte{corev1.TLSCertKey: []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if code, states, text = examine(); code != 1 || states["registration"] != "fail" || !strings.Contains(text, "CREATE of batch/cronjobs, UPDATE of batch/cronjobs") || states["match policy"] != "fail" || states["failure policy"] != "warn" || states["namespace labels"] != "ok" {
		t.Errorf("faults are not found: %d %s", code, text)
	}

	// Without a cluster it says so, and is no answer.
	cmd := exec.Command(binary, "doctor", "--kubeconfig", filepath.Join(t.TempDir(), "none"))
	out, err := cmd.CombinedOutput()
	if err == nil || cmd.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), "no cluster") {
		t.Errorf("%v: %s", err, out)
	}
}
