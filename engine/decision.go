package engine

import (
	"encoding/json"
	"fmt"

	"github.com/assay-dev/assay/api"
	"github.com/open-policy-agent/opa/v1/ast"
)

// decisionOf reads a decision from its value, without the detour through JSON that
// would take a tenth of the time of the whole. A test holds it to that detour.
func decisionOf(v ast.Value) (api.Decision, error) {
	d := api.Decision{Images: []api.ImageDecision{}}
	r := reader{}
	r.object(v, func(key string, v ast.Value) {
		switch key {
		case "kind":
			r.text(v, &d.Kind)
		case "namespace":
			r.text(v, &d.Namespace)
		case "name":
			r.text(v, &d.Name)
		case "allowed":
			r.boolean(v, &d.Allowed)
		case "judged":
			r.boolean(v, &d.Judged)
		case "reason":
			r.text(v, &d.Reason)
		case "message":
			r.text(v, &d.Message)
		case "warnings":
			d.Warnings = r.texts(v)
		case "audit":
			d.Audit = r.texts(v)
		case "now":
			r.text(v, &d.Now)
		case "revisions":
			d.Revisions = map[string]string{}
			r.object(v, func(name string, v ast.Value) {
				var revision string
				r.text(v, &revision)
				d.Revisions[name] = revision
			})
		case "override":
			d.Override = &api.Overridden{}
			r.object(v, func(key string, v ast.Value) {
				switch key {
				case "by":
					r.text(v, &d.Override.By)
				case "reason":
					r.text(v, &d.Override.Reason)
				case "until":
					r.text(v, &d.Override.Until)
				default:
					r.fail("override."+key, v)
				}
			})
		case "images":
			r.array(v, func(v ast.Value) { d.Images = append(d.Images, r.image(v)) })
		default:
			r.fail(key, v)
		}
	})
	return d, r.err
}

// reader keeps the first value of an unexpected type.
type reader struct{ err error }

func (r *reader) fail(where string, v ast.Value) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: a decision has an unexpected %s: %.80s", ErrEvaluation, where, v)
	}
}

func (r *reader) image(v ast.Value) api.ImageDecision {
	i := api.ImageDecision{}
	r.object(v, func(key string, v ast.Value) {
		switch key {
		case "container":
			r.text(v, &i.Container)
		case "image":
			r.text(v, &i.Image)
		case "digest":
			r.text(v, &i.Digest)
		case "action":
			r.text(v, &i.Action)
		case "policy":
			r.text(v, &i.Policy)
		case "rule":
			i.Rule = r.integer(v)
		case "result":
			r.text(v, (*string)(&i.Result))
		case "max_cvss":
			f := r.float(v)
			i.MaxCVSS = &f
		case "cves":
			i.CVEs = r.texts(v)
		case "more_cves":
			i.MoreCVEs = r.integer(v)
		case "scanned_at":
			r.text(v, &i.ScannedAt)
		case "database":
			r.text(v, &i.Database)
		case "message":
			r.text(v, &i.Message)
		case "reason":
			r.text(v, &i.Reason)
		default:
			r.fail("image."+key, v)
		}
	})
	return i
}

func (r *reader) object(v ast.Value, each func(key string, v ast.Value)) {
	o, ok := v.(ast.Object)
	if !ok {
		r.fail("value in place of an object", v)
		return
	}
	o.Foreach(func(k, v *ast.Term) { each(text(k), v.Value) })
}

func (r *reader) array(v ast.Value, each func(v ast.Value)) {
	a, ok := v.(*ast.Array)
	if !ok {
		r.fail("value in place of a list", v)
		return
	}
	a.Foreach(func(t *ast.Term) { each(t.Value) })
}

func (r *reader) text(v ast.Value, to *string) {
	s, ok := v.(ast.String)
	if !ok {
		r.fail("value in place of a text", v)
	}
	*to = string(s)
}

func (r *reader) texts(v ast.Value) []string {
	list := []string{}
	r.array(v, func(v ast.Value) {
		var s string
		r.text(v, &s)
		list = append(list, s)
	})
	return list
}

func (r *reader) boolean(v ast.Value, to *bool) {
	b, ok := v.(ast.Boolean)
	if !ok {
		r.fail("value in place of a boolean", v)
	}
	*to = bool(b)
}

func (r *reader) integer(v ast.Value) int {
	n, ok := v.(ast.Number)
	i, fits := n.Int()
	if !ok || !fits {
		r.fail("value in place of a whole number", v)
	}
	return i
}

func (r *reader) float(v ast.Value) float64 {
	n, ok := v.(ast.Number)
	f, err := json.Number(n).Float64()
	if !ok || err != nil {
		r.fail("value in place of a number", v)
	}
	return f
}
