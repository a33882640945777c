package bundles

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/util"
)

// MaxBundle bounds a bundle that is read, in bytes.
const MaxBundle = 2 << 30

// Pack makes the bytes of a bundle, a gzipped tar, and signs it; a nil key leaves
// it unsigned. Equal bundles and keys give equal bytes. The data may hold texts
// that are JSON already as json.RawMessage.
func Pack(b *bundle.Bundle, key *SigningKey) ([]byte, error) {
	files, err := filesOf(b)
	if err != nil {
		return nil, fmt.Errorf("packing the bundle: %w", err)
	}
	return key.archive(files)
}

// Bytes is [Pack] without a key.
func Bytes(b *bundle.Bundle) ([]byte, error) { return Pack(b, nil) }

// Read unpacks a bundle of at most [MaxBundle] bytes.
func Read(r io.Reader) (*bundle.Bundle, error) {
	b, err := bundle.NewCustomReader(bundle.NewTarballLoaderWithBaseURL(r, "")).
		WithSizeLimitBytes(MaxBundle).WithProcessAnnotations(true).WithRegoVersion(ast.RegoV1).Read()
	if err != nil {
		return nil, fmt.Errorf("reading the bundle: %w", err)
	}
	return &b, nil
}

// file is one of a bundle, by its name in the tar.
type file struct {
	name    string
	content []byte
}

// filesOf are the data, the modules and the manifest, in OPA's order.
func filesOf(b *bundle.Bundle) ([]file, error) {
	data, err := canonical(nil, b.Data)
	if err != nil {
		return nil, err
	}
	files := []file{{"/data.json", data}}
	for _, m := range b.Modules {
		files = append(files, file{"/" + strings.TrimPrefix(m.URL, "/"), m.Raw})
	}
	manifest, err := canonical(nil, b.Manifest)
	if err != nil {
		return nil, err
	}
	return append(files, file{"/" + bundle.ManifestExt, manifest}), nil
}

// hash is the digest of a file in a signature: that of its canonical form where it
// is data or the manifest. What [Pack] writes has this form.
func (f file) hash() ([]byte, error) {
	content := f.content
	if bundle.IsStructuredDoc(f.name) && !isCanonical(content) {
		var value any
		if err := util.Unmarshal(content, &value); err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
		var err error
		if content, err = canonical(nil, value); err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	sum := sha256.Sum256(content)
	return sum[:], nil
}

// level is that of gzip. On bundles of images 3 is the fastest but for 1 and 2, and
// smaller than all up to 6.
const level = 3

func archive(files []file) ([]byte, error) {
	var packed bytes.Buffer
	zip, err := gzip.NewWriterLevel(&packed, level)
	if err != nil {
		return nil, err
	}
	out := tar.NewWriter(zip)
	for _, f := range files {
		header := &tar.Header{Name: f.name, Mode: 0o600, Typeflag: tar.TypeReg, Size: int64(len(f.content))}
		if err := out.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("packing the bundle: %w", err)
		}
		if _, err := out.Write(f.content); err != nil {
			return nil, fmt.Errorf("packing the bundle: %w", err)
		}
	}
	if err := errors.Join(out.Close(), zip.Close()); err != nil {
		return nil, fmt.Errorf("packing the bundle: %w", err)
	}
	return packed.Bytes(), nil
}

// eachFile reads the regular files of a bundle, as many bytes as the limit at most.
func eachFile(text []byte, limit int64, do func(name string, content []byte) error) error {
	zip, err := gzip.NewReader(bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("is no bundle: %w", err)
	}
	limited := &io.LimitedReader{R: zip, N: limit + 1}
	for in := tar.NewReader(limited); ; {
		header, err := in.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("is no bundle: %w", err)
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		content, err := io.ReadAll(in)
		if limited.N <= 0 {
			return fmt.Errorf("has more than %d bytes", limit)
		}
		if err != nil {
			return fmt.Errorf("is no bundle: %w", err)
		}
		if err := do(header.Name, content); err != nil {
			return err
		}
	}
}
