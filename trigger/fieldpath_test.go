package trigger

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFieldPath(t *testing.T) {
	// The container "both" is in both lists only here; the API server would not have it.
	containers := []string{"init:setup=a", "init:both=b", "web=c", "sidecar=d", "both=e"}
	cases := map[string]struct {
		reason string
		kind   string
		path   string
		// want is the container found: its list's letter and its name.
		want    string
		skipped bool
		wantErr string
	}{
		"ByName": {
			reason: "oc set triggers writes this form",
			path:   `spec.template.spec.containers[?(@.name=="web")].image`, want: "c web",
		},
		"InitByNameInContainers": {
			reason: "oc writes containers[...] for init containers too, so a name is looked for in both lists",
			path:   `spec.template.spec.containers[?(@.name=="setup")].image`, want: "i setup",
		},
		"MainByNameInInitContainers": {
			reason: "whichever list the path names",
			path:   `spec.template.spec.initContainers[?(@.name=="web")].image`, want: "c web",
		},
		"InitFirst": {
			reason: "init containers are searched first",
			path:   `spec.template.spec.containers[?(@.name=="both")].image`, want: "i both",
		},
		"ByIndex": {
			reason: "an index counts from 0",
			path:   `spec.template.spec.containers[1].image`, want: "c sidecar",
		},
		"InitByIndex": {
			reason: "an index counts in the list that the path names",
			path:   `spec.template.spec.initContainers[1].image`, want: "i both",
		},
		"IndexOutOfRange": {
			reason: "there is no fourth container",
			path:   `spec.template.spec.containers[3].image`, wantErr: "containers has no index 3: it has 3",
		},
		"InitIndexOutOfRange": {
			reason: "an index does not go on into the other list",
			path:   `spec.template.spec.initContainers[2].image`, wantErr: "initContainers has no index 2: it has 2",
		},
		"HugeIndex": {
			reason: "an index beyond all integers is out of range as well",
			path:   `spec.template.spec.containers[99999999999999999999].image`, wantErr: "has no index",
		},
		"NegativeIndex": {
			reason: "only digits make an index",
			path:   `spec.template.spec.containers[-1].image`, wantErr: "must be an index",
		},
		"SignedIndex": {
			reason: "not even a plus",
			path:   `spec.template.spec.containers[+1].image`, wantErr: "must be an index",
		},
		"NoSelector": {
			reason: "which container?",
			path:   `spec.template.spec.containers[].image`, wantErr: "must be an index",
		},
		"NoSuchName": {
			reason: "a name that no container has",
			path:   `spec.template.spec.containers[?(@.name=="gone")].image`, wantErr: `no container is named "gone"`,
		},
		"EmptyName": {
			reason: "no container has no name",
			path:   `spec.template.spec.containers[?(@.name=="")].image`, wantErr: `no container is named ""`,
		},
		"SingleQuotes": {
			reason: "single quotes do not work in OpenShift",
			path:   `spec.template.spec.containers[?(@.name=='web')].image`, wantErr: "double quotes",
		},
		"OneEqualsSign": {
			reason: "nor does one equals sign, though documentation has shown it",
			path:   `spec.template.spec.containers[?(@.name="web")].image`, wantErr: "two equals signs",
		},
		"Spaces": {
			reason: "nor do spaces",
			path:   `spec.template.spec.containers[?(@.name == "web")].image`, wantErr: "no spaces",
		},
		"Unclosed": {
			reason: "the selector must be whole",
			path:   `spec.template.spec.containers[?(@.name=="web"].image`, wantErr: "must be an index",
		},
		"BareName": {
			reason: "a name alone is no selector",
			path:   `spec.template.spec.containers[web].image`, wantErr: "must be an index",
		},
		"Env": {
			reason: "only images follow tags, not what else a container has",
			path:   `spec.template.spec.containers[0].env[0].value`, wantErr: "end in ].image",
		},
		"BelowImage": {
			reason: "nothing may come after image",
			path:   `spec.template.spec.containers[0].image.name`, wantErr: "end in ].image",
		},
		"Container": {
			reason: "a container is not an image",
			path:   `spec.template.spec.containers[0]`, wantErr: "end in ].image",
		},
		"Ephemeral": {
			reason: "a template has no ephemeral containers",
			path:   `spec.template.spec.ephemeralContainers[0].image`, wantErr: "initContainers[...].image",
		},
		"Volume": {
			reason: "image volumes do not follow tags",
			path:   `spec.template.spec.volumes[0].image.reference`, wantErr: "initContainers[...].image",
		},
		"OtherBase": {
			reason: "a path into something else is skipped without a word",
			path:   `spec.strategy.customParams.image`, skipped: true,
		},
		"PodBase": {
			reason: "the path of a bare pod is not that of a template",
			path:   `spec.containers[0].image`, skipped: true,
		},
		"NoPath": {
			reason: "no path leads nowhere",
			path:   ``, skipped: true,
		},
		"BaseOnly": {
			reason: "the pod spec itself is not below itself",
			path:   `spec.template.spec`, skipped: true,
		},
		"LongerWord": {
			reason: "the base is compared by whole names",
			path:   `spec.template.specs.containers[0].image`, skipped: true,
		},
		"StatefulSet": {
			reason: "all of apps/v1 have the same base", kind: "StatefulSet",
			path: `spec.template.spec.containers[0].image`, want: "c web",
		},
		"DaemonSet": {
			reason: "all of apps/v1 have the same base", kind: "DaemonSet",
			path: `spec.template.spec.containers[0].image`, want: "c web",
		},
		"CronJob": {
			reason: "a CronJob's template lies deeper", kind: "CronJob",
			path: `spec.jobTemplate.spec.template.spec.containers[0].image`, want: "c web",
		},
		"CronJobWithBaseOfDeployment": {
			reason: "the base of another kind is skipped", kind: "CronJob",
			path: `spec.template.spec.containers[0].image`, skipped: true,
		},
		"DeploymentWithBaseOfCronJob": {
			reason: "the base of another kind is skipped",
			path:   `spec.jobTemplate.spec.template.spec.containers[0].image`, skipped: true,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			k := deployment()
			if tc.kind != "" {
				k = kindNamed(t, tc.kind)
			}
			spec := k.podSpec(workload(k, "w", "", containers...))
			rest, ok := below(k.base, tc.path)
			if ok == tc.skipped {
				t.Fatalf("%s: path is below the base: %t", tc.reason, ok)
			}
			if tc.skipped {
				return
			}
			at, err := locate(spec, rest)
			if (err != nil) != (tc.wantErr != "") || (err != nil && !strings.Contains(err.Error(), tc.wantErr)) {
				t.Fatalf("%s: error is %v, want one with %q", tc.reason, err, tc.wantErr)
			}
			if err != nil {
				return
			}
			got := "c " + spec.Containers[at.index].Name
			if at.init {
				got = "i " + spec.InitContainers[at.index].Name
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s: -want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}
