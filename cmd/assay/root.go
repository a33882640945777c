package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/assay-dev/assay/cmd/durations"
)

// Exit codes of every command.
const (
	exitOK       = 0
	exitNo       = 1 // the answer is no: a Fail, a rejection, a failed test
	exitUsage    = 2 // usage, or bad input
	exitUnscaned = 3 // an image could not be scanned, or is Unknown
)

// streams are what a command reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// answer is an error that only carries an exit code: everything is said already.
type answer int

func (a answer) Error() string { return fmt.Sprintf("exit status %d", int(a)) }

// app is what the subcommands share.
type app struct {
	streams
	ctx context.Context // files are read until it ends
	log *slog.Logger
}

// run executes one command line and returns its exit code.
func run(ctx context.Context, args []string, s streams) int {
	a := &app{streams: s, ctx: ctx, log: slog.New(slog.NewTextHandler(s.err, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	err := root.ExecuteContext(ctx)
	var code answer
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &code):
		return int(code)
	}
	fmt.Fprintf(s.err, "%s %v\n", a.paint(s.err, red, "Error:"), err)
	return exitUsage
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "assay",
		Short: "Policy as code for container images: scan, classify, admit or reject",
		Long: `assay scans container images (SBOM by Syft, vulnerabilities by Grype), classifies
each Pass, Warn or Fail, and decides by policies in git whether a Kubernetes
workload may run them. Policies compile to Rego: 'opa eval' on the bundle gives
the same verdict.

Exit status: 0 success; 1 the answer is no (an image fails, a workload is
rejected, a test fails); 2 usage or bad input; 3 an image could not be scanned
or is Unknown, or what was asked for selects none.`,
		Example: `  assay db update
  assay scan nginx:1.27
  assay admit -f deployment.yaml --policies policies --scans scans.json`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version(),
	}
	root.SetVersionTemplate("assay {{.Version}}\n")
	root.AddCommand(a.scanCommand(), a.prioritiesCommand(), a.dbCommand(), a.admitCommand(), a.replayCommand(), a.alertsCommand(),
		a.policyCommand(), a.bundleCommand(), a.exceptionsCommand(), a.serveCommand(), a.nodeCommand(), a.scanOneCommand(), a.backupCommand(), a.doctorCommand())
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w\nSee '%s --help'", err, c.CommandPath())
	})
	refuseUnknownWords(root)
	durations.NotNegative(root)
	return root
}

// release is set by the linker for what is released.
var release string

// version is that of the module, or the commit that it was built from.
func version() string {
	if release != "" {
		return release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (v == "" || v == "(devel)") {
			v = s.Value
		}
	}
	return v
}
