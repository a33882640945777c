package registries

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anchore/syft/syft/sbom"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/scanner"
	"github.com/assay-dev/assay/scanner/pace"
	"github.com/assay-dev/assay/server/client"
)

// image is an image of one Python package.
func image(t *testing.T, version string) v1.Image {
	t.Helper()
	var text bytes.Buffer
	w := tar.NewWriter(&text)
	for _, f := range [][2]string{ // in one order: an image has one digest
		{"etc/os-release", "ID=debian\nVERSION_ID=\"12\"\n"},
		{"usr/lib/python3/dist-packages/own-" + version + ".dist-info/METADATA", "Metadata-Version: 2.1\nName: own\nVersion: " + version + "\n"},
	} {
		if err := w.WriteHeader(&tar.Header{Name: f[0], Mode: 0o644, Size: int64(len(f[1]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	i, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	config, err := i.ConfigFile()
	if err == nil {
		config = config.DeepCopy()
		config.OS, config.Architecture = "linux", "amd64"
		i, err = mutate.ConfigFile(i, config)
	}
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func push(t *testing.T, reference string, what remote.Taggable) string {
	t.Helper()
	ref, err := name.ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	var digest v1.Hash
	switch x := what.(type) {
	case v1.Image:
		err = remote.Write(ref, x)
		digest, _ = x.Digest()
	case v1.ImageIndex:
		err = remote.WriteIndex(ref, x)
		digest, _ = x.Digest()
	}
	if err != nil {
		t.Fatal(err)
	}
	return digest.String()
}

// hosted is a registry in process that notes requests.
type hosted struct {
	host string
	mu   sync.Mutex
	seen []string
	// answer, where given, answers in the place of the registry, if it says true.
	answer func(http.ResponseWriter, *http.Request) bool
}

func (h *hosted) requests(like string) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.seen {
		if regexp.MustCompile(like).MatchString(r) {
			n++
		}
	}
	return n
}

func (h *hosted) set(answer func(http.ResponseWriter, *http.Request) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answer, h.seen = answer, nil
}

func host(t *testing.T) *hosted {
	t.Helper()
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	h := &hosted{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		h.seen = append(h.seen, r.Method+" "+r.URL.Path)
		answer := h.answer
		h.mu.Unlock()
		if answer == nil || !answer(w, r) {
			inner.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	h.host = strings.TrimPrefix(s.URL, "http://")
	return h
}

// anonymous knows no credentials.
var anonymous = authn.NewMultiKeychain()

// fast tries again without much of a wait.
func fast() *pace.Transport { return pace.New(pace.Config{Backoff: time.Millisecond, Attempts: 3}) }

// found lists a registry, and gives the names with where they lead to, or with the error.
func found(t *testing.T, s Source) (map[string]string, *Listing, error) {
	t.Helper()
	if s.Keychain == nil {
		s.Keychain = anonymous
	}
	if s.Transport == nil {
		s.Transport = fast()
	}
	s.InsecureHTTP = s.InsecureHTTP || strings.Contains(s.Registry, "127.0.0.1:")
	var mu sync.Mutex
	all := map[string]string{}
	var l Listing
	err := Walk(t.Context(), s, &l, func(_ context.Context, f Found) error {
		mu.Lock()
		defer mu.Unlock()
		all[f.Name] = f.Digest
		if f.Err != nil {
			all[f.Name] = f.Err.Error()
		}
		return nil
	})
	return all, &l, err
}

func names(all map[string]string, host string) string {
	var list []string
	for n := range all {
		list = append(list, strings.TrimPrefix(n, host+"/"))
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func TestFilters(t *testing.T) {
	h := host(t)
	i := image(t, "1.0.0")
	for _, n := range []string{"a:1", "a:2", "team/web:1.0", "team/web:dev", "team/web/sub:1", "teams:1"} {
		push(t, h.host+"/"+n, i)
	}
	push(t, h.host+"/team/web:sha256-"+strings.Repeat("a", 64)+".sig", i)
	re := func(list ...string) (all []*regexp.Regexp) {
		for _, text := range list {
			all = append(all, regexp.MustCompile(text))
		}
		return all
	}
	for _, c := range []struct {
		what string
		s    Source
		want string
	}{
		{"all", Source{Registry: h.host}, "a:1 a:2 team/web/sub:1 team/web:1.0 team/web:dev teams:1"},
		{"a scheme", Source{Registry: "https://" + h.host + "/"}, "a:1 a:2 team/web/sub:1 team/web:1.0 team/web:dev teams:1"},
		{"a path", Source{Registry: h.host + "/team"}, "team/web/sub:1 team/web:1.0 team/web:dev"},
		{"a repository as path", Source{Registry: h.host + "/team/web"}, "team/web/sub:1 team/web:1.0 team/web:dev"},
		{"repositories", Source{Registry: h.host, Repositories: []string{"a", "teams"}}, "a:1 a:2 teams:1"},
		{"include", Source{Registry: h.host, Include: re(`^a:`, `:1\.0$`)}, "a:1 a:2 team/web:1.0"},
		{"exclude", Source{Registry: h.host, Exclude: re(`:dev$`, `^teams`)}, "a:1 a:2 team/web/sub:1 team/web:1.0"},
		{"both", Source{Registry: h.host, Include: re(`^team/`), Exclude: re(`:dev$`)}, "team/web/sub:1 team/web:1.0"},
		{"exclude repositories", Source{Registry: h.host, Exclude: re(`web$`, `^a$`)}, "team/web/sub:1 teams:1"},
		{"none", Source{Registry: h.host, Include: re(`nosuch`)}, ""},
		{"none of a repository", Source{Registry: h.host, Exclude: re(`.`)}, ""},
		{"no path", Source{Registry: h.host + "/nosuch"}, ""},
	} {
		all, l, err := found(t, c.s)
		if got := names(all, h.host); err != nil || got != c.want {
			t.Errorf("%s: %v %s, want %s", c.what, err, got, c.want)
		}
		if n := l.Signatures.Load(); strings.Contains(c.want, "team/web:1.0") && n != 1 {
			t.Errorf("%s: %d signatures", c.what, n)
		}
		// It is said why there is nothing, where there is nothing.
		why := map[string]string{
			"none":                 "the filters leave out all that " + h.host + " lists: 6 tags and repositories",
			"none of a repository": "the filters leave out all that " + h.host + " lists: 4 tags and repositories",
			"no path":              h.host + "/nosuch lists no tags",
		}[c.what]
		if err := l.Nothing(c.s.Registry); (err == nil) != (why == "") || err != nil && err.Error() != why {
			t.Errorf("%s: nothing: %v, want %q", c.what, err, why)
		}
		// covers and walk agree.
		checked, _ := c.s.check()
		var covered []string
		for _, n := range []string{"a:1", "a:2", "team/web:1.0", "team/web:dev", "team/web/sub:1", "teams:1"} {
			if checked.covers(h.host + "/" + n) {
				covered = append(covered, n)
			}
		}
		slices.Sort(covered)
		if got := strings.Join(covered, " "); got != c.want {
			t.Errorf("%s covers %s", c.what, got)
		}
	}
	all, _, err := found(t, Source{Registry: h.host, Repositories: []string{"nosuch"}})
	if got := all[h.host+"/nosuch"]; err != nil || !strings.Contains(got, "listing the tags of "+h.host+"/nosuch: the registry "+h.host+" failed: HTTP status 404 Not Found; NAME_UNKNOWN") {
		t.Errorf("%v %s", err, got)
	}
}

func TestWrongSources(t *testing.T) {
	for _, c := range []struct {
		s    Source
		want string
	}{
		{Source{}, "must be HOST or HOST/PATH"},
		{Source{Registry: "example"}, "must be HOST or HOST/PATH"},
		{Source{Registry: "registry.example.com/a:1"}, "must be HOST or HOST/PATH"},
		{Source{Registry: "http://registry.example.com"}, "leave out http://"},
		{Source{Registry: "user:secret@registry.example.com"}, `"…@registry.example.com" must be`},
		{Source{Registry: "registry.example.com/team", Repositories: []string{"a"}}, "leave the path out"},
		{Source{Registry: "registry.example.com", Repositories: []string{"a:1", "B"}}, `"a:1" is no name of a repository`},
		{Source{Registry: "registry.example.com", Repositories: []string{"a:1", "B"}}, `"B" is no name of a repository`},
		{Source{Registry: "ghcr.io/example"}, "ghcr.io does not list its repositories: name them, with --repository"},
		{Source{Registry: "public.ecr.aws/example"}, "does not list its repositories"},
		{Source{Registry: "docker.io"}, "Docker Hub lists one namespace at a time"},
		{Source{Registry: "quay.io"}, "quay.io lists one namespace at a time"},
	} {
		_, _, err := found(t, c.s)
		if !errors.Is(err, ErrSource) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.s, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%v shows a password", err)
		}
	}
}

// Pages are followed by their Link headers, and by their last entries where a full page has none.
func TestPages(t *testing.T) {
	var all []string
	for n := range 2500 {
		all = append(all, fmt.Sprintf("repo%04d", n))
	}
	list := func(w http.ResponseWriter, r *http.Request, n int, link string) {
		rest := all
		if last := r.URL.Query().Get("last"); last != "" {
			rest = all[slices.Index(all, last)+1:]
		}
		if len(rest) > n {
			rest = rest[:n]
			if link != "" {
				w.Header().Set("Link", fmt.Sprintf(link, rest[n-1]))
			}
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"repositories": rest})
	}
	for _, c := range []struct {
		what, link string
		n, want    int
		fault      string
	}{
		{"relative links", `</v2/_catalog?last=%s>; rel="next"`, 100, 2500, ""},
		{"a relative link of the query alone", `<?last=%s>;rel=next`, 100, 2500, ""},
		{"another relation first", `</v2/>; rel="prev", </v2/_catalog?last=%s>; rel="next"`, 999, 2500, ""},
		{"no relation", `</v2/_catalog?last=%s>`, 999, 2500, ""},
		{"no links", "", 1000, 2500, ""},
		{"another host", `<http://169.254.169.254/v2/_catalog?last=%s>; rel="next"`, 100, 100, "the next page is at another host, 169.254.169.254"},
		{"a page that leads to itself", `</v2/_catalog?n=1000&%%.0s>; rel="next"`, 100, 0, "again and again"},
	} {
		h := host(t)
		h.set(func(w http.ResponseWriter, r *http.Request) bool {
			switch {
			case r.URL.Path == "/v2/_catalog":
				if strings.Contains(c.link, "%%") {
					_ = r.ParseForm()
					w.Header().Set("Link", `</v2/_catalog?n=1000&x=`+strconv.Itoa(len(r.URL.RawQuery))+`>; rel="next"`)
					_ = json.NewEncoder(w).Encode(map[string]any{"repositories": []string{"a"}})
					return true
				}
				list(w, r, c.n, c.link)
			case strings.HasSuffix(r.URL.Path, "/tags/list"):
				_, _ = io.WriteString(w, `{"tags":null}`)
			default:
				return false
			}
			return true
		})
		var l Listing
		err := Walk(t.Context(), Source{Registry: h.host, InsecureHTTP: true, Keychain: anonymous, Transport: fast()}, &l, func(context.Context, Found) error { return nil })
		switch {
		case c.fault == "" && (err != nil || int(l.Repositories.Load()) != c.want):
			t.Errorf("%s: %v, %d repositories", c.what, err, l.Repositories.Load())
		case c.fault != "" && (err == nil || !strings.Contains(err.Error(), c.fault)):
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

// What a registry says that it should not is an error of that name, or of the listing.
func TestStrangeAnswers(t *testing.T) {
	for _, c := range []struct {
		catalog, tags, want string // want is in the error of the walk or of any name
	}{
		{`{"repositories":["../../etc"]}`, "", "which none may have"},
		{`{"repositories":["a:1"]}`, "", "which none may have"},
		{`{"repositories":["a"]}`, `{"tags":["x y"]}`, "which none may be"},
		{`{"repositories":["a"]}`, `{"tags":["ok"]}`, "MANIFEST_UNKNOWN"},
		{`{"repositories":["a"]}`, `[]`, "is no JSON as the distribution API has it"},
		{`<html>`, "", "is no JSON as the distribution API has it"},
		{`{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}401`, "", "does not list its repositories: the registry H asks for credentials"},
		{`500`, "", "listing the repositories: the registry H failed: HTTP status 500"},
	} {
		h := host(t)
		push(t, h.host+"/a:other", image(t, "1.0.0"))
		h.set(func(w http.ResponseWriter, r *http.Request) bool {
			text := ""
			switch {
			case r.URL.Path == "/v2/_catalog":
				text = c.catalog
			case strings.HasSuffix(r.URL.Path, "/tags/list"):
				text = c.tags
			default:
				return false
			}
			if n, err := strconv.Atoi(text[max(0, len(text)-3):]); err == nil {
				w.WriteHeader(n)
				text = text[:len(text)-3]
			}
			_, _ = io.WriteString(w, text)
			return true
		})
		all, _, err := found(t, Source{Registry: h.host})
		text := strings.ReplaceAll(fmt.Sprint(err, all), h.host, "H")
		if !strings.Contains(text, c.want) {
			t.Errorf("%s %s: %s, want %s", c.catalog, c.tags, text, c.want)
		}
	}
}

// Where HEAD does not say what a tag leads to, GET does.
func TestLookup(t *testing.T) {
	h := host(t)
	digest := push(t, h.host+"/a:1", image(t, "1.0.0"))
	for _, c := range []func(w http.ResponseWriter, r *http.Request) bool{
		nil,
		func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodHead {
				w.WriteHeader(http.StatusMethodNotAllowed)
			}
			return r.Method == http.MethodHead
		},
		func(w http.ResponseWriter, r *http.Request) bool { // no digest
			return r.Method == http.MethodHead
		},
		func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodHead {
				w.Header().Set("Docker-Content-Digest", "sha256:zz")
			}
			return r.Method == http.MethodHead
		},
	} {
		h.set(c)
		all, _, err := found(t, Source{Registry: h.host})
		if err != nil || all[h.host+"/a:1"] != digest {
			t.Errorf("%v %v", err, all)
		}
	}
}

func TestHubAndQuay(t *testing.T) {
	var hub string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/v2/auth/token":
			var login map[string]string
			_ = json.NewDecoder(r.Body).Decode(&login)
			if login["identifier"] != "me" || login["secret"] != "pw" {
				w.WriteHeader(401)
				return
			}
			_, _ = io.WriteString(w, `{"access_token":"jwt"}`)
		case r.URL.Path == "/v2/namespaces/example/repositories" && r.URL.Query().Get("page") == "":
			fmt.Fprintf(w, `{"next":"%s/v2/namespaces/example/repositories?page=2","results":[{"name":"a","repository_type":"image"},{"name":"plugin","repository_type":"plugin"}]}`, hub)
		case r.URL.Path == "/v2/namespaces/example/repositories":
			secret := ""
			if r.Header.Get("Authorization") == "Bearer jwt" {
				secret = `,{"name":"private"}`
			}
			_, _ = io.WriteString(w, `{"next":null,"results":[{"name":"b"}`+secret+`]}`)
		case r.URL.Path == "/v2/namespaces/away/repositories":
			_, _ = io.WriteString(w, `{"next":"http://169.254.169.254/","results":[]}`)
		case r.URL.Path == "/api/v1/repository":
			q := r.URL.Query()
			public := q.Get("public") == "true"
			if q.Get("namespace") != "example" || public == (r.Header.Get("Authorization") == "Bearer oauth") {
				w.WriteHeader(400)
				return
			}
			if q.Get("next_page") == "" {
				_, _ = io.WriteString(w, `{"repositories":[{"name":"a","kind":"image"},{"name":"app","kind":"application"}],"next_page":"p2"}`)
				return
			}
			_, _ = io.WriteString(w, `{"repositories":[{"name":"b"}]}`)
		}
	}))
	defer s.Close()
	hub = s.URL
	list := func(src Source) (string, error) {
		src.hub, src.quay, src.Transport = s.URL, s.URL, fast()
		if src.Keychain == nil {
			src.Keychain = anonymous
		}
		checked, err := src.check()
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		err = checked.repositories(t.Context(), func(r string) error { all = append(all, r); return nil })
		return strings.Join(all, " "), err
	}
	for _, c := range []struct {
		s    Source
		want string
	}{
		{Source{Registry: "docker.io/example"}, "example/a example/b"},
		{Source{Registry: "index.docker.io/example", Keychain: login("index.docker.io", "me", "pw")}, "example/a example/b example/private"},
		{Source{Registry: "quay.io/example"}, "example/a example/b"},
		{Source{Registry: "quay.io/example", QuayToken: "oauth"}, "example/a example/b"},
		{Source{Registry: "docker.io", Repositories: []string{"nginx", "example/a"}}, "library/nginx example/a"},
	} {
		if got, err := list(c.s); err != nil || got != c.want {
			t.Errorf("%s: %v %s, want %s", c.s.Registry, err, got, c.want)
		}
	}
	for want, src := range map[string]Source{
		"logging in to 127.0.0.1": {Registry: "docker.io/example", Keychain: login("index.docker.io", "me", "wrong")},
		"the next page is at":     {Registry: "docker.io/away"},
	} {
		if _, err := list(src); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "wrong") {
			t.Errorf("%v", err)
		}
	}
}

// login has a user and password for one registry.
func login(host, user, password string) authn.Keychain {
	return keychainFunc(func(r authn.Resource) (authn.Authenticator, error) {
		if r.RegistryStr() == host {
			return &authn.Basic{Username: user, Password: password}, nil
		}
		return authn.Anonymous, nil
	})
}

type keychainFunc func(authn.Resource) (authn.Authenticator, error)

func (f keychainFunc) Resolve(r authn.Resource) (authn.Authenticator, error) { return f(r) }

// matches is a matcher that finds nothing.
type matches struct{}

func (matches) Match(context.Context, sbom.SBOM) ([]api.Vulnerability, []api.Unplaced, error) {
	return nil, nil, nil
}

// scan runs once over a registry.
func scan(t *testing.T, state string, with func(*Config)) (Summary, error) {
	t.Helper()
	s, err := scanner.New(scanner.Config{Matcher: matches{}, NoDaemons: true, InsecureHTTP: true, Keychain: anonymous, Transport: fast(), TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	c := Config{Source: Source{InsecureHTTP: true, Keychain: anonymous, Transport: fast()}, Scanner: s, Made: Made{By: "1", Database: "d1"}, Parallel: 2}
	with(&c)
	host, err := c.Host()
	if err != nil {
		t.Fatal(err)
	}
	if c.State, err = OpenState(state, host); err != nil {
		t.Fatal(err)
	}
	defer c.State.Close()
	sum, err := Run(t.Context(), c)
	for _, n := range sum.Names {
		if scan, err := c.State.Scan(n); err != nil || scan.Image != n || scan.Packages != 1 {
			t.Errorf("%s: %v %+v", n, err, scan)
		}
	}
	return sum, err
}

// counts are those of a run, briefly.
func counts(s Summary) string {
	return fmt.Sprintf("%d names: %d scanned, %d unchanged, %d failed, %d no images", s.Counts.Names, s.Scanned, s.Unchanged, s.Failed, s.NoImages)
}

// An image is scanned once, by whatever names and indexes it is found, and again only
// when there is a reason.
func TestRun(t *testing.T) {
	h := host(t)
	state := filepath.Join(t.TempDir(), "s", "state")
	one, two := image(t, "1.0.0"), image(t, "2.0.0")
	push(t, h.host+"/a:1", one)
	push(t, h.host+"/a:latest", one)
	push(t, h.host+"/b:1", one)
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: one, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: two, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}})
	indexDigest := push(t, h.host+"/a:multi", index)
	chart, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), "application/vnd.cncf.helm.config.v1+json"),
		static.NewLayer([]byte("chart"), "application/vnd.cncf.helm.chart.content.v1.tar+gzip"))
	if err != nil {
		t.Fatal(err)
	}
	push(t, h.host+"/charts/web:0.1.0", artifact(t, chart))
	run := func(want string, with func(*Config)) Summary {
		t.Helper()
		h.set(h.answer)
		s, err := scan(t, state, func(c *Config) {
			c.Registry = h.host
			if with != nil {
				with(c)
			}
		})
		if err != nil || counts(s) != want {
			t.Errorf("%v %s, want %s; %v", err, counts(s), want, s.Failures)
		}
		return s
	}
	s := run("5 names: 1 scanned, 0 unchanged, 0 failed, 1 no images", nil)
	if got := strings.Join(s.Names, " "); got != strings.ReplaceAll("H/a:1 H/a:latest H/a:multi H/b:1", "H", h.host) {
		t.Errorf("names are %s", got)
	}
	if st, err := OpenState(state, h.host); err != nil {
		t.Error(err)
	} else {
		if multi, err := st.Scan(h.host + "/a:multi"); err != nil || multi.Index == nil || multi.Index.Digest != indexDigest || len(multi.Index.Platforms) != 2 {
			t.Errorf("%v %+v", err, multi)
		}
		if plain, err := st.Scan(h.host + "/a:1"); err != nil || plain.Index != nil {
			t.Errorf("%v %+v", err, plain)
		}
		_ = st.Close()
	}
	run("5 names: 0 scanned, 5 unchanged, 0 failed, 1 no images", nil)
	if n := h.requests("^GET .*/(manifests|blobs)/"); n != 0 {
		t.Errorf("%d manifests and blobs were read although nothing changed", n)
	}
	// A tag moves; one goes; a platform's own tag comes.
	push(t, h.host+"/a:latest", two)
	ref, _ := name.ParseReference(h.host + "/b:1")
	if err := remote.Delete(ref); err != nil {
		t.Fatal(err)
	}
	s = run("4 names: 1 scanned, 3 unchanged, 0 failed, 1 no images", nil)
	if got := strings.Join(s.Names, " "); got != strings.ReplaceAll("H/a:1 H/a:latest H/a:multi", "H", h.host) {
		t.Errorf("names are %s", got)
	}
	// Another database, scanner or platform is a reason.
	run("4 names: 2 scanned, 1 unchanged, 0 failed, 1 no images", func(c *Config) { c.Made.Database = "d2" })
	run("4 names: 2 scanned, 0 unchanged, 0 failed, 1 no images", func(c *Config) { c.Made.Database, c.Made.By = "d2", "2" })
	// A part of the registry does not drop the rest.
	run("1 names: 0 scanned, 1 unchanged, 0 failed, 0 no images", func(c *Config) {
		c.Made.Database, c.Made.By, c.Include = "d2", "2", []*regexp.Regexp{regexp.MustCompile("^a:1$")}
	})
	run("4 names: 0 scanned, 4 unchanged, 0 failed, 1 no images", func(c *Config) { c.Made.Database, c.Made.By = "d2", "2" })
	// What fails is said, and tried again.
	three := image(t, "3.0.0")
	push(t, h.host+"/c:1", three)
	push(t, h.host+"/c:2", three)
	h.set(func(w http.ResponseWriter, r *http.Request) bool {
		bad := strings.HasPrefix(r.URL.Path, "/v2/c/blobs/") && r.Method == http.MethodGet
		if bad {
			_, _ = io.WriteString(w, "nonsense")
		}
		return bad
	})
	s = run("6 names: 0 scanned, 4 unchanged, 2 failed, 1 no images", func(c *Config) { c.Made.Database, c.Made.By = "d2", "2" })
	if len(s.Failures) != 2 || s.Failures[0].Name != h.host+"/c:1" || s.Failures[1].Name != h.host+"/c:2" || !strings.Contains(s.Failures[1].Err.Error(), "sha256 checksum") {
		t.Errorf("%v", s.Failures)
	}
	h.set(nil)
	run("6 names: 1 scanned, 4 unchanged, 0 failed, 1 no images", func(c *Config) { c.Made.Database, c.Made.By = "d2", "2" })
}

// artifact has a configuration that is no image's.
func artifact(t *testing.T, i v1.Image) v1.Image {
	t.Helper()
	return &configured{i}
}

type configured struct{ v1.Image }

func (c *configured) RawConfigFile() ([]byte, error) { return []byte(`{"name":"web"}`), nil }
func (c *configured) ConfigName() (v1.Hash, error) {
	h, _, err := v1.SHA256(strings.NewReader(`{"name":"web"}`))
	return h, err
}
func (c *configured) Manifest() (*v1.Manifest, error) {
	m, err := c.Image.Manifest()
	if err != nil {
		return nil, err
	}
	m = m.DeepCopy()
	m.Config.Digest, _ = c.ConfigName()
	m.Config.Size = int64(len(`{"name":"web"}`))
	return m, nil
}
func (c *configured) RawManifest() ([]byte, error) {
	m, err := c.Manifest()
	if err != nil {
		return nil, err
	}
	return json.Marshal(m)
}
func (c *configured) Digest() (v1.Hash, error) {
	raw, err := c.RawManifest()
	if err != nil {
		return v1.Hash{}, err
	}
	h, _, err := v1.SHA256(bytes.NewReader(raw))
	return h, err
}
func (c *configured) Size() (int64, error) { raw, err := c.RawManifest(); return int64(len(raw)), err }

// assayServer takes uploads, and notes them.
type assayServer struct {
	url   string
	mu    sync.Mutex
	sboms []string          // names
	scans map[string]string // name to digest, the last one
	fail  int               // status of the answers, where not 0
}

func newAssayServer(t *testing.T) *assayServer {
	a := &assayServer{scans: map[string]string{}}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.fail != 0 {
			w.WriteHeader(a.fail)
			return
		}
		switch r.URL.Path {
		case "/api/v1/sboms":
			a.sboms = append(a.sboms, r.URL.Query().Get("image"))
		case "/api/v1/scans":
			z, err := gzip.NewReader(r.Body)
			if err != nil {
				t.Error(err)
				return
			}
			var report api.ScanReport
			if err := json.NewDecoder(z).Decode(&report); err != nil {
				t.Error(err)
			}
			for _, s := range report.Images {
				a.scans[s.Image] = s.Digest + s.Error
			}
		}
		_, _ = io.WriteString(w, `{"images":[]}`)
	}))
	t.Cleanup(s.Close)
	a.url = s.URL
	return a
}

// A server gets each SBOM once, and each name; what it has, it matches itself.
func TestUploads(t *testing.T) {
	h, a := host(t), newAssayServer(t)
	state := filepath.Join(t.TempDir(), "state")
	one, two := image(t, "1.0.0"), image(t, "2.0.0")
	first := push(t, h.host+"/a:1", one)
	push(t, h.host+"/a:2", one)
	push(t, h.host+"/b:1", one)
	second := push(t, h.host+"/b:2", two)
	to, err := client.New(client.Config{URL: a.url, Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	run := func(want, database string) error {
		t.Helper()
		a.mu.Lock()
		a.sboms, a.scans = nil, map[string]string{}
		a.mu.Unlock()
		s, err := scan(t, state, func(c *Config) {
			c.Registry, c.Server, c.Made.Server, c.Made.Database = h.host, to, a.url, database
		})
		if want != "" && counts(s) != want {
			t.Errorf("%s, want %s; %v %v", counts(s), want, err, s.Failures)
		}
		return err
	}
	// A server that is down ends the run; nothing counts as done.
	a.fail = 503
	if err := run("", "d1"); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("%v", err)
	}
	// One that refuses an image does not.
	a.fail = 422
	if err := run("4 names: 0 scanned, 0 unchanged, 4 failed, 0 no images", "d1"); err != nil {
		t.Error(err)
	}
	a.fail = 0
	if err := run("4 names: 2 scanned, 0 unchanged, 0 failed, 0 no images", "d1"); err != nil {
		t.Error(err)
	}
	if len(a.sboms) != 2 || len(a.scans) != 4 || a.scans[h.host+"/b:1"] != first || a.scans[h.host+"/b:2"] != second {
		t.Errorf("sent %v %v", a.sboms, a.scans)
	}
	if err := run("4 names: 0 scanned, 4 unchanged, 0 failed, 0 no images", "d2"); err != nil || len(a.sboms)+len(a.scans) != 0 {
		t.Errorf("%v; sent %v %v", err, a.sboms, a.scans)
	}
	// A new name of a known image is sent without a scan; a tag that comes back to one
	// is scanned, so that the newest scan under the tag is of what it leads to.
	push(t, h.host+"/a:3", two)
	if err := run("5 names: 0 scanned, 4 unchanged, 0 failed, 0 no images", "d2"); err != nil || len(a.sboms) != 0 || len(a.scans) != 1 || a.scans[h.host+"/a:3"] != second {
		t.Errorf("%v; sent %v %v", err, a.sboms, a.scans)
	}
	push(t, h.host+"/b:2", one)
	if err := run("5 names: 1 scanned, 4 unchanged, 0 failed, 0 no images", "d2"); err != nil || len(a.sboms) != 1 || len(a.scans) != 1 || a.scans[h.host+"/b:2"] != first {
		t.Errorf("%v; sent %v %v", err, a.sboms, a.scans)
	}
	// Without the server, or with another one, it is another matter.
	s, err := scan(t, state, func(c *Config) { c.Registry, c.Made.Database = h.host, "d2" })
	if err != nil || s.Scanned != 2 {
		t.Errorf("%v %s", err, counts(s))
	}
}

// A registry that wants to be left alone ends the run.
func TestBusy(t *testing.T) {
	h := host(t)
	for n := range 20 {
		push(t, fmt.Sprintf("%s/a:%d", h.host, n), image(t, "1.0.0"))
	}
	h.set(func(w http.ResponseWriter, r *http.Request) bool {
		busy := r.Method == http.MethodHead
		if busy {
			w.Header().Set("Retry-After", "86400")
			w.WriteHeader(http.StatusTooManyRequests)
		}
		return busy
	})
	s, err := scan(t, filepath.Join(t.TempDir(), "state"), func(c *Config) { c.Registry = h.host })
	if !errors.Is(err, pace.ErrBusy) || !strings.Contains(err.Error(), "asks to wait until") || s.Failed != 0 {
		t.Errorf("%v %s", err, counts(s))
	}
	if n := h.requests("^HEAD"); n > 8 {
		t.Errorf("%d requests were sent", n)
	}
}

// Where a registry is Google's, one request has the tags, the digests, what has no tag,
// and the folders below.
func TestGoogle(t *testing.T) {
	digest := func(c string) string { return "sha256:" + strings.Repeat(c, 64) }
	inner := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v2/":
		case "/v2/project/repo/tags/list":
			_, _ = io.WriteString(w, `{"child":["web"],"manifest":{},"tags":[]}`)
		case "/v2/project/repo/web/tags/list":
			fmt.Fprintf(w, `{"child":[],"manifest":{"%s":{"tag":["1","latest"],"mediaType":"application/vnd.oci.image.index.v1+json"},"%s":{"tag":[]}},"tags":["1","latest"]}`, digest("a"), digest("b"))
		default:
			t.Errorf("asked for %s", r.URL)
		}
	})
	carry := transportFunc(func(r *http.Request) (*http.Response, error) {
		w := httptest.NewRecorder()
		inner.ServeHTTP(w, r)
		response := w.Result()
		response.Request = r
		return response, nil
	})
	for untagged, want := range map[bool]string{false: "project/repo/web:1 project/repo/web:latest", true: "project/repo/web:1 project/repo/web:latest project/repo/web@" + digest("b")} {
		all, _, err := found(t, Source{Registry: "europe-docker.pkg.dev/project/repo", Untagged: untagged, Transport: carry})
		if got := names(all, "europe-docker.pkg.dev"); err != nil || got != want {
			t.Errorf("%v %s, want %s", err, got, want)
		}
		if all["europe-docker.pkg.dev/project/repo/web:1"] != digest("a") {
			t.Errorf("%v", all)
		}
	}
	if at := (Found{Name: "h:5000/a@" + digest("b"), Digest: digest("b")}).At(); at != "h:5000/a@"+digest("b") {
		t.Error(at)
	}
	if at := (Found{Name: "h:5000/a:1", Digest: digest("b")}).At(); at != "h:5000/a@"+digest("b") {
		t.Error(at)
	}
}

type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
