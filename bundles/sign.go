package bundles

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"
)

// DefaultKeyID is the name of the key in a signature that is given no other.
// It is what stock OPA's --verification-key-id defaults to.
const DefaultKeyID = "default"

const signaturesFile = ".signatures.json"

// GenerateKey makes a key pair for ES256 (ECDSA on P-256) as PEM: PKCS #8 and
// PKIX.
func GenerateKey() (private, public []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key: %w", err)
	}
	pub, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, nil, fmt.Errorf("making a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pub}), nil
}

// SigningKey signs bundles as OPA verifies them. It may be used concurrently.
type SigningKey struct {
	// ID names the key to those who verify with several; "" is [DefaultKeyID].
	ID string
	// NotAfter is the moment after which [Verify] refuses the signature; zero
	// is never. Stock OPA does not look at it.
	NotAfter time.Time

	key       crypto.Signer
	algorithm string
}

// ParseSigningKey reads a private key in PEM: ECDSA on P-256 (ES256), or RSA of
// 2048 bits or more (RS256). Both give equal bundles equal signatures.
func ParseSigningKey(text []byte) (*SigningKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("is no private key in PEM")
	}
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("is %s, not a private key", strings.ToLower(block.Type))
	}
	if err != nil {
		return nil, fmt.Errorf("is no private key: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a %T cannot sign", key)
	}
	algorithm, err := algorithmOf(signer.Public())
	if err != nil {
		return nil, err
	}
	return &SigningKey{key: signer, algorithm: algorithm}, nil
}

// algorithmOf is the JWS algorithm of a public key, of those that stock OPA's
// configuration takes. EdDSA is not among them.
func algorithmOf(key crypto.PublicKey) (string, error) {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return "ES256", nil
		}
		return "", fmt.Errorf("the curve %s is not supported; use P-256", k.Params().Name)
	case *rsa.PublicKey:
		if k.N.BitLen() >= 2048 {
			return "RS256", nil
		}
		return "", fmt.Errorf("an RSA key of %d bits is too short; use 2048 or more", k.N.BitLen())
	}
	return "", fmt.Errorf("keys of type %T are not supported; use ECDSA on P-256 or RSA", key)
}

// Algorithm is ES256 or RS256, the value of OPA's --signing-alg.
func (k *SigningKey) Algorithm() string { return k.algorithm }

// claims are the payload of OPA's .signatures.json.
type claims struct {
	Files     []bundle.FileInfo `json:"files"`
	KeyID     string            `json:"keyid,omitempty"`
	ExpiresAt int64             `json:"exp,omitempty"`
}

// Sign adds OPA's .signatures.json to a bundle, in place of one that is there,
// and leaves the other files as they are. Equal bundles give equal bytes.
func (k *SigningKey) Sign(text []byte) ([]byte, error) {
	var files []file
	err := eachFile(text, MaxBundle, func(name string, content []byte) error {
		if !bundle.IsSignaturesFile(name) {
			files = append(files, file{name, content})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("signing the bundle: %w", err)
	}
	return k.archive(files)
}

// archive packs files with their signature; a nil key makes none.
func (k *SigningKey) archive(files []file) ([]byte, error) {
	if k == nil {
		return archive(files)
	}
	id := k.ID
	if id == "" {
		id = DefaultKeyID
	}
	payload := claims{KeyID: id, Files: []bundle.FileInfo{}}
	if !k.NotAfter.IsZero() {
		payload.ExpiresAt = k.NotAfter.Unix()
	}
	for _, f := range files {
		sum, err := f.hash()
		if err != nil {
			return nil, fmt.Errorf("signing the bundle: %w", err)
		}
		payload.Files = append(payload.Files, bundle.NewFile(strings.TrimPrefix(f.name, "/"), hex.EncodeToString(sum), bundle.SHA256.String()))
	}
	token, err := k.token(id, payload)
	if err != nil {
		return nil, fmt.Errorf("signing the bundle: %w", err)
	}
	signatures, err := json.Marshal(bundle.SignaturesConfig{Signatures: []string{token}})
	if err != nil {
		return nil, fmt.Errorf("signing the bundle: %w", err)
	}
	return archive(append(files, file{"/" + signaturesFile, signatures}))
}

// token is the JWT of the claims. OPA's own signer draws a nonce for ECDSA; the
// nonce of RFC 6979 makes replicas agree on the bytes of a bundle, and so on its
// ETag.
func (k *SigningKey) token(id string, payload claims) (string, error) {
	header, err := json.Marshal(map[string]string{"alg": k.algorithm, "kid": id, "typ": "JWT"})
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(payload)
	if err != nil {
		return "", err
	}
	encode := base64.RawURLEncoding.EncodeToString
	text := encode(header) + "." + encode(body)
	digest := sha256.Sum256([]byte(text))
	signature, err := k.key.Sign(nil, digest[:], crypto.SHA256) // no randomness: RFC 6979, or PKCS #1 v1.5
	if err != nil {
		return "", err
	}
	if k.algorithm == "ES256" {
		var point struct{ R, S *big.Int }
		if _, err := asn1.Unmarshal(signature, &point); err != nil {
			return "", err
		}
		signature = make([]byte, 64)
		point.R.FillBytes(signature[:32])
		point.S.FillBytes(signature[32:])
	}
	return text + "." + encode(signature), nil
}

// VerificationKey verifies bundles. It may be used concurrently.
type VerificationKey struct {
	config bundle.KeyConfig
}

// ParseVerificationKey reads a public key or a certificate in PEM, of the kinds
// of [ParseSigningKey].
func ParseVerificationKey(text []byte) (*VerificationKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("is no public key in PEM")
	}
	var key crypto.PublicKey
	var err error
	switch block.Type {
	case "PUBLIC KEY":
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		key, err = x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		var c *x509.Certificate
		if c, err = x509.ParseCertificate(block.Bytes); err == nil {
			key = c.PublicKey
		}
	default:
		return nil, fmt.Errorf("is %s, not a public key", strings.ToLower(block.Type))
	}
	if err != nil {
		return nil, fmt.Errorf("is no public key: %w", err)
	}
	algorithm, err := algorithmOf(key)
	if err != nil {
		return nil, err
	}
	return &VerificationKey{config: bundle.KeyConfig{Key: string(text), Algorithm: algorithm}}, nil
}

// Algorithm is ES256 or RS256, the value of OPA's --signing-alg.
func (k *VerificationKey) Algorithm() string { return k.config.Algorithm }

// verification is OPA's configuration to verify with this key whatever name the
// signature gives it.
func (k *VerificationKey) verification() *bundle.VerificationConfig {
	return bundle.NewVerificationConfig(map[string]*bundle.KeyConfig{DefaultKeyID: &k.config}, DefaultKeyID, "", nil)
}

// SignatureError is why the signature of a bundle does not hold: a reason, or
// the files that differ from what was signed.
type SignatureError struct {
	Reason                  string
	Changed, Added, Removed []string
}

func (e *SignatureError) Error() string {
	reasons := make([]string, 0, 4)
	if e.Reason != "" {
		reasons = append(reasons, e.Reason)
	}
	for _, d := range []struct {
		what  string
		files []string
	}{{"changed", e.Changed}, {"added", e.Added}, {"removed", e.Removed}} {
		if len(d.files) > 0 {
			reasons = append(reasons, d.what+" since it was signed: "+strings.Join(d.files, ", "))
		}
	}
	return "the signature does not hold: " + strings.Join(reasons, "; ")
}
