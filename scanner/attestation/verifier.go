package attestation

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"time"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/assay-dev/assay/api"
)

// Log says for which signatures an entry of a transparency log is required.
type Log string

// Requirements of a log entry.
const (
	// LogKeyless asks for an entry where an identity signed, whose certificate is valid for minutes only.
	LogKeyless Log = "keyless"
	// LogAlways asks for an entry of signatures by keys too.
	LogAlways Log = "always"
	// LogNever is content with the signed time stamp of an authority of the root.
	LogNever Log = "never"
)

// Config says who is trusted. A zero Config trusts nobody.
type Config struct {
	// Required refuses an image that has no SBOM of a trusted signer; else one is made of it.
	Required bool
	// KeyFiles hold public keys in PEM: ECDSA, RSA or Ed25519; each may hold several.
	KeyFiles []string
	// Identities are the subjects of certificates, such as an e-mail address or the URL
	// of a workflow. IdentityPattern is a regular expression that matches one as a whole.
	Identities      []string
	IdentityPattern string
	// Issuer is the OpenID Connect issuer that vouches for the identities, or
	// IssuerPattern is a regular expression that matches it as a whole.
	Issuer, IssuerPattern string
	// RootFile is a Sigstore trusted_root.json: authorities and logs.
	RootFile string
	// Log is LogKeyless where it is empty.
	Log Log

	// MaxBytes bounds one attestation. Absent: 64 MiB.
	MaxBytes int64
	// Timeout bounds the search for one image. Absent: a minute.
	Timeout time.Duration
}

// Set says that anybody is trusted, or that somebody must be.
func (c Config) Set() bool {
	return c.Required || len(c.KeyFiles)+len(c.Identities) > 0 || c.IdentityPattern != ""
}

const (
	defaultMaxBytes = 64 << 20
	defaultTimeout  = time.Minute
	maxKeyFile      = 1 << 20
	maxRootFile     = 16 << 20
	maxKeys         = 100
)

// Verifier knows who is trusted. It is safe for concurrent use.
type Verifier struct {
	config   Config
	required bool
	maxBytes int64
	timeout  time.Duration
	signers  []trusted
}

// trusted is one key or set of identities, as Sigstore verifies it.
type trusted struct {
	verifier *verify.Verifier
	policy   verify.PolicyOption
	key      string // its id, or empty
	logged   bool
}

// New reads the files of c. Errors are about them, or about what c asks for; all at once.
func New(c Config) (*Verifier, error) {
	v := &Verifier{config: c, required: c.Required, maxBytes: c.MaxBytes, timeout: c.Timeout}
	if v.maxBytes <= 0 {
		v.maxBytes = defaultMaxBytes
	}
	if v.timeout <= 0 {
		v.timeout = defaultTimeout
	}
	var errs []error
	keyless := len(c.Identities) > 0 || c.IdentityPattern != ""
	switch c.Log {
	case "":
		c.Log = LogKeyless
	case LogKeyless, LogAlways, LogNever:
	default:
		errs = append(errs, fmt.Errorf("the requirement of a log entry must be keyless, always or never, not %.40q", c.Log))
	}
	if len(c.KeyFiles) == 0 && !keyless {
		errs = append(errs, errors.New("nobody is trusted to sign attestations: give a public key, or an identity with its issuer and a trusted root"))
	}
	if keyless && c.Issuer == "" && c.IssuerPattern == "" {
		errs = append(errs, errors.New("an identity needs its issuer: anybody can have any name at an issuer of their own"))
	}
	if !keyless && (c.Issuer != "" || c.IssuerPattern != "") {
		errs = append(errs, errors.New("an issuer needs an identity: all who have an account there are not meant"))
	}
	var material root.TrustedMaterial = &root.BaseTrustedMaterial{}
	if c.RootFile != "" {
		if read, err := readRoot(c.RootFile); err != nil {
			errs = append(errs, err)
		} else {
			material = read
		}
	} else if keyless || c.Log == LogAlways {
		errs = append(errs, errors.New("identities and log entries are verified with a trusted root: give the file trusted_root.json of your Sigstore"))
	}
	for _, path := range c.KeyFiles {
		keys, err := readKeys(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, key := range keys {
			list, err := trustKey(key, material, c.Log == LogAlways)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", path, err))
			}
			v.signers = append(v.signers, list...)
		}
	}
	if keyless && len(errs) == 0 {
		t, err := trustIdentities(c, material)
		if err != nil {
			errs = append(errs, err)
		}
		v.signers = append(v.signers, t)
	}
	return v, errors.Join(errs...)
}

// Config is what the verifier was made of.
func (v *Verifier) Config() Config { return v.config }

// Required says that an image without an SBOM of a trusted signer is refused.
func (v *Verifier) Required() bool { return v.required }

func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return text, nil
}

func readRoot(path string) (*root.TrustedRoot, error) {
	text, err := readFile(path, maxRootFile)
	if err != nil {
		return nil, err
	}
	material, err := root.NewTrustedRootFromJSON(text)
	if err != nil {
		return nil, fmt.Errorf("%s is no trusted root of Sigstore: %w", path, err)
	}
	return material, nil
}

// readKeys reads the public keys of a PEM file.
func readKeys(path string) ([]crypto.PublicKey, error) {
	text, err := readFile(path, maxKeyFile)
	if err != nil {
		return nil, err
	}
	var keys []crypto.PublicKey
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		text = rest
		var key any
		switch block.Type {
		case "PUBLIC KEY":
			key, err = x509.ParsePKIXPublicKey(block.Bytes)
		case "RSA PUBLIC KEY":
			key, err = x509.ParsePKCS1PublicKey(block.Bytes)
		case "CERTIFICATE":
			err = errors.New("a certificate is no key: its validity and its issuer would not count")
		default:
			// A private key has no place here, and its contents none in a message.
			err = fmt.Errorf("it holds a %.60s, and not a PUBLIC KEY", block.Type)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if len(keys) == maxKeys {
			return nil, fmt.Errorf("%s holds more than %d keys", path, maxKeys)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s holds no public key in PEM", path)
	}
	return keys, nil
}

// trustKey gives a signer for each hash that is in use with the key: cosign signs with
// SHA-256 whatever the curve is, others with the hash of the curve's size.
func trustKey(key crypto.PublicKey, material root.TrustedMaterial, log bool) ([]trusted, error) {
	hashes := []crypto.Hash{crypto.SHA256}
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P384():
			hashes = append(hashes, crypto.SHA384)
		case elliptic.P521():
			hashes = append(hashes, crypto.SHA512)
		}
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return nil, fmt.Errorf("an RSA key of %d bits is too weak: 2048 are needed", k.N.BitLen())
		}
	case ed25519.PublicKey:
	default:
		return nil, fmt.Errorf("keys of the type %T are not known: ECDSA, RSA and Ed25519 are", key)
	}
	id, err := keyID(key)
	if err != nil {
		return nil, err
	}
	options := []verify.VerifierOption{verify.WithNoObserverTimestamps(), verify.WithoutStatementPredicate()}
	if log {
		options = []verify.VerifierOption{verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1), verify.WithoutStatementPredicate()}
	}
	var list []trusted
	for _, h := range hashes {
		one, err := signature.LoadVerifier(key, h)
		if err != nil {
			return nil, err
		}
		held := root.NewExpiringKey(one, time.Time{}, time.Time{})
		// The hint of a bundle names a key as its signer pleases: it is not asked.
		own := root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) { return held, nil })
		v, err := verify.NewVerifier(root.TrustedMaterialCollection{own, material}, options...)
		if err != nil {
			return nil, err
		}
		list = append(list, trusted{verifier: v, policy: verify.WithKey(), key: id, logged: log})
	}
	return list, nil
}

// keyID is the SHA-256 of a key in DER, which names it in the record of a scan.
func keyID(key crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// whole makes a pattern match a text from its beginning to its end.
func whole(pattern string) (string, error) {
	if pattern == "" {
		return "", nil
	}
	if _, err := regexp.Compile(pattern); err != nil {
		return "", fmt.Errorf("the pattern %q: %w", pattern, err)
	}
	return `\A(?:` + pattern + `)\z`, nil
}

func trustIdentities(c Config, material root.TrustedMaterial) (trusted, error) {
	issuers, err := whole(c.IssuerPattern)
	if err != nil {
		return trusted{}, err
	}
	pattern, err := whole(c.IdentityPattern)
	if err != nil {
		return trusted{}, err
	}
	var wanted []verify.CertificateIdentity
	add := func(identity, pattern string) error {
		one, err := verify.NewShortCertificateIdentity(c.Issuer, issuers, identity, pattern)
		wanted = append(wanted, one)
		return err
	}
	for _, identity := range c.Identities {
		if err := add(identity, ""); err != nil {
			return trusted{}, err
		}
	}
	if pattern != "" {
		if err := add("", pattern); err != nil {
			return trusted{}, err
		}
	}
	options := []verify.VerifierOption{verify.WithoutStatementPredicate()}
	if c.Log == LogNever {
		options = append(options, verify.WithSignedTimestamps(1))
	} else {
		options = append(options, verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1))
	}
	// A Sigstore of one's own may have no certificate log; one that has it uses it.
	if len(material.CTLogs()) > 0 {
		options = append(options, verify.WithSignedCertificateTimestamps(1))
	}
	v, err := verify.NewVerifier(material, options...)
	if err != nil {
		return trusted{}, err
	}
	return trusted{verifier: v, logged: c.Log != LogNever, policy: func(p *verify.PolicyConfig) error {
		for _, w := range wanted {
			if err := verify.WithCertificateIdentity(w)(p); err != nil {
				return err
			}
		}
		return nil
	}}, nil
}

// signer is who signed, and when a log or an authority saw it.
type signer struct {
	api.Signer
	at time.Time // zero where nothing tells
}

// signed finds the trusted signer of a bundle; message is what was signed, or nil for an
// envelope, which holds it itself.
func (v *Verifier) signed(b *bundleFile, message []byte) (signer, error) {
	var errs []error
	content, err := b.verificationContent()
	if err != nil {
		return signer{}, err
	}
	byKey := content.Certificate() == nil
	for _, t := range v.signers {
		if byKey != (t.key != "") {
			continue
		}
		entity, err := b.bundle(t.logged || !byKey)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		artifact := verify.WithoutArtifactUnsafe() // the subject is compared once the statement is read
		if message != nil {
			artifact = verify.WithArtifact(bytes.NewReader(message))
		}
		result, err := t.verifier.Verify(entity, verify.NewPolicy(artifact, t.policy))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s := signer{Signer: api.Signer{Key: t.key}}
		if c := result.Signature; c != nil && c.Certificate != nil {
			s.Identity, s.Issuer = c.Certificate.SubjectAlternativeName, c.Certificate.Issuer
		}
		for _, seen := range result.VerifiedTimestamps {
			if s.at.IsZero() || seen.Timestamp.Before(s.at) {
				s.at = seen.Timestamp.UTC()
			}
		}
		return s, nil
	}
	switch {
	case len(errs) == 1:
		return signer{}, errs[0]
	case len(errs) > 1:
		return signer{}, fmt.Errorf("none of the trusted keys made the signature: %w", errs[0])
	case byKey:
		return signer{}, errors.New("it is signed by a key, and no key is trusted")
	}
	return signer{}, errors.New("it is signed by an identity, and none is trusted")
}

var _ verify.SignedEntity = (*bundle.Bundle)(nil)
