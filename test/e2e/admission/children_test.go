package admission_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/test/e2e/cluster"
)

// children is the seed with AdmissionSettings that say what is judged of what controllers make.
func children(mode string) string {
	return seed + fmt.Sprintf("---\napiVersion: assay.dev/v1alpha1\nkind: AdmissionSettings\nmetadata: {name: default}\nspec: {children: %s}\n", mode)
}

// inject has a mutating webhook add a container with an image to each Pod that is made in namespaces with a label.
func inject(t *testing.T, label, image string) {
	t.Helper()
	certificate := cluster.NewCertificate(t, "127.0.0.1")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		text, err := io.ReadAll(r.Body)
		if err == nil {
			err = json.Unmarshal(text, &review)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		patch := admissionv1.PatchTypeJSONPatch
		review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true, PatchType: &patch,
			Patch: fmt.Appendf(nil, `[{"op":"add","path":"/spec/containers/-","value":{"name":"injected","image":%q}}]`, image)}
		review.Request = nil
		_ = json.NewEncoder(w).Encode(review)
	})}
	go func() { _ = server.ServeTLS(listener, certificate.CertFile, certificate.KeyFile) }()
	t.Cleanup(func() { _ = server.Close() })
	url, fail, none := "https://"+listener.Addr().String(), admissionregistrationv1.Fail, admissionregistrationv1.SideEffectClassNone
	configurations := shared.Client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	if _, err := configurations.Create(t.Context(), &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: label}, Webhooks: []admissionregistrationv1.MutatingWebhook{{
		Name: "inject.example.com", AdmissionReviewVersions: []string{"v1"}, FailurePolicy: &fail, SideEffects: &none,
		ClientConfig:      admissionregistrationv1.WebhookClientConfig{URL: &url, CABundle: certificate.CA},
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"inject": label}},
		Rules: []admissionregistrationv1.RuleWithOperations{{
			Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
			Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
		}},
	}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := configurations.Delete(context.Background(), label, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
}

// images are those of the Pods in a namespace that stay, sorted as they come.
func podImages(t *testing.T, namespace string) map[string][]string {
	t.Helper()
	list, err := shared.Client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{}
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil {
			for _, c := range p.Spec.Containers {
				out[p.Name] = append(out[p.Name], c.Image)
			}
		}
	}
	return out
}

func eventuallyImages(t *testing.T, namespace string, pods int, images ...string) {
	t.Helper()
	cluster.Eventually(t, func() error {
		got := podImages(t, namespace)
		if len(got) != pods {
			return fmt.Errorf("%d Pods, want %d: %v", len(got), pods, got)
		}
		for name, list := range got {
			if strings.Join(list, " ") != strings.Join(images, " ") {
				return fmt.Errorf("%s has %v, want %v", name, list, images)
			}
		}
		return nil
	})
}

// childRefused finds a record of a controller's Pod that was refused for an image, and tells which containers it judged.
func childRefused(h *hook, namespace, user, image string) (containers []string, err error) {
	for line := range strings.Lines(h.decisions()) {
		var r api.Record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			return nil, err
		}
		if r.Input.Namespace != namespace || r.Input.User != "system:serviceaccount:kube-system:"+user || r.Decision.Allowed || r.Input.Kind != "Pod" {
			continue
		}
		containers = nil
		found := false
		for _, i := range r.Decision.Images {
			containers = append(containers, i.Container+"="+i.Image)
			found = found || i.Image == image && i.Action == api.Reject
		}
		if found {
			return containers, nil
		}
	}
	return nil, fmt.Errorf("no Pod of %s was refused for %s", user, image)
}

// refusedChild waits for what childRefused finds.
func refusedChild(t *testing.T, h *hook, namespace, user, image string) (containers []string) {
	t.Helper()
	cluster.Eventually(t, func() (err error) {
		containers, err = childRefused(h, namespace, user, image)
		return err
	})
	return containers
}

func replicas(manifest string, n int) string {
	return strings.Replace(manifest, `"replicas":0`, fmt.Sprintf(`"replicas":%d`, n), 1)
}

// A sidecar that a mutating webhook injects is judged where settings ask for it, and it alone.
func TestChildrenInjectedSidecar(t *testing.T) {
	h, judged := production(t, children("trusted"), scans())
	label := strings.ToLower(t.Name())
	inject(t, label, at("bad:1"))
	namespace := shared.Namespace(t, map[string]string{"e2e": label, "environment": "production", "inject": label})
	shared.Apply(t, replicas(object("Deployment", namespace, "web", at("good:1")), 1))
	eventuallyImages(t, namespace, 1, at("good:1"), at("bad:1")) // trusted: what it costs

	h.policies(children("sameImages"))
	inStep(t, h, judged)
	if err := shared.Client.CoreV1().Pods(namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := refusedChild(t, h, namespace, "replicaset-controller", at("bad:1")); strings.Join(got, " ") != "injected="+at("bad:1") {
		t.Errorf("judged: %q", got)
	}
	if got := podImages(t, namespace); len(got) != 0 {
		t.Errorf("Pods: %v", got)
	}
}

// What the owner names comes up after it turned Fail where settings trust the owner, and not where all is judged.
func TestChildrenOfAdmittedOwners(t *testing.T) {
	list := scans()
	h, _ := production(t, children("sameImages"), list)
	label := strings.ToLower(t.Name())
	namespace := shared.Namespace(t, map[string]string{"e2e": label, "environment": "production"})
	shared.Apply(t, replicas(object("Deployment", namespace, "web", at("good:1")), 1))
	eventuallyImages(t, namespace, 1, at("good:1"))
	shared.Apply(t, strings.Replace(object("Job", namespace, "once", at("good:1")), `"suspend":true`, `"suspend":false`, 1))
	eventuallyImages(t, namespace, 2, at("good:1"))

	h.scans(append([]api.Scan{scan(at("good:1"), digest("a"), 9.9)}, list[1:]...))
	cluster.Eventually(t, func() error {
		if err := dryRun(t, pod("probe", at("good:1")), namespace); !refused(err) {
			return fmt.Errorf("the new scan is not in force: %v", err)
		}
		return nil
	})
	deleteAll := func() {
		t.Helper()
		if err := shared.Client.CoreV1().Pods(namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	before := podImages(t, namespace)
	deleteAll()
	cluster.Eventually(t, func() error {
		again := 0
		for name := range podImages(t, namespace) {
			if before[name] == nil {
				again++
			}
		}
		if again != 2 {
			return fmt.Errorf("%d Pods came up again, want 2", again)
		}
		return nil
	})
	h.policies(children("judged"))
	inStep(t, h, namespace)
	deleteAll()
	refusedChild(t, h, namespace, "replicaset-controller", at("good:1"))
	refusedChild(t, h, namespace, "job-controller", at("good:1"))
}

// A ControllerRevision decides which images a StatefulSet's Pods of the old revision get. One that never was its
// template is caught where settings ask for the same images; so is one that was, once it turned Fail.
func TestChildrenOfRevisions(t *testing.T) {
	h, judged := production(t, children("sameImages"), scans())
	label := strings.ToLower(t.Name())
	namespace := shared.Namespace(t, map[string]string{"e2e": label, "environment": "production"})

	// A revision is forged by deleting it and making it anew, and a controller that looks between the two forgets the
	// old revision and goes on with the new one. Then there is nothing to catch, and another StatefulSet is tried.
	for i := range 10 {
		if name := fmt.Sprintf("web-%d", i); forgedRevision(t, h, namespace, name) {
			was := podUID(t, namespace, name+"-0")
			h.policies(children("trusted")) // what it costs
			inStep(t, h, judged)
			comesUpAgain(t, namespace, name+"-0", was, at("bad:1"))
			return
		}
	}
	t.Fatal("the controller looked between the deletion and the creation of each of 10 revisions")
}

// forgedRevision has a StatefulSet whose one Pod stays at the old revision, sees that Pod judged as it is made again,
// and then has the revision name another image. It tells whether the controller took the forged revision for the old
// one, and ends the test where it did and its Pod was not refused.
func forgedRevision(t *testing.T, h *hook, namespace, name string) bool {
	t.Helper()
	manifest := strings.Replace(replicas(object("StatefulSet", namespace, name, at("good:1")), 1), `"serviceName":"x"`, `"serviceName":"x","updateStrategy":{"type":"RollingUpdate","rollingUpdate":{"partition":1}}`, 1)
	manifest = strings.ReplaceAll(manifest, `"app":"x"`, fmt.Sprintf(`"app":%q`, name))
	shared.Apply(t, manifest)
	comesUpAgain(t, namespace, name+"-0", "", at("good:1"))
	shared.Apply(t, strings.Replace(manifest, at("good:1"), at("warn:1"), 1)) // its Pod stays at the old revision
	var set *appsv1.StatefulSet
	cluster.Eventually(t, func() (err error) {
		if set, err = shared.Client.AppsV1().StatefulSets(namespace).Get(t.Context(), name, metav1.GetOptions{}); err == nil && (set.Status.UpdateRevision == "" || set.Status.UpdateRevision == set.Status.CurrentRevision) {
			err = fmt.Errorf("the rollout has not begun: %+v", set.Status)
		}
		return err
	})
	remove := func() {
		t.Helper()
		if err := shared.Client.CoreV1().Pods(namespace).Delete(t.Context(), name+"-0", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}

	// A Pod of the old revision is judged, and comes up while its image passes.
	was := podUID(t, namespace, name+"-0")
	remove()
	comesUpAgain(t, namespace, name+"-0", was, at("good:1"))

	// The forged one has the name that the StatefulSet's status has.
	revisions := shared.Client.AppsV1().ControllerRevisions(namespace)
	revision, err := revisions.Get(t.Context(), set.Status.CurrentRevision, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	forged := &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: revision.Name, Namespace: namespace, Labels: revision.Labels, OwnerReferences: revision.OwnerReferences}, Revision: revision.Revision}
	forged.Data.Raw = []byte(strings.ReplaceAll(string(revision.Data.Raw), at("good:1"), at("bad:1")))
	if err := revisions.Delete(t.Context(), revision.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := revisions.Create(t.Context(), forged, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	remove()
	taken := false
	cluster.Eventually(t, func() error {
		if images := podImages(t, namespace)[name+"-0"]; len(images) == 1 && images[0] == at("warn:1") {
			return nil
		} else if len(images) != 0 {
			t.Fatalf("a Pod of the forged revision has come up with %v", images)
		}
		_, err := childRefused(h, namespace, "statefulset-controller", at("bad:1"))
		taken = err == nil
		return err
	})
	return taken
}

// podUID is that of a Pod that stays, and nothing where there is none.
func podUID(t *testing.T, namespace, name string) (uid types.UID) {
	t.Helper()
	if p, err := shared.Client.CoreV1().Pods(namespace).Get(t.Context(), name, metav1.GetOptions{}); err == nil && p.DeletionTimestamp == nil {
		uid = p.UID
	}
	return uid
}

// comesUpAgain waits for a Pod that is another one than it was, with one image.
func comesUpAgain(t *testing.T, namespace, name string, was types.UID, image string) {
	t.Helper()
	cluster.Eventually(t, func() error {
		if uid := podUID(t, namespace, name); uid == "" || uid == was {
			return fmt.Errorf("%s has not come up again", name)
		}
		if got := podImages(t, namespace)[name]; len(got) != 1 || got[0] != image {
			return fmt.Errorf("%s has %v, want %s", name, got, image)
		}
		return nil
	})
}

// An owner that the webhook may not read is never trusted.
func TestChildrenOfUnreadableOwners(t *testing.T) {
	shared.Apply(t, `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: no-owners}
rules:
- {apiGroups: [""], resources: [namespaces], verbs: [get, list, watch]}
- {apiGroups: [authorization.k8s.io], resources: [subjectaccessreviews], verbs: [create]}
- {apiGroups: [authentication.k8s.io], resources: [tokenreviews], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: no-owners}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: no-owners}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: no-owners}]
`)
	list := scans()
	h := newHook(t)
	h.policies(children("sameImages"))
	h.scans(list)
	h.args = []string{"--policies", h.dir + "/policies", "--scans", h.dir + "/scans.json", "--decision-log", h.dir + "/decisions.jsonl", "--kubeconfig", shared.KubeconfigFor(t, shared.As("no-owners"))}
	h.run()
	h.ready()
	label := strings.ToLower(t.Name())
	register(t, h, label)
	namespace := shared.Namespace(t, map[string]string{"e2e": label, "environment": "production"})
	inForce(t, namespace)
	shared.Apply(t, replicas(object("ReplicaSet", namespace, "web", at("good:1")), 1))
	eventuallyImages(t, namespace, 1, at("good:1")) // judged, and it passes
	h.scans(append([]api.Scan{scan(at("good:1"), digest("a"), 9.9)}, list[1:]...))
	cluster.Eventually(t, func() error {
		if err := dryRun(t, pod("probe", at("good:1")), namespace); !refused(err) {
			return fmt.Errorf("the new scan is not in force: %v", err)
		}
		return nil
	})
	var names []string
	for name := range podImages(t, namespace) {
		names = append(names, name)
	}
	if err := shared.Client.CoreV1().Pods(namespace).Delete(t.Context(), names[0], metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	refusedChild(t, h, namespace, "replicaset-controller", at("good:1"))
	if !strings.Contains(h.logged(), "reading an owner; all images of its child are judged") {
		t.Error("nobody is told")
	}
	var events *corev1.EventList
	cluster.Eventually(t, func() (err error) {
		events, err = shared.Client.CoreV1().Events(namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "reason=FailedCreate"})
		if err == nil && len(events.Items) == 0 {
			err = fmt.Errorf("the ReplicaSet has no Event")
		}
		return err
	})
}
