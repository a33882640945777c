package cluster

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/assay-dev/assay/api"
)

type property struct {
	Type       string              `json:"type"`
	Properties map[string]property `json:"properties"`
	Items      *property           `json:"items"`
}

// The definitions of the kinds have exactly the members of the types.
func TestDefinitionsFitTypes(t *testing.T) {
	for name, of := range map[string]any{
		"containeradmissionpolicies.containersecurity.tigera.io": api.ContainerAdmissionPolicy{},
		"vulnerabilityexceptions.assay.dev":                      api.VulnerabilityException{},
		"thresholds.assay.dev":                                   api.Thresholds{},
		"admissionsettings.assay.dev":                            api.AdmissionSettings{},
		"verdictalerts.assay.dev":                                api.VerdictAlert{},
		"optional/globalalerts.projectcalico.org":                api.GlobalAlert{},
		"optional/globalalerttemplates.projectcalico.org":        api.GlobalAlertTemplate{},
	} {
		text, err := os.ReadFile(filepath.Join("../../../deploy/crds", name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		var crd struct {
			Metadata struct{ Name string }
			Spec     struct {
				Group    string
				Names    struct{ Kind, Plural string }
				Scope    string
				Versions []struct {
					Name   string
					Schema struct{ OpenAPIV3Schema property }
				}
			}
		}
		if err := yaml.Unmarshal(text, &crd); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if crd.Metadata.Name != filepath.Base(name) || crd.Spec.Scope != "Cluster" || len(crd.Spec.Versions) != 1 || crd.Spec.Names.Kind != reflect.TypeOf(of).Name() {
			t.Errorf("%s: %+v", name, crd.Spec.Names)
		}
		if g := crd.Spec.Group; g != "projectcalico.org" && crd.Spec.Names.Plural != "globalalerttemplates" && !KindOf(g, crd.Spec.Names.Plural) {
			t.Errorf("%s is not followed", name)
		}
		spec := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
		field, _ := reflect.TypeOf(of).FieldByName("Spec")
		fits(t, name+": spec", spec, field.Type)
	}
}

func fits(t *testing.T, path string, s property, of reflect.Type) {
	t.Helper()
	if of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	want := map[reflect.Kind]string{
		reflect.Struct: "object", reflect.Slice: "array", reflect.String: "string", reflect.Bool: "boolean",
		reflect.Int: "integer", reflect.Float64: "number",
	}[of.Kind()]
	if s.Type != want {
		t.Errorf("%s is %q in the definition, and %q in Go", path, s.Type, want)
		return
	}
	switch of.Kind() {
	case reflect.Slice:
		if s.Items == nil {
			t.Errorf("%s has no items", path)
			return
		}
		fits(t, path+"[]", *s.Items, of.Elem())
	case reflect.Struct:
		var names []string
		for i := range of.NumField() {
			f := of.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			names = append(names, name)
			p, ok := s.Properties[name]
			if !ok {
				t.Errorf("%s.%s is not in the definition", path, name)
				continue
			}
			fits(t, path+"."+name, p, f.Type)
		}
		for name := range s.Properties {
			if !slices.Contains(names, name) {
				t.Errorf("%s.%s is not in Go", path, name)
			}
		}
	}
}
