package imports

import (
	imagev1 "github.com/openshift/api/image/v1"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

// fillStatus writes what came of every image into the answer.
func (i *importing) fillStatus() {
	failed, late := 0, 0
	for n, w := range i.list {
		status := i.imageStatus(w, i.findings[n])
		if !w.repository {
			i.isi.Status.Images = append(i.isi.Status.Images, status)
			continue
		}
		i.isi.Status.Repository.Images = append(i.isi.Status.Repository.Images, status)
		switch f := i.findings[n]; {
		case f.err != nil:
			failed++
		case f.late != inTime:
			late++
		}
	}
	if repository := i.isi.Status.Repository; repository != nil && repository.Status.Status == "" {
		repository.Status = repositoryStatus(failed, late)
	}
}

func (i *importing) imageStatus(w wanted, f *finding) imagev1.ImageImportStatus {
	status := imagev1.ImageImportStatus{Tag: w.remote}
	switch {
	case f.err != nil:
		status.Status = failure(w.from.Name, f.err)
	case f.late != inTime:
		stream := ""
		if i.isi.Spec.Import && w.tag != "" && len(i.dryRun) == 0 {
			stream = i.isi.Name
		}
		status.Status = unfinished(w.from.Name, stream, f.late, i.limit)
	default:
		status.Status = success()
		image := *f.image
		image.DockerImageReference = f.found.Reference
		status.Image = &image
		for _, child := range f.children {
			status.Manifests = append(status.Manifests, *child)
		}
	}
	return status
}

// localReferences gives the images whose tags have the reference policy Local the reference that
// workloads get.
func (i *importing) localReferences(record *storev1.StreamRecord) {
	for n, w := range i.list {
		image := i.statusOf(n).Image
		if image == nil || w.tag == "" || imageOf(record, w.tag) != image.Name {
			continue
		}
		if pullSpec, ok := store.PullSpec(record, w.tag); ok {
			image.DockerImageReference = pullSpec
		}
	}
}

// statusOf returns where the answer tells of the n-th image that was asked for.
func (i *importing) statusOf(n int) *imagev1.ImageImportStatus {
	images := i.isi.Status.Images
	if n < len(images) {
		return &images[n]
	}
	return &i.isi.Status.Repository.Images[n-len(images)]
}
