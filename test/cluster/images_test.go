package main

import "testing"

func TestImagesAreDeterministicAndDistinct(t *testing.T) {
	seen := map[string]string{}
	for _, seed := range seeds {
		for _, platform := range seed.platforms {
			name := seed.upstream() + ":" + seed.tag + " " + platform.String()
			var digests [2]string
			for i := range digests {
				image, err := seed.image(platform)
				if err != nil {
					t.Fatal(err)
				}
				digest, err := image.Digest()
				if err != nil {
					t.Fatal(err)
				}
				digests[i] = digest.String()
			}
			if digests[0] != digests[1] {
				t.Errorf("%s: two builds give %s and %s", name, digests[0], digests[1])
			}
			if other, ok := seen[digests[0]]; ok {
				t.Errorf("%s and %s have one digest: a moved tag could not be told", name, other)
			}
			seen[digests[0]] = name
		}
	}
}

// TestDigestIsKept pins one digest: documents and recorded output name it, and
// another version of Go or of a library must not change it.
func TestDigestIsKept(t *testing.T) {
	image, err := seed{host: "quay.io", repository: "keycloak/keycloak", tag: "20.0.1"}.image(amd64)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if want := "sha256:9dac9884b8be8b6d056a40e580fe5aca2a951805aba6d96d11faeb1a66f64918"; digest.String() != want {
		t.Errorf("digest is %s, was %s", digest, want)
	}
}

func TestIndexListsItsPlatforms(t *testing.T) {
	for _, seed := range seeds {
		if len(seed.platforms) < 2 {
			continue
		}
		index, err := seed.index()
		if err != nil {
			t.Fatal(err)
		}
		digests, err := platformDigests(index)
		if err != nil {
			t.Fatal(err)
		}
		for _, platform := range seed.platforms {
			if digests[platform.String()] == "" {
				t.Errorf("%s does not list %s: %v", seed.upstream(), platform, digests)
			}
		}
	}
}
