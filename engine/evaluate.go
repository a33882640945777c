package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime/metrics"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/cache"

	"github.com/assay-dev/assay/policies/capabilities"
)

// program is a compiled set of modules; it never changes.
type program struct {
	compiler *ast.Compiler
	queries  map[string]query
	// patterns are compiled regular expressions, kept from one evaluation to the next.
	patterns cache.InterQueryValueCache
	// guarded says that a user's own Rego is among the modules, which may take any amount of memory.
	guarded  bool
	settings *Settings
}

type query struct {
	compiler ast.QueryCompiler
	body     ast.Body
}

// Entry points that an engine prepares. Its reviews are of the right shape, which
// data.assay.admission.decision asks of others before it goes on to the same.
const (
	queryDecision  = "data.assay.judge.decision"
	queryExplain   = "data.assay.admission.explain"
	queryClassify  = "data.assay.classification.result"
	queryClassifyX = "data.assay.classification.explain"
	queryBlocking  = "data.assay.classification.blocking"
	queryManifests = "data.assay.classification.manifests"
	queryAlerts    = "data.assay.alerts.firing"
	querySettings  = "data.assay.generated.settings"
)

var queries = []string{queryDecision, queryExplain, queryClassify, queryClassifyX, queryBlocking, queryManifests, queryAlerts, querySettings}

// patterns that one program keeps compiled; OPA's own default of 100 is evicted
// at random, which costs a factor of 2 to 3.5 with more policies.
const cachedPatterns = 20_000

func compile(ctx context.Context, modules []bundle.ModuleFile) (*program, error) {
	parsed, rules := make(map[string]*ast.Module, len(modules)), 0
	p := &program{queries: map[string]query{}}
	for _, m := range modules {
		parsed[m.Path] = m.Parsed
		rules += len(m.Parsed.Rules)
		p.guarded = p.guarded || strings.HasPrefix(m.Parsed.Package.Path.String(), "data.assay.custom")
	}
	if rules > maxRules {
		return nil, fmt.Errorf("the bundle has %d rules; at most %d are compiled", rules, maxRules)
	}
	p.compiler = ast.NewCompiler().WithStrict(true).WithCapabilities(capabilities.OfPrograms())
	if p.compiler.Compile(parsed); p.compiler.Failed() {
		return nil, fmt.Errorf("compiling the bundle: %w", p.compiler.Errors)
	}
	size := cachedPatterns
	config := &cache.Config{}
	config.InterQueryBuiltinValueCache.MaxNumEntries = &size
	p.patterns = cache.NewInterQueryValueCache(ctx, config)
	for _, q := range queries {
		qc := p.compiler.QueryCompiler()
		body, err := qc.Compile(ast.MustParseBody("result = " + q))
		if err != nil {
			return nil, fmt.Errorf("compiling %s: %w", q, err)
		}
		p.queries[q] = query{qc, body}
	}
	var err error
	if p.settings, err = p.readSettings(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// maxRules bounds a program: five times what a policies folder may have, since a
// policy rule is one rule or two.
const maxRules = 100_000

// run evaluates one entry point over data. ok is false where it is undefined.
func (p *program) run(ctx context.Context, name string, data storage.Store, input ast.Value, tracer topdown.QueryTracer) (value ast.Value, ok bool, err error) {
	cancel := topdown.NewCancel()
	defer context.AfterFunc(ctx, cancel.Cancel)()
	q := p.queries[name]
	eval := topdown.NewQuery(q.body).
		WithQueryCompiler(q.compiler).
		WithCompiler(p.compiler).
		WithStore(data).
		WithTransaction(reading{}).
		WithCancel(cancel).
		WithInput(ast.NewTerm(input)).
		WithInterQueryBuiltinValueCache(p.patterns)
	if tracer != nil {
		eval = eval.WithQueryTracer(tracer)
	}
	err = eval.Iter(ctx, func(r topdown.QueryResult) error {
		for _, t := range r {
			value, ok = t.Value, true
		}
		return nil
	})
	return value, ok, err
}

// evaluate runs one entry point within the engine's bounds. A panic inside
// evaluation is an error too.
func (e *Engine) evaluate(ctx context.Context, name string, input ast.Value) (value ast.Value, err error) {
	l := e.current.Load()
	if l == nil || l.program == nil {
		return nil, fmt.Errorf("%w: %w", ErrEvaluation, ErrNotLoaded)
	}
	return e.within(ctx, l, name, input, nil)
}

func (e *Engine) within(ctx context.Context, l *loaded, name string, input ast.Value, tracer topdown.QueryTracer) (value ast.Value, err error) {
	defer func() {
		if r := recover(); r != nil {
			value, err = nil, fmt.Errorf("%w: panic: %v", ErrEvaluation, r)
		}
	}()
	if o, ok := input.(ast.Object); ok && e.cluster != "" {
		o.Insert(ast.InternedTerm("cluster"), str(e.cluster))
	}
	ctx, cancel := context.WithTimeout(ctx, e.deadline)
	defer cancel()
	if l.program.guarded {
		var end context.CancelCauseFunc
		ctx, end = context.WithCancelCause(ctx)
		defer end(nil)
		stop := Guard(e.memory, end)
		defer stop()
	}
	value, ok, err := l.program.run(ctx, name, l.data, input, tracer)
	// OPA notices the end of a context some time after it: what came too late
	// does not count, whether or not it came.
	if ctx.Err() != nil {
		cause := context.Cause(ctx)
		if errors.Is(cause, context.DeadlineExceeded) {
			return nil, fmt.Errorf("%w within %s: %w", ErrEvaluation, e.deadline, cause)
		}
		return nil, fmt.Errorf("%w: %w", ErrEvaluation, cause)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEvaluation, err)
	}
	if !ok {
		return nil, fmt.Errorf("%w: %s is undefined", ErrEvaluation, name)
	}
	return value, nil
}

// Guard ends an evaluation that runs while the heap grows by more than limit
// bytes, which it looks at every few milliseconds: most evaluations never see it.
func Guard(limit uint64, end context.CancelCauseFunc) (stop func()) {
	done := make(chan struct{})
	var first uint64
	timer := time.AfterFunc(guardEvery, func() {
		for {
			switch now := heap(); {
			case first == 0:
				first = now
			case now > first+limit:
				end(fmt.Errorf("it took more than %d MiB of memory", limit>>20))
				return
			}
			select {
			case <-done:
				return
			case <-time.After(guardEvery):
			}
		}
	})
	return func() {
		timer.Stop()
		close(done)
	}
}

const guardEvery = 5 * time.Millisecond

// heap is the size of live and not yet collected objects, in bytes.
func heap() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return sample[0].Value.Uint64()
}
