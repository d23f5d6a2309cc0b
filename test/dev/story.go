package main

import (
	"context"
	"fmt"
	"strings"
)

const (
	repository = "quay.io/keycloak/keycloak"

	// Where the image of each kind stands.
	inPod      = ".spec.containers[0].image"
	inTemplate = ".spec.template.spec.containers[0].image"
	inIstag    = ".image.dockerImageReference"
	inCronJob  = ".spec.jobTemplate.spec.template.spec.containers[0].image"

	triggers = `image.openshift.io/triggers=[{"from":{"kind":"ImageStreamTag","name":"keycloak:20.0"},` +
		`"fieldPath":"spec.template.spec.containers[?(@.name==\"keycloak\")].image"}]`
)

// stream is the story's stream.
const stream = `
apiVersion: image.openshift.io/v1
kind: ImageStream
metadata:
  name: keycloak
  namespace: shop
spec:
  lookupPolicy:
    local: true        # workloads of this namespace may say just "keycloak:20.0"
  tags:
  - name: "20.0"
    from:
      kind: DockerImage
      name: ` + repository + `:20.0.2
`

// alias is a tag that means what another means.
const alias = `
apiVersion: image.openshift.io/v1
kind: ImageStreamTag
metadata:
  name: keycloak:prod
  namespace: shop
tag:
  from:
    kind: ImageStreamTag
    name: keycloak:20.0
`

// privateImport makes a stream that workloads may not use by its short name.
const privateImport = `
apiVersion: image.openshift.io/v1
kind: ImageStreamImport
metadata:
  name: httpd          # no lookupPolicy: "httpd" keeps its usual meaning
  namespace: shop
spec:
  import: true
  images:
  - from:
      kind: DockerImage
      name: quay.io/redhattraining/httpd-24:2.4
    to:
      name: "2.4"
`

// story is what istag is for, one step at a time.
var story = []step{
	{"A team's namespace asks for image streams by a label.", []action{
		succeeds("create", "namespace", "shop"),
		succeeds("label", "namespace", "shop", "istag.dev/admission=enforce"),
	}},
	{"Its stream “keycloak” has a tag, 20.0, that follows 20.0.2 of an upstream repository.", []action{
		applied(stream),
	}},
	{"istag asks the registry which digest that is, and remembers it.", []action{
		succeeds("wait", "istag/keycloak:20.0", "--namespace", "shop", "--for", "create", "--timeout", "60s"),
		images(inIstag, pinned("20.0.2"), "shop istag/keycloak:20.0"),
		succeeds("get", "is,istag", "--namespace", "shop"),
		serves("20.0.2"),
	}},
	{"Now people use the short name, with every command they know…", []action{
		succeeds("create", "deployment", "mykeycloak", "--image", "keycloak:20.0", "--namespace", "shop"),
		succeeds("run", "once", "--image", "keycloak:20.0", "--restart", "Never", "--namespace", "shop"),
		succeeds("create", "job", "migrate", "--image", "keycloak:20.0", "--namespace", "shop"),
		succeeds("create", "cronjob", "nightly", "--image", "keycloak:20.0", "--schedule", "0 3 * * *", "--namespace", "shop"),
	}},
	{"…and what Kubernetes holds is the exact image that the registry serves.", []action{
		images(inTemplate, pinned("20.0.2"), "shop deployment/mykeycloak", "shop job/migrate"),
		images(inPod, pinned("20.0.2"), "shop pod/once"),
		images(inCronJob, pinned("20.0.2"), "shop cronjob/nightly"),
		succeeds("rollout", "status", "deployment/mykeycloak", "--namespace", "shop", "--timeout", "60s"),
	}},
	{"What was written is not forgotten: the object says what it was and what it became.", []action{
		succeeds("get", "deployment", "mykeycloak", "--namespace", "shop", "--output", `jsonpath={.metadata.annotations.istag\.dev/pinned}{"\n"}`),
	}},
	{"A namespace without the label is left alone.", []action{
		succeeds("create", "namespace", "elsewhere"),
		succeeds("create", "deployment", "mykeycloak", "--image", "keycloak:20.0", "--namespace", "elsewhere"),
		images(inTemplate, written("keycloak:20.0"), "elsewhere deployment/mykeycloak"),
	}},
	{"A stream that does not offer local lookup is left alone too. (This one comes into being by an import, which answers with what it found.)", []action{
		created(privateImport, "--output", `jsonpath={.status.images[0].status.status}: {.status.images[0].image.dockerImageReference}{"\n"}`),
		succeeds("create", "deployment", "web", "--image", "httpd:2.4", "--namespace", "shop"),
		images(inTemplate, written("httpd:2.4"), "shop deployment/web"),
	}},
	{"A tag that the stream lacks is refused, with what to do; it never goes to Docker Hub.", []action{
		refused([]string{"create", "deployment", "typo", "--image", "keycloak:20.1", "--namespace", "shop"},
			`has no tag "20.1"`, "it has 20.0", "kubectl edit imagestream keycloak --namespace shop"),
	}},
	{"Another tag, prod, is an alias of 20.0: it means the same, always.", []action{
		applied(alias),
		images(inIstag, pinned("20.0.2"), "shop istag/keycloak:prod"),
	}},
	{"The Deployment asks to follow the tag, by OpenShift's annotation.", []action{
		succeeds("annotate", "deployment", "mykeycloak", triggers, "--namespace", "shop"),
	}},
	{"20.0.3 comes out, and the tag moves to it. So does its alias.", []action{
		succeeds("patch", "istag", "keycloak:20.0", "--namespace", "shop", "--type", "merge",
			"--patch", `{"tag":{"from":{"kind":"DockerImage","name":"`+repository+`:20.0.3"}}}`),
		waits("istag/keycloak:20.0", inIstag, "20.0.3"),
		images(inIstag, pinned("20.0.3"), "shop istag/keycloak:prod"),
		serves("20.0.3"),
	}},
	{"Nobody touches the Deployment: it rolls out by itself, and completes.", []action{
		waits("deployment/mykeycloak", inTemplate, "20.0.3"),
		succeeds("rollout", "status", "deployment/mykeycloak", "--namespace", "shop", "--timeout", "60s"),
		images(inTemplate, pinned("20.0.3"), "shop deployment/mykeycloak"),
	}},
	{"20.0.3 was a mistake. The stream remembers what the tag meant before; the tag moves back to it, and so does the Deployment.", []action{
		succeeds("get", "is", "keycloak", "--namespace", "shop", "--output", `jsonpath={range .status.tags[?(@.tag=="20.0")].items[*]}{.created} {.dockerImageReference}{"\n"}{end}`),
		movesBack("20.0.2"),
		waits("deployment/mykeycloak", inTemplate, "20.0.2"),
		succeeds("rollout", "status", "deployment/mykeycloak", "--namespace", "shop", "--timeout", "60s"),
		images(inTemplate, pinned("20.0.2"), "shop deployment/mykeycloak"),
		succeeds("rollout", "history", "deployment/mykeycloak", "--namespace", "shop"),
	}},
	{"Who did that, and how, stands on the tag.", []action{
		succeeds("get", "istag", "keycloak:20.0", "--namespace", "shop", "--output", `jsonpath={.metadata.annotations.istag\.dev/origin}{"\n"}`),
	}},
	{"Every decision is a line of JSON in the audit log. Those on “mykeycloak” and “typo”:", []action{
		audited("mykeycloak", "typo"),
	}},
}

// audited shows the audit log's lines on Deployments of the shop, each of which must have one.
func audited(names ...string) action {
	return func(_ context.Context, p *play) error {
		lines, err := p.env.AuditLines()
		if err != nil {
			return err
		}
		seen := map[string]bool{}
		for _, line := range lines {
			for _, name := range names {
				if strings.Contains(line, `"namespace":"shop","kind":"Deployment.apps","name":"`+name+`"`) {
					p.show(line)
					seen[name] = true
				}
			}
		}
		for _, name := range names {
			if !seen[name] {
				return fmt.Errorf("expected a line on deployment %q in the audit log", name)
			}
		}
		return nil
	}
}

// movesBack makes the story's tag mean an image that it meant before.
func movesBack(tag string) action {
	return func(ctx context.Context, p *play) error {
		pullSpec, err := pinned(tag)(ctx, p)
		if err != nil {
			return err
		}
		_, digest, _ := strings.Cut(pullSpec, "@")
		return p.kubectl(ctx, "patch", "istag", "keycloak:20.0", "--namespace", "shop", "--type", "merge",
			"--patch", `{"tag":{"from":{"kind":"ImageStreamImage","name":"keycloak@`+digest+`"}}}`).Err()
	}
}
