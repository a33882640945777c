package doctor_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	restclient "k8s.io/client-go/rest"
	ktesting "k8s.io/client-go/testing"

	"github.com/assay-dev/assay/webhook/doctor"
)

// said is what a Pod answers.
type said struct {
	text string
	err  error
}

func (s said) DoRaw(context.Context) ([]byte, error) { return []byte(s.text), s.err }

func (s said) Stream(context.Context) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(s.text)), s.err
}

// Each replica that is ready is asked how old its data is, and by itself: what one says of its age is a
// warning where it is one, a replica that does not answer is one too, and none is passed over for another.
func TestAge(t *testing.T) {
	yes, no, port := true, false, int32(8443)
	pod := func(name string) *corev1.ObjectReference { return &corev1.ObjectReference{Kind: "Pod", Name: name} }
	replicas := []*discoveryv1.EndpointSlice{
		{Ports: []discoveryv1.EndpointPort{{Port: &port}}, Endpoints: []discoveryv1.Endpoint{
			{TargetRef: pod("fresh"), Conditions: discoveryv1.EndpointConditions{Ready: &yes}}, {TargetRef: pod("old"), Conditions: discoveryv1.EndpointConditions{Ready: &yes}},
			{TargetRef: pod("starts"), Conditions: discoveryv1.EndpointConditions{Ready: &no}}, {TargetRef: &corev1.ObjectReference{Kind: "Node", Name: "node"}}, {},
		}},
		{Ports: []discoveryv1.EndpointPort{{Port: &port}}, Endpoints: []discoveryv1.Endpoint{{TargetRef: pod("mute")}, {TargetRef: pod("alone")}}},
		{Endpoints: []discoveryv1.Endpoint{{TargetRef: pod("without-port")}}},
	}
	answers := map[string]said{
		"fresh": {"ok\ndata of 12s ago\n", nil},
		"old":   {"ok\ndata of 2h0m0s ago\nwarning: the data is older than 15m0s\n", nil},
		"mute":  {"", errors.New("pods \"mute\" is forbidden")},
		"alone": {"ok\n", nil}, // it follows no server
	}
	client := fake.NewClientset()
	for i, s := range replicas {
		s.ObjectMeta = metav1.ObjectMeta{Name: fmt.Sprint("s", i), Namespace: "assay-system", Labels: map[string]string{"kubernetes.io/service-name": "assay-webhook"}}
		if _, err := client.DiscoveryV1().EndpointSlices("assay-system").Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	var asked []string
	client.AddProxyReactor("pods", func(action ktesting.Action) (bool, restclient.ResponseWrapper, error) {
		get := action.(ktesting.ProxyGetAction)
		if get.GetNamespace() != "assay-system" || get.GetScheme() != "https" || get.GetPort() != "8443" || get.GetPath() != "readyz" {
			t.Errorf("asked is %+v", get)
		}
		asked = append(asked, get.GetName())
		return true, answers[get.GetName()], nil
	})
	objects := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		{Group: "containersecurity.tigera.io", Version: "v1beta1", Resource: "containeradmissionpolicies"}: "ContainerAdmissionPolicyList",
		{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}:              "CustomResourceDefinitionList",
	})
	report, err := doctor.Examine(t.Context(), doctor.Config{Client: client, Dynamic: objects, Namespace: "assay-system", Service: "assay-webhook", Registration: "assay"})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(asked)
	if got := strings.Join(asked, " "); got != "alone fresh mute old" {
		t.Errorf("asked were %s", got)
	}
	var got []string
	for _, c := range report.Checks {
		if c.Name == "age of the data" {
			got = append(got, fmt.Sprintf("%s: %s", c.State, c.Message))
			if c.State != doctor.OK && c.Remedy == "" {
				t.Errorf("%s has no remedy", c.Message)
			}
		}
	}
	slices.Sort(got)
	want := []string{
		fmt.Sprintf("%s: %s", doctor.OK, "fresh: data of 12s ago; old: data of 2h0m0s ago"),
		fmt.Sprintf("%s: %s", doctor.Warn, `mute cannot be asked: pods "mute" is forbidden`),
		fmt.Sprintf("%s: %s", doctor.Warn, "old: the data is older than 15m0s"),
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("it says\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
