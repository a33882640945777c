package source

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/assay-dev/assay/policies"
)

// Folder is a folder of policies on disk, such as a mounted ConfigMap. Any
// change is followed by a load of the whole folder.
type Folder struct {
	Path    string
	Options policies.Options
	Log     *slog.Logger
}

// Run implements [Source].
func (f Folder) Run(ctx context.Context, emit func(Update)) error {
	emit = Changes(emit)
	return Watch(ctx, f.Log, []string{f.Path}, func() { emit(f.load()) })
}

func (f Folder) load() Update {
	info, err := os.Stat(f.Path)
	if err != nil {
		return Update{Err: fmt.Errorf("reading policies: %w", err)}
	}
	if !info.IsDir() {
		return Update{Err: fmt.Errorf("reading policies: %s is no folder", f.Path)}
	}
	files := newHashing(os.DirFS(f.Path))
	set, err := Load(files, f.Options, f.Log)
	return Update{Set: set, Revision: files.revision(), Err: err}
}
