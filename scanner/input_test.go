package scanner

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-dev/assay/api"
)

func TestParseInput(t *testing.T) {
	for s, want := range map[string]Input{
		"nginx":                        {Reference, "nginx"},
		"nginx:1.27":                   {Reference, "nginx:1.27"},
		"localhost:5000/x:1":           {Reference, "localhost:5000/x:1"},
		"registry:nginx:1.27":          {Registry, "nginx:1.27"},
		"registry:2":                   {Registry, "2"},
		"docker.io/library/registry:2": {Reference, "docker.io/library/registry:2"},
		"docker:nginx":                 {Docker, "nginx"},
		"containerd:nginx":             {Containerd, "nginx"},
		"docker-archive:a/b.tar":       {DockerArchive, "a/b.tar"},
		"oci-archive:/a b.tar:x/y:1":   {OCIArchive, "/a b.tar:x/y:1"},
		"oci-dir:.":                    {OCIDir, "."},
		"dir:/":                        {Dir, "/"},
		"sbom:-":                       {SBOM, "-"},
		"dir:sbom:x":                   {Dir, "sbom:x"},
		"nginx@sha256:" + strings.Repeat("a", 64): {Reference, "nginx@sha256:" + strings.Repeat("a", 64)},
	} {
		got, err := ParseInput(s)
		if err != nil || got != want || got.String() != s {
			t.Errorf("%q is %+v, %v; want %+v", s, got, err, want)
		}
	}
	for _, s := range []string{"", " ", "dir:", "registry:", "Upper/Case", "nginx:", "podman:nginx:1", "https://example.com/x", "a\nb", "dir:a\x00b", "registry:-x"} {
		if in, err := ParseInput(s); !errors.Is(err, ErrInput) {
			t.Errorf("%q is %+v, %v", s, in, err)
		}
	}
}

func FuzzParseInput(f *testing.F) {
	for _, s := range []string{"nginx", "registry:nginx:1", "docker-archive:x.tar:a/b:1", "sbom:-", "https://u:p@h/x", "dir:", "a@sha256:" + strings.Repeat("0", 64)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		in, err := ParseInput(s)
		if err != nil {
			if !errors.Is(err, ErrInput) {
				t.Errorf("%q: %v wraps no ErrInput", s, err)
			}
			return
		}
		if in.String() != s || in.Value == "" {
			t.Errorf("%q became %+v", s, in)
		}
		switch in.Kind {
		case Reference, Registry, Docker, Containerd:
			if _, err := api.ParseReference(in.Value); err != nil {
				t.Errorf("%q: %v", s, err)
			}
		}
	})
}

func FuzzScrub(f *testing.F) {
	f.Add("https://", "user", "example.com/x?y=")
	f.Fuzz(func(t *testing.T, before, user, after string) {
		const secret = "hunter2secret"
		if strings.ContainsAny(user, "/@:\"' \n\t?\\") || strings.ContainsAny(after[:min(len(after), 1)], "@/:?\"' \n\t\\") {
			return
		}
		for _, s := range []string{"https://" + user + ":" + secret + "@host/" + after, "https://host/x?token=" + secret} {
			if strings.Contains(user+after, secret) {
				return
			}
			if got := scrub(s); strings.Contains(got, secret) {
				t.Errorf("%q became %q", s, got)
			}
		}
	})
}

func TestSplitArchive(t *testing.T) {
	dir := t.TempDir()
	odd := filepath.Join(dir, "a:b.tar")
	if err := os.WriteFile(odd, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string][2]string{
		odd: {odd, ""}, odd + ":x/y:1": {odd, "x/y:1"}, dir + ":latest": {dir, "latest"}, "none:x": {"none:x", ""},
	} {
		if path, ref := splitArchive(in); path != want[0] || ref != want[1] {
			t.Errorf("%s is %q and %q", in, path, ref)
		}
	}
}

func TestParsePlatform(t *testing.T) {
	for in, want := range map[string]string{
		"linux/amd64": "linux/amd64", "arm64": "linux/arm64", "linux/arm64/v8": "linux/arm64", "linux/arm": "linux/arm/v7", "linux/x86_64": "linux/amd64",
		"windows/amd64": "windows/amd64", "linux/": "", "/": "", "a/b/c/d": "", "linux/a b": "",
	} {
		if got, err := parsePlatform(in); got != want || (err == nil) != (want != "") {
			t.Errorf("%s is %q, %v", in, got, err)
		}
	}
}
