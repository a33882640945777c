package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// alone holds a SQLite file, by another one beside it, against a second server until it is released,
// or the process ends, however that comes: SQLite keeps a file whole, but what one server holds
// back, schedules and counts, a second one on its file would do again. Whatever link leads to the file, it is held by its own name.
func alone(database string) (release func(), err error) {
	if err := os.MkdirAll(filepath.Dir(database), 0o700); err != nil {
		return nil, fmt.Errorf("locking the database: %w", err)
	}
	if real, err := filepath.EvalSymlinks(database); err == nil {
		database = real
	}
	path := database + ".lock"
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the database: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("another server has the database %s (it holds %s): end that one, give this one a folder of its own by --data, or run replicas on PostgreSQL by --database", database, path)
	}
	return func() { _ = f.Close() }, nil
}
