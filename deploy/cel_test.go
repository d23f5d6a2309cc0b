package deploy_test

import (
	"fmt"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/cel/environment"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

// oldestCEL is what a new expression may use in Kubernetes 1.30, the oldest that istag runs on: what the version before it had.
func oldestCEL() *environment.EnvSet { return environment.MustBaseEnvSet(version.MajorMinor(1, 29)) }

// request is an admission request, in words.
type request struct {
	// resource is "deployments.v1.apps", "pods.v1." or "pods.v1./ephemeralcontainers".
	resource string
	// object and old are manifests without apiVersion and kind; no old means CREATE.
	object, old string
}

// attributes are the request as admission has it: with objects of Go types, as in an API server since 1.37, or without, as in those before.
func (r request) attributes(t *testing.T, typed bool) *admission.VersionedAttributes {
	t.Helper()
	resource, sub, _ := strings.Cut(r.resource, "/")
	gvr, _ := schema.ParseResourceArg(resource)
	if gvr == nil {
		t.Fatalf("%q is no resource", r.resource)
	}
	kind := gvr.GroupVersion().WithKind(kindOf(t, gvr.Resource))
	operation := admission.Create
	object, old := r.decode(t, kind, r.object, typed), runtime.Object(nil)
	if r.old != "" {
		operation, old = admission.Update, r.decode(t, kind, r.old, typed)
	}
	attributes := &admission.VersionedAttributes{
		Attributes:      admission.NewAttributesRecord(object, old, kind, "team-a", "x", *gvr, sub, operation, nil, false, &user.DefaultInfo{}),
		VersionedKind:   kind,
		VersionedObject: admission.NewLazyObject(object),
	}
	if old != nil {
		attributes.VersionedOldObject = admission.NewLazyObject(old)
	}
	return attributes
}

func (r request) decode(t *testing.T, kind schema.GroupVersionKind, manifest string, typed bool) runtime.Object {
	t.Helper()
	content := map[string]any{}
	if err := yaml.Unmarshal([]byte(manifest), &content); err != nil {
		t.Fatalf("%v: %.300s", err, manifest)
	}
	if _, ok := content["metadata"]; !ok {
		content["metadata"] = map[string]any{"name": "x"}
	}
	known := clientgoscheme.Scheme.Recognizes(kind)
	if known {
		// By its Go type, so that it has what Go writes without being told to.
		object, err := clientgoscheme.Scheme.New(kind)
		if err != nil {
			t.Fatal(err)
		}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(content, object, true); err != nil {
			t.Fatalf("%v: %.300s", err, manifest)
		}
		if typed {
			return object
		}
		if content, err = runtime.DefaultUnstructuredConverter.ToUnstructured(object); err != nil {
			t.Fatal(err)
		}
	}
	object := &unstructured.Unstructured{Object: content}
	object.SetGroupVersionKind(kind)
	return object
}

func kindOf(t *testing.T, resource string) string {
	t.Helper()
	for _, kind := range []string{
		"Pod", "PodTemplate", "ReplicationController", "Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job", "CronJob", "ControllerRevision", "Rollout",
	} {
		if strings.ToLower(kind)+"s" == resource {
			return kind
		}
	}
	t.Fatalf("what kind is %q?", resource)
	return ""
}

// sender is a webhook's conditions, compiled.
type sender struct {
	conditions []admissionregistrationv1.MatchCondition
	evaluator  cel.ConditionEvaluator
}

func newSender(t *testing.T, conditions []admissionregistrationv1.MatchCondition) sender {
	t.Helper()
	accessors := make([]cel.ExpressionAccessor, 0, len(conditions))
	for i := range conditions {
		accessors = append(accessors, (*matchconditions.MatchCondition)(&conditions[i]))
	}
	evaluator := cel.NewConditionCompiler(oldestCEL()).CompileCondition(accessors, cel.OptionalVariableDeclarations{HasAuthorizer: true}, environment.NewExpressions)
	if errs := evaluator.CompilationErrors(); len(errs) > 0 {
		t.Fatal(errs)
	}
	return sender{conditions, evaluator}
}

// sends says whether the conditions send a request, as the API server decides it. An error before the condition that decides
// fails the test: it would decide in its place.
func (s sender) sends(t *testing.T, attributes *admission.VersionedAttributes) bool {
	t.Helper()
	request := cel.CreateAdmissionRequest(attributes.Attributes, metav1.GroupVersionResource(attributes.GetResource()), metav1.GroupVersionKind(attributes.VersionedKind))
	results, _, err := s.evaluator.ForInput(t.Context(), attributes, request, cel.OptionalVariableBindings{}, nil, celconfig.RuntimeCELCostBudgetMatchConditions)
	if err != nil {
		t.Errorf("the conditions as a whole: %v", err)
		return false
	}
	for i, result := range results {
		switch {
		case result.Error != nil:
			t.Errorf("condition %s: %v", s.conditions[i].Name, result.Error)
		case result.EvalResult.Value() == false:
			return false
		}
	}
	return true
}

// newValidator compiles a policy that has parameters.
func newValidator(t *testing.T, policy *admissionregistrationv1.ValidatingAdmissionPolicy) validating.Validator {
	t.Helper()
	compiler, err := cel.NewCompositedCompiler(oldestCEL())
	if err != nil {
		t.Fatal(err)
	}
	declared := cel.OptionalVariableDeclarations{HasParams: true, HasAuthorizer: true}
	for _, v := range policy.Spec.Variables {
		if result := compiler.CompileAndStoreVariable(&validating.Variable{Name: v.Name, Expression: v.Expression}, declared, environment.NewExpressions); result.Error != nil {
			t.Fatalf("variable %s: %v", v.Name, result.Error)
		}
	}
	var validations, messages, conditions []cel.ExpressionAccessor
	for _, v := range policy.Spec.Validations {
		validations = append(validations, &validating.ValidationCondition{Expression: v.Expression, Message: v.Message, Reason: v.Reason})
		messages = append(messages, &validating.MessageExpressionCondition{MessageExpression: v.MessageExpression})
	}
	for i := range policy.Spec.MatchConditions {
		conditions = append(conditions, (*matchconditions.MatchCondition)(&policy.Spec.MatchConditions[i]))
	}
	compiled := map[string]cel.ConditionEvaluator{}
	for name, accessors := range map[string][]cel.ExpressionAccessor{"validations": validations, "messages": messages, "conditions": conditions, "annotations": nil} {
		compiled[name] = compiler.CompileCondition(accessors, declared, environment.NewExpressions)
		if errs := compiled[name].CompilationErrors(); len(errs) > 0 {
			t.Fatalf("%s: %v", name, errs)
		}
	}
	matcher := matchconditions.NewMatcher(compiled["conditions"], policy.Spec.FailurePolicy, "policy", "validate", policy.Name)
	return validating.NewValidator(compiled["validations"], matcher, compiled["annotations"], compiled["messages"], policy.Spec.FailurePolicy, nil)
}

// judge returns what a policy has against a request, for one parameter; nothing if it lets it pass.
func judge(t *testing.T, policy validating.Validator, attributes *admission.VersionedAttributes, params runtime.Object, namespace *corev1.Namespace) string {
	t.Helper()
	result := policy.Validate(t.Context(), attributes.GetResource(), attributes, params, namespace, celconfig.RuntimeCELCostBudget, nil)
	for _, decision := range result.Decisions {
		if decision.Evaluation == validating.EvalError {
			return fmt.Sprintf("error: %s", decision.Message)
		}
		if decision.Action == validating.ActionDeny {
			return decision.Message
		}
	}
	return ""
}
