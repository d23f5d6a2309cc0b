package store

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	storev1 "istag.dev/store/v1"
)

// onlyQuay allows images of quay.io, and of anywhere insecurely.
func onlyQuay(pullSpec string, insecure bool) error {
	if insecure || strings.HasPrefix(pullSpec, "quay.io/") {
		return nil
	}
	return errors.New("only quay.io is allowed")
}

func TestValidateNames(t *testing.T) {
	const must = `metadata.name: FieldValueInvalid: must match "[a-z0-9]+(?:[._-][a-z0-9]+)*"`
	cases := map[string]struct {
		reason string
		name   string
		want   []string
	}{
		"Good":       {reason: "the parts of a repository's path are names", name: "a-b.c_d"},
		"Longest":    {reason: "with its namespace it is as long as a repository can be", name: strings.Repeat("a", 250)},
		"UpperCase":  {reason: "upper case is no repository's", name: "Newstream", want: []string{must}},
		"TwoDashes":  {reason: "two separators are none", name: "a--b", want: []string{must}},
		"Dot":        {reason: "a path segment cannot be a dot", name: ".", want: []string{"metadata.name: FieldValueInvalid: may not be '.'"}},
		"Slash":      {reason: "nor two", name: "a/b", want: []string{"metadata.name: FieldValueInvalid: may not contain '/'"}},
		"Percent":    {reason: "nor be escaped", name: "a%b", want: []string{"metadata.name: FieldValueInvalid: may not contain '%'"}},
		"Empty":      {reason: "a stream has a name", want: []string{"metadata.name: FieldValueRequired: name or generateName is required"}},
		"TooLong":    {reason: "a repository has 255 characters at most", name: strings.Repeat("a", 251), want: []string{"metadata.name: FieldValueInvalid: 'namespace/name' cannot be longer than 255 characters"}},
		"TooLongFor": {reason: "the record's name must hold it as well", name: strings.Repeat("a_", 90) + "a", want: []string{`metadata.name: FieldValueInvalid: cannot be longer than 253 characters, of which every "_" counts as two`}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := recordOf(tc.name)
			if diff := cmp.Diff(tc.want, details(Validate(r, nil, nil))); diff != "" {
				t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
			}
			if errs := Validate(r, r, nil); len(errs) > 0 {
				t.Errorf("a name that was taken is not looked at again: %v", errs)
			}
		})
	}
}

func TestValidateGeneratedName(t *testing.T) {
	r := recordOf("app-x7")
	for prefix, want := range map[string]int{"app-": 0, "app--": 1, "App": 1} {
		r.GenerateName = prefix
		if errs := Validate(r, nil, nil); len(errs) != want {
			t.Errorf("prefix %q: what can begin a name can be given: %v", prefix, errs)
		}
	}
}

func TestValidateTag(t *testing.T) {
	docker := func(change func(*imagev1.TagReference)) imagev1.TagReference {
		tag := fromImage("t", "quay.io/a/b:1")
		change(&tag)
		return tag
	}
	scheduled := fromTag("t", "other:t")
	scheduled.ImportPolicy.Scheduled = true
	cases := map[string]struct {
		reason string
		tag    imagev1.TagReference
		want   []string
	}{
		"Bare":      {reason: "a tag may name nothing", tag: imagev1.TagReference{Name: "t"}},
		"Image":     {reason: "or an image", tag: docker(func(*imagev1.TagReference) {})},
		"Scheduled": {reason: "again and again", tag: docker(func(t *imagev1.TagReference) { t.ImportPolicy.Scheduled = true })},
		"Digest":    {reason: "by its digest", tag: fromImage("t", "quay.io/a/b@"+digestA)},
		"Short":     {reason: "as it is called on Docker Hub", tag: fromImage("t", "nginx")},
		"NoName": {
			reason: "a source has a name", tag: fromTag("t", ""),
			want: []string{"tag.from.name: FieldValueRequired: "},
		},
		"NoKind": {
			reason: "and a kind", tag: imagev1.TagReference{From: &corev1.ObjectReference{Name: "x"}},
			want: []string{"tag.from.kind: FieldValueRequired: valid values are 'DockerImage', 'ImageStreamImage', 'ImageStreamTag'"},
		},
		"UnknownKind": {
			reason: "of three", tag: from("Pod", "x"),
			want: []string{"tag.from.kind: FieldValueRequired: valid values are 'DockerImage', 'ImageStreamImage', 'ImageStreamTag'"},
		},
		"NoPullSpec": {
			reason: "an image has a pull spec", tag: fromImage("t", "Not A Name"),
			want: []string{"tag.from.name: FieldValueInvalid: invalid reference format"},
		},
		"UpperCase": {
			reason: "in lower case", tag: fromImage("t", "quay.io/A/b"),
			want: []string{"tag.from.name: FieldValueInvalid: repository name must be lowercase"},
		},
		"IPv6": {
			reason: "of a host that OpenShift knows", tag: fromImage("t", "[::1]:5000/a"),
			want: []string{"tag.from.name: FieldValueInvalid: a registry host cannot be an IPv6 address"},
		},
		"ScheduledCopy": {
			reason: "only registries are asked again", tag: scheduled,
			want: []string{"tag.importPolicy.scheduled: FieldValueInvalid: only tags pointing to Docker repositories may be scheduled for background import"},
		},
		"ReferencePolicy": {
			reason: "there are two reference policies", tag: docker(func(t *imagev1.TagReference) { t.ReferencePolicy.Type = "Remote" }),
			want: []string{`tag.referencePolicy.type: FieldValueInvalid: valid values are "Source", "Local"`},
		},
		"ImportMode": {
			reason: "and two import modes", tag: docker(func(t *imagev1.TagReference) { t.ImportPolicy.ImportMode = "All" }),
			want: []string{"tag.importPolicy.importMode: FieldValueInvalid: invalid import mode, valid modes are '', 'Legacy', 'PreserveOriginal'"},
		},
		"Follow": {
			reason: "a tag that should follow must not silently not", tag: docker(func(t *imagev1.TagReference) { t.Annotations = map[string]string{FollowAnnotation: "yes"} }),
			want: []string{`tag.annotations[istag.dev/follow]: FieldValueInvalid: must be "true" or "false"`},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, details(ValidateTag(&tc.tag, field.NewPath("tag")))); diff != "" {
				t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
			}
		})
	}
}

func TestValidate(t *testing.T) {
	const pattern = `must match "[\\w][\\w.-]{0,127}": at most 128 letters, digits, "_", "." and "-", of which the first is neither "." nor "-"`
	spec := func(tags ...imagev1.TagReference) func(*storev1.StreamRecord) {
		return func(r *storev1.StreamRecord) { r.Spec.Tags = append(r.Spec.Tags, tags...) }
	}
	status := func(tag string, references ...string) func(*storev1.StreamRecord) {
		return func(r *storev1.StreamRecord) {
			list := imagev1.NamedTagEventList{Tag: tag, Items: []imagev1.TagEvent{}}
			for _, ref := range references {
				list.Items = append(list.Items, event(ref, digestA, 1, t0))
			}
			r.Status.Tags = append(r.Status.Tags, list)
		}
	}
	repository := func(name string) func(*storev1.StreamRecord) {
		return func(r *storev1.StreamRecord) { r.Spec.DockerImageRepository = name }
	}
	both := func(a, b func(*storev1.StreamRecord)) func(*storev1.StreamRecord) {
		return func(r *storev1.StreamRecord) { a(r); b(r) }
	}
	insecure := fromImage("new", "evil.io/a/b:1")
	insecure.ImportPolicy.Insecure = true
	cases := map[string]struct {
		reason string
		old    func(*storev1.StreamRecord)
		edit   func(*storev1.StreamRecord)
		want   []string
	}{
		"TagName": {
			reason: "a tag's name is one that registries know",
			edit:   spec(fromImage("Bad Tag!", "quay.io/a/b:1")), want: []string{"spec.tags[Bad Tag!].name: FieldValueInvalid: " + pattern},
		},
		"TagNamePath": {
			reason: "not a path",
			edit:   spec(fromImage("..", "quay.io/a/b:1")), want: []string{"spec.tags[..].name: FieldValueInvalid: " + pattern},
		},
		"TagNameLong": {
			reason: "nor a novel",
			edit:   spec(fromImage(strings.Repeat("a", 129), "quay.io/a/b:1")), want: []string{"spec.tags[" + strings.Repeat("a", 129) + "].name: FieldValueInvalid: " + pattern},
		},
		"TagNameEmpty": {
			reason: "nor nothing",
			edit:   spec(imagev1.TagReference{}), want: []string{"spec.tags[].name: FieldValueRequired: a tag needs a name"},
		},
		"TagNameOfOld": {
			reason: "a tag that has its name keeps it",
			old:    spec(fromImage("Bad Tag!", "quay.io/a/b:1")),
			edit:   func(r *storev1.StreamRecord) { SpecTag(&r.Spec, "Bad Tag!").ImportPolicy.Scheduled = true },
		},
		"TagTwice": {
			reason: "a tag is there once",
			edit:   spec(fromImage("new", "quay.io/a/b:1"), fromImage("new", "quay.io/a/b:1")),
			want:   []string{"spec.tags[new]: FieldValueDuplicate: "},
		},
		"StatusTagName": {
			reason: "a tag that is only in status has a name as well",
			edit:   status("Bad Tag!", "quay.io/a/b"), want: []string{"status.tags[Bad Tag!].tag: FieldValueInvalid: " + pattern},
		},
		"StatusTagTwice": {
			reason: "and is there once",
			edit:   both(status("new"), status("new")), want: []string{"status.tags[new]: FieldValueDuplicate: "},
		},
		"Tag": {
			reason: "a tag is named in the path",
			edit:   spec(from("Pod", "x")), want: []string{"spec.tags[new].from.kind: FieldValueRequired: valid values are 'DockerImage', 'ImageStreamImage', 'ImageStreamTag'"},
		},
		"TagOfOld": {
			reason: "a tag that was stored under other rules can stay",
			old:    spec(from("Pod", "x")), edit: func(*storev1.StreamRecord) {},
		},
		"Event": {
			reason: "an event has a pull spec",
			edit:   status("new", "", "No Spec"),
			want: []string{
				"status.tags[new].items[0].dockerImageReference: FieldValueRequired: ",
				"status.tags[new].items[1].dockerImageReference: FieldValueInvalid: invalid reference format",
			},
		},
		"Repository": {
			reason: "a repository is one", edit: repository("Not A Name"),
			want: []string{"spec.dockerImageRepository: FieldValueInvalid: invalid reference format"},
		},
		"RepositoryTag": {
			reason: "without a tag", edit: repository("quay.io/a/b:1"),
			want: []string{"spec.dockerImageRepository: FieldValueInvalid: the repository name may not contain a tag"},
		},
		"RepositoryID": {
			reason: "or a digest", edit: repository("quay.io/a/b@" + digestA),
			want: []string{"spec.dockerImageRepository: FieldValueInvalid: the repository name may not contain an ID"},
		},
		"AllowedTag": {
			reason: "tags may name only what is allowed", edit: spec(fromImage("new", "evil.io/a/b:1")),
			want: []string{"spec.tags[new].from.name: FieldValueForbidden: only quay.io is allowed"},
		},
		"AllowedRepository": {
			reason: "and so may streams", edit: repository("evil.io/a/b"),
			want: []string{"spec.dockerImageRepository: FieldValueForbidden: only quay.io is allowed"},
		},
		"AllowedEvent": {
			reason: "and events", edit: status("new", "evil.io/a/b"),
			want: []string{"status.tags[new].items[0].dockerImageReference: FieldValueForbidden: only quay.io is allowed"},
		},
		"AllowedCopy": {
			reason: "what a copy brings is the tag's that was written", edit: both(spec(fromTag("new", "other:t")), status("new", "evil.io/a/b")),
			want: []string{"spec.tags[new].from.name: FieldValueForbidden: only quay.io is allowed"},
		},
		"AllowedReference": {
			reason: "one mistake is named once", edit: both(spec(asReference(fromImage("new", "evil.io/a/b:1"))), status("new", "evil.io/a/b:1")),
			want: []string{"spec.tags[new].from.name: FieldValueForbidden: only quay.io is allowed"},
		},
		"AllowedAlready": {
			reason: "a repository that a stream used may be used on", old: status("t", "evil.io/a/b@"+digestA),
			edit: both(spec(fromImage("new", "evil.io/a/b:2")), repository("evil.io/a/b")),
		},
		"AllowedInAnotherWord": {
			reason: "however it is spelled", old: spec(fromImage("t", "nginx:1")), edit: spec(fromImage("new", "docker.io/library/nginx:2")),
		},
		"Insecure": {
			reason: "what is allowed depends on the port", edit: spec(insecure),
		},
		"InsecureStream": {
			reason: "which is the stream's to say as well",
			edit: both(repository("evil.io/a/b"), func(r *storev1.StreamRecord) {
				r.Annotations = map[string]string{imagev1.InsecureRepositoryAnnotation: "true"}
			}),
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			old := recordOf("s")
			if tc.old != nil {
				tc.old(old)
			}
			r := old.DeepCopy()
			tc.edit(r)
			if diff := cmp.Diff(tc.want, details(Validate(r, old, onlyQuay))); diff != "" {
				t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
			}
			if errs := Validate(r, r, onlyQuay); len(errs) > 0 && !strings.Contains(name, "Twice") {
				t.Errorf("%s: what was there is not looked at again: %v", tc.reason, errs)
			}
		})
	}
}
