// Package table makes the tables that kubectl and oc show.
package table

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/docker/go-units"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Name returns the column that every table begins with. "kubectl get -o name" and "-w" go by its format.
func Name() metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]}
}

// Text returns a column of text.
func Text(name, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "string", Description: description}
}

// Wide returns a column as one that clients show only when they are asked for all of them ("-o wide").
func Wide(column metav1.TableColumnDefinition) metav1.TableColumnDefinition {
	column.Priority = 1
	return column
}

// New returns a convertor that shows objects of type T, alone or in a list whose items are of that type, one row each.
// cells returns a row's cells, one for each column: strings, int64s, float64s, bools or nil, as JSON
// has them. It must bear an empty object, which is what a watch's bookmarks are.
func New[T runtime.Object](columns []metav1.TableColumnDefinition, cells func(obj T, now time.Time) []any) rest.TableConvertor {
	return convertor[T]{columns: columns, cells: cells}
}

type convertor[T runtime.Object] struct {
	columns []metav1.TableColumnDefinition
	cells   func(T, time.Time) []any
}

// ConvertToTable makes the table of an object or a list.
func (c convertor[T]) ConvertToTable(_ context.Context, object, options runtime.Object) (*metav1.Table, error) {
	table := &metav1.Table{Rows: []metav1.TableRow{}} // Never null: kubectl's printers range over it, others may not.
	now := time.Now()
	add := func(obj runtime.Object) error {
		t, ok := obj.(T)
		if !ok {
			return notAcceptable(obj)
		}
		table.Rows = append(table.Rows, metav1.TableRow{Cells: c.cells(t, now), Object: runtime.RawExtension{Object: obj}})
		return nil
	}
	if meta.IsListType(object) {
		if err := meta.EachListItem(object, add); err != nil {
			return nil, err
		}
	} else if err := add(object); err != nil {
		return nil, err
	}
	if list, err := meta.ListAccessor(object); err == nil {
		table.ResourceVersion, table.Continue, table.RemainingItemCount = list.GetResourceVersion(), list.GetContinue(), list.GetRemainingItemCount()
	} else if single, err := meta.CommonAccessor(object); err == nil {
		table.ResourceVersion = single.GetResourceVersion()
	}
	if o, ok := options.(*metav1.TableOptions); !ok || !o.NoHeaders {
		table.ColumnDefinitions = c.columns
	}
	return table, nil
}

func notAcceptable(obj runtime.Object) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status:  metav1.StatusFailure,
		Code:    http.StatusNotAcceptable,
		Reason:  metav1.StatusReasonNotAcceptable,
		Message: fmt.Sprintf("no table can be made of %T; ask for it without \"as=Table\"", obj),
	}}
}

// Ago says in words how long before now a time was, as OpenShift's tables do ("2 hours ago"); the zero time is
// the empty string.
func Ago(t metav1.Time, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return units.HumanDuration(now.Sub(t.Time)) + " ago"
}
