// Package engine is the embedded OPA: one evaluator for admission decisions,
// classification and alerts, over the bundle that any other OPA would load.
package engine

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
)

// Config configures an [Engine]; its zero value works.
type Config struct {
	// Deadline bounds one evaluation. Zero: DefaultDeadline. An evaluation that
	// exceeds it is an error, never a decision to allow.
	Deadline time.Duration
	// Memory bounds by how many bytes the heap may grow while a user's own Rego is
	// evaluated. Zero: DefaultMemory. An evaluation that exceeds it is an error.
	Memory uint64
}

// Defaults of [Config].
const (
	DefaultDeadline        = 5 * time.Second
	DefaultMemory   uint64 = 512 << 20
)

// Engine evaluates. It is safe for concurrent use: an evaluation sees the policies
// and data of one moment, and never waits for a writer.
type Engine struct {
	*core
	cluster string
}

type core struct {
	deadline time.Duration
	memory   uint64
	current  atomic.Pointer[loaded]

	write sync.Mutex // held by Load, Replace and Update
	terms *terms
}

// loaded is what evaluations see: it never changes.
type loaded struct {
	program *program
	data    snapshot
}

// Errors that callers branch on.
var (
	ErrNotLoaded = errors.New("no policies are loaded yet")
	// ErrEvaluation wraps every failure to evaluate.
	ErrEvaluation = errors.New("the policies could not be evaluated")
)

// New makes an engine without a bundle: until Load it decides nothing, and
// Admit refuses.
func New(c Config) *Engine {
	e := &Engine{core: &core{deadline: c.Deadline, memory: c.Memory}}
	if e.deadline == 0 {
		e.deadline = DefaultDeadline
	}
	if e.memory == 0 {
		e.memory = DefaultMemory
	}
	return e
}

// In is the same engine asked on behalf of a cluster: what only this one is told counts too. It
// is for data of several clusters; data that was made for one decides for that one, whatever is
// asked. An engine that was not made by In asks on behalf of none, and so reads what all share.
func (e *Engine) In(cluster string) *Engine { return &Engine{core: e.core, cluster: cluster} }

// Fork is an engine with what this one has loaded now; what is changed in one of the two does
// not reach the other. It costs nothing until something is changed, and is for questions that begin with "what if".
func (e *Engine) Fork() *Engine {
	f := New(Config{Deadline: e.deadline, Memory: e.memory})
	f.terms = newTerms()
	f.current.Store(e.current.Load())
	f.cluster = e.cluster
	return f
}

// Load puts bundles in the place of all that was there before, policies and data
// at once. Their roots must not overlap, and one of them has the modules. When it
// fails, what was there before stays.
func (e *Engine) Load(ctx context.Context, bundles ...*bundle.Bundle) error {
	e.write.Lock()
	defer e.write.Unlock()
	before := e.terms
	e.terms = newTerms()
	next, err := e.with(ctx, nil, each(bundles))
	if err == nil && next.program == nil {
		err = errors.New("no bundle has policies")
	}
	if err != nil {
		e.terms = before
		return err
	}
	e.current.Store(next)
	return nil
}

// Replace puts bundles in the place of what is loaded below their roots: new
// policies beside the same images, or some images beside the same policies.
// Evaluations see all of it or nothing. When it fails, what was there stays. Data may
// come before policies: until these are there, nothing is decided.
func (e *Engine) Replace(ctx context.Context, bundles ...*bundle.Bundle) error {
	return e.ReplaceEach(ctx, each(bundles))
}

// ReplaceEach is Replace of bundles that are made one after the other, so that no more than one
// need be in memory as it was decoded. An error among them is returned, and what was there stays.
func (e *Engine) ReplaceEach(ctx context.Context, bundles iter.Seq2[*bundle.Bundle, error]) error {
	e.write.Lock()
	defer e.write.Unlock()
	if e.terms == nil {
		e.terms = newTerms()
	}
	next, err := e.with(ctx, e.current.Load(), bundles)
	if err == nil {
		e.current.Store(next)
	}
	return err
}

func each(bundles []*bundle.Bundle) iter.Seq2[*bundle.Bundle, error] {
	return func(yield func(*bundle.Bundle, error) bool) {
		for _, b := range bundles {
			if !yield(b, nil) {
				return
			}
		}
	}
}

// with is what was loaded, with bundles in the place of what is below their roots.
func (e *Engine) with(ctx context.Context, old *loaded, bundles iter.Seq2[*bundle.Bundle, error]) (*loaded, error) {
	var next loaded
	root := ast.ObjectTerm()
	if old != nil {
		next.program, root = old.program, ast.NewTerm(old.data.root)
	}
	var modules []bundle.ModuleFile
	var changes edits
	for b, err := range bundles {
		if err != nil {
			return nil, err
		}
		modules = append(modules, b.Modules...)
		roots := []string{""}
		if b.Manifest.Roots != nil {
			roots = *b.Manifest.Roots
		}
		for _, r := range roots {
			path := strings.Split(strings.Trim(r, "/"), "/")
			if path[0] == "" {
				path = nil
			}
			changes.add(path, nil)
			document, ok := find(b.Data, path)
			if !ok {
				continue
			}
			value, err := e.terms.of(document)
			if err != nil {
				return nil, fmt.Errorf("loading %s: %w", r, err)
			}
			changes.add(path, value)
		}
	}
	if len(modules) > 0 {
		var err error
		if next.program, err = compile(ctx, modules); err != nil {
			return nil, err
		}
	}
	next.data.root = objectOf(changes.apply(root))
	return &next, nil
}

// find is the document at a path of plain JSON.
func find(document any, path []string) (any, bool) {
	for _, key := range path {
		object, ok := document.(map[string]any)
		if !ok {
			return nil, false
		}
		if document, ok = object[key]; !ok {
			return nil, false
		}
	}
	return document, true
}

func objectOf(t *ast.Term) ast.Object {
	if t != nil {
		if o, ok := t.Value.(ast.Object); ok {
			return o
		}
	}
	return ast.NewObject()
}

// Change replaces or, with a nil Value, removes one data document.
type Change struct {
	// Path is below data.assay, such as {"images", "ab", "sha256:ab…"}.
	Path []string
	// Value is plain JSON: what encoding/json decodes into an any, with numbers as json.Number.
	Value any
}

// Update applies changes in their order: an evaluation sees all of them or none.
// Values must not be changed afterwards. Documents that are missing on the way are
// made. It takes time in proportion to the changes and their siblings.
func (e *Engine) Update(_ context.Context, changes ...Change) error {
	e.write.Lock()
	defer e.write.Unlock()
	old := e.current.Load()
	if old == nil {
		return ErrNotLoaded
	}
	next, err := old.with(e.terms, changes)
	if err != nil {
		return err
	}
	e.current.Store(next)
	return nil
}

// with is what is loaded, with changes to its data.
func (l *loaded) with(terms *terms, changes []Change) (*loaded, error) {
	var all edits
	for _, c := range changes {
		path := append([]string{"assay"}, c.Path...)
		if c.Value == nil {
			all.add(path, nil)
			continue
		}
		value, err := terms.of(c.Value)
		if err != nil {
			return nil, fmt.Errorf("writing %s: %w", strings.Join(path, "/"), err)
		}
		all.add(path, value)
	}
	return &loaded{program: l.program, data: snapshot{root: objectOf(all.apply(ast.NewTerm(l.data.root)))}}, nil
}

// Revisions are those of the bundles in force, by name; empty before the first
// Load. They are the document data.assay.revisions, which every decision carries.
func (e *Engine) Revisions() map[string]string {
	revisions := map[string]string{}
	l := e.current.Load()
	if l == nil {
		return revisions
	}
	found, err := l.data.Read(context.Background(), reading{}, []string{"assay", "revisions"})
	if err != nil {
		return revisions
	}
	if o, ok := found.(ast.Object); ok {
		o.Foreach(func(k, v *ast.Term) { revisions[text(k)] = text(v) })
	}
	return revisions
}

func text(t *ast.Term) string {
	s, _ := t.Value.(ast.String)
	return string(s)
}
