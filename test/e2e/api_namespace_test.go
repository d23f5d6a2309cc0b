package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// elsewhere is a tag of another namespace.
func (p *place) elsewhere(name string) *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "ImageStreamTag", Namespace: p.name, Name: name}
}

const follows = "istag.dev/follow=true"

func TestUsersHaveTheirNamespaces(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	for name, c := range map[string]struct {
		reason, role, may string
		want              string
	}{
		"view looks":            {"Kubernetes' own roles have streams in them", "view", "list imagestreamtags.image.openshift.io", "yes"},
		"view watches":          {"kubectl get -w and controllers of users", "view", "watch imagestreams.image.openshift.io", "yes"},
		"view pulls nothing":    {"to see a stream is not to have its images", "view", "get imagestreams.image.openshift.io --subresource layers", "no"},
		"view has no secrets":   {"nor anything that pulls them", "view", "get imagestreams.image.openshift.io --subresource secrets", "no"},
		"view moves nothing":    {"who looks does not change", "view", "update imagestreamtags.image.openshift.io", "no"},
		"edit moves tags":       {"who changes workloads changes their images", "edit", "update imagestreamtags.image.openshift.io", "yes"},
		"edit imports":          {"and imports them", "edit", "create imagestreamimports.image.openshift.io", "yes"},
		"edit writes no record": {"records are istag's", "edit", "update streamrecords.store.istag.dev", "no"},
		"admin":                 {"an administrator may all that", "admin", "deletecollection imagestreams.image.openshift.io", "yes"},
		"puller pulls":          {"pulling can be granted alone", "system:image-puller", "get imagestreams.image.openshift.io --subresource layers", "yes"},
		"puller sees nothing":   {"and is nothing else", "system:image-puller", "get imagestreams.image.openshift.io", "no"},
		"nobody":                {"whoever was given nothing has nothing", "", "get imagestreams.image.openshift.io", "no"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &place{t: t, name: p.name}
			var roles []string
			if c.role != "" {
				roles = append(roles, c.role)
			}
			user := p.as("user-"+strings.ReplaceAll(name, " ", "-"), roles...)
			p.wait(c.reason, func(context.Context) error {
				if got := strings.TrimSpace(user.try(append([]string{"auth", "can-i"}, strings.Fields(c.may)...)...).Stdout); got != c.want {
					return fmt.Errorf("%s may %s: want %s, got %q", c.role, c.may, c.want, got)
				}
				return nil
			})
		})
	}
	_, err := p.as("stranger").is(t.Context(), "keycloak")
	wants(t, "the API asks the cluster what a user may", err, metav1.StatusReasonForbidden, `"stranger"`)
}

func TestCopyFromAnotherNamespace(t *testing.T) {
	t.Parallel()
	platform, team := newPlace(t), newPlace(t)
	platform.stream("base", notLocal, "1="+keycloak+":20.0.2")
	alice := team.as("alice", "edit")
	team.wait("alice may edit her namespace", func(ctx context.Context) error {
		return alice.tag(ctx, "mine:1", from("DockerImage", keycloak+":20.0.1"))
	})

	// The words for what is there and for what is not are the same.
	denied := func(name string) string {
		t.Helper()
		err := alice.tag(t.Context(), "copy:1", platform.elsewhere(name))
		wants(t, "to use a stream of another namespace needs a right there", err, metav1.StatusReasonInvalid, "tag.from")
		var status apierrors.APIStatus
		if errors.As(err, &status) {
			for _, cause := range status.Status().Details.Causes {
				if cause.Field == "tag.from" && cause.Type != metav1.CauseTypeForbidden && !strings.Contains(cause.Message, "Forbidden") {
					t.Errorf("the cause says that it is forbidden: %+v", cause)
				}
			}
		}
		return fmt.Sprint(err)
	}
	there, tagless, missing := denied("base:1"), denied("base:9"), denied("nope:1")
	if strings.ReplaceAll(tagless, "base:9", "base:1") != there || strings.ReplaceAll(strings.ReplaceAll(missing, "nope:1", "base:1"), `"nope"`, `"base"`) != there {
		t.Errorf("a refusal discloses nothing of what it refuses:\n%s\n%s\n%s", there, tagless, missing)
	}
	_, err := alice.is(t.Context(), "copy")
	wants(t, "nothing of it is written", err, metav1.StatusReasonNotFound, "copy")

	platform.as("alice", "system:image-puller")
	team.wait("alice may copy", func(ctx context.Context) error { return alice.tag(ctx, "copy:1", platform.elsewhere("base:1")) })
	team.tagMeans("copy", "1", served(t, keycloak+":20.0.2"))
	platform.stream("base", notLocal, "1="+keycloak+":20.0.3")
	platform.tagMeans("base", "1", served(t, keycloak+":20.0.3"))
	team.tagMeans("copy", "1", served(t, keycloak+":20.0.2")) // a promotion is a copy: it stays

	_, err = alice.istag(t.Context(), "copy:1")
	team.check(err)
	bob := team.as("bob", "edit")
	team.wait("bob may edit the namespace", func(ctx context.Context) error {
		return bob.tag(ctx, "his:1", from("DockerImage", keycloak+":20.0.1"))
	})
	wants(t, "a colleague's right is not one's own", bob.tag(t.Context(), "his:2", platform.elsewhere("base:1")), metav1.StatusReasonInvalid, "tag.from")
}

func TestTagFollowsAnotherStream(t *testing.T) {
	t.Parallel()
	platform, team := newPlace(t), newPlace(t)
	platform.stream("base", notLocal, "1="+keycloak+":20.0.2")
	alice := team.as("alice", "edit")
	platform.as("alice", "system:image-puller")
	team.wait("alice may copy", func(ctx context.Context) error {
		return alice.tag(ctx, "app:base", platform.elsewhere("base:1"), follows)
	})
	// A chain over a namespace, a stream and an alias.
	team.check(alice.tag(t.Context(), "app:alias", from("ImageStreamTag", "base")))
	team.check(alice.tag(t.Context(), "next:1", from("ImageStreamTag", "app:alias"), follows))
	team.check(alice.tag(t.Context(), "copy:1", from("ImageStreamTag", "app:alias")))
	all := func(version string) {
		t.Helper()
		for _, istag := range []string{"app:base", "app:alias", "next:1"} {
			stream, tag, _ := strings.Cut(istag, ":")
			team.tagMeans(stream, tag, served(t, keycloak+":"+version))
		}
	}
	all("20.0.2")
	platform.stream("base", notLocal, "1="+keycloak+":20.0.3")
	all("20.0.3")
	team.tagMeans("copy", "1", served(t, keycloak+":20.0.2")) // it did not ask to follow

	// That a right is gone is noticed when the source moves, a moment later at the latest.
	platform.kubectl("delete", "rolebinding", "alice-system-image-puller")
	var message string
	moves := 0
	team.wait("the tag stops following", func(ctx context.Context) error {
		platform.stream("base", notLocal, "1="+keycloak+":"+[]string{"20.0.1", "20.0.2", "20.0.3"}[moves%3])
		moves++
		istag, err := team.istag(ctx, "app:base")
		if err != nil {
			return err
		}
		failed := failure(istag.Conditions)
		if failed == nil || failed.Reason != "Forbidden" {
			return fmt.Errorf("its conditions are %+v", istag.Conditions)
		}
		message = failed.Message
		return nil
	})
	if !strings.Contains(message, platform.name) {
		t.Errorf("who loses the right is told where: %s", message)
	}
	kept, err := team.istag(t.Context(), "app:base")
	team.check(err)
	platform.stream("base", notLocal, "1="+keycloak+":19.0")
	if now, err := team.istag(t.Context(), "app:base"); err != nil || now.Image.Name != kept.Image.Name {
		t.Errorf("and keeps what the tag meant while they had it: %v %+v", err, now)
	}
	platform.as("alice", "system:image-puller")
	platform.stream("base", notLocal, "1="+keycloak+":20.0.2")
	all("20.0.2")
}

func TestTagsThatFollowEachOtherStandStill(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.stream("a", local, "1="+keycloak+":20.0.2")
	p.check(p.tag(t.Context(), "b:1", from("ImageStreamTag", "a:1"), follows))
	p.tagMeans("b", "1", served(t, keycloak+":20.0.2"))
	wants(t, "a circle is refused when it is closed", p.tag(t.Context(), "a:1", from("ImageStreamTag", "b:1"), follows), metav1.StatusReasonInvalid, "a:1")
	wants(t, "and so is a tag of itself", p.tag(t.Context(), "b:2", from("ImageStreamTag", "2")), metav1.StatusReasonInvalid, "itself")
	p.stream("a", local, "1="+keycloak+":20.0.3")
	p.tagMeans("b", "1", served(t, keycloak+":20.0.3"))
}

func TestPullSecretsOfANamespace(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.kubectl("create", "secret", "docker-registry", "pull", "--docker-server", "quay.io", "--docker-username", "u", "--docker-password", "p")
	p.kubectl("create", "secret", "generic", "other", "--from-literal", "a=b")
	secrets, err := env.Images().ImageV1().ImageStreams(p.name).Secrets(t.Context(), "any", metav1.GetOptions{})
	p.check(err)
	if len(secrets.Items) != 1 || secrets.Items[0].Name != "pull" {
		t.Errorf("of a namespace's secrets those that pull are shown: %+v", secrets.Items)
	}
}

// TestNamespaceGoes is what every namespace of the cluster depends on while the API is registered.
func TestNamespaceGoes(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2", "19.0="+keycloak+":19.0")
	p.check(p.tag(t.Context(), "copy:1", from("ImageStreamTag", "keycloak:20.0"), follows))
	p.check(env.Kubectl(t.Context(), "delete", "namespace", p.name, "--timeout", "60s").Err())
	records := env.Kubectl(t.Context(), "get", "streamrecords", "--namespace", p.name, "--output", "name")
	if records.Stdout != "" {
		t.Errorf("with a namespace its streams go, got %s", records.Stdout)
	}
}
