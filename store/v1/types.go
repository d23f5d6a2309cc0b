package v1

import (
	imagev1 "github.com/openshift/api/image/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// StreamRecord is the stored form of one image stream.
//
// Its name is the stream's, with every "_" written "--": stream names may hold underscores and
// names of custom resources may not. It has no status subresource, so that one write can change
// what a tag should be and what it is together.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Namespaced,path=streamrecords,singular=streamrecord,categories=istag
// +kubebuilder:printcolumn:name="Local",type=boolean,JSONPath=`.spec.lookupPolicy.local`,description="Whether workloads in this namespace may use the stream by its short name"
// +kubebuilder:printcolumn:name="Tags",type=string,JSONPath=`.status.tags[*].tag`,description="Tags with a history or a condition"
// +kubebuilder:printcolumn:name="Generation",type=integer,JSONPath=`.record.generation`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type StreamRecord struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec says what each tag should follow.
	// +structType=atomic
	// +optional
	Spec imagev1.ImageStreamSpec `json:"spec,omitempty"`

	// Status says what each tag means now and meant before, newest first.
	// +structType=atomic
	// +optional
	Status imagev1.ImageStreamStatus `json:"status,omitempty"`

	// Record is what istag knows of the stream beyond OpenShift's API. Only istag writes it.
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

	// ObservedSpec is the spec as the history rules last left it. Comparing it with spec shows
	// which tags a user changed, whatever tool wrote them.
	// +optional
	ObservedSpec *imagev1.ImageStreamSpec `json:"observedSpec,omitempty"`

	// Origins says where the events of status.tags came from.
	// +optional
	Origins []TagEventOrigin `json:"origins,omitempty"`
}

// TagEventVia names how a tag event came about.
// +kubebuilder:validation:Enum=Import;Reference;Copy;Alias
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
	// Source is the name that was asked: a pull spec for Import and Reference, "stream:tag" or
	// "stream@digest" for Copy, a tag of the same stream for Alias.
	Source string `json:"source"`
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
// +kubebuilder:resource:scope=Cluster,path=imagerecords,singular=imagerecord,categories=istag
// +kubebuilder:printcolumn:name="Reference",type=string,JSONPath=`.image.dockerImageReference`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type ImageRecord struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Image is the image as image.openshift.io/v1 serves it; of its metadata only the name, the
	// digest, is kept here.
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
