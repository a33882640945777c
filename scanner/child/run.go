package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/scanner"
)

// Task is one scan, as a child process reads it from standard input.
type Task struct {
	Address   string        `json:"address,omitempty"`
	Namespace string        `json:"namespace"`
	Root      string        `json:"root,omitempty"`
	Name      string        `json:"name"` // a reference
	Digest    string        `json:"digest"`
	Dir       string        `json:"dir"` // for its files, and SBOMFile
	Memory    int64         `json:"memory"`
	Disk      int64         `json:"disk"`
	Timeout   time.Duration `json:"timeout"`
}

// sbomFile is where a task leaves the SBOM, in its folder: Syft JSON packed with zstd.
const sbomFile = "sbom.json.zst"

// taskResult is what a child writes to standard output.
type taskResult struct {
	Packages int      `json:"packages"`
	Distro   string   `json:"distro,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	Error    string   `json:"error,omitempty"`
	// Absent says that the node lacks parts of the image, which another may have.
	Absent bool `json:"absent,omitempty"`
}

// ScanOne runs one task in this process, which is to end after it: bounds on memory are
// the process's. A scan that fails is no error.
func ScanOne(ctx context.Context, in io.Reader, out io.Writer) error {
	var t Task
	if err := json.NewDecoder(io.LimitReader(in, 1<<20)).Decode(&t); err != nil {
		return fmt.Errorf("reading the task: %w", err)
	}
	if err := limitMemory(t.Memory); err != nil {
		return fmt.Errorf("bounding the memory: %w", err)
	}
	result := t.run(ctx)
	return json.NewEncoder(out).Encode(result)
}

func (t Task) run(ctx context.Context) (r taskResult) {
	failed := func(err error) taskResult {
		return taskResult{Error: err.Error(), Absent: scanner.IsAbsent(err)}
	}
	s, err := scanner.New(scanner.Config{ContainerdAddress: t.Address, ContainerdNamespace: t.Namespace, ContainerdRoot: t.Root,
		TempDir: t.Dir, MaxImageBytes: t.Disk, Timeout: t.Timeout, NoDaemons: true})
	if err != nil {
		return failed(err)
	}
	ref, err := api.ParseReference(t.Name)
	if err != nil {
		return failed(err)
	}
	o := s.Scan(ctx, string(scanner.Containerd)+":"+ref.Name()+"@"+t.Digest, nil)
	if o.SBOM == nil {
		r = failed(o.Err)
		// The reader knows which image it is.
		r.Error = strings.TrimPrefix(r.Error, o.Scan.Image+": ")
		return r
	}
	f, err := os.OpenFile(filepath.Join(t.Dir, sbomFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return failed(err)
	}
	defer f.Close()
	z, err := zstd.NewWriter(f, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		return failed(err)
	}
	err = scanner.EncodeSBOM(z, o.SBOM, scanner.SyftJSON)
	if err == nil {
		err = z.Close()
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return failed(err)
	}
	return taskResult{Packages: o.Scan.Packages, Distro: o.Scan.Distro, Warnings: o.Scan.Warnings}
}

// usage is what a child took.
type usage struct {
	CPU      time.Duration
	Memory   int64 // at the most, in bytes
	Duration time.Duration
}

const (
	watchEvery = 50 * time.Millisecond
	// burst is the CPU time that a child may take at once.
	burst     = 200 * time.Millisecond
	diskEvery = 10 // looks at the child for one at its folder
	// grace is how much longer than its timeout a child may take to say so.
	grace      = 30 * time.Second
	maxChatter = 64 << 10
)

// runTask runs a task in a child process, and holds it to its bounds. An error is the
// agent's own; what is wrong with the image is in the result.
func (a *Agent) runTask(ctx context.Context, t Task) (taskResult, usage, error) {
	text, err := json.Marshal(t)
	if err != nil {
		return taskResult{}, usage{}, err
	}
	c := exec.Command(a.Command[0], a.Command[1:]...)
	var out, chatter bounded
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(text), &out, &chatter
	c.Dir = t.Dir
	cores := max(int(a.CPU+0.999), 1)
	for _, e := range os.Environ() {
		switch name, _, _ := strings.Cut(e, "="); name {
		case "GOMAXPROCS", "GOMEMLIMIT", "GOGC", "TMPDIR":
		default:
			c.Env = append(c.Env, e)
		}
	}
	// Go gives memory back before the hard bound, which leaves it a quarter for all else.
	c.Env = append(c.Env, "GOMAXPROCS="+strconv.Itoa(cores), "GOMEMLIMIT="+strconv.FormatInt(t.Memory/4*3, 10), "TMPDIR="+t.Dir)
	began := time.Now()
	wait, err := start(c)
	if err != nil {
		return taskResult{}, usage{}, fmt.Errorf("starting a scan: %w", err)
	}
	watched := make(chan struct{})
	ended := make(chan struct{})
	why := ""
	go func() {
		defer close(watched)
		why = a.hold(ctx, c.Process, t, ended)
	}()
	err = wait()
	close(ended)
	<-watched
	u := usage{CPU: c.ProcessState.UserTime() + c.ProcessState.SystemTime(), Memory: peakMemory(c.ProcessState), Duration: time.Since(began)}
	if ctx.Err() != nil {
		return taskResult{}, u, ctx.Err()
	}
	if why != "" {
		return taskResult{Error: why}, u, nil
	}
	var r taskResult
	if err == nil {
		if err = json.Unmarshal(out.Bytes(), &r); err == nil {
			return r, u, nil
		}
	}
	said := chatter.String()
	// Where it gets no more memory, the runtime of Go may also crash on its own.
	crashed := strings.HasPrefix(said, "SIGSEGV") && t.Memory > 0 && u.Memory > t.Memory-t.Memory/16
	if crashed || strings.Contains(said, "out of memory") || strings.Contains(said, "cannot allocate memory") {
		return taskResult{Error: fmt.Sprintf("the scan needs more memory than %s (--memory)", mebibytes(t.Memory))}, u, nil
	}
	a.Log.Warn("a scan ended by itself", "image", t.Name, "digest", t.Digest, "error", err, "output", firstLines(said))
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return taskResult{Error: fmt.Sprintf("the scan ended by itself: %v", exit)}, u, nil
	}
	return taskResult{}, u, fmt.Errorf("running a scan: %w", err)
}

// hold keeps a child within its CPU, disk and time until ended is closed. It says why it killed the child.
func (a *Agent) hold(ctx context.Context, p *os.Process, t Task, ended chan struct{}) (why string) {
	began := time.Now()
	held := false
	kill := func(reason string) string {
		_ = p.Kill()
		return reason
	}
	for n := 1; ; n++ {
		select {
		case <-ended:
			return ""
		case <-ctx.Done():
			return kill("")
		case <-time.After(watchEvery):
		}
		age := time.Since(began)
		if age > t.Timeout+grace {
			return kill(fmt.Sprintf("the scan took longer than %s", t.Timeout))
		}
		if !a.settings.Load().Enabled {
			return kill("the scanner was switched off")
		}
		if n%diskEvery == 0 {
			if size := folderSize(t.Dir); size > t.Disk {
				return kill(fmt.Sprintf("the scan needs more disk than %s (--disk)", mebibytes(t.Disk)))
			}
		}
		used, err := cpuTime(p.Pid)
		if err != nil {
			continue // it has just ended
		}
		allowed := burst + time.Duration(float64(age)*a.CPU)
		switch {
		case used > allowed && !held:
			held = stop(p) == nil
		case used <= allowed && held:
			held = resume(p) != nil
		}
	}
}

func folderSize(dir string) int64 {
	var n int64
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		if info, err := d.Info(); err == nil {
			n += info.Size()
		}
		return nil
	})
	return n
}

func mebibytes(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }

func firstLines(s string) string {
	lines := strings.SplitAfterN(s, "\n", 6)
	return strings.TrimSpace(strings.Join(lines[:min(len(lines), 5)], ""))
}

// bounded keeps the first bytes that are written to it.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if room := maxChatter - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(len(p), room)])
	}
	return len(p), nil
}
