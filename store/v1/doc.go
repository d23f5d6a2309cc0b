// Package v1 is the storage format of istag: the two kinds that its own CRDs define.
//
// The kinds carry the fields of image.openshift.io/v1, whose types are used as they are, and one
// envelope each for what OpenShift's API has no place for.
//
// +kubebuilder:object:generate=true
// +groupName=store.istag.dev
package v1
