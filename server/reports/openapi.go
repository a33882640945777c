package reports

import (
	"reflect"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/util"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// definitions describe the types of the API, and those of the generic server's
// answers, by reflection: openapi-gen would write thousands of lines for the latter.
func definitions(ref common.ReferenceCallback) map[string]common.OpenAPIDefinition {
	d := describer{ref, map[string]common.OpenAPIDefinition{}}
	for _, v := range []any{
		List[ImageScan]{}, List[ImageScanSummary]{}, List[RunningImage]{},
		metav1.Status{}, metav1.APIGroup{}, metav1.APIGroupList{}, metav1.APIResourceList{}, version.Info{},
	} {
		d.schema(reflect.TypeOf(v))
	}
	return d.all
}

type describer struct {
	ref common.ReferenceCallback
	all map[string]common.OpenAPIDefinition
}

// schema is that of a type, by reference where the type has a name in descriptions.
func (d describer) schema(t reflect.Type) (s spec.Schema) {
	if t.Kind() == reflect.Pointer {
		return d.schema(t.Elem())
	}
	zero := reflect.Zero(t).Interface()
	if special, ok := zero.(interface {
		OpenAPISchemaType() []string
		OpenAPISchemaFormat() string
	}); ok {
		s.Type, s.Format = special.OpenAPISchemaType(), special.OpenAPISchemaFormat()
		return s
	}
	switch t.Kind() {
	case reflect.Struct:
		named, ok := zero.(util.OpenAPIModelNamer)
		if !ok {
			return d.object(t)
		}
		name := named.OpenAPIModelName()
		if _, ok := d.all[name]; !ok {
			d.all[name] = common.OpenAPIDefinition{} // types may be recursive
			d.all[name] = common.OpenAPIDefinition{Schema: d.object(t)}
		}
		s.Ref = d.ref(name)
	case reflect.Slice:
		items := d.schema(t.Elem())
		s.Type, s.Items = spec.StringOrArray{"array"}, &spec.SchemaOrArray{Schema: &items}
	case reflect.Map:
		values := d.schema(t.Elem())
		s.Type, s.AdditionalProperties = spec.StringOrArray{"object"}, &spec.SchemaOrBool{Allows: true, Schema: &values}
	default:
		kind, format := common.OpenAPITypeFormat(t.Kind().String())
		s.Type, s.Format = spec.StringOrArray{kind}, format
	}
	return s
}

// object is the schema of a struct, with the members of those that it embeds.
func (d describer) object(t reflect.Type) (s spec.Schema) {
	s.Type, s.Properties = spec.StringOrArray{"object"}, map[string]spec.Schema{}
	docs := map[string]string{}
	if documented, ok := reflect.Zero(t).Interface().(interface{ SwaggerDoc() map[string]string }); ok {
		docs = documented.SwaggerDoc()
	}
	s.Description = docs[""]
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-":
		case name == "" && f.Anonymous:
			inner := d.object(f.Type)
			for k, v := range inner.Properties {
				s.Properties[k] = v
			}
			s.Required = append(s.Required, inner.Required...)
		default:
			p := d.schema(f.Type)
			if p.Ref.String() == "" {
				p.Description = docs[name]
			} else {
				p = spec.Schema{SchemaProps: spec.SchemaProps{Description: docs[name], AllOf: []spec.Schema{p}}}
			}
			s.Properties[name] = p
			if !strings.Contains(options, "omit") && name != "metadata" {
				s.Required = append(s.Required, name)
			}
		}
	}
	return s
}
