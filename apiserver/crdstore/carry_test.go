package crdstore

import (
	"encoding/json"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	storev1 "istag.dev/store/v1"
)

// oneRecord is an API server with one record, which takes at most so many labels at once, and can lose
// what it is sent first.
type oneRecord struct {
	mu        sync.Mutex
	record    storev1.StreamRecord
	version   int
	maxLabels int
	conflicts int
	writes    []int // how many labels each write brought
}

func (o *oneRecord) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if r.Method == http.MethodPut {
		var sent storev1.StreamRecord
		if err := json.NewDecoder(r.Body).Decode(&sent); err != nil {
			say(w, apierrors.NewBadRequest(err.Error()))
			return
		}
		o.writes = append(o.writes, len(sent.Labels)-len(o.record.Labels))
		switch {
		case o.conflicts > 0:
			o.conflicts--
			o.version++
			say(w, apierrors.NewConflict(records, sent.Name, nil))
			return
		case len(sent.Labels)-len(o.record.Labels) > o.maxLabels:
			say(w, apierrors.NewRequestEntityTooLargeError("too much at once"))
			return
		case sent.ResourceVersion != strconv.Itoa(o.version):
			say(w, apierrors.NewConflict(records, sent.Name, nil))
			return
		}
		o.record = sent
		o.version++
	}
	o.record.ResourceVersion = strconv.Itoa(o.version)
	_ = json.NewEncoder(w).Encode(&o.record)
}

// TestCarriedWrites has several writers wait for one who has the turn.
func TestCarriedWrites(t *testing.T) {
	const waiting = 5
	cases := map[string]struct {
		reason    string
		maxLabels int
		conflicts int
		want      []int
	}{
		"Together": {
			reason: "who has the turn writes for all who wait", maxLabels: 100,
			want: []int{1 + waiting},
		},
		"Overtaken": {
			reason: "a conflict with another process is everybody's, and all try again", maxLabels: 100, conflicts: 1,
			want: []int{1 + waiting, 1 + waiting},
		},
		"RefusedTogether": {
			reason: "what is refused only with others in it is written alone, by each in turn", maxLabels: 1,
			want: []int{6, 1, 5, 1, 4, 1, 3, 1, 2, 1, 1},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			server := &oneRecord{version: 1, maxLabels: tc.maxLabels, conflicts: tc.conflicts, record: storev1.StreamRecord{
				TypeMeta:   metav1.TypeMeta{APIVersion: storev1.GroupVersion.String(), Kind: "StreamRecord"},
				ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "ns", UID: "u"},
			}}
			b := fakeBacking(t, server.ServeHTTP)
			var group sync.WaitGroup
			began, once := make(chan struct{}), sync.Once{}
			write := func(name string, first func()) {
				group.Go(func() {
					got, err := b.update(t.Context(), "a", func(r *storev1.StreamRecord) {
						first()
						label(name, "")(r)
					})
					if err != nil {
						t.Errorf("%s: %s: %v", tc.reason, name, err)
						return
					}
					if _, ok := got.Labels[name]; !ok || strings.HasPrefix(got.ResourceVersion, unwritten) {
						t.Errorf("%s: %s got %v at version %s", tc.reason, name, got.Labels, got.ResourceVersion)
					}
				})
			}
			write("first", func() {
				once.Do(func() {
					close(began)
					for b.waiting() < waiting {
						runtime.Gosched()
					}
				})
			})
			<-began
			for i := range waiting {
				write(strconv.Itoa(i), func() {})
			}
			group.Wait()
			if diff := cmp.Diff(tc.want, server.writes); diff != "" {
				t.Errorf("%s: labels of each write (-want +got):\n%s", tc.reason, diff)
			}
			if len(server.record.Labels) != 1+waiting || len(b.streams.locks.all) != 0 {
				t.Errorf("%s: kept %v, %d locks are left", tc.reason, server.record.Labels, len(b.streams.locks.all))
			}
		})
	}
}

// waiting is how many writers could be carried.
func (b *backing) waiting() int {
	l := b.streams.locks
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, k := range l.all {
		n += len(k.waiting)
	}
	return n
}
