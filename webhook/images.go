package webhook

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"

	"golang.org/x/sync/singleflight"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	lru "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
	"istag.dev/webhook/policy"
)

const imageRecords = "imagerecords"

// ErrImagesNotReady says that the images have not been read yet, so that none can be told from one that
// the store does not have.
var ErrImagesNotReady = errors.New("istag has not read all images yet; try again in a moment")

// Images knows of every image in the store what the rules of a policy can ask about. It reads nothing
// before it is needed, and then goes on for good.
type Images struct {
	client rest.Interface
	flight singleflight.Group
	absent *lru.LRUExpireCache
	needed chan struct{}
	need   sync.Once
	index  imageIndex
}

// NewImages returns Images that use the API server and the identity of a client configuration.
func NewImages(config *rest.Config) (*Images, error) {
	scheme := runtime.NewScheme()
	scheme.AddKnownTypeWithName(storev1.GroupVersion.WithKind("ImageRecord"), &imageRecord{})
	scheme.AddKnownTypeWithName(storev1.GroupVersion.WithKind("ImageRecordList"), &imageRecordList{})
	metav1.AddToGroupVersion(scheme, storev1.GroupVersion)
	config = rest.CopyConfig(config)
	config.GroupVersion = &storev1.GroupVersion
	config.APIPath = "/apis"
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.QPS = -1 // as for streams
	client, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, err
	}
	return &Images{
		client: client,
		absent: lru.NewLRUExpireCache(absentMost),
		needed: make(chan struct{}),
		index:  imageIndex{synced: make(chan struct{})},
	}, nil
}

// Need says that a policy asks about images. It returns at once, and may be called any number of times.
func (x *Images) Need() { x.need.Do(func() { close(x.needed) }) }

// Feed waits until images are needed, and then keeps what is known of them equal to the images of the
// cluster until ctx ends.
func (x *Images) Feed(ctx context.Context) {
	select {
	case <-x.needed:
	case <-ctx.Done():
		return
	}
	all := cache.NewListWatchFromClient(x.client, imageRecords, "", fields.Everything())
	reflector := cache.NewReflectorWithOptions(all, &imageRecord{}, &x.index, cache.ReflectorOptions{Name: "images"})
	reflector.RunWithContext(ctx)
}

// Synced is closed once all images were read, which never happens while nobody needs them.
func (x *Images) Synced() <-chan struct{} { return x.index.synced }

// Image returns what the store has of an image, nil if it has nothing. An error means that this cannot be
// told: it is ErrImagesNotReady before all images were read.
//
// An image is stored a moment before the first tag that means it, and the tag may be heard of first. So an
// image that is not known is asked for, once: a rule that rejects it must not miss it.
func (x *Images) Image(ctx context.Context, digest string) (*policy.Known, error) {
	select {
	case <-x.index.synced:
	default:
		return nil, ErrImagesNotReady
	}
	key, ok := parseDigest(digest)
	if !ok {
		return nil, nil
	}
	if known := x.index.get(key); known != nil {
		return known, nil
	}
	return x.ask(ctx, key)
}

// ask reads one image. Equal questions at one time are asked once.
func (x *Images) ask(ctx context.Context, key digestKey) (*policy.Known, error) {
	if _, known := x.absent.Get(key); known {
		return nil, nil
	}
	name := key.recordName()
	result := x.flight.DoChan(name, func() (any, error) {
		found := &imageRecord{}
		err := x.client.Get().Resource(imageRecords).Name(name).
			Timeout(liveBudget).Do(context.WithoutCancel(ctx)).Into(found)
		if apierrors.IsNotFound(err) {
			x.absent.Add(key, nil, absentFor)
			return (*policy.Known)(nil), nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading image record %q: %w", name, err)
		}
		return found.known(nil), nil
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case r := <-result:
		known, _ := r.Val.(*policy.Known)
		return known, r.Err
	}
}

// digestKey is the digest of an image, which is always a SHA-256: an index of many images is mostly keys.
type digestKey [sha256.Size]byte

func parseDigest(digest string) (key digestKey, ok bool) {
	text, ok := strings.CutPrefix(digest, "sha256:")
	if !ok || len(text) != hex.EncodedLen(len(key)) {
		return key, false
	}
	_, err := hex.Decode(key[:], []byte(text))
	return key, err == nil
}

func (k digestKey) recordName() string {
	return store.ImageRecordName("sha256:" + hex.EncodeToString(k[:]))
}

// imageIndex is a cache.ReflectorStore. It keeps the little that rules ask about, and lets the records go.
type imageIndex struct {
	mu     sync.RWMutex
	images map[digestKey]*policy.Known
	synced chan struct{}
	once   sync.Once
}

func (x *imageIndex) get(key digestKey) *policy.Known {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.images[key]
}

// Add puts an *imageRecord into the index.
func (x *imageIndex) Add(obj any) error {
	record, key, err := asImage(obj)
	if err != nil || key == nil {
		return err
	}
	known := record.known(nil)
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.images == nil {
		x.images = map[digestKey]*policy.Known{}
	}
	x.images[*key] = known
	return nil
}

// Update puts the newer form of an *imageRecord into the index.
func (x *imageIndex) Update(obj any) error { return x.Add(obj) }

// Delete takes an *imageRecord out of the index.
func (x *imageIndex) Delete(obj any) error {
	_, key, err := asImage(obj)
	if err != nil || key == nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.images, *key)
	return nil
}

// Replace makes the index hold exactly the *imageRecords given.
func (x *imageIndex) Replace(list []any, _ string) error {
	images := make(map[digestKey]*policy.Known, len(list))
	texts := map[string]string{}
	for _, obj := range list {
		record, key, err := asImage(obj)
		if err != nil {
			return err
		}
		if key != nil {
			images[*key] = record.known(texts)
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.images = images
	x.once.Do(func() { close(x.synced) })
	return nil
}

// Resync does nothing: the index has no second reader to tell.
func (x *imageIndex) Resync() error { return nil }

// asImage returns a record with its key, which is nil for a record that is no image's.
func asImage(obj any) (*imageRecord, *digestKey, error) {
	record, ok := obj.(*imageRecord)
	if !ok {
		return nil, nil, fmt.Errorf("the index of images takes an *imageRecord, got %T", obj)
	}
	key, ok := parseDigest(strings.Replace(record.Name, "-", ":", 1))
	if !ok {
		return record, nil, nil
	}
	return record, &key, nil
}

// imageRecord is what is read of a storev1.ImageRecord: neither its layers nor its manifest.
type imageRecord struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Image struct {
		Metadata dockerLabels `json:"dockerImageMetadata"`
		// Config is the configuration itself, which is kept if whoever pushed the image sent it.
		Config string `json:"dockerImageConfig"`
	} `json:"image"`
}

// known returns what rules can ask about the record's image. Texts that are alike are taken from texts.
func (r *imageRecord) known(texts map[string]string) *policy.Known {
	config := r.Image.Metadata
	if !config.there && r.Image.Config != "" {
		config = readLabels([]byte(r.Image.Config))
	}
	return &policy.Known{
		Labels:       shared(r.Labels, texts),
		Annotations:  shared(r.Annotations, texts),
		DockerLabels: shared(config.labels, texts),
		Unreadable:   config.unreadable,
	}
}

// shared returns a map whose texts are those of texts, to which new ones are added: many images say the
// same of themselves. A map without entries is nil.
func shared(values, texts map[string]string) map[string]string {
	if len(values) == 0 {
		return nil
	}
	if texts == nil {
		return values
	}
	share := func(text string) string {
		if _, there := texts[text]; !there {
			texts[text] = text
		}
		return texts[text]
	}
	copied := make(map[string]string, len(values))
	for key, value := range values {
		copied[share(key)] = share(value)
	}
	return copied
}

// DeepCopyObject implements runtime.Object.
func (r *imageRecord) DeepCopyObject() runtime.Object {
	copied := *r
	r.DeepCopyInto(&copied.ObjectMeta)
	copied.Image.Metadata.labels = maps.Clone(r.Image.Metadata.labels)
	return &copied
}

type imageRecordList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`

	Items []imageRecord `json:"items"`
}

// DeepCopyObject implements runtime.Object.
func (l *imageRecordList) DeepCopyObject() runtime.Object {
	copied := *l
	l.DeepCopyInto(&copied.ListMeta)
	copied.Items = make([]imageRecord, 0, len(l.Items))
	for i := range l.Items {
		copied.Items = append(copied.Items, *l.Items[i].DeepCopyObject().(*imageRecord))
	}
	return &copied
}

// dockerLabels are the labels of an image's configuration.
type dockerLabels struct {
	labels     map[string]string
	there      bool // something is
	unreadable bool
}

// UnmarshalJSON never fails: one image that nobody can read must not hide all others.
func (d *dockerLabels) UnmarshalJSON(text []byte) error {
	*d = readLabels(text)
	return nil
}

// readLabels reads a configuration, or what OpenShift makes of one, which differs in capitals.
func readLabels(text []byte) dockerLabels {
	var config *struct {
		Config struct {
			Labels map[string]string `json:"labels"`
		} `json:"config"`
	}
	if err := json.Unmarshal(text, &config); err != nil {
		return dockerLabels{there: true, unreadable: true}
	}
	if config == nil {
		return dockerLabels{}
	}
	return dockerLabels{there: true, labels: config.Config.Labels}
}
