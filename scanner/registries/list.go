package registries

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/assay-dev/assay/outgoing"
	"github.com/assay-dev/assay/scanner/pace"
)

const (
	pageSize = 1000     // what ECR and the reference registry give at most
	maxPage  = 64 << 20 // bytes
	maxPages = 100_000
	maxDepth = 16 // of Google's folders
)

// scope is what credentials are asked for: a registry or a repository.
type scope interface {
	authn.Resource
	Scope(action string) string
}

// session talks to a registry with credentials for one scope.
type session struct {
	client *http.Client
	host   string // for errors
	base   url.URL
}

func (t target) registry() (name.Registry, error) {
	var options []name.Option
	if t.InsecureHTTP {
		options = append(options, name.Insecure)
	}
	return name.NewRegistry(t.host, options...)
}

// session shakes hands with the registry, for a repository or, with "", for all.
func (t target) session(ctx context.Context, repository string) (*session, error) {
	registry, err := t.registry()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSource, err)
	}
	var about scope = registry
	if repository != "" {
		about = registry.Repo(repository)
	}
	auth, err := authn.Resolve(ctx, t.Keychain, about)
	if err != nil {
		return nil, fmt.Errorf("finding credentials for %s: %w", t.host, err)
	}
	carrier, err := transport.NewWithContext(ctx, registry, auth, transport.NewUserAgent(&outgoing.Registry{Base: t.Transport, Host: registry.RegistryStr(), PlainHTTP: t.InsecureHTTP, Realms: t.Realms}, t.UserAgent), []string{about.Scope(transport.PullScope)})
	if err != nil {
		return nil, t.say(err)
	}
	return &session{client: &http.Client{Transport: carrier}, host: t.host, base: url.URL{Scheme: registry.Scheme(), Host: registry.RegistryStr()}}, nil
}

// status is that of an answer that was refused; 0 for other errors.
func status(err error) int {
	var te *transport.Error
	if errors.As(err, &te) {
		return te.StatusCode
	}
	return 0
}

// say words what a registry answered.
func (t target) say(err error) error {
	var te *transport.Error
	var not *outgoing.Refused
	switch {
	case errors.Is(err, context.Canceled) || errors.Is(err, pace.ErrBusy):
		return err
	case errors.As(err, &not):
		return &said{fmt.Sprintf("the registry %s is not asked: %v", t.host, not), err}
	case !errors.As(err, &te):
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return &said{fmt.Sprintf("the registry %s cannot be reached: %v", t.host, err), err}
	}
	text := fmt.Sprintf("HTTP status %d %s", te.StatusCode, http.StatusText(te.StatusCode))
	for _, d := range te.Errors {
		text += fmt.Sprintf("; %s: %.200s", d.Code, d.Message)
	}
	switch te.StatusCode {
	case http.StatusUnauthorized:
		text = "asks for credentials: none were found for it, or it does not accept them (" + text + ")"
	case http.StatusForbidden:
		text = "denies access (" + text + ")"
	default:
		text = "failed: " + text
	}
	return &said{"the registry " + t.host + " " + text, err}
}

// said is an error in words of ours.
type said struct {
	text string
	err  error
}

func (s *said) Error() string { return s.text }
func (s *said) Unwrap() error { return s.err }

// get reads one answer into out, up to a bound.
func get(ctx context.Context, client *http.Client, from *url.URL, header http.Header, out any) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, from.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header = header
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if err := transport.CheckError(response, http.StatusOK); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxPage+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxPage {
		return nil, fmt.Errorf("a page has more than %d bytes", maxPage)
	}
	if err := json.Unmarshal(text, out); err != nil {
		return nil, fmt.Errorf("the answer is no JSON as the distribution API has it: %w", err)
	}
	return response, nil
}

// page is of a catalogue or of tags.
type page struct {
	Repositories []string `json:"repositories"`
	Tags         []string `json:"tags"`
	// Children and Manifests are given by Google's registries: the folders below, and
	// all manifests by digest.
	Children  []string `json:"child"`
	Manifests map[string]struct {
		Tags      []string        `json:"tag"`
		MediaType types.MediaType `json:"mediaType"`
	} `json:"manifest"`
}

func (p *page) entries() []string {
	if p.Repositories != nil {
		return p.Repositories
	}
	return p.Tags
}

// pages calls fn with each page of a list. The Link header leads on; where a full page
// comes without one, what follows its last entry is asked for.
func (s *session) pages(ctx context.Context, path string, fn func(*page) error) error {
	from := s.base
	from.Path = path
	from.RawQuery = fmt.Sprintf("n=%d", pageSize)
	first := ""
	for n := 0; n < maxPages; n++ {
		var p page
		response, err := get(ctx, s.client, &from, http.Header{}, &p)
		if err != nil {
			return err
		}
		list := p.entries()
		if len(list) > 0 {
			if list[0] == first {
				return fmt.Errorf("the registry %s gives the same page of %s again and again", s.host, path)
			}
			first = list[0]
		}
		if err := fn(&p); err != nil {
			return err
		}
		next, err := nextPage(response)
		switch {
		case err != nil:
			return fmt.Errorf("the registry %s: %w", s.host, err)
		case next != nil && *next == from:
			return fmt.Errorf("the registry %s: a page of %s leads to itself", s.host, path)
		case next != nil:
			from = *next
		case len(list) == pageSize && p.Manifests == nil:
			from.RawQuery = url.Values{"n": {fmt.Sprint(pageSize)}, "last": {list[len(list)-1]}}.Encode()
		default:
			return nil
		}
	}
	return fmt.Errorf("the registry %s gives more than %d pages of %s", s.host, maxPages, path)
}

// nextPage reads the Link header, whose rel is "next" or absent. Another host is not followed.
func nextPage(response *http.Response) (*url.URL, error) {
	for _, value := range response.Header.Values("Link") {
		for link := range strings.SplitSeq(value, ",") {
			target, parameters, _ := strings.Cut(strings.TrimSpace(link), ">")
			target, found := strings.CutPrefix(target, "<")
			parameters = strings.ToLower(strings.ReplaceAll(parameters, " ", ""))
			if !found || strings.Contains(parameters, "rel=") && !strings.Contains(parameters, `rel="next"`) && !strings.Contains(parameters, "rel=next") {
				continue
			}
			next, err := url.Parse(target)
			if err != nil {
				return nil, fmt.Errorf("the next page is at no URL: %.200q", target)
			}
			next = response.Request.URL.ResolveReference(next)
			if !sameOrigin(next, response.Request.URL) {
				return nil, fmt.Errorf("the next page is at another host, %s", next.Host)
			}
			return next, nil
		}
	}
	return nil, nil
}

// repositories calls fn with each repository, and says how they are found. fn
// may be called twice with one that was listed twice.
func (t target) repositories(ctx context.Context, fn func(string) error) error {
	switch {
	case len(t.Repositories) > 0:
		for _, r := range t.Repositories {
			if err := fn(r); err != nil {
				return err
			}
		}
		return nil
	case t.host == "docker.io":
		return t.listHub(ctx, fn)
	case t.host == "quay.io":
		return t.listQuay(ctx, fn)
	case t.host == "ghcr.io" || t.host == "public.ecr.aws":
		return fmt.Errorf("%w: %s does not list its repositories: name them, with --repository", ErrSource, t.host)
	case isGoogle(t.host) && t.prefix != "":
		return fn(t.prefix) // and what is below it, which its tags come with
	}
	s, err := t.session(ctx, "")
	if err == nil {
		err = s.pages(ctx, "/v2/_catalog", func(p *page) error {
			for _, r := range p.Repositories {
				if !t.under(r) {
					continue
				}
				if err := fn(r); err != nil {
					return &stop{err}
				}
			}
			return nil
		})
	}
	var ended *stop
	switch code := status(err); {
	case errors.As(err, &ended):
		return ended.error
	case code == http.StatusUnauthorized || code == http.StatusForbidden || code == http.StatusNotFound || code == http.StatusMethodNotAllowed:
		return fmt.Errorf("%w: it does not list its repositories: %w: name them, with --repository", ErrSource, t.say(err))
	case code != 0:
		return fmt.Errorf("listing the repositories: %w", t.say(err))
	case err != nil:
		return fmt.Errorf("listing the repositories: %w", err)
	}
	return nil
}

// stop is an error of the caller.
type stop struct{ error }

func isGoogle(host string) bool {
	return host == "gcr.io" || strings.HasSuffix(host, ".gcr.io") || strings.HasSuffix(host, ".pkg.dev")
}

// other gets a page of an API beside the registry's.
func (t target) other(ctx context.Context, from *url.URL, bearer string, out any) error {
	header := http.Header{"User-Agent": {t.UserAgent}}
	if bearer != "" {
		header.Set("Authorization", "Bearer "+bearer)
	}
	client := &http.Client{Transport: t.Transport, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if !sameOrigin(r.URL, via[0].URL) || len(via) > 3 {
			return errors.New("it redirects elsewhere")
		}
		return nil
	}}
	_, err := get(ctx, client, from, header, out)
	if err != nil {
		return fmt.Errorf("listing the repositories of %s/%s at %s: %w", t.host, t.prefix, from.Host, t.say(err))
	}
	return nil
}

// listHub lists a namespace of Docker Hub, which has no catalogue, by Hub's own API.
func (t target) listHub(ctx context.Context, fn func(string) error) error {
	if t.prefix == "" || strings.Contains(t.prefix, "/") {
		return fmt.Errorf("%w: Docker Hub lists one namespace at a time: name it, as docker.io/example, or repositories, with --repository", ErrSource)
	}
	base, err := url.Parse(t.hub)
	if err != nil {
		return err
	}
	token, err := t.hubToken(ctx, base)
	if err != nil {
		return err
	}
	next := base.JoinPath("v2/namespaces", t.prefix, "repositories")
	next.RawQuery = "page_size=100"
	for n := 0; n < maxPages; n++ {
		var p struct {
			Next    string `json:"next"`
			Results []struct {
				Name string `json:"name"`
				Type string `json:"repository_type"`
			} `json:"results"`
		}
		if err := t.other(ctx, next, token, &p); err != nil {
			return err
		}
		for _, r := range p.Results {
			if r.Type != "" && r.Type != "image" {
				continue
			}
			if err := fn(t.prefix + "/" + r.Name); err != nil {
				return err
			}
		}
		if p.Next == "" {
			return nil
		}
		following, err := url.Parse(p.Next)
		if err != nil || !sameOrigin(following, base) || *following == *next {
			return fmt.Errorf("listing the repositories of %s/%s: the next page is at %.200q", t.host, t.prefix, p.Next)
		}
		next = following
	}
	return fmt.Errorf("%s gives more than %d pages", base.Host, maxPages)
}

// hubToken logs in to Docker Hub, where there are credentials for it: private
// repositories are listed for who may see them.
func (t target) hubToken(ctx context.Context, base *url.URL) (string, error) {
	registry, err := t.registry()
	if err != nil {
		return "", err
	}
	auth, err := authn.Resolve(ctx, t.Keychain, registry)
	if err != nil {
		return "", fmt.Errorf("finding credentials for %s: %w", t.host, err)
	}
	config, err := authn.Authorization(ctx, auth)
	if err != nil {
		return "", fmt.Errorf("finding credentials for %s: %w", t.host, err)
	}
	if config.Username == "" || config.Password == "" {
		return "", nil
	}
	body, err := json.Marshal(map[string]string{"identifier": config.Username, "secret": config.Password})
	if err != nil {
		return "", err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, base.JoinPath("v2/auth/token").String(), bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", t.UserAgent)
	response, err := t.Transport.RoundTrip(request) // which follows no redirect
	if err != nil {
		return "", fmt.Errorf("logging in to %s: %w", base.Host, err)
	}
	defer response.Body.Close()
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(&answer); response.StatusCode != http.StatusOK || err != nil || answer.Token == "" {
		return "", fmt.Errorf("logging in to %s as %s: it answers %s", base.Host, config.Username, response.Status)
	}
	return answer.Token, nil
}

// listQuay lists a namespace of quay.io, whose catalogue has all public repositories
// of everyone, by its own API.
func (t target) listQuay(ctx context.Context, fn func(string) error) error {
	if t.prefix == "" || strings.Contains(t.prefix, "/") {
		return fmt.Errorf("%w: quay.io lists one namespace at a time: name it, as quay.io/example, or repositories, with --repository", ErrSource)
	}
	base, err := url.Parse(t.quay)
	if err != nil {
		return err
	}
	query := url.Values{"namespace": {t.prefix}}
	if t.QuayToken == "" {
		query.Set("public", "true")
		t.Log.Warn("quay.io lists public repositories only: for others set QUAY_TOKEN to an OAuth 2 token, or name them with --repository", "namespace", t.prefix)
	}
	for n := 0; n < maxPages; n++ {
		var p struct {
			Next         string `json:"next_page"`
			Repositories []struct {
				Name string `json:"name"`
				Kind string `json:"kind"`
			} `json:"repositories"`
		}
		from := base.JoinPath("api/v1/repository")
		from.RawQuery = query.Encode()
		if err := t.other(ctx, from, t.QuayToken, &p); err != nil {
			return err
		}
		for _, r := range p.Repositories {
			if r.Kind != "" && r.Kind != "image" {
				continue
			}
			if err := fn(t.prefix + "/" + r.Name); err != nil {
				return err
			}
		}
		if p.Next == "" {
			return nil
		}
		if p.Next == query.Get("next_page") {
			return fmt.Errorf("listing the repositories of %s/%s: a page leads to itself", t.host, t.prefix)
		}
		query.Set("next_page", p.Next)
	}
	return fmt.Errorf("%s gives more than %d pages", base.Host, maxPages)
}
