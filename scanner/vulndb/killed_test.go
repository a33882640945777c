package vulndb

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// child is what another process is told to do with a directory of databases.
type child struct {
	Do, Dir, URL, Archive string
	Advisories            []string
	// Limit is the largest file that it may write; 0 is any.
	Limit uint64
}

const childVariable = "ASSAY_TEST_VULNDB_CHILD"

// Exit codes of a child.
const (
	childFailed = 10 + iota
	childNoRoom
	childNoGeneration
)

func TestMain(m *testing.M) {
	if text := os.Getenv(childVariable); text != "" {
		os.Exit(runChild(text))
	}
	os.Exit(m.Run())
}

func runChild(text string) int {
	var c child
	err := json.Unmarshal([]byte(text), &c)
	if err == nil && c.Limit > 0 {
		err = syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: c.Limit, Max: c.Limit})
	}
	var s *Store
	if err == nil {
		s, err = New(Config{Dir: c.Dir, MaxAge: -1, LatestURL: c.URL, Advisories: c.Advisories})
	}
	if err == nil {
		fmt.Println("ready")
		ctx := context.Background()
		switch c.Do {
		case "update":
			_, err = s.Update(ctx)
		case "import":
			_, err = s.Import(ctx, c.Archive)
		case "merge":
			_, err = s.Merge(ctx)
		case "rollback":
			_, err = s.Rollback(ctx, "")
		case "prune":
			_, err = s.Prune(ctx, 2)
		}
	}
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrNoRoom):
		fmt.Println(err)
		return childNoRoom
	case errors.Is(err, ErrNoGeneration):
		return childNoGeneration
	}
	fmt.Println(err)
	return childFailed
}

// begin starts a child and comes back once it is about to do what it is told.
func begin(t *testing.T, c child) (cmd *exec.Cmd, wait func() (code int, said string)) {
	t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("a child began with %q, %v", line, err)
	}
	return cmd, func() (int, string) {
		said, err := io.ReadAll(lines)
		if err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil && cmd.ProcessState == nil {
			t.Error(err)
		}
		return cmd.ProcessState.ExitCode(), string(said)
	}
}

// kills is how many processes are killed: 12, or as the environment says.
func kills(t *testing.T) int {
	n, err := strconv.Atoi(os.Getenv("ASSAY_KILLS"))
	if err != nil || n < 1 {
		return 12
	}
	t.Logf("%d kills", n)
	return n
}

// Processes that are killed at any moment leave the databases of before or those
// of after, and nothing in the way of the next one; others that work at the same
// time get through.
func TestKilled(t *testing.T) {
	now := time.Now().UTC().Truncate(time.Second)
	own := t.TempDir()
	put(t, own, "own.json", ownAdvisory)
	older, newer := testArchive(t, now.Add(-2*time.Hour)), testArchive(t, now.Add(-time.Hour))
	m := newMirror(t, read(t, newer))
	m.built = now.Add(-time.Hour)
	dir := filepath.Join(t.TempDir(), "db")
	s := testStore(t, func(c *Config) { c.Dir, c.Now = dir, nil })
	// A database is known by when it was built, and its own advisories. Checksums
	// are no help: Grype's indexing gives other bytes now and then.
	serves := func() string {
		t.Helper()
		list, err := s.Generations(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range list {
			if g.Err != nil {
				t.Errorf("half a generation is listed: %+v", g)
			}
			if g.Current {
				return fmt.Sprintf("built %s, %d own", g.Built.Format(time.RFC3339), g.Advisories)
			}
		}
		return "nothing"
	}
	come := func(archive string) string {
		t.Helper()
		if _, err := s.Import(t.Context(), archive); err != nil {
			t.Fatal(err)
		}
		return serves()
	}
	newerOne := come(newer)
	olderOne := come(older)
	ownOne := strings.Replace(olderOne, "0 own", "1 own", 1)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	steps := []struct {
		child
		target string
	}{
		{child{Do: "update", URL: m.URL}, newerOne},
		{child{Do: "import", Archive: newer}, newerOne},
		{child{Do: "merge", Advisories: []string{own}}, ownOne},
		{child{Do: "rollback"}, newerOne},
	}
	// prepare has the older database serve, for a rollback after the newer one.
	prepare := func(do string) string {
		t.Helper()
		if do == "rollback" {
			come(newer)
		}
		if err := os.Remove(filepath.Join(dir, heldFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return come(older)
	}
	took := make([]time.Duration, len(steps))
	died, want := 0, kills(t)
	for i := 0; died < want && i < 6*want; i++ { // some are done before they are killed
		at := i % len(steps)
		step := steps[at]
		step.Dir = dir
		before := prepare(step.Do)
		if took[at] == 0 { // how long it takes is how long it may live
			_, wait := begin(t, step.child)
			began := time.Now()
			if code, said := wait(); code != 0 {
				t.Fatalf("%s: %d %s", step.Do, code, said)
			}
			took[at] = time.Since(began)
			prepare(step.Do)
		}
		cmd, wait := begin(t, step.child)
		var beside sync.WaitGroup
		if i%3 == 0 {
			beside.Go(func() {
				_, wait := begin(t, child{Do: "prune", Dir: dir})
				if code, said := wait(); code != 0 {
					t.Errorf("beside a killed %s: %d %s", step.Do, code, said)
				}
			})
		}
		time.Sleep(time.Duration(random.Int64N(int64(took[at]))))
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		if code, said := wait(); code == -1 {
			died++
		} else if code != 0 {
			t.Errorf("%s: %d %s", step.Do, code, said)
		}
		beside.Wait()
		db, err := s.Open(t.Context())
		if err != nil {
			t.Fatalf("after a killed %s nothing serves: %v", step.Do, err)
		}
		got := serves()
		if got != before && got != step.target {
			t.Errorf("after a killed %s another database serves: %s", step.Do, got)
		}
		if err := errors.Join(db.Close(), checkContent(t.Context(), db.Path)); err != nil {
			t.Error(err)
		}
		// The same once more gets through.
		if step.Do == "rollback" && got == step.target {
			continue
		}
		_, wait = begin(t, step.child)
		if code, said := wait(); code != 0 {
			t.Errorf("%s after a killed one: %d %s", step.Do, code, said)
		}
		if got := serves(); got != step.target {
			t.Errorf("%s after a killed one: %s", step.Do, got)
		}
	}
	if died < want {
		t.Errorf("only %d of %d died before they were done", died, want)
	}
	if _, err := s.Prune(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			names = append(names, strings.SplitN(e.Name(), "-", 2)[0])
		}
	}
	slices.Sort(names)
	if i := slices.IndexFunc(names, func(n string) bool { return n == "incoming" || n == "removed" || n == "partial" }); i >= 0 {
		t.Errorf("left behind: %v", names)
	}
}

// A disk that is full at any byte is said to be full, and the database of before serves.
func TestNoRoom(t *testing.T) {
	now := time.Now().UTC().Truncate(time.Second)
	own := t.TempDir()
	for i := range 400 {
		put(t, own, fmt.Sprintf("%d.json", i), strings.Replace(ownAdvisory, "ACME-2026-1", fmt.Sprintf("ACME-2026-%d", i), 1))
	}
	older, newer := testArchive(t, now.Add(-2*time.Hour)), testArchive(t, now.Add(-time.Hour))
	m := newMirror(t, read(t, newer))
	m.built = now.Add(-time.Hour)
	s := testStore(t, func(c *Config) { c.Now = nil })
	before, err := s.Import(t.Context(), older)
	if err != nil {
		t.Fatal(err)
	}
	size := uint64(sizeOf(before.Path))
	for _, c := range []child{
		{Do: "update", URL: m.URL, Limit: uint64(len(m.archive)) / 2},
		{Do: "update", URL: m.URL, Limit: size / 2},
		{Do: "import", Archive: newer, Limit: size / 2},
		{Do: "import", Archive: newer, Limit: size - 1},
		{Do: "merge", Advisories: []string{own}, Limit: size / 2},
		{Do: "merge", Advisories: []string{own}, Limit: size},
	} {
		c.Dir = s.cfg.Dir
		_, wait := begin(t, c)
		code, said := wait()
		if code != childNoRoom || !strings.Contains(said, "no room") || !strings.Contains(said, "GB free") {
			t.Errorf("%s with files of at most %d bytes: %d %s", c.Do, c.Limit, code, said)
		}
		if st, err := s.Status(t.Context()); err != nil || st.Checksum != before.Checksum {
			t.Errorf("%s with files of at most %d bytes: %+v, %v", c.Do, c.Limit, st, err)
		}
	}
	if left, err := s.named(workPrefix); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	// What was downloaded is still there for when there is room.
	s.cfg.LatestURL = m.URL
	asked := m.asked
	if res, err := s.Update(t.Context()); err != nil || !res.Updated || m.asked > asked+1 || m.ranges[asked] == "" {
		t.Errorf("with room: %+v, %v, ranges %q", res, err, m.ranges)
	}
}
