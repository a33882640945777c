package engine

import (
	"context"
	"errors"

	"github.com/assay-dev/assay/api"
	"github.com/open-policy-agent/opa/v1/ast"
)

// Settings are those of the policies in force, with defaults filled in. They must not be changed.
type Settings struct {
	DefaultAction string   `json:"default_action"`
	Controllers   []string `json:"controllers"`
	Excluded      []string `json:"excluded"`
	Platforms     []string `json:"platforms"`
	// Kinds are the custom ones, by "group/Kind".
	Kinds map[string]struct {
		api.Places
		Controllers []string `json:"controllers"`
	} `json:"kinds"`
	AllowNoWorse bool `json:"allow_no_worse"`
	// Children is as in api.AdmissionSettingsSpec.
	Children string `json:"children"`
	// NamespaceKeys are the labels of namespaces that policies look at; policies.AllLabels is any.
	NamespaceKeys []string `json:"namespace_keys"`
	// TemplateLabels is as in api.AdmissionSettingsSpec.
	TemplateLabels bool `json:"template_labels"`
	// Evidence are the ways that count; none means all.
	Evidence []string `json:"evidence"`
}

// Settings gives nil before there are policies, and another pointer with each load
// of them: who flattened a review by the settings can tell whether the decision
// was made by the same.
func (e *Engine) Settings() *Settings {
	if l := e.current.Load(); l != nil && l.program != nil {
		return l.program.settings
	}
	return nil
}

func (p *program) readSettings(ctx context.Context) (*Settings, error) {
	value, ok, err := p.run(ctx, querySettings, snapshot{root: ast.NewObject()}, ast.NewObject(), nil)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errors.New("the bundle has no settings")
	}
	s := &Settings{}
	return s, decode(querySettings, value, s)
}
