package cluster

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/assay-dev/assay/test/e2e/built"
)

// buildFlags make the binaries small and tell kube-apiserver its version, which clients ask for.
var buildFlags = []string{
	"-trimpath",
	"-ldflags=-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2" +
		" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37",
}

// Binaries gives a folder with kube-apiserver, kube-controller-manager, kube-scheduler and etcd. The first call on
// a machine builds them, which takes some minutes; they are kept in the user's cache folder under a name
// that changes with what they are built from.
func Binaries(tb testing.TB) string {
	tb.Helper()
	dir, err := binaries()
	if err != nil {
		tb.Fatal(err)
	}
	return dir
}

func binaries() (string, error) {
	tools, err := toolsDir()
	if err != nil {
		return "", err
	}
	recipe, err := recipeHash(tools)
	if err != nil {
		return "", err
	}
	return built.Once("kubernetes-"+recipe, func(dir string) error {
		for output, pkg := range map[string]string{"kubernetes": ".", "etcd": "go.etcd.io/etcd/server/v3"} {
			args := append([]string{"build", "-o", filepath.Join(dir, output)}, buildFlags...)
			if err := built.Go(tools, nil, append(args, pkg)...); err != nil {
				return err
			}
		}
		for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
			if err := os.Symlink("kubernetes", filepath.Join(dir, name)); err != nil {
				return err
			}
		}
		return nil
	})
}

// toolsDir asks the go command, because the paths that a binary knows about itself are gone under -trimpath.
func toolsDir() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/assay-dev/assay/test/e2e").Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return "", fmt.Errorf("finding the folder of the end-to-end tests: %w", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "tools"), nil
}

// recipeHash names what is built, from what, and by which compiler for which machine.
func recipeHash(tools string) (string, error) {
	hash := sha256.New()
	fmt.Fprintln(hash, runtime.Version(), runtime.GOOS, runtime.GOARCH, buildFlags)
	for _, name := range []string{"go.mod", "go.sum", "main.go"} {
		text, err := os.ReadFile(filepath.Join(tools, name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(hash, "%s %d\n%s", name, len(text), text)
	}
	return fmt.Sprintf("%x", hash.Sum(nil)[:8]), nil
}
