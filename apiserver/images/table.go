package images

import (
	"time"

	imagev1 "github.com/openshift/api/image/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"istag.dev/apiserver/table"
	storev1 "istag.dev/store/v1"
)

var tableConvertor = table.New([]metav1.TableColumnDefinition{
	table.Name(),
	table.Text("Image Reference", "Where the image was first imported from"),
}, func(record *storev1.ImageRecord, _ time.Time) []any {
	return []any{record.Name, record.Image.DockerImageReference}
})

var streamImageTable = table.New([]metav1.TableColumnDefinition{
	table.Name(),
	table.Text("Updated", "When the image was first imported"),
	table.Wide(table.Text("Image Reference", "Where the image was first imported from")),
	table.Wide(table.Text("Image Name", "The image's digest")),
}, func(image *imagev1.ImageStreamImage, now time.Time) []any {
	return []any{image.Name, table.Ago(image.CreationTimestamp, now), image.Image.DockerImageReference, image.Image.Name}
})
