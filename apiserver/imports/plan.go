package imports

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	"github.com/distribution/reference"
	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/version"

	"istag.dev/resolver/upstream"
	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

// question is what a registry is asked. Equal questions are asked once.
type question struct {
	request upstream.Request
	// raw asks for the manifest and the configuration, too.
	raw bool
}

// wanted is one image that a request wants.
type wanted struct {
	question
	// tag of the stream that the image is for; empty if it is for none.
	tag string
	// remote is the tag that the registry is asked for; empty if that is a digest.
	remote string

	from            corev1.ObjectReference
	importPolicy    imagev1.TagImportPolicy
	referencePolicy imagev1.TagReferencePolicy
	// repository says that the image is one of a whole repository.
	repository bool
}

// planImages returns what spec.images of a valid request wants, in its order. stream is as it is now,
// nil if there is none.
func planImages(isi *imagev1.ImageStreamImport, stream *storev1.StreamRecord) []wanted {
	list := make([]wanted, 0, len(isi.Spec.Images))
	for i := range isi.Spec.Images {
		image := &isi.Spec.Images[i]
		w := wanted{from: image.From, importPolicy: image.ImportPolicy, referencePolicy: image.ReferencePolicy}
		explicit, digested := partsOf(image.From.Name)
		if !digested {
			w.remote = cmp.Or(explicit, store.DefaultTag)
		}
		w.tag = explicit
		if image.To != nil {
			w.tag = image.To.Name
		}
		tag := imagev1.TagReference{Name: w.tag, From: &w.from, ImportPolicy: w.importPolicy}
		if stream != nil {
			if existing := store.SpecTag(&stream.Spec, w.tag); existing != nil {
				tag.Annotations = existing.Annotations
			}
		}
		w.question = question{request: upstream.NewRequest(&tag), raw: image.IncludeManifest}
		list = append(list, w)
	}
	return list
}

// partsOf returns the tag that a pull spec states, if any, and whether it states a digest.
func partsOf(pullSpec string) (tag string, digested bool) {
	named, err := reference.ParseNormalizedNamed(pullSpec)
	if err != nil {
		return "", false
	}
	if tagged, ok := named.(reference.Tagged); ok {
		tag = tagged.Tag()
	}
	_, digested = named.(reference.Digested)
	return tag, digested
}

// planRepository returns what a repository's import wants of its tags, most wanted first, and which
// tags are left for another time. A limit of -1 means all.
func planRepository(spec *imagev1.RepositoryImportSpec, tags []string, limit int) (list []wanted, additional []string) {
	tags = prioritize(tags)
	if limit >= 0 && len(tags) > limit {
		tags, additional = tags[:limit], tags[limit:]
	}
	for _, tag := range tags {
		w := wanted{
			tag:             tag,
			remote:          tag,
			from:            corev1.ObjectReference{Kind: store.KindDockerImage, Name: spec.From.Name + ":" + tag},
			importPolicy:    spec.ImportPolicy,
			referencePolicy: spec.ReferencePolicy,
			repository:      true,
		}
		w.question = question{
			request: upstream.NewRequest(&imagev1.TagReference{From: &w.from, ImportPolicy: w.importPolicy}),
			raw:     spec.IncludeManifest,
		}
		list = append(list, w)
	}
	return list, additional
}

var (
	minorVersion = regexp.MustCompile(`^v?(\d+\.\d+)(-[0-9A-Za-z.-]+)?$`)
	fullVersion  = regexp.MustCompile(`^v?(\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?)$`)
)

// The ranks of tags: a minor version is what most people follow, so it comes before the patches.
const (
	rankLatest = iota
	rankMinor
	rankFull
	rankOther
)

type rankedTag struct {
	name    string
	rank    int
	version *version.Version
}

// prioritize returns tags in the order in which a limit takes them, each once: latest, then minor
// versions and then full versions, each with the newest first, then all else by name.
func prioritize(tags []string) []string {
	ranked := make([]rankedTag, 0, len(tags))
	for _, tag := range tags {
		ranked = append(ranked, rank(tag))
	}
	slices.SortFunc(ranked, func(a, b rankedTag) int {
		if a.rank == b.rank && a.version != nil {
			if a.version.LessThan(b.version) {
				return 1
			}
			if b.version.LessThan(a.version) {
				return -1
			}
		}
		return cmp.Or(cmp.Compare(a.rank, b.rank), strings.Compare(a.name, b.name))
	})
	names := make([]string, 0, len(ranked))
	for _, r := range ranked {
		names = append(names, r.name)
	}
	return slices.Compact(names)
}

func rank(tag string) rankedTag {
	if tag == store.DefaultTag {
		return rankedTag{name: tag, rank: rankLatest}
	}
	if m := minorVersion.FindStringSubmatch(tag); m != nil {
		if v, err := version.ParseSemantic(m[1] + ".0" + m[2]); err == nil {
			return rankedTag{tag, rankMinor, v}
		}
	}
	if m := fullVersion.FindStringSubmatch(tag); m != nil {
		if v, err := version.ParseSemantic(m[1]); err == nil {
			return rankedTag{tag, rankFull, v}
		}
	}
	return rankedTag{name: tag, rank: rankOther}
}
