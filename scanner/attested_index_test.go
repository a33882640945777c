package scanner

import (
	"crypto"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"bytes"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/assay-dev/assay/scanner/attestation"
)

// builtIndex is an index as BuildKit makes it: images, and an unsigned statement about each.
func builtIndex(t testing.TB, subject string, images ...v1.Image) v1.ImageIndex {
	t.Helper()
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for i, img := range images {
		digest := digestOf(t, img)
		about := digest
		if subject != "" {
			about = subject
		}
		statement := statementOf("v0.1", spdxType, about, json.RawMessage(sbomOf(t, nodeFiles(), SPDXJSON)))
		index = mutate.AppendManifests(index,
			mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: []string{"amd64", "arm64"}[i]}}},
			mutate.IndexAddendum{Add: attachment("", addendum(statement, statementType, map[string]string{"in-toto.io/predicate-type": spdxType})), Descriptor: v1.Descriptor{
				Platform:    &v1.Platform{OS: "unknown", Architecture: "unknown"},
				Annotations: map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": digest}}})
	}
	return index
}

// signImage signs a digest as `cosign sign` does by its tag.
func signImage(t testing.TB, repo, digest, said string, key crypto.Signer) {
	payload := fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":"x"},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, said)
	sig := must(must(signature.LoadSigner(key, crypto.SHA256)).SignMessage(bytes.NewReader(payload)))
	tagged(t, repo, digest, ".sig", addendum(payload, "application/vnd.dev.cosign.simplesigning.v1+json", map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(sig)}))
}

func TestAttestedInIndexes(t *testing.T) {
	key, other := ecdsaKey(elliptic.P256()), ecdsaKey(elliptic.P256())
	amd, arm := debianImage(t), imageOf(t, "linux/arm64", tarOf(t, debianFiles()))
	trusted := trusting(attestation.Config{KeyFiles: []string{pemFile(t, key)}})
	zero := "sha256:" + strings.Repeat("0", 64)
	scan := func(index v1.ImageIndex, attach func(repo, digest string)) Outcome {
		repo := attestRegistry(t, true) + "/team/app"
		push(t, repo+":1", index)
		attach(repo, digestOf(t, index))
		return newScanner(t, trusted).Scan(t.Context(), repo+":1", nil)
	}
	built, moved := builtIndex(t, "", amd, arm), builtIndex(t, zero, amd)
	mustTake(t, scan(built, func(repo, digest string) { signImage(t, repo, digest, digest, key) }), attestedPackages, SPDXJSON)
	mustTake(t, scan(built, func(repo, digest string) {
		text := attester{key: key}.sign(statementOf("v1", "https://sigstore.dev/cosign/sign/v1", digest, map[string]any{})).bundle(bundleType)
		img := mutate.Subject(attachment(bundleType, addendum(text, bundleType, nil)), v1.Descriptor{MediaType: types.OCIImageIndex, Digest: must(v1.NewHash(digest)), Size: must(built.Size())}).(v1.Image)
		if err := remote.Write(must(name.NewDigest(repo+"@"+must(img.Digest()).String())), img); err != nil {
			t.Fatal(err)
		}
	}), attestedPackages, SPDXJSON)
	about := func(repo, digest string) {
		att(t, repo, digest, key, statementOf("v0.1", spdxType, digest, json.RawMessage(sbomOf(t, nodeFiles(), SPDXJSON))))
	}
	single := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{Add: amd, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	o := scan(single, about)
	mustTake(t, o, attestedPackages, SPDXJSON)
	if o.Scan.SBOM.Subject != o.Scan.Index.Digest {
		t.Errorf("the subject is %s", o.Scan.SBOM.Subject)
	}
	for want, o := range map[string]Outcome{
		"no trusted signature covers": scan(built, func(string, string) {}),
		"signature of the index":      scan(built, func(repo, digest string) { signImage(t, repo, digest, digest, other) }),
		"not of the index":            scan(built, func(repo, digest string) { signImage(t, repo, digest, zero, key) }),
		"about another image":         scan(moved, func(repo, digest string) { signImage(t, repo, digest, digest, key) }),
		"does not say which":          scan(built, about),
	} {
		mustPass(t, o, wantPackages)
		if text := strings.Join(o.Scan.Warnings, "; "); !strings.Contains(text, want) {
			t.Errorf("warnings are %q, want %q", text, want)
		}
	}
}

// A registry that answers without end, or lists without end, costs a bounded search.
func TestAttestationsOfHostileRegistries(t *testing.T) {
	img := debianImage(t)
	digest := digestOf(t, img)
	trusted := trusting(attestation.Config{KeyFiles: []string{pemFile(t, ecdsaKey(elliptic.P256()))}, Timeout: 5 * time.Second})
	for what, x := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request) bool
		want   string
	}{
		"a manifest without end": {func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, ".att") {
				return false
			}
			w.Header().Set("Content-Type", string(types.OCIManifestSchema1))
			for range 64 {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					break
				}
			}
			return true
		}, "more than 4194304 bytes"},
		"referrers without end": {func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/referrers/") {
				return false
			}
			w.Header().Set("Content-Type", string(types.OCIImageIndex))
			index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
			for i := range 2000 {
				index.Manifests = append(index.Manifests, v1.Descriptor{MediaType: types.OCIManifestSchema1, ArtifactType: bundleType, Digest: v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%064x", i)}})
			}
			_ = json.NewEncoder(w).Encode(index)
			return true
		}, "more than 100 referrers"},
		"a registry that never answers": {func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, ".sig") {
				return false
			}
			<-r.Context().Done()
			return true
		}, "longer than 5s"},
		"a registry that fails": {func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, ".att") {
				return false
			}
			w.WriteHeader(http.StatusForbidden)
			return true
		}, "attestations could not be looked for"},
	} {
		t.Run(what, func(t *testing.T) {
			host := startRegistry(t, func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if !x.answer(w, r) {
						h.ServeHTTP(w, r)
					}
				})
			})
			push(t, host+"/team/app:1", img)
			o := newScanner(t, trusted).Scan(t.Context(), "registry:"+host+"/team/app:1", nil)
			mustPass(t, o, wantPackages)
			if text := strings.Join(o.Scan.Warnings, "; "); !strings.Contains(text, x.want) {
				t.Errorf("%s: warnings are %q", digest, text)
			}
		})
	}
}
