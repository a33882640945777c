package deploy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/policies"
	"golang.org/x/tools/txtar"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	objectvalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apiextensions-apiserver/pkg/registry/customresource/tableconvertor"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	yamlstream "k8s.io/apimachinery/pkg/util/yaml"
	apiservercel "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

const root = "../.."

// definition is a CustomResourceDefinition, and what an API server makes of it.
type definition struct {
	apiextensionsv1.CustomResourceDefinition
	structural *schema.Structural
	fields     objectvalidation.SchemaValidator
	rules      *cel.Validator
}

func (d definition) version() apiextensionsv1.CustomResourceDefinitionVersion {
	return d.Spec.Versions[0]
}

// definitions are those of deploy/crds by kind. Each must be one that an API server takes.
func definitions(t *testing.T) map[string]definition {
	t.Helper()
	files, err := filepath.Glob(root + "/deploy/crds/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	optional, err := filepath.Glob(root + "/deploy/crds/optional/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]definition{}
	for _, file := range append(files, optional...) {
		d := readDefinition(t, file)
		if file := filepath.Base(file); file != d.Name+".yaml" {
			t.Errorf("%s holds %s", file, d.Name)
		}
		all[d.Spec.Names.Kind] = d
	}
	return all
}

func readDefinition(t *testing.T, file string) definition {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var d definition
	if err := yaml.UnmarshalStrict(text, &d.CustomResourceDefinition); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	scheme := runtime.NewScheme()
	install.Install(scheme)
	scheme.Default(&d.CustomResourceDefinition)
	var internal apiextensions.CustomResourceDefinition
	if err := scheme.Convert(&d.CustomResourceDefinition, &internal, nil); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	internal.Status.StoredVersions = []string{d.version().Name}
	for _, fault := range validation.ValidateCustomResourceDefinition(t.Context(), &internal) {
		t.Errorf("%s: %v", file, fault)
	}
	props := internal.Spec.Validation
	if props == nil {
		props = internal.Spec.Versions[0].Schema
	}
	if d.structural, err = schema.NewStructural(props.OpenAPIV3Schema); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	if d.fields, _, err = objectvalidation.NewSchemaValidator(props.OpenAPIV3Schema); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	d.rules = cel.NewValidator(d.structural, true, apiservercel.PerCallLimit)
	return d
}

// faults are those for which an API server refuses to create an object, unknown fields
// among them, as kubectl has it by default. It does with the object what an API server does.
func (d definition) faults(t *testing.T, object map[string]any) (list []string) {
	delete(object, "status") // it is a subresource
	unknown := pruning.PruneWithOptions(object, d.structural, true, schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	for _, path := range unknown {
		list = append(list, "unknown field "+path)
	}
	defaulting.PruneNonNullableNullsWithoutDefaults(object, d.structural)
	faults := objectvalidation.ValidateCustomResource(nil, object, d.fields)
	faults = append(faults, listtype.ValidateListSetsAndMaps(nil, d.structural, object)...)
	if len(faults) == 0 { // rules are for what has the right types
		found, _ := d.rules.Validate(t.Context(), nil, d.structural, object, nil, apiservercel.RuntimeCELCostBudget)
		faults = append(faults, found...)
	}
	for _, fault := range faults {
		list = append(list, fault.Error())
	}
	return list
}

var types = map[string]any{
	api.KindContainerAdmissionPolicy: api.ContainerAdmissionPolicy{},
	api.KindVulnerabilityException:   api.VulnerabilityException{},
	api.KindThresholds:               api.Thresholds{},
	api.KindAdmissionSettings:        api.AdmissionSettings{},
	api.KindVerdictAlert:             api.VerdictAlert{},
	api.KindGlobalAlert:              api.GlobalAlert{},
	api.KindGlobalAlertTemplate:      api.GlobalAlertTemplate{},
	kindImageAssurance:               imageAssurance{},
}

const kindImageAssurance = "ImageAssurance"

// imageAssurance has the fields that package node reads of an object that may have others.
type imageAssurance struct {
	Spec struct {
		ClusterScanner            string `json:"clusterScanner"`
		CRISocketPath             string `json:"criSocketPath"`
		ContainerdVolumeMountPath string `json:"containerdVolumeMountPath"`
		Exclusions                struct {
			Namespaces []string `json:"namespaces"`
		} `json:"exclusions"`
	}
}

func TestDefinitionsAreTheTypes(t *testing.T) {
	all := definitions(t)
	for kind, of := range types {
		d, ok := all[kind]
		if !ok {
			t.Errorf("there is no definition of %s", kind)
			continue
		}
		if d.Spec.Scope != apiextensionsv1.ClusterScoped || len(d.Spec.Versions) != 1 || d.version().Subresources.Status == nil {
			t.Errorf("%s: must be cluster-scoped, of one version, with a status", kind)
		}
		if group := d.Spec.Group + "/" + d.version().Name; !slices.Contains([]string{api.GroupPolicy, api.GroupAssay, api.GroupAlert, "image-assurance.operator.tigera.io/v1"}, group) {
			t.Errorf("%s: %s is no group that is known here", kind, group)
		}
		properties := d.version().Schema.OpenAPIV3Schema.Properties
		spec, _ := reflect.TypeOf(of).FieldByName("Spec")
		fits(t, kind+".spec", properties["spec"], spec.Type)
		described(t, kind+".spec", properties["spec"])
		described(t, kind+".status", properties["status"])
	}
	for kind := range all {
		if types[kind] == nil {
			t.Errorf("%s is no kind that is known here", kind)
		}
	}
}

// fits holds a schema to a Go type: the same members, of the same types.
func fits(t *testing.T, path string, s apiextensionsv1.JSONSchemaProps, of reflect.Type) {
	t.Helper()
	for of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	want, ok := map[reflect.Kind]string{
		reflect.Struct: "object", reflect.Slice: "array", reflect.String: "string",
		reflect.Bool: "boolean", reflect.Int: "integer", reflect.Float64: "number",
	}[of.Kind()]
	if !ok || s.Type != want {
		t.Errorf("%s: the schema has %s, the type %s", path, s.Type, of)
		return
	}
	switch of.Kind() {
	case reflect.Slice:
		fits(t, path+"[]", *s.Items.Schema, of.Elem())
	case reflect.Struct:
		members := map[string]bool{}
		for i := range of.NumField() {
			name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
			members[name] = true
			member, ok := s.Properties[name]
			if !ok {
				t.Errorf("%s.%s is not in the schema", path, name)
				continue
			}
			fits(t, path+"."+name, member, of.Field(i).Type)
		}
		for name := range s.Properties {
			if !members[name] {
				t.Errorf("%s.%s is not in the type", path, name)
			}
		}
	}
}

// described: `kubectl explain` says something of each member.
func described(t *testing.T, path string, s apiextensionsv1.JSONSchemaProps) {
	t.Helper()
	if s.Description == "" {
		t.Errorf("%s has no description", path)
	}
	if s.Items != nil {
		s = *s.Items.Schema
	}
	for name, member := range s.Properties {
		described(t, path+"."+name, member)
	}
}

// objects are those of a YAML text, lists opened.
func objects(t *testing.T, name string, text []byte) (list []map[string]any) {
	t.Helper()
	in := yamlstream.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for {
		doc, err := in.Read()
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var o map[string]any
		if doc, err = yaml.YAMLToJSONStrict(doc); err == nil {
			err = utiljson.Unmarshal(doc, &o)
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		items, ok := o["items"].([]any)
		switch {
		case ok:
			for _, item := range items {
				list = append(list, item.(map[string]any))
			}
		case o != nil:
			list = append(list, o)
		}
	}
}

func TestAllThatLoadsIsAccepted(t *testing.T) {
	all, accepted := definitions(t), map[string]int{}
	check := func(name string, text []byte) {
		for _, o := range objects(t, name, text) {
			kind, _ := o["kind"].(string)
			d, ok := all[kind]
			if !ok {
				t.Errorf("%s: there is no definition of %s", name, kind)
				continue
			}
			if faults := d.faults(t, o); len(faults) > 0 {
				t.Errorf("%s: %s is refused: %s", name, kind, strings.Join(faults, "; "))
			}
			accepted[kind]++
		}
	}
	err := filepath.WalkDir(root+"/examples", func(name string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(name) != ".yaml" {
			return err
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if _, err := policies.Parse(name, text); err == nil {
			check(name, text)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	archives, err := filepath.Glob(root + "/policies/testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range archives {
		archive, err := txtar.ParseFile(name)
		if err != nil {
			t.Fatal(err)
		}
		files := map[string][]byte{}
		for _, f := range archive.Files {
			if ext := filepath.Ext(f.Name); !strings.HasPrefix(f.Name, "want/") && (ext == ".yaml" || ext == ".rego") {
				files[f.Name] = f.Data
			}
		}
		if _, err := policies.ParseFiles(files); err != nil {
			continue
		}
		for file, text := range files {
			if strings.HasSuffix(file, ".yaml") {
				check(name+": "+file, text)
			}
		}
	}
	for _, kind := range []string{api.KindContainerAdmissionPolicy, api.KindThresholds, api.KindGlobalAlert, api.KindVulnerabilityException} {
		if accepted[kind] == 0 {
			t.Errorf("there was no %s", kind)
		}
	}
}

// Objects in which every member is set: those that follow are made of them.
const whole = `
apiVersion: containersecurity.tigera.io/v1beta1
kind: ContainerAdmissionPolicy
metadata: {name: whole, annotations: {assay.dev/enforcement: Audit}}
spec:
  order: 1.5
  selector: app == 'web'
  namespaceSelector: has(team)
  rules:
  - action: Allow
    imagePath: {operator: IsOneOf, values: ["^registry.example.com/"]}
    imageScanStatus: {operator: IsNoneOf, values: [Fail, Unknown]}
    imageLastScan: {operator: gt, duration: {days: 3, months: 1, years: 1}}
  - action: Reject
    imageLastScan: {operator: lt, time: "2026-01-01T0:00:00Z"}
---
apiVersion: assay.dev/v1alpha1
kind: VulnerabilityException
metadata: {name: whole}
spec:
  cve: CVE-2021-44228
  scope: image
  registry: quay.io/tigera
  repository: node
  tags: [v3.1]
  digest: sha256:0000000000000000000000000000000000000000000000000000000000000000
  justification: not reachable
  author: ada@example.com
  created: "2026-01-01"
  expires: "2027-01-01T00:00:00+01:00"
  until: {fixable: true, kev: true, cvssAbove: 9.5, epssAbove: 0.5}
  packages: ["pkg:npm/lodash"]
---
apiVersion: assay.dev/v1alpha1
kind: Thresholds
metadata: {name: default}
spec: {warn: 6.5, fail: 8, scoreBySeverity: true, failOnKEV: true, failOnEPSS: 0.5, onlyFixable: true, unplaced: Ignore, grace: {days: 7, from: FixAvailable}}
---
apiVersion: assay.dev/v1alpha1
kind: AdmissionSettings
metadata: {name: default}
spec:
  defaultAction: Reject
  controllers: ["system:serviceaccount:kube-system:job-controller"]
  customKinds:
  - {apiGroup: argoproj.io, kind: Rollout, podTemplatePath: spec.template, controllers: ["system:serviceaccount:argo:rollouts"]}
  - {apiGroup: jobset.x-k8s.io, kind: JobSet}
  - {apiGroup: example.com, kind: Pair, podTemplatePaths: [spec.leader, "spec.workers[].template"], imagePaths: ["spec.steps[][].image"], referencePaths: [spec.ref]}
  templateLabels: true
  excludedNamespaces: [kube-system]
  platforms: [linux/arm/v7]
  allowNoWorse: true
---
apiVersion: assay.dev/v1alpha1
kind: VerdictAlert
metadata: {name: whole}
spec: {description: "${cve}", summary: "${digest}", severity: 90, period: 1m30s, results: [Warn], firstScan: true, query: "registry IN ${ours}", substitutions: [{name: ours, values: [quay.io]}]}
---
apiVersion: projectcalico.org/v3
kind: GlobalAlert
metadata: {name: whole}
spec: {type: RuleBased, description: "${pod}", summary: "${max}", severity: 1, period: 1h, lookback: .5h, dataSet: vulnerability, query: "tag = ${x}", aggregateBy: [pod], metric: max, field: epss, condition: gte, threshold: 0.5, substitutions: [{name: x, values: [a]}]}
---
apiVersion: projectcalico.org/v3
kind: GlobalAlertTemplate
metadata: {name: whole}
spec: {description: all, severity: 100, dataSet: vulnerability}
`

// replacements are put in the place of each member in turn.
var replacements = []any{
	nil, "", " ", "x", "default", "0", int64(0), int64(-1), int64(1), 0.5, int64(7), int64(11), int64(101), int64(36600), int64(36601), 1e300, true, false,
	[]any{}, []any{nil}, []any{""}, []any{"a"}, []any{"a", "a"}, []any{"Pass", "Fail"}, []any{int64(1)}, map[string]any{}, map[string]any{"x": "y"},
	"any", "repo", "image", "Fail", "Allow", "gt", "IsOneOf", "count", "eq", "Published", "RuleBased", "vulnerability", "linux/amd64", "a.b", "a..b", "Kind",
	"2026-01-01", "2026-01-01T00:00:00Z", "2026-01-01T0:00:00Z", "2026-01-01T00:00:00,123456789123Z", "2026-01-01T00:00:00.5-07:00", "2026-01-01t00:00:00z", "2026-1-1",
	"5m", "+1h2.5m", "1.s", "300ms", "2s5µs", "2s5μs", "1d", "0", "-5m", "pkg:npm/x", "npm/x", "(", "cve-1", "sha256:" + strings.Repeat("a", 64),
	strings.Repeat("é", 5000), strings.Repeat("é", 5001), strings.Repeat("x", 10001), repeated("a", 1000), repeated("a", 1001),
	map[string]any{"days": int64(1)}, map[string]any{"days": int64(0), "months": int64(1200)}, map[string]any{"years": int64(100)}, map[string]any{"years": int64(101)},
}

func repeated(s string, n int) (list []any) {
	for range n {
		list = append(list, s)
	}
	return list
}

// A definition refuses nothing that a policies folder may hold, whatever is changed: its
// users' files work unchanged. One name is the exception, since it says that there is one.
func TestDefinitionsAreNotStricterThanFiles(t *testing.T) {
	all, refused, kept := definitions(t), 0, 0
	for _, good := range objects(t, "whole", []byte(whole)) {
		kind := good["kind"].(string)
		if faults := all[kind].faults(t, runtime.DeepCopyJSON(good)); len(faults) > 0 {
			t.Fatalf("%s: %s", kind, strings.Join(faults, "; "))
		}
		variants(good["spec"], func(path string) {
			o := runtime.DeepCopyJSON(good)
			text, err := yaml.Marshal(o)
			if err != nil {
				t.Fatal(err)
			}
			_, loading := policies.Parse("x.yaml", text)
			faults := all[kind].faults(t, o)
			switch {
			case loading == nil && len(faults) > 0:
				t.Errorf("%s: spec%s: the definition refuses what a file may hold: %s\n%.600s", kind, path, strings.Join(faults, "; "), text)
			case loading != nil && len(faults) > 0:
				refused++
			case loading != nil:
				kept++
			}
		})
	}
	t.Logf("of the faulty objects, the definitions refuse %d; for %d it takes the webhook", refused, kept)
	if refused < 5*kept {
		t.Errorf("the definitions refuse only %d faulty objects, and accept %d", refused, kept)
	}
}

// variants calls do with each member below x replaced or removed in turn.
func variants(x any, do func(path string)) {
	each := func(path string, child any, set func(any), remove func()) {
		variants(child, func(below string) { do(path + below) })
		for _, r := range replacements {
			set(runtime.DeepCopyJSONValue(r))
			do(path)
		}
		remove()
		do(path)
		set(child)
	}
	switch x := x.(type) {
	case map[string]any:
		for name, child := range x {
			each("."+name, child, func(v any) { x[name] = v }, func() { delete(x, name) })
		}
	case []any:
		for i, child := range x {
			each(fmt.Sprintf("[%d]", i), child, func(v any) { x[i] = v }, func() { x[i] = map[string]any{} })
		}
	}
}

func TestFaultyObjectsAreRefused(t *testing.T) {
	all := definitions(t)
	for _, c := range []struct{ kind, name, spec, want string }{
		{"ContainerAdmissionPolicy", "x", `{ordr: 1}`, "unknown field spec.ordr"},
		{"ContainerAdmissionPolicy", "x", `{order: first}`, "spec.order"},
		{"ContainerAdmissionPolicy", "x", `{rules: [{}]}`, "spec.rules[0].action: Required"},
		{"ContainerAdmissionPolicy", "x", `{rules: [{action: Deny}]}`, `supported values: "Allow", "Reject"`},
		{"ContainerAdmissionPolicy", "x", `{rules: [{action: Allow, imagePath: {operator: IsOneOf, values: []}}]}`, "should have at least 1 items"},
		{"ContainerAdmissionPolicy", "x", `{rules: [{action: Allow, imagePath: {operator: IsOneOf}}]}`, "values: Required"},
		{"ContainerAdmissionPolicy", "x", `{rules: [{action: Allow, imageScanStatus: {operator: IsOneOf, values: [Passed]}}]}`, "Passed"},
		{"ContainerAdmissionPolicy", "x", `{rules: [{action: Allow, imageLastScan: {operator: gt}}]}`, "needs exactly one of duration and time"},
		{"ContainerAdmissionPolicy", "x", `{rules: [{action: Allow, imageLastScan: {operator: gt, duration: {days: 1}, time: "2026-01-01T00:00:00Z"}}]}`, "needs exactly one of duration and time"},
		{"ContainerAdmissionPolicy", "x", `{rules: [{action: Allow, imageLastScan: {operator: gt, time: yesterday}}]}`, "imageLastScan.time"},
		{"ContainerAdmissionPolicy", "x", `{rules: [{action: Allow, imageLastScan: {operator: gt, duration: {days: -1}}}]}`, "duration.days"},
		{"ContainerAdmissionPolicy", "x", `{rules: [{action: Allow, imageLastScan: {operator: gt, duration: {months: 1200}}}]}`, "at most 100 years"},
		{"VulnerabilityException", "x", `{cve: CVE-1, scope: any}`, "justification: Required"},
		{"VulnerabilityException", "x", `{cve: CVE-1, scope: any, justification: " "}`, "justification"},
		{"VulnerabilityException", "x", `{cve: CVE-1, scope: all, justification: x}`, `supported values: "any", "repo", "image"`},
		{"VulnerabilityException", "x", `{cve: CVE-1, scope: any, repository: node, justification: x}`, "scope any takes no registry and no repository"},
		{"VulnerabilityException", "x", `{cve: CVE-1, scope: repo, justification: x}`, "scopes repo and image need a repository"},
		{"VulnerabilityException", "x", `{cve: CVE-1, scope: repo, repository: node, tags: [a], justification: x}`, "the other scopes take neither"},
		{"VulnerabilityException", "x", `{cve: CVE-1, scope: image, repository: node, justification: x}`, "scope image needs tags or a digest"},
		{"VulnerabilityException", "x", `{cve: CVE-1, scope: any, justification: x, expires: never}`, "spec.expires"},
		{"Thresholds", "default", `{warn: 9, fail: 8}`, "warn must not be over fail"},
		{"Thresholds", "default", `{fail: 10.1}`, "less than or equal to 10"},
		{"Thresholds", "default", `{unplaced: Pass}`, "spec.unplaced"},
		{"Thresholds", "other", `{}`, "must be named default"},
		{"AdmissionSettings", "other", `{}`, "must be named default"},
		{"AdmissionSettings", "default", `{platforms: [linux]}`, "spec.platforms[0]"},
		{"AdmissionSettings", "default", `{customKinds: [{apiGroup: argoproj.io}]}`, "kind: Required"},
		{"AdmissionSettings", "default", `{customKinds: [{kind: Fleet, podTemplatePaths: ["spec[0].template"]}]}`, "podTemplatePaths[0]"},
		{"AdmissionSettings", "default", `{customKinds: [{kind: Fleet, referencePaths: ["spec.refs[]"]}]}`, "referencePaths[0]"},
		{"VerdictAlert", "x", `{description: x, severity: 0}`, "spec.severity"},
		{"VerdictAlert", "x", `{description: x, severity: 1, results: [Pass]}`, "spec.results[0]"},
		{"GlobalAlert", "x", `{description: x, severity: 1, dataSet: flows}`, `"vulnerability"`},
		{"GlobalAlert", "x", `{description: x, severity: 1, dataSet: vulnerability, metric: count}`, "a metric and a condition need each other"},
		{"GlobalAlert", "x", `{description: x, severity: 1, dataSet: vulnerability, threshold: 1}`, "a threshold needs a metric"},
		{"GlobalAlert", "x", `{description: x, severity: 1, dataSet: vulnerability, metric: max, condition: gt, field: cve}`, "needs the field max_cvss_score or epss"},
		{"GlobalAlert", "x", `{description: x, severity: 1, dataSet: vulnerability, aggregateBy: [pod, pod]}`, "Duplicate"},
		{"GlobalAlert", "x", `{description: x, severity: 1, dataSet: vulnerability, period: soon}`, "spec.period"},
		{"ImageAssurance", "default", `{clusterScanner: enabled}`, `supported values: "Enabled", "Disabled"`},
		{"ImageAssurance", "default", `{exclusions: {namespaces: kube-system}}`, "spec.exclusions.namespaces"},
	} {
		d := all[c.kind]
		o := objects(t, c.kind, fmt.Appendf(nil, "apiVersion: %s/%s\nkind: %s\nmetadata: {name: %s}\nspec: %s\n", d.Spec.Group, d.version().Name, c.kind, c.name, c.spec))[0]
		if got := strings.Join(d.faults(t, o), "; "); !strings.Contains(got, c.want) {
			t.Errorf("%s %s: %q does not say %q", c.kind, c.spec, got, c.want)
		}
	}
}

// Calico's objects are taken as they are, and keep what means nothing here.
func TestImageAssuranceKeepsWhatIsCalicos(t *testing.T) {
	d := definitions(t)[kindImageAssurance]
	o := objects(t, "calico", []byte(`
apiVersion: image-assurance.operator.tigera.io/v1
kind: ImageAssurance
metadata: {name: default}
spec:
  clusterScanner: Enabled
  criSocketPath: /run/k3s/containerd/containerd.sock
  containerdVolumeMountPath: /var/lib/containerd
  exclusions: {namespaces: [kube-system], images: [a]}
  apiProxyURL: https://calico.example.com
  imageAssuranceCRAdaptor: {replicas: 1}
`))[0]
	want := runtime.DeepCopyJSON(o)
	if faults := d.faults(t, o); len(faults) > 0 {
		t.Errorf("it is refused: %s", strings.Join(faults, "; "))
	}
	if !reflect.DeepEqual(o, want) {
		t.Errorf("of %v, %v is kept", want, o)
	}
}

func TestStatusAndColumns(t *testing.T) {
	all := definitions(t)
	for _, c := range []struct{ kind, text, want string }{
		{"ContainerAdmissionPolicy", `{metadata: {name: p, annotations: {assay.dev/enforcement: Warn}}, spec: {order: 1.5}, status: {observedGeneration: 1, compiled: false,
			errors: [{path: spec.selector, line: 3, column: 1, message: bad}], decisions: [{replica: a, at: "2026-01-01T00:00:00Z", allowed: 1, rejected: 2, warned: 3, audited: 4}]}}`, "p 1.5 Warn false"},
		{"VulnerabilityException", `{metadata: {name: e}, spec: {cve: CVE-1, scope: repo, repository: node, justification: x, expires: "2027-01-01"}, status: {compiled: true}}`, "e CVE-1 repo node 2027-01-01 true"},
		{"Thresholds", `{metadata: {name: default}, spec: {warn: 6.5}}`, "default 6.5 <nil> <nil>"},
		{"AdmissionSettings", `{metadata: {name: default}, spec: {defaultAction: Reject}}`, "default Reject <nil>"},
		{"VerdictAlert", `{metadata: {name: v}, spec: {description: x, severity: 9}}`, "v 9 <nil>"},
		{"ImageAssurance", `{metadata: {name: default}, spec: {clusterScanner: Enabled}, status: {conditions: [{type: Ready}]}}`, "default Enabled"},
	} {
		d := all[c.kind]
		o := objects(t, c.kind, []byte(c.text))[0]
		o["apiVersion"], o["kind"] = d.Spec.Group+"/"+d.version().Name, c.kind
		if faults := objectvalidation.ValidateCustomResource(nil, o, d.fields); len(faults) > 0 {
			t.Errorf("%s: %v", c.kind, faults)
		}
		columns, err := tableconvertor.New(d.version().AdditionalPrinterColumns)
		if err != nil {
			t.Fatal(err)
		}
		table, err := columns.ConvertToTable(t.Context(), &unstructured.Unstructured{Object: o}, &metav1.TableOptions{})
		if err != nil {
			t.Fatal(err)
		}
		cells := table.Rows[0].Cells
		age := table.ColumnDefinitions[len(cells)-1].Name
		if got := strings.TrimSuffix(fmt.Sprintln(cells[:len(cells)-1]...), "\n"); got != c.want || age != "Age" {
			t.Errorf("%s: %q, then %s; want %q", c.kind, got, age, c.want)
		}
	}
}
