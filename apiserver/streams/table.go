package streams

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"istag.dev/apiserver/table"
	storev1 "istag.dev/store/v1"
)

// tableConvertor shows streams as OpenShift does.
var tableConvertor = table.New([]metav1.TableColumnDefinition{
	table.Name(),
	table.Text("Image Repository", "Where the stream's images can be pulled from"),
	table.Text("Tags", "The stream's tags, those that moved last first"),
	table.Text("Updated", "When a tag last moved"),
}, func(record *storev1.StreamRecord, now time.Time) []any {
	repository := cmp.Or(record.Status.PublicDockerImageRepository, record.Spec.DockerImageRepository, record.Status.DockerImageRepository)
	return []any{record.Name, repository, tagList(record), table.Ago(updated(record), now)}
})

// maxTagList is about how much of a list of tags fits into a table.
const maxTagList = 40

// tagList names a stream's tags, those that moved last first, as many as fit.
func tagList(record *storev1.StreamRecord) string {
	type tag struct {
		name    string
		created metav1.Time
	}
	var tags []tag
	for i := range record.Status.Tags {
		t := tag{name: record.Status.Tags[i].Tag}
		if items := record.Status.Tags[i].Items; len(items) > 0 {
			t.created = items[0].Created
		}
		tags = append(tags, t)
	}
	slices.SortFunc(tags, func(a, b tag) int {
		return cmp.Or(b.created.Compare(a.created.Time), strings.Compare(a.name, b.name))
	})
	list := ""
	for i, t := range tags {
		if i > 0 && len(list)+len(t.name) > maxTagList {
			return fmt.Sprintf("%s + %d more...", list, len(tags)-i)
		}
		if i > 0 {
			list += ","
		}
		list += t.name
	}
	return list
}

// updated is when a stream last moved a tag.
func updated(record *storev1.StreamRecord) metav1.Time {
	var latest time.Time
	for i := range record.Status.Tags {
		if items := record.Status.Tags[i].Items; len(items) > 0 && items[0].Created.After(latest) {
			latest = items[0].Created.Time
		}
	}
	return metav1.NewTime(latest)
}
