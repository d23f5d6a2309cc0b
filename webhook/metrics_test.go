package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/openshift/api/image/v1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"istag.dev/config"
	"istag.dev/store"
	storev1 "istag.dev/store/v1"
	"istag.dev/webhook/audit"
	"istag.dev/webhook/policy"
	"istag.dev/webhook/scope"
)

func TestMetrics(t *testing.T) {
	index := store.NewIndex()
	record := &storev1.StreamRecord{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "keycloak"}}
	if err := index.Add(record); err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewPedanticRegistry()
	m := NewMetrics(reg, index)
	for range 2 {
		m.decided("pin", "enforce", "pinned", "LocalLookup")
	}
	m.decided("check", "warn", "denied", "NoTag")
	m.took("pin", 60*time.Microsecond)
	m.took("pin", 3*time.Second)
	m.PolicyReloaded("failed")

	want := `
# HELP istag_admission_decisions_total Images that admission decided on.
# TYPE istag_admission_decisions_total counter
istag_admission_decisions_total{mode="enforce",outcome="pinned",reason="LocalLookup",webhook="pin"} 2
istag_admission_decisions_total{mode="warn",outcome="denied",reason="NoTag",webhook="check"} 1
# HELP istag_policy_reloads_total How often the policy was read again, and what became of it.
# TYPE istag_policy_reloads_total counter
istag_policy_reloads_total{result="failed"} 1
istag_policy_reloads_total{result="ok"} 0
# HELP istag_index_streams Image streams in the index.
# TYPE istag_index_streams gauge
istag_index_streams 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "istag_admission_decisions_total", "istag_policy_reloads_total", "istag_index_streams"); err != nil {
		t.Error(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, family := range families {
		got[family.GetName()] = len(family.GetMetric())
		if family.GetName() != "istag_admission_duration_seconds" {
			continue
		}
		counts := map[float64]uint64{}
		for _, b := range family.GetMetric()[0].GetHistogram().GetBucket() {
			counts[b.GetUpperBound()] = b.GetCumulativeCount()
		}
		if counts[50e-6] != 0 || counts[100e-6] != 1 || counts[5] != 2 {
			t.Errorf("the buckets reach from the quickest review to the deadline: %v", counts)
		}
	}
	wantFamilies := map[string]int{
		"istag_admission_decisions_total": 2, "istag_admission_duration_seconds": 1,
		"istag_index_age_seconds": 1, "istag_index_streams": 1, "istag_policy_reloads_total": 2,
	}
	if diff := cmp.Diff(wantFamilies, got); diff != "" {
		t.Errorf("series by metric: -want +got:\n%s", diff)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("names and texts follow the custom: %v, %v", problems, err)
	}
}

func TestMetricsNil(*testing.T) {
	var m *Metrics
	m.decided("pin", "enforce", "pinned", "LocalLookup")
	m.took("pin", time.Second)
	m.PolicyReloaded("ok")
}

func TestMetricsAllocateNothing(t *testing.T) {
	m := NewMetrics(prometheus.NewRegistry(), store.NewIndex())
	if n := testing.AllocsPerRun(100, func() {
		m.decided("pin", "enforce", "pinned", "LocalLookup")
		m.took("pin", time.Millisecond)
	}); n != 0 {
		t.Errorf("counting is on the path of every review: %v allocations", n)
	}
}

// TestMetricsBounded shows that not even a mistake of ours makes a series of everything that is sent.
func TestMetricsBounded(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg, store.NewIndex())
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := range 2 * maxSeries {
				m.decided("pin", "enforce", "left", strconv.Itoa(i))
				m.took(strconv.Itoa(worker*i), time.Second)
			}
		})
	}
	wg.Wait()
	if n, err := testutil.GatherAndCount(reg, "istag_admission_decisions_total"); err != nil || n != maxSeries+1 {
		t.Errorf("decisions are told apart up to a bound: %d series, %v", n, err)
	}
	if n, err := testutil.GatherAndCount(reg, "istag_admission_duration_seconds"); err != nil || n > maxSeries+1 {
		t.Errorf("durations are told apart up to a bound: %d series, %v", n, err)
	}
	rest := m.decisions.WithLabelValues(unlisted, unlisted, unlisted, unlisted)
	if got := testutil.ToFloat64(rest); got != 4*maxSeries {
		t.Errorf("what is beyond the bound is counted still: %v", got)
	}
}

func TestHeard(t *testing.T) {
	index := store.NewIndex()
	started := time.Now().Add(-time.Hour)
	if got := heard(index, started); !got.Equal(started) {
		t.Errorf("an index that never heard anything ages from the start: %v", got)
	}
	if err := index.Replace(nil, ""); err != nil {
		t.Fatal(err)
	}
	if got := heard(index, started); time.Since(got) > time.Minute {
		t.Errorf("the age counts from what was heard last: %v", got)
	}
}

func BenchmarkMetrics(b *testing.B) {
	m := NewMetrics(prometheus.NewRegistry(), store.NewIndex())
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m.decided("pin", "enforce", "pinned", "LocalLookup")
			m.took("pin", time.Millisecond)
		}
	})
}

// everywhere has one answer for all namespaces.
type everywhere scope.Settings

func (s everywhere) Settings(context.Context, string) (scope.Settings, error) {
	return scope.Settings(s), nil
}

// TestMetricsTakeNoInput sends what nobody expects to both webhooks, and looks at the labels that come of it.
func TestMetricsTakeNoInput(t *testing.T) {
	index := store.NewIndex()
	if err := index.Replace([]any{&storev1.StreamRecord{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "keycloak"},
		Spec:       imagev1.ImageStreamSpec{LookupPolicy: imagev1.ImageLookupPolicy{Local: true}},
	}}, "1"); err != nil {
		t.Fatal(err)
	}
	rules, err := policy.Compile(config.DefaultPolicy(), nil)
	if err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	metrics := NewMetrics(reg, index)
	odd := []string{"x", "", "Pod", "CREATE", "keycloak:20.0", "\n\"}{\u2028é", "../..", `a{b="c"} 1`, strings.Repeat("long", 100), "quay.io/a/b@sha256:" + strings.Repeat("a", 64)}
	for _, mode := range []scope.Mode{scope.Enforce, scope.Warn, scope.Audit} {
		p := New(Options{
			Index: index, Streams: noStreams{}, Scopes: everywhere{Mode: mode}, Policy: func() *policy.Policy { return rules },
			Audit: audit.NewLog(io.Discard), Metrics: metrics,
		})
		for i := range 7 * len(odd) {
			fields := []any{"uid", "Pod", "pods", "CREATE", "alice", "keycloak", "keycloak:20.0"}
			fields[i%7] = odd[i/7]
			text := make([]any, len(fields))
			for j := range fields {
				quoted, err := json.Marshal(fields[j])
				if err != nil {
					t.Fatal(err)
				}
				text[j] = string(quoted)
			}
			body := fmt.Sprintf(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":%s,"namespace":"shop",`+
				`"kind":{"group":"","version":"v1","kind":%s},"resource":{"group":"","version":"v1","resource":%s},"operation":%s,"userInfo":{"username":%s},`+
				`"object":{"metadata":{"name":"a"},"spec":{"containers":[{"name":%s,"image":%s}]}}}}`, text...)
			for _, handler := range []http.Handler{p.Pin(), p.Check()} {
				r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/"+odd[0], strings.NewReader(body))
				r.Header.Set("Content-Type", "application/json")
				handler.ServeHTTP(httptest.NewRecorder(), r)
			}
		}
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	ours := regexp.MustCompile(`^(pin|check|enforce|warn|audit|pinned|left|denied|allowed|ok|failed|[A-Z][A-Za-z]{3,20})$`)
	seen := 0
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				seen++
				if value := label.GetValue(); !ours.MatchString(value) || slices.Contains(odd, value) {
					t.Errorf("%s has %s=%q, which a request said", family.GetName(), label.GetName(), value)
				}
			}
		}
	}
	if seen < 10 {
		t.Errorf("reviews are counted: %d labels", seen)
	}
}

type noStreams struct{}

func (noStreams) Stream(context.Context, string, string) (*store.Stream, error) { return nil, nil }

// TestMetricsAreDocumented compares the metrics that there are with the page's table.
func TestMetricsAreDocumented(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg, store.NewIndex())
	m.decided("pin", "enforce", "pinned", "LocalLookup")
	m.took("pin", time.Second)
	m.PolicyReloaded("ok")
	e, err := NewEvents(&rest.Config{Host: "http://127.0.0.1:1"}, reg)
	if err != nil {
		t.Fatal(err)
	}
	e.dropped.WithLabelValues(droppedFull).Inc()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, family := range families {
		var labels []string
		for _, label := range family.GetMetric()[0].GetLabel() {
			labels = append(labels, label.GetName())
		}
		slices.Sort(labels)
		want[family.GetName()] = strings.Join(labels, ",")
	}
	page, err := os.ReadFile("../docs/audit-log.md")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(istag_[a-z_]+)(?:\\{([a-z,]+)\\})?` \\|").FindAllStringSubmatch(string(page), -1) {
		labels := strings.Split(row[2], ",")
		slices.Sort(labels)
		got[row[1]] = strings.Join(labels, ",")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics and their labels: -code +docs:\n%s", diff)
	}
}
