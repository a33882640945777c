package scan_test

import (
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// startRegistry serves an empty registry on loopback, over plain HTTP, and gives its host.
func startRegistry(t testing.TB) string {
	t.Helper()
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func push(t testing.TB, ref string, what remote.Taggable) {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	switch x := what.(type) {
	case v1.Image:
		err = remote.Write(r, x)
	case v1.ImageIndex:
		err = remote.WriteIndex(r, x)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestRegistry holds that an image in a registry has the result of its archive.
func TestRegistry(t *testing.T) {
	db, frontend := quickstart(t), shopImageOf(t, "frontend")
	host := startRegistry(t)
	push(t, host+"/shop/frontend:1.4.2", frontend.image)
	archive := scan(t, db, "oci-archive:"+frontend.archive).only(t)
	sure(t, archive, 10)
	digest := digestOf(t, frontend.image)
	for _, ref := range []string{host + "/shop/frontend:1.4.2", host + "/shop/frontend@" + digest} {
		r := scan(t, db, "--insecure-http", "registry:"+ref)
		s := r.only(t)
		sure(t, s, 10)
		if r.exit != 1 {
			t.Errorf("%s: exit status %d for %s", ref, r.exit, s.Result)
		}
		if s.Digest != digest || s.Image != ref || s.Source != "registry" || s.Index != nil {
			t.Errorf("%s: image %s, digest %s, source %s, index %v; the digest pushed is %s", ref, s.Image, s.Digest, s.Source, s.Index, digest)
		}
		if got, want := essence(t, s), essence(t, archive); got != want {
			t.Errorf("%s:\n%s\nthe archive gives\n%s", ref, got, want)
		}
	}
}

func TestRegistryIndex(t *testing.T) {
	db, host := quickstart(t), startRegistry(t)
	images := map[string]v1.Image{
		"linux/amd64":  smallImage(t),
		"linux/arm64":  imageOf(t, "linux/arm64", smallFiles[0]),
		"linux/arm/v7": imageOf(t, "linux/arm/v7", smallFiles[1]),
	}
	index := indexOf(t, images)
	push(t, host+"/small:1", index)
	packages := map[string]int{"linux/amd64": 3, "linux/arm64": 2, "linux/arm/v7": 1}
	for _, ref := range []string{host + "/small:1", host + "/small@" + digestOf(t, index)} {
		for platform, args := range map[string][]string{
			"linux/amd64":  nil,
			"linux/arm64":  {"--platform", "linux/arm64"},
			"linux/arm/v7": {"--platform", "linux/arm/v7"},
		} {
			s := scan(t, db, append(args, "--insecure-http", "registry:"+ref)...).only(t)
			sure(t, s, 1)
			if want := digestOf(t, images[platform]); s.Digest != want || s.Platform != platform || s.Packages != packages[platform] {
				t.Errorf("%s, %s: digest %s, platform %s, %d packages; want %s and %d", ref, platform, s.Digest, s.Platform, s.Packages, want, packages[platform])
			}
			if s.Index == nil || s.Index.Digest != digestOf(t, index) || len(s.Index.Platforms) != len(images) {
				t.Fatalf("%s, %s: index is %+v", ref, platform, s.Index)
			}
			for p, img := range images {
				if s.Index.Platforms[p] != digestOf(t, img) {
					t.Errorf("%s: the index has %s for %s, want %s", ref, s.Index.Platforms[p], p, digestOf(t, img))
				}
			}
		}
		mustRefuse(t, db, "linux/s390x", "--platform", "linux/s390x", "--insecure-http", "registry:"+ref)
	}
}

func TestRegistryRefuses(t *testing.T) {
	db, host := quickstart(t), startRegistry(t)
	push(t, host+"/x:1", smallImage(t))
	for ref, want := range map[string]string{
		host + "/x:nosuch": "no such tag nosuch",
		host + "/none:1":   "no such",
		host + "/x@sha256:" + strings.Repeat("0", 64): "no such",
		"127.0.0.1:1/x:1": "cannot be reached",
	} {
		mustRefuse(t, db, want, "--insecure-http", "registry:"+ref)
		mustRefuse(t, db, want, "--insecure-http", ref)
	}
}
