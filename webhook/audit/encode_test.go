package audit

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"istag.dev/resolver"
	"istag.dev/webhook/scope"
)

// FuzzAppendRecord compares the encoding with that of the library, which goes by the type.
func FuzzAppendRecord(f *testing.F) {
	f.Add("keycloak:20.0", "alice", "enforce", int64(1_900_000_000), int64(12_345), int64(4), true)
	f.Add("", "", "", int64(0), int64(0), int64(0), false)
	f.Add("\xff\u2028<b>\"\\\x00", strings.Repeat("é", maxText), "warn", int64(-62_135_596_800), int64(-1), int64(-1), true)
	f.Fuzz(func(t *testing.T, written, user, other string, seconds, nanoseconds, number int64, dryRun bool) {
		at := time.Unix(seconds%200_000_000_000, nanoseconds).UTC()
		if at.Year() < 0 || at.Year() > 9999 {
			return // no clock says so, and RFC 3339 cannot
		}
		r := Record{
			APIVersion: other, Time: at, UID: types.UID(written), User: user, Namespace: other, Kind: user, Name: written,
			Operation: other, DryRun: dryRun, Webhook: user, Mode: scope.Mode(other), Container: written, Written: written,
			Istag: user, PullSpec: other, StreamGeneration: number, MovedBy: written, Rule: user,
			Decision: other, Reason: resolver.Reason(written), DurationMicros: number,
		}
		got := string(appendRecord([]byte("before "), &r))
		want, err := jsonv2.Marshal(clipped(r), jsontext.AllowInvalidUTF8(true))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff("before "+string(want)+"\n", got); diff != "" {
			t.Errorf("-library +ours:\n%s", diff)
		}
		if strings.Count(got, "\n") != 1 || !utf8.ValidString(got) || !json.Valid([]byte(got)[len("before "):]) {
			t.Errorf("a record is one line of JSON: %q", got)
		}
	})
}

// clipped is a record with each of its texts clipped.
func clipped(r Record) Record {
	for _, text := range []*string{&r.APIVersion, &r.User, &r.Namespace, &r.Kind, &r.Name, &r.Operation, &r.Webhook, &r.Container, &r.Written, &r.Istag, &r.PullSpec, &r.MovedBy, &r.Rule, &r.Decision} {
		*text = Clip(*text, maxText)
	}
	r.UID, r.Mode, r.Reason = types.UID(Clip(string(r.UID), maxText)), scope.Mode(Clip(string(r.Mode), maxText)), resolver.Reason(Clip(string(r.Reason), maxText))
	return r
}

func TestClip(t *testing.T) {
	got := Clip(strings.Repeat("é", maxText), maxText)
	if len(got) > maxText || !strings.HasSuffix(got, "é…") {
		t.Errorf("a text is cut between characters, and says so: %d bytes", len(got))
	}
	if got := Clip("short", maxText); got != "short" {
		t.Errorf("a text that fits is left as it is: %q", got)
	}
}

func BenchmarkAppendRecord(b *testing.B) {
	r := record("5c2f0c5e-8b1a-4c39-9df2-4f4c9a3b2d11")
	var line []byte
	b.ReportAllocs()
	for b.Loop() {
		line = appendRecord(line[:0], &r)
	}
}
