package scanner

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"
)

// Unpacked layers of overlayfs and native have the packages of the packed ones: what an
// upper layer removed is gone.
func TestLayersInSnapshots(t *testing.T) {
	root := t.TempDir()
	const below = "io.containerd.snapshotter.v1.overlayfs/snapshots"
	lay := func(id string, files map[string]string) string {
		dir := filepath.Join(root, below, id, "fs")
		for name, text := range files {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return "/var/lib/containerd/" + below + "/" + id + "/fs" // as containerd names it
	}
	gone := `{"name": "gone", "version": "1.0.0"}`
	lower := lay("1", map[string]string{"app/node_modules/gone/package.json": gone, "app/node_modules/kept/package.json": `{"name": "kept", "version": "1.0.0"}`})
	upper := lay("2", map[string]string{"app/node_modules/new/package.json": `{"name": "new", "version": "2.0.0"}`})
	hidden := filepath.Join(root, below, "2/fs/app/node_modules/gone")
	if err := unix.Mknod(hidden, unix.S_IFCHR, 0); err != nil {
		t.Fatalf("making overlayfs' mark of what is removed (this test runs as root): %v", err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(root, below, "2/fs/app/link")); err != nil {
		t.Fatal(err)
	}
	image := imageOf(t, "linux/amd64", tarOf(t, nodeFiles()), tarOf(t, map[string]string{"x": "y"}))
	for name, x := range map[string]struct {
		mount mount.Mount
		want  []string
		fails string
	}{
		"overlay":         {mount: mount.Mount{Type: "overlay", Options: []string{"index=off", "lowerdir=" + upper + ":" + lower}}, want: []string{"kept 1.0.0", "new 2.0.0"}},
		"native":          {mount: mount.Mount{Type: "bind", Source: lower}, want: []string{"gone 1.0.0", "kept 1.0.0"}},
		"elsewhere":       {mount: mount.Mount{Type: "bind", Source: "/etc"}, fails: "not below containerd's root"},
		"not there":       {mount: mount.Mount{Type: "bind", Source: "/x/" + below + "/9/fs"}, fails: "no such file"},
		"out of the root": {mount: mount.Mount{Type: "bind", Source: "/x/io.containerd.snapshotter.v1.native/../../../etc"}, fails: "no such file"},
		"a device":        {mount: mount.Mount{Type: "ext4", Source: "/dev/sda"}, fails: "not understood"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScanner(t, func(c *Config) { c.ContainerdRoot = root })
			f := unreadable(t, image)
			err := s.layersIn(f, []mount.Mount{x.mount})
			if x.fails != "" {
				if err == nil || !strings.Contains(err.Error(), x.fails) {
					t.Errorf("error %v, want %q", err, x.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			made, err := s.catalogImage(t.Context(), f, "example.com/app:1", t.TempDir(), nil)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for p := range made.Artifacts.Packages.Enumerate() {
				got = append(got, p.Name+" "+p.Version)
			}
			slices.Sort(got)
			if !slices.Equal(got, x.want) {
				t.Errorf("packages %v, want %v", got, x.want)
			}
		})
	}
}

// unreadable is an image whose layers cannot be read.
func unreadable(t *testing.T, image v1.Image) *found {
	t.Helper()
	config, err := image.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := image.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	f := &found{source: Containerd, digest: digestOf(t, image), rawManifest: manifest}
	if err := f.setConfig(config); err != nil {
		t.Fatal(err)
	}
	for _, id := range f.config.RootFS.DiffIDs {
		f.layers = append(f.layers, layer{diffID: id, size: 1, mediaType: types.DockerLayer})
	}
	return f
}
