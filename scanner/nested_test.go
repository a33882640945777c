package scanner

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// member is a file of an archive: so many zero bytes, or a text.
type member struct {
	name  string
	zeros int64
	text  []byte
}

func (m member) reader() io.Reader {
	if m.text != nil {
		return bytes.NewReader(m.text)
	}
	return zeros(m.zeros)
}

func zipOf(t testing.TB, members ...member) []byte {
	t.Helper()
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for _, m := range members {
		f, err := w.Create(m.name)
		if err == nil {
			_, err = io.Copy(f, m.reader())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func tarGzOf(t testing.TB, members ...member) []byte {
	t.Helper()
	var out bytes.Buffer
	z, _ := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	w := tar.NewWriter(z)
	for _, m := range members {
		n := m.zeros
		if m.text != nil {
			n = int64(len(m.text))
		}
		err := w.WriteHeader(&tar.Header{Name: m.name, Mode: 0o644, Typeflag: tar.TypeReg, Size: n})
		if err == nil {
			_, err = io.Copy(w, m.reader())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// peakOf looks at how much a folder holds while something is done.
func peakOf(dir string, do func()) int64 {
	var peak atomic.Int64
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for n := (&nested{dir: dir}); ; time.Sleep(5 * time.Millisecond) {
			peak.Store(max(peak.Load(), n.size()))
			select {
			case <-end:
				return
			default:
			}
		}
	}()
	do()
	close(end)
	<-ended
	return peak.Load()
}

// Archives within an image unpack to no more than MaxImageBytes, whatever is in what. The scan
// fails: an image of which a part was not read never passes. ASSAY_BOMB_MIB says how large they get.
func TestNestedBombs(t *testing.T) {
	const limit = 64 << 20
	mib := int64(512)
	if text := os.Getenv("ASSAY_BOMB_MIB"); text != "" {
		if _, err := fmt.Sscan(text, &mib); err != nil {
			t.Fatal(err)
		}
	}
	big := mib << 20
	jar := func(n int64) []byte { return zipOf(t, member{"inner.jar", n, nil}) }
	var many []member
	for i := range 3000 {
		many = append(many, member{fmt.Sprintf("lib/%d.jar", i), big / 3000, nil})
	}
	for name, files := range map[string]map[string]string{
		"a jar of zeros in a jar":       {"app.jar": string(jar(big))},
		"a jar in a jar in a jar":       {"app.war": string(zipOf(t, member{"WEB-INF/lib/a.jar", 0, zipOf(t, member{"b.jar", 0, jar(big)})}))},
		"jars in a zip":                 {"dist.zip": string(zipOf(t, member{"a.jar", big, nil}, member{"b.jar", big, nil}))},
		"jars in a tar.gz":              {"dist.tar.gz": string(tarGzOf(t, member{"a.jar", 0, jar(big)}, member{"b.jar", big, nil}))},
		"many small jars in a jar":      {"app.jar": string(zipOf(t, many...))},
		"many jars, each of which fits": {"a.jar": string(jar(limit - 8<<20)), "b.jar": string(jar(limit - 8<<20)), "c.jar": string(jar(limit - 8<<20)), "d.jar": string(jar(limit - 8<<20))},
	} {
		t.Run(name, func(t *testing.T) {
			all := debianFiles()
			for path, text := range files {
				all["opt/app/"+path] = text
			}
			archive := dockerArchive(t, map[string]v1.Image{"example.com/app:1": imageOf(t, "linux/amd64", tarOf(t, all))})
			info, err := os.Stat(archive)
			if err != nil {
				t.Fatal(err)
			}
			tmp := t.TempDir()
			t.Setenv("TMPDIR", t.TempDir()) // where nothing may be put
			s := newScanner(t, func(c *Config) { c.MaxImageBytes, c.TempDir = limit, tmp })
			var o Outcome
			begun := time.Now()
			peak := peakOf(tmp, func() { o = s.Scan(t.Context(), "docker-archive:"+archive, nil) })
			t.Logf("an archive of %s took at most %s of disk and %s: %v", bytesText(info.Size()), bytesText(peak), time.Since(begun).Round(time.Millisecond), o.Err)
			// Between two looks some is written; the layer, as it was stored, is beside it.
			if peak > 3*limit {
				t.Errorf("%s of disk", bytesText(peak))
			}
			if o.Err == nil && (name == "many jars, each of which fits" || name == "jars in a tar.gz") {
				mustPass(t, o, []string{"libc6 2.36-9+deb12u4", "openssl 3.0.11-1~deb12u2"}) // they may also be looked at one after the other, or not be unpacked at all
			} else {
				mustFail(t, o, "with the archives in it, the image unpacks to more than 64 MiB (the limit MaxImageBytes)")
			}
			left, err := os.ReadDir(tmp)
			if err != nil || len(left) > 0 {
				t.Errorf("%d files are left: %v", len(left), err)
			}
			if outside, err := os.ReadDir(os.TempDir()); err != nil || len(outside) > 0 {
				t.Errorf("%d files outside of the scan's folder: %v", len(outside), err)
			}
		})
	}
}

// A nested archive that fits is read as before.
func TestNestedFits(t *testing.T) {
	manifest := member{"META-INF/MANIFEST.MF", 0, []byte("Manifest-Version: 1.0\nImplementation-Title: inner\nImplementation-Version: 1.2.3\n")}
	jar := zipOf(t, manifest, member{"META-INF/maven/g/inner/pom.properties", 0, []byte("groupId=g\nartifactId=inner\nversion=1.2.3\n")})
	all := debianFiles()
	all["opt/app.war"] = string(zipOf(t, member{"META-INF/MANIFEST.MF", 0, []byte("Manifest-Version: 1.0\n")}, member{"WEB-INF/lib/inner-1.2.3.jar", 0, jar}))
	archive := dockerArchive(t, map[string]v1.Image{"example.com/app:1": imageOf(t, "linux/amd64", tarOf(t, all))})
	o := newScanner(t, func(c *Config) { c.MaxImageBytes = 8 << 20 }).Scan(t.Context(), "docker-archive:"+archive, nil)
	if o.Err != nil {
		t.Fatal(o.Err)
	}
	found := false
	for p := range o.SBOM.Artifacts.Packages.Enumerate() {
		found = found || p.Name == "inner" && p.Version == "1.2.3"
	}
	if !found {
		t.Errorf("the package in the nested archive is missing: %v", packagesOf(o))
	}
}
