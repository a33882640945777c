package scanner

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func TestSBOMs(t *testing.T) {
	img := debianImage(t)
	host := startRegistry(t, nil)
	ref := host + "/team/app:1.0"
	push(t, ref, img)
	scanned := newScanner(t).Scan(t.Context(), ref, nil)
	mustPass(t, scanned, wantPackages)
	for _, format := range []SBOMFormat{SyftJSON, CycloneDXJSON, SPDXJSON} {
		var b bytes.Buffer
		if err := EncodeSBOM(&b, scanned.SBOM, format); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "sbom.json")
		if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		o := newScanner(t).Scan(t.Context(), "sbom:"+path, nil)
		mustPass(t, o, wantPackages)
		if o.SBOMFormat != format || o.Scan.Source != "sbom" || o.Scan.Distro != "debian 12" {
			t.Errorf("%s: format %s, scan %+v", format, o.SBOMFormat, o.Scan)
		}
		// Syft's CycloneDX keeps the tag or the digest, not both.
		if o.Scan.Image != ref || format != CycloneDXJSON && o.Scan.Digest != scanned.Scan.Digest {
			t.Errorf("%s: image is %s, digest %s", format, o.Scan.Image, o.Scan.Digest)
		}
		if format == SyftJSON && (o.Scan.ConfigDigest != scanned.Scan.ConfigDigest || o.Scan.Platform != "linux/amd64") {
			t.Errorf("%s: config %s, platform %s", format, o.Scan.ConfigDigest, o.Scan.Platform)
		}
		o = newScanner(t, func(c *Config) { c.Stdin = &b; c.As = "example.com/other:2" }).Scan(t.Context(), "sbom:-", nil)
		mustPass(t, o, wantPackages)
		if o.Scan.Image != "example.com/other:2" {
			t.Errorf("named %s", o.Scan.Image)
		}
	}
	if err := EncodeSBOM(&bytes.Buffer{}, scanned.SBOM, "table"); err == nil {
		t.Error("an unknown format was written")
	}
}

func TestBadSBOMs(t *testing.T) {
	for name, text := range map[string]string{
		"nothing": "", "garbage": "\x00\x01\x02", "text": "hello", "other JSON": `{"a":1}`, "list": "[]", "cut": `{"artifacts":[{"id":"`,
		"empty CycloneDX": `{"bomFormat":"CycloneDX","specVersion":"1.6","components":[]}`,
		"empty SPDX":      `{"spdxVersion":"SPDX-2.3","SPDXID":"SPDXRef-DOCUMENT","name":"x","documentNamespace":"https://example.com/x","creationInfo":{"creators":["Tool: x"],"created":"2026-01-01T00:00:00Z"},"packages":[]}`,
		"CycloneDX XML":   `<?xml version="1.0"?><bom xmlns="http://cyclonedx.org/schema/bom/1.4"/>`,
		"purls":           "pkg:npm/lodash@4.17.15\n",
		"deep":            strings.Repeat(`{"a":`, 100000),
	} {
		t.Run(name, func(t *testing.T) {
			s := newScanner(t, func(c *Config) { c.Stdin = strings.NewReader(text) })
			mustFail(t, s.Scan(t.Context(), "sbom:-", nil), "")
		})
	}
	path := filepath.Join(t.TempDir(), "big.json")
	if err := os.WriteFile(path, []byte(`{"bomFormat":"CycloneDX"`+strings.Repeat(" ", 5000)+`}`), 0o600); err != nil {
		t.Fatal(err)
	}
	small := func(c *Config) { c.MaxSBOMBytes = 4096; c.Stdin = strings.NewReader(strings.Repeat(" ", 5000)) }
	mustFail(t, newScanner(t, small).Scan(t.Context(), "sbom:"+path, nil), "more than 4 KiB (the limit MaxSBOMBytes)")
	mustFail(t, newScanner(t, small).Scan(t.Context(), "sbom:-", nil), "MaxSBOMBytes")
	mustFail(t, newScanner(t).Scan(t.Context(), "sbom:"+t.TempDir(), nil), "is a directory")
	mustFail(t, newScanner(t).Scan(t.Context(), "sbom:none.json", nil), "there is no none.json")
}

func TestImageNameOfSBOM(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	for in, want := range map[string]string{
		"nginx:1.27": "nginx:1.27", "registry:nginx:1.27": "nginx:1.27", "docker-archive:x.tar": "", "/tmp/x.tar": "", "x.tar": "",
		"example.com/x:" + digest: "example.com/x@" + digest, "example.com/x@" + digest: "example.com/x@" + digest, "": "", "Not A Name": "", digest: "",
	} {
		if got := imageName(in); got != want {
			t.Errorf("%q names %q, want %q", in, got, want)
		}
	}
}

func TestWithVersion(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	for _, c := range [][3]string{
		{"x.io/a", "1.0", "x.io/a:1.0"}, {"x.io/a", digest, "x.io/a@" + digest}, {"x.io/a:2", digest, "x.io/a:2"}, {"x.io/a:latest", digest, "x.io/a:latest"},
		{"", "1", ""}, {"x.io/a", "", "x.io/a"}, {"x.io/a", "not a tag", "x.io/a"}, {"x.io/a@" + digest, "1", "x.io/a@" + digest},
	} {
		if got := withVersion(c[0], c[1]); got != c[2] {
			t.Errorf("%s and %s give %s, want %s", c[0], c[1], got, c[2])
		}
	}
}

// FuzzDecodeSBOM holds that no document makes the decoders panic.
func FuzzDecodeSBOM(f *testing.F) {
	f.Add([]byte(`{"bomFormat":"CycloneDX","specVersion":"1.6","components":[{"type":"library","name":"a","version":"1","purl":"pkg:npm/a@1"}]}`))
	f.Add([]byte(`{"artifacts":[{"id":"1","name":"a","version":"1","type":"npm"}],"schema":{"version":"16.0.0","url":""},"source":{"type":"image","metadata":{}}}`))
	f.Add([]byte(`{"spdxVersion":"SPDX-2.3","SPDXID":"SPDXRef-DOCUMENT","packages":[{"SPDXID":"SPDXRef-a","name":"a"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, _, err := DecodeSBOM(bytes.NewReader(b))
		if err == nil && s == nil {
			t.Error("neither an SBOM nor an error")
		}
		if err == nil {
			describeSBOM(s)
			_, _ = assess(s)
		}
	})
}

func TestWhiteoutAndUpgrade(t *testing.T) {
	lower := nodeFiles()
	lower["var/lib/dpkg/status"] = strings.Replace(dpkgStatus, "3.0.11-1~deb12u2", "1.0.0", 1)
	img := imageOf(t, "linux/amd64", tarOf(t, lower), tarOf(t, debianFiles()), tarOf(t, map[string]string{"app/node_modules/lodash/.wh.package.json": ""}))
	o := newScanner(t).Scan(t.Context(), "oci-archive:"+ociArchive(t, map[string]v1.Image{"": img}), nil)
	mustPass(t, o, slices.DeleteFunc(slices.Clone(wantPackages), func(s string) bool { return strings.HasPrefix(s, "lodash") }))
}
