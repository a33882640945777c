package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
	"github.com/open-policy-agent/opa/v1/ast"
)

// Admit decides on one review at a moment. Whatever goes wrong, the decision
// that it returns refuses, and the error says why.
func (e *Engine) Admit(ctx context.Context, r api.Review, now time.Time) (api.Decision, error) {
	value, err := e.evaluate(ctx, queryDecision, reviewInput(r, now))
	var d api.Decision
	if err == nil {
		d, err = decisionOf(value)
	}
	if err != nil {
		return api.Decision{
			Kind: r.Kind, Namespace: r.Namespace, Name: r.Name, Images: []api.ImageDecision{},
			Message: fmt.Sprintf("%s %s: refused: %v", r.Kind, r.Name, err),
		}, err
	}
	return d, nil
}

// Classification is what the engine says of one image.
type Classification struct {
	Result    api.Result `json:"result"`
	Digest    string     `json:"digest,omitempty"`
	MaxCVSS   *float64   `json:"max_cvss,omitempty"`
	ScannedAt string     `json:"scanned_at,omitempty"`
	// Database is when the vulnerability database of the scan was built.
	Database string `json:"database,omitempty"`
}

// Classify classifies an image by its reference, and by a digest where that is
// known; "" takes the digest that the reference means.
func (e *Engine) Classify(ctx context.Context, image, digest string, now time.Time) (Classification, error) {
	var c Classification
	err := e.query(ctx, queryClassify, classifyInput(image, digest, now), &c)
	if err != nil {
		c = Classification{Result: api.Unknown}
	}
	return c, err
}

// ExplainClassification adds the exceptions that apply, and those that do not any more.
func (e *Engine) ExplainClassification(ctx context.Context, image, digest string, now time.Time) (json.RawMessage, error) {
	var raw json.RawMessage
	err := e.query(ctx, queryClassifyX, classifyInput(image, digest, now), &raw)
	return raw, err
}

// Alerts are the alerts that fire over events at a moment.
func (e *Engine) Alerts(ctx context.Context, events []api.Event, now time.Time) ([]api.Alert, error) {
	type timed struct {
		api.Event
		At string `json:"at"`
	}
	list := make([]timed, len(events))
	for i, event := range events {
		at, err := time.Parse(time.RFC3339, event.Time)
		if err != nil {
			return nil, fmt.Errorf("event %d: time must be RFC 3339, not %.60q", i+1, event.Time)
		}
		list[i] = timed{event, documents.Time(at)}
	}
	input, err := ast.InterfaceToValue(map[string]any{"now": documents.Time(now), "timed": true, "events": list})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEvaluation, err)
	}
	alerts := []api.Alert{}
	return alerts, e.query(ctx, queryAlerts, input, &alerts)
}

func (e *Engine) query(ctx context.Context, query string, input ast.Value, out any) error {
	value, err := e.evaluate(ctx, query, input)
	if err != nil {
		return err
	}
	return decode(query, value, out)
}

// decode reads a value into what its JSON is decoded into.
func decode(query string, value ast.Value, out any) error {
	plain, err := ast.JSON(value)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrEvaluation, err)
	}
	text, err := json.Marshal(plain)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrEvaluation, err)
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("%w: %s has an unexpected shape: %w", ErrEvaluation, query, err)
	}
	return nil
}

// classifyInput is the input of a classification; a reference that does not parse
// stays as it is, and Rego says what that means.
func classifyInput(image, digest string, now time.Time) ast.Value {
	o := ast.NewObject(pair("now", str(documents.Time(now))))
	c := api.NewContainer("", image)
	if c.Name == "" {
		o.Insert(ast.InternedTerm("image"), str(image))
	}
	if digest != "" {
		c.Digest = digest
	}
	for _, optional := range [][2]string{{"name", c.Name}, {"tag", c.Tag}, {"digest", c.Digest}} {
		if optional[1] != "" {
			o.Insert(ast.InternedTerm(optional[0]), str(optional[1]))
		}
	}
	return o
}

func pair(key string, value *ast.Term) [2]*ast.Term {
	return [2]*ast.Term{ast.InternedTerm(key), value}
}

func str(s string) *ast.Term { return ast.StringTerm(s) }

func strs(list []string) *ast.Term {
	terms := make([]*ast.Term, len(list))
	for i, s := range list {
		terms[i] = ast.StringTerm(s)
	}
	return ast.ArrayTerm(terms...)
}

func labels(m map[string]string) *ast.Term {
	pairs := make([][2]*ast.Term, 0, len(m))
	for k, v := range m {
		pairs = append(pairs, pair(k, str(v)))
	}
	return ast.ObjectTerm(pairs...)
}

// reviewInput builds the input as OPA's own values: for a large object that is
// many times faster than a conversion through maps.
func reviewInput(r api.Review, now time.Time) ast.Value {
	null := ast.InternedNullTerm
	namespaceLabels, templateLabels, owner, ownerImages, override := null, null, null, null, null
	if r.TemplateLabels != nil {
		each := make([]*ast.Term, len(r.TemplateLabels))
		for i, l := range r.TemplateLabels {
			each[i] = labels(l)
		}
		templateLabels = ast.ArrayTerm(each...)
	}
	if r.NamespaceLabels != nil {
		namespaceLabels = labels(r.NamespaceLabels)
	}
	if r.Owner != nil {
		owner = ast.ObjectTerm(pair("group", str(r.Owner.Group)), pair("kind", str(r.Owner.Kind)))
	}
	if r.OwnerImages != nil {
		ownerImages = strs(r.OwnerImages)
	}
	if o := r.Override; o != nil {
		override = ast.ObjectTerm(pair("reason", str(o.Reason)), pair("until", str(o.Until)), pair("granted", ast.InternedTerm(o.Granted)))
	}
	return ast.NewObject(
		pair("schema", ast.InternedTerm(api.SchemaReview)),
		pair("now", str(documents.Time(now))),
		pair("operation", str(r.Operation)),
		pair("group", str(r.Group)),
		pair("kind", str(r.Kind)),
		pair("subresource", str(r.Subresource)),
		pair("namespace", str(r.Namespace)),
		pair("name", str(r.Name)),
		pair("labels", labels(r.Labels)),
		pair("templateLabels", templateLabels),
		pair("namespaceLabels", namespaceLabels),
		pair("user", str(r.User)),
		pair("owner", owner),
		pair("ownerImages", ownerImages),
		pair("hasOld", ast.InternedTerm(r.HasOld)),
		pair("oldDeleting", ast.InternedTerm(r.OldDeleting)),
		pair("templateChanged", ast.InternedTerm(r.TemplateChanged)),
		pair("containers", containers(r.Containers)),
		pair("oldImages", strs(r.OldImages)),
		pair("oldContainers", containers(r.OldContainers)),
		pair("override", override),
		pair("malformed", strs(r.Malformed)),
	)
}

func containers(list []api.Container) *ast.Term {
	terms := make([]*ast.Term, len(list))
	for i, c := range list {
		pairs := [][2]*ast.Term{pair("container", str(c.Container)), pair("image", str(c.Image)), pair("normal", str(c.Normal))}
		for _, optional := range [][2]string{{"name", c.Name}, {"tag", c.Tag}, {"digest", c.Digest}} {
			if optional[1] != "" {
				pairs = append(pairs, pair(optional[0], str(optional[1])))
			}
		}
		terms[i] = ast.ObjectTerm(pairs...)
	}
	return ast.ArrayTerm(terms...)
}
