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
	Kinds        map[string]Kind `json:"kinds"`
	AllowNoWorse bool            `json:"allow_no_worse"`
	// Children is as in api.AdmissionSettingsSpec.
	Children string `json:"children"`
	// NamespaceKeys are the labels of namespaces that policies look at; policies.AllLabels is any.
	NamespaceKeys []string `json:"namespace_keys"`
	// TemplateLabels is as in api.AdmissionSettingsSpec.
	TemplateLabels bool `json:"template_labels"`
	// Evidence are the ways that count; none means all.
	Evidence []string `json:"evidence"`
}

// Kind is a custom one.
type Kind struct {
	api.Places
	// Path is that of its pod template, where there is one and nothing else. Bundles of earlier
	// releases have nothing but it, and earlier releases read nothing but it.
	Path        []string `json:"path"`
	Controllers []string `json:"controllers"`
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
	if err := decode(querySettings, value, s); err != nil {
		return nil, err
	}
	for id, k := range s.Kinds {
		if k.Path != nil && k.Templates == nil {
			k.Templates = []api.Path{{k.Path}}
			s.Kinds[id] = k
		}
	}
	return s, nil
}
