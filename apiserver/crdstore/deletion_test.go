package crdstore

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/storage"

	storev1 "istag.dev/store/v1"
)

const finalizer = "istag.dev/test"

// testFinalizers goes the way that genericregistry.Store takes with an object that has finalizers.
func testFinalizers(t *testing.T, b *backing) {
	created := b.create(t, "a_b", func(r *storev1.StreamRecord) { r.Finalizers = []string{finalizer} })
	mark := func(r *storev1.StreamRecord) {
		now, zero := metav1.Now(), int64(0)
		r.DeletionTimestamp, r.DeletionGracePeriodSeconds = &now, &zero
	}
	marked, err := b.update(t.Context(), "a_b", mark)
	if err != nil {
		t.Fatal(err)
	}
	if marked.DeletionTimestamp == nil || marked.Name != "a_b" || marked.UID != created.UID || !slices.Equal(marked.Finalizers, created.Finalizers) {
		t.Errorf("marked as %v", marked.ObjectMeta)
	}
	if got := b.get(t, "a_b"); got.DeletionTimestamp == nil || got.ResourceVersion != marked.ResourceVersion {
		t.Errorf("got %v", got.ObjectMeta)
	}
	if again, err := b.update(t.Context(), "a_b", func(*storev1.StreamRecord) {}); err != nil || again.ResourceVersion != marked.ResourceVersion {
		t.Errorf("an update that changes nothing of it: %v, version %s, want %s", err, again.ResourceVersion, marked.ResourceVersion)
	}
	last, err := b.update(t.Context(), "a_b", func(r *storev1.StreamRecord) { r.Finalizers = nil })
	if err != nil || last.Name != "a_b" || len(last.Finalizers) != 0 {
		t.Errorf("taking the last finalizer off: %v, %v", err, last.ObjectMeta)
	}
	if err := b.streams.Get(t.Context(), b.key("a_b"), storage.GetOptions{}, &storev1.StreamRecord{}); !storage.IsNotFound(err) {
		t.Errorf("it is still there: %v", err)
	}
}

func testPropagation(t *testing.T, b *backing) {
	for name, finalizer := range map[string]string{"orphan": metav1.FinalizerOrphanDependents, "foreground": metav1.FinalizerDeleteDependents} {
		b.create(t, name)
		if _, err := b.update(t.Context(), name, func(r *storev1.StreamRecord) {
			now := metav1.Now()
			r.DeletionTimestamp, r.Finalizers = &now, []string{finalizer}
		}); err != nil {
			t.Fatal(err)
		}
		if got := b.get(t, name); got.DeletionTimestamp == nil || !slices.Equal(got.Finalizers, []string{finalizer}) {
			t.Errorf("%s: deleted %v, finalizers %q", name, got.DeletionTimestamp, got.Finalizers)
		}
	}
}
