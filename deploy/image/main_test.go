package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// made is the archive of a small program, and what was printed.
func made(t *testing.T) (archive []byte, printed string) {
	t.Helper()
	o := options{out: t.TempDir(), version: "1.2.3", authorities: "testdata/authority.pem", programs: []string{"./testdata/standin"}}
	if err := o.parse("linux/amd64,linux/arm64"); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := o.run(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	archive, err := os.ReadFile(filepath.Join(o.out, "standin.oci.tar"))
	if err != nil {
		t.Fatal(err)
	}
	digest, file, _ := strings.Cut(strings.TrimSpace(out.String()), " ")
	if file != filepath.Join(o.out, "standin.oci.tar") {
		t.Errorf("printed %q", out.String())
	}
	return archive, digest
}

func TestTheSameTwice(t *testing.T) {
	a, printedA := made(t)
	b, printedB := made(t)
	if printedA != printedB || !bytes.Equal(a, b) {
		t.Errorf("two archives of one program differ: %s (%d bytes), %s (%d bytes)", printedA, len(a), printedB, len(b))
	}
}

func TestImages(t *testing.T) {
	text, printed := made(t)
	dir := t.TempDir()
	for name, f := range untar(t, bytes.NewReader(text)) {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), f.text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	outer, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	list, err := outer.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Manifests) != 1 || list.Manifests[0].Digest.String() != printed || list.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "1.2.3" {
		t.Fatalf("%+v, printed %s", list.Manifests, printed)
	}
	inner, err := outer.ImageIndex(list.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(inner); err != nil {
		t.Fatal(err)
	}
	platforms, err := inner.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	machines := map[string]elf.Machine{"linux/amd64": elf.EM_X86_64, "linux/arm64": elf.EM_AARCH64}
	if len(platforms.Manifests) != len(machines) {
		t.Fatalf("%+v", platforms.Manifests)
	}
	var bases []v1.Hash
	for _, m := range platforms.Manifests {
		img, err := inner.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		bases = append(bases, checkImage(t, img, m.Platform.String(), machines[m.Platform.String()]))
	}
	if bases[0] != bases[1] {
		t.Error("the images do not share their base")
	}
}

// checkImage gives the digest of the base layer.
func checkImage(t *testing.T, img v1.Image, platform string, machine elf.Machine) v1.Hash {
	t.Helper()
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c := config.Config
	if config.Platform().String() != platform || c.User != "65532:65532" || !slices.Equal(c.Entrypoint, []string{"/usr/bin/standin"}) ||
		c.Labels["org.opencontainers.image.version"] != "1.2.3" || c.Labels["org.opencontainers.image.title"] != "standin" {
		t.Errorf("%s: %+v", platform, config)
	}
	content := mutate.Extract(img)
	files := untar(t, content)
	if err := content.Close(); err != nil {
		t.Fatal(err)
	}
	want := "etc 0755 0, etc/group 0644 0, etc/passwd 0644 0, etc/ssl 0755 0, etc/ssl/certs 0755 0, etc/ssl/certs/ca-certificates.crt 0644 0, " +
		"home 0755 0, home/assay 0700 65532, tmp 1777 0, usr 0755 0, usr/bin 0755 0, usr/bin/standin 0755 0"
	var got []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		h := files[name].header
		got = append(got, fmt.Sprintf("%s %04o %d", name, h.Mode, h.Uid))
	}
	if strings.Join(got, ", ") != want {
		t.Errorf("%s has %s", platform, strings.Join(got, ", "))
	}
	program, err := elf.NewFile(bytes.NewReader(files["usr/bin/standin"].text))
	if err != nil {
		t.Fatal(err)
	}
	if program.Machine != machine || slices.ContainsFunc(program.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		t.Errorf("%s: the program is for %s, or not static", platform, program.Machine)
	}
	if !bytes.Contains(files["usr/bin/standin"].text, []byte("1.2.3")) {
		t.Errorf("%s: the program does not know its version", platform)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

type entry struct {
	header *tar.Header
	text   []byte
}

func untar(t *testing.T, r io.Reader) map[string]entry {
	t.Helper()
	all := map[string]entry{}
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		all[h.Name] = entry{h, text}
	}
}

func TestFaultsAreTold(t *testing.T) {
	for platforms, want := range map[string]string{"windows/amd64": "-platforms", "linux": "-platforms", "": "-platforms"} {
		var o options
		if err := o.parse(platforms); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", platforms, err)
		}
	}
	for _, o := range []options{
		{authorities: "main.go"},
		{authorities: "no/such/file"},
		{authorities: "testdata/authority.pem", programs: []string{"./testdata/nosuch"}, platforms: []v1.Platform{{OS: "linux", Architecture: "amd64"}}},
	} {
		o.out = t.TempDir()
		if err := o.run(t.Context(), io.Discard); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
}
