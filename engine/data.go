package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
)

// snapshot is a read-only [storage.Store] over values that never change: an
// evaluation holds one, and so no writer makes it wait or shows it half an update.
// OPA's own store lets a commit that waits block every new reader.
type snapshot struct {
	storage.WritesNotSupported
	storage.PolicyNotSupported
	storage.TriggersNotSupported
	root ast.Object
}

// reading is the transaction of a snapshot, which needs none.
type reading struct{}

func (reading) ID() uint64 { return 0 }

func (s snapshot) NewTransaction(_ context.Context, params ...storage.TransactionParams) (storage.Transaction, error) {
	if len(params) > 0 && params[0].Write {
		return nil, errors.New("the data of an engine is read-only; use Update")
	}
	return reading{}, nil
}

func (s snapshot) Commit(context.Context, storage.Transaction) error { return nil }
func (s snapshot) Abort(context.Context, storage.Transaction)        {}
func (s snapshot) Truncate(context.Context, storage.Transaction, storage.TransactionParams, storage.Iterator) error {
	return errors.New("the data of an engine is read-only; use Update")
}

// Read finds the document at a path.
func (s snapshot) Read(_ context.Context, _ storage.Transaction, path storage.Path) (any, error) {
	var node ast.Value = s.root
	for _, key := range path {
		o, ok := node.(ast.Object)
		if !ok {
			return nil, &storage.Error{Code: storage.NotFoundErr, Message: path.String()}
		}
		child := o.Get(ast.InternedTerm(key))
		if child == nil {
			return nil, &storage.Error{Code: storage.NotFoundErr, Message: path.String()}
		}
		node = child.Value
	}
	return node, nil
}

// terms makes OPA's values of plain JSON values. Equal texts and numbers share
// one term: the ids and scores of 10,000 images are mostly the same few thousand.
type terms struct {
	texts   map[string]*ast.Term
	numbers map[string]*ast.Term
}

func newTerms() *terms {
	return &terms{texts: map[string]*ast.Term{}, numbers: map[string]*ast.Term{}}
}

// longText is the length from which a text is unlikely to be met again.
const longText = 64

func (t *terms) text(s string) *ast.Term {
	if len(s) >= longText {
		return ast.StringTerm(s)
	}
	term, ok := t.texts[s]
	if !ok {
		s = strings.Clone(s) // not to keep alive the document that it is a part of
		term = ast.StringTerm(s)
		t.texts[s] = term
	}
	return term
}

// of converts what encoding/json decodes into an any.
func (t *terms) of(v any) (*ast.Term, error) {
	switch v := v.(type) {
	case string:
		return t.text(v), nil
	case json.Number:
		term, ok := t.numbers[string(v)]
		if !ok {
			term = ast.NumberTerm(v)
			t.numbers[string(v)] = term
		}
		return term, nil
	case []any:
		list := make([]*ast.Term, len(v))
		for i, x := range v {
			var err error
			if list[i], err = t.of(x); err != nil {
				return nil, err
			}
		}
		return ast.ArrayTerm(list...), nil
	case map[string]any:
		pairs := make([][2]*ast.Term, 0, len(v))
		for _, key := range slices.Sorted(maps.Keys(v)) {
			value, err := t.of(v[key])
			if err != nil {
				return nil, err
			}
			pairs = append(pairs, [2]*ast.Term{t.text(key), value})
		}
		return ast.ObjectTerm(pairs...), nil
	case ast.Value:
		return ast.NewTerm(v), nil
	}
	value, err := ast.InterfaceToValue(v)
	if err != nil {
		return nil, fmt.Errorf("a data document must be JSON: %w", err)
	}
	return ast.NewTerm(value), nil
}

// edits is a tree of changes, by path: each has either a value to put (nil: to
// remove) or edits further down.
type edits struct {
	below map[string]*edits
	leaf  bool
	value *ast.Term
}

// add puts a change at a path, after those added before.
func (e *edits) add(path []string, value *ast.Term) {
	for i, key := range path {
		if e.leaf {
			var inside edits
			inside.add(path[i:], value)
			e.value = inside.apply(e.value)
			return
		}
		if e.below == nil {
			e.below = map[string]*edits{}
		}
		next, ok := e.below[key]
		if !ok {
			next = &edits{}
			e.below[key] = next
		}
		e = next
	}
	*e = edits{leaf: true, value: value}
}

// apply makes the document that the changes give. It copies the objects on the
// way, each once however many of its members change, and shares all others.
func (e *edits) apply(old *ast.Term) *ast.Term {
	if e.leaf {
		return e.value
	}
	var object ast.Object = ast.NewObject()
	if old != nil {
		if o, ok := old.Value.(ast.Object); ok {
			object = o
		}
	}
	pairs := make([][2]*ast.Term, 0, object.Len()+len(e.below))
	seen := make(map[string]bool, len(e.below))
	object.Foreach(func(k, v *ast.Term) {
		key, ok := k.Value.(ast.String)
		change := e.below[string(key)]
		if !ok || change == nil {
			pairs = append(pairs, [2]*ast.Term{k, v})
			return
		}
		seen[string(key)] = true
		if v = change.apply(v); v != nil {
			pairs = append(pairs, [2]*ast.Term{k, v})
		}
	})
	for _, key := range slices.Sorted(maps.Keys(e.below)) {
		if seen[key] {
			continue
		}
		if v := e.below[key].apply(nil); v != nil {
			pairs = append(pairs, [2]*ast.Term{ast.StringTerm(key), v})
		}
	}
	return ast.ObjectTerm(pairs...)
}
