package audit

import (
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// maxText is the most that is written of one text, in bytes. What a request says can be as long as the
// request: without a bound, strangers could fill the disk with a handful of them.
const maxText = 1024

// appendRecord appends a record as one line of JSON, with the fields in the order of Record. It says what
// encoding/json would, in a fraction of the time.
func appendRecord(dst []byte, r *Record) []byte {
	dst = appendText(dst, `{"apiVersion":`, r.APIVersion)
	dst = append(dst, `,"time":"`...)
	dst = r.Time.AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, '"')
	dst = appendText(dst, `,"uid":`, string(r.UID))
	dst = appendText(dst, `,"user":`, r.User)
	dst = appendText(dst, `,"namespace":`, r.Namespace)
	dst = appendText(dst, `,"kind":`, r.Kind)
	dst = appendText(dst, `,"name":`, r.Name)
	dst = appendText(dst, `,"operation":`, r.Operation)
	dst = append(dst, `,"dryRun":`...)
	dst = strconv.AppendBool(dst, r.DryRun)
	dst = appendText(dst, `,"webhook":`, r.Webhook)
	dst = appendText(dst, `,"mode":`, string(r.Mode))
	dst = appendText(dst, `,"container":`, r.Container)
	dst = appendText(dst, `,"written":`, r.Written)
	dst = appendOptional(dst, `,"istag":`, r.Istag)
	dst = appendOptional(dst, `,"pullSpec":`, r.PullSpec)
	if r.StreamGeneration != 0 {
		dst = append(dst, `,"streamGeneration":`...)
		dst = strconv.AppendInt(dst, r.StreamGeneration, 10)
	}
	dst = appendOptional(dst, `,"movedBy":`, r.MovedBy)
	dst = appendOptional(dst, `,"rule":`, r.Rule)
	dst = appendText(dst, `,"decision":`, r.Decision)
	dst = appendText(dst, `,"reason":`, string(r.Reason))
	dst = append(dst, `,"durationMicros":`...)
	dst = strconv.AppendInt(dst, r.DurationMicros, 10)
	return append(dst, "}\n"...)
}

func appendOptional(dst []byte, name, text string) []byte {
	if text == "" {
		return dst
	}
	return appendText(dst, name, text)
}

func appendText(dst []byte, name, text string) []byte {
	// Its error says that the text is not UTF-8; what cannot be read was replaced.
	dst, _ = jsontext.AppendQuote(append(dst, name...), Clip(text, maxText))
	return dst
}

// Clip returns a text of at most so many bytes, which ends with "…" if it was longer.
func Clip(text string, most int) string {
	if len(text) <= most {
		return text
	}
	const more = "…"
	return strings.ToValidUTF8(text[:most-len(more)], "") + more
}
