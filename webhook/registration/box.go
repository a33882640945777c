package registration

import (
	"cmp"
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/assay-dev/assay/policies/selector"
)

// maxValues bounds the values of one requirement: more are too many for the API server.
const maxValues = 500

// state is what a label can be: a value, or absent.
type state struct {
	absent bool
	value  string
}

// states is a set of them: those listed, or all but those.
type states struct {
	allBut bool
	listed map[state]bool
}

func (s states) not() states { return states{!s.allBut, s.listed} }

func (s states) or(t states) states {
	switch {
	case s.allBut && t.allBut:
		return t.not().without(s.not(), true).not()
	case s.allBut:
		return s.not().without(t, false).not()
	case t.allBut:
		return t.not().without(s, false).not()
	}
	out := maps.Clone(s.listed)
	maps.Copy(out, t.listed)
	return states{false, out}
}

// without keeps of those listed what t lists, or what it does not.
func (s states) without(t states, common bool) states {
	out := map[state]bool{}
	for v := range s.listed {
		if t.listed[v] == common {
			out[v] = true
		}
	}
	return states{false, out}
}

func (s states) and(t states) states { return s.not().or(t.not()).not() }

func (s states) everything() bool { return s.allBut && len(s.listed) == 0 }

func (s states) equal(t states) bool { return s.allBut == t.allBut && maps.Equal(s.listed, t.listed) }

func listed(values ...string) states {
	s := states{listed: map[state]bool{}}
	for _, v := range values {
		s.listed[state{value: v}] = true
	}
	return s
}

var absent = states{listed: map[state]bool{{absent: true}: true}}

// label is one of the object's, or of its namespace's.
type label struct {
	ofNamespace bool
	key         string
}

// box is what label selectors can say: each label is in a set of its own, whatever
// the others are. It holds at least what it stands for, and exactly that where exact.
type box struct {
	never  bool
	labels map[label]states
	exact  bool
}

func anything() box { return box{exact: true} }

// where is the box of one label. Too many values are taken for any.
func where(l label, s states) box {
	switch {
	case s.everything():
		return anything()
	case !s.allBut && len(s.listed) == 0:
		return box{never: true, exact: true}
	case len(s.listed) > maxValues:
		return box{}
	}
	return box{labels: map[label]states{l: s}, exact: true}
}

func (b box) and(c box) box {
	if b.never || c.never {
		return box{never: true, exact: true}
	}
	out := box{labels: maps.Clone(b.labels), exact: b.exact && c.exact}
	for l, s := range c.labels {
		if t, ok := b.labels[l]; ok {
			s = s.and(t)
		}
		one := where(l, s)
		if one.never {
			return one
		}
		out.exact = out.exact && one.exact
		delete(out.labels, l)
		for l, s := range one.labels {
			if out.labels == nil {
				out.labels = map[label]states{}
			}
			out.labels[l] = s
		}
	}
	return out
}

// or is exact where one of the two holds the other, or they differ in one label alone.
func (b box) or(c box) box {
	if b.never {
		return c
	}
	if c.never {
		return b
	}
	out := box{labels: map[label]states{}, exact: b.exact && c.exact && differ(b, c) <= 1}
	for l, s := range b.labels {
		if t, ok := c.labels[l]; ok {
			one := where(l, s.or(t))
			out.exact = out.exact && one.exact
			maps.Copy(out.labels, one.labels)
		}
	}
	out.exact = out.exact || b.exact && differ(out, b) == 0 || c.exact && differ(out, c) == 0
	return out
}

// differ counts the labels about which two boxes say different things.
func differ(b, c box) (n int) {
	for l, s := range b.labels {
		if t, ok := c.labels[l]; !ok || !s.equal(t) {
			n++
		}
	}
	for l := range c.labels {
		if _, ok := b.labels[l]; !ok {
			n++
		}
	}
	return n
}

// boxOf is the box of a selector.
func boxOf(n selector.Node, ofNamespace bool) box {
	return fold(n, false, func(t term) box {
		var s states
		exact := true
		switch t.op {
		case all:
			return box{never: t.negated, exact: true}
		case has:
			s = absent.not()
		case in:
			s = listed(t.values...)
		case global:
			return box{} // no label
		default: // about a text within a value: of it can be said that there is one
			if s = absent.not(); t.negated {
				return box{}
			}
			exact = false
		}
		if t.negated {
			s = s.not()
		}
		b := where(label{ofNamespace, t.key}, s)
		b.exact = b.exact && exact
		return b
	}, box.and, box.or)
}

// requirements of a label selector that s amounts to; not ok where there are none:
// "absent, or one of these values" cannot be said, nor anything of what is no label.
func requirements(key string, s states) (out []metav1.LabelSelectorRequirement, ok bool) {
	var values []string
	for v := range s.listed {
		if !v.absent {
			values = append(values, v.value)
		}
	}
	isAbsent := s.listed[state{absent: true}]
	if len(validation.IsQualifiedName(key)) > 0 || !s.allBut && isAbsent && len(values) > 0 ||
		slices.ContainsFunc(values, func(v string) bool { return len(validation.IsValidLabelValue(v)) > 0 }) {
		return nil, false
	}
	slices.Sort(values)
	add := func(op metav1.LabelSelectorOperator, values []string) {
		out = append(out, metav1.LabelSelectorRequirement{Key: key, Operator: op, Values: values})
	}
	switch {
	case s.allBut:
		if isAbsent {
			add(metav1.LabelSelectorOpExists, nil)
		}
		if len(values) > 0 {
			add(metav1.LabelSelectorOpNotIn, values)
		}
	case isAbsent:
		add(metav1.LabelSelectorOpDoesNotExist, nil)
	default:
		add(metav1.LabelSelectorOpIn, values)
	}
	return out, true
}

// expressible says that selectors lose nothing of the box.
func (b box) expressible() bool {
	for l, s := range b.labels {
		if _, ok := requirements(l.key, s); !ok {
			return false
		}
	}
	return true
}

// selector is of the object's labels, or of the namespace's; what it cannot say it leaves open.
func (b box) selector(ofNamespace bool, more ...metav1.LabelSelectorRequirement) *metav1.LabelSelector {
	out := &metav1.LabelSelector{}
	for _, l := range slices.SortedFunc(maps.Keys(b.labels), func(a, b label) int { return cmp.Compare(a.key, b.key) }) {
		if l.ofNamespace == ofNamespace {
			r, _ := requirements(l.key, b.labels[l])
			out.MatchExpressions = append(out.MatchExpressions, r...)
		}
	}
	out.MatchExpressions = append(out.MatchExpressions, more...)
	return out
}
