package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/scanner/vulndb"
)

// generationsReport is the document of `assay db list` and `assay db prune`.
type generationsReport struct {
	Schema      string                   `json:"schema"`
	Generations []api.DatabaseGeneration `json:"generations"`
}

func reportGenerations(list []vulndb.Generation) generationsReport {
	r := generationsReport{Schema: api.SchemaGenerations, Generations: []api.DatabaseGeneration{}}
	for _, g := range list {
		r.Generations = append(r.Generations, g.Report())
	}
	return r
}

func (a *app) dbList(open storeOpener) *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List the generations of the database that are kept",
		Long: `Lists the databases that are kept, the last that came first. The one that is
marked * serves. 'assay db rollback NAME' makes another one current.`,
		Example: "  assay db list\n  assay db list -o json",
		Args:    cobra.NoArgs,
	}
	out := outputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		store, err := open()
		if err != nil {
			return err
		}
		list, err := store.Generations(c.Context())
		if err != nil {
			return err
		}
		if *out == "json" {
			return writeJSON(a.out, reportGenerations(list))
		}
		w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "\tNAME\tBUILT\tCAME\tSIZE\tCHECKSUM")
		for _, g := range list {
			mark, sum := "", g.Checksum
			if g.Current {
				mark = "*"
			}
			if g.Err != nil {
				sum = g.Err.Error()
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.1f MB\t%s\n", mark, printable(g.Name), g.Built.UTC().Format(time.RFC3339),
				g.Imported.UTC().Format(time.RFC3339), float64(g.Bytes)/1e6, printable(sum))
		}
		return w.Flush()
	}
	return c
}

func (a *app) dbRollback(open storeOpener) *cobra.Command {
	c := &cobra.Command{
		Use:   "rollback [NAME]",
		Short: "Go back to the database before, or to another one that is kept",
		Long: `Verifies the database that came before the current one, or the one of that name
in 'assay db list' (its beginning is enough), and makes it current in one step.
Running servers follow within half a minute.

Updates then leave the database alone until one is published that is newer than
the one that was left. To go forward again, name the generation that was left.

Exit status: 0 it is current; 2 there is none, or it is damaged: nothing changed.`,
		Example: "  assay db rollback\n  assay db rollback 20260102T030405Z",
		Args:    cobra.MaximumNArgs(1),
	}
	out := outputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		store, err := open()
		if err != nil {
			return err
		}
		name := ""
		if len(args) == 1 {
			name = args[0]
		}
		st, err := store.Rollback(c.Context(), name)
		if err != nil {
			return err
		}
		return a.printDatabase(c.Context(), out, store, st, true)
	}
	return c
}

func (a *app) dbPrune(open storeOpener, keep *int) *cobra.Command {
	c := &cobra.Command{
		Use:   "prune",
		Short: "Remove old generations of the database",
		Long: `Removes databases but for the newest --keep of them and the current one, and what
interrupted updates left behind. Updates and imports do so themselves, but leave
alone what came within ten minutes.`,
		Example: "  assay db prune --keep 1",
		Args:    cobra.NoArgs,
	}
	out := outputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		store, err := open()
		if err != nil {
			return err
		}
		removed, err := store.Prune(c.Context(), *keep)
		if err != nil {
			return err
		}
		if *out == "json" {
			return writeJSON(a.out, reportGenerations(removed))
		}
		for _, g := range removed {
			fmt.Fprintf(a.out, "Removed %s, built %s\n", printable(g.Name), g.Built.UTC().Format(time.RFC3339))
		}
		if len(removed) == 0 {
			fmt.Fprintln(a.out, "There was nothing to remove.")
		}
		return nil
	}
	return c
}

// diffReport is the document of `assay db diff`.
type diffReport struct {
	Schema  string               `json:"schema"`
	Older   string               `json:"older"`
	Newer   string               `json:"newer"`
	Summary *api.DatabaseChanges `json:"summary"`
	*vulndb.Changes
}

func (a *app) dbDiff(open storeOpener) *cobra.Command {
	c := &cobra.Command{
		Use:   "diff [OLD [NEW]]",
		Short: "Show what one database changed against another",
		Long: `Shows which vulnerabilities the newer of two databases that are kept adds, removes
and changes, and which packages they concern. Without names, the current one is
compared with the one that came before it. Names are those of 'assay db list'; the
beginning is enough. Rescored ones are the same but for EPSS or KEV.`,
		Example: "  assay db diff\n  assay db diff 20260102T 20260103T -o json",
		Args:    cobra.MaximumNArgs(2),
	}
	out := outputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		store, err := open()
		if err != nil {
			return err
		}
		args = append(args, "", "")
		changes, from, to, err := store.Compare(c.Context(), args[0], args[1])
		if err != nil {
			return err
		}
		counts := changes.Counts(from.Checksum)
		if *out == "json" {
			return writeJSON(a.out, diffReport{Schema: api.SchemaDatabaseDiff, Older: from.Name, Newer: to.Name, Summary: counts, Changes: changes})
		}
		fmt.Fprintf(a.out, "%s (built %s) against %s (built %s): %s\n", printable(to.Name), to.Built.UTC().Format(time.RFC3339),
			printable(from.Name), from.Built.UTC().Format(time.RFC3339), counts)
		w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
		if len(changes.Vulnerabilities) > 0 {
			fmt.Fprintln(w, "\nVULNERABILITY\tCHANGE")
		}
		for _, v := range changes.Vulnerabilities {
			fmt.Fprintf(w, "%s\t%s\n", printable(v.ID), v.Kind)
		}
		if len(changes.Packages) > 0 {
			fmt.Fprintln(w, "\nPACKAGE\tECOSYSTEM\tCHANGE")
		}
		for _, p := range changes.Packages {
			what := "text, score or date"
			if p.Affected {
				what = "what is affected"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\n", printable(p.Name), printable(p.Ecosystem), what)
		}
		return w.Flush()
	}
	return c
}
