package table

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/openshift/api/image/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
)

func image(name string) imagev1.Image {
	return imagev1.Image{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: "7"}}
}

func TestConvertToTable(t *testing.T) {
	columns := []metav1.TableColumnDefinition{Name(), Wide(Text("Image Reference", "where it is"))}
	convertor := New(columns, func(i *imagev1.Image, _ time.Time) []any { return []any{i.Name, i.DockerImageReference} })
	one, two := image("one"), image("two")
	row := func(i *imagev1.Image) metav1.TableRow {
		return metav1.TableRow{Cells: []any{i.Name, ""}, Object: runtime.RawExtension{Object: i}}
	}

	cases := map[string]struct {
		reason  string
		object  runtime.Object
		options runtime.Object
		want    *metav1.Table
	}{
		"List": {
			reason: "A list's table carries what a client needs to go on: version, continue token and what remains.",
			object: &imagev1.ImageList{
				ListMeta: metav1.ListMeta{ResourceVersion: "9", Continue: "more", RemainingItemCount: ptr.To[int64](3)},
				Items:    []imagev1.Image{one, two},
			},
			want: &metav1.Table{
				ListMeta:          metav1.ListMeta{ResourceVersion: "9", Continue: "more", RemainingItemCount: ptr.To[int64](3)},
				ColumnDefinitions: columns,
				Rows:              []metav1.TableRow{row(&one), row(&two)},
			},
		},
		"EmptyList": {
			reason: "A table without rows has an empty list of them, not null.",
			object: &imagev1.ImageList{},
			want:   &metav1.Table{ColumnDefinitions: columns, Rows: []metav1.TableRow{}},
		},
		"One": {
			reason: "A single object's table has its resource version.",
			object: &one,
			want: &metav1.Table{
				ListMeta:          metav1.ListMeta{ResourceVersion: "7"},
				ColumnDefinitions: columns,
				Rows:              []metav1.TableRow{row(&one)},
			},
		},
		"NoHeaders": {
			reason:  "After its first event a watch asks for rows only.",
			object:  &one,
			options: &metav1.TableOptions{NoHeaders: true},
			want:    &metav1.Table{ListMeta: metav1.ListMeta{ResourceVersion: "7"}, Rows: []metav1.TableRow{row(&one)}},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := convertor.ConvertToTable(t.Context(), c.object, c.options)
			if err != nil {
				t.Fatalf("%s\n%v", c.reason, err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s\n-want +got:\n%s", c.reason, diff)
			}
			got.DeepCopy() // panics on cells that are not JSON's
		})
	}
}

func TestConvertToTableRefuses(t *testing.T) {
	convertor := New(nil, func(*imagev1.Image, time.Time) []any { return nil })
	for name, obj := range map[string]runtime.Object{"AnotherKind": &imagev1.ImageTag{}, "ListOfAnotherKind": &imagev1.ImageTagList{Items: make([]imagev1.ImageTag, 1)}} {
		t.Run(name, func(t *testing.T) {
			_, err := convertor.ConvertToTable(t.Context(), obj, nil)
			if apierrors.ReasonForError(err) != metav1.StatusReasonNotAcceptable {
				t.Errorf("what the table does not know must be a 406, so that clients ask for the plain object; got %v", err)
			}
		})
	}
}

func TestAgo(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	if got := Ago(metav1.NewTime(now.Add(-2*time.Hour)), now); got != "2 hours ago" {
		t.Errorf("two hours before now: got %q", got)
	}
	if got := Ago(metav1.Time{}, now); got != "" {
		t.Errorf("never: got %q, want nothing", got)
	}
}
