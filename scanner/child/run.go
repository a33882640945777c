package child

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Usage is what a child took.
type Usage struct {
	CPU      time.Duration
	Memory   int64 // at the most, in bytes
	Duration time.Duration
}

// Runner runs tasks in child processes. It may be used concurrently.
type Runner struct {
	// Command is the program that calls Run, with its first arguments.
	Command []string
	// CPU is how many cores a child may use; 0 is any number.
	CPU float64
	// Stopped, where given, is asked while a child runs, and says why it is to end.
	Stopped func() string
	// Names of the bounds, for what is said where one is met.
	MemoryFlag, DiskFlag string
	Log                  *slog.Logger
}

const (
	watchEvery = 50 * time.Millisecond
	// burst is the CPU time that a child may take at once.
	burst     = 200 * time.Millisecond
	diskEvery = 2 // looks at the child for one at its folder
	// grace is how much longer than its timeout a child may take to say so.
	grace      = 30 * time.Second
	maxChatter = 64 << 10
	maxResult  = 4 << 20
)

// Run runs a task in a child process, and holds it to its bounds. An error is not the image's; what
// is wrong with the image is in the result. Network carries what it asks of a registry.
func (r *Runner) Run(ctx context.Context, t Task, network http.RoundTripper) (Result, Usage, error) {
	if t.Registry != nil {
		socket, end, err := serve(network)
		if err != nil {
			return Result{}, Usage{}, fmt.Errorf("preparing a scan: %w", err)
		}
		defer end()
		registry := *t.Registry
		registry.Socket = socket
		t.Registry = &registry
	}
	text, err := json.Marshal(t)
	if err != nil {
		return Result{}, Usage{}, err
	}
	c := exec.Command(r.Command[0], r.Command[1:]...)
	out, chatter := bounded{max: maxResult}, bounded{max: maxChatter}
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(text), &out, &chatter
	c.Dir = t.Dir
	for _, e := range os.Environ() {
		switch name, _, _ := strings.Cut(e, "="); name {
		case "GOMAXPROCS", "GOMEMLIMIT", "GOGC", "TMPDIR":
		default:
			c.Env = append(c.Env, e)
		}
	}
	if r.CPU > 0 {
		c.Env = append(c.Env, "GOMAXPROCS="+strconv.Itoa(max(int(r.CPU+0.999), 1)))
	}
	// Go gives memory back before the hard bound, which leaves it a quarter for all else.
	c.Env = append(c.Env, "GOMEMLIMIT="+strconv.FormatInt(t.Memory/4*3, 10), "TMPDIR="+t.Dir)
	began := time.Now()
	wait, err := start(c)
	if err != nil {
		return Result{}, Usage{}, fmt.Errorf("starting a scan: %w", err)
	}
	watched := make(chan struct{})
	ended := make(chan struct{})
	why := ""
	go func() {
		defer close(watched)
		why = r.hold(ctx, c.Process, t, ended)
	}()
	err = wait()
	close(ended)
	<-watched
	u := Usage{CPU: c.ProcessState.UserTime() + c.ProcessState.SystemTime(), Memory: peakMemory(c.ProcessState), Duration: time.Since(began)}
	if ctx.Err() != nil {
		return Result{}, u, ctx.Err()
	}
	if why != "" {
		return Result{Error: why}, u, nil
	}
	if err == nil {
		var result Result
		if err = json.Unmarshal(out.Bytes(), &result); err == nil {
			return result, u, nil
		}
	}
	said := chatter.String()
	// Where it gets no more memory, the runtime of Go may also crash on its own.
	crashed := strings.HasPrefix(said, "SIGSEGV") && t.Memory > 0 && u.Memory > t.Memory-t.Memory/16
	if crashed || strings.Contains(said, "out of memory") || strings.Contains(said, "cannot allocate memory") {
		return Result{Error: fmt.Sprintf("the scan needs more memory than %s (%s)", mebibytes(t.Memory), r.MemoryFlag)}, u, nil
	}
	r.Log.Warn("a scan ended by itself", "image", t.Name, "digest", t.Digest, "error", err, "output", firstLines(said))
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return Result{Error: fmt.Sprintf("the scan ended by itself: %v", exit)}, u, nil
	}
	return Result{}, u, fmt.Errorf("running a scan: %w", err)
}

// hold keeps a child within its CPU, disk and time until ended is closed. It says why it killed the child.
func (r *Runner) hold(ctx context.Context, p *os.Process, t Task, ended chan struct{}) (why string) {
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
		if r.Stopped != nil {
			if reason := r.Stopped(); reason != "" {
				return kill(reason)
			}
		}
		if n%diskEvery == 0 {
			if size := folderSize(t.Dir); size > t.Disk {
				return kill(fmt.Sprintf("the scan needs more disk than %s (%s)", mebibytes(t.Disk), r.DiskFlag))
			}
		}
		used, err := cpuTime(p.Pid)
		if err != nil {
			continue // it has just ended
		}
		if t.CPU > 0 && used > t.CPU {
			return kill(fmt.Sprintf("the scan took more than %s of CPU", t.CPU))
		}
		if r.CPU <= 0 {
			continue
		}
		allowed := burst + time.Duration(float64(age)*r.CPU)
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
type bounded struct {
	bytes.Buffer
	max int
}

func (b *bounded) Write(p []byte) (int, error) {
	if room := b.max - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(len(p), room)])
	}
	return len(p), nil
}
