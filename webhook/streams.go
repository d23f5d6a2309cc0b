package webhook

import (
	"context"
	"time"

	"golang.org/x/sync/singleflight"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	lru "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

const (
	streamRecords = "streamrecords"

	// absentFor is how long a stream that a live read did not find is not asked for again. The index
	// hears of a new stream within milliseconds, so this only has to outlast that.
	absentFor = time.Second
	// absentMost bounds the names remembered.
	absentMost = 10_000
)

// Streams reads the streams from the API server: all of them into an index, and one by one those that
// were made so lately that they may not have reached it.
type Streams struct {
	client rest.Interface
	flight singleflight.Group
	absent *lru.LRUExpireCache
}

// NewStreams returns Streams that use the API server and the identity of a client configuration.
func NewStreams(config *rest.Config) (*Streams, error) {
	scheme := runtime.NewScheme()
	if err := storev1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	config = rest.CopyConfig(config)
	config.GroupVersion = &storev1.GroupVersion
	config.APIPath = "/apis"
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.QPS = -1 // the API server's own fairness decides, and absent bounds what we ask
	client, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, err
	}
	return &Streams{client: client, absent: lru.NewLRUExpireCache(absentMost)}, nil
}

// Feed keeps an index equal to the streams of the cluster until ctx ends.
func (s *Streams) Feed(ctx context.Context, index *store.Index) {
	all := cache.NewListWatchFromClient(s.client, streamRecords, "", fields.Everything())
	reflector := cache.NewReflectorWithOptions(all, &storev1.StreamRecord{}, index, cache.ReflectorOptions{Name: "index"})
	reflector.RunWithContext(ctx)
}

// Stream reads one stream; it returns nil if there is none. Equal questions at one time are asked once.
func (s *Streams) Stream(ctx context.Context, namespace, name string) (*store.Stream, error) {
	record := store.RecordName(name)
	key := namespace + "/" + name
	// A name with "--" is no stream's; it is how the record of another is called.
	if _, known := s.absent.Get(key); known || store.StreamName(record) != name {
		return nil, nil
	}
	result := s.flight.DoChan(key, func() (any, error) {
		found := &storev1.StreamRecord{}
		err := s.client.Get().Namespace(namespace).Resource(streamRecords).Name(record).
			Timeout(liveBudget).Do(context.WithoutCancel(ctx)).Into(found)
		if apierrors.IsNotFound(err) {
			s.absent.Add(key, nil, absentFor)
			return (*store.Stream)(nil), nil
		}
		if err != nil {
			return nil, err
		}
		return store.NewStream(found), nil
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case r := <-result:
		stream, _ := r.Val.(*store.Stream)
		return stream, r.Err
	}
}
