package daemon_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-dev/assay/server/daemon"
)

// A SQLite file has one server at a time, by whatever path; one that ended, in whatever way, holds nothing.
func TestOneServerOfAFile(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	database := filepath.Join(folder, "assay.db")
	w := start(t, database, nil)
	link := filepath.Join(t.TempDir(), "link.db")
	if err := os.Symlink(database, link); err != nil {
		t.Fatal(err)
	}
	second := func(path string) error {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return daemon.Run(t.Context(), daemon.Config{Data: t.TempDir(), Database: path, Listener: l, Version: "test"})
	}
	for _, path := range []string{database, link, filepath.Join(folder, "..", filepath.Base(folder), "assay.db")} {
		if err := second(path); err == nil || !strings.Contains(err.Error(), "another server has the database") {
			t.Errorf("%s: %v", path, err)
		}
	}
	w.want(200, "GET", "/api/v1/version", "")
	w.stop()
	start(t, database, nil) // which waits until it serves

	// What stands in the place of the lock is not written to.
	other := filepath.Join(t.TempDir(), "b.db")
	if err := os.Symlink("/dev/null", other+".lock"); err != nil {
		t.Fatal(err)
	}
	if err := second(other); err == nil || !strings.Contains(err.Error(), "locking the database") {
		t.Errorf("a link in the place of the lock: %v", err)
	}
}
