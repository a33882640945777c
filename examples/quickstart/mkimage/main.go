// Mkimage builds the container images of the quickstart as OCI archives:
//
//	go run ./examples/quickstart/mkimage -o examples/quickstart/build
//	go run ./examples/quickstart/mkimage -o shop.oci.tar frontend
//
// With a folder it writes both images, frontend.oci.tar and backend.oci.tar; with
// a name that ends in .tar, the one image that is named (default frontend).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/assay-dev/assay/examples/quickstart/shop"
)

func main() {
	out := flag.String("o", "examples/quickstart/build", "folder for both archives, or FILE.tar for one")
	src := flag.String("src", "examples/quickstart/image", "folder of the images' sources")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *src, *out, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, src, out string, names []string) error {
	one := strings.HasSuffix(out, ".tar")
	if one && len(names) == 0 {
		names = []string{"frontend"}
	}
	if one && len(names) > 1 {
		return errors.New("one file holds one image")
	}
	for _, name := range names {
		if name != "frontend" && name != "backend" {
			return fmt.Errorf("there is no image %q", name)
		}
	}
	for _, image := range shop.Images() {
		if len(names) > 0 && !strings.Contains(" "+strings.Join(names, " ")+" ", " "+image.Name+" ") {
			continue
		}
		path := out
		if !one {
			path = filepath.Join(out, image.File())
		}
		if err := write(ctx, image, src, path); err != nil {
			return err
		}
	}
	return nil
}

func write(ctx context.Context, image shop.Image, src, path string) error {
	img, err := image.Build(ctx, src)
	if err != nil {
		return err
	}
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := errors.Join(shop.Write(f, img, image.Reference()), f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	fmt.Printf("%s  %s@%s\n", path, image.Reference(), digest)
	return nil
}
