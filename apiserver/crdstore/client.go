package crdstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/client-go/rest"

	storev1 "istag.dev/store/v1"
)

const (
	// fieldManager is who writes the records.
	fieldManager = "istag"
	// readinessTimeout bounds the question whether the backing API server answers.
	readinessTimeout = 3 * time.Second
)

// NewClient returns a client for the records that reads nothing from a cache and does not slow itself
// down: the backing API server's own priorities and fairness do.
func NewClient(config *rest.Config) (rest.Interface, error) {
	scheme := runtime.NewScheme()
	if err := storev1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	c := rest.CopyConfig(config)
	c.GroupVersion, c.APIPath = &storev1.GroupVersion, "/apis"
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	c.ContentType, c.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	c.QPS, c.RateLimiter = -1, nil
	// Between servers of one cluster, to compress a long list takes longer than to send it.
	c.DisableCompression = true
	c.WarningHandler, c.WarningHandlerWithContext = rest.NoWarnings{}, nil
	return rest.RESTClientFor(c)
}

// send writes an object or options with a request and decodes the answer. The audit logs of the request
// that ctx serves and of this one share one id.
func send(ctx context.Context, request *rest.Request, body, into any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return &unreadableError{err}
	}
	if id := audit.GetAuditIDTruncated(ctx); id != "" {
		request.SetHeader(auditv1.HeaderAuditID, id)
	}
	request.SetHeader("Content-Type", runtime.ContentTypeJSON)
	_, err = do(ctx, request.Body(data), into)
	return err
}

// fetch reads with a request, decodes the answer and returns its size. A connection that breaks is tried
// once more.
func fetch(ctx context.Context, request *rest.Request, into any) (size int, err error) {
	size, err = do(ctx, request, into)
	if utilnet.IsConnectionReset(err) || utilnet.IsProbableEOF(err) || utilnet.IsHTTP2ConnectionLost(err) {
		return do(ctx, request, into)
	}
	return size, err
}

// asMetadata asks for nothing of objects but their metadata.
const asMetadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=" + metav1.GroupName + ";v=v1"

// fetchMetadata reads a list of objects' metadata.
func fetchMetadata(ctx context.Context, request *rest.Request) (*metav1.PartialObjectMetadataList, error) {
	data, err := request.SetHeader("Accept", asMetadata).MaxRetries(0).Do(ctx).Raw()
	if err != nil {
		return nil, err
	}
	data, ok := bytes.CutPrefix(data, []byte("k8s\x00"))
	var envelope runtime.Unknown
	var list metav1.PartialObjectMetadataList
	if !ok || envelope.Unmarshal(data) != nil || list.Unmarshal(envelope.Raw) != nil {
		return nil, &unreadableError{errors.New("the answer is no list of metadata")}
	}
	return &list, nil
}

// do decodes an answer while it arrives, and returns its size in bytes. Retry-After is the client's to
// obey, who has more time than we.
func do(ctx context.Context, request *rest.Request, into any) (size int, err error) {
	body, err := request.MaxRetries(0).Stream(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = body.Close() }()
	counted := &counter{Reader: body}
	err = decodeError(jsonv2.UnmarshalRead(counted, into, decoding))
	return counted.size, err
}

// counter counts what is read.
type counter struct {
	io.Reader
	size int
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.size += n
	return n, err
}

func decode(data []byte, into any) error {
	return decodeError(jsonv2.Unmarshal(data, into, decoding))
}

// decoding is as lenient as the decoder of Kubernetes, whose peer has already checked what it sends.
var decoding = jsonv2.JoinOptions(
	jsontext.AllowDuplicateNames(true),
	jsontext.AllowInvalidUTF8(true),
	jsonv2.WithUnmarshalers(jsonv2.UnmarshalFromFunc(decodeTime)),
)

// decodeTime decodes the one form in which API servers write times; the type itself knows the others. It
// is here because there are many: half of what decoding a list would allocate goes into them.
func decodeTime(decoder *jsontext.Decoder, t *metav1.Time) error {
	value, err := decoder.ReadValue()
	if err != nil {
		return err
	}
	if len(value) == len(`"2006-01-02T15:04:05Z"`) && value[0] == '"' {
		if parsed, err := time.Parse(time.RFC3339, string(value[1:len(value)-1])); err == nil {
			t.Time = parsed.Local()
			return nil
		}
	}
	return t.UnmarshalJSON(value)
}

// unreadableError is about a record that is not what its type says, as opposed to an answer that did not
// arrive.
type unreadableError struct{ error }

func (e *unreadableError) Unwrap() error { return e.error }

func decodeError(err error) error {
	var semantic *jsonv2.SemanticError
	if errors.As(err, &semantic) {
		return &unreadableError{err}
	}
	return err
}
