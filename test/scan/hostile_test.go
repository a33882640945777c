package scan_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/assay-dev/assay/api"
)

// damageable are archives of every kind, and what an intact one gives.
type damageable struct {
	kind   string
	bytes  []byte
	intact run
}

func damageables(t *testing.T, db database) map[string]damageable {
	t.Helper()
	all := map[string]damageable{}
	for what, input := range map[string][2]string{
		"frontend":             {"oci-archive", shopImageOf(t, "frontend").archive},
		"small oci-archive":    {"oci-archive", ociImage(t, smallImage(t))},
		"small docker-archive": {"docker-archive", dockerArchive(t, smallImage(t))},
	} {
		text, err := os.ReadFile(input[1])
		if err != nil {
			t.Fatal(err)
		}
		r := scan(t, db, input[0]+":"+input[1])
		s := r.only(t)
		sure(t, s, 3)
		if len(s.Vulnerabilities) == 0 {
			t.Fatalf("%s has no vulnerability, so that damage could hide none", what)
		}
		all[what] = damageable{input[0], text, r}
	}
	return all
}

// same says whether damage did no harm: status and result are those of the
// intact archive, names apart.
func (d damageable) same(t testing.TB, r run) bool {
	t.Helper()
	return r.exit == d.intact.exit && essence(t, r.only(t)) == essence(t, d.intact.only(t))
}

func write(t testing.TB, file string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), file)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestTruncated cuts archives short. Only what lies behind the last file of a
// tar may go without harm.
func TestTruncated(t *testing.T) {
	db := quickstart(t)
	for what, d := range damageables(t, db) {
		t.Run(what, func(t *testing.T) {
			n := len(d.bytes)
			cuts := []int{0, 1, 511, 512, 700, n / 10, n / 4, n / 2, n * 3 / 4, n * 9 / 10, n - 3000, n - 1500, n - 1024, n - 1}
			var failed, harmless atomic.Int64
			each(len(cuts), func(i int) {
				at := cuts[i]
				r := scan(t, db, d.kind+":"+write(t, "cut.tar", d.bytes[:at]))
				err := refused(r.only(t), "")
				switch {
				case err == nil && r.exit == 3:
					failed.Add(1)
				case n-at <= 4096 && d.same(t, r):
					harmless.Add(1)
				default:
					t.Errorf("cut at %d of %d: exit status %d, %v", at, n, r.exit, err)
				}
			})
			t.Logf("%d bytes: %d cuts refused, %d at the very end without harm", n, failed.Load(), harmless.Load())
		})
	}
}

func TestBitFlips(t *testing.T) {
	db := quickstart(t)
	for what, d := range damageables(t, db) {
		t.Run(what, func(t *testing.T) {
			const flips = 20
			random := rand.New(rand.NewPCG(20, 26))
			var at, bit [flips]int
			for i := range flips {
				at[i] = len(d.bytes)*i/flips + random.IntN(len(d.bytes)/flips)
				bit[i] = random.IntN(8)
			}
			var failed, harmless atomic.Int64
			each(flips, func(i int) {
				b := bytes.Clone(d.bytes)
				b[at[i]] ^= 1 << bit[i]
				r := scan(t, db, d.kind+":"+write(t, "flip.tar", b))
				err := refused(r.only(t), "")
				switch {
				case err == nil && r.exit == 3:
					failed.Add(1)
				case d.same(t, r):
					harmless.Add(1)
				default:
					t.Errorf("bit %d of byte %d of %d: exit status %d, %v\n%s\nintact:\n%s", bit[i], at[i], len(b), r.exit, err,
						essence(t, r.only(t)), essence(t, d.intact.only(t)))
				}
			})
			t.Logf("%d bytes: %d flips refused, %d without harm", len(d.bytes), failed.Load(), harmless.Load())
			if failed.Load() == 0 {
				t.Error("no flip was noticed")
			}
		})
	}
}

// bomb writes an OCI archive of some 4 MB, whose layer is a tar of one file of n
// zero bytes. Its gzip stream repeats one member, which gzip reads as one text.
func bomb(t testing.TB, file string, n int64) string {
	t.Helper()
	const piece = 64 << 20
	member := func(text []byte) []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		if _, err := z.Write(text); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	var header bytes.Buffer
	if err := tar.NewWriter(&header).WriteHeader(&tar.Header{Name: file, Typeflag: tar.TypeReg, Mode: 0o644, Size: n}); err != nil {
		t.Fatal(err)
	}
	layer := member(header.Bytes())
	zeros := member(make([]byte, piece))
	for range n / piece {
		layer = append(layer, zeros...)
	}
	layer = append(layer, member(make([]byte, 1024))...)

	blobs := map[string]string{}
	blob := func(mediaType, text string) string {
		digest := fmt.Sprintf("%x", sha256.Sum256([]byte(text)))
		blobs["blobs/sha256/"+digest] = text
		return fmt.Sprintf(`{"mediaType":%q,"digest":"sha256:%s","size":%d}`, mediaType, digest, len(text))
	}
	// The digest of the unpacked layer is never reached: the limit comes before.
	config := blob("application/vnd.oci.image.config.v1+json",
		`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["sha256:`+strings.Repeat("0", 64)+`"]}}`)
	manifest := blob("application/vnd.oci.image.manifest.v1+json", `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":`+config+
		`,"layers":[`+blob("application/vnd.oci.image.layer.v1.tar+gzip", string(layer))+`]}`)
	blobs["oci-layout"] = `{"imageLayoutVersion":"1.0.0"}`
	blobs["index.json"] = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[` + manifest + `]}`
	return write(t, "bomb.oci.tar", tarOf(t, blobs))
}

// TestBomb holds that the default limits bound time and disk, also where the
// file that is too large is one that is read for packages.
func TestBomb(t *testing.T) {
	db := quickstart(t)
	for _, file := range []string{"var/cache/zeros", "var/lib/dpkg/status", "app/package-lock.json", "usr/bin/app"} {
		path := bomb(t, file, 4<<30)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		r := mustRefuse(t, db, "MaxImageBytes", "oci-archive:"+path)
		t.Logf("%s: an archive of %d bytes was refused after %s; at most %d bytes on disk, memory %d KiB", file, info.Size(), r.took.Round(time.Millisecond), r.disk, r.rss)
		if r.disk > 64<<20 {
			t.Errorf("%s: %d bytes on disk", file, r.disk)
		}
	}
}

func TestNothingToAssess(t *testing.T) {
	db := quickstart(t)
	readme := map[string]string{"usr/share/doc/readme": "nothing here"}
	foreign := map[string]v1.Image{"linux/arm64": imageOf(t, "linux/arm64", smallFiles...), "linux/s390x": imageOf(t, "linux/s390x", smallFiles...)}
	nested := indexOf(t, nil)
	nested = appendIndex(nested, indexOf(t, foreign))
	for what, c := range map[string]struct{ input, want string }{
		"an index without the platform":        {"oci-archive:" + ociArchive(t, indexOf(t, foreign)), "linux/amd64"},
		"a nested index without the platform":  {"oci-archive:" + ociArchive(t, nested), "linux/amd64"},
		"an empty index":                       {"oci-archive:" + ociArchive(t, indexOf(t, nil)), ""},
		"an image without a package":           {"oci-archive:" + ociImage(t, imageOf(t, "linux/amd64", readme)), "not assessed"},
		"an image without a layer":             {"oci-archive:" + ociImage(t, imageOf(t, "linux/amd64")), "not assessed"},
		"a docker archive without a package":   {"docker-archive:" + dockerArchive(t, imageOf(t, "linux/amd64", readme)), "not assessed"},
		"a folder without a package":           {"dir:" + t.TempDir(), "not assessed"},
		"a CycloneDX document without package": {"sbom:" + write(t, "bom.json", []byte(`{"bomFormat":"CycloneDX","specVersion":"1.5","version":1,"components":[]}`)), "not assessed"},
		"an SPDX document without package": {"sbom:" + write(t, "spdx.json", []byte(`{"spdxVersion":"SPDX-2.3","dataLicense":"CC0-1.0","SPDXID":"SPDXRef-DOCUMENT",
			"name":"empty","documentNamespace":"https://example.com/empty","creationInfo":{"created":"2026-01-05T12:00:00Z","creators":["Tool: none"]},"packages":[]}`)), "not assessed"},
		"a Syft document without package": {"sbom:" + write(t, "syft.json", []byte(`{"artifacts":[],"artifactRelationships":[],"source":{"id":"0","name":"empty","version":"1","type":"directory","metadata":{"path":"."}},
			"distro":{},"descriptor":{"name":"syft","version":"1.54.1"},"schema":{"version":"16.1.0","url":"https://raw.githubusercontent.com/anchore/syft/main/schema/json/schema-16.1.0.json"}}`)), "not assessed"},
		"an SBOM that is none": {"sbom:" + write(t, "none.json", []byte(`{}`)), ""},
		"no such file":         {"oci-archive:" + filepath.Join(t.TempDir(), "nosuch.tar"), ""},
	} {
		t.Run(what, func(t *testing.T) { t.Logf("%s", mustRefuse(t, db, c.want, c.input).only(t).Error) })
	}
}

// TestGoodBesideBad holds that an image that cannot be scanned takes nothing
// from another: neither its result nor, when it is Fail, its exit status.
func TestGoodBesideBad(t *testing.T) {
	db := quickstart(t)
	good := shopImageOf(t, "frontend").archive
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	bad := "oci-archive:" + write(t, "bad.tar", text[:len(text)/2])
	good = "oci-archive:" + good
	alone := scan(t, db, good).only(t)
	sure(t, alone, 10)
	for _, c := range []struct {
		what   string
		args   []string
		inputs []string
		result api.Result
		exit   int
	}{
		{"Fail", nil, []string{bad, good}, api.Fail, 1},
		{"Fail that comes first", nil, []string{good, bad}, api.Fail, 1},
		{"Fail that is let pass", []string{"--fail-on", "never"}, []string{bad, good}, api.Fail, 3},
		{"Warn", []string{"-f", "10"}, []string{bad, good}, api.Warned, 3},
		{"Warn that counts", []string{"-f", "10", "--fail-on", "warn"}, []string{good, bad}, api.Warned, 1},
		{"Pass", []string{"-w", "10", "-f", "10"}, []string{good, bad}, api.Pass, 3},
	} {
		t.Run(c.what, func(t *testing.T) {
			r := scan(t, db, append(c.args, c.inputs...)...)
			if r.exit != c.exit {
				t.Errorf("exit status %d, want %d", r.exit, c.exit)
			}
			if len(r.report.Images) != 2 {
				t.Fatalf("the document has %d images", len(r.report.Images))
			}
			for i, s := range r.report.Images {
				if c.inputs[i] == bad {
					if err := refused(s, ""); err != nil {
						t.Error(err)
					}
					continue
				}
				if s.Result != c.result {
					t.Errorf("the good image is %s, want %s", s.Result, c.result)
				}
				s.Result = alone.Result
				// Which vulnerabilities decide depends on the thresholds.
				s.Vulnerabilities = slices.Clone(s.Vulnerabilities)
				for i := range s.Vulnerabilities {
					s.Vulnerabilities[i].Decides = alone.Vulnerabilities[min(i, len(alone.Vulnerabilities)-1)].Decides
				}
				if got, want := essence(t, s), essence(t, alone); got != want {
					t.Errorf("the good image is\n%s\nand alone\n%s", got, want)
				}
			}
		})
	}
}
