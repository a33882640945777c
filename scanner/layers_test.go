package scanner

import (
	"bytes"
	"context"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/anchore/syft/syft/pkg"
	"github.com/anchore/syft/syft/sbom"
	"github.com/anchore/syft/syft/source"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/assay-dev/assay/api"
)

// historied is an image of two layers, with an instruction between them that made none.
func historied(t testing.TB) v1.Image {
	t.Helper()
	layer := func(files map[string]string) v1.Layer {
		return static.NewLayer(tarOf(t, files), types.DockerUncompressedLayer)
	}
	img, err := mutate.Append(empty.Image,
		mutate.Addendum{Layer: layer(debianFiles()), History: v1.History{CreatedBy: "/bin/sh -c #(nop) ADD file:1 in / "}},
		mutate.Addendum{History: v1.History{CreatedBy: "ENV A=b", EmptyLayer: true}},
		mutate.Addendum{Layer: layer(nodeFiles()), History: v1.History{CreatedBy: "RUN /bin/sh -c npm install # buildkit"}})
	if err != nil {
		t.Fatal(err)
	}
	if img, err = mutate.Config(img, v1.Config{Labels: map[string]string{baseNameAnnotation: "debian:12"}}); err != nil {
		t.Fatal(err)
	}
	return mutate.Annotations(img, map[string]string{baseDigestAnnotation: strings.Repeat("ab", 32)}).(v1.Image)
}

// Layers are the same from every kind of input, and from the SBOM that was made of it.
func TestLayers(t *testing.T) {
	img := historied(t)
	diffs, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	s := newScanner(t)
	for kind, input := range map[string]string{
		"docker-archive": "docker-archive:" + dockerArchive(t, map[string]v1.Image{"web:1": img}),
		"oci-archive":    "oci-archive:" + ociArchive(t, map[string]v1.Image{"": img}),
		"oci-dir":        "oci-dir:" + ociDir(t, map[string]v1.Image{"": img}),
	} {
		o := s.Scan(context.Background(), input, nil)
		mustPass(t, o, wantPackages)
		layers := o.Scan.Layers
		if len(layers) != 2 || layers[0].DiffID != diffs.RootFS.DiffIDs[0].String() || layers[1].DiffID != diffs.RootFS.DiffIDs[1].String() {
			t.Fatalf("%s: %+v", kind, layers)
		}
		if layers[0].CreatedBy != "ADD file:1 in /" || layers[1].CreatedBy != "RUN /bin/sh -c npm install" {
			t.Errorf("%s: %+v", kind, layers)
		}
		pushed := kind != "docker-archive"
		if (layers[0].Digest != "" && layers[0].Size > 0) != pushed {
			t.Errorf("%s: %+v", kind, layers[0])
		}
		want := &api.BaseImage{Name: "docker.io/library/debian:12", Found: api.BaseLabelled}
		if pushed {
			want.Digest = "sha256:" + strings.Repeat("ab", 32)
		}
		if !reflect.DeepEqual(o.Scan.Base, want) {
			t.Errorf("%s: %+v", kind, o.Scan.Base)
		}
		var b bytes.Buffer
		if err := EncodeSBOM(&b, o.SBOM, SyftJSON); err != nil {
			t.Fatal(err)
		}
		read, _, err := DecodeSBOM(&b)
		if err != nil {
			t.Fatal(err)
		}
		described, err := Describe(read, "web:1")
		if err != nil || !reflect.DeepEqual(described.Layers, layers) || !reflect.DeepEqual(described.Base, o.Scan.Base) {
			t.Errorf("%s: of the SBOM: %+v %+v %v", kind, described.Layers, described.Base, err)
		}
	}
}

func imageSBOM(m source.ImageMetadata) *sbom.SBOM {
	return &sbom.SBOM{Artifacts: sbom.Artifacts{Packages: pkg.NewCollection()}, Source: source.Description{Metadata: m}}
}

// Texts that builders, or attackers, wrote are kept short and in one line.
func TestHostileLayers(t *testing.T) {
	id := "sha256:" + strings.Repeat("a", 64)
	config := func(history ...map[string]any) []byte {
		text, err := json.Marshal(map[string]any{"rootfs": map[string]any{"diff_ids": []string{id}}, "history": history})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for _, c := range []struct {
		name   string
		m      source.ImageMetadata
		layers int
		made   string
	}{
		{"control characters", source.ImageMetadata{RawConfig: config(map[string]any{"created_by": "RUN a\n\x1b[31mb \u202ec\x00"})}, 1, "RUN a [31mb c"},
		{"too long", source.ImageMetadata{RawConfig: config(map[string]any{"created_by": strings.Repeat("é", 5000)})}, 1, strings.Repeat("é", maxInstruction/2) + "…"},
		{"history of another number", source.ImageMetadata{RawConfig: config(map[string]any{"created_by": "a"}, map[string]any{"created_by": "b"})}, 1, ""},
		{"comment", source.ImageMetadata{RawConfig: config(map[string]any{"comment": "imported"})}, 1, "imported"},
		{"no digest", source.ImageMetadata{RawConfig: []byte(`{"rootfs": {"diff_ids": ["../../x"]}}`)}, 0, ""},
		{"no JSON", source.ImageMetadata{RawConfig: []byte(`{"rootfs": {`), RawManifest: []byte("x")}, 0, ""},
		{"no configuration", source.ImageMetadata{Layers: []source.LayerMetadata{{Digest: id}}}, 1, ""},
		{"of a negative size", source.ImageMetadata{RawConfig: config(map[string]any{"created_by": "a"}), RawManifest: []byte(`{"layers": [{"digest": "` + id + `", "size": -1}]}`)}, 1, "a"},
	} {
		layers, base := describeLayers(imageSBOM(c.m))
		if len(layers) != c.layers || base != nil || len(layers) > 0 && (layers[0].CreatedBy != c.made || layers[0].Size != 0) {
			t.Errorf("%s: %+v %+v", c.name, layers, base)
		}
	}
	for name, want := range map[string]string{"debian:12": "docker.io/library/debian:12", "\x1b[31m": "", strings.Repeat("a", 600): "", "": ""} {
		base := labelledBase(map[string]string{baseNameAnnotation: name})
		if got := base; (got == nil) != (want == "") || got != nil && got.Name != want {
			t.Errorf("%q: %+v", name, got)
		}
	}
}

func FuzzDescribeLayers(f *testing.F) {
	f.Add([]byte(`{"rootfs": {"diff_ids": ["sha256:00"]}, "history": [{"created_by": "x", "empty_layer": true}], "config": {"Labels": {"a": "b"}}}`), []byte(`{"layers": [{"digest": "x", "size": 1}], "annotations": {}}`))
	f.Fuzz(func(t *testing.T, config, manifest []byte) {
		layers, base := describeLayers(imageSBOM(source.ImageMetadata{RawConfig: config, RawManifest: manifest}))
		for _, l := range layers {
			if !sha256Digest.MatchString(l.DiffID) || len(l.CreatedBy) > maxInstruction+len("…") || strings.ContainsAny(l.CreatedBy, "\n\r\x1b\x00") || l.Size < 0 {
				t.Errorf("%+v", l)
			}
		}
		if base != nil && base.Name == "" && base.Digest == "" {
			t.Error("an empty base")
		}
	})
}
