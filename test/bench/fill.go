package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	imagev1 "github.com/openshift/api/image/v1"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
	"istag.dev/test/harness"
)

const (
	streamCount    = 10_000
	tagCount       = 10
	namespaceCount = 100
	fillers        = 16
)

// stream is one of the filled index.
type stream struct{ namespace, name string }

func streamAt(i int) stream {
	return stream{fmt.Sprintf("bench-%02d", i%namespaceCount), fmt.Sprintf("stream-%05d", i)}
}

// fill creates streamCount streams of tagCount imported tags each, in namespaces that ask for admission. The client is istag's own.
func fill(ctx context.Context, c client.Client) error {
	for i := range namespaceCount {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
			Name: streamAt(i).namespace, Labels: map[string]string{harness.AdmissionLabel: harness.Enforce},
		}}
		if err := c.Create(ctx, namespace); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(fillers)
	for i := range streamCount {
		group.Go(func() error {
			var tags []string
			for j := range tagCount {
				tags = append(tags, fmt.Sprintf("t%d", j))
			}
			record, err := newRecord(streamAt(i), tags...)
			if err != nil {
				return err
			}
			importAll(record, 0)
			return c.Create(ctx, record)
		})
	}
	return group.Wait()
}

// newRecord makes a stream whose tags follow tags of the same names upstream and are still to be imported.
func newRecord(s stream, tags ...string) (*storev1.StreamRecord, error) {
	record := &storev1.StreamRecord{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: store.RecordName(s.name)}}
	record.Spec.LookupPolicy.Local = true
	for _, tag := range tags {
		from := &corev1.ObjectReference{Kind: store.KindDockerImage, Name: repository(record) + ":" + tag}
		record.Spec.Tags = append(record.Spec.Tags, imagev1.TagReference{Name: tag, From: from})
	}
	wrong, err := store.Accept(record, nil, store.Change{
		By:     storev1.Requester{User: "bench", Verb: "create", Resource: "imagestreams"},
		Source: func(string, string) (*storev1.StreamRecord, error) { return nil, nil },
		Now:    now(),
	})
	return record, errors.Join(err, wrong.ToAggregate())
}

// importAll makes every tag of a record mean an image, another one for every version, by the same rules
// as an import.
func importAll(record *storev1.StreamRecord, version int) {
	for i := range record.Spec.Tags {
		importTag(record, i, version)
	}
}

// importTag makes one tag of a record mean an image, another one for every version.
func importTag(record *storev1.StreamRecord, index, version int) {
	tag := record.Spec.Tags[index].Name
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(fmt.Appendf(nil, "%s/%s:%s %d", record.Namespace, record.Name, tag, version)))
	store.RecordImport(record, tag, store.Import{Reference: repository(record) + "@" + digest, Image: digest}, now())
}

func repository(record *storev1.StreamRecord) string {
	return fmt.Sprintf("quay.io/%s/%s", record.Namespace, record.Name)
}

// now is the time in the precision that the API keeps.
func now() metav1.Time { return metav1.NewTime(time.Now().Truncate(time.Second)) }
