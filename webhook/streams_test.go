package webhook

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	lru "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/rest"
	testingclock "k8s.io/utils/clock/testing"

	storev1 "istag.dev/store/v1"
)

// TestStreamsStream asks an API server that has one stream, "a_b" of namespace "shop", and counts.
func TestStreamsStream(t *testing.T) {
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/apis/store.istag.dev/v1/namespaces/shop/streamrecords/a--b":
			record := stream("a--b", true)
			record.SetGroupVersionKind(storev1.GroupVersion.WithKind("StreamRecord"))
			_ = json.NewEncoder(w).Encode(record)
		case "/apis/store.istag.dev/v1/namespaces/shop/streamrecords/broken":
			w.WriteHeader(http.StatusInternalServerError)
		default:
			status := apierrors.NewNotFound(storev1.GroupVersion.WithResource(streamRecords).GroupResource(), "x").Status()
			w.WriteHeader(http.StatusNotFound)
			_ = json.NewEncoder(w).Encode(status)
		}
	}))
	defer server.Close()
	streams, err := NewStreams(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	clock := testingclock.NewFakeClock(time.Now())
	streams.absent = lru.NewLRUExpireCacheWithClock(absentMost, clock)
	cases := []struct {
		reason, name string
		found, fails bool
		asked        int32
	}{
		{"a stream is found by its name, not its record's", "a_b", true, false, 1},
		{"what was found may change and is read again", "a_b", true, false, 1},
		{"the name of a record is not the name of its stream", "a--b", false, false, 0},
		{"a stream that is not there is no error", "mysql", false, false, 1},
		{"what is not there is not asked for again at once", "mysql", false, false, 0},
		{"an error is an error", "broken", false, true, 1},
	}
	for _, tc := range cases {
		before := asked.Load()
		got, err := streams.Stream(t.Context(), "shop", tc.name)
		if (got != nil) != tc.found || (err != nil) != tc.fails || asked.Load()-before != tc.asked {
			t.Errorf("%s: Stream(%q) = %+v, %v, after %d requests, want %d", tc.reason, tc.name, got, err, asked.Load()-before, tc.asked)
		}
		if got != nil && got.Name != tc.name {
			t.Errorf("%s: got stream %q", tc.reason, got.Name)
		}
	}
	clock.Step(absentFor + 1)
	before := asked.Load()
	if _, err := streams.Stream(t.Context(), "shop", "mysql"); err != nil || asked.Load() != before+1 {
		t.Errorf("what is not there may come, so it is asked for again in time: %v, %d requests", err, asked.Load()-before)
	}
}
