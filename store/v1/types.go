package v1

import (
	imagev1 "github.com/openshift/api/image/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// StreamRecord is the stored form of one image stream.
//
// Its name is the stream's, with every "_" written "--": stream names may hold underscores and
// names of custom resources may not. It has no status subresource, so that one write can change
// what a tag should be and what it is together.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Namespaced,path=streamrecords,singular=streamrecord
// +kubebuilder:printcolumn:name="Local",type=boolean,JSONPath=`.spec.lookupPolicy.local`,description="Whether workloads in this namespace may use the stream by its short name"
// +kubebuilder:printcolumn:name="Tags",type=string,JSONPath=`.status.tags[*].tag`,description="Tags with a history or a condition"
// +kubebuilder:printcolumn:name="Generation",type=integer,JSONPath=`.record.generation`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type StreamRecord struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec says what each tag should follow. It has no schema here: image.openshift.io/v1 checks it, and
	// for the API server to check it again makes every write of a stream with many tags slow.
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	// +structType=atomic
	// +optional
	Spec imagev1.ImageStreamSpec `json:"spec,omitempty"`

	// Status says what each tag means now and meant before, newest first.
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	// +structType=atomic
	// +optional
	Status imagev1.ImageStreamStatus `json:"status,omitempty"`

	// Record is what istag knows of the stream beyond OpenShift's API.
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	// +structType=atomic
	// +optional
	Record StreamEnvelope `json:"record,omitempty"`
}

// StreamEnvelope holds the facts about a stream that OpenShift's API has no field for.
type StreamEnvelope struct {
	// Generation is the stream's own generation: 1 at first, one more with every change of spec.
	// The API server's metadata.generation does not serve, since it also counts status writes.
	// +optional
	Generation int64 `json:"generation,omitempty"`

	// ManagedFields says who owns which field of the stream as image.openshift.io/v1 shows it. The
	// record's own metadata.managedFields only say that istag wrote the record.
	// +optional
	ManagedFields []metav1.ManagedFieldsEntry `json:"managedFields,omitempty"`

	// Requests says, for each tag of spec, who last changed it.
	// +optional
	Requests []TagRequest `json:"requests,omitempty"`

	// Origins says where the events of status.tags came from.
	// +optional
	Origins []TagEventOrigin `json:"origins,omitempty"`
}

// Requester says who asked for a change, and how.
type Requester struct {
	// User is the name that the API server authenticated.
	User string `json:"user"`
	// Verb of the request: "create", "update", "patch", "delete".
	// +optional
	Verb string `json:"verb,omitempty"`
	// Resource of the request, with its subresource if it has one: "imagestreamtags".
	// +optional
	Resource string `json:"resource,omitempty"`
}

// TagRequest says who last changed a tag of spec.
type TagRequest struct {
	// Tag of spec.
	Tag string `json:"tag"`
	// By is who changed it.
	By Requester `json:"by"`
	// Identity is all that is needed to ask again what that user may do. It is kept only with a tag
	// that follows a tag of another namespace.
	// +optional
	Identity *authenticationv1.UserInfo `json:"identity,omitempty"`
}

// TagEventVia names how a tag event came about.
type TagEventVia string

const (
	// ViaImport is an event made by asking a registry.
	ViaImport TagEventVia = "Import"
	// ViaReference is an event that repeats a pull spec without asking a registry.
	ViaReference TagEventVia = "Reference"
	// ViaCopy is an event copied once from another tag or image of a stream.
	ViaCopy TagEventVia = "Copy"
	// ViaAlias is an event that reached a tag because it follows another tag of its stream.
	ViaAlias TagEventVia = "Alias"
	// ViaFollow is an event that reached a tag because it follows a tag of another stream.
	ViaFollow TagEventVia = "Follow"
	// ViaPush is an event made by an ImageStreamMapping: a registry says what was pushed to it.
	ViaPush TagEventVia = "Push"
	// ViaStatus is an event that someone wrote into the stream's status.
	ViaStatus TagEventVia = "Status"
)

// TagEventOrigin says where one tag event came from. An event is known by its tag, its image
// and the time it was created.
type TagEventOrigin struct {
	// Tag whose history holds the event.
	Tag string `json:"tag"`
	// Image is the event's digest, empty for an event that has none.
	// +optional
	Image string `json:"image,omitempty"`
	// Created is the event's time.
	Created metav1.Time `json:"created"`
	// Via says how the event came about.
	Via TagEventVia `json:"via"`
	// Source is the name that was asked: a pull spec for Import and Reference; "stream:tag" or
	// "stream@digest", with "namespace/" before it if that is another one, for Copy and Follow; a tag
	// of the same stream for Alias.
	// +optional
	Source string `json:"source,omitempty"`
	// By is who asked for what brought the event.
	// +optional
	By *Requester `json:"by,omitempty"`
}

// StreamRecordList is a list of StreamRecords.
//
// +kubebuilder:object:root=true
type StreamRecordList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []StreamRecord `json:"items"`
}

// ImageRecord is the stored form of one image: what its manifest and configuration say.
//
// Its name is the digest with ":" written "-", as in "sha256-<hex>".
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=imagerecords,singular=imagerecord
// +kubebuilder:printcolumn:name="Reference",type=string,JSONPath=`.image.dockerImageReference`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type ImageRecord struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Image is the image as image.openshift.io/v1 serves it; of its metadata only the name, the
	// digest, is kept here.
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	// +structType=atomic
	Image imagev1.Image `json:"image"`
}

// ImageRecordList is a list of ImageRecords.
//
// +kubebuilder:object:root=true
type ImageRecordList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []ImageRecord `json:"items"`
}
