package policies_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/assay-dev/assay/policies"
)

// faults are the diagnostics of one file, which must be some.
func faults(t *testing.T, text string) policies.Diagnostics {
	t.Helper()
	_, err := policies.Parse("p.yaml", []byte(text))
	var diags policies.Diagnostics
	if !errors.As(err, &diags) || len(diags) == 0 {
		t.Fatalf("%.60q…: %v", text, err)
	}
	return diags
}

const head = "apiVersion: containersecurity.tigera.io/v1beta1\nkind: ContainerAdmissionPolicy\nmetadata: {name: x}\n"

// Hostile text ends quickly, with a diagnosis.
func TestHostileFiles(t *testing.T) {
	bomb := "a: &a [x, x, x, x, x, x, x, x, x]\n"
	for c := 'b'; c <= 'i'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c, ", c-1), 9), ", "))
	}
	for name, text := range map[string]string{
		"alias bomb":        head + "status:\n  " + strings.ReplaceAll(strings.TrimSpace(bomb), "\n", "\n  "),
		"cyclic alias":      head + "status: &a {b: *a}",
		"cyclic merge":      head + "spec: &a\n  <<: *a\n  selector: all()",
		"deep nesting":      head + "status: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000),
		"large file":        head + "# " + strings.Repeat("x", policies.MaxFile),
		"many rules":        head + "spec: {rules: [" + strings.Repeat("{action: Allow},", 1001) + "]}",
		"long selector":     head + "spec: {selector: \"" + strings.Repeat("(", 70_000) + "\"}",
		"nested selector":   head + "spec: {selector: \"" + strings.Repeat("(", 30_000) + "\"}",
		"unclosed selector": head + "spec: {selector: \"a == 'b\"}",
		"costly pattern":    head + "spec: {rules: [{action: Allow, imagePath: {operator: IsOneOf, values: [\"((((a{1000}){1000}){1000}){1000})\"]}}]}",
		"backreference":     head + `spec: {rules: [{action: Allow, imagePath: {operator: IsOneOf, values: ['(a)\1']}}]}`,
		"long pattern":      head + "spec: {rules: [{action: Allow, imagePath: {operator: IsOneOf, values: [" + strings.Repeat("a", 10_001) + "]}}]}",
		"binary":            "\x00\x01\xff\xfe",
		"tabs":              "\tkind: x",
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			diags := faults(t, text)
			if d := time.Since(start); d > 20*time.Second {
				t.Errorf("took %v", d)
			}
			if msg := diags.Error(); len(msg) > 20_000 {
				t.Errorf("the message has %d bytes", len(msg))
			}
		})
	}
}

// Names are unique per kind over the folder; hidden folders and other files are left out.
func TestFolder(t *testing.T) {
	set, err := policies.Load(fstest.MapFS{
		"a/p.yaml":           {Data: []byte(head)},
		"..data/p.yaml":      {Data: []byte(head)},
		".git/config.yaml":   {Data: []byte("{")},
		"README.md":          {Data: []byte("# no policy")},
		"x/labels.rego":      {Data: []byte("package assay.custom.labels\n\nreject contains \"x\" if false\n")},
		"x/labels_test.rego": {Data: []byte("package assay.custom.labels_test\n")},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Policies) != 1 || len(set.Custom) != 1 || len(set.Tests) != 1 {
		t.Errorf("%d policies, %d modules, %d tests", len(set.Policies), len(set.Custom), len(set.Tests))
	}
	_, err = policies.Load(fstest.MapFS{"a.yaml": {Data: []byte(head)}, "b.yaml": {Data: []byte(head)}})
	if err == nil || !strings.Contains(err.Error(), "b.yaml:3:18: metadata.name: there is another ContainerAdmissionPolicy named x at a.yaml:3") {
		t.Error(err)
	}
}

// What kubectl prints is accepted: all of ObjectMeta, status, lists.
func TestKubectlOutput(t *testing.T) {
	set, err := policies.Parse("list.yaml", []byte(`
apiVersion: v1
kind: List
metadata: {resourceVersion: ""}
items:
- apiVersion: containersecurity.tigera.io/v1beta1
  kind: ContainerAdmissionPolicy
  metadata:
    name: x
    uid: 705ab4f5-6393-11e8-b7cc-42010a800002
    generation: 3
    creationTimestamp: "2024-01-01T00:00:00Z"
    resourceVersion: "12"
    labels: {a: b}
    annotations: {kubectl.kubernetes.io/last-applied-configuration: "{}"}
    managedFields: [{manager: kubectl, operation: Update}]
    finalizers: [a]
    ownerReferences: []
  spec: {order: 1.5, rules: []}
  status: {anything: [1, true, null]}
`))
	if err != nil || len(set.Policies) != 1 || *set.Policies[0].Spec.Order != 1.5 {
		t.Fatal(err)
	}
}

// A set that is too large to compile is refused before it is compiled.
func TestTooManyRules(t *testing.T) {
	var text strings.Builder
	for i := range policies.MaxRules/1000 + 1 {
		fmt.Fprintf(&text, "---\n%sspec: {rules: [%s]}\n", strings.Replace(head, "name: x", fmt.Sprintf("name: p%d", i), 1), strings.TrimSuffix(strings.Repeat("{action: Allow},", 1000), ","))
	}
	f := faults(t, text.String())
	if len(f) != 1 || !strings.Contains(f[0].Message, "more than 20000 rules together") || f[0].Line == 0 {
		t.Error(f)
	}
}
