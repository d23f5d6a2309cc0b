package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"istag.dev/config"
	"istag.dev/webhook/audit"
)

// shipped is what `kubectl apply -k deploy/base` would apply, as far as a cluster without kubelets can
// use it.
type shipped struct {
	crds, others []*unstructured.Unstructured
	// config is the configuration that the roles' pods would mount.
	config *config.Configuration
}

// dropped are the kinds that make or keep pods of istag: here its roles are processes.
var dropped = []string{"Deployment", "PodDisruptionBudget"}

// webhookKinds are those of objects that say where webhooks are.
var webhookKinds = []string{"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"}

// manifests renders a kustomization with kubectl.
func (e *Env) manifests(ctx context.Context, kustomization string) (*shipped, error) {
	result := e.Kubectl(ctx, "kustomize", kustomization)
	if result.Code != 0 {
		return nil, fmt.Errorf("rendering the manifests: %w", result.Err())
	}
	all, err := decode(result.Stdout)
	if err != nil {
		return nil, fmt.Errorf("reading the rendered manifests: %w", err)
	}
	s := &shipped{}
	for _, object := range all {
		switch kind := object.GetKind(); {
		case slices.Contains(dropped, kind):
		case kind == "CustomResourceDefinition":
			s.crds = append(s.crds, object)
		default:
			s.others = append(s.others, object)
		}
	}
	s.config, err = shippedConfig(s.others)
	return s, err
}

// shippedConfig is the configuration among the objects, or the default if none is shipped.
func shippedConfig(objects []*unstructured.Unstructured) (*config.Configuration, error) {
	for _, object := range objects {
		if object.GetKind() != "ConfigMap" {
			continue
		}
		files, _, err := unstructured.NestedStringMap(object.Object, "data")
		if err != nil {
			return nil, err
		}
		for name, text := range files {
			var about metav1.TypeMeta
			if yaml.Unmarshal([]byte(text), &about) != nil || about.Kind != config.Kind {
				continue
			}
			c, err := config.Parse([]byte(text))
			if err != nil {
				return nil, fmt.Errorf("the shipped ConfigMap %q, file %q: %w", object.GetName(), name, err)
			}
			return c, nil
		}
	}
	return config.Default(), nil
}

// install applies the manifests: first the kinds, then what uses them.
func (e *Env) install(ctx context.Context, s *shipped) error {
	for _, object := range s.others {
		point := func(*unstructured.Unstructured) error { return nil }
		switch {
		case slices.Contains(webhookKinds, object.GetKind()):
			point = e.pointHere
		case object.GetKind() == apiServiceKind, object.GetKind() == serviceKind && object.GetName() == "istag-"+apiserverRole:
			point = e.pointServiceHere
		}
		if err := point(object); err != nil {
			return fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err)
		}
	}
	if err := e.apply(ctx, s.crds); err != nil {
		return err
	}
	args := []string{"wait", "--for=condition=Established", "--timeout=30s"}
	for _, crd := range s.crds {
		args = append(args, "crd/"+crd.GetName())
	}
	if result := e.Kubectl(ctx, args...); result.Code != 0 {
		return result.Err()
	}
	return e.apply(ctx, s.others)
}

// pointHere lets the API server reach the webhooks of a configuration at our process: Services have no
// addresses here.
func (e *Env) pointHere(configuration *unstructured.Unstructured) error {
	webhooks, _, err := unstructured.NestedSlice(configuration.Object, "webhooks")
	if err != nil {
		return err
	}
	for _, entry := range webhooks {
		fields, ok := entry.(map[string]any)
		if !ok {
			return errors.New("a webhook is not an object")
		}
		path, ok, _ := unstructured.NestedString(fields, "clientConfig", "service", "path")
		if !ok {
			return fmt.Errorf("webhook %v names no path of a service", fields["name"])
		}
		unstructured.RemoveNestedField(fields, "clientConfig", "service")
		if err := unstructured.SetNestedField(fields, e.webhookBase+path, "clientConfig", "url"); err != nil {
			return err
		}
	}
	return unstructured.SetNestedSlice(configuration.Object, webhooks, "webhooks")
}

func (e *Env) apply(ctx context.Context, objects []*unstructured.Unstructured) error {
	var text bytes.Buffer
	for _, object := range objects {
		data, err := yaml.Marshal(object.Object)
		if err != nil {
			return err
		}
		text.WriteString("---\n")
		text.Write(data)
	}
	if result := e.KubectlStdin(ctx, text.String(), "apply", "-f", "-"); result.Code != 0 {
		return result.Err()
	}
	return nil
}

func decode(manifests string) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader([]byte(manifests)), 4096)
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(object)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		if len(object.Object) > 0 {
			objects = append(objects, object)
		}
	}
}

// AdmissionLabel, on a namespace, asks for admission; Enforce is its value that pins.
const (
	AdmissionLabel = "istag.dev/admission"
	Enforce        = "enforce"
)

// waitForAdmission returns when a dry-run creation really passed both webhooks: when the audit log has it and there was something to
// check. That it was not refused would prove nothing.
func (e *Env) waitForAdmission(ctx context.Context) error {
	probe := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "istag-probe-", Labels: map[string]string{AdmissionLabel: Enforce}}}
	if err := e.Client().Create(ctx, probe); err != nil {
		return err
	}
	labels := map[string]string{"app": "probe"}
	err := e.Wait(ctx, "an object passes the webhook", func(ctx context.Context) error {
		// It needs no ServiceAccount, which a new namespace does not have at once.
		controller := &corev1.ReplicationController{
			ObjectMeta: metav1.ObjectMeta{Namespace: probe.Name, Name: "probe"},
			Spec: corev1.ReplicationControllerSpec{Selector: labels, Template: &corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "probe", Image: "probe"}}},
			}},
		}
		if err := e.Client().Create(ctx, controller, client.DryRunAll); err != nil {
			return err
		}
		records, err := e.AuditRecords()
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(records, func(r audit.Record) bool { return r.Namespace == probe.Name }) {
			return errors.New("it was admitted, and the webhook never saw it")
		}
		return e.hasChecked(ctx)
	})
	if err != nil {
		return err
	}
	return e.Client().Delete(ctx, probe)
}

// hasChecked says so if nobody was asked yet by the validating webhook, which has nothing to record of what it accepts.
func (e *Env) hasChecked(ctx context.Context) error {
	for _, replica := range e.Webhooks() {
		metrics, err := get(ctx, http.DefaultClient, replica.Metrics())
		if err != nil {
			return err
		}
		if bytes.Contains(metrics, []byte(`istag_admission_duration_seconds_count{webhook="check"}`)) {
			return nil
		}
	}
	return errors.New("the webhook never had to check it")
}
