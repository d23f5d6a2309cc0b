package main

import (
	"context"
	"crypto/sha256"
	"fmt"

	imagev1 "github.com/openshift/api/image/v1"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
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

// fill creates streamCount streams of tagCount imported tags each.
func fill(ctx context.Context, c client.Client) error {
	for i := range namespaceCount {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: streamAt(i).namespace}}
		if err := c.Create(ctx, namespace); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(fillers)
	for i := range streamCount {
		group.Go(func() error {
			s := streamAt(i)
			record := newRecord(s)
			for j := range tagCount {
				record.Spec.Tags = append(record.Spec.Tags, follows(fmt.Sprintf("t%d", j), fmt.Sprintf("quay.io/%s/%s:t%d", s.namespace, s.name, j)))
			}
			if err := importAll(record, 0); err != nil {
				return err
			}
			return c.Create(ctx, record)
		})
	}
	return group.Wait()
}

func newRecord(s stream) *storev1.StreamRecord {
	record := &storev1.StreamRecord{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: store.RecordName(s.name)}}
	record.Spec.LookupPolicy.Local = true
	return record
}

func follows(tag, pullSpec string) imagev1.TagReference {
	return imagev1.TagReference{Name: tag, From: &corev1.ObjectReference{Kind: store.KindDockerImage, Name: pullSpec}}
}

// importAll makes every tag of a record mean an image, another one for every version, by the same rules
// as an import.
func importAll(record *storev1.StreamRecord, version int) error {
	none := func(string) (*storev1.StreamRecord, error) { return nil, nil }
	if _, err := store.Accept(record, none, metav1.Now()); err != nil {
		return err
	}
	for i := range record.Spec.Tags {
		tag := record.Spec.Tags[i].Name
		digest := fmt.Sprintf("sha256:%x", sha256.Sum256(fmt.Appendf(nil, "%s/%s:%s %d", record.Namespace, record.Name, tag, version)))
		repository := fmt.Sprintf("quay.io/%s/%s", record.Namespace, record.Name)
		store.RecordImport(record, tag, store.Import{Reference: repository + "@" + digest, Image: digest}, metav1.Now())
	}
	return nil
}
