package main

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/policies/exceptions"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

func (a *app) exceptionsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "exceptions",
		Short:   "Import and export vulnerability exceptions as CSV, YAML and OpenVEX",
		Example: "  assay exceptions import exceptions.csv --to policies/exceptions.yaml",
	}
	c.AddCommand(a.exceptionsImport(), a.exceptionsExport())
	return c
}

// exceptionList is the document of `assay exceptions … -o json`.
type exceptionList struct {
	Schema     string                       `json:"schema"`
	Exceptions []api.VulnerabilityException `json:"exceptions"`
}

func (a *app) exceptionsImport() *cobra.Command {
	var to string
	c := &cobra.Command{
		Use:   "import FILE",
		Short: "Turn CSV or OpenVEX into VulnerabilityException YAML for a policies folder",
		Long: `Reads exceptions from CSV in Calico's columns
(CVE,Registry,Repository,Tags,Justification,Scope; Tags is a JSON list; a blank
registry is Docker Hub) or from an OpenVEX document, and writes them as YAML.
Further columns: Digest, Author, Created, Expires, Packages, Until; others are
ignored. Every bad row is reported with its line, and then nothing is written.`,
		Example: "  assay exceptions import exceptions.csv --to policies/exceptions.yaml\n  assay exceptions import vex.json",
		Args:    cobra.ExactArgs(1),
	}
	out := outputFlag(c)
	c.Flags().StringVar(&to, "to", "", "file to write, instead of standard output")
	c.RunE = func(c *cobra.Command, args []string) error {
		list, err := a.readExceptions(args[:1])
		if err != nil {
			return err
		}
		if *out == "json" {
			return writeJSON(a.out, exceptionList{api.SchemaExceptions, list})
		}
		text, err := exceptionsYAML(list)
		if err != nil {
			return err
		}
		if to == "" {
			_, err = a.out.Write(text)
			return err
		}
		if err := writeFile(to, text); err != nil {
			return err
		}
		fmt.Fprintf(a.out, "%s: %d exceptions\n", to, len(list))
		return nil
	}
	return c
}

// exceptionsYAML writes exceptions as a YAML stream, sorted: a file in git shows
// in its diff what changed.
func exceptionsYAML(list []api.VulnerabilityException) ([]byte, error) {
	var b bytes.Buffer
	seen := map[string]bool{}
	for _, e := range slices.SortedFunc(slices.Values(list), policies.CompareExceptions) {
		if seen[e.Metadata.Name] {
			continue // the same exception twice is one
		}
		seen[e.Metadata.Name] = true
		node, err := policies.YAMLNode(e)
		if err != nil {
			return nil, err
		}
		b.WriteString("---\n")
		enc := yaml.NewEncoder(&b)
		enc.SetIndent(2)
		if err := enc.Encode(node); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

func (a *app) exceptionsExport() *cobra.Command {
	var in inputs
	c := &cobra.Command{
		Use:   "export DIR",
		Short: "Write the exceptions of a policies folder as CSV",
		Long: `Writes the VulnerabilityExceptions of a folder, and of --exceptions files, as CSV
in Calico's columns followed by Assay's own.`,
		Example: "  assay exceptions export policies > exceptions.csv",
		Args:    cobra.ExactArgs(1),
	}
	out := outputFlag(c)
	c.Flags().StringSliceVar(&in.exceptions, "exceptions", nil, "further exceptions: CSV, YAML or OpenVEX; may be repeated")
	folderFlags(c.Flags(), &in.options)
	c.RunE = func(c *cobra.Command, args []string) error {
		set, err := a.folder(args[0], in.options)
		if err != nil {
			return err
		}
		more, err := a.readExceptions(in.exceptions)
		if err != nil {
			return err
		}
		list := slices.Concat(set.Exceptions, more)
		if *out == "json" {
			return writeJSON(a.out, exceptionList{api.SchemaExceptions, list})
		}
		return exceptions.WriteCSV(a.out, list)
	}
	return c
}
