package follow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/assay-dev/assay/bundles"
)

// In the folder are seenFile, headFile, and the parts that this head names, each by its name and digest. A new
// head replaces the file once its parts are there and were loaded, so that whoever is killed has one or the
// other whole.
const (
	seenFile = "seen.json"
	headFile = bundles.PartHead + extension

	extension = ".tar.gz"
	temporary = ".bundle-"
)

// Restore loads what is on disk, whole or not at all; why not is logged. It is called before Run.
func (f *Follower) Restore(ctx context.Context) {
	if f.Persist == "" {
		return
	}
	if err := f.restore(ctx); err != nil {
		f.Log.Warn("not all that is on disk is taken", "error", err)
	}
}

func (f *Follower) restore(ctx context.Context) error {
	before, damaged := f.readSeen()
	if before.View != f.View { // it is followed for the first time
		before = seen{}
	}
	f.seen = before // no one else looks at it yet
	text, err := readFile(filepath.Join(f.Persist, headFile), bundles.MaxHead)
	if errors.Is(err, os.ErrNotExist) {
		return damaged
	}
	if err != nil {
		return err
	}
	head, err := bundles.OpenHead(text, f.Now(), f.Keys...)
	if err != nil {
		return err
	}
	if before.Store != "" && before.Store != head.Store {
		return fmt.Errorf("the head is of the data %q, and %q was followed", head.Store, before.Store)
	}
	if err := f.whole(head); err != nil {
		return fmt.Errorf("the head: %w", err)
	}
	// Where what was seen is lost, it was this head at least.
	f.seen = seen{head.Store, head.View, max(head.Sequence, before.Sequence)}
	return errors.Join(damaged, f.load(ctx, head, text))
}

func (f *Follower) readSeen() (s seen, err error) {
	text, err := readFile(filepath.Join(f.Persist, seenFile), bundles.MaxHead)
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		return seen{}, fmt.Errorf("reading %s: %w", seenFile, err)
	}
	return s, nil
}

// see notes a head as the newest.
func (f *Follower) see(head bundles.Head) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := seen{head.Store, head.View, head.Sequence}
	if next == f.seen {
		return nil
	}
	if f.Persist != "" {
		text, err := json.Marshal(next)
		if err == nil {
			err = replaceFile(filepath.Join(f.Persist, seenFile), text)
		}
		if err != nil {
			return fmt.Errorf("keeping what was seen: %w", err)
		}
	}
	f.seen = next
	return nil
}

func (f *Follower) file(name, digest string) string {
	return filepath.Join(f.Persist, url.PathEscape(name)+"-"+strings.TrimPrefix(digest, "sha256:")+extension)
}

// read gives the bytes of a part that was fetched, if they are those of the digest.
func (f *Follower) read(name, digest string) ([]byte, error) {
	text := f.fetched[digest]
	if f.Persist != "" {
		var err error
		if text, err = readFile(f.file(name, digest), bundles.MaxBundle); err != nil {
			return nil, err
		}
	}
	if bundles.Digest(text) != digest {
		return nil, errors.New("it is damaged: its digest is another")
	}
	return text, nil
}

// write keeps the bytes of a part for read.
func (f *Follower) write(name, digest string, text []byte) error {
	if f.Persist == "" {
		f.fetched[digest] = text
		return nil
	}
	if err := replaceFile(f.file(name, digest), text); err != nil {
		return fmt.Errorf("keeping %s on disk: %w", name, err)
	}
	return nil
}

// keep makes a head that was loaded the one on disk, and removes what it does not name.
func (f *Follower) keep(head bundles.Head, text []byte) error {
	if f.Persist == "" {
		clear(f.fetched)
		return nil
	}
	if err := replaceFile(filepath.Join(f.Persist, headFile), text); err != nil {
		return fmt.Errorf("keeping the head on disk: %w", err)
	}
	return f.tidy(head)
}

// tidy removes parts that none of the heads names.
func (f *Follower) tidy(heads ...bundles.Head) error {
	named := map[string]bool{headFile: true}
	for _, h := range heads {
		for part, digest := range h.Parts {
			named[digest] = true
			named[filepath.Base(f.file(part, digest))] = true
		}
	}
	maps.DeleteFunc(f.fetched, func(digest string, _ []byte) bool { return !named[digest] })
	if f.Persist == "" {
		return nil
	}
	list, err := os.ReadDir(f.Persist)
	for _, e := range list {
		ours := strings.HasSuffix(e.Name(), extension) || strings.HasPrefix(e.Name(), temporary)
		if err == nil && ours && !named[e.Name()] {
			err = os.Remove(filepath.Join(f.Persist, e.Name()))
		}
	}
	if err != nil {
		return fmt.Errorf("tidying the folder of bundles: %w", err)
	}
	return nil
}

// readFile reads a regular file of at most limit bytes.
func readFile(name string, limit int64) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", name, limit)
	}
	return text, err
}

// replaceFile puts a file in the place of another, whole or not at all.
func replaceFile(name string, text []byte) error {
	folder := filepath.Dir(name)
	file, err := os.CreateTemp(folder, temporary+"*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = file.Write(text)
	if err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), name); err != nil {
		return err
	}
	at, err := os.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(at.Sync(), at.Close()) // a head is not to be there before its parts
}
