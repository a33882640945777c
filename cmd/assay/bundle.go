package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/assay-dev/assay/bundles"
	"github.com/open-policy-agent/opa/v1/bundle"
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
	var split bool
	c := &cobra.Command{
		Use:   "build DIR -o FILE | build DIR --split -o FOLDER",
		Short: "Compile a policies folder, with scans and exceptions, to OPA bundles",
		Long: `Builds a bundle that any OPA evaluates. Equal input gives equal bytes and an
equal revision, which is printed. --split makes a bundle of each part, those that
'assay bundle serve' serves: together they decide as the one. --cluster makes the
bundle of one cluster: scans whose scope is of others are left out.`,
		Example: `  assay bundle build policies -o bundle.tar.gz --scans scans.json
  opa eval -b bundle.tar.gz -i review.json data.assay.admission.decision
  assay bundle build policies -o prod.tar.gz --scans scans.json --cluster prod
  assay bundle build policies --split -o bundles --scans scans.json
  opa run --server -b bundles/*.tar.gz`,
		Args: cobra.ExactArgs(1),
	}
	in.flags(c)
	must(c.Flags().MarkHidden("policies"))
	c.Flags().StringVarP(&out, "output", "o", "", "file to write, - for standard output; with --split the folder")
	c.Flags().BoolVar(&split, "split", false, "write a bundle for each part: policies, exceptions, names, images-00 to images-15")
	must(c.MarkFlagRequired("output"))
	c.RunE = func(c *cobra.Command, args []string) error {
		in.policies = args[0]
		if split {
			return a.buildParts(in, out)
		}
		b, err := a.bundle(in)
		if err != nil {
			return err
		}
		if out == "-" {
			text, err := bundles.Bytes(b)
			if err == nil {
				_, err = a.out.Write(text)
			}
			return err
		}
		return a.writeBundle(out, b)
	}
	return c
}

// buildParts writes a bundle for each part to a folder.
func (a *app) buildParts(in inputs, folder string) error {
	content, err := a.content(in)
	if err != nil {
		return err
	}
	parts, err := bundles.Split(content)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for _, name := range content.PartsOf() {
		file := filepath.Join(folder, filepath.FromSlash(name)+".tar.gz")
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := a.writeBundle(file, parts[name]); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) writeBundle(name string, b *bundle.Bundle) error {
	text, err := bundles.Bytes(b)
	if err != nil {
		return err
	}
	if err := writeFile(name, text); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "%s: revision %s, %d bytes\n", name, b.Manifest.Revision, len(text))
	return nil
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
