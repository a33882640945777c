package daemon_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/assay-dev/assay/scanner/attestation"
	"github.com/assay-dev/assay/scanner/vulndb"
	"github.com/assay-dev/assay/server/daemon"
)

// attach signs an SBOM of one package, attaches it to a reference as cosign does, and
// gives the digest and the file of the public key.
func attach(t *testing.T, reference string) (digest, key string) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ref, err := name.ParseReference(reference)
	check(err)
	d, err := remote.Head(ref)
	check(err)
	payload := fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://cyclonedx.org/bom","subject":[{"digest":{"sha256":%q}}],
		"predicate":{"bomFormat":"CycloneDX","specVersion":"1.5","version":1,"components":[{"type":"library","name":"urllib3","version":"1.26.16","purl":"pkg:pypi/urllib3@1.26.16"}]}}`, d.Digest.Hex)
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	signer, err := signature.LoadSigner(private, crypto.SHA256)
	check(err)
	const kind = "application/vnd.in-toto+json"
	sig, err := signer.SignMessage(bytes.NewReader(dsse.PAE(kind, payload)))
	check(err)
	envelope, err := json.Marshal(map[string]any{"payloadType": kind, "payload": payload, "signatures": []any{map[string]any{"sig": sig}}})
	check(err)
	image, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), static.NewLayer(envelope, "application/vnd.dsse.envelope.v1+json"))
	check(err)
	check(remote.Write(ref.Context().Tag(strings.Replace(d.Digest.String(), ":", "-", 1)+".att"), image))
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	check(err)
	path := filepath.Join(t.TempDir(), "cosign.pub")
	check(os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600))
	return d.Digest.String(), path
}

// The server takes attested SBOMs, says so of the image, and scans none without where
// they are required.
func TestScanAttested(t *testing.T) {
	r := httptest.NewServer(registry.New())
	defer r.Close()
	host := strings.TrimPrefix(r.URL, "http://")
	attested, plain := host+"/shop/attested:1", host+"/shop/plain:1"
	pushed(t, attested)
	digest, key := attach(t, attested)
	trusted, err := attestation.New(attestation.Config{KeyFiles: []string{key}, Required: true})
	if err != nil {
		t.Fatal(err)
	}
	db := filepath.Join(t.TempDir(), "db")
	if _, err := vulndb.Build(t.Context(), []string{"../../examples/quickstart/advisories"}, db, time.Now()); err != nil {
		t.Fatal(err)
	}
	w := start(t, "", func(c *daemon.Config) {
		c.VulnerabilityPath, c.ScanImages, c.Attestations = db, []string{host + "/shop"}, trusted
		c.InsecureHTTP, c.RegistryNetworks = true, loopback
	})
	w.want(202, "POST", "/api/v1/scan-requests", fmt.Sprintf(`{"images":[%q]}`, attested))
	w.until("the attested SBOM is matched", func() bool {
		return strings.Contains(fmt.Sprint(w.want(200, "GET", "/api/v1/images?result=Warn", "")), attested)
	})
	view, err := json.Marshal(w.want(200, "GET", "/api/v1/images/"+digest, ""))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"origin":"attestation"`, `"format":"cyclonedx-json"`, `"subject":"` + digest, `"key":"sha256:`, `"packages":1,`} {
		if !strings.Contains(string(view), want) {
			t.Errorf("%s is missing in %s", want, view)
		}
	}
	// The same image under its digest in a repository without attestations.
	pushed(t, plain)
	w.want(202, "POST", "/api/v1/scan-requests", fmt.Sprintf(`{"images":[%q]}`, plain))
	w.until("the other image is refused", func() bool { return strings.Contains(w.log.String(), "no SBOM of a trusted signer") })
}
