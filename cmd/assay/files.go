package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// interruptible reads from what may block for ever, a pipe or a terminal, until its
// context ends. What is then read still goes to a buffer of its own.
type interruptible struct {
	ctx    context.Context
	in     io.Reader
	buffer []byte
}

func (r *interruptible) Read(p []byte) (int, error) {
	type result struct {
		n   int
		err error
	}
	if r.buffer == nil {
		r.buffer = make([]byte, 64<<10)
	}
	buffer := r.buffer[:min(len(p), len(r.buffer))]
	done := make(chan result, 1)
	go func() {
		n, err := r.in.Read(buffer)
		done <- result{n, err}
	}()
	select {
	case got := <-done:
		return copy(p, buffer[:got.n]), got.err
	case <-r.ctx.Done():
		r.buffer = nil
		return 0, r.ctx.Err()
	}
}

// open opens a file, or standard input for "-". Reading a pipe or a device ends with
// the command; a folder is none.
func (a *app) open(name string) (io.ReadCloser, error) {
	if name == "-" {
		return io.NopCloser(&interruptible{ctx: a.ctx, in: a.in}), nil
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	switch {
	case info.IsDir():
		return nil, fmt.Errorf("%s is a folder, and a file is wanted", name)
	case info.Mode().IsRegular():
		return os.Open(name)
	}
	type result struct {
		file *os.File
		err  error
	}
	done := make(chan result, 1) // a pipe opens when somebody writes to it
	go func() {
		f, err := os.Open(name)
		done <- result{f, err}
	}()
	select {
	case got := <-done:
		if got.err != nil {
			return nil, got.err
		}
		return struct {
			io.Reader
			io.Closer
		}{&interruptible{ctx: a.ctx, in: got.file}, got.file}, nil
	case <-a.ctx.Done():
		return nil, fmt.Errorf("opening %s: %w", name, a.ctx.Err())
	}
}

// readInput reads a file, or standard input for "-", up to a bound.
func (a *app) readInput(name string, limit int64) ([]byte, error) {
	in, err := a.open(name)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err := errors.Join(err, in.Close()); err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("reading %s: it has more than %d bytes", name, limit)
	}
	return text, nil
}

// maxManifestFiles bounds the files of a folder.
const maxManifestFiles = 100_000

// manifestFiles are the files that a name stands for: itself, or the .yaml, .yml and
// .json files of a folder and those below it, by name. Names that start with a dot are left out.
func manifestFiles(name string) ([]string, error) {
	if info, err := os.Stat(name); name == "-" || err != nil || !info.IsDir() {
		return []string{name}, nil
	}
	var files []string
	err := filepath.WalkDir(name, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path != name && strings.HasPrefix(d.Name(), "."):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir() || !slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(filepath.Ext(path))):
			return nil
		case len(files) == maxManifestFiles:
			return fmt.Errorf("%s has more than %d files", name, maxManifestFiles)
		}
		files = append(files, path)
		return nil
	})
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("%s: there is no .yaml, .yml or .json file in it", name)
	}
	return files, err
}
