// Package crdstore keeps the objects of image.openshift.io in the cluster's own etcd, as the custom
// resources of store.istag.dev: a storage.Interface, so that genericregistry.Store can stand on it.
//
// Everything that a Kubernetes API promises about versions is the backing API server's promise, passed
// on word for word: UIDs, resource versions, continue tokens, bookmarks and 410s are its own. What is
// translated is the name, since a stream's or an image's is none that a custom resource may have, and the
// metadata that only the envelope can hold.
//
// A [genericregistry.Store] over it must have a ShouldDeleteDuringUpdate that says no: the backing API
// server removes a record itself when its last finalizer goes.
package crdstore

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	storev1 "istag.dev/store/v1"
)

// deleteCollectionWorkers is how many objects of a collection are deleted at a time.
const deleteCollectionWorkers = 4

// Streams keeps image streams, which are *storev1.StreamRecord in memory, as StreamRecords. The client is
// one of NewClient's; the codec is the API's own, with which a dry run copies objects.
//
// In memory metadata.name is the stream's name, metadata.managedFields the stream's own, kept in
// record.managedFields, and metadata.generation shows record.generation, which alone is stored.
func Streams(client rest.Interface, codec runtime.Codec) generic.RESTOptionsGetter {
	return newGetter(streams, client, codec)
}

// Images keeps images, which are *storev1.ImageRecord in memory, as ImageRecords. The client and the codec
// are as for Streams.
//
// In memory metadata.name is the digest. Images have no envelope, so managed fields are not stored: images
// are written by the server, and nobody applies them.
func Images(client rest.Interface, codec runtime.Codec) generic.RESTOptionsGetter {
	return newGetter(images, client, codec)
}

// getter gives every genericregistry.Store of one kind the same storage, whose writers know of each other.
type getter[T any, P object[T]] struct {
	storage *crdStorage[T, P]
	codec   runtime.Codec
}

func newGetter[T any, P object[T]](k kind[T, P], client rest.Interface, codec runtime.Codec) getter[T, P] {
	return getter[T, P]{&crdStorage[T, P]{kind: k, client: client, locks: newLocks[T](), known: newKnown[T, P]()}, codec}
}

// GetRESTOptions implements generic.RESTOptionsGetter.
func (g getter[T, P]) GetRESTOptions(resource schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	return generic.RESTOptions{
		StorageConfig:           (&storagebackend.Config{Codec: g.codec}).ForResource(resource),
		Decorator:               g.decorate,
		EnableGarbageCollection: true,
		DeleteCollectionWorkers: deleteCollectionWorkers,
		ResourcePrefix:          resource.Resource,
	}, nil
}

func (g getter[T, P]) decorate(
	_ *storagebackend.ConfigForResource, prefix string, _ func(runtime.Object) (string, error), _, _ func() runtime.Object,
	_ storage.AttrFunc, _ storage.IndexerFuncs, _ *cache.Indexers,
) (storage.Interface, factory.DestroyFunc, error) {
	s := *g.storage
	s.prefix = prefix
	return &s, func() {}, nil
}

// crdStorage is the storage of one kind.
type crdStorage[T any, P object[T]] struct {
	kind   kind[T, P]
	client rest.Interface
	prefix string
	locks  *locks[T]
	known  *known[T, P]
}

var _ storage.Interface = &crdStorage[storev1.StreamRecord, *storev1.StreamRecord]{}

// Versioner implements storage.Interface.
func (s *crdStorage[T, P]) Versioner() storage.Versioner { return storage.APIObjectVersioner{} }

// place is where an object or a collection is. Without a name it is a collection, without a namespace
// that of the whole cluster.
type place struct {
	key, namespace, name string
}

// place takes a key apart, as genericregistry.Store makes them: <prefix>[/<namespace>][/<name>].
func (s *crdStorage[T, P]) place(key string) place {
	p := place{key: key}
	rest := strings.Trim(strings.TrimPrefix(key, s.prefix), "/")
	if s.kind.namespaced {
		p.namespace, p.name, _ = strings.Cut(rest, "/")
	} else {
		p.name = rest
	}
	return p
}

// request begins a request about the object or the collection at a place.
func (s *crdStorage[T, P]) request(verb string, p place) *rest.Request {
	return s.client.Verb(verb).NamespaceIfScoped(p.namespace, s.kind.namespaced && p.namespace != "").Resource(s.kind.resource)
}

// Get implements storage.Interface.
func (s *crdStorage[T, P]) Get(ctx context.Context, key string, opts storage.GetOptions, objPtr runtime.Object) error {
	out, err := s.kind.of(objPtr)
	if err != nil {
		return err
	}
	got, err := s.get(ctx, s.place(key), opts.ResourceVersion)
	if opts.IgnoreNotFound && storage.IsNotFound(err) {
		got, err = new(T), nil
	}
	if err != nil {
		return err
	}
	*out = *got
	return nil
}

// get reads an object that is at least as new as a resource version, or the newest without one.
func (s *crdStorage[T, P]) get(ctx context.Context, p place, resourceVersion string) (P, error) {
	name, ok := s.kind.recordName(p.name)
	if !ok {
		return nil, storage.NewKeyNotFoundError(p.key, 0)
	}
	request := s.request(http.MethodGet, p).Name(name)
	if resourceVersion != "" {
		request.Param("resourceVersion", resourceVersion)
	}
	var got P = new(T)
	if _, err := fetch(ctx, request, got); err != nil {
		return nil, s.failure(ctx, err, p)
	}
	s.kind.reveal(got)
	return got, nil
}

// Create implements storage.Interface. There is no time to live.
func (s *crdStorage[T, P]) Create(ctx context.Context, key string, obj, out runtime.Object, _ uint64) error {
	in, err := s.kind.of(obj)
	if err != nil {
		return err
	}
	created, err := s.create(ctx, s.place(key), in)
	if err != nil || out == nil {
		return err
	}
	to, err := s.kind.of(out)
	if err != nil {
		return err
	}
	*to = *created
	return nil
}

// Stats implements storage.Interface. Sizes are not known here.
func (s *crdStorage[T, P]) Stats(ctx context.Context) (storage.Stats, error) {
	list, err := s.first(ctx)
	if err != nil {
		return storage.Stats{}, err
	}
	count := int64(len(list.Items))
	if list.RemainingItemCount != nil {
		count += *list.RemainingItemCount
	}
	return storage.Stats{ObjectCount: count}, nil
}

// ReadinessCheck implements storage.Interface.
func (s *crdStorage[T, P]) ReadinessCheck() error {
	ctx, cancel := context.WithTimeout(context.Background(), readinessTimeout)
	defer cancel()
	_, err := s.first(ctx)
	return err
}

// GetCurrentResourceVersion implements storage.Interface.
func (s *crdStorage[T, P]) GetCurrentResourceVersion(ctx context.Context) (uint64, error) {
	list, err := s.first(ctx)
	if err != nil {
		return 0, err
	}
	return s.Versioner().ParseResourceVersion(list.ResourceVersion)
}

// first is the cheapest read that says something about all objects.
func (s *crdStorage[T, P]) first(ctx context.Context) (*list[metav1.PartialObjectMetadata], error) {
	var l list[metav1.PartialObjectMetadata]
	if _, err := fetch(ctx, s.request(http.MethodGet, place{}).Param("limit", "1"), &l); err != nil {
		return nil, s.failure(ctx, err, place{})
	}
	return &l, nil
}

// RequestWatchProgress implements storage.Interface. Watches are the backing API server's, which tells
// their progress by itself and cannot be asked to.
func (s *crdStorage[T, P]) RequestWatchProgress(context.Context) error {
	return fmt.Errorf("the progress of watches of %s cannot be asked for", s.kind.shown.Kind)
}

// EnableResourceSizeEstimation implements storage.Interface. It says that sizes are not estimated.
func (s *crdStorage[T, P]) EnableResourceSizeEstimation(storage.KeysFunc) error {
	return fmt.Errorf("the sizes of %s are not estimated", s.kind.shown.Kind)
}

// CompactRevision implements storage.Interface. No compaction can be seen from here.
func (s *crdStorage[T, P]) CompactRevision() int64 { return 0 }
