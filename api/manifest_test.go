package api

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"
)

func digestOf(raw string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(raw))) }

func hexDigest(c string) string { return "sha256:" + strings.Repeat(c, 64) }

var (
	aManifest = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"digest":"` + hexDigest("c") + `"},"layers":[]}`
	anIndex   = `{"schemaVersion":2,"manifests":[
		{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + hexDigest("a") + `","platform":{"os":"linux","architecture":"x86_64"}},
		{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + hexDigest("b") + `","platform":{"os":"linux","architecture":"amd64"}},
		{"mediaType":"application/vnd.docker.distribution.manifest.v2+json","digest":"` + hexDigest("b") + `","platform":{"os":"linux","architecture":"arm"}},
		{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + hexDigest("d") + `","platform":{"os":"unknown","architecture":"unknown"}},
		{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + hexDigest("e") + `","annotations":{"vnd.docker.reference.type":"attestation-manifest"}},
		{"mediaType":"application/wasm","digest":"x"}]}`
)

func TestParseManifest(t *testing.T) {
	m, err := ParseManifest([]byte(aManifest))
	if err != nil || m.Digest != digestOf(aManifest) || m.Index != nil || m.ConfigDigest != hexDigest("c") {
		t.Errorf("%+v %v", m, err)
	}
	m, err = ParseManifest([]byte(anIndex))
	want := map[string]string{"linux/amd64": hexDigest("a"), "linux/arm/v7": hexDigest("b")}
	if err != nil || m.Index == nil || m.Index.Digest != digestOf(anIndex) || fmt.Sprint(m.Index.Platforms) != fmt.Sprint(want) {
		t.Errorf("%+v %v", m.Index, err)
	}
	for name, raw := range map[string]string{
		"no JSON":                   "x",
		"two values":                aManifest + aManifest,
		"neither":                   `{}`,
		"both":                      `{"manifests":[],"config":{"digest":"` + hexDigest("c") + `"}}`,
		"both, with a type":         strings.Replace(aManifest, `"layers"`, `"manifests":[],"layers"`, 1),
		"another type than it has":  strings.Replace(aManifest, "manifest.v1", "index.v1", 1),
		"a type of something else":  `{"mediaType":"application/json","manifests":[]}`,
		"no configuration":          `{"layers":[]}`,
		"a configuration of nought": `{"config":{"digest":"sha256:abc"}}`,
		"no list":                   `{"manifests":{}}`,
		"an index in an index":      `{"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"` + hexDigest("a") + `"}]}`,
		"a member of no platform":   `{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + hexDigest("a") + `"}]}`,
		"a member of no digest":     `{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"a","platform":{"os":"linux","architecture":"arm"}}]}`,
		"too many members":          `{"manifests":[` + strings.Repeat(`{},`, maxManifestMembers) + `{}]}`,
		"too large":                 `{"manifests":[],"x":"` + strings.Repeat("x", MaxManifest) + `"}`,
	} {
		if m, err := ParseManifest([]byte(raw)); err == nil {
			t.Errorf("%s: %+v", name, m)
		}
	}
}

// What a scan says of its manifest and index must be what their bytes prove.
func TestBytesAreChecked(t *testing.T) {
	index, err := ParseManifest([]byte(anIndex))
	if err != nil {
		t.Fatal(err)
	}
	good := func() Scan {
		x := *index.Index
		x.Manifest = []byte(anIndex)
		return Scan{
			Digest: digestOf(aManifest), Manifest: []byte(aManifest), ConfigDigest: hexDigest("c"), Index: &x,
			ScannedAt: time.Unix(1000, 0), Found: time.Unix(900, 0), Way: Attested,
		}
	}
	if err := good().Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Scan){
		"another digest":             func(s *Scan) { s.Digest = hexDigest("1") },
		"another configuration":      func(s *Scan) { s.ConfigDigest = hexDigest("1") },
		"an index for a manifest":    func(s *Scan) { s.Digest, s.Manifest = index.Digest, []byte(anIndex) },
		"another digest of an index": func(s *Scan) { s.Index.Digest = hexDigest("1") },
		"a manifest for an index":    func(s *Scan) { s.Index.Digest, s.Index.Manifest = digestOf(aManifest), []byte(aManifest) },
		"bytes that are none":        func(s *Scan) { s.Index.Manifest = []byte("{}") },
		"another member": func(s *Scan) {
			s.Index.Platforms = map[string]string{"linux/amd64": hexDigest("a"), "linux/arm/v7": hexDigest("1")}
		},
		"a member less":      func(s *Scan) { s.Index.Platforms = map[string]string{"linux/amd64": hexDigest("a")} },
		"no members":         func(s *Scan) { s.Index.Platforms = nil },
		"found after all":    func(s *Scan) { s.Found = time.Unix(1001, 0) },
		"a way that is none": func(s *Scan) { s.Way = "rumour" },
	} {
		s := good()
		change(&s)
		if err := s.Validate(); err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
}

func TestScopesOfEvidenceAndTags(t *testing.T) {
	for text, want := range map[string][2]string{
		"all":                          {"all", "all"},
		"registry=r":                   {"registry=r", "all"},
		"cluster=c,registry=r":         {"cluster=c,registry=r", "cluster=c"},
		"cluster=c,group=g,registry=r": {"group=g,registry=r", "cluster=c"},
		"group=g":                      {"group=g", "group=g"},
		"cluster=c,group=g":            {"group=g", "cluster=c"},
	} {
		s, err := ParseScope(text)
		if err != nil || s.Evidence().String() != want[0] || s.Tags().String() != want[1] {
			t.Errorf("%s: evidence %s, tags %s (%v)", text, s.Evidence(), s.Tags(), err)
		}
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(aManifest))
	f.Add([]byte(anIndex))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := ParseManifest(raw)
		if err == nil && (m.Digest != digestOf(string(raw)) || (m.Index == nil) == (m.ConfigDigest == "")) {
			t.Errorf("%+v", m)
		}
	})
}
