// Package containerd runs a containerd of its own for tests: the daemon that a node's kubelet would use, with its
// content store and CRI, apart from any that the machine has. Nothing runs in it.
package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/test/e2e/built"
	"github.com/assay-dev/assay/test/e2e/process"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// version is what is built where the machine has no containerd.
const version = "v2.4.2"

// Namespace is where the kubelet's images are.
const Namespace = "k8s.io"

// settings keep all of containerd in one folder, and away from the machine's network, devices and plugins. Both
// containerd 1.6 and 2 read this version of the format.
const settings = `version = 2
root = %[1]q
state = %[2]q
disabled_plugins = ["io.containerd.nri.v1.nri"]
[grpc]
address = %[3]q
[plugins."io.containerd.internal.v1.opt"]
path = %[4]q
[plugins."io.containerd.grpc.v1.cri"]
stream_server_address = "127.0.0.1"
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = %[4]q
conf_dir = %[4]q
`

// Containerd is a running containerd.
type Containerd struct {
	Address string             // the path of its socket, also CRI's
	Client  *containerd.Client // of Namespace
	CRI     cri.ImageServiceClient
	Dir     string // holds its state, and its output as containerd.log
}

// Start starts a containerd that ends with the test: the machine's, or one that is built
// where it has none. The tests must run as root.
func Start(tb testing.TB) *Containerd {
	tb.Helper()
	path, err := exec.LookPath("containerd")
	if err != nil {
		if path, err = build(); err != nil {
			tb.Fatal(err)
		}
	}
	return StartProgram(tb, path)
}

// Programs are the containerds to test with, by what they are: the one that is built, and
// the machine's where it has one.
func Programs(tb testing.TB) map[string]string {
	tb.Helper()
	path, err := build()
	if err != nil {
		tb.Fatal(err)
	}
	all := map[string]string{version: path}
	if path, err := exec.LookPath("containerd"); err == nil {
		all["machine"] = path
	}
	return all
}

// StartProgram is Start of the containerd at a path.
func StartProgram(tb testing.TB, path string) *Containerd {
	tb.Helper()
	if os.Getuid() != 0 {
		tb.Fatal("containerd runs as root only: run this test as root")
	}
	dir, err := os.MkdirTemp("", "assay-containerd") // a test's own folder makes too long a path for a socket
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	file := func(name string) string { return filepath.Join(dir, name) }
	c := &Containerd{Address: file("containerd.sock"), Dir: dir}
	if err := os.WriteFile(file("config.toml"),
		fmt.Appendf(nil, settings, file("root"), file("state"), c.Address, file("opt")), 0o600); err != nil {
		tb.Fatal(err)
	}
	daemon, err := process.Start(dir, path, "--config", file("config.toml"))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := daemon.Kill(); err != nil {
			tb.Error(err)
		}
	})
	if c.Client, err = containerd.New(c.Address, containerd.WithDefaultNamespace(Namespace)); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := c.Client.Close(); err != nil {
			tb.Error(err)
		}
	})
	if err := daemon.Ready(func(ctx context.Context) error {
		serving, err := c.Client.IsServing(ctx)
		if err == nil && !serving {
			err = errors.New("it does not serve yet")
		}
		return err
	}); err != nil {
		tb.Fatal(err)
	}
	c.CRI = cri.NewImageServiceClient(c.Client.Conn().(grpc.ClientConnInterface))
	return c
}

// Import puts the image of an OCI archive where a pull would, under a whole reference such as
// docker.io/library/nginx:1.27, and gives its digest: an index's, if the archive names an index. Unlike what an
// import by ctr leaves, CRI knows the digest as a RepoDigest. CRI lists the image when Import returns.
func (c *Containerd) Import(tb testing.TB, archive, reference string) digest.Digest {
	tb.Helper()
	file, err := os.Open(archive)
	if err != nil {
		tb.Fatal(err)
	}
	defer file.Close()
	ctx := namespaces.WithNamespace(tb.Context(), Namespace)
	repository := reference[:strings.LastIndexByte(reference, ':')]
	imported, err := c.Client.Import(ctx, file, containerd.WithAllPlatforms(true),
		containerd.WithImageRefTranslator(func(string) string { return "" }), // the archive's own name for it
		containerd.WithDigestRef(func(d digest.Digest) string { return repository + "@" + d.String() }))
	if err != nil {
		tb.Fatal(err)
	}
	if len(imported) != 1 {
		tb.Fatalf("%s has %d images, want one", archive, len(imported))
	}
	target := imported[0].Target
	if _, err := c.Client.ImageService().Create(ctx, images.Image{Name: reference, Target: target}); err != nil {
		tb.Fatal(err)
	}
	for deadline := time.Now().Add(2 * time.Minute); !c.lists(tb, reference, repository+"@"+target.Digest.String()); {
		if time.Now().After(deadline) {
			tb.Fatalf("CRI does not list %s", reference)
		}
		time.Sleep(20 * time.Millisecond) // CRI hears of it by events
	}
	return target.Digest
}

func (c *Containerd) lists(tb testing.TB, tag, digest string) bool {
	tb.Helper()
	listed, err := c.CRI.ListImages(tb.Context(), &cri.ListImagesRequest{})
	if err != nil {
		tb.Fatal(err)
	}
	return slices.ContainsFunc(listed.Images, func(image *cri.Image) bool {
		return slices.Contains(image.RepoTags, tag) && slices.Contains(image.RepoDigests, digest)
	})
}

// build gives the containerd of version, which is built once.
func build() (string, error) {
	dir, err := built.Once(fmt.Sprintf("containerd-%s-%s-%s", version, runtime.Version(), runtime.GOARCH), func(dir string) error {
		return built.Go(dir, []string{"GOBIN=" + dir}, "install", "-trimpath", "-ldflags=-s -w",
			"-tags=no_btrfs no_devmapper no_zfs no_aufs", "github.com/containerd/containerd/v2/cmd/containerd@"+version)
	})
	return filepath.Join(dir, "containerd"), err
}
