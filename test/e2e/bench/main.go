// Command bench measures what admission costs on a real API server: creations of Pods
// without a webhook, with an empty one, with assay-webhook and with
// ValidatingAdmissionPolicies, in turns; and reviews straight to the webhook.
//
//	go run ./bench [-rounds 10] [-pods 25] [-json FILE]
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/assay-dev/assay/test/e2e/cluster"
)

func main() {
	var c config
	flag.IntVar(&c.rounds, "rounds", 10, "turns of each contender, of which the first warms up")
	flag.IntVar(&c.pods, "pods", 25, "Pods that each client creates in a turn")
	flag.IntVar(&c.images, "images", 10_000, "images of the memory test")
	flag.DurationVar(&c.load, "load", 20*time.Second, "length of each load straight on the webhook")
	file := flag.String("json", "", "file for the figures")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	report, err := run(ctx, c)
	if err == nil && *file != "" {
		var text []byte
		if text, err = json.MarshalIndent(report, "", "  "); err == nil {
			err = os.WriteFile(*file, text, 0o600)
		}
	}
	if err != nil {
		log.Fatal(err)
	}
}

type config struct {
	rounds, pods, images int
	load                 time.Duration
}

// Report is what was measured.
type Report struct {
	Creates []Create       `json:"creates"`
	Load    []Load         `json:"load"`
	Sizes   map[string]any `json:"sizes"`
}

// Create is how long creations of a Pod took for one contender.
type Create struct {
	Contender string  `json:"contender"`
	Clients   int     `json:"clients"`
	Count     int     `json:"count"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
	// Ratio is P50 by that of the empty webhook.
	Ratio float64 `json:"ratio"`
}

func run(ctx context.Context, c config) (*Report, error) {
	dir, err := os.MkdirTemp("", "assay-bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "assay-webhook")
	root := "../.."
	if _, err := os.Stat("../../cmd/assay-webhook"); err != nil {
		root = "../../.." // from the folder of this command
	}
	build := exec.CommandContext(ctx, "go", "build", "-C", root, "-trimpath", "-ldflags", "-s -w", "-o", program, "./cmd/assay-webhook")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the webhook: %w\n%s", err, out)
	}
	k, err := cluster.New(cluster.Config{})
	if err != nil {
		return nil, err
	}
	defer func() { _ = k.Close() }()
	b := &bench{config: c, ctx: ctx, dir: dir, program: program, cluster: k}
	defer b.stop()
	report := &Report{Sizes: map[string]any{}}
	if info, err := os.Stat(program); err == nil {
		report.Sizes["binary MB"] = info.Size() / 1_000_000
	}
	if report.Creates, err = b.creates(); err != nil {
		return nil, err
	}
	fmt.Printf("%-28s %7s %8s %8s %8s %6s\n", "contender", "clients", "count", "p50 ms", "p99 ms", "ratio")
	for _, x := range report.Creates {
		fmt.Printf("%-28s %7d %8d %8.2f %8.2f %6.2f\n", x.Contender, x.Clients, x.Count, x.P50, x.P99, x.Ratio)
	}
	if report.Load, err = b.loads(); err != nil {
		return nil, err
	}
	for _, x := range report.Load {
		fmt.Printf("%-40s %7.0f reviews/s, p50 %.2f ms, p99 %.2f ms, %d errors\n", x.Name, x.PerSecond, x.P50, x.P99, x.Errors)
	}
	if err := b.sizes(report.Sizes); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(keys(report.Sizes)) {
		fmt.Printf("%-60s %v\n", name, report.Sizes[name])
	}
	return report, nil
}

func keys(m map[string]any) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// quantile of durations, in milliseconds.
func quantile(list []time.Duration, q float64) float64 {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return float64(list[min(int(q*float64(len(list))), len(list)-1)].Microseconds()) / 1000
}

// rulebook is n policies of which one applies to the Pods, or all do.
func rulebook(n int, all bool) string {
	var b strings.Builder
	for i := range n - 1 {
		if all {
			fmt.Fprintf(&b, policy, fmt.Sprintf("p%03d", i), fmt.Sprintf(`{action: Reject, imagePath: {operator: IsOneOf, values: ['/prod/w.*%d?']}, imageScanStatus: {operator: IsOneOf, values: [Fail]}}`, i))
		} else {
			fmt.Fprintf(&b, policy, fmt.Sprintf("p%03d", i), fmt.Sprintf(`{action: Reject, imagePath: {operator: IsOneOf, values: ['^registry\.example\.com/team-%d/']}, imageScanStatus: {operator: IsOneOf, values: [Fail, Unknown]}}`, i))
		}
	}
	fmt.Fprintf(&b, policy, "z", `{action: Allow, imagePath: {operator: IsOneOf, values: ['^registry\.example\.com/prod/']}, imageScanStatus: {operator: IsOneOf, values: [Pass, Warn]}}, {action: Reject}`)
	return b.String()
}

const policy = "---\napiVersion: containersecurity.tigera.io/v1beta1\nkind: ContainerAdmissionPolicy\nmetadata: {name: %s}\nspec: {rules: [%s]}\n"
