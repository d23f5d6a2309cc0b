package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"sync/atomic"
	"time"

	imagev1 "github.com/openshift/api/image/v1"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
	"istag.dev/test/harness"
)

const (
	// apiNamespace holds apiStream, listNamespace listCount streams of a tag each.
	apiNamespace  = "bench-api"
	listNamespace = "bench-api-list"
	listCount     = 1000
	getRounds     = 4000
	listRounds    = 150
	parallelTags  = 200

	apiProcess = "istag serve apiserver"
)

// apiStream is what is read alone: a stream of apiTags, each with apiEvents.
var apiStream = stream{apiNamespace, "typical"}

const apiEvents = 3

var apiTags = []string{"1.0", "1.1", "2.0", "latest", "stable"}

// api measures our API, as the cluster's API server passes requests on to it, against that server's own
// answers about the records which hold the same.
func api(ctx context.Context, env *harness.Env, out io.Writer) error {
	itself, err := env.Store()
	if err != nil {
		return err
	}
	note("filling the store with %d streams of a tag each", listCount)
	typical, err := fillAPI(ctx, itself.Client())
	if err != nil {
		return err
	}
	c, err := rawClient(env)
	if err != nil {
		return err
	}
	if err := gets(ctx, c, out); err != nil {
		return err
	}
	if err := lists(ctx, c, out); err != nil {
		return err
	}
	memory, err := resident(env, apiProcess)
	if err != nil {
		return err
	}
	figure(out, "api_memory_mb", memory/1e6, "MB")
	return tagInParallel(ctx, c, store.Latest(&typical.Status, "latest").Image, out)
}

// rawClient makes a client that neither holds back nor decodes.
func rawClient(env *harness.Env) (rest.Interface, error) {
	config := env.Config()
	config.NegotiatedSerializer = clientgoscheme.Codecs.WithoutConversion()
	return rest.UnversionedRESTClientFor(config)
}

// fillAPI makes what is read, and returns the record of apiStream.
func fillAPI(ctx context.Context, c client.Client) (*storev1.StreamRecord, error) {
	for _, namespace := range []string{apiNamespace, listNamespace} {
		if err := c.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}); err != nil {
			return nil, err
		}
	}
	typical, err := newRecord(apiStream, apiTags...)
	if err != nil {
		return nil, err
	}
	for version := range apiEvents {
		importAll(typical, version)
	}
	for _, tag := range typical.Status.Tags {
		for _, event := range tag.Items {
			if err := c.Create(ctx, newImage(event)); err != nil {
				return nil, err
			}
		}
	}
	if err := c.Create(ctx, typical); err != nil {
		return nil, err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(fillers)
	for i := range listCount {
		group.Go(func() error {
			record, err := newRecord(stream{listNamespace, fmt.Sprintf("stream-%04d", i)}, "latest")
			if err != nil {
				return err
			}
			importAll(record, 0)
			return c.Create(ctx, record)
		})
	}
	return typical, group.Wait()
}

// gets compares reading one tag and one stream with reading the record.
func gets(ctx context.Context, c rest.Interface, out io.Writer) error {
	note("%d GETs of a tag, a stream and a record each", getRounds)
	tag := &question{path: imagePath(apiStream, "imagestreamtags") + ":latest", holds: `"dockerImageMetadata":{"`, times: 1}
	is := &question{path: imagePath(apiStream, "imagestreams"), holds: `"image":"sha256:`, times: apiEvents * len(apiTags)}
	record := &question{path: recordPath(apiStream), holds: `"kind":"StreamRecord"`, times: 1}
	if err := inTurns(ctx, c, getRounds, tag, is, record); err != nil {
		return err
	}
	figure(out, "api_istag_get_p50_over_crd", over(tag, record), "ratio")
	figure(out, "api_is_get_p50_over_crd", over(is, record), "ratio")
	figure(out, "api_istag_get_p50_ms", percentile(tag.took, 50).Seconds()*1000, "ms")
	return nil
}

// lists compares listing tags and streams with listing the records.
func lists(ctx context.Context, c rest.Interface, out io.Writer) error {
	note("%d LISTs of tags, streams and records each", listRounds)
	all := stream{namespace: listNamespace}
	tags := &question{path: imagePath(all, "imagestreamtags"), holds: `"lookupPolicy":`, times: listCount}
	is := &question{path: imagePath(all, "imagestreams"), holds: `"lookupPolicy":`, times: listCount}
	records := &question{path: recordPath(all), holds: `"kind":"StreamRecord"`, times: listCount}
	if err := inTurns(ctx, c, listRounds, tags, is, records); err != nil {
		return err
	}
	figure(out, "api_istag_list_p50_over_crd", over(tags, records), "ratio")
	figure(out, "api_is_list_p50_over_crd", over(is, records), "ratio")
	figure(out, fmt.Sprintf("api_is_list_%d_p50_ms", listCount), percentile(is.took, 50).Seconds()*1000, "ms")
	return nil
}

// question is a GET that is asked again and again.
type question struct {
	path string
	// A right answer holds a text so many times.
	holds string
	times int

	took []time.Duration
}

// inTurns asks each question once a round, so that whatever else the machine does meets all, and adds
// what each answer took. A tenth as many rounds before that do not count.
func inTurns(ctx context.Context, c rest.Interface, rounds int, questions ...*question) error {
	for round := -rounds / 10; round < rounds; round++ {
		for _, q := range questions {
			begun := time.Now()
			answer, err := c.Get().AbsPath(q.path).Do(ctx).Raw()
			took := time.Since(begun)
			if err != nil {
				return fmt.Errorf("GET %s: %w", q.path, err)
			}
			if round >= 0 {
				q.took = append(q.took, took)
			} else if got := bytes.Count(answer, []byte(q.holds)); got != q.times {
				return fmt.Errorf("GET %s: the answer holds %s %d times and not %d: %s", q.path, q.holds, got, q.times, answer[:min(len(answer), 2000)])
			}
		}
	}
	return nil
}

// over returns how many times as long as the reference a question takes.
func over(q, reference *question) float64 {
	return float64(percentile(q.took, 50)) / float64(percentile(reference.took, 50))
}

// imagePath is the path of a stream, or of what is named after it, or of a namespace's if it has no name.
func imagePath(s stream, resource string) string {
	return path.Join("/apis", imagev1.GroupVersion.String(), "namespaces", s.namespace, resource, s.name)
}

func recordPath(s stream) string {
	return path.Join("/apis", storev1.GroupVersion.String(), "namespaces", s.namespace, "streamrecords", store.RecordName(s.name))
}

// tagInParallel makes an image many tags of a stream at once, as many times `oc tag` would, and counts the
// conflicts.
func tagInParallel(ctx context.Context, c rest.Interface, image string, out io.Writer) error {
	note("tagging %d times at once", parallelTags)
	to := stream{apiNamespace, "parallel"}
	bodies := make([][]byte, parallelTags)
	for i := range bodies {
		var err error
		if bodies[i], err = json.Marshal(tagged(to, fmt.Sprintf("t%03d", i), apiStream.name+"@"+image)); err != nil {
			return err
		}
	}
	var conflicts atomic.Int64
	begun := time.Now()
	group, tagging := errgroup.WithContext(ctx)
	for i, body := range bodies {
		group.Go(func() error {
			at := fmt.Sprintf("%s:t%03d", imagePath(to, "imagestreamtags"), i)
			err := c.Put().AbsPath(at).MaxRetries(0).SetHeader("Content-Type", "application/json").Body(body).Do(tagging).Error()
			if apierrors.IsConflict(err) {
				conflicts.Add(1)
				return nil
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	figure(out, "api_parallel_tag_conflicts", float64(conflicts.Load()), "conflicts")
	figure(out, "api_parallel_tags_seconds", time.Since(begun).Seconds(), "s")
	return areTagged(ctx, c, to, parallelTags-int(conflicts.Load()))
}

// tagged is what `oc tag` sends to make a tag mean an image of a stream.
func tagged(to stream, tag, image string) *imagev1.ImageStreamTag {
	return &imagev1.ImageStreamTag{
		ObjectMeta: metav1.ObjectMeta{Namespace: to.namespace, Name: store.TagName(to.name, tag)},
		Tag: &imagev1.TagReference{
			Name:            tag,
			From:            &corev1.ObjectReference{Kind: store.KindImageStreamImage, Name: image},
			ImportPolicy:    imagev1.TagImportPolicy{ImportMode: imagev1.ImportModeLegacy},
			ReferencePolicy: imagev1.TagReferencePolicy{Type: imagev1.SourceTagReferencePolicy},
		},
	}
}

// areTagged checks that a stream has so many tags that mean an image.
func areTagged(ctx context.Context, c rest.Interface, s stream, want int) error {
	answer, err := c.Get().AbsPath(imagePath(s, "imagestreams")).Do(ctx).Raw()
	if err != nil {
		return err
	}
	var got imagev1.ImageStream
	if err := json.Unmarshal(answer, &got); err != nil {
		return err
	}
	have := 0
	for _, tag := range got.Status.Tags {
		if store.Latest(&got.Status, tag.Tag) != nil {
			have++
		}
	}
	if have != want {
		return fmt.Errorf("stream %s has %d tags with an image after %d were set", s.name, have, want)
	}
	return nil
}
