// Package assurance_test has a real Kubernetes API server switch the nodes' agent by
// ImageAssurance, and looks at what the agent asks that API server for.
package assurance_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/assay-dev/assay/node"
	"github.com/assay-dev/assay/node/nodetest"
	"github.com/assay-dev/assay/server/client"
	"github.com/assay-dev/assay/test/e2e/cluster"
)

const user = "agent"

// The rights of the chart's agent.
const rights = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: agent}
rules:
- {apiGroups: [image-assurance.operator.tigera.io], resources: [imageassurances], verbs: [get, list, watch]}
- {apiGroups: [""], resources: [namespaces], resourceNames: [kube-system], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: agent}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: agent}
subjects: [{kind: User, name: agent}]
`

// As a user of Calico has it, with fields that mean nothing here.
const disabled = `
apiVersion: image-assurance.operator.tigera.io/v1
kind: ImageAssurance
metadata: {name: default}
spec: {clusterScanner: Disabled, apiProxyURL: "https://calico.example.com"}
`

var assurances = schema.GroupVersionResource{Group: "image-assurance.operator.tigera.io", Version: "v1", Resource: "imageassurances"}

func TestImageAssuranceSwitchesTheAgent(t *testing.T) {
	dir := t.TempDir()
	policy, audit := filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "audit.log")
	if err := os.WriteFile(policy, []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata, users: [agent]}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := cluster.Start(t, cluster.Config{APIServerArgs: map[string]string{"audit-policy-file": policy, "audit-log-path": audit}})
	definition, err := os.ReadFile("../../../deploy/crds/optional/imageassurances.image-assurance.operator.tigera.io.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c.Apply(t, rights+"---\n"+string(definition)+"---"+disabled)
	reach, err := dynamic.NewForConfig(c.As(user))
	if err != nil {
		t.Fatal(err)
	}
	var name string
	cluster.Eventually(t, func() (err error) { name, err = node.ClusterName(t.Context(), reach); return err })

	cri := nodetest.StartCRI(t, false)
	cri.Run(nodetest.Container{Namespace: "shop", Pod: "web", Name: "main", Image: "registry.example.com/shop/web:1", ID: "sha256:a"})
	cri.Run(nodetest.Container{Namespace: "test", Pod: "x", Name: "main", Image: "registry.example.com/test/x:1", ID: "sha256:b"})
	server := nodetest.StartServer(t)
	sends, err := client.New(client.Config{URL: server.URL, Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	agent, err := node.New(node.Config{Cluster: name, Node: "n1", Server: sends, Address: nodetest.StartContainerd(t).Socket, CRISocket: cri.Socket, Dir: filepath.Join(dir, "queue"),
		Assurance: reach, Poll: 100 * time.Millisecond, Heartbeat: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- agent.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		agent.Close()
	}()

	// What kubectl edit sends.
	edit := func(spec string) {
		t.Helper()
		if _, err := c.Dynamic.Resource(assurances).Patch(t.Context(), "default", types.MergePatchType, []byte(`{"spec":`+spec+`}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	runs := func(want int) {
		t.Helper()
		cluster.Eventually(t, func() error {
			if got, ok := server.Runs("n1"); !ok || len(got) != want {
				return fmt.Errorf("%d containers are told of (%t), not %d", len(got), ok, want)
			}
			return nil
		})
	}
	runs(0)
	edit(`{"clusterScanner":"Enabled"}`)
	runs(2)
	edit(`{"exclusions":{"namespaces":["test"]}}`)
	runs(1)
	edit(`{"clusterScanner":"Disabled"}`)
	runs(0)
	if _, err := c.Dynamic.Resource(assurances).Patch(t.Context(), "default", types.MergePatchType, []byte(`{"spec":{"clusterScanner":"on"}}`), metav1.PatchOptions{}); err == nil {
		t.Error("a value that means nothing is taken")
	}
	o, err := c.Dynamic.Resource(assurances).Get(t.Context(), "default", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if spec := o.Object["spec"].(map[string]any); spec["apiProxyURL"] != "https://calico.example.com" {
		t.Errorf("of Calico's fields %v is left", spec)
	}

	// Containers come and go, and the server hears of each; the API server hears of none.
	edit(`{"clusterScanner":"Enabled"}`)
	for range 20 {
		id := cri.Run(nodetest.Container{Namespace: "shop", Pod: "job", Name: "main", Image: "registry.example.com/shop/job:1", ID: "sha256:c"})
		runs(2)
		cri.Remove(id)
		runs(1)
	}
	asked := map[string]int{}
	file, err := os.Open(audit)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var event struct {
			Verb      string
			ObjectRef struct{ Resource string }
		}
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			t.Fatal(err)
		}
		asked[event.Verb+" "+event.ObjectRef.Resource]++
	}
	for what := range asked {
		switch what {
		case "get namespaces", "list imageassurances", "watch imageassurances":
		default:
			t.Errorf("the agent asks to %s", what)
		}
	}
	if asked["list imageassurances"] == 0 || asked["watch imageassurances"] == 0 {
		t.Errorf("the audit log has %v", asked)
	}
	t.Logf("asked of the API server: %v; told to the server: %d reports", asked, len(server.Reports()))
}
