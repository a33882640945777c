package attestation

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// Annotations by which cosign keeps what belongs to a signature beside it.
const (
	cosignSignature   = "dev.cosignproject.cosign/signature"
	cosignCertificate = "dev.sigstore.cosign/certificate"
	cosignBundle      = "dev.sigstore.cosign/bundle"
	cosignTimestamp   = "dev.sigstore.cosign/rfc3161timestamp"
)

// payloadType is the one type of payload that is taken from an envelope: the signature
// covers it, so that nothing else that the signer signed passes for a statement.
const payloadType = "application/vnd.in-toto+json"

// bundleFile is a signature with all that belongs to it, not yet verified.
type bundleFile struct {
	proto *protobundle.Bundle
}

// readBundle reads a Sigstore bundle.
func readBundle(text []byte) (*bundleFile, error) {
	b := &bundleFile{proto: &protobundle.Bundle{}}
	if err := protojson.Unmarshal(text, b.proto); err != nil {
		return nil, fmt.Errorf("it is no Sigstore bundle: %w", err)
	}
	return b, nil
}

// bundle gives what Sigstore verifies. Without log, entries of logs are left out: those
// that nobody asks for may be of kinds that are not known.
func (b *bundleFile) bundle(log bool) (*bundle.Bundle, error) {
	p := b.proto
	if !log && len(p.GetVerificationMaterial().GetTlogEntries()) > 0 {
		p = proto.Clone(p).(*protobundle.Bundle)
		p.VerificationMaterial.TlogEntries = nil
	}
	return bundle.NewBundle(p)
}

func (b *bundleFile) verificationContent() (verify.VerificationContent, error) {
	made, err := b.bundle(false)
	if err != nil {
		return nil, err
	}
	return made.VerificationContent()
}

// statement is the payload of the envelope in the bundle.
func (b *bundleFile) payload() ([]byte, error) {
	e := b.proto.GetDsseEnvelope()
	if e == nil {
		return nil, errors.New("it holds no envelope with a statement")
	}
	if e.GetPayloadType() != payloadType {
		return nil, fmt.Errorf("the payload has the type %.80q, and not %q", e.GetPayloadType(), payloadType)
	}
	return e.GetPayload(), nil
}

// readEnvelope reads a DSSE envelope as cosign keeps it, with the rest in annotations.
func readEnvelope(text []byte, annotations map[string]string) (*bundleFile, error) {
	var e struct {
		PayloadType string `json:"payloadType"`
		Payload     string `json:"payload"`
		Signatures  []struct {
			KeyID string `json:"keyid"`
			Sig   string `json:"sig"`
		} `json:"signatures"`
	}
	if err := json.Unmarshal(text, &e); err != nil {
		return nil, fmt.Errorf("it is no DSSE envelope: %w", err)
	}
	if len(e.Signatures) != 1 {
		return nil, fmt.Errorf("the envelope has %d signatures, and not one", len(e.Signatures))
	}
	payload, err := decodeBase64(e.Payload)
	if err != nil {
		return nil, fmt.Errorf("the payload of the envelope is no base64: %w", err)
	}
	sig, err := decodeBase64(e.Signatures[0].Sig)
	if err != nil {
		return nil, fmt.Errorf("the signature of the envelope is no base64: %w", err)
	}
	b, err := fromAnnotations(annotations)
	if err != nil {
		return nil, err
	}
	b.proto.Content = &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
		PayloadType: e.PayloadType, Payload: payload, Signatures: []*protodsse.Signature{{Sig: sig}},
	}}
	return b, nil
}

// readSignature reads cosign's signature of a payload.
func readSignature(payload []byte, annotations map[string]string) (*bundleFile, error) {
	sig, err := decodeBase64(annotations[cosignSignature])
	if err != nil || len(sig) == 0 {
		return nil, errors.New("it has no signature in base64")
	}
	b, err := fromAnnotations(annotations)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(payload)
	b.proto.Content = &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
		MessageDigest: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: sum[:]}, Signature: sig,
	}}
	return b, nil
}

func decodeBase64(s string) ([]byte, error) {
	if strings.ContainsAny(s, "-_") {
		return base64.URLEncoding.DecodeString(s)
	}
	return base64.StdEncoding.DecodeString(s)
}

// fromAnnotations makes a bundle of the certificate, the log entry and the time stamp
// in cosign's annotations.
func fromAnnotations(annotations map[string]string) (*bundleFile, error) {
	m := &protobundle.VerificationMaterial{Content: &protobundle.VerificationMaterial_PublicKey{PublicKey: &protocommon.PublicKeyIdentifier{}}}
	if text := annotations[cosignCertificate]; text != "" {
		block, _ := pem.Decode([]byte(text))
		if block == nil {
			return nil, errors.New("its certificate is no PEM")
		}
		m.Content = &protobundle.VerificationMaterial_X509CertificateChain{X509CertificateChain: &protocommon.X509CertificateChain{
			Certificates: []*protocommon.X509Certificate{{RawBytes: block.Bytes}},
		}}
	}
	if text := annotations[cosignBundle]; text != "" {
		entry, err := readLogEntry(text)
		if err != nil {
			return nil, fmt.Errorf("its log entry cannot be read: %w", err)
		}
		m.TlogEntries = []*protorekor.TransparencyLogEntry{entry}
	}
	if text := annotations[cosignTimestamp]; text != "" {
		var stamp struct{ SignedRFC3161Timestamp []byte }
		if err := json.Unmarshal([]byte(text), &stamp); err != nil {
			return nil, fmt.Errorf("its time stamp cannot be read: %w", err)
		}
		m.TimestampVerificationData = &protobundle.TimestampVerificationData{Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: stamp.SignedRFC3161Timestamp}}}
	}
	return &bundleFile{proto: &protobundle.Bundle{MediaType: "application/vnd.dev.sigstore.bundle+json;version=0.1", VerificationMaterial: m}}, nil
}

// readLogEntry reads an entry of Rekor with the log's promise, as cosign keeps it.
func readLogEntry(text string) (*protorekor.TransparencyLogEntry, error) {
	var e struct {
		SignedEntryTimestamp []byte
		Payload              struct {
			Body           []byte `json:"body"`
			IntegratedTime int64  `json:"integratedTime"`
			LogIndex       int64  `json:"logIndex"`
			LogID          string `json:"logID"`
		}
	}
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return nil, err
	}
	id, err := hex.DecodeString(e.Payload.LogID)
	if err != nil {
		return nil, fmt.Errorf("the id of the log: %w", err)
	}
	var kind struct {
		Kind       string `json:"kind"`
		APIVersion string `json:"apiVersion"`
	}
	if err := json.Unmarshal(e.Payload.Body, &kind); err != nil {
		return nil, fmt.Errorf("the body: %w", err)
	}
	return &protorekor.TransparencyLogEntry{
		LogIndex: e.Payload.LogIndex, LogId: &protocommon.LogId{KeyId: id}, IntegratedTime: e.Payload.IntegratedTime,
		KindVersion:       &protorekor.KindVersion{Kind: kind.Kind, Version: kind.APIVersion},
		InclusionPromise:  &protorekor.InclusionPromise{SignedEntryTimestamp: e.SignedEntryTimestamp},
		CanonicalizedBody: e.Payload.Body,
	}, nil
}
