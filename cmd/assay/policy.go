package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/engine/regotest"
	"github.com/assay-dev/assay/policies"
	"github.com/spf13/cobra"
)

func (a *app) policyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "policy",
		Short:   "Check, compile and test a folder of policies",
		Example: "  assay policy check policies",
	}
	c.AddCommand(a.policyCheck(), a.policyCompile(), a.policyTest())
	return c
}

// checkReport is the document of `assay policy check -o json`.
type checkReport struct {
	Schema      string               `json:"schema"`
	OK          bool                 `json:"ok"`
	Policies    int                  `json:"policies"`
	Exceptions  int                  `json:"exceptions"`
	Alerts      int                  `json:"alerts"`
	Rego        int                  `json:"rego"`
	Diagnostics policies.Diagnostics `json:"diagnostics"`
	// Foreign are objects of other tools that were left out.
	Foreign policies.Diagnostics `json:"foreign,omitempty"`
}

func (a *app) policyCheck() *cobra.Command {
	c := &cobra.Command{
		Use:   "check DIR",
		Short: "Report everything that is wrong with the files of a folder",
		Long: `Parses, validates and compiles a policies folder, and prints each fault with
its file, line and column.

Exit status: 0 all is well; 2 something is wrong.`,
		Example: "  assay policy check policies\n  assay policy check policies -o json",
		Args:    cobra.ExactArgs(1),
	}
	out := outputFlag(c)
	var options policies.Options
	folderFlags(c.Flags(), &options)
	c.RunE = func(c *cobra.Command, args []string) error {
		report := checkReport{Schema: api.SchemaCheck, Diagnostics: policies.Diagnostics{}}
		set, err := a.folder(args[0], options)
		if err == nil {
			report.Foreign = set.Foreign
			_, err = bundles.Build(bundles.Content{Policies: set})
			report.Policies, report.Exceptions = len(set.Policies), len(set.Exceptions)
			report.Alerts, report.Rego = len(set.Alerts)+len(set.VerdictAlerts), len(set.Custom)
		}
		if err != nil && !errors.As(err, &report.Diagnostics) {
			return err
		}
		report.OK = err == nil
		if *out == "json" {
			if err := writeJSON(a.out, report); err != nil {
				return err
			}
		} else if report.OK {
			fmt.Fprintf(a.out, "%s %s: %d policies, %d exceptions, %d alerts, %d Rego modules\n", a.paint(a.out, green, "ok"), args[0],
				report.Policies, report.Exceptions, report.Alerts, report.Rego)
		} else {
			fmt.Fprintf(a.err, "%s\n%s %s: %d faults\n", printableLines(report.Diagnostics.Error()), a.paint(a.err, red, "Error:"), args[0], len(report.Diagnostics))
		}
		if !report.OK {
			return answer(exitUsage)
		}
		return nil
	}
	return c
}

func (a *app) policyCompile() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "compile DIR",
		Short: "Print, or write to a folder, the Rego that policies compile to",
		Long: `Compiles a policies folder. With --to the modules are written as files, those of
Assay's own library beside them: 'opa check --strict' accepts the folder.`,
		Example: "  assay policy compile policies\n  assay policy compile policies --to build/rego",
		Args:    cobra.ExactArgs(1),
	}
	out := outputFlag(c)
	c.Flags().StringVar(&dir, "to", "", "folder to write to, instead of standard output")
	var options policies.Options
	folderFlags(c.Flags(), &options)
	must(c.MarkFlagDirname("to"))
	c.RunE = func(c *cobra.Command, args []string) error {
		set, err := a.folder(args[0], options)
		if err != nil {
			return err
		}
		modules, err := set.Compile()
		if err != nil {
			return err
		}
		if dir != "" {
			b, err := bundles.Build(bundles.Content{Policies: set})
			if err != nil {
				return err
			}
			for _, m := range b.Modules {
				path := filepath.Join(dir, filepath.FromSlash(m.Path))
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					return err
				}
				if err := os.WriteFile(path, m.Raw, 0o644); err != nil {
					return err
				}
			}
			return nil
		}
		if *out == "json" {
			return writeJSON(a.out, map[string]any{"schema": api.SchemaCheck, "modules": modules})
		}
		for _, name := range slices.Sorted(maps.Keys(modules)) {
			fmt.Fprintf(a.out, "# --- %s\n%s\n", name, modules[name])
		}
		return nil
	}
	return c
}

func (a *app) policyTest() *cobra.Command {
	var in inputs
	var pattern string
	c := &cobra.Command{
		Use:   "test DIR",
		Short: "Run the Rego tests (*_test.rego) of a policies folder",
		Long: `Runs the tests of a folder with OPA's own test runner, against the compiled
policies, Assay's library and, where given, scans and exceptions as data.

Exit status: 0 all pass; 1 one fails; 2 usage, bad input, or no test was found.`,
		Example: "  assay policy test policies\n  assay policy test policies --scans scans.json --run labels",
		Args:    cobra.ExactArgs(1),
	}
	out := outputFlag(c)
	in.flags(c)
	must(c.Flags().MarkHidden("policies"))
	c.Flags().StringVar(&pattern, "run", "", "run only the tests whose name matches this regular expression")
	c.RunE = func(c *cobra.Command, args []string) error {
		in.policies = args[0]
		content, err := a.content(in)
		if err != nil {
			return err
		}
		set := content.Policies
		b, err := bundles.Build(content)
		if err != nil {
			return err
		}
		if len(set.Tests) == 0 {
			return fmt.Errorf("%s: there is no *_test.rego file", args[0])
		}
		results, err := regotest.Run(c.Context(), set, b, regotest.Config{Pattern: pattern})
		if err != nil {
			return err
		}
		if len(results) == 0 {
			return fmt.Errorf("%s: no test was run", args[0])
		}
		if *out == "json" {
			err = writeJSON(a.out, map[string]any{"schema": "assay.dev/test/v1", "tests": results})
		} else {
			a.printTests(results)
		}
		if err == nil && slices.ContainsFunc(results, func(r regotest.Result) bool { return !r.Pass }) {
			return answer(exitNo)
		}
		return err
	}
	return c
}

func (a *app) printTests(results []regotest.Result) {
	failed := 0
	for _, r := range results {
		if r.Pass {
			continue
		}
		failed++
		fmt.Fprintf(a.out, "%s %s (%s:%d) %s\n", a.paint(a.out, red, "FAIL"), r.Name, r.File, r.Line, printable(r.Error))
	}
	fmt.Fprintf(a.out, "%d passed, %d failed\n", len(results)-failed, failed)
}
