package scanner

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/assay-dev/assay/api"
)

// Kind says where an input is read from. Its values but [Reference] are the
// schemes that users write and what [api.Scan.Source] records.
type Kind string

// Kinds of inputs.
const (
	// Reference is an input without scheme: a local Docker daemon, then
	// containerd, then the registry.
	Reference     Kind = ""
	Registry      Kind = "registry"
	Docker        Kind = "docker"
	Containerd    Kind = "containerd"
	DockerArchive Kind = "docker-archive"
	OCIArchive    Kind = "oci-archive"
	OCIDir        Kind = "oci-dir"
	Dir           Kind = "dir"
	SBOM          Kind = "sbom"
)

// Input is what to scan.
type Input struct {
	Kind Kind
	// Value is the reference or path, without the scheme. An archive's path may
	// end in ":REFERENCE" to choose one of its images.
	Value string
}

// String is the input as a user writes it.
func (in Input) String() string {
	if in.Kind == Reference {
		return in.Value
	}
	return string(in.Kind) + ":" + in.Value
}

// ParseInput reads an input such as "nginx:1.27", "registry:nginx" or
// "oci-archive:image.tar". It looks at the text only. A known scheme wins over
// an image of that name: Docker Hub's image registry is docker.io/library/registry:2.
// Errors wrap [ErrInput] and never hold credentials.
func ParseInput(s string) (Input, error) {
	if strings.TrimSpace(s) == "" {
		return Input{}, fmt.Errorf("%w: an image is missing", ErrInput)
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		return Input{}, fmt.Errorf("%w %q: it holds control characters", ErrInput, scrub(s))
	}
	in := Input{Kind: Reference, Value: s}
	if scheme, rest, found := strings.Cut(s, ":"); found {
		switch k := Kind(scheme); k {
		case Registry, Docker, Containerd, DockerArchive, OCIArchive, OCIDir, Dir, SBOM:
			in = Input{Kind: k, Value: rest}
		}
	}
	if in.Value == "" {
		return Input{}, fmt.Errorf("%w %q: nothing follows the scheme", ErrInput, s)
	}
	switch in.Kind {
	case Reference, Registry, Docker, Containerd:
		if strings.Contains(in.Value, "://") {
			return Input{}, fmt.Errorf("%w %q: it is a URL; write the reference, such as registry.example.com/team/app:1.0", ErrInput, scrub(in.Value))
		}
		if _, err := api.ParseReference(in.Value); err != nil {
			return Input{}, &textError{scrub(err.Error()), errors.Join(ErrInput, err)}
		}
	}
	return in, nil
}

// schemeHint says which scheme to write for a path that exists, or is empty.
// It looks at the files, for advice alone.
func schemeHint(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	kind := Dir
	if info.IsDir() {
		if _, err := os.Stat(filepath.Join(path, "oci-layout")); err == nil {
			kind = OCIDir
		}
	} else if kind = fileKind(path); kind == "" {
		return fmt.Sprintf("a file %s exists: write docker-archive:%[1]s, oci-archive:%[1]s or sbom:%[1]s to scan it", path)
	}
	return fmt.Sprintf("%s exists on disk: write %s:%[1]s to scan it", path, kind)
}

// fileKind looks into a file: JSON is an SBOM, a tar is told by its members.
func fileKind(path string) Kind {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	head := make([]byte, 512)
	n, _ := io.ReadFull(f, head)
	if strings.HasPrefix(string(bytes.TrimSpace(head[:n])), "{") {
		return SBOM
	}
	t, err := indexTar(f, 100_000)
	switch {
	case err != nil:
		return ""
	case t.has("manifest.json"):
		return DockerArchive
	case t.has("oci-layout"):
		return OCIArchive
	}
	return ""
}

// splitArchive tells an archive's path from the reference after it. The
// longest path that exists wins, so that a colon in a file name does no harm.
func splitArchive(value string) (path, ref string) {
	if _, err := os.Stat(value); err == nil {
		return value, ""
	}
	for i := len(value) - 1; i > 0; i-- {
		if value[i] != ':' {
			continue
		}
		if _, err := os.Stat(value[:i]); err == nil {
			return value[:i], value[i+1:]
		}
	}
	return value, ""
}
