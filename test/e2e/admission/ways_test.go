package admission_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/test/e2e/cluster"
)

// production is a namespace that the webhook judges by these policies and scans.
func production(t *testing.T, policies string, list []api.Scan, args ...string) (h *hook, namespace string) {
	t.Helper()
	h = start(t, policies, list, args...)
	label := strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))
	register(t, h, label)
	namespace = shared.Namespace(t, map[string]string{"e2e": label, "environment": "production"})
	inForce(t, namespace)
	return h, namespace
}

// create makes a Pod as the administrator, who has no more right to a bad image than others.
func create(t *testing.T, namespace string, p *corev1.Pod) (*corev1.Pod, error) {
	t.Helper()
	return shared.Client.CoreV1().Pods(namespace).Create(t.Context(), p, metav1.CreateOptions{})
}

func mustCreate(t *testing.T, namespace string, p *corev1.Pod) *corev1.Pod {
	t.Helper()
	made, err := create(t, namespace, p)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func wantRefused(t *testing.T, err error, because ...string) {
	t.Helper()
	if !refused(err) {
		t.Errorf("not refused: %v", err)
		return
	}
	for _, b := range because {
		if !strings.Contains(err.Error(), b) {
			t.Errorf("%q is not in: %v", b, err)
		}
	}
}

// Each of these is a way round that a user without rights over policies could try.
func TestNoWayRound(t *testing.T) {
	list := scans()
	index := digest("e")
	list = append(list,
		// A multi-platform image: its amd64 fails, its arm64 passes.
		api.Scan{Image: at("multi:1"), Digest: digest("1"), Index: &api.Index{Digest: index, Platforms: map[string]string{"linux/amd64": digest("1"), "linux/arm64": digest("a")}},
			Platform: "linux/amd64", Source: "registry", ScannedAt: time.Now().UTC(), Packages: 1, Vulnerabilities: scan("", "", 9.9).Vulnerabilities},
		// A tag that meant a good image, and then a bad one.
		withTime(scan(at("moved:1"), digest("2"), 1), -48*time.Hour),
		withTime(scan(at("moved:1"), digest("3"), 9.5), -time.Hour),
	)
	h, namespace := production(t, seed, list)
	user := edit(t, namespace, "mallory")
	mallory := client(t, user)
	pods := mallory.CoreV1().Pods(namespace)
	good, bad := at("good:1"), at("bad:1")
	running, err := pods.Create(t.Context(), pod("running", good), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}

	t.Run("ephemeral containers", func(t *testing.T) {
		for _, image := range []string{bad, good} { // one that is there cannot be changed
			p := running.DeepCopy()
			p.ResourceVersion = ""
			p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: image}}}
			_, err := shared.Client.CoreV1().Pods(namespace).UpdateEphemeralContainers(t.Context(), p.Name, p, metav1.UpdateOptions{})
			if image == bad {
				wantRefused(t, err, "container debug")
			} else if err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("init containers", func(t *testing.T) {
		p := pod("init", good)
		p.Spec.InitContainers = []corev1.Container{{Name: "setup", Image: bad}}
		_, err := pods.Create(t.Context(), p, metav1.CreateOptions{})
		wantRefused(t, err, "container setup")
	})
	t.Run("image volumes", func(t *testing.T) {
		p := pod("volume", good)
		p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: bad}}}}
		_, err := pods.Create(t.Context(), p, metav1.CreateOptions{})
		wantRefused(t, err, "container volume/data")
	})
	t.Run("a forged owner", func(t *testing.T) {
		shared.Apply(t, object("ReplicaSet", namespace, "owner", good))
		owner, err := mallory.AppsV1().ReplicaSets(namespace).Get(t.Context(), "owner", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		yes := true
		p := pod("forged", bad)
		p.Labels = map[string]string{"app": "x"}
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: owner.Name, UID: owner.UID, Controller: &yes}}
		_, err = pods.Create(t.Context(), p, metav1.CreateOptions{})
		wantRefused(t, err)
	})
	t.Run("another image in an update", func(t *testing.T) {
		patch := fmt.Sprintf(`{"spec":{"containers":[{"name":"app","image":%q}]}}`, bad)
		_, err := pods.Patch(t.Context(), "running", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
		wantRefused(t, err)
		shared.Apply(t, object("Deployment", namespace, "updated", good))
		_, err = mallory.AppsV1().Deployments(namespace).Patch(t.Context(), "updated", types.StrategicMergePatchType,
			[]byte(`{"spec":{"template":`+patch+`}}`), metav1.PatchOptions{})
		wantRefused(t, err)
	})
	t.Run("a tag that moved", func(t *testing.T) {
		_, err := pods.Create(t.Context(), pod("moved", at("moved:1")), metav1.CreateOptions{})
		wantRefused(t, err, "9.5")
		if _, err := pods.Create(t.Context(), pod("pinned", at("moved@"+digest("2"))), metav1.CreateOptions{}); err != nil {
			t.Error(err)
		}
		// A tag beside a digest says nothing.
		_, err = pods.Create(t.Context(), pod("both", at("good:1@"+digest("3"))), metav1.CreateOptions{})
		wantRefused(t, err, "9.5")
	})
	t.Run("the digest of an index", func(t *testing.T) {
		_, err := pods.Create(t.Context(), pod("index", at("multi@"+index)), metav1.CreateOptions{})
		wantRefused(t, err, "9.9")
	})
	t.Run("a verdict on the object", func(t *testing.T) {
		p := pod("claims", bad)
		p.Annotations = map[string]string{"assay.dev/result": "Pass", "assay.dev/verdict": `{"allowed":true}`, api.EnforcementAnnotation: api.Audit}
		p.Labels = map[string]string{"assay.dev/result": "Pass"}
		_, err := pods.Create(t.Context(), p, metav1.CreateOptions{})
		wantRefused(t, err)
	})
	t.Run("an override without the right", func(t *testing.T) {
		p := pod("override", bad)
		p.Annotations = map[string]string{api.OverrideReasonAnnotation: "please", api.OverrideUntilAnnotation: time.Now().Add(time.Hour).Format(time.RFC3339)}
		_, err := pods.Create(t.Context(), p, metav1.CreateOptions{})
		wantRefused(t, err, "mallory does not have the verb override")
	})
	t.Run("a dry run", func(t *testing.T) { wantRefused(t, dryRun(t, pod("dry", bad), namespace)) })
	t.Run("what is being deleted", func(t *testing.T) {
		p := pod("leaving", good)
		p.Finalizers = []string{"example.com/wait"}
		mustCreate(t, namespace, p)
		now := int64(0)
		if err := shared.Client.CoreV1().Pods(namespace).Delete(t.Context(), "leaving", metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
			t.Fatal(err)
		}
		patch := func(text string) error {
			_, err := pods.Patch(t.Context(), "leaving", types.StrategicMergePatchType, []byte(text), metav1.PatchOptions{})
			return err
		}
		wantRefused(t, patch(fmt.Sprintf(`{"spec":{"containers":[{"name":"app","image":%q}]}}`, bad)))
		turned := append([]api.Scan{scan(good, digest("a"), 9.9)}, list[1:]...)
		h.scans(turned)
		cluster.Eventually(t, func() error {
			if err := dryRun(t, pod("probe", good), namespace); !refused(err) {
				return fmt.Errorf("the new scan is not in force: %v", err)
			}
			return nil
		})
		if err := patch(`{"metadata":{"labels":{"a":"b"}}}`); err != nil {
			t.Errorf("labels: %v", err)
		}
		if err := patch(`{"metadata":{"finalizers":null}}`); err != nil {
			t.Errorf("a finalizer cannot go: %v", err)
		}
		h.scans(list)
		cluster.Eventually(t, func() error { return dryRun(t, pod("probe", good), namespace) })
	})
	t.Run("other subresources", func(t *testing.T) {
		deployments := mallory.AppsV1().Deployments(namespace)
		scale, err := deployments.GetScale(t.Context(), "updated", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		scale.Spec.Replicas = 1
		if _, err := deployments.UpdateScale(t.Context(), "updated", scale, metav1.UpdateOptions{}); err != nil {
			t.Errorf("scale: %v", err)
		}
		if err := shared.Client.PolicyV1().Evictions(namespace).Evict(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "running", Namespace: namespace}}); err != nil {
			t.Errorf("eviction: %v", err)
		}
	})
	t.Run("a huge object", func(t *testing.T) {
		for image, allowed := range map[string]bool{bad: false, good: true} {
			p := pod(fmt.Sprintf("huge-%t", allowed), good)
			for i := range 300 {
				p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: fmt.Sprintf("c%d", i), Image: good, Args: []string{strings.Repeat("x", 3<<10)}})
			}
			p.Spec.Containers[150].Image = image
			_, err := create(t, namespace, p)
			if allowed && err != nil {
				t.Error(err)
			} else if !allowed {
				wantRefused(t, err)
			}
		}
	})
}

func withTime(s api.Scan, ago time.Duration) api.Scan {
	s.ScannedAt = time.Now().UTC().Add(ago)
	return s
}

// exception is a VulnerabilityException as YAML.
func exception(name, cve, rest string) string {
	return fmt.Sprintf("---\napiVersion: assay.dev/v1alpha1\nkind: VulnerabilityException\nmetadata: {name: %s}\nspec: {cve: %s, justification: test, %s}\n", name, cve, rest)
}

// Each exception is in force, or not, on its own, and for its own name.
func TestExceptions(t *testing.T) {
	past, future := time.Now().Add(-time.Hour).UTC().Format(time.RFC3339), time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	const repo = "scope: repo, registry: registry.example.com/prod, repository: "
	list := append(scans(), scan(at("alias:1"), digest("c"), 9.8, 9.1, 3.0))
	h, namespace := production(t, seed, list)
	for _, c := range []struct {
		name, exceptions string
		allowed          map[string]bool
	}{
		{"an expired one lends its scope to no other",
			exception("a", "CVE-2026-0001", "scope: any, expires: "+past) + exception("b", "CVE-2026-0001", repo+"other, expires: "+future) + exception("c", "CVE-2026-0002", "scope: any"),
			map[string]bool{"bad:1": false}},
		{"an expired one takes no other's end",
			exception("a", "CVE-2026-0001", "scope: any, expires: "+past) + exception("b", "CVE-2026-0001", repo+"bad, expires: "+future) + exception("c", "CVE-2026-0002", repo+"bad"),
			map[string]bool{"bad:1": true, "alias:1": false}},
		{"another name of the digest",
			exception("b", "CVE-2026-0001", repo+"bad") + exception("c", "CVE-2026-0002", repo+"bad"),
			map[string]bool{"bad:1": true, "alias:1": false, "alias@" + digest("c"): false, "bad@" + digest("c"): true}},
		{"a tag beside a digest",
			exception("b", "CVE-2026-0001", "scope: image, registry: registry.example.com/prod, repository: bad, tags: ['1']") + exception("c", "CVE-2026-0002", repo+"bad"),
			map[string]bool{"bad:1": true, "bad:1@" + digest("c"): false}},
		{"one of two CVEs", exception("b", "CVE-2026-0001", "scope: any"), map[string]bool{"bad:1": false}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h.policies(seed + c.exceptions)
			inStep(t, h, namespace)
			for image, allowed := range c.allowed {
				err := dryRun(t, pod("p", at(image)), namespace)
				if allowed && err != nil {
					t.Errorf("%s: %v", image, err)
				} else if !allowed {
					wantRefused(t, err)
				}
			}
		})
	}
}

// inStep waits until the webhook has policies that it did not have before: decisions name their revision.
func inStep(t *testing.T, h *hook, namespace string) {
	t.Helper()
	before := lastRevision(h)
	cluster.Eventually(t, func() error {
		if err := dryRun(t, pod("probe", at("never:1")), namespace); !refused(err) {
			return err
		}
		if lastRevision(h) == before {
			return fmt.Errorf("the policies are not in force yet")
		}
		return nil
	})
}

func lastRevision(h *hook) string {
	lines := strings.Split(strings.TrimSpace(h.decisions()), "\n")
	var r api.Record
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &r); err != nil {
		return ""
	}
	return fmt.Sprint(r.Decision.Revisions)
}

// An exception stops counting at that very second: before it all is admitted, from then on nothing.
func TestExpiryAtTheSecond(t *testing.T) {
	end := time.Now().Add(6 * time.Second).Truncate(time.Second)
	h, namespace := production(t, seed, scans())
	h.policies(seed + exception("a", "CVE-2026-0001", "scope: any, expires: "+end.UTC().Format(time.RFC3339)) + exception("b", "CVE-2026-0002", "scope: any"))
	inStep(t, h, namespace)
	for time.Now().Before(end.Add(500 * time.Millisecond)) {
		_ = dryRun(t, pod("p", at("bad:1")), namespace)
	}
	before, after := 0, 0
	for line := range strings.Lines(h.decisions()) {
		var r api.Record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		if r.Decision.Name != "p" {
			continue
		}
		now, err := time.Parse(api.TimeLayout, r.Decision.Now)
		if err != nil {
			t.Fatal(err)
		}
		if r.Decision.Allowed != now.Before(end) {
			t.Errorf("at %s, the end being %s: allowed is %t", r.Decision.Now, end.UTC(), r.Decision.Allowed)
		}
		if now.Before(end) {
			before++
		} else {
			after++
		}
	}
	if before < 10 || after < 10 {
		t.Errorf("%d decisions before the end and %d after it prove little", before, after)
	}
}

// A tenant who may change a namespace cannot choose the policies for it.
func TestNamespaceLabels(t *testing.T) {
	h, namespace := production(t, seed+"---\napiVersion: assay.dev/v1alpha1\nkind: AdmissionSettings\nmetadata: {name: default}\nspec: {excludedNamespaces: [guard-excluded]}\n", scans())
	shared.Apply(t, `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: namespace-editor}
rules: [{apiGroups: [""], resources: [namespaces, namespaces/status, namespaces/finalize], verbs: [get, create, patch, update]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: namespace-editors}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: namespace-editor}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: mallory}, {apiGroup: rbac.authorization.k8s.io, kind: User, name: olivia}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: policy-override}
rules: [{apiGroups: [containersecurity.tigera.io], resources: [containeradmissionpolicies], verbs: [override]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: policy-overriders}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: policy-override}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: olivia}]
`)
	mallory := client(t, shared.As("mallory")).CoreV1()
	waysOf := func(labels string) map[string]func() error {
		ways := map[string]func() error{}
		path := "/api/v1/namespaces/" + namespace
		for sub, to := range map[string]string{"": path, "status": path + "/status"} {
			for kind, body := range map[types.PatchType]string{
				types.MergePatchType:          `{"metadata":{"labels":` + labels + `}}`,
				types.StrategicMergePatchType: `{"metadata":{"labels":` + labels + `}}`,
				types.JSONPatchType:           `[{"op":"add","path":"/metadata/labels","value":` + labels + `}]`,
				types.ApplyPatchType:          `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"` + namespace + `","labels":` + labels + `}}`,
			} {
				ways[sub+" "+string(kind)] = func() error {
					r := mallory.RESTClient().Patch(kind).AbsPath(to).Body([]byte(body))
					if kind == types.ApplyPatchType {
						r = r.Param("fieldManager", "mallory").Param("force", "true")
					}
					return r.Do(t.Context()).Error()
				}
			}
		}
		for _, sub := range []string{"", "status", "finalize"} {
			ways[sub+" PUT"] = func() error {
				n, err := mallory.Namespaces().Get(t.Context(), namespace, metav1.GetOptions{})
				if err != nil {
					return err
				}
				n.Labels = nil
				if err := json.Unmarshal([]byte(labels), &n.Labels); err != nil {
					return err
				}
				n.APIVersion, n.Kind = "v1", "Namespace"
				text, err := json.Marshal(n)
				if err != nil {
					return err
				}
				return mallory.RESTClient().Put().AbsPath(strings.TrimSuffix(path+"/"+sub, "/")).SetHeader("Content-Type", "application/json").Body(text).Do(t.Context()).Error()
			}
		}
		return ways
	}
	labelsNow := func() map[string]string {
		n, err := shared.Client.CoreV1().Namespaces().Get(t.Context(), namespace, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return n.Labels
	}
	// Without the guard, each way to write a Namespace writes its labels.
	before := labelsNow()
	cluster.Eventually(t, func() error { // until the rights are known
		_, err := mallory.Namespaces().Get(t.Context(), namespace, metav1.GetOptions{})
		return err
	})
	for name := range waysOf(`{}`) {
		labels := fmt.Sprintf(`{"e2e":%q,"environment":"staging","way":%q}`, before["e2e"], strings.NewReplacer(" ", "-", "/", ".", "+", ".").Replace(strings.TrimSpace(name)))
		if err := waysOf(labels)[name](); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if now := labelsNow(); now["environment"] != "staging" || now["way"] == "" || now["way"] == before["way"] {
			t.Errorf("%s changes no labels, so that it proves nothing: %v", name, now)
		} else {
			before["way"] = now["way"]
		}
	}
	back := fmt.Sprintf(`{"metadata":{"labels":{"e2e":%q,"environment":"production","way":null}}}`, before["e2e"])
	if _, err := shared.Client.CoreV1().Namespaces().Patch(t.Context(), namespace, types.MergePatchType, []byte(back), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	registerValidation(t, h, "guard")
	label := func(user, patch string) error {
		_, err := client(t, shared.As(user)).CoreV1().Namespaces().Patch(t.Context(), namespace, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		return err
	}
	cluster.Eventually(t, func() error {
		if err := label("mallory", `{"metadata":{"labels":{"environment":"staging"}}}`); !refused(err) {
			return fmt.Errorf("not refused: %v", err)
		}
		return nil
	})
	wantRefused(t, label("mallory", `{"metadata":{"labels":{"environment":null}}}`), "environment", "mallory needs the verb override")
	for _, labels := range []string{`{"e2e":"x","environment":"staging"}`, `{"e2e":"x","environment":""}`} {
		for name, way := range waysOf(labels) {
			if err := way(); !refused(err) {
				t.Errorf("%s with %s: %v", name, labels, err)
			}
		}
	}
	if got := labelsNow()["environment"]; got != "production" {
		t.Errorf("the label is %q", got)
	}
	t.Run("new namespaces", func(t *testing.T) {
		for name, c := range map[string]struct {
			meta    metav1.ObjectMeta
			refused bool
		}{
			"a label":                      {metav1.ObjectMeta{Name: "guard-a", Labels: map[string]string{"environment": "staging"}}, true},
			"a label and a generated name": {metav1.ObjectMeta{GenerateName: "guard-", Labels: map[string]string{"environment": "staging", "kubernetes.io/metadata.name": "kube-system"}}, true},
			"an excluded name":             {metav1.ObjectMeta{Name: "guard-excluded"}, true},
			// The API server has generated the name when it asks, so that it is judged as it is.
			"a generated name": {metav1.ObjectMeta{GenerateName: "guard-exc"}, false},
			"no such label":    {metav1.ObjectMeta{Name: "guard-b", Labels: map[string]string{"team": "blue"}}, false},
		} {
			_, err := mallory.Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: c.meta}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			if c.refused != refused(err) || !c.refused && err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		err := mallory.RESTClient().Patch(types.ApplyPatchType).AbsPath("/api/v1/namespaces/guard-c").Param("fieldManager", "mallory").
			Body([]byte(`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"guard-c","labels":{"environment":"staging"}}}`)).Do(t.Context()).Error()
		wantRefused(t, err, "to make a namespace with them")
		// Who may override makes them.
		_, err = client(t, shared.As("olivia")).CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "guard-d", Labels: map[string]string{"environment": "staging"}}}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			t.Error(err)
		}
	})
	if err := label("mallory", `{"metadata":{"labels":{"team":"blue"}}}`); err != nil {
		t.Errorf("another label: %v", err)
	}
	cluster.Eventually(t, func() error { return label("olivia", `{"metadata":{"labels":{"environment":"staging"}}}`) })
	cluster.Eventually(t, func() error { return dryRun(t, pod("p", at("bad:1")), namespace) })
	if err := label("olivia", `{"metadata":{"labels":{"environment":"production"}}}`); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, func() error {
		if err := dryRun(t, pod("p", at("bad:1")), namespace); !refused(err) {
			return fmt.Errorf("the label has no effect: %v", err)
		}
		return nil
	})
}

// A webhook that cannot learn the labels of namespaces refuses what depends on them, and says so.
func TestNamespaceLabelsNotKnown(t *testing.T) {
	h := newHook(t)
	h.policies(seed)
	h.scans(scans())
	h.args = []string{"--policies", h.dir + "/policies", "--scans", h.dir + "/scans.json", "--kubeconfig", shared.KubeconfigFor(t, shared.As("nobody"))}
	h.run()
	register(t, h, "unknown")
	namespace := shared.Namespace(t, map[string]string{"e2e": "unknown", "environment": "production"})
	cluster.Eventually(t, func() error {
		if err := dryRun(t, pod("p", at("good:1")), namespace); !refused(err) || !strings.Contains(err.Error(), "labels of namespace "+namespace+" are not known") {
			return fmt.Errorf("not refused for that: %v", err)
		}
		return nil
	})
	wantRefused(t, dryRun(t, pod("p", at("good:1")), namespace), "are not known")
}
