package streams

import (
	"strings"
	"testing"
	"time"

	imagev1 "github.com/openshift/api/image/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	storev1 "istag.dev/store/v1"
)

func TestTagList(t *testing.T) {
	now := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	tag := func(name string, age time.Duration) imagev1.NamedTagEventList {
		return imagev1.NamedTagEventList{Tag: name, Items: []imagev1.TagEvent{{Created: metav1.NewTime(now.Add(-age))}}}
	}
	pending := func(name string) imagev1.NamedTagEventList { return imagev1.NamedTagEventList{Tag: name} }
	long := strings.Repeat("x", 50)

	cases := map[string]struct {
		reason string
		tags   []imagev1.NamedTagEventList
		want   string
	}{
		"None":   {reason: "A stream without tags shows none.", want: ""},
		"Newest": {reason: "Who looks at the table wants to see what moved.", tags: []imagev1.NamedTagEventList{tag("1.0", time.Hour), tag("2.0", time.Minute)}, want: "2.0,1.0"},
		"Equal":  {reason: "Tags that moved together are sorted by name.", tags: []imagev1.NamedTagEventList{tag("b", 0), tag("a", 0)}, want: "a,b"},
		"Pending": {
			reason: "A tag that means nothing yet comes last.", tags: []imagev1.NamedTagEventList{pending("0"), tag("1", time.Hour)}, want: "1,0",
		},
		"More": {
			reason: "A list that does not fit says how much is missing.",
			tags:   []imagev1.NamedTagEventList{tag("1", 0), tag(long, time.Minute), tag("3", time.Hour)},
			want:   "1 + 2 more...",
		},
		"Long": {reason: "The first is shown however long it is.", tags: []imagev1.NamedTagEventList{tag(long, 0)}, want: long},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			record := &storev1.StreamRecord{Status: imagev1.ImageStreamStatus{Tags: tc.tags}}
			if got := tagList(record); got != tc.want {
				t.Errorf("%s\ngot %q, want %q", tc.reason, got, tc.want)
			}
		})
	}
}
