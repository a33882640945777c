// Image makes the container images of Assay's programs as OCI archives, without Docker:
//
//	go run ./deploy/image -o dist
//	go run ./deploy/image -o dist -platforms linux/amd64 ./cmd/assay-webhook
//
// For each program it writes dist/NAME.oci.tar, an index of all platforms, and prints its
// digest. Equal sources, Go releases and authorities give equal bytes.
package main

import (
	"context"
	"crypto/x509"
	"debug/buildinfo"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func main() {
	var o options
	flag.StringVar(&o.out, "o", "dist", "folder for the archives")
	flag.StringVar(&o.version, "version", "dev", "version that the programs tell, and tag of the images")
	flag.StringVar(&o.authorities, "authorities", "", "certificates in PEM that programs trust (default those of this machine, which may have more than others)")
	platforms := flag.String("platforms", "linux/amd64,linux/arm64", "platforms, with commas")
	flag.Parse()
	o.programs = flag.Args()
	if len(o.programs) == 0 {
		o.programs = []string{"./cmd/assay", "./cmd/assay-webhook"}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := o.parse(*platforms)
	if err == nil {
		err = o.run(ctx, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

type options struct {
	out, version, authorities string
	programs                  []string // packages
	platforms                 []v1.Platform
}

func (o *options) parse(platforms string) error {
	for text := range strings.SplitSeq(platforms, ",") {
		p, err := v1.ParsePlatform(text)
		if err != nil || p.OS != "linux" || p.Architecture == "" {
			return fmt.Errorf("-platforms: must be such as linux/arm64, not %q", text)
		}
		o.platforms = append(o.platforms, *p)
	}
	return nil
}

// run writes an archive for each program, and a line with its digest to w.
func (o options) run(ctx context.Context, w io.Writer) error {
	authorities, err := readAuthorities(o.authorities)
	if err != nil {
		return err
	}
	bin, err := os.MkdirTemp("", "assay-image-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(bin) }()
	for _, program := range o.programs {
		name := path.Base(program)
		var images []v1.Image
		for _, platform := range o.platforms {
			file := filepath.Join(bin, strings.ReplaceAll(platform.String(), "/", "-"), name)
			if err := build(ctx, program, o.version, platform, file); err != nil {
				return err
			}
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			revision, when, err := source(file)
			if err != nil {
				return err
			}
			i, err := content{name, text, authorities, o.version, revision, when}.image(platform)
			if err != nil {
				return fmt.Errorf("%s for %s: %w", name, platform, err)
			}
			images = append(images, i)
		}
		x, err := index(images)
		if err != nil {
			return err
		}
		digest, err := x.Digest()
		if err != nil {
			return err
		}
		if err := os.MkdirAll(o.out, 0o755); err != nil {
			return err
		}
		file := filepath.Join(o.out, name+".oci.tar")
		if err := writeArchive(file, x, o.version); err != nil {
			return fmt.Errorf("writing %s: %w", file, err)
		}
		fmt.Fprintf(w, "%s %s\n", digest, file)
	}
	return nil
}

// build makes a static program.
func build(ctx context.Context, program, version string, p v1.Platform, out string) error {
	c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w -X main.release="+version, "-o", out, program)
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+p.OS, "GOARCH="+p.Architecture, "GOARM="+strings.TrimPrefix(p.Variant, "v"))
	c.Stderr = os.Stderr
	if err := c.Run(); err != nil {
		return fmt.Errorf("building %s for %s: %w", program, p, err)
	}
	return nil
}

// source says of which commit a program is: "" and 1970 where it is of none.
func source(file string) (revision string, when time.Time, err error) {
	when = time.Unix(0, 0)
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return "", when, fmt.Errorf("reading what %s was built from: %w", filepath.Base(file), err)
	}
	changed := false
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			revision = s.Value
		case "vcs.modified":
			changed = s.Value == "true"
		case "vcs.time":
			if when, err = time.Parse(time.RFC3339, s.Value); err != nil {
				return "", when, err
			}
		}
	}
	if changed {
		revision += "-dirty"
	}
	return revision, when, nil
}

// readAuthorities reads certificates in PEM, from where systems keep them if no file is named.
func readAuthorities(file string) ([]byte, error) {
	usual := []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"}
	if file == "" {
		i := slices.IndexFunc(usual, func(name string) bool {
			_, err := os.Stat(name)
			return err == nil
		})
		if i < 0 {
			return nil, errors.New("this machine has no certificates of authorities: name a file with -authorities")
		}
		file = usual[i]
	}
	text, err := os.ReadFile(filepath.Clean(file))
	if err != nil {
		return nil, err
	}
	if !x509.NewCertPool().AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s has no certificate in PEM", file)
	}
	return text, nil
}
