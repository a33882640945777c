package certificate

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

// A certificate behind links is that which they lead to now, and half a pair changes nothing.
func TestCertificate(t *testing.T) {
	dir := t.TempDir()
	var certs [2][]byte
	for n := range certs {
		cert, key, err := certutil.GenerateSelfSignedCertKey("localhost", nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		certs[n] = cert
		if err := errors.Join(certutil.WriteCert(filepath.Join(dir, fmt.Sprint(n), "tls.crt"), cert), keyutil.WriteKey(filepath.Join(dir, fmt.Sprint(n), "tls.key"), key)); err != nil {
			t.Fatal(err)
		}
	}
	link := func(name string, n int) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.Symlink(filepath.Join(fmt.Sprint(n), name), path+".new"), os.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
	}
	link("tls.crt", 0)
	link("tls.key", 0)
	files, err := NewFiles("test", filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		link string
		n    int
		want []byte
	}{{"tls.crt", 0, certs[0]}, {"tls.crt", 1, certs[0]}, {"tls.key", 1, certs[1]}} {
		link(x.link, x.n)
		if got, _ := files.CurrentCertKeyContent(); !bytes.Equal(got, x.want) {
			t.Errorf("after %s led to %d: another certificate", x.link, x.n)
		}
	}
}
