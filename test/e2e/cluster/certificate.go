package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/util/keyutil"
)

// A Certificate is what a server of a test serves with, in files that lie as in a mounted Secret.
type Certificate struct {
	CertFile, KeyFile string
	CA                []byte // PEM, for a caBundle

	dir       string
	hosts     []string
	authority *authority
	rotations int
}

// NewCertificate makes a certificate for names and IP addresses, from an authority of its own.
func NewCertificate(tb testing.TB, hosts ...string) *Certificate {
	tb.Helper()
	authority, err := newAuthority("serving")
	if err != nil {
		tb.Fatal(err)
	}
	dir := tb.TempDir()
	c := &Certificate{
		CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key"), CA: authority.pem(),
		dir: dir, hosts: hosts, authority: authority,
	}
	c.Rotate(tb)
	for _, path := range []string{c.CertFile, c.KeyFile} {
		if err := os.Symlink(filepath.Join("..data", filepath.Base(path)), path); err != nil {
			tb.Fatal(err)
		}
	}
	return c
}

// Rotate puts a new key and certificate of the same authority in the place of the old, both in one
// step, as the kubelet does with a Secret: by renaming the link ..data.
func (c *Certificate) Rotate(tb testing.TB) {
	tb.Helper()
	cert, key, err := c.authority.issue(pkix.Name{CommonName: "server"}, c.hosts...)
	if err != nil {
		tb.Fatal(err)
	}
	c.rotations++
	version := fmt.Sprintf("..%d", c.rotations)
	link := filepath.Join(c.dir, "..data_tmp")
	if err := errors.Join(
		os.Mkdir(filepath.Join(c.dir, version), 0o700),
		os.WriteFile(filepath.Join(c.dir, version, "tls.crt"), cert, 0o600),
		os.WriteFile(filepath.Join(c.dir, version, "tls.key"), key, 0o600),
		os.Symlink(version, link),
		os.Rename(link, filepath.Join(c.dir, "..data")),
	); err != nil {
		tb.Fatal(err)
	}
}

// An authority signs certificates that are good for a day.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newAuthority(name string) (*authority, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name + " authority"},
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	cert, err := sign(template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &authority{cert: cert, key: key}, nil
}

// issue makes a certificate, and its key, for a server at hosts, or for a client if there are none.
func (a *authority) issue(subject pkix.Name, hosts ...string) (certPEM, keyPEM []byte, err error) {
	key, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		Subject:     subject,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, host := range hosts {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	cert, err := sign(template, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	keyPEM, err = keyutil.MarshalPrivateKeyToPEM(key)
	return encodeCertificate(cert), keyPEM, err
}

func (a *authority) pem() []byte { return encodeCertificate(a.cert) }

func sign(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	now := time.Now()
	template.NotBefore, template.NotAfter = now.Add(-time.Minute), now.Add(24*time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate of %s: %w", template.Subject, err)
	}
	return x509.ParseCertificate(der)
}

func newKey() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func encodeCertificate(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}
