package bundles_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/policies"
)

func built(t testing.TB) []byte {
	t.Helper()
	set, err := policies.Parse("p.yaml", []byte(`
apiVersion: containersecurity.tigera.io/v1beta1
kind: ContainerAdmissionPolicy
metadata: {name: x}
spec: {rules: [{action: Reject}]}
`))
	if err != nil {
		t.Fatal(err)
	}
	score := 9.8
	b, err := bundles.Build(bundles.Content{Policies: set, Scans: []api.Scan{{
		Image: "nginx:1", Digest: "sha256:" + strings.Repeat("a", 64), ScannedAt: time.Unix(0, 0),
		Vulnerabilities: []api.Vulnerability{{ID: "CVE-2026-1", CVSS: &score}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	text, err := bundles.Bytes(b)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// pair is a key pair with the public half in PEM.
func pair(t testing.TB) (*bundles.SigningKey, *bundles.VerificationKey, []byte) {
	t.Helper()
	private, public, err := bundles.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return parsed(t, private, public)
}

func parsed(t testing.TB, private, public []byte) (*bundles.SigningKey, *bundles.VerificationKey, []byte) {
	t.Helper()
	s, err := bundles.ParseSigningKey(private)
	if err != nil {
		t.Fatal(err)
	}
	v, err := bundles.ParseVerificationKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return s, v, public
}

func rsaPair(t testing.TB) (*bundles.SigningKey, *bundles.VerificationKey, []byte) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return parsed(t, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}),
		pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
}

func sign(t testing.TB, k *bundles.SigningKey, text []byte) []byte {
	t.Helper()
	signed, err := k.Sign(text)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

type entry struct{ name, text string }

// edit unpacks a bundle, changes its files and packs it again.
func edit(t testing.TB, text []byte, change func([]entry) []entry) []byte {
	t.Helper()
	zip, err := gzip.NewReader(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	var files []entry
	for in := tar.NewReader(zip); ; {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, entry{h.Name, string(content)})
	}
	var out bytes.Buffer
	zw := gzip.NewWriter(&out)
	tw := tar.NewWriter(zw)
	for _, f := range change(files) {
		if err := tw.WriteHeader(&tar.Header{Name: f.name, Mode: 0o600, Size: int64(len(f.text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, f.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tw.Close(), zw.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func indexOf(t testing.TB, files []entry, suffix string) int {
	t.Helper()
	i := slices.IndexFunc(files, func(f entry) bool { return strings.HasSuffix(f.name, suffix) })
	if i < 0 {
		t.Fatalf("no file %s", suffix)
	}
	return i
}

// What was tampered with is refused, by us with what differs and by stock OPA.
func TestTamperedBundles(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "opa")
	if out, err := exec.Command("go", "build", "-o", bin, "github.com/open-policy-agent/opa").CombinedOutput(); err != nil {
		t.Fatalf("building opa: %v\n%s", err, out)
	}
	stock := func(t *testing.T, text, public []byte, algorithm string) (string, error) {
		dir := t.TempDir()
		in, key := filepath.Join(dir, "bundle.tar.gz"), filepath.Join(dir, "key.pem")
		if err := errors.Join(os.WriteFile(in, text, 0o600), os.WriteFile(key, public, 0o600)); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(bin, "build", "-b", in, "--verification-key", key, "--signing-alg", algorithm,
			"-o", filepath.Join(dir, "out.tar.gz")).CombinedOutput()
		return string(out), err
	}
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	key, verify, public := pair(t)
	_, otherVerify, otherPublic := pair(t)
	rsaKey, rsaVerify, rsaPublic := rsaPair(t)
	signed := sign(t, key, built(t))
	ending := *key
	ending.NotAfter = now
	ended := sign(t, &ending, built(t))
	with := func(change func([]entry) []entry) []byte { return edit(t, signed, change) }

	for _, c := range []struct {
		name   string
		text   []byte
		verify *bundles.VerificationKey
		public []byte
		want   string // in our error; "" for a good bundle
	}{
		{"as it was signed", signed, verify, public, ""},
		{"by RSA", sign(t, rsaKey, built(t)), rsaVerify, rsaPublic, ""},
		{"signed again", sign(t, key, sign(t, rsaKey, built(t))), verify, public, ""},
		{"packed again", with(func(f []entry) []entry { slices.Reverse(f); return f }), verify, public, ""},
		{"data changed", with(func(f []entry) []entry {
			i := indexOf(t, f, "/data.json")
			f[i].text = strings.Replace(f[i].text, "9.8", "0.8", 1)
			return f
		}), verify, public, "changed since it was signed: data.json"},
		{"module changed", with(func(f []entry) []entry {
			f[indexOf(t, f, "admission.rego")].text += "# more\n"
			return f
		}), verify, public, "changed since it was signed: assay/"},
		{"manifest changed", with(func(f []entry) []entry {
			i := indexOf(t, f, ".manifest")
			f[i].text = strings.Replace(f[i].text, "sha256:", "sha256:0", 1)
			return f
		}), verify, public, "changed since it was signed: .manifest"},
		{"file added", with(func(f []entry) []entry {
			return append(f, entry{"/assay/more.rego", "package assay.more\n"})
		}), verify, public, "added since it was signed: assay/more.rego"},
		{"file twice", with(func(f []entry) []entry {
			return append(f, f[indexOf(t, f, "admission.rego")])
		}), verify, public, "added since it was signed: assay/"},
		{"file removed", with(func(f []entry) []entry {
			i := indexOf(t, f, "admission.rego")
			return slices.Delete(f, i, i+1)
		}), verify, public, "removed since it was signed: assay/"},
		{"all of it", with(func(f []entry) []entry {
			i := indexOf(t, f, "admission.rego")
			f = slices.Delete(f, i, i+1)
			f[indexOf(t, f, "classification.rego")].text += "\n"
			return append(f, entry{"/assay/more.rego", "package assay.more\n"})
		}), verify, public, "; removed since it was signed: "},
		{"no signature", built(t), verify, public, "the bundle has 0 files .signatures.json"},
		{"two signature files", with(func(f []entry) []entry {
			return append(f, f[indexOf(t, f, ".signatures.json")])
		}), verify, public, "the bundle has 2 files .signatures.json"},
		{"signature cut", with(func(f []entry) []entry {
			f[indexOf(t, f, ".signatures.json")].text = `{"signatures":["a.b"]}`
			return f
		}), verify, public, "holds no JWT"},
		{"signature of none", with(func(f []entry) []entry {
			f[indexOf(t, f, ".signatures.json")].text = `{"signatures":["eyJhbGciOiJub25lIn0.eyJmaWxlcyI6W119."]}`
			return f
		}), verify, public, "no key given made it"},
		{"other key", signed, otherVerify, otherPublic, "no key given made it"},
		{"other algorithm", signed, rsaVerify, rsaPublic, "no key given made it"},
		{"ended", ended, verify, public, "it expired at 2026-06-01T12:00:00Z"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := bundles.Verify(c.text, now, c.verify)
			out, stockErr := stock(t, c.text, c.public, c.verify.Algorithm())
			if c.want == "" {
				if err != nil || stockErr != nil {
					t.Fatalf("refused: %v; stock OPA: %v\n%s", err, stockErr, out)
				}
				if want := revisionOf(t, built(t)); b.Manifest.Revision != want {
					t.Errorf("revision %s, want %s", b.Manifest.Revision, want)
				}
				return
			}
			var signature *bundles.SignatureError
			if !errors.As(err, &signature) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want a SignatureError with %q", err, c.want)
			}
			if accepted := stockErr == nil; accepted != (c.name == "ended") { // at the end stock OPA does not look
				t.Errorf("stock OPA accepts it: %t\n%s", accepted, out)
			}
		})
	}
}

func revisionOf(t testing.TB, text []byte) string {
	t.Helper()
	b, err := bundles.Read(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return b.Manifest.Revision
}

// Equal bundles and keys give equal bytes, so that replicas serve one ETag.
func TestSignIsDeterministic(t *testing.T) {
	for _, make := range []func(testing.TB) (*bundles.SigningKey, *bundles.VerificationKey, []byte){pair, rsaPair} {
		key, _, _ := make(t)
		first := sign(t, key, built(t))
		for range 3 {
			if !bytes.Equal(first, sign(t, key, built(t))) {
				t.Fatalf("%s: two signatures differ", key.Algorithm())
			}
		}
		if !bytes.Equal(first, sign(t, key, first)) {
			t.Errorf("%s: signing again changes the bundle", key.Algorithm())
		}
	}
}

func TestVerify(t *testing.T) {
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	key, verify, _ := pair(t)
	_, other, _ := pair(t)
	key.ID = "2026"
	key.NotAfter = now.Add(time.Hour)
	signed := sign(t, key, built(t))
	if _, err := bundles.Verify(signed, now, other, verify); err != nil {
		t.Errorf("one of two keys: %v", err)
	}
	if _, err := bundles.Verify(signed, now, other); err == nil || !strings.Contains(err.Error(), `"2026"`) {
		t.Errorf("another key: %v, want the name of the key", err)
	}
	var signature *bundles.SignatureError
	if _, err := bundles.Verify(signed, now.Add(time.Hour), verify); !errors.As(err, &signature) || !strings.Contains(err.Error(), "expired at 2026-06-01T13:00:00Z") {
		t.Errorf("at its end: %v", err)
	}
	if _, err := bundles.Verify(signed, now); err == nil {
		t.Error("verified without a key")
	}
	for _, text := range [][]byte{nil, []byte("x"), signed[:len(signed)/2]} {
		if _, err := bundles.Verify(text, now, verify); err == nil || errors.As(err, &signature) {
			t.Errorf("%d bytes: %v, want that it is no bundle", len(text), err)
		}
		if _, err := key.Sign(text); err == nil {
			t.Errorf("%d bytes were signed", len(text))
		}
	}
}

func TestKeysRefused(t *testing.T) {
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := x509.MarshalECPrivateKey(p384)
	if err != nil {
		t.Fatal(err)
	}
	private, public, err := bundles.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	for name, c := range map[string]struct {
		text []byte
		want string
	}{
		"no PEM":      {[]byte("x"), "no private key in PEM"},
		"public":      {public, "public key, not a private key"},
		"broken":      {block("PRIVATE KEY", []byte("x")), "no private key"},
		"short RSA":   {block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(short)), "1024 bits is too short"},
		"other curve": {block("EC PRIVATE KEY", ec), "P-384 is not supported"},
	} {
		if _, err := bundles.ParseSigningKey(c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := bundles.ParseVerificationKey(private); err == nil || !strings.Contains(err.Error(), "not a public key") {
		t.Errorf("a private key to verify with: %v", err)
	}
}

// Whatever verifies is what was signed.
func FuzzVerify(f *testing.F) {
	// Every process of the fuzzer needs the same key.
	scalar, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{1}, 32))
	if err != nil {
		f.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(scalar)
	if err != nil {
		f.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(scalar.Public())
	if err != nil {
		f.Fatal(err)
	}
	key, verify, _ := parsed(f, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
	signed := sign(f, key, built(f))
	revision := revisionOf(f, built(f))
	f.Add(signed)
	f.Add(built(f))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 1<<20 {
			return
		}
		if b, err := bundles.Verify(text, time.Unix(0, 0), verify); err == nil && b.Manifest.Revision != revision {
			t.Errorf("a bundle of revision %q was verified", b.Manifest.Revision)
		}
	})
}
