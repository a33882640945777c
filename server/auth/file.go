package auth

import (
	"bytes"
	"crypto/x509"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
)

// maxFile bounds a file of tokens or certificates.
const maxFile = 4 << 20

// settled is how long after its modification time a file is taken to be
// whole: until then it is read again, since file systems give equal times to
// changes that follow one another quickly.
const settled = 100 * time.Millisecond

// file is the parsed content of a file that is read again when it changes. It
// looks at each use, so it needs no goroutine, and sees atomic renames and
// swapped links. A file that cannot be read or parsed keeps what was; one that
// is gone counts as empty.
type file[T any] struct {
	path  string
	parse func([]byte) (T, error)
	log   *slog.Logger

	mu      sync.Mutex
	seen    os.FileInfo // nil when there was no file
	settled bool
	value   T
}

// newFile reads a file, which must be there and well-formed at first.
func newFile[T any](path string, parse func([]byte) (T, error), log *slog.Logger) (*file[T], error) {
	f := &file[T]{path: path, parse: parse, log: log}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if err := f.load(info); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *file[T]) get() T {
	info, err := os.Stat(f.path)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case err != nil:
		if f.seen != nil {
			f.log.Error("a file of credentials is gone: it counts as empty until it is back", "file", f.path, "error", err)
		}
		var empty T
		f.seen, f.value = nil, empty
	case f.seen == nil || !f.settled || !os.SameFile(info, f.seen) || info.ModTime() != f.seen.ModTime() || info.Size() != f.seen.Size():
		if err := f.load(info); err != nil {
			f.log.Error("reading a file of credentials: what was read before stays", "file", f.path, "error", err)
		}
	}
	return f.value
}

// load takes what the file has now; info is from before it is read.
func (f *file[T]) load(info os.FileInfo) error {
	f.seen, f.settled = info, time.Since(info.ModTime()) > settled
	r, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return err
	}
	if len(text) > maxFile {
		return fmt.Errorf("%s is larger than %d bytes", f.path, maxFile)
	}
	value, err := f.parse(text)
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	f.value = value
	return nil
}

// parseTokens reads Kubernetes' static token file: CSV lines of token, user
// name, uid and, optional and quoted, comma-separated groups. Its errors name
// lines, and never what is on them.
func parseTokens(text []byte) (map[TokenHash]*user.DefaultInfo, error) {
	users := map[TokenHash]*user.DefaultInfo{}
	reader := csv.NewReader(bytes.NewReader(text))
	reader.FieldsPerRecord = -1
	var errs []error
	for {
		record, err := reader.Read()
		if err == io.EOF {
			return users, errors.Join(errs...)
		}
		if err != nil {
			return nil, errors.Join(append(errs, err)...)
		}
		line, _ := reader.FieldPos(0)
		switch {
		case len(record) < 3 || len(record) > 4:
			errs = append(errs, fmt.Errorf(`line %d: want token,user,uid or token,user,uid,"group1,group2"; found %d columns`, line, len(record)))
			continue
		case record[0] == "" || strings.ContainsAny(record[0], " \t\r\n"):
			errs = append(errs, fmt.Errorf("line %d: the token is empty or has white space", line))
			continue
		case record[1] == "":
			errs = append(errs, fmt.Errorf("line %d: the user name is empty", line))
			continue
		case users[Hash(record[0])] != nil:
			errs = append(errs, fmt.Errorf("line %d: the token is on an earlier line too", line))
			continue
		}
		u := &user.DefaultInfo{Name: record[1], UID: record[2]}
		if len(record) == 4 && record[3] != "" {
			u.Groups = strings.Split(record[3], ",")
		}
		users[Hash(record[0])] = u
	}
}

// parseCertificates reads a bundle of PEM certificates.
func parseCertificates(text []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, errors.New("no certificate in PEM form found")
	}
	return pool, nil
}
