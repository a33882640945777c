// Command assay-webhook is the admission server: it decides by policies and scan
// results that it follows, and scans nothing itself.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// run gives the exit status: 0 when it was told to end, 1 when serving failed, 2 for
// wrong flags or files.
func run(ctx context.Context, args []string) int {
	c := command()
	c.SetArgs(args)
	err := c.ExecuteContext(ctx)
	switch {
	case err == nil:
		return 0
	case isServing(err):
		fmt.Fprintln(os.Stderr, "Error:", err)
		return 1
	}
	fmt.Fprintln(os.Stderr, "Error:", err)
	return 2
}
