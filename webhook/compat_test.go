package webhook

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/openshift/api/image/v1"
	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"istag.dev/config"
	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

const (
	internal = "registry.example.com:5000" // host by which streams are named in full
	localRef = internal + "/shop/mirrored@" + digest
)

// openshiftStreams are streams as OpenShift knows them, in namespaces "shop" and "base".
func openshiftStreams() []any {
	event := []imagev1.TagEvent{{DockerImageReference: pulled, Image: digest}}
	tag := func(name string, policy imagev1.TagReferencePolicyType) imagev1.TagReference {
		return imagev1.TagReference{Name: name, From: &corev1.ObjectReference{Kind: "DockerImage", Name: "quay.io/a/b:1"}, ReferencePolicy: imagev1.TagReferencePolicy{Type: policy}}
	}
	record := func(namespace, name string, local bool, spec ...imagev1.TagReference) *storev1.StreamRecord {
		r := &storev1.StreamRecord{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
		r.Spec.LookupPolicy.Local, r.Spec.Tags = local, spec
		r.Status.DockerImageRepository = internal + "/" + namespace + "/" + name
		r.Status.Tags = []imagev1.NamedTagEventList{{Tag: "latest", Items: event}, {Tag: "pushed", Items: event}}
		return r
	}
	reference := tag("reference", imagev1.SourceTagReferencePolicy)
	reference.Reference = true
	local := record("shop", "local", true, tag("latest", imagev1.SourceTagReferencePolicy), reference, imagev1.TagReference{Name: "empty"})
	local.Status.Tags = append(local.Status.Tags, imagev1.NamedTagEventList{Tag: "reference", Items: []imagev1.TagEvent{{DockerImageReference: "quay.io/a/b:1"}}})
	return []any{
		local,
		record("shop", "mirrored", true, tag("latest", imagev1.LocalTagReferencePolicy)),
		record("shop", "quiet", false, tag("latest", imagev1.SourceTagReferencePolicy)),
		record("shop", "node.js", true, tag("latest", imagev1.SourceTagReferencePolicy)),
		record("base", "base", false, tag("latest", imagev1.SourceTagReferencePolicy)),
	}
}

// compatCase is one row of what is known of OpenShift's image policy admission.
type compatCase struct {
	reason  string
	request admissionv1.AdmissionRequest
	mode    config.ResolutionMode // empty means what is shipped
	want    []string              // images that take the place of what is written, in order
	denied  string                // part of the message; a deliberate difference unless the mode requires
}

// compat runs a table in a cluster where alice may use streams of namespace "base", and nobody else.
func compat(t *testing.T, cases map[string]compatCase) {
	t.Helper()
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p := newPinner(t, func(o *Options) {
				o.Index = store.NewIndex()
				if err := o.Index.Replace(openshiftStreams(), "1"); err != nil {
					t.Fatal(err)
				}
				o.Access = accessFunc(func(user authenticationv1.UserInfo, namespace, _ string) (bool, error) {
					return user.Username == "alice" && namespace == "base", nil
				})
				o.Policy = policyOf(t, nil, func(c *config.Policy) {
					c.RegistryHosts = []string{internal}
					if tc.mode != "" {
						c.ResolveImages = tc.mode
						c.ResolutionRules = []config.ResolutionRule{
							{TargetResource: config.GroupResource{Resource: "pods"}, LocalNames: true},
							{TargetResource: config.GroupResource{Group: "apps", Resource: "*"}, LocalNames: true},
							{TargetResource: config.GroupResource{Group: "batch", Resource: "*"}, LocalNames: true},
						}
					}
				})
			})
			response := ask(t, p, tc.request)
			message := ""
			if response.Result != nil {
				message = response.Result.Message
			}
			if response.Allowed != (tc.denied == "") || !strings.Contains(message, tc.denied) {
				t.Fatalf("%s: allowed %v, %q", tc.reason, response.Allowed, message)
			}
			var got []string
			for _, p := range decodePatch(response) {
				if strings.HasSuffix(p.Path, "/image") {
					got = append(got, fmt.Sprint(p.Value))
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
			}
		})
	}
}

// TestCompatKinds: what the shipped policy does with each resource (section 1.3 of what is known), and where their
// images are (1.4).
func TestCompatKinds(t *testing.T) {
	const (
		spec     = `{"initContainers":[{"name":"i","image":"local"}],"containers":[{"name":"c","image":"local"}]}`
		before   = `{"initContainers":[{"name":"i","image":"x/y"}],"containers":[{"name":"c","image":"x/y"}]}`
		template = `{"metadata":{},"spec":{"template":{"spec":` + spec + `}}}`
		old      = `{"metadata":{},"spec":{"template":{"spec":` + before + `}}}`
	)
	both := []string{pulled, pulled}
	cases := map[string]compatCase{
		"1.3 PodCreate": {reason: "bare pods are rewritten", request: request("pods", `{"metadata":{},"spec":`+spec+`}`, ""), want: both},
		"1.3 PodUpdate": {reason: "changed images of pods are rewritten", request: request("pods", `{"metadata":{},"spec":`+spec+`}`, `{"spec":`+before+`}`), want: both},
		"1.3 JobUpdate": {reason: "a Job's template cannot be changed", request: request("jobs", template, old)},
		"1.3 JobOwned":  {reason: "a CronJob's Job keeps what the CronJob had", request: request("jobs", strings.Replace(template, `"metadata":{}`, `"metadata":{`+owned+`}`, 1), "")},
		"1.3 CronJobCreate": {
			reason:  "CronJobs are pinned when they are written",
			request: request("cronjobs", `{"metadata":{},"spec":{"jobTemplate":{"spec":{"template":{"spec":`+spec+`}}}}}`, ""), want: both,
		},
		"1.3 CronJobUpdate": {
			reason:  "and when their images change",
			request: request("cronjobs", `{"metadata":{},"spec":{"jobTemplate":{"spec":{"template":{"spec":`+spec+`}}}}}`, `{"spec":{"jobTemplate":{"spec":{"template":{"spec":`+before+`}}}}}`), want: both,
		},
		"1.4 NoTemplate": {reason: "difference: not 403, the API server judges it", request: request("replicationcontrollers", `{"metadata":{},"spec":{}}`, "")},
		"1.4 PodTemplate": {
			reason:  "difference: PodTemplates are pinned",
			request: request("podtemplates", `{"metadata":{},"template":{"spec":`+spec+`}}`, ""), want: both,
		},
		"1.3 Uncovered": {reason: "other resources are none of ours", request: request("poddisruptionbudgets", template, "")},
	}
	for _, resource := range []string{"replicationcontrollers", "deployments", "replicasets", "statefulsets", "daemonsets", "jobs"} {
		cases["1.3 Create/"+resource] = compatCase{reason: "what a user creates is pinned", request: request(resource, template, ""), want: both}
		if resource != "jobs" {
			cases["1.3 Update/"+resource] = compatCase{reason: "changed images are", request: request(resource, template, old), want: both}
		}
	}
	compat(t, cases)
}

// TestCompatNames: what the parser takes for what (1.5), and what names mean (1.6).
func TestCompatNames(t *testing.T) {
	pod := func(image string) admissionv1.AdmissionRequest { return request("pods", podOf(image, ""), "") }
	asks := func(image string) admissionv1.AdmissionRequest { return request("pods", podOf(image, optIn), "") }
	one := func(image string) []string { return []string{image} }
	cases := map[string]compatCase{
		"1.5 NoTag":        {reason: "no tag means latest", request: pod("local"), want: one(pulled)},
		"1.5 Tag":          {reason: "a tag is a tag", request: pod("local:pushed"), want: one(pulled)},
		"1.5 Digest":       {reason: "a digest is never local", request: pod("local@" + digest)},
		"1.5 TagAndDigest": {reason: "whatever tag it has", request: pod("local:latest@" + digest)},
		"1.5 Path":         {reason: "a path is no candidate", request: pod("library/local")},
		"1.5 LongPath":     {reason: "a longer one neither", request: pod("host/ns/local:latest")},
		"1.5 Dotted":       {reason: "difference: a stream of exactly that name is found", request: pod("node.js:latest"), want: one(pulled)},
		"1.5 DottedNone":   {reason: "one part with a dot is a registry", request: pod("key.cloak")},
		"1.5 Localhost":    {reason: "one part that begins with localhost is a registry", request: pod("localhosting")},
		"1.5 PortLike":     {reason: "one part with a colon has a tag", request: pod("local:pushed"), want: one(pulled)},
		"1.5 Registry":     {reason: "a registry is no candidate", request: pod("docker.io/local")},
		"1.5 Host":         {reason: "the integrated registry is looked up, and not rewritten by default", request: pod(internal + "/base/base:latest")},
		"1.5 HostCase":     {reason: "difference: hosts have no case", request: pod("Registry.Example.com:5000/base/base:latest"), mode: config.AttemptRewrite, want: one(pulled)},
		"1.5 HostPort":     {reason: "another port is another registry", request: pod("registry.example.com/base/base:latest"), mode: config.AttemptRewrite},
		"1.5 HostLongPath": {reason: "a stream's name has one part", request: pod(internal + "/base/a/b:latest"), mode: config.AttemptRewrite},
		"1.5 NotAName":     {reason: "what is no name is ignored", request: pod(" ")},
		"1.5 Capitals":     {reason: "what is no name is ignored", request: pod("Local")},
		"1.5 NoTagText":    {reason: "what is no name is ignored", request: pod("local:")},

		"1.6 StreamNotLocal":      {reason: "a stream that does not permit local use is left", request: pod("quiet")},
		"1.6 OptIn":               {reason: "the object's wish beats the stream's policy", request: asks("quiet"), want: one(pulled)},
		"1.6 OptInDiscardsHost":   {reason: "opting in discards registry and namespace", request: asks("docker.io/library/local:latest"), want: one(pulled)},
		"1.6 OptInDiscardsBase":   {reason: "even those of a stream of another namespace", request: asks(internal + "/base/local:latest"), want: one(pulled)},
		"1.6 OptInNoSuchStream":   {reason: "and a name that no stream has here is left", request: asks(internal + "/base/base:latest")},
		"1.6 OptInOtherValue":     {reason: "only the value * asks", request: request("pods", podOf("quiet", optInOther), "")},
		"1.6 OptInTemplate":       {reason: "the pod template can ask", request: request("deployments", deploymentOf("quiet", optIn), ""), want: one(pulled)},
		"1.6 OptInDigest":         {reason: "a digest is exact already", request: asks("quiet@" + digest)},
		"1.6 PolicySource":        {reason: "the tag event's own reference", request: pod("local"), want: one(pulled)},
		"1.6 PolicyLocal":         {reason: "the stream's repository, with the digest", request: pod("mirrored"), want: one(localRef)},
		"1.6 Pushed":              {reason: "a tag without a spec uses the event's reference, whatever its neighbours say", request: pod("mirrored:pushed"), want: one(pulled)},
		"1.6 Integrated":          {reason: "the integrated registry is rewritten by *Rewrite modes", request: pod(internal + "/base/base"), mode: config.RequiredRewrite, want: one(pulled)},
		"1.6 IntegratedNoRewrite": {reason: "and by no other", request: pod(internal + "/base/base"), mode: config.Required},
		"1.6 Required":            {reason: "what is not exact is refused by Required modes", request: pod("quay.io/x/y:1"), mode: config.Required, denied: "one exact image"},
		"1.6 RequiredNotAName":    {reason: "what is no name too", request: pod(" "), mode: config.RequiredRewrite, denied: "one exact image"},
		"1.6 RequiredNotLocal":    {reason: "a stream that is not for local use resolves nothing", request: pod("quiet"), mode: config.Required, denied: "lookupPolicy"},
		"1.6 DoNotAttempt":        {reason: "rules' local names are rewritten even so", request: pod("local"), mode: config.DoNotAttempt, want: one(pulled)},
	}
	bob := pod(internal + "/base/base")
	bob.UserInfo.Username = "bob"
	cases["1.12 CrossNamespaceRequired"] = compatCase{reason: "difference: another namespace's stream takes the right to use it", request: bob, mode: config.RequiredRewrite, denied: "may not use image stream"}
	cases["1.12 CrossNamespace"] = compatCase{reason: "without it nothing is said of the stream", request: bob, mode: config.AttemptRewrite}
	compat(t, cases)
}

// TestCompatUpdates: what is looked up again (1.7), and what has an owner (1.8).
func TestCompatUpdates(t *testing.T) {
	const list = `{"metadata":{%s},"spec":{"initContainers":[%s],"containers":[%s]}}`
	container := func(name, image string) string { return fmt.Sprintf(`{"name":%q,"image":%q}`, name, image) }
	update := func(object, old string) admissionv1.AdmissionRequest { return request("pods", object, old) }
	one := []string{pulled}
	scale := request("deployments", deploymentOf("local", ""), "")
	scale.SubResource = "scale"
	status := request("pods", podOf("local", ""), podOf("x/y", ""))
	status.SubResource = "status"
	remove := request("pods", "null", podOf("local", ""))
	remove.Operation = admissionv1.Delete
	compat(t, map[string]compatCase{
		"1.7 Unchanged":      {reason: "an identical image is skipped", request: update(podOf("local", `"labels":{"a":"b"}`), podOf("local", ""))},
		"1.7 UnchangedNoTag": {reason: "even if it would be refused today", request: update(podOf("local:absent", ""), podOf("local:absent", ""))},
		"1.7 Changed":        {reason: "a changed one is not", request: update(podOf("local", ""), podOf("local:old", "")), want: one},
		"1.7 Reapplied":      {reason: "a name that was rewritten before is a change", request: update(podOf("local", ""), podOf("quay.io/x@"+digest, "")), want: one},
		"1.7 ByName": {
			reason:  "containers are matched by name, not by index",
			request: update(fmt.Sprintf(list, "", "", container("b", "x/y")+","+container("a", "local")), fmt.Sprintf(list, "", "", container("a", "local")+","+container("b", "x/y"))),
		},
		"1.7 Renamed": {
			reason:  "a renamed container is new",
			request: update(fmt.Sprintf(list, "", "", container("b", "local")), fmt.Sprintf(list, "", "", container("a", "local"))), want: one,
		},
		"1.7 InitAndMain": {
			reason:  "init and main containers share their names",
			request: update(fmt.Sprintf(list, "", container("a", "local"), ""), fmt.Sprintf(list, "", "", container("a", "local"))),
		},
		"1.7 InitFirst": {
			reason:  "of two of a name the init container counts",
			request: update(fmt.Sprintf(list, "", "", container("a", "local")), fmt.Sprintf(list, "", container("a", "x/y"), container("a", "local"))), want: one,
		},
		"1.7 OptedIn":  {reason: "opting in processes everything again", request: update(podOf("quiet", optIn), podOf("quiet", "")), want: one},
		"1.7 OptedOut": {reason: "opting out too", request: update(podOf("local", ""), podOf("local", optIn)), want: one},

		"1.8 Owned":        {reason: "what a controller made is left", request: request("pods", podOf("local", owned), "")},
		"1.8 OwnedUpdate":  {reason: "on updates too", request: update(podOf("local", owned), podOf("x/y", owned))},
		"1.8 OwnedLoosely": {reason: "an owner that is no controller does not count", request: request("pods", podOf("local", ownedLoosely), ""), want: one},
		"1.8 OwnedRefused": {reason: "nothing is refused there", request: request("replicasets", strings.Replace(deploymentOf("local:absent", ""), `"metadata":{}`, `"metadata":{`+owned+`}`, 1), "")},

		"1.1 Status": {reason: "subresources are ignored", request: status},
		"1.1 Scale":  {reason: "subresources are ignored", request: scale},
		"1.1 Delete": {reason: "only create and update are handled", request: remove},
	})
}

// TestCompatNoImage: names whose tag or stream has no image (1.13). OpenShift writes a tag of its own registry, or
// leaves the name, and a node asks Docker Hub for it.
func TestCompatNoImage(t *testing.T) {
	pod := func(image, metadata string) admissionv1.AdmissionRequest {
		return request("pods", podOf(image, metadata), "")
	}
	compat(t, map[string]compatCase{
		"1.13 NoStream":      {reason: "a name without a stream is left", request: pod("mysql", "")},
		"1.13 NoTag":         {reason: "difference: refused", request: pod("local:absent", ""), denied: `has no tag "absent"`},
		"1.13 NotImported":   {reason: "difference: refused", request: pod("local:empty", ""), denied: "has no image yet"},
		"1.13 Reference":     {reason: "difference: refused, a reference has no digest", request: pod("local:reference", ""), denied: "is a reference"},
		"1.13 NotLocal":      {reason: "a stream that is not local is left, whatever its tags", request: pod("quiet:absent", "")},
		"1.13 OptInNoTag":    {reason: "difference: refused, where the object asks for look-ups", request: pod("quiet:absent", optIn), denied: `has no tag "absent"`},
		"1.13 OptInNoStream": {reason: "an object that asks keeps names that no stream has", request: pod("quay.io/a/mysql", optIn)},
		"1.13 Integrated":    {reason: "a full name that means nothing is left to its registry", request: pod(internal+"/base/base:absent", ""), mode: config.AttemptRewrite},
	})
}
