package admission_test

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/assay-dev/assay/test/e2e/cluster"
)

// The seed policy admits, rejects and names CVEs for every kind.
func TestKinds(t *testing.T) {
	h := start(t, seed, scans())
	register(t, h, "kinds")
	production := shared.Namespace(t, map[string]string{"e2e": "kinds", "environment": "production"})
	staging := shared.Namespace(t, map[string]string{"e2e": "kinds", "environment": "staging"})
	inForce(t, production)
	user := edit(t, production, "tenant")
	for kind := range kinds {
		name := strings.ToLower(kind)
		n := 0
		for image, wants := range map[string][]string{
			at("good:1"):                        nil,
			at("warn:1"):                        nil,
			at("good@" + digest("a")):           nil,
			at("bad:1"):                         {"policy seed rule 2", "result Fail", "maximum CVSS 9.8", "CVE-2026-0001 (9.8: ", "CVE-2026-0002 (9.1: ", "container app"},
			at("never:1"):                       {"policy seed rule 2", "result Unknown"},
			"registry.example.com/other/good:1": {"policy seed rule 2"},
			"nginx":                             {"nginx (container app)", "result Unknown"},
		} {
			err := shared.ApplyAs(t.Context(), user, object(kind, production, fmt.Sprintf("%s-%d", name, n), image))
			n++
			if wants == nil {
				if err != nil {
					t.Errorf("%s with %s: %v", kind, image, err)
				}
				continue
			}
			if !refused(err) {
				t.Errorf("%s with %s: not refused: %v", kind, image, err)
				continue
			}
			for _, want := range wants {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%s with %s: %q is not in: %v", kind, image, want, err)
				}
			}
		}
		if err := shared.ApplyAs(t.Context(), shared.Config, object(kind, staging, name, at("bad:1"))); err != nil {
			t.Errorf("%s in staging: %v", kind, err)
		}
	}
	if n := strings.Count(h.decisions(), `"allowed":false`); n < 8*4 {
		t.Errorf("%d rejections are in the decision log", n)
	}
	cluster.Eventually(t, func() error {
		list, err := shared.Client.CoreV1().Events(production).List(t.Context(), metav1.ListOptions{FieldSelector: "reason=ImageRejected"})
		if err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.InvolvedObject.Kind == "Deployment" && strings.Contains(e.Message, "CVE-2026-0001") {
				return nil
			}
		}
		return fmt.Errorf("no Event says why: %d", len(list.Items))
	})
}

// What an admitted owner made comes up after its image turned Fail; nothing else with it does.
func TestControllersComeUp(t *testing.T) {
	list := scans()
	h := start(t, seed, list)
	register(t, h, "owners")
	namespace := shared.Namespace(t, map[string]string{"e2e": "owners", "environment": "production"})
	inForce(t, namespace)
	admitted := strings.Replace(object("Deployment", namespace, "web", at("good:1")), `"replicas":0`, `"replicas":2`, 1)
	shared.Apply(t, admitted)
	pods := func(atLeast int, apart map[string]bool) (names []string) {
		t.Helper()
		cluster.Eventually(t, func() error {
			names = nil
			all, err := shared.Client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
			if err != nil {
				return err
			}
			for _, p := range all.Items {
				if p.DeletionTimestamp == nil && !apart[p.Name] {
					names = append(names, p.Name)
				}
			}
			if len(names) < atLeast {
				return fmt.Errorf("%d Pods, want %d", len(names), atLeast)
			}
			return nil
		})
		return names
	}
	before := map[string]bool{}
	for _, name := range pods(2, nil) {
		before[name] = true
	}
	list[0] = scan(at("good:1"), digest("a"), 9.9) // a new CVE
	h.scans(list)
	cluster.Eventually(t, func() error {
		if err := dryRun(t, pod("direct", at("good:1")), namespace); !refused(err) {
			return fmt.Errorf("a Pod of its own is admitted: %v", err)
		}
		return nil
	})
	now := int64(0)
	if err := shared.Client.CoreV1().Pods(namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	pods(2, before) // the ReplicaSet's
	// A new ReplicaSet too: it is its Deployment's.
	if err := shared.Client.AppsV1().ReplicaSets(namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, func() error {
		sets, err := shared.Client.AppsV1().ReplicaSets(namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil || len(sets.Items) == 0 || sets.Items[0].DeletionTimestamp != nil {
			return fmt.Errorf("no ReplicaSet: %v", err)
		}
		return nil
	})
	// But a change of the template is judged.
	err := shared.ApplyAs(t.Context(), shared.Config, strings.Replace(admitted, `"name":"app"`, `"name":"app","args":["x"]`, 1))
	if !refused(err) {
		t.Errorf("a rollout is admitted: %v", err)
	}
	// And one of anything else is not.
	if err := shared.ApplyAs(t.Context(), shared.Config, strings.Replace(admitted, `"replicas":2`, `"replicas":3`, 1)); err != nil {
		t.Errorf("scaling: %v", err)
	}
}

// Pods may have a generated name, and labels only.
func TestGenerateName(t *testing.T) {
	h := start(t, seed, scans())
	register(t, h, "names")
	namespace := shared.Namespace(t, map[string]string{"e2e": "names", "environment": "production"})
	inForce(t, namespace)
	for image, allowed := range map[string]bool{at("good:1"): true, at("bad:1"): false} {
		p := pod("", image)
		p.GenerateName = "batch-"
		_, err := shared.Client.CoreV1().Pods(namespace).Create(t.Context(), p, metav1.CreateOptions{})
		if allowed != (err == nil) || err != nil && !strings.Contains(err.Error(), image) {
			t.Errorf("%s: %v", image, err)
		}
	}
}
