package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

const (
	// MaxTags is how many tags of a repository are read.
	MaxTags = 10_000

	// maxPages ends a list whose pages bring nothing.
	maxPages = 1000
)

// tagName is what a tag can be. What a registry lists beside that cannot be asked for.
var tagName = regexp.MustCompile(`^\w[\w.-]{0,127}$`)

// Tags returns the tags of the repository that a request names, as its registry lists them, the first
// MaxTags of them. Mirrors are not asked: most have only what was pulled through them. An error that a
// registry is to blame for is an *Error.
func (c *Client) Tags(ctx context.Context, req Request) ([]string, error) {
	ref, err := parse(req.PullSpec)
	if err != nil {
		return nil, err
	}
	at, err := home(ref, req.Insecure)
	if err != nil {
		return nil, err
	}
	var tags []string
	err = c.askAt(ctx, req, []place{at}, func(ctx context.Context, at place) error {
		rt, err := c.session(ctx, at)
		if err != nil {
			return err
		}
		tags, err = listTags(ctx, &http.Client{Transport: rt}, at)
		var known *placeError
		if err == nil || errors.As(err, &known) {
			return err
		}
		return stageError{stageTags, err}
	})
	return tags, err
}

func listTags(ctx context.Context, client *http.Client, at place) ([]string, error) {
	page := tagsURL(at)
	var tags []string
	for range maxPages {
		some, next, err := listPage(ctx, client, page)
		if err != nil {
			return nil, err
		}
		for _, tag := range some {
			if len(tags) < MaxTags && tagName.MatchString(tag) {
				tags = append(tags, tag)
			}
		}
		if next == nil || len(tags) == MaxTags {
			break
		}
		page = next
	}
	return tags, nil
}

func tagsURL(at place) *url.URL {
	return &url.URL{
		Scheme:   at.repository.Scheme(),
		Host:     at.repository.RegistryStr(),
		Path:     "/v2/" + at.repository.RepositoryStr() + "/tags/list",
		RawQuery: "n=1000",
	}
}

// listPage returns the tags of one page and where the next one is, nil if this was the last.
func listPage(ctx context.Context, client *http.Client, page *url.URL) ([]string, *url.URL, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page.String(), http.NoBody)
	if err != nil {
		return nil, nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if err := transport.CheckError(resp, http.StatusOK); err != nil {
		return nil, nil, err
	}
	var list struct {
		Tags []string `json:"tags"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		var syntax *json.SyntaxError
		var wrongType *json.UnmarshalTypeError
		if errors.As(err, &syntax) || errors.As(err, &wrongType) {
			return nil, nil, &placeError{Invalid, "sends a list of tags that cannot be read", adviceLater, err}
		}
		return nil, nil, err
	}
	next, err := nextPage(resp.Header.Get("Link"), page)
	return list.Tags, next, err
}

// nextPage reads a Link header, `<url>; rel="next"`. The next page is on the same host, so that a
// registry cannot send us elsewhere with the token that we have for it.
func nextPage(link string, page *url.URL) (*url.URL, error) {
	target, _, found := strings.Cut(strings.TrimPrefix(link, "<"), ">")
	if link == "" || !found || !strings.HasPrefix(link, "<") {
		return nil, nil // So a list ends.
	}
	next, err := page.Parse(target)
	if err != nil || next.Host != page.Host {
		return nil, &placeError{Invalid, "continues its list of tags at another place", adviceLater, err}
	}
	next.Scheme = page.Scheme
	return next, nil
}
