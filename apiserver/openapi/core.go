// Package openapi describes the types of image.openshift.io/v1, for kubectl explain and server-side apply.
package openapi

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// Definitions returns the schema of every type that the API shows. It is a common.GetOpenAPIDefinitions.
func Definitions(ref common.ReferenceCallback) map[string]common.OpenAPIDefinition {
	definitions := GetOpenAPIDefinitions(ref)
	// The few core types that image.openshift.io/v1 has in it. To generate their whole package would take
	// some fifteen thousand lines.
	for name, fields := range map[string]map[string]string{
		"k8s.io/api/core/v1.ObjectReference":      corev1.ObjectReference{}.SwaggerDoc(),
		"k8s.io/api/core/v1.LocalObjectReference": corev1.LocalObjectReference{}.SwaggerDoc(),
	} {
		definitions[name] = common.OpenAPIDefinition{Schema: stringsOnly(fields)}
	}
	definitions["k8s.io/api/core/v1.Secret"] = common.OpenAPIDefinition{Schema: spec.Schema{SchemaProps: spec.SchemaProps{
		Description: corev1.Secret{}.SwaggerDoc()[""],
		Type:        []string{"object"},
	}}}
	// No client sends a status, but some, kubectl among them, check what they send against "required".
	relax(definitions, "github.com/openshift/api/image/v1.ImageStreamImport", "status")
	return definitions
}

// relax lets a field of a type be left out.
func relax(definitions map[string]common.OpenAPIDefinition, name, field string) {
	definition := definitions[name]
	definition.Schema.Required = slices.DeleteFunc(slices.Clone(definition.Schema.Required), func(f string) bool { return f == field })
	definitions[name] = definition
}

// stringsOnly is the schema of an object whose fields are all strings; docs holds their descriptions, and
// the object's own under "".
func stringsOnly(docs map[string]string) spec.Schema {
	schema := spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}, Properties: map[string]spec.Schema{}}}
	for name, doc := range docs {
		if name == "" {
			schema.Description = doc
			continue
		}
		schema.Properties[name] = spec.Schema{SchemaProps: spec.SchemaProps{Description: doc, Type: []string{"string"}}}
	}
	schema.AddExtension("x-kubernetes-map-type", "atomic")
	return schema
}
