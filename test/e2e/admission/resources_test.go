package admission_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/assay-dev/assay/test/e2e/cluster"
)

var policyResource = schema.GroupVersionResource{Group: "containersecurity.tigera.io", Version: "v1beta1", Resource: "containeradmissionpolicies"}

// define makes Assay's kinds known to the API server.
func define(t *testing.T) {
	t.Helper()
	files, err := filepath.Glob("../../../deploy/crds/*.yaml")
	optional, err2 := filepath.Glob("../../../deploy/crds/optional/*.yaml")
	if err != nil || err2 != nil || len(files) < 5 || len(optional) != 3 {
		t.Fatal(err, err2, files, optional)
	}
	for _, name := range append(files, optional...) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		shared.Apply(t, string(text))
	}
}

type policyStatus struct {
	ObservedGeneration int64
	Compiled           bool
	Errors             []struct{ Path, Message string }
	Decisions          []struct {
		Replica           string
		Allowed, Rejected int64
	}
}

func statusOf(t *testing.T, name string) (s policyStatus) {
	t.Helper()
	o, err := shared.Dynamic.Resource(policyResource).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(o.Object["status"])
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Policies, exceptions and thresholds may be the cluster's own resources.
func TestClusterPolicies(t *testing.T) {
	define(t)
	shared.Apply(t, seed)
	h := newHook(t)
	h.scans(scans())
	h.args = []string{"--cluster-policies", "--scans", h.dir + "/scans.json", "--decision-log", h.dir + "/decisions.jsonl", "--kubeconfig", shared.Kubeconfig}
	h.run()
	h.ready()
	register(t, h, "resources")
	namespace := shared.Namespace(t, map[string]string{"e2e": "resources", "environment": "production"})
	inForce(t, namespace)
	cluster.Eventually(t, func() error {
		if s := statusOf(t, "seed"); !s.Compiled || s.ObservedGeneration != 1 {
			return fmt.Errorf("status: %+v", s)
		}
		return nil
	})

	// One that does not compile keeps its last good version in force, and says what is wrong.
	shared.Apply(t, strings.Replace(seed, `^registry\.example\.com/prod/`, `(unclosed`, 1))
	cluster.Eventually(t, func() error {
		s := statusOf(t, "seed")
		if s.Compiled || s.ObservedGeneration != 2 || len(s.Errors) != 1 || s.Errors[0].Path != "spec.rules[0].imagePath.values[0]" || !strings.Contains(s.Errors[0].Message, "missing closing )") {
			return fmt.Errorf("status: %+v", s)
		}
		return nil
	})
	if err := dryRun(t, pod("p", at("good:1")), namespace); err != nil {
		t.Errorf("the last good version is not in force: %v", err)
	}
	wantRefused(t, dryRun(t, pod("p", at("bad:1")), namespace))
	shared.Apply(t, seed)

	shared.Apply(t, exception("one", "CVE-2026-0001", "scope: any")+exception("two", "CVE-2026-0002", "scope: any"))
	cluster.Eventually(t, func() error { return dryRun(t, pod("p", at("bad:1")), namespace) })
	shared.Apply(t, "apiVersion: assay.dev/v1alpha1\nkind: Thresholds\nmetadata: {name: default}\nspec: {warn: 1.0, fail: 2.5}\n")
	cluster.Eventually(t, func() error {
		if err := dryRun(t, pod("p", at("bad:1")), namespace); !refused(err) || !strings.Contains(err.Error(), "CVE-2026-0003 (3: ") {
			return fmt.Errorf("the thresholds are not in force: %v", err)
		}
		return nil
	})

	// A second webhook refuses what does not compile at the door, with all that is wrong.
	registerValidation(t, h, "resources-kinds")
	bad := strings.NewReplacer("seed", "bad", `^registry\.example\.com/prod/`, `[`, "environment == 'production'", "environment =").Replace(seed)
	cluster.Eventually(t, func() error {
		if err := shared.ApplyAs(t.Context(), shared.Config, bad); err == nil || !strings.Contains(err.Error(), "admission webhook") {
			return fmt.Errorf("not refused: %v", err)
		}
		return nil
	})
	err := shared.ApplyAs(t.Context(), shared.Config, bad)
	for _, want := range []string{"ContainerAdmissionPolicy bad does not compile", "spec.namespaceSelector", "spec.rules[0].imagePath.values[0]", "missing closing ]"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	mustCreate(t, namespace, pod("counted", at("good:1")))
	shared.Apply(t, strings.Replace(seed, "metadata: {name: seed}", "metadata: {name: seed, annotations: {a: b}}", 1)) // a round of statuses
	cluster.Eventually(t, func() error {
		if s := statusOf(t, "seed"); len(s.Decisions) != 1 || s.Decisions[0].Allowed == 0 {
			return fmt.Errorf("status: %+v", s)
		}
		return nil
	})
}

// The definitions take what a policies folder takes, and refuse what they can.
func TestDefinitions(t *testing.T) {
	define(t)
	err := filepath.WalkDir("../../../examples", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".yaml") || filepath.Base(filepath.Dir(path)) != "policies" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := shared.ApplyAs(t.Context(), shared.Config, string(text)); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	const policy = "apiVersion: containersecurity.tigera.io/v1beta1\nkind: ContainerAdmissionPolicy\nmetadata: {name: d}\nspec: "
	const assay = "apiVersion: assay.dev/v1alpha1\nkind: "
	for text, want := range map[string]string{
		policy + `{rules: [{action: Allow, imageLastScan: {operator: gt, time: "2026-01-31T0:00:00Z"}}]}`:                      "",
		policy + `{order: 1.5, selector: "has(a) && b in {'c'}", rules: [{action: Reject}]}`:                                   "",
		policy + `{rules: [{action: Allow, imageLastScan: {operator: gt, time: "x", duration: {days: 1}}}]}`:                   "needs exactly one of duration and time",
		policy + `{rules: [{action: Allow, imageLastScan: {operator: gt}}]}`:                                                   "needs exactly one of duration and time",
		policy + `{rules: [{action: Allow, imagePath: {operator: IsOneOf, values: []}}]}`:                                      "should have at least 1 items",
		policy + `{rules: [{action: Deny}]}`:                                                                                   "Unsupported value",
		policy + `{rules: [{action: Allow, imageScanStatus: {operator: IsOneOf, values: [Bad]}}]}`:                             "Unsupported value",
		assay + "Thresholds\nmetadata: {name: default}\nspec: {warn: 9, fail: 8}":                                              "must not be over fail",
		assay + "Thresholds\nmetadata: {name: default}\nspec: {warn: 9.5, fail: 9.4}":                                          "must not be over fail",
		assay + "Thresholds\nmetadata: {name: other}\nspec: {warn: 1}":                                                         "named default",
		assay + "AdmissionSettings\nmetadata: {name: other}\nspec: {}":                                                         "named default",
		assay + "VulnerabilityException\nmetadata: {name: e}\nspec: {cve: CVE-1, scope: any, justification: x}":                "",
		assay + "VulnerabilityException\nmetadata: {name: e}\nspec: {cve: CVE-1, scope: repo, justification: x}":               "need a repository",
		assay + "VulnerabilityException\nmetadata: {name: e}\nspec: {cve: CVE-1, scope: any, repository: r, justification: x}": "takes no registry and no repository",
		assay + "VulnerabilityException\nmetadata: {name: e}\nspec: {cve: CVE-1, scope: any}":                                  "justification",
	} {
		err := shared.ApplyAs(t.Context(), shared.Config, text)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
