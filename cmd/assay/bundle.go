package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/assay-dev/assay/bundles"
	"github.com/spf13/cobra"
)

func (a *app) bundleCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "bundle",
		Short:   "Build, sign, verify and serve OPA bundles",
		Example: "  assay bundle build policies -o bundle.tar.gz\n  assay bundle serve policies --sign-key assay.key",
	}
	c.AddCommand(a.bundleBuild(), a.bundleKeygen(), a.bundleSign(), a.bundleVerify(), a.bundleServe())
	return c
}

func (a *app) bundleBuild() *cobra.Command {
	var in inputs
	var out string
	c := &cobra.Command{
		Use:   "build DIR -o FILE",
		Short: "Compile a policies folder, with scans and exceptions, to an OPA bundle",
		Long: `Builds a bundle that any OPA evaluates. Equal input gives equal bytes and an
equal revision, which is printed.`,
		Example: `  assay bundle build policies -o bundle.tar.gz --scans scans.json
  opa eval -b bundle.tar.gz -i review.json data.assay.admission.decision`,
		Args: cobra.ExactArgs(1),
	}
	in.flags(c)
	must(c.Flags().MarkHidden("policies"))
	c.Flags().StringVarP(&out, "output", "o", "", "file to write, - for standard output")
	must(c.MarkFlagRequired("output"))
	c.RunE = func(c *cobra.Command, args []string) error {
		in.policies = args[0]
		b, err := a.bundle(in)
		if err != nil {
			return err
		}
		text, err := bundles.Bytes(b)
		if err != nil {
			return err
		}
		if out == "-" {
			_, err = a.out.Write(text)
			return err
		}
		if err := writeFile(out, text); err != nil {
			return err
		}
		fmt.Fprintf(a.out, "%s: revision %s, %d bytes\n", out, b.Manifest.Revision, len(text))
		return nil
	}
	return c
}

// writeFile replaces a file at once: a reader sees the old or the new one.
func writeFile(name string, text []byte) error {
	if old, err := os.ReadFile(name); err == nil && bytes.Equal(old, text) {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone after the rename, if all went well
	if _, err = f.Write(text); err == nil {
		err = f.Chmod(0o644)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return os.Rename(f.Name(), name)
}
