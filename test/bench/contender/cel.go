package contender

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/test/bench/fleet"
	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// CEL decides as the API server does for ValidatingAdmissionPolicies: one
// program for each policy, compiled once with the server's options, among them
// the accounting of costs; label selectors are the server's own, in Go.
type CEL struct {
	policies []celPolicy
	facts    ref.Val
}

type celPolicy struct {
	name     string
	selector labels.Selector
	program  cel.Program
}

// Limits of the API server (k8s.io/apiserver/pkg/apis/cel).
const (
	perCallLimit   = 1_000_000
	checkFrequency = 100
)

// NewCEL compiles policies. The facts are a map that programs look images up in.
func NewCEL(policies []fleet.Policy, facts Facts) (*CEL, error) {
	env, err := cel.NewEnv(cel.Variable("object", cel.DynType), cel.Variable("facts", cel.DynType))
	if err != nil {
		return nil, fmt.Errorf("making the CEL environment: %w", err)
	}
	c := &CEL{}
	for _, p := range policies {
		q := celPolicy{name: p.Metadata.Name, selector: labels.Everything()}
		if p.LabelKey != "" {
			in, err := labels.NewRequirement(p.LabelKey, selection.In, p.LabelValues)
			if err != nil {
				return nil, fmt.Errorf("policy %s: %w", q.name, err)
			}
			q.selector = labels.NewSelector().Add(*in)
		}
		ast, issues := env.Compile(expression(p))
		if issues.Err() != nil {
			return nil, fmt.Errorf("policy %s: %w", q.name, issues.Err())
		}
		q.program, err = env.Program(ast, cel.EvalOptions(cel.OptOptimize, cel.OptTrackCost), cel.CostTracking(nil),
			cel.CostLimit(perCallLimit), cel.InterruptCheckFrequency(checkFrequency))
		if err != nil {
			return nil, fmt.Errorf("policy %s: %w", q.name, err)
		}
		c.policies = append(c.policies, q)
	}
	adapter := types.DefaultTypeAdapter
	all := map[ref.Val]ref.Val{}
	for image, f := range facts {
		all[types.String(image)] = types.NewRefValMap(adapter, map[ref.Val]ref.Val{
			types.String("result"): types.String(f.Result), types.String("scanned_at"): types.Timestamp{Time: f.ScannedAt},
		})
	}
	c.facts = types.NewRefValMap(adapter, all)
	return c, nil
}

// expression holds when no rule of the policy refuses a container: its first rule
// that matches decides. What is cheap is asked first; the list of one element
// binds the fact, so that it is looked up once.
func expression(p fleet.Policy) string {
	var b strings.Builder
	b.WriteString("object.spec.template.spec.containers.all(c, [facts[c.image]].all(f, ")
	for _, r := range p.Spec.Rules {
		var terms []string
		if s := r.ImageScanStatus; s != nil {
			if len(s.Values) == 1 {
				terms = append(terms, fmt.Sprintf("f.result == '%s'", s.Values[0]))
			} else {
				terms = append(terms, fmt.Sprintf("f.result in ['%s']", strings.Join(s.Values, "', '")))
			}
		}
		if t := r.ImageLastScan; t != nil {
			terms = append(terms, fmt.Sprintf("f.scanned_at < timestamp('%s')", moment(t).Format(time.RFC3339)))
		}
		terms = append(terms, fmt.Sprintf("c.image.matches(r'%s')", r.ImagePath.Values[0]))
		fmt.Fprintf(&b, "%s ? %t : ", strings.Join(terms, " && "), r.Action == api.Allow)
	}
	b.WriteString("true))")
	return b.String()
}

// Name is "CEL".
func (c *CEL) Name() string { return "CEL" }

// Admit evaluates every policy whose selector matches, also after one refused.
func (c *CEL) Admit(ctx context.Context, r *fleet.Review) (Verdict, error) {
	v := Verdict{Allowed: true}
	activation, err := cel.NewActivation(map[string]any{"object": r.Object, "facts": c.facts})
	if err != nil {
		return v, err
	}
	set := labels.Set(r.Flat.Labels)
	for i := range c.policies {
		p := &c.policies[i]
		if !p.selector.Matches(set) {
			continue
		}
		out, _, err := p.program.ContextEval(ctx, activation)
		if err != nil {
			return v, fmt.Errorf("policy %s: %w", p.name, err)
		}
		if out != types.True {
			v.Allowed = false
		}
	}
	return v, nil
}
