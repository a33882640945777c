// Command bench compares Assay with plain Go, CEL and Gatekeeper on the same
// inputs in one process, and fails where their verdicts differ. See README.md.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"time"

	"github.com/assay-dev/assay/test/bench/fleet"
)

// config is how much is measured.
type config struct {
	fleet      fleet.Config
	policies   []int
	containers []int
	rounds     int
	slice      time.Duration // of a contender in a round
	loads      []int         // images of each bulk load
	events     []int
	readers    time.Duration // of each phase of the concurrent readers
}

func main() {
	quick := flag.Bool("quick", false, "fewer cases and rounds: less than 2 minutes")
	full := flag.Bool("full", false, "also 1,000,000 events, which take many GiB of memory")
	file := flag.String("json", "", "write the table to this `file` as JSON, too")
	seed := flag.Uint64("seed", 1, "of the fleet")
	flag.Parse()
	c := config{
		fleet: fleet.Config{Seed: *seed}, policies: []int{1, 10, 50, 200}, containers: []int{1, 3, 10}, rounds: 9, slice: 60 * time.Millisecond,
		loads: []int{10_000, 100_000}, events: []int{10_000}, readers: 10 * time.Second,
	}
	if *quick {
		c.policies, c.containers, c.rounds, c.slice = []int{1, 50, 200}, []int{3}, 5, 20*time.Millisecond
		c.loads, c.readers = []int{10_000}, 3*time.Second
	}
	if *full {
		c.events = append(c.events, 1_000_000)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, c, *file); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, c config, file string) error {
	t := &table{
		Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.GOMAXPROCS(0),
		Fleet: fleet.New(c.fleet).Config,
	}
	for _, measure := range []func(context.Context, config, *table) error{measureLoads, measureOne} {
		if err := measure(ctx, c, t); err != nil {
			return err
		}
	}
	if err := t.write(os.Stdout); err != nil {
		return fmt.Errorf("writing the table: %w", err)
	}
	if file == "" {
		return nil
	}
	text, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the table: %w", err)
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}
