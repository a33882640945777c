// Package engine is the embedded OPA: one evaluator for admission decisions,
// classification and alerts, over the bundle that any other OPA would load.
package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown/cache"
)

// Config configures an [Engine]; its zero value works.
type Config struct {
	// Deadline bounds one evaluation. Zero: DefaultDeadline. An evaluation that
	// exceeds it is an error, never a decision to allow.
	Deadline time.Duration
}

// DefaultDeadline of an evaluation.
const DefaultDeadline = 5 * time.Second

// Engine evaluates. It is safe for concurrent use: an evaluation sees one loaded
// bundle as a whole, and of each update all or nothing.
type Engine struct {
	deadline time.Duration
	write    sync.Mutex // held by Load and Update
	current  atomic.Pointer[loaded]
}

// loaded is one bundle, ready to evaluate.
type loaded struct {
	revision string
	store    storage.Store
	queries  map[string]rego.PreparedEvalQuery
}

// Entry points that an engine prepares.
const (
	queryDecision  = "data.assay.admission.decision"
	queryExplain   = "data.assay.admission.explain"
	queryClassify  = "data.assay.classification.result"
	queryClassifyX = "data.assay.classification.explain"
	queryAlerts    = "data.assay.alerts.firing"
)

var queries = []string{queryDecision, queryExplain, queryClassify, queryClassifyX, queryAlerts}

// Errors that callers branch on.
var (
	ErrNotLoaded = errors.New("no bundle is loaded yet")
	// ErrEvaluation wraps every failure to evaluate.
	ErrEvaluation = errors.New("the policies could not be evaluated")
)

// New makes an engine without a bundle: until Load it decides nothing, and
// Admit refuses.
func New(c Config) *Engine {
	e := &Engine{deadline: c.Deadline}
	if e.deadline == 0 {
		e.deadline = DefaultDeadline
	}
	return e
}

// patterns that one engine keeps compiled; OPA's own default of 100 is evicted
// at random, which costs a factor of 2 to 3.5 with more policies.
const cachedPatterns = 20_000

// Load compiles a bundle and puts it in the place of the one before, policies
// and data at once. When it fails, the one before stays.
func (e *Engine) Load(ctx context.Context, b *bundle.Bundle) error {
	e.write.Lock()
	defer e.write.Unlock()
	modules := make(map[string]*ast.Module, len(b.Modules))
	for _, m := range b.Modules {
		modules[m.Path] = m.Parsed
	}
	compiler := ast.NewCompiler().WithStrict(true).WithCapabilities(capabilities())
	if compiler.Compile(modules); compiler.Failed() {
		return fmt.Errorf("compiling the bundle: %w", compiler.Errors)
	}
	next := &loaded{
		revision: b.Manifest.Revision,
		store:    inmem.NewFromObjectWithOpts(b.Data, inmem.OptReturnASTValuesOnRead(true)),
		queries:  map[string]rego.PreparedEvalQuery{},
	}
	patterns := &cache.Config{}
	size := cachedPatterns
	patterns.InterQueryBuiltinValueCache.MaxNumEntries = &size
	values := cache.NewInterQueryValueCache(ctx, patterns)
	for _, q := range queries {
		prepared, err := rego.New(rego.Query(q), rego.Compiler(compiler), rego.Store(next.store),
			rego.InterQueryBuiltinValueCache(values)).PrepareForEval(ctx)
		if err != nil {
			return fmt.Errorf("preparing %s: %w", q, err)
		}
		next.queries[q] = prepared
	}
	e.current.Store(next)
	return nil
}

// capabilities are OPA's without network and environment. Policies are checked
// where they are written; a bundle may come from elsewhere.
func capabilities() *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion()
	c.Builtins = slices.DeleteFunc(c.Builtins, func(b *ast.Builtin) bool {
		return b.Name == "http.send" || b.Name == "opa.runtime" || strings.HasPrefix(b.Name, "net.")
	})
	c.AllowNet = []string{}
	return c
}

// Change replaces or, with a nil Value, removes one data document.
type Change struct {
	// Path is below data.assay, such as {"images", "ab", "sha256:ab…"}.
	Path  []string
	Value any
}

// Update applies changes in one transaction: a decision sees all of them or
// none. Values must not be changed afterwards. A document below data.assay that
// is missing on the way is made.
func (e *Engine) Update(ctx context.Context, changes ...Change) error {
	e.write.Lock()
	defer e.write.Unlock()
	l := e.current.Load()
	if l == nil {
		return ErrNotLoaded
	}
	return storage.Txn(ctx, l.store, storage.WriteParams, func(txn storage.Transaction) error {
		for _, c := range changes {
			path := append(storage.Path{"assay"}, c.Path...)
			if c.Value == nil {
				if err := l.store.Write(ctx, txn, storage.RemoveOp, path, nil); err != nil && !storage.IsNotFound(err) {
					return fmt.Errorf("removing %s: %w", path, err)
				}
				continue
			}
			if err := storage.MakeDir(ctx, l.store, txn, path[:len(path)-1]); err != nil {
				return fmt.Errorf("writing %s: %w", path, err)
			}
			if err := l.store.Write(ctx, txn, storage.AddOp, path, c.Value); err != nil {
				return fmt.Errorf("writing %s: %w", path, err)
			}
		}
		return nil
	})
}

// Revision is that of the bundle in force, "" before the first Load.
func (e *Engine) Revision() string {
	if l := e.current.Load(); l != nil {
		return l.revision
	}
	return ""
}

// evaluate runs one prepared query. A panic inside evaluation is an error too.
func (e *Engine) evaluate(ctx context.Context, query string, input ast.Value) (value any, err error) {
	l := e.current.Load()
	if l == nil {
		return nil, fmt.Errorf("%w: %w", ErrEvaluation, ErrNotLoaded)
	}
	defer func() {
		if r := recover(); r != nil {
			value, err = nil, fmt.Errorf("%w: panic: %v", ErrEvaluation, r)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, e.deadline)
	defer cancel()
	q := l.queries[query]
	results, err := q.Eval(ctx, rego.EvalParsedInput(input))
	// OPA notices the end of a context some time after it: what came too late
	// does not count, whether or not it came.
	if late := ctx.Err(); late != nil {
		return nil, fmt.Errorf("%w within %s: %w", ErrEvaluation, e.deadline, late)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEvaluation, err)
	}
	if len(results) != 1 || len(results[0].Expressions) != 1 {
		return nil, fmt.Errorf("%w: %s is undefined", ErrEvaluation, query)
	}
	return results[0].Expressions[0].Value, nil
}
