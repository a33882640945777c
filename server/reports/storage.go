package reports

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/assay-dev/assay/store"
)

// MaxItems bounds the objects of one answer. A list with more of them has a token to
// continue with, even where the client asked for all.
const MaxItems = 5000

// pageSize is how many rows the store gives at a time.
const pageSize = 1000

// resource serves the objects of one kind from the store.
type resource struct {
	kind, plural, singular, short string
	namespaced                    bool
	selectable
	object, list func() runtime.Object
	columns      []metav1.TableColumnDefinition
	cells        func(runtime.Object) []any // without name and age
	// page gives those of a page of the store that fit, without what complete adds
	// to a single object.
	page     func(ctx context.Context, q query, p store.Page) (objects []runtime.Object, next string, err error)
	locate   func(ctx context.Context, q *query) error // narrows the filter to q.name
	complete func(ctx context.Context, object runtime.Object) error
	now      func() time.Time
}

var (
	_ rest.Getter               = &resource{}
	_ rest.Lister               = &resource{}
	_ rest.Scoper               = &resource{}
	_ rest.SingularNameProvider = &resource{}
	_ rest.ShortNamesProvider   = &resource{}
	_ rest.CategoriesProvider   = &resource{}
)

func (r *resource) New() runtime.Object     { return r.object() }
func (r *resource) NewList() runtime.Object { return r.list() }
func (r *resource) Destroy()                {}
func (r *resource) NamespaceScoped() bool   { return r.namespaced }
func (r *resource) GetSingularName() string { return r.singular }
func (r *resource) ShortNames() []string    { return []string{r.short} }
func (r *resource) Categories() []string    { return []string{"assay"} }

// Get implements [rest.Getter].
func (r *resource) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	q, err := r.query(request.NamespaceValue(ctx), nil)
	if err != nil {
		return nil, err
	}
	q.name = name
	objects, _, err := r.collect(ctx, q, 1, "")
	if err != nil {
		return nil, err
	}
	if len(objects) == 0 {
		return nil, apierrors.NewNotFound(GroupVersion.WithResource(r.plural).GroupResource(), name)
	}
	if r.complete != nil {
		if err := r.complete(ctx, objects[0]); err != nil {
			return nil, status(err)
		}
	}
	return objects[0], nil
}

// List implements [rest.Lister].
func (r *resource) List(ctx context.Context, o *internalversion.ListOptions) (runtime.Object, error) {
	q, err := r.query(request.NamespaceValue(ctx), o)
	if err != nil {
		return nil, err
	}
	limit, after := int64(0), ""
	if o != nil {
		limit, after = o.Limit, o.Continue
	}
	objects, next, err := r.collect(ctx, q, limit, after)
	if err != nil {
		return nil, err
	}
	list := r.NewList()
	if err := meta.SetList(list, objects); err != nil {
		return nil, err
	}
	list.(metav1.ListInterface).SetContinue(next)
	return list, nil
}

// collect reads pages until there are as many objects as asked for; 0 is all.
func (r *resource) collect(ctx context.Context, q query, limit int64, after string) (objects []runtime.Object, next string, err error) {
	if limit <= 0 || limit > MaxItems {
		limit = MaxItems
	}
	size := func() int { return min(pageSize, int(limit)-len(objects)) }
	if q.name != "" {
		limit, size = 1, func() int { return pageSize }
		if err := r.locate(ctx, &q); err != nil {
			return nil, "", status(err)
		}
	}
	for next = after; !q.none; {
		var found []runtime.Object
		if found, next, err = r.page(ctx, q, store.Page{After: next, Limit: size()}); err != nil {
			return nil, "", status(err)
		}
		objects = append(objects, found...)
		if next == "" || len(objects) >= int(limit) {
			return objects, next, nil
		}
	}
	return nil, "", nil
}

// status says what happened in the API's terms.
func status(err error) error {
	switch {
	case errors.Is(err, store.ErrCursor):
		return apierrors.NewBadRequest("continue: the token is not one of this list")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return apierrors.NewTimeoutError("the database did not answer in time", 1)
	case errors.Is(err, store.ErrUnavailable):
		return apierrors.NewServiceUnavailable("the database is not available")
	}
	return apierrors.NewInternalError(err)
}

// ConvertToTable implements [rest.TableConvertor].
func (r *resource) ConvertToTable(_ context.Context, object, options runtime.Object) (*metav1.Table, error) {
	table := &metav1.Table{}
	add := func(o runtime.Object) error {
		m, err := meta.Accessor(o)
		if err != nil {
			return err
		}
		age := "<unknown>"
		if at := m.GetCreationTimestamp(); !at.IsZero() {
			age = duration.HumanDuration(r.now().Sub(at.Time))
		}
		table.Rows = append(table.Rows, metav1.TableRow{Cells: append(append([]any{m.GetName()}, r.cells(o)...), age), Object: runtime.RawExtension{Object: o}})
		return nil
	}
	var err error
	if list, ok := object.(metav1.ListInterface); ok {
		table.Continue = list.GetContinue()
		err = meta.EachListItem(object, add)
	} else {
		err = add(object)
	}
	if o, ok := options.(*metav1.TableOptions); !ok || !o.NoHeaders {
		table.ColumnDefinitions = append(append(columns("Name"), r.columns...), columns("Age")...)
		table.ColumnDefinitions[0].Format = "name"
	}
	return table, err
}

// columns are of texts, or of numbers where the name ends in #; one after a + is wide.
func columns(names ...string) (list []metav1.TableColumnDefinition) {
	for _, name := range names {
		c := metav1.TableColumnDefinition{Name: name, Type: "string"}
		if name[0] == '+' {
			c.Name, c.Priority = c.Name[1:], 1
		}
		if last := len(c.Name) - 1; c.Name[last] == '#' {
			c.Name, c.Type = c.Name[:last], "integer"
		}
		list = append(list, c)
	}
	return list
}

func score(f *float64) string {
	if f == nil {
		return "N/A"
	}
	return fmt.Sprintf("%.1f", *f)
}
