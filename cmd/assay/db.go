package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/scanner/vulndb"
	"github.com/spf13/cobra"
)

func (a *app) dbCommand() *cobra.Command {
	var dir, maxAge, url string
	var keep int
	var advisories []string
	c := &cobra.Command{
		Use:   "db",
		Short: "Keep the vulnerability database: update, import, list, roll back, build",
		Long: `The vulnerability database is Grype's (schema 6). It is kept in the user's cache
folder, or in the folder that ASSAY_DB or --dir names. A scan refuses a database
that is missing, damaged or older than 120 hours.

The folder keeps the last generations of the database. A new one is verified
whole before it takes the place of the one before, in one step; 'assay db
rollback' goes back in one step, too. Servers follow within half a minute.`,
		Example: "  assay db update\n  assay db import vulnerability-db.tar.zst\n  assay db rollback\n  assay db build advisories -o db.tar.zst",
	}
	c.PersistentFlags().StringVar(&dir, "dir", "", "folder of the database")
	c.PersistentFlags().StringVar(&maxAge, "max-age", "120h", "age from which a database is refused; 0 for any age")
	c.PersistentFlags().StringVar(&url, "url", "", "listing of databases at a mirror, or the folder above v6/latest.json (default ASSAY_DB_URL, or Grype's)")
	c.PersistentFlags().IntVar(&keep, "keep", vulndb.DefaultKeep, "generations that update, import and prune keep")
	c.PersistentFlags().StringSliceVar(&advisories, "advisories", nil, "file or folder of own advisories (OSV JSON) that update, import and merge put into the database; may be repeated")
	progress := &databaseProgress{app: a}
	open := func() (*vulndb.Store, error) {
		age, err := time.ParseDuration(maxAge)
		if err != nil {
			return nil, fmt.Errorf("--max-age must be a duration such as 120h, not %q", maxAge)
		}
		if age == 0 {
			age = -1
		}
		if keep < 1 {
			return nil, fmt.Errorf("--keep must be 1 or more, not %d", keep)
		}
		if dir == "" {
			if dir, err = databaseDir(); err != nil {
				return nil, err
			}
		}
		return vulndb.New(vulndb.Config{Dir: dir, MaxAge: age, Keep: keep, Advisories: advisories,
			LatestURL: cmp.Or(url, os.Getenv("ASSAY_DB_URL")), Progress: progress.report})
	}
	c.AddCommand(a.dbUpdate(open, progress), a.dbImport(open), a.dbBuild(), a.dbStatus(open), a.dbList(open), a.dbRollback(open), a.dbPrune(open, &keep), a.dbMerge(open, &advisories), a.dbExport(open), a.dbDiff(open))
	return c
}

type storeOpener func() (*vulndb.Store, error)

// databaseReport is the document of `assay db … -o json`.
type databaseReport struct {
	Schema  string    `json:"schema"`
	Path    string    `json:"path"`
	Built   time.Time `json:"built"`
	Version string    `json:"version,omitempty"`
	Sum     string    `json:"checksum,omitempty"`
	Source  string    `json:"source,omitempty"`
	Valid   bool      `json:"valid"`
	Error   string    `json:"error,omitempty"`
	Updated bool      `json:"updated,omitempty"`
	// Providers are the sources, Changes what it changed against the one before it.
	Providers  []api.DatabaseProvider `json:"providers,omitempty"`
	Changes    *api.DatabaseChanges   `json:"changes,omitempty"`
	LastUpdate *api.DatabaseUpdate    `json:"lastUpdate,omitempty"`
}

func (a *app) printDatabase(ctx context.Context, out *format, store *vulndb.Store, st *vulndb.Status, updated bool) error {
	r := databaseReport{Schema: api.SchemaDatabase, Path: st.Path, Built: st.Built, Version: st.Schema, Sum: st.Checksum, Source: st.Source, Valid: st.Err == nil, Updated: updated}
	if st.Err != nil {
		r.Error = st.Err.Error()
	}
	all, err := store.State(ctx)
	if err != nil {
		return err
	}
	r.Providers, r.LastUpdate = all.Providers, all.LastUpdate
	for _, g := range all.Generations {
		if g.Current {
			r.Changes = g.Changes
		}
	}
	if *out == "json" {
		return writeJSON(a.out, r)
	}
	state := a.paint(a.out, green, "valid")
	if st.Err != nil {
		state = a.paint(a.out, red, r.Error)
	}
	fmt.Fprintf(a.out, "Path:      %s\nBuilt:     %s (%s ago)\nSchema:    %s\nChecksum:  %s\nSource:    %s\nStatus:    %s\n",
		st.Path, st.Built.UTC().Format(time.RFC3339), st.Age.Round(time.Minute), st.Schema, st.Checksum, printable(st.Source), state)
	if r.Changes != nil {
		fmt.Fprintf(a.out, "Changes:   %s\n", r.Changes)
	}
	if u := r.LastUpdate; !updated && u != nil && u.Error != "" {
		fmt.Fprintf(a.out, "Update:    failed on %s: %s\n", u.At.Format(time.RFC3339), printable(u.Error))
	}
	return nil
}

func (a *app) dbUpdate(open storeOpener, progress *databaseProgress) *cobra.Command {
	c := &cobra.Command{
		Use:   "update",
		Short: "Download the newest published database",
		Long: `Downloads Grype's newest database, verifies it, and puts it in the place of the one
before in one step. A download that broke off goes on where it stopped, at the next
update too. While another process updates the same folder, this one waits.

Exit status: 0 the newest is current; 2 it is not, and what was current stays, or
own advisories cannot be used, and the last good ones are merged into the newest.`,
		Example: "  assay db update\n  assay db update --url https://mirror.example.com/databases",
		Args:    cobra.NoArgs,
	}
	out := outputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		store, err := open()
		if err != nil {
			return err
		}
		result, err := store.Update(c.Context())
		progress.end()
		if err != nil {
			return err
		}
		if result.Warning != "" {
			fmt.Fprintf(a.err, "%s %s\n", a.paint(a.err, yellow, "Warning:"), result.Warning)
		}
		if !result.Held.IsZero() {
			fmt.Fprintf(a.err, "Nothing newer is published than the database of %s, which was rolled back from: it is not fetched again.\n",
				result.Held.UTC().Format(time.RFC3339))
		}
		return errors.Join(a.printDatabase(c.Context(), out, store, result.Status, result.Updated), lastGood(result.Refused))
	}
	return c
}

// lastGood says that own advisories could not be used, and others were.
func lastGood(refused error) error {
	if refused == nil {
		return nil
	}
	return fmt.Errorf("the last good advisories are in the database, since the newest cannot be used: %w", refused)
}

func (a *app) dbImport(open storeOpener) *cobra.Command {
	c := &cobra.Command{
		Use:   "import ARCHIVE",
		Short: "Install a database from an archive, for sites without the internet",
		Long: `Verifies a database archive (.tar.zst, .tar.gz or .tar.xz, as 'assay db build' and
Grype publish them) and puts it in the place of the one before in one step.`,
		Example: "  assay db import vulnerability-db.tar.zst\n  assay db import vulnerability-db.tar.zst --checksum sha256:…",
		Args:    cobra.ExactArgs(1),
	}
	var sum string
	c.Flags().StringVar(&sum, "checksum", "", "sha256 checksum that the archive must have, as 'assay db export' prints it")
	out := outputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		store, err := open()
		if err != nil {
			return err
		}
		var st *vulndb.Status
		if c.Flags().Changed("checksum") {
			st, err = store.ImportSum(c.Context(), args[0], sum)
		} else {
			st, err = store.Import(c.Context(), args[0])
		}
		if err != nil {
			return err
		}
		return a.printDatabase(c.Context(), out, store, st, true)
	}
	return c
}

func (a *app) dbBuild() *cobra.Command {
	var to string
	built := moment{}
	c := &cobra.Command{
		Use:   "build ADVISORIES... -o DIR|ARCHIVE",
		Short: "Build a database from advisories in OSV's format",
		Long: `Builds a database from OSV JSON files, or folders of them: own advisories, tests,
examples. Ecosystems: Go, npm, PyPI, Debian:N, Alpine:vN.N. Equal advisories and an
equal --built give an equal database.`,
		Example: "  assay db build advisories -o db.tar.zst\n  assay scan --db db.tar.zst nginx:1.27",
		Args:    cobra.MinimumNArgs(1),
	}
	out := new(format)
	c.Flags().Var(out, "format", "output format: text or json")
	c.Flags().StringVarP(&to, "output", "o", "", "folder, or archive ending in .tar.zst, to write")
	c.Flags().Var(&built, "built", "time of building to record, instead of the clock")
	must(c.MarkFlagRequired("output"))
	c.RunE = func(c *cobra.Command, args []string) error {
		result, err := vulndb.Build(c.Context(), args, to, built.or(time.Now().UTC()))
		if err != nil {
			return err
		}
		if *out == "json" {
			return writeJSON(a.out, map[string]any{"schema": api.SchemaDatabase, "path": to, "built": result.Database.Built,
				"checksum": result.Database.Checksum, "advisories": result.Advisories, "cves": result.CVEs})
		}
		fmt.Fprintf(a.out, "%s: built of %d advisories about %d CVEs\n", to, result.Advisories, result.CVEs)
		return nil
	}
	return c
}

func (a *app) dbStatus(open storeOpener) *cobra.Command {
	c := &cobra.Command{
		Use:   "status",
		Short: "Show which database is in use, and whether it is valid",
		Long: `Shows the database's path, age and state.

Exit status: 0 it is valid; 2 it is missing, damaged or too old.`,
		Example: "  assay db status -o json",
		Args:    cobra.NoArgs,
	}
	out := outputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		store, err := open()
		if err != nil {
			return err
		}
		st, err := store.Status(c.Context())
		if st == nil || err != nil && !errors.Is(err, vulndb.ErrExpired) {
			return err
		}
		if err := a.printDatabase(c.Context(), out, store, st, false); err != nil {
			return err
		}
		if st.Err != nil {
			return answer(exitUsage)
		}
		return nil
	}
	return c
}
