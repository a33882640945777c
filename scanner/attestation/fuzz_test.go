package attestation

import (
	"encoding/json"
	"testing"
)

// Whatever a registry gives, reading it ends, and nothing unsigned verifies.
func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"payloadType":"application/vnd.in-toto+json","payload":"e30=","signatures":[{"sig":"AA=="}]}`), "", `{"SignedEntryTimestamp":"AA==","Payload":{"body":"e30=","logID":"00"}}`)
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":"x"}},"dsseEnvelope":{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"AA=="}]}}`), "", "")
	f.Add([]byte(`{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://spdx.dev/Document","subject":[{"digest":{"sha256":"00"}}],"predicate":{"Data":"{\"spdxVersion\":\"SPDX-2.3\"}"}}`), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "")
	f.Fuzz(func(t *testing.T, text []byte, certificate, entry string) {
		v := &Verifier{}
		annotations := map[string]string{cosignCertificate: certificate, cosignBundle: entry, cosignSignature: "AA=="}
		if b, err := readBundle(text); err == nil {
			_, _ = b.payload()
			if _, err := v.signed(b, nil); err == nil {
				t.Error("a bundle verifies with nobody trusted")
			}
			_, _ = b.bundle(true)
		}
		if b, err := readEnvelope(text, annotations); err == nil {
			_, _ = b.bundle(true)
			if _, err := v.signed(b, nil); err == nil {
				t.Error("an envelope verifies with nobody trusted")
			}
		}
		if b, err := readSignature(text, annotations); err == nil {
			if _, err := v.signed(b, text); err == nil {
				t.Error("a signature verifies with nobody trusted")
			}
		}
		_, _ = signedDigest(text)
		if s, err := readStatement(text); err == nil {
			if document, err := s.sbom(); err == nil && !json.Valid(document) {
				t.Errorf("the SBOM is no JSON: %q", document)
			}
		}
	})
}
