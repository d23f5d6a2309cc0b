package imports

import (
	"context"
	"errors"
	"fmt"
	"time"

	imagev1 "github.com/openshift/api/image/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"istag.dev/apiserver/streams"
	"istag.dev/resolver/upstream"
	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

// margin is what is left of a request's time for writing its results.
const margin = time.Second

// importing is one request and what came of it so far.
type importing struct {
	*REST
	isi    *imagev1.ImageStreamImport
	dryRun []string
	// uid and resourceVersion are those that the stream must have, if not empty.
	uid             types.UID
	resourceVersion string
	// stream is as it was when the request began, nil if there was none.
	stream *storev1.StreamRecord
	// limit is the time that registries get.
	limit time.Duration

	list     []wanted
	findings []*finding
}

// Create asks registries for images and, if the request says so, puts them into the stream of its name.
//
// What registries do not give within the time that there is goes on in the background: the tag is
// written as one that is still to be imported, which the importer then does.
func (r *REST) Create(ctx context.Context, obj runtime.Object, createValidation rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	given, ok := obj.(*imagev1.ImageStreamImport)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not an ImageStreamImport: %T", obj))
	}
	isi := given.DeepCopy()
	i := &importing{REST: r, isi: isi, dryRun: options.DryRun, uid: isi.UID, resourceVersion: isi.ResourceVersion}
	isi.Namespace = request.NamespaceValue(ctx)
	isi.Status = imagev1.ImageStreamImportStatus{}
	isi.ManagedFields = nil
	rest.FillObjectMetaSystemFields(isi)
	setDefaults(isi)
	if errs := validate(isi); len(errs) > 0 {
		return nil, apierrors.NewInvalid(kind("ImageStreamImport"), isi.Name, errs)
	}
	if createValidation != nil {
		if err := createValidation(ctx, isi.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	if err := r.checkRegistries(ctx, isi); err != nil {
		return nil, err
	}
	if err := i.begin(ctx); err != nil {
		return nil, err
	}
	if err := i.ask(ctx); err != nil {
		return nil, err
	}
	if isi.Spec.Import {
		if err := i.write(ctx); err != nil {
			return nil, err
		}
	}
	return isi, nil
}

// checkRegistries refuses to import from registries that are not allowed, but for those who could make
// up images anyway.
func (r *REST) checkRegistries(ctx context.Context, isi *imagev1.ImageStreamImport) error {
	if r.Admit == nil {
		return nil
	}
	errs := validateRegistries(isi, r.Admit)
	if len(errs) == 0 || r.mayCreate(ctx, "images") || r.mayCreate(ctx, "imagestreammappings") {
		return nil
	}
	return apierrors.NewInvalid(kind("ImageStreamImport"), isi.Name, errs)
}

func (r *REST) mayCreate(ctx context.Context, resource string) bool {
	user, ok := request.UserFrom(ctx)
	if !ok {
		return false
	}
	decision, _, _ := r.Authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User:            user,
		Verb:            "create",
		APIGroup:        imagev1.GroupVersion.Group,
		APIVersion:      imagev1.GroupVersion.Version,
		Resource:        resource,
		ResourceRequest: true,
	})
	return decision == authorizer.DecisionAllow // An error gives no right.
}

// begin reads the stream and checks the preconditions.
func (i *importing) begin(ctx context.Context) error {
	stream, err := i.Streams.Get(ctx, i.isi.Name)
	switch {
	case apierrors.IsNotFound(err) && i.uid == "" && i.resourceVersion == "":
		return nil
	case err != nil:
		return err
	case i.uid != "" && stream.UID != i.uid:
		return apierrors.NewNotFound(imagev1.Resource("imagestream"), string(i.uid))
	case i.resourceVersion != "" && stream.ResourceVersion != i.resourceVersion:
		return i.conflict(fmt.Errorf("the image stream was updated from %q to %q", i.resourceVersion, stream.ResourceVersion))
	}
	i.stream = stream
	return nil
}

func (i *importing) conflict(why error) error {
	return apierrors.NewConflict(imagev1.Resource("imagestream"), i.isi.Name, why)
}

// ask asks registries, the images first and the repository after them, and fills in the status of each.
func (i *importing) ask(ctx context.Context) error {
	i.limit = i.Timeout
	if deadline, ok := ctx.Deadline(); ok {
		i.limit = max(0, min(i.limit, time.Until(deadline)-margin))
	}
	bounded, cancel := context.WithTimeout(ctx, i.limit)
	defer cancel()
	questions := newAsking(i.REST, i.isi, i.stream)
	i.list = planImages(i.isi, i.stream)
	var err error
	if i.findings, err = questions.all(bounded, i.list); err != nil {
		return err
	}
	if i.isi.Spec.Repository != nil {
		if err := i.askRepository(bounded, questions); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return apierrors.NewTimeoutError("the request was given up before registries had answered", 0)
	}
	if i.isi.Spec.Import && len(i.dryRun) == 0 {
		if err := i.keepImages(ctx); err != nil {
			return err
		}
	}
	i.fillStatus()
	return nil
}

func (i *importing) askRepository(ctx context.Context, questions *asking) error {
	spec := i.isi.Spec.Repository
	status := &imagev1.RepositoryImportStatus{}
	i.isi.Status.Repository = status
	tags, err := i.Upstream.Tags(ctx, upstream.Request{PullSpec: spec.From.Name, Insecure: spec.ImportPolicy.Insecure})
	switch {
	case err != nil && unansweredInTime(ctx, err):
		status.Status = unfinished(spec.From.Name, "", outOfTime, i.limit)
		return nil
	case err != nil:
		status.Status = failure(spec.From.Name, err)
		return nil
	}
	var list []wanted
	list, status.AdditionalTags = planRepository(spec, tags, i.MaxTagsPerRepository)
	findings, err := questions.all(ctx, list)
	i.list, i.findings = append(i.list, list...), append(i.findings, findings...)
	return err
}

// keepImages makes sure that every image that a tag will name exists.
func (i *importing) keepImages(ctx context.Context) error {
	for n, w := range i.list {
		f := i.findings[n]
		if f.image == nil || w.tag == "" {
			continue
		}
		err := i.keep(ctx, f.image)
		if isRefusal(err) {
			i.findings[n] = &finding{err: &upstream.Error{
				Kind:    upstream.Invalid,
				Message: fmt.Sprintf("%s: the image cannot be stored: the API server refuses what its manifest and configuration say", w.request.PullSpec),
				Cause:   err,
			}}
			continue
		}
		if err != nil {
			return err
		}
		for _, child := range f.children {
			if err := i.keep(ctx, child); err != nil && !isRefusal(err) {
				return err
			}
		}
	}
	return nil
}

func (i *importing) keep(ctx context.Context, image *imagev1.Image) error {
	if image.UID != "" {
		return nil // It comes from there.
	}
	kept := *image
	kept.DockerImageManifest, kept.DockerImageConfig = "", ""
	return i.Images.Create(ctx, &kept)
}

// isRefusal tells what is wrong with an image from what is wrong with the API server.
func isRefusal(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsRequestEntityTooLargeError(err)
}

// write records the results in the stream.
func (i *importing) write(ctx context.Context) error {
	imports := tagImports(i.list, i.findings)
	record := i.stream
	if len(imports) > 0 {
		options := streams.UpdateOptions{Create: i.stream == nil, DryRun: i.dryRun}
		if i.uid != "" || i.resourceVersion != "" {
			options.UID = i.stream.UID
		}
		var err error
		record, _, err = i.Streams.Update(ctx, i.isi.Name, options, func(record *storev1.StreamRecord, c store.Change) error {
			if err := i.checkMoved(record, imports); err != nil {
				return err
			}
			store.RecordImports(record, imports, c)
			return nil
		})
		if err != nil {
			return err
		}
	}
	if record != nil {
		i.isi.Status.Import = streams.ToAPI(record)
		i.localReferences(record)
	}
	return nil
}

// checkMoved refuses to write what the user's resource version did not show: a change of the very tags
// that are imported. Changes of others are no matter, or else nobody could import two tags of a stream
// at once.
func (i *importing) checkMoved(record *storev1.StreamRecord, imports []store.TagImport) error {
	if i.resourceVersion == "" || record.ResourceVersion == i.resourceVersion {
		return nil
	}
	for _, imported := range imports {
		tag := imported.Tag
		before, now := store.SpecTag(&i.stream.Spec, tag), store.SpecTag(&record.Spec, tag)
		same := equality.Semantic.DeepEqual(withoutGeneration(before), withoutGeneration(now))
		image := imageOf(record, tag)
		agreed := imported.Imported != nil && imported.Imported.Image == image
		if !same || image != imageOf(i.stream, tag) && !agreed {
			return i.conflict(fmt.Errorf("tag %q was changed while it was imported", tag))
		}
	}
	return nil
}

func withoutGeneration(tag *imagev1.TagReference) *imagev1.TagReference {
	if tag == nil {
		return nil
	}
	copied := *tag
	copied.Generation = nil
	return &copied
}

func imageOf(record *storev1.StreamRecord, tag string) string {
	if event := store.Latest(&record.Status, tag); event != nil {
		return event.Image
	}
	return ""
}

// tagImports returns what is to be recorded, once for each tag: the last of several counts, and
// spec.images before spec.repository.
func tagImports(list []wanted, findings []*finding) []store.TagImport {
	last := map[string]int{}
	for n, w := range list {
		if before, ok := last[w.tag]; !ok || !w.repository || list[before].repository {
			last[w.tag] = n
		}
	}
	var imports []store.TagImport
	for n, w := range list {
		if w.tag == "" || last[w.tag] != n {
			continue
		}
		f := findings[n]
		imported := store.TagImport{
			Tag: w.tag, From: w.from, ImportPolicy: w.importPolicy, ReferencePolicy: w.referencePolicy, FromRepository: w.repository,
			Pending: f.late != inTime,
		}
		switch {
		case f.image != nil:
			imported.Imported = &store.Import{Reference: f.found.Reference, Image: f.found.Digest}
		case f.err != nil:
			imported.Failure = &store.ImportError{Reason: upstream.Reason(f.err), Message: messageOf(f.err)}
		}
		imports = append(imports, imported)
	}
	return imports
}

// messageOf returns what users read in the tag's condition: the same as the importer says, since it
// goes on trying.
func messageOf(err error) string {
	var known *upstream.Error
	if errors.As(err, &known) {
		return known.Message
	}
	return err.Error()
}
