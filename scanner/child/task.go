// Package child makes SBOMs in processes of their own, each held to bounds on memory, CPU,
// disk and time. An image may be hostile: what it takes down is its own scan.
package child

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/outgoing"
	"github.com/assay-dev/assay/scanner"
	"github.com/assay-dev/assay/scanner/attestation"
	"github.com/assay-dev/assay/scanner/pace"
)

// Task is one scan, as a child reads it from standard input. Its image is in a containerd
// (Digest is given) or in a registry (Registry is).
type Task struct {
	Name   string `json:"name"` // a reference
	Digest string `json:"digest,omitempty"`
	// Address, Namespace and Root are containerd's.
	Address   string `json:"address,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Root      string `json:"root,omitempty"`

	Registry *Registry `json:"registry,omitempty"`

	Dir     string        `json:"dir"`    // for its files, and SBOMFile; an empty folder
	Memory  int64         `json:"memory"` // bytes that it can write to
	Disk    int64         `json:"disk"`   // bytes of its files
	CPU     time.Duration `json:"cpu"`    // time of CPU in all; 0 is any
	Timeout time.Duration `json:"timeout"`
}

// Registry says how a registry is asked.
type Registry struct {
	InsecureHTTP bool                `json:"insecure_http,omitempty"`
	Realms       outgoing.Realms     `json:"realms,omitempty"`
	UserAgent    string              `json:"user_agent,omitempty"`
	Attestations *attestation.Config `json:"attestations,omitempty"`
	// Socket is set by the parent: what the child asks for goes through it.
	Socket string `json:"socket,omitempty"`
}

// SBOMFile is where a task leaves the SBOM, in its folder: Syft JSON packed with zstd.
const SBOMFile = "sbom.json.zst"

// Result is what a child writes to standard output. A scan that failed has an Error.
type Result struct {
	Scan  api.Scan `json:"scan"` // without what it matched
	Error string   `json:"error,omitempty"`
	// Absent says that parts of the image are not where they were looked for.
	Absent bool `json:"absent,omitempty"`
	// Final says that it would fail again.
	Final bool `json:"final,omitempty"`
}

// maxTask bounds what a child reads.
const maxTask = 1 << 20

// Run runs one task in this process, which is to end after it: bounds on memory are
// the process's. A scan that fails is no error.
func Run(ctx context.Context, in io.Reader, out io.Writer) error {
	var t Task
	if err := json.NewDecoder(io.LimitReader(in, maxTask)).Decode(&t); err != nil {
		return fmt.Errorf("reading the task: %w", err)
	}
	if err := LimitMemory(t.Memory); err != nil {
		return fmt.Errorf("bounding the memory: %w", err)
	}
	return json.NewEncoder(out).Encode(t.run(ctx))
}

func (t Task) run(ctx context.Context) Result {
	failed := func(err error) Result {
		var carried *carryError
		refused := errors.As(err, &carried) && carried.final
		return Result{Error: err.Error(), Absent: scanner.IsAbsent(err),
			Final: errors.Is(err, scanner.ErrNoImage) || errors.Is(err, scanner.ErrNotAssessed) || errors.Is(err, scanner.ErrNotAttested) ||
				refused || errors.As(err, new(*outgoing.Refused)) || errors.As(err, new(*scanner.LimitError))}
	}
	config := scanner.Config{TempDir: t.Dir, MaxImageBytes: t.Disk, Timeout: t.Timeout, NoDaemons: true}
	input := string(scanner.Registry) + ":" + t.Name
	if r := t.Registry; r != nil {
		config.InsecureHTTP, config.UserAgent, config.Realms = r.InsecureHTTP, r.UserAgent, r.Realms
		// The parent tries again, and waits as long as the registry asks for.
		config.Transport = pace.New(pace.Config{Base: through(r.Socket), Attempts: 1, HeaderTimeout: t.Timeout})
		if r.Attestations != nil {
			var err error
			if config.Attestations, err = attestation.New(*r.Attestations); err != nil {
				return failed(err)
			}
		}
	} else {
		config.ContainerdAddress, config.ContainerdNamespace, config.ContainerdRoot = t.Address, t.Namespace, t.Root
		ref, err := api.ParseReference(t.Name)
		if err != nil {
			return failed(err)
		}
		input = string(scanner.Containerd) + ":" + ref.WrittenName() + "@" + t.Digest
	}
	s, err := scanner.New(config)
	if err != nil {
		return failed(err)
	}
	o := s.Scan(ctx, input, nil)
	if o.SBOM == nil || o.Err != nil && !errors.Is(o.Err, scanner.ErrNotMatched) {
		r := failed(o.Err)
		// The reader knows which image it is.
		r.Error = strings.TrimPrefix(r.Error, o.Scan.Image+": ")
		r.Scan.Warnings = o.Scan.Warnings
		return r
	}
	if err := t.keep(o); err != nil {
		return failed(err)
	}
	o.Scan.Vulnerabilities = nil
	return Result{Scan: o.Proven()}
}

// keep writes the SBOM into the folder.
func (t Task) keep(o scanner.Outcome) (err error) {
	f, err := os.OpenFile(filepath.Join(t.Dir, SBOMFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	z, err := zstd.NewWriter(f, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		return err
	}
	if err := scanner.EncodeSBOM(z, o.SBOM, scanner.SyftJSON); err != nil {
		return err
	}
	return z.Close()
}
