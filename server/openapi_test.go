package server

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"path"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3gen"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/server/auth"
)

var update = flag.Bool("update", false, "write openapi.json anew")

var pathParameter = regexp.MustCompile(`\{([a-z]+)\}`)

// schemaName is the name of a type in the document, such as api.Scan and server.Items-store.Claim.
func schemaName(t reflect.Type) string {
	name, of, _ := strings.Cut(strings.TrimSuffix(t.Name(), "]"), "[")
	name = path.Base(t.PkgPath()) + "." + name
	if of != "" {
		name += "-" + path.Base(of)
	}
	return name
}

// describe makes the OpenAPI document of the routes.
func describe(t *testing.T, routes []route) *openapi3.T {
	t.Helper()
	schemas := openapi3.Schemas{}
	generator := openapi3gen.NewGenerator(
		openapi3gen.UseAllExportedFields(),
		openapi3gen.CreateComponentSchemas(openapi3gen.ExportComponentSchemasOptions{ExportComponentSchemas: true, ExportTopLevelSchema: true, ExportGenerics: true}),
		openapi3gen.CreateTypeNameGenerator(schemaName),
		openapi3gen.SchemaCustomizer(func(_ string, kind reflect.Type, _ reflect.StructTag, schema *openapi3.Schema) error {
			if kind == reflect.TypeFor[json.RawMessage]() { // any JSON
				*schema = openapi3.Schema{}
			}
			if kind.Kind() == reflect.Slice || kind.Kind() == reflect.Map {
				schema.Nullable = true
			}
			if kind.Kind() == reflect.Struct && len(schema.Properties) > 0 {
				schema.Required = required(kind)
				for _, f := range reflect.VisibleFields(kind) { // what a reference cannot say by itself
					name := f.Tag.Get("json")
					if p := schema.Properties[name]; f.Type.Kind() == reflect.Pointer && p != nil && p.Ref != "" {
						schema.Properties[name] = (&openapi3.Schema{Nullable: true, AllOf: openapi3.SchemaRefs{p}}).NewRef()
					}
				}
				if kind == reflect.TypeFor[api.VulnerabilityException]() { // the rest may be left out in a body
					schema.Required = []string{"spec"}
				}
			}
			return nil
		}))
	schema := func(v any) *openapi3.SchemaRef {
		if _, ok := v.(map[string]any); ok {
			return openapi3.NewObjectSchema().NewRef()
		}
		ref, err := generator.NewSchemaRefForValue(v, schemas)
		if err != nil {
			t.Fatal(err)
		}
		return ref
	}
	problem := openapi3.NewResponse().WithDescription("what is wrong").WithContent(openapi3.NewContentWithSchemaRef(schema(Problem{}), []string{"application/problem+json"}))
	doc := &openapi3.T{
		OpenAPI: "3.0.3",
		Info:    &openapi3.Info{Title: "Assay", Version: "v1", Description: "Scan results, exceptions and decisions. Errors are problem details (RFC 9457)."},
		Paths:   openapi3.NewPaths(),
		Components: &openapi3.Components{
			Schemas:         schemas,
			Responses:       openapi3.ResponseBodies{"Problem": &openapi3.ResponseRef{Value: problem}},
			SecuritySchemes: openapi3.SecuritySchemes{"token": &openapi3.SecuritySchemeRef{Value: openapi3.NewSecurityScheme().WithType("http").WithScheme("bearer")}},
		},
	}
	for _, r := range routes {
		method, address, _ := strings.Cut(r.pattern, " ")
		op := openapi3.NewOperation()
		op.Summary = r.summary
		op.OperationID = strings.ToLower(method) + regexp.MustCompile(`[^a-z]+`).ReplaceAllString(strings.TrimPrefix(address, "/api/v1"), "-")
		op.OperationID = strings.Trim(op.OperationID, "-")
		var roles []string
		for _, role := range r.roles {
			roles = append(roles, string(role))
		}
		op.Description = "Role: " + strings.Join(roles, " or ") + map[auth.Scopes]string{open: ". Open to all scopes", held: ". Holds to scopes", everything: ". Refuses scopes"}[r.scopes]
		switch {
		case r.audit != "":
			op.Description += ". Not in the audit log: " + r.audit
		case r.writes():
			op.Description += ". In the audit log"
		}
		if r.roles[0] != auth.Public {
			op.Security = openapi3.NewSecurityRequirements().With(openapi3.NewSecurityRequirement().Authenticate("token"))
		}
		for _, m := range pathParameter.FindAllStringSubmatch(address, -1) {
			op.AddParameter(openapi3.NewPathParameter(m[1]).WithSchema(openapi3.NewStringSchema()))
		}
		for _, p := range r.query {
			op.AddParameter(openapi3.NewQueryParameter(p.name).WithRequired(p.takes.needed).WithDescription(p.description).WithSchema(p.takes.schema()))
		}
		if r.body != nil {
			body := openapi3.NewRequestBody().WithRequired(true)
			if r.media != "" {
				body = body.WithContent(openapi3.NewContentWithSchema(openapi3.NewStringSchema(), []string{r.media}))
			} else {
				body = body.WithContent(openapi3.NewContentWithJSONSchemaRef(schema(r.body)))
			}
			op.RequestBody = &openapi3.RequestBodyRef{Value: body}
		}
		status := r.status
		if status == 0 {
			status = http.StatusOK
		}
		good := openapi3.NewResponse().WithDescription(http.StatusText(status))
		switch r.gives.(type) {
		case nil:
		case text:
			good = good.WithContent(openapi3.NewContentWithSchema(openapi3.NewStringSchema(), []string{"text/csv", "text/event-stream"}))
		default:
			good = good.WithContent(openapi3.NewContentWithJSONSchemaRef(schema(r.gives)))
		}
		op.AddResponse(status, good)
		if r.body != nil && r.gives != nil {
			for _, other := range []int{http.StatusOK, http.StatusAccepted} {
				if other != status {
					op.AddResponse(other, good)
				}
			}
		}
		op.Responses.Set("default", &openapi3.ResponseRef{Ref: "#/components/responses/Problem", Value: problem})
		item := doc.Paths.Value(address)
		if item == nil {
			item = &openapi3.PathItem{}
			doc.Paths.Set(address, item)
		}
		item.SetOperation(method, op)
	}
	schemas[schemaName(reflect.TypeFor[api.Scope]())] = openapi3.NewStringSchema().WithFormat("scope").NewRef() // its text
	return doc
}

// schema says what a parameter takes.
func (v values) schema() *openapi3.Schema {
	s := &openapi3.Schema{Type: &openapi3.Types{v.kind}, Format: v.format}
	if v.most > 0 {
		s = s.WithMin(v.least).WithMax(v.most)
	}
	if v.list {
		word := "(" + strings.Join(v.words, "|") + ")"
		return s.WithPattern("^" + word + "(," + word + ")*$")
	}
	for _, w := range v.words {
		s.Enum = append(s.Enum, w)
	}
	return s
}

// The document is that of the routes, and a valid one.
func TestOpenAPI(t *testing.T) {
	s := New(Config{})
	want, err := json.MarshalIndent(describe(t, s.routes), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, '\n')
	if *update {
		if err := os.WriteFile("openapi.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
		openAPI = want
	}
	if !bytes.Equal(openAPI, want) {
		t.Error("openapi.json is not what the routes say: go test ./server -run TestOpenAPI -update")
	}
	doc, err := openapi3.NewLoader().LoadFromData(openAPI)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Error(err)
	}
	if n := len(doc.Paths.Map()); n < 35 {
		t.Error("only " + strconv.Itoa(n) + " paths")
	}
	if err := s.Routes().Match(patterns(s)); err != nil {
		t.Error(err)
	}
}

func patterns(s *Server) (list []string) {
	for _, r := range s.routes {
		list = append(list, r.pattern)
	}
	return list
}
