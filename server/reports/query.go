package reports

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/store"
)

// query is a selection of objects in terms of the store.
type query struct {
	filter store.Filter
	name   string // of the only object; "" is any
	none   bool   // nothing can fit
}

var allResults = []api.Result{api.Pass, api.Warned, api.Fail, api.Unknown}

// selectable is what selectors of a kind can name: members of the store's filter.
type selectable struct {
	// fields are beside metadata.name, image and result, which each kind has.
	fields map[string]func(*store.Filter) *string
	// labels have any value, flags true or false; beside LabelResult.
	labels map[string]func(*store.Filter) *string
	flags  map[string]func(*store.Filter) **bool
}

var (
	byText = map[string]func(*store.Filter) *string{
		"registry":   func(f *store.Filter) *string { return &f.Registry },
		"repository": func(f *store.Filter) *string { return &f.Repository },
		"tag":        func(f *store.Filter) *string { return &f.Tag },
		"digest":     func(f *store.Filter) *string { return &f.Digest },
		"cve":        func(f *store.Filter) *string { return &f.CVE },
		"package":    func(f *store.Filter) *string { return &f.Package },
		"cluster":    func(f *store.Filter) *string { return &f.Cluster },
	}
	ofImages = selectable{
		fields: with(byText, "namespace", func(f *store.Filter) *string { return &f.Namespace }),
		labels: map[string]func(*store.Filter) *string{LabelRepository: byText["repository"]},
		flags: map[string]func(*store.Filter) **bool{
			LabelKEV:     func(f *store.Filter) **bool { return &f.KEV },
			LabelFixable: func(f *store.Filter) **bool { return &f.Fixable },
		},
	}
	ofRunning = selectable{
		fields: with(byText, "metadata.namespace", func(f *store.Filter) *string { return &f.Namespace }),
		labels: map[string]func(*store.Filter) *string{LabelRepository: byText["repository"], LabelCluster: byText["cluster"]},
	}
)

func with[V any](m map[string]V, key string, v V) map[string]V {
	m = maps.Clone(m)
	m[key] = v
	return m
}

// field checks that a field selector may name a field.
func (s selectable) field(kind, name string) error {
	known := slices.Sorted(maps.Keys(with(with(with(s.fields, "metadata.name", nil), "image", nil), "result", nil)))
	if slices.Contains(known, name) {
		return nil
	}
	return fmt.Errorf("%.60q is no field to select %ss by; known are %s", name, kind, strings.Join(known, ", "))
}

// query reads the selectors of a list.
func (s selectable) query(namespace string, o *internalversion.ListOptions) (q query, err error) {
	if namespace != "" {
		q.set(&q.filter.Namespace, namespace)
	}
	q.filter.Results = allResults
	if o != nil && o.FieldSelector != nil {
		for _, r := range o.FieldSelector.Requirements() {
			if err := s.selectField(&q, r.Field, r.Operator, r.Value); err != nil {
				return q, apierrors.NewBadRequest("fieldSelector: " + err.Error())
			}
		}
	}
	if o != nil && o.LabelSelector != nil {
		requirements, some := o.LabelSelector.Requirements()
		q.none = q.none || !some
		for _, r := range requirements {
			if err := s.selectLabel(&q, r); err != nil {
				return q, apierrors.NewBadRequest("labelSelector: " + err.Error())
			}
		}
	}
	switch len(q.filter.Results) {
	case 0:
		q.none = true
	case len(allResults):
		q.filter.Results = nil
	}
	return q, nil
}

// set narrows a member of the filter to one value.
func (q *query) set(member *string, value string) {
	q.none = q.none || *member != "" && *member != value
	*member = value
}

// results leaves those for which keep holds.
func (q *query) results(keep func(string) bool) {
	q.filter.Results = slices.DeleteFunc(slices.Clone(q.filter.Results), func(r api.Result) bool { return !keep(string(r)) })
}

func (s selectable) selectField(q *query, name string, op selection.Operator, value string) error {
	if name == "result" {
		if !slices.Contains(allResults, api.Result(value)) {
			return fmt.Errorf("result is Pass, Warn, Fail or Unknown, not %.40q", value)
		}
		q.results(func(r string) bool { return (r == value) == (op != selection.NotEquals) })
		return nil
	}
	switch {
	case op == selection.NotEquals:
		return fmt.Errorf("only result can be selected by !=, not %s", name)
	case value == "":
		return fmt.Errorf("%s needs a value", name)
	case name == "metadata.name":
		q.set(&q.name, value)
	case name == "image":
		ref, err := api.ParseReference(value)
		if err != nil {
			return err
		}
		q.reference(ref)
	default:
		if name == "registry" {
			value = api.CanonicalPrefix(value)
		}
		q.set(s.fields[name](&q.filter), value)
	}
	return nil
}

// reference narrows to one name of images.
func (q *query) reference(ref api.Reference) {
	q.set(&q.filter.Registry, ref.Registry())
	q.set(&q.filter.Repository, ref.Repository())
	if ref.Digest == "" {
		q.set(&q.filter.Tag, ref.Tag)
	} else { // that of the row is another where an index was asked for
		q.set(&q.filter.Search, ref.Canonical())
	}
}

// selectLabel has the meaning of labels of any objects: those that no object has are absent.
func (s selectable) selectLabel(q *query, r labels.Requirement) error {
	has := func(value string) bool { return r.Matches(labels.Set{r.Key(): value}) }
	if r.Key() == LabelResult {
		q.results(has)
		return nil
	}
	if member, ok := s.flags[r.Key()]; ok {
		flag := member(&q.filter)
		switch yes, no := has("true"), has("false"); {
		case yes && no:
		case !yes && !no, *flag != nil && **flag != yes:
			q.none = true
		default:
			*flag = &yes
		}
		return nil
	}
	member, ok := s.labels[r.Key()]
	if !ok {
		q.none = q.none || !r.Matches(labels.Set{})
		return nil
	}
	values := r.ValuesUnsorted()
	if op := r.Operator(); len(values) != 1 || op != selection.Equals && op != selection.DoubleEquals && op != selection.In {
		return errors.New(r.Key() + " can be selected by one value only")
	}
	q.none = q.none || values[0] == "" // no object has that
	q.set(member(&q.filter), values[0])
	return nil
}
