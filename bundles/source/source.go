// Package source is where policies come from: a folder that is watched, or, in
// package gitrepo, a git repository that is polled. A state with faults is reported with them, and
// the receiver keeps what it had.
package source

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"io/fs"
	"log/slog"

	"github.com/assay-dev/assay/policies"
)

// Update is one state of a source.
type Update struct {
	// Set is validated and compiles; it is nil when Err is not.
	Set *policies.Set
	// Revision is the commit, or the SHA-256 of the files; "" when nothing
	// could be read.
	Revision string
	// Err is [policies.Diagnostics] when the fault is in the files.
	Err error
}

// Source gives each state of the policies, beginning with the present one.
// Equal states in a row are given once. Run calls emit from one goroutine and
// returns when the context ends (nil), or when it can never work.
type Source interface {
	Run(ctx context.Context, emit func(Update)) error
}

// Load validates the policies of a file system and compiles them for proof. What the options
// leave out is logged; log may be nil.
func Load(fsys fs.FS, o policies.Options, log *slog.Logger) (*policies.Set, error) {
	set, err := o.Load(fsys)
	if err != nil {
		return nil, err
	}
	for _, f := range set.Foreign {
		if log == nil {
			break
		}
		log.Warn("an object of another tool is left out", "object", f.String())
	}
	if _, err := set.Compile(); err != nil {
		return nil, err
	}
	return set, nil
}

// Changes leaves out updates that say what the last one said.
func Changes(emit func(Update)) func(Update) {
	var last *Update
	text := func(err error) string {
		if err == nil {
			return ""
		}
		return err.Error()
	}
	return func(u Update) {
		if last != nil && last.Revision == u.Revision && text(last.Err) == text(u.Err) {
			return
		}
		last = &u
		emit(u)
	}
}

// hashing is a file system that computes a revision of what is read from it.
type hashing struct {
	fs.FS
	sum hash.Hash
}

func newHashing(fsys fs.FS) hashing { return hashing{fsys, sha256.New()} }

// revision is that of all files read up to now, in their order.
func (h hashing) revision() string { return "sha256:" + hex.EncodeToString(h.sum.Sum(nil)) }

// Stat does not open the file, which could be a pipe.
func (h hashing) Stat(name string) (fs.FileInfo, error) { return fs.Stat(h.FS, name) }

// ReadDir keeps directories out of the sum.
func (h hashing) ReadDir(name string) ([]fs.DirEntry, error) { return fs.ReadDir(h.FS, name) }

func (h hashing) Open(name string) (fs.File, error) {
	f, err := h.FS.Open(name)
	if err != nil {
		return nil, err
	}
	h.part([]byte(name))
	return &hashedFile{File: f, content: sha256.New(), done: h.part}, nil
}

// part adds bytes and their number, so that no two lists of parts sum up equal.
func (h hashing) part(b []byte) {
	_ = binary.Write(h.sum, binary.BigEndian, uint64(len(b)))
	h.sum.Write(b)
}

type hashedFile struct {
	fs.File
	content hash.Hash
	done    func([]byte)
}

func (f *hashedFile) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	f.content.Write(p[:n])
	return n, err
}

func (f *hashedFile) Close() error {
	f.done(f.content.Sum(nil))
	return f.File.Close()
}
