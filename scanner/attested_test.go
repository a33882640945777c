package scanner

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/anchore/syft/syft/source"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/scanner/attestation"
)

const (
	statementType   = "application/vnd.in-toto+json"
	builderIdentity = "builder@example.com"
	builderIssuer   = "https://issuer.example.com"
)

// attestRegistry serves a registry with or without the API of referrers.
func attestRegistry(t testing.TB, referrers bool) string {
	t.Helper()
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(referrers)))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// attester signs statements as a user of cosign would, by a key or an identity.
type attester struct {
	key crypto.Signer
	// authority makes a certificate for identity; nil signs with the key alone.
	authority        *ca.VirtualSigstore
	identity, issuer string
	// late is how long after the certificate's beginning the log saw the signature.
	late     time.Duration
	unlogged bool
}

// signed is a statement with all that belongs to its signature.
type signed struct {
	Payload     []byte
	PayloadType string
	Sig         []byte
	cert        *x509.Certificate
	body, set   []byte
	proof       map[string]any
	at          int64
	logID       string
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (a attester) sign(payload []byte) *signed {
	s := &signed{Payload: payload, PayloadType: statementType}
	key := crypto.PrivateKey(a.key)
	if a.authority != nil {
		var err error
		if s.cert, key, err = a.authority.GenerateLeafCert(a.identity, a.issuer); err != nil {
			panic(err)
		}
	}
	s.Sig = must(must(signature.LoadSigner(key, crypto.SHA256)).SignMessage(bytes.NewReader(dsse.PAE(s.PayloadType, payload))))
	if a.authority == nil || a.unlogged {
		return s
	}
	s.at = time.Now().Add(time.Minute + a.late).Unix()
	entry := must(a.authority.GenerateTlogEntry(s.cert, &dsse.Envelope{PayloadType: s.PayloadType, Payload: base64.StdEncoding.EncodeToString(payload),
		Signatures: []dsse.Signature{{Sig: base64.StdEncoding.EncodeToString(s.Sig)}}}, s.Sig, s.at, false))
	s.body = entry.TransparencyLogEntry().CanonicalizedBody
	s.logID = must(a.authority.RekorLogID())
	s.set = must(a.authority.RekorSignPayload(tlog.RekorPayload{Body: base64.StdEncoding.EncodeToString(s.body), IntegratedTime: s.at, LogID: s.logID}))
	proof := must(a.authority.GetInclusionProof(s.body))
	s.proof = map[string]any{"logIndex": "0", "treeSize": fmt.Sprint(*proof.TreeSize), "rootHash": must(hex.DecodeString(*proof.RootHash)),
		"checkpoint": map[string]any{"envelope": *proof.Checkpoint}}
	return s
}

// envelope is the DSSE envelope.
func (s *signed) envelope() map[string]any {
	return map[string]any{"payloadType": s.PayloadType, "payload": s.Payload, "signatures": []any{map[string]any{"keyid": "", "sig": s.Sig}}}
}

// cosign is the envelope and its annotations, as cosign kept them for years.
func (s *signed) cosign() ([]byte, map[string]string) {
	annotations := map[string]string{"dev.cosignproject.cosign/signature": ""}
	if s.cert != nil {
		annotations["dev.sigstore.cosign/certificate"] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.cert.Raw}))
	}
	if s.set != nil {
		annotations["dev.sigstore.cosign/bundle"] = string(must(json.Marshal(map[string]any{"SignedEntryTimestamp": s.set,
			"Payload": map[string]any{"body": s.body, "integratedTime": s.at, "logIndex": 0, "logID": s.logID}})))
	}
	return must(json.Marshal(s.envelope())), annotations
}

// bundle is a Sigstore bundle of a version.
func (s *signed) bundle(mediaType string) []byte {
	material := map[string]any{"publicKey": map[string]any{"hint": "whatever"}}
	if s.cert != nil {
		material = map[string]any{"certificate": map[string]any{"rawBytes": s.cert.Raw}}
		if !strings.Contains(mediaType, "0.3") {
			material = map[string]any{"x509CertificateChain": map[string]any{"certificates": []any{map[string]any{"rawBytes": s.cert.Raw}}}}
		}
	}
	if s.set != nil {
		material["tlogEntries"] = []any{map[string]any{"logIndex": "0", "logId": map[string]any{"keyId": must(hex.DecodeString(s.logID))}, "kindVersion": map[string]any{"kind": "dsse", "version": "0.0.1"},
			"integratedTime": fmt.Sprint(s.at), "inclusionPromise": map[string]any{"signedEntryTimestamp": s.set}, "inclusionProof": s.proof, "canonicalizedBody": s.body}}
	}
	return must(json.Marshal(map[string]any{"mediaType": mediaType, "verificationMaterial": material, "dsseEnvelope": s.envelope()}))
}

const bundleType = "application/vnd.dev.sigstore.bundle.v0.3+json"

// attachment is an image of layers, as attestations are kept.
func attachment(artifact types.MediaType, layers ...mutate.Addendum) v1.Image {
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	if artifact != "" {
		img = mutate.ConfigMediaType(img, artifact)
	}
	return must(mutate.Append(img, layers...))
}

func addendum(text []byte, kind types.MediaType, annotations map[string]string) mutate.Addendum {
	return mutate.Addendum{Layer: static.NewLayer(text, kind), MediaType: kind, Annotations: annotations}
}

// tagged attaches layers by cosign's tag.
func tagged(t testing.TB, repo, digest, suffix string, layers ...mutate.Addendum) {
	push(t, repo+":"+strings.Replace(digest, ":", "-", 1)+suffix, attachment("", layers...))
}

// referring attaches a layer as a referrer.
func referring(t testing.TB, repo string, subject v1.Image, text []byte, kind types.MediaType) {
	img := attachment(kind, addendum(text, kind, nil))
	of := v1.Descriptor{MediaType: must(subject.MediaType()), Digest: must(subject.Digest()), Size: must(subject.Size())}
	img = mutate.Subject(img, of).(v1.Image)
	ref := must(name.NewDigest(repo + "@" + must(img.Digest()).String()))
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
}

// sbomOf is the SBOM of files in a format. It names no image.
func sbomOf(t testing.TB, files map[string]string, f SBOMFormat) []byte {
	t.Helper()
	o := newScanner(t).Scan(t.Context(), "oci-dir:"+ociDir(t, map[string]v1.Image{"": imageOf(t, "linux/amd64", tarOf(t, files))}), nil)
	if o.Err != nil {
		t.Fatal(o.Err)
	}
	o.SBOM.Source = source.Description{Name: "some files", Metadata: source.DirectoryMetadata{Path: "files"}}
	return encoded(t, o, f)
}

func encoded(t testing.TB, o Outcome, f SBOMFormat) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := EncodeSBOM(&b, o.SBOM, f); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

const (
	spdxType      = "https://spdx.dev/Document"
	cyclonedxType = "https://cyclonedx.org/bom"
)

func statementOf(version, predicateType, digest string, predicate any) []byte {
	return must(json.Marshal(map[string]any{"_type": "https://in-toto.io/Statement/" + version, "predicateType": predicateType,
		"subject": []any{map[string]any{"name": "app", "digest": map[string]string{"sha256": strings.TrimPrefix(digest, "sha256:")}}}, "predicate": predicate}))
}

func ecdsaKey(c elliptic.Curve) crypto.Signer { return must(ecdsa.GenerateKey(c, rand.Reader)) }

// pemFile writes public keys.
func pemFile(t testing.TB, keys ...crypto.Signer) string {
	t.Helper()
	var b bytes.Buffer
	for _, k := range keys {
		if err := pem.Encode(&b, &pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(k.Public()))}); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "keys.pem")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// rootFile writes the trusted root of an authority.
func rootFile(t testing.TB, a *ca.VirtualSigstore) string {
	t.Helper()
	logs := map[string]*root.TransparencyLog{}
	for id, l := range a.RekorLogs() {
		held := *l
		held.ID = must(hex.DecodeString(id))
		logs[id] = &held
	}
	material := must(root.NewTrustedRoot(root.TrustedRootMediaType01, a.FulcioCertificateAuthorities(), nil, a.TimestampingAuthorities(), logs))
	path := filepath.Join(t.TempDir(), "trusted_root.json")
	if err := os.WriteFile(path, must(material.MarshalJSON()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func trusting(c attestation.Config) func(*Config) {
	return func(s *Config) { s.Attestations = must(attestation.New(c)) }
}

// mustTake checks that the attested SBOM was used.
func mustTake(t testing.TB, o Outcome, packages []string, format SBOMFormat) {
	t.Helper()
	if o.Err != nil {
		t.Fatalf("%v; warnings %q", o.Err, o.Scan.Warnings)
	}
	t.Helper()
	mustPass(t, o, packages)
	if a := o.Scan.SBOM; a == nil || a.Origin != api.OriginAttestation || a.Format != string(format) || o.SBOMFormat != format || a.Digest == "" {
		t.Fatalf("the SBOM comes from %+v (%s), warnings %q", a, o.SBOMFormat, o.Scan.Warnings)
	}
}

// The attested SBOM is of other packages than the image's, so that one shows which was used.
var attestedPackages = []string{"lodash 4.17.15"}

func TestAttestedByKeys(t *testing.T) {
	img := debianImage(t)
	digest := digestOf(t, img)
	document := sbomOf(t, nodeFiles(), SPDXJSON)
	statement := statementOf("v0.1", spdxType, digest, json.RawMessage(document))
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	keys := map[string]crypto.Signer{"P-256": ecdsaKey(elliptic.P256()), "P-384": ecdsaKey(elliptic.P384()), "P-521": ecdsaKey(elliptic.P521()),
		"RSA": must(rsa.GenerateKey(rand.Reader, 2048)), "Ed25519": ed}
	var all []crypto.Signer
	for _, k := range keys {
		all = append(all, k)
	}
	trusted := trusting(attestation.Config{KeyFiles: []string{pemFile(t, all...)}, Required: true})
	for kind, key := range keys {
		s := attester{key: key}.sign(statement)
		for _, referrers := range []bool{true, false} {
			repo := attestRegistry(t, referrers) + "/team/app"
			push(t, repo+":1", img)
			if referrers {
				referring(t, repo, img, s.bundle(bundleType), bundleType)
			} else {
				text, annotations := s.cosign()
				tagged(t, repo, digest, ".att", addendum(text, "application/vnd.dsse.envelope.v1+json", annotations))
			}
			o := newScanner(t, trusted).Scan(t.Context(), "registry:"+repo+":1", nil)
			mustTake(t, o, attestedPackages, SPDXJSON)
			if a := o.Scan.SBOM; !strings.HasPrefix(a.Signer.Key, "sha256:") || a.Signer.Identity != "" || a.SignedAt != nil || a.Subject != digest || a.PredicateType != spdxType || len(o.Scan.Warnings) != 0 {
				t.Errorf("%s: origin is %+v, warnings %q", kind, a, o.Scan.Warnings)
			}
			if o.Scan.Digest != digest || o.Scan.Image != repo+":1" || o.Scan.Platform != "linux/amd64" {
				t.Errorf("%s: scan is %+v", kind, o.Scan)
			}
		}
	}
	// A referrer under the fallback tag, in a registry without the API.
	repo := attestRegistry(t, false) + "/team/app"
	push(t, repo+":1", img)
	referring(t, repo, img, attester{key: ed}.sign(statement).bundle(bundleType), bundleType)
	mustTake(t, newScanner(t, trusted).Scan(t.Context(), repo+":1", nil), attestedPackages, SPDXJSON)
}

func TestAttestedByIdentities(t *testing.T) {
	authority := must(ca.NewVirtualSigstore())
	img := debianImage(t)
	digest := digestOf(t, img)
	document := sbomOf(t, nodeFiles(), CycloneDXJSON)
	statement := statementOf("v1", cyclonedxType, digest, json.RawMessage(document))
	good := attester{authority: authority, identity: builderIdentity, issuer: builderIssuer}
	base := attestation.Config{RootFile: rootFile(t, authority), Identities: []string{builderIdentity}, Issuer: builderIssuer, Required: true}
	forms := map[string]func(repo string, s *signed){
		"cosign": func(repo string, s *signed) {
			text, annotations := s.cosign()
			tagged(t, repo, digest, ".att", addendum(text, "application/vnd.dsse.envelope.v1+json", annotations))
		},
	}
	for _, kind := range []types.MediaType{"application/vnd.dev.sigstore.bundle+json;version=0.1", "application/vnd.dev.sigstore.bundle+json;version=0.2", bundleType} {
		forms[string(kind)] = func(repo string, s *signed) { referring(t, repo, img, s.bundle(string(kind)), kind) }
	}
	pattern := base
	pattern.Identities, pattern.Issuer, pattern.IdentityPattern, pattern.IssuerPattern = nil, "", ".*@example[.]com", "https://issuer[.]example[.]com"
	shorter := pattern
	shorter.IdentityPattern = "example[.]com" // matches a part only
	other := base
	other.Identities = []string{"someone@example.com"}
	elsewhere := base
	elsewhere.Issuer = "https://other.example.com"
	foreign := base
	foreign.RootFile = rootFile(t, must(ca.NewVirtualSigstore()))
	onlyKey := attestation.Config{KeyFiles: []string{pemFile(t, ecdsaKey(elliptic.P256()))}, Required: true}
	late, unlogged := good, good
	late.late, unlogged.unlogged = 30*time.Minute, true
	for form, attach := range forms {
		for what, x := range map[string]struct {
			by   attester
			c    attestation.Config
			want string
		}{
			"good":                     {good, base, ""},
			"a pattern":                {good, pattern, ""},
			"part of a pattern":        {good, shorter, "identity"},
			"another identity":         {good, other, "identity"},
			"another issuer":           {good, elsewhere, "identity"},
			"another root":             {good, foreign, "not verified"},
			"an expired certificate":   {late, base, "certificate"},
			"no log entry":             {unlogged, base, "not verified"},
			"only a key is trusted":    {good, onlyKey, "none is trusted"},
			"a key made the signature": {attester{key: ecdsaKey(elliptic.P256())}, base, "no key is trusted"},
		} {
			repo := attestRegistry(t, strings.HasPrefix(form, "application")) + "/team/app"
			push(t, repo+":1", img)
			attach(repo, x.by.sign(statement))
			o := newScanner(t, trusting(x.c)).Scan(t.Context(), repo+":1", nil)
			if x.want == "" {
				mustTake(t, o, attestedPackages, CycloneDXJSON)
				if a := o.Scan.SBOM; a.Signer != (api.Signer{Identity: builderIdentity, Issuer: builderIssuer}) || a.SignedAt == nil {
					t.Errorf("%s, %s: origin is %+v", form, what, a)
				}
				continue
			}
			mustFail(t, o, "no SBOM of a trusted signer")
			if text := strings.Join(o.Scan.Warnings, "; "); !strings.Contains(text, x.want) || o.SBOM != nil {
				t.Errorf("%s, %s: warnings are %q", form, what, text)
			}
			prefer := x.c
			prefer.Required = false
			mustPass(t, newScanner(t, trusting(prefer)).Scan(t.Context(), repo+":1", nil), wantPackages)
		}
	}
}

// att attaches a statement that key signed by cosign's tag.
func att(t testing.TB, repo, digest string, key crypto.Signer, statement []byte) {
	text, annotations := attester{key: key}.sign(statement).cosign()
	tagged(t, repo, digest, ".att", addendum(text, "application/vnd.dsse.envelope.v1+json", annotations))
}

func TestAttestedPredicates(t *testing.T) {
	key := ecdsaKey(elliptic.P256())
	img := debianImage(t)
	digest := digestOf(t, img)
	trusted := trusting(attestation.Config{KeyFiles: []string{pemFile(t, key)}, Required: true})
	documents := map[SBOMFormat][]byte{}
	for _, f := range []SBOMFormat{SPDXJSON, CycloneDXJSON, SyftJSON} {
		documents[f] = sbomOf(t, nodeFiles(), f)
	}
	for _, x := range []struct {
		predicateType string
		format        SBOMFormat
		wrap          func(d []byte) any
	}{
		{spdxType, SPDXJSON, func(d []byte) any { return json.RawMessage(d) }},
		{spdxType + "/v2.3", SPDXJSON, func(d []byte) any { return string(d) }},
		{spdxType, SPDXJSON, func(d []byte) any { return map[string]any{"Data": json.RawMessage(d), "Timestamp": "2026-01-01"} }},
		{spdxType, SPDXJSON, func(d []byte) any { return map[string]any{"Data": string(d)} }},
		{cyclonedxType, CycloneDXJSON, func(d []byte) any { return json.RawMessage(d) }},
		{cyclonedxType, CycloneDXJSON, func(d []byte) any { return string(d) }},
		{cyclonedxType, CycloneDXJSON, func(d []byte) any { return map[string]any{"Data": json.RawMessage(d)} }},
		{"https://syft.dev/bom", SyftJSON, func(d []byte) any { return json.RawMessage(d) }},
	} {
		repo := attestRegistry(t, true) + "/team/app"
		push(t, repo+":1", img)
		att(t, repo, digest, key, statementOf("v0.1", x.predicateType, digest, x.wrap(documents[x.format])))
		o := newScanner(t, trusted).Scan(t.Context(), repo+":1", nil)
		mustTake(t, o, attestedPackages, x.format)

		// What is found in it is what is found in the same SBOM as a file.
		path := filepath.Join(t.TempDir(), "sbom.json")
		if err := os.WriteFile(path, documents[x.format], 0o600); err != nil {
			t.Fatal(err)
		}
		file := newScanner(t).Scan(t.Context(), "sbom:"+path, nil)
		if !reflect.DeepEqual(file.Scan.Vulnerabilities, o.Scan.Vulnerabilities) || file.Scan.Packages != o.Scan.Packages || file.Scan.Distro != o.Scan.Distro {
			t.Errorf("%s: as an attestation %+v, as a file %+v", x.format, o.Scan, file.Scan)
		}
		// The origin stays with the SBOM where a server keeps it and matches it again.
		again, _, err := DecodeSBOM(bytes.NewReader(encoded(t, o, SyftJSON)))
		if err != nil {
			t.Fatal(err)
		}
		kept, err := Describe(again, "")
		if err != nil || !reflect.DeepEqual(kept.SBOM, o.Scan.SBOM) || kept.Digest != digest || kept.Platform != "linux/amd64" {
			t.Errorf("%s: kept as %+v (%+v), %v", x.format, kept, kept.SBOM, err)
		}
	}
}

// Whatever is wrong with an attestation, the image is scanned itself or not at all.
func TestAttestationsRefused(t *testing.T) {
	key, other := ecdsaKey(elliptic.P256()), ecdsaKey(elliptic.P256())
	img := debianImage(t)
	digest := digestOf(t, img)
	elsewhere := "sha256:" + strings.Repeat("a", 64)
	document := json.RawMessage(sbomOf(t, nodeFiles(), SPDXJSON))
	fine := statementOf("v0.1", spdxType, digest, document)
	const envelope = "application/vnd.dsse.envelope.v1+json"
	attach := func(text []byte, annotations map[string]string) func(string) {
		return func(repo string) { tagged(t, repo, digest, ".att", addendum(text, envelope, annotations)) }
	}
	by := func(key crypto.Signer, statement []byte) func(string) {
		return attach(attester{key: key}.sign(statement).cosign())
	}
	changed := func(change func(*signed)) func(string) {
		s := attester{key: key}.sign(fine)
		change(s)
		return attach(s.cosign())
	}
	var deep bytes.Buffer
	deep.WriteString(strings.Repeat("[", 100_000))
	for what, x := range map[string]struct {
		attach func(repo string)
		want   string
	}{
		"another key":        {by(other, fine), "not verified"},
		"a changed payload":  {changed(func(s *signed) { s.Payload = bytes.Replace(s.Payload, []byte("lodash"), []byte("1odash"), 1) }), "not verified"},
		"another type":       {changed(func(s *signed) { s.PayloadType = "text/plain" }), "payload has the type"},
		"no signature":       {changed(func(s *signed) { s.Sig = nil }), "not verified"},
		"replayed":           {by(key, statementOf("v0.1", spdxType, elsewhere, document)), "about another image"},
		"no subject":         {by(key, []byte(`{"_type":"https://in-toto.io/Statement/v1","predicateType":"`+spdxType+`","predicate":{}}`)), "about another image"},
		"an unknown version": {by(key, statementOf("v9", spdxType, digest, document)), "known version"},
		"of another image": {by(key, statementOf("v0.1", "https://syft.dev/bom", digest, json.RawMessage(encoded(t,
			newScanner(t).Scan(t.Context(), "oci-dir:"+ociDir(t, map[string]v1.Image{"": imageOf(t, "linux/amd64", tarOf(t, nodeFiles()))}), nil), SyftJSON)))), "says that it is of"},
		"an empty SBOM":    {by(key, statementOf("v0.1", cyclonedxType, digest, json.RawMessage(`{"bomFormat":"CycloneDX","specVersion":"1.5","version":1}`))), "not assessed"},
		"no SBOM at all":   {by(key, statementOf("v0.1", spdxType, digest, json.RawMessage(`{"a":1}`))), "not what its type"},
		"a broken SBOM":    {by(key, statementOf("v0.1", spdxType, digest, json.RawMessage(`{"spdxVersion":"SPDX-2.3","packages":7}`))), "no SBOM in"},
		"a tag-value SBOM": {by(key, statementOf("v0.1", spdxType, digest, "SPDXVersion: SPDX-2.3\n")), "no SBOM in JSON"},
		"only a scan":      {by(key, statementOf("v0.1", "https://cosign.sigstore.dev/attestation/vuln/v1", digest, map[string]any{"scanner": map[string]any{}})), "a scan is never taken"},
		"junk":             {attach([]byte("junk"), nil), "no DSSE envelope"},
		"deep junk":        {attach(deep.Bytes(), nil), "no DSSE envelope"},
		"a broken certificate": {func(repo string) {
			text, _ := attester{key: key}.sign(fine).cosign()
			attach(text, map[string]string{"dev.sigstore.cosign/certificate": "junk"})(repo)
		}, "no PEM"},
		"a broken log entry": {func(repo string) {
			text, _ := attester{key: key}.sign(fine).cosign()
			attach(text, map[string]string{"dev.sigstore.cosign/bundle": `{"Payload":{"body":"AA==","logID":"zz"}}`})(repo)
		}, "log entry cannot be read"},
		"two signatures":        {attach(must(json.Marshal(map[string]any{"payloadType": statementType, "payload": fine, "signatures": []any{map[string]any{"sig": []byte("a")}, map[string]any{"sig": []byte("b")}}})), nil), "2 signatures"},
		"an SBOM as it is":      {func(repo string) { tagged(t, repo, digest, ".sbom", addendum(document, "text/spdx+json", nil)) }, "nobody signed it"},
		"an unsigned statement": {func(repo string) { referring(t, repo, img, fine, statementType) }, "not signed"},
		"a junk bundle":         {func(repo string) { referring(t, repo, img, []byte(`{"mediaType":"x"}`), bundleType) }, "no envelope"},
		"too large":             {by(key, statementOf("v0.1", spdxType, digest, strings.Repeat("x", 2<<20))), "more than 1048576"},
		"many": {func(repo string) {
			text, _ := attester{key: other}.sign(fine).cosign()
			var layers []mutate.Addendum
			for i := range 60 {
				layers = append(layers, addendum(append([]byte(strings.Repeat(" ", i)), text...), envelope, nil))
			}
			tagged(t, repo, digest, ".att", layers...)
		}, "all but the last 50"},
		"nothing": {func(string) {}, ""},
	} {
		t.Run(what, func(t *testing.T) {
			repo := attestRegistry(t, true) + "/team/app"
			push(t, repo+":1", img)
			x.attach(repo)
			c := attestation.Config{KeyFiles: []string{pemFile(t, key)}, MaxBytes: 1 << 20}
			o := newScanner(t, trusting(c)).Scan(t.Context(), repo+":1", nil)
			mustPass(t, o, wantPackages)
			if text := strings.Join(o.Scan.Warnings, "; "); o.Scan.SBOM != nil || !strings.Contains(text, x.want) || x.want == "" && text != "" || len(o.Scan.Warnings) > 12 {
				t.Errorf("the SBOM is of %+v, warnings %q", o.Scan.SBOM, text)
			}
			c.Required = true
			o = newScanner(t, trusting(c)).Scan(t.Context(), repo+":1", nil)
			mustFail(t, o, "no SBOM of a trusted signer is attached to it")
			if text := strings.Join(o.Scan.Warnings, "; "); !errors.Is(o.Err, ErrNotAttested) || o.SBOM != nil || !strings.Contains(text, x.want) {
				t.Errorf("%v, warnings %q", o.Err, text)
			}
		})
	}
}

// Of several, a good one is taken beside bad ones, and the latest that a log saw.
func TestAttestedBesideOthers(t *testing.T) {
	authority := must(ca.NewVirtualSigstore())
	img := debianImage(t)
	digest := digestOf(t, img)
	good := attester{authority: authority, identity: builderIdentity, issuer: builderIssuer}
	later := good
	later.late = 3 * time.Minute
	var layers []mutate.Addendum
	add := func(a attester, files map[string]string) {
		text, annotations := a.sign(statementOf("v0.1", spdxType, digest, json.RawMessage(sbomOf(t, files, SPDXJSON)))).cosign()
		layers = append(layers, addendum(text, "application/vnd.dsse.envelope.v1+json", annotations))
	}
	add(attester{key: ecdsaKey(elliptic.P256())}, nodeFiles())
	add(later, nodeFiles())
	add(good, debianFiles())
	repo := attestRegistry(t, false) + "/team/app"
	push(t, repo+":1", img)
	tagged(t, repo, digest, ".att", layers...)
	o := newScanner(t, trusting(attestation.Config{RootFile: rootFile(t, authority), Identities: []string{builderIdentity}, Issuer: builderIssuer})).Scan(t.Context(), repo+":1", nil)
	mustTake(t, o, attestedPackages, SPDXJSON)
	if text := strings.Join(o.Scan.Warnings, "; "); !strings.Contains(text, "no key is trusted") {
		t.Errorf("warnings are %q", text)
	}
}
