package certificate

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Keys of the Secret beside those of a kubernetes.io/tls one.
const (
	dataAuthorities  = "ca.crt"
	dataAuthorityKey = "ca.key"
)

const (
	// maxPart bounds a part of the Secret, in bytes; a certificate has 600.
	maxPart = 64 << 10
	// maxAuthorities bounds those that overlap: two, unless someone keeps deleting the Secret.
	maxAuthorities = 8
	// skew is by how much clocks may differ: certificates begin earlier than they are made.
	skew = time.Hour
)

// content is what the Secret holds, as far as it is sound: pair and authorityKey are
// nil, authorities none, where it is not.
type content struct {
	authorities      []*x509.Certificate // the newest first
	authorityKey     *ecdsa.PrivateKey   // of the newest
	authorityKeyPEM  []byte
	certificate, key []byte // in PEM
	pair             *tls.Certificate
}

// parse reads what is sound, and names the parts that are not. A fault never quotes what it is about.
func parse(data map[string][]byte) (c content, faults []string) {
	part := func(name string, read func(text []byte) bool) {
		if text := data[name]; len(text) == 0 || len(text) > maxPart || !read(text) {
			faults = append(faults, name)
		}
	}
	part(dataAuthorities, func(text []byte) bool {
		c.authorities = parseAuthorities(text)
		return len(c.authorities) > 0
	})
	part(dataAuthorityKey, func(text []byte) bool {
		block, _ := pem.Decode(text)
		if block == nil || len(c.authorities) == 0 {
			return false
		}
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		key, ok := parsed.(*ecdsa.PrivateKey)
		if err != nil || !ok || !key.PublicKey.Equal(c.authorities[0].PublicKey) {
			return false
		}
		c.authorityKey, c.authorityKeyPEM = key, text
		return true
	})
	part(corev1.TLSCertKey, func(certificate []byte) bool {
		key := data[corev1.TLSPrivateKeyKey]
		if len(key) > maxPart {
			return false
		}
		pair, err := tls.X509KeyPair(certificate, key)
		if err != nil {
			return false
		}
		c.certificate, c.key, c.pair = certificate, key, &pair
		return true
	})
	return c, faults
}

// parseAuthorities gives none if one of them is damaged.
func parseAuthorities(text []byte) (list []*x509.Certificate) {
	for len(bytes.TrimSpace(text)) > 0 {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil || block.Type != "CERTIFICATE" {
			return nil
		}
		ca, err := x509.ParseCertificate(block.Bytes)
		if err != nil || !ca.IsCA {
			return nil
		}
		list = append(list, ca)
	}
	return list
}

func (c *content) bundle() []byte {
	var out []byte
	for _, ca := range c.authorities {
		out = append(out, encode("CERTIFICATE", ca.Raw)...)
	}
	return out
}

func (c *content) data() map[string][]byte {
	return map[string][]byte{
		dataAuthorities: c.bundle(), dataAuthorityKey: c.authorityKeyPEM,
		corev1.TLSCertKey: c.certificate, corev1.TLSPrivateKeyKey: c.key,
	}
}

// renew replaces what is not there or due, and says what it made.
func (i *Issuer) renew(c *content) (made []string, err error) {
	now := i.now()
	i.recall(c)
	c.retire(now, cmp.Or(i.Lifetime, DefaultLifetime))
	if len(c.authorities) == 0 || c.authorityKey == nil || due(c.authorities[0], now) {
		if err := c.newAuthority(now, cmp.Or(i.AuthorityLifetime, DefaultAuthorityLifetime)); err != nil {
			return nil, fmt.Errorf("making an authority: %w", err)
		}
		made = append(made, "a new authority for serving certificates is made")
	}
	if c.serves(i.Names, now) {
		newest := c.pair.Leaf.CheckSignatureFrom(c.authorities[0]) == nil
		if newest && !due(c.pair.Leaf, now) || !newest && !i.settled(c.bundle()) {
			return made, nil
		}
	}
	if err := c.newCertificate(i.Names, now, cmp.Or(i.Lifetime, DefaultLifetime)); err != nil {
		return nil, fmt.Errorf("making a serving certificate: %w", err)
	}
	return append(made, "a new serving certificate is made"), nil
}

// recall puts what this replica serves in the place of what the Secret lost, and goes on
// trusting what others may still serve. The authority's key is not remembered: it is made anew.
func (i *Issuer) recall(c *content) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	if len(c.authorities) == 0 {
		c.authorities = slices.Clone(i.current.authorities)
	}
	if c.pair == nil {
		c.pair, c.certificate, c.key = i.current.pair, i.current.certificate, i.current.key
	}
}

// retire leaves out authorities that ended, and those whose certificates have: none was
// signed any more from when the next authority was made.
func (c *content) retire(now time.Time, lifetime time.Duration) {
	var kept []*x509.Certificate
	for n, ca := range c.authorities {
		gone := n > 0 && now.After(c.authorities[n-1].NotBefore.Add(skew+lifetime)) && (c.pair == nil || c.pair.Leaf.CheckSignatureFrom(ca) != nil)
		if !gone && !now.After(ca.NotAfter) && len(kept) < maxAuthorities {
			kept = append(kept, ca)
		}
	}
	if len(kept) == 0 || kept[0] != c.authorities[0] {
		c.authorityKey, c.authorityKeyPEM = nil, nil
	}
	c.authorities = kept
}

// serves says that the serving certificate is good for the names.
func (c *content) serves(names []string, now time.Time) bool {
	if c.pair == nil {
		return false
	}
	trusted := x509.NewCertPool()
	for _, ca := range c.authorities {
		trusted.AddCert(ca)
	}
	for _, name := range names {
		if _, err := c.pair.Leaf.Verify(x509.VerifyOptions{Roots: trusted, DNSName: name, CurrentTime: now}); err != nil {
			return false
		}
	}
	return true
}

// due says that two thirds of a certificate's life are over.
func due(c *x509.Certificate, now time.Time) bool {
	return !now.Before(c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 3 * 2))
}

func (c *content) newAuthority(now time.Time, lifetime time.Duration) error {
	template, err := newTemplate("assay-webhook-ca", now, now.Add(lifetime))
	if err != nil {
		return err
	}
	template.IsCA, template.BasicConstraintsValid, template.MaxPathLenZero = true, true, true
	template.KeyUsage = x509.KeyUsageCertSign
	raw, key, keyPEM, err := sign(template, template, nil)
	if err != nil {
		return err
	}
	ca, err := x509.ParseCertificate(raw)
	if err != nil {
		return err
	}
	c.authorities = append([]*x509.Certificate{ca}, c.authorities...)
	c.authorityKey, c.authorityKeyPEM = key, keyPEM
	return nil
}

func (c *content) newCertificate(names []string, now time.Time, lifetime time.Duration) error {
	ca := c.authorities[0]
	end := now.Add(lifetime)
	if end.After(ca.NotAfter) {
		end = ca.NotAfter
	}
	template, err := newTemplate("assay-webhook", now, end)
	if err != nil {
		return err
	}
	template.DNSNames = names
	template.KeyUsage, template.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	raw, _, key, err := sign(template, ca, c.authorityKey)
	if err != nil {
		return err
	}
	certificate := encode("CERTIFICATE", raw)
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return err
	}
	c.certificate, c.key, c.pair = certificate, key, &pair
	return nil
}

func newTemplate(name string, now, end time.Time) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	return &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-skew), NotAfter: end}, err
}

// sign makes a key and its certificate, which signs itself where no other key is given.
func sign(template, parent *x509.Certificate, by *ecdsa.PrivateKey) (raw []byte, key *ecdsa.PrivateKey, keyPEM []byte, err error) {
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, nil, nil, err
	}
	if by == nil {
		by = key
	}
	if raw, err = x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by); err != nil {
		return nil, nil, nil, err
	}
	text, err := x509.MarshalPKCS8PrivateKey(key)
	return raw, key, encode("PRIVATE KEY", text), err
}

func encode(kind string, raw []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: raw})
}
