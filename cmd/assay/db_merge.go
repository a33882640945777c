package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-dev/assay/api"
)

func (a *app) dbMerge(open storeOpener, advisories *[]string) *cobra.Command {
	c := &cobra.Command{
		Use:   "merge --advisories DIR",
		Short: "Put own advisories into the current database, without a download",
		Long: `Makes a new generation of the published database and your own advisories in OSV's
format, unless they are in it as they are. Advisories that were removed from the
folder are removed. Matches of own advisories have a namespace that begins with
"own:".

When advisories cannot be used, all that is wrong with them is said, and the last
good ones stay in the database: exit status 2.`,
		Example: "  assay db merge --advisories advisories\n  assay db update --advisories advisories",
		Args:    cobra.NoArgs,
	}
	out := outputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if len(*advisories) == 0 {
			return errors.New("name the folder of your advisories: --advisories DIR")
		}
		store, err := open()
		if err != nil {
			return err
		}
		result, err := store.Merge(c.Context())
		if err != nil {
			return err
		}
		return errors.Join(a.printDatabase(c.Context(), out, store, result.Status, result.Merged), lastGood(result.Refused))
	}
	return c
}

// exportReport is the document of `assay db export -o json`.
type exportReport struct {
	Schema string    `json:"schema"`
	Path   string    `json:"path"`
	Built  time.Time `json:"built"`
	Sum    string    `json:"checksum"`
	Bytes  int64     `json:"bytes"`
}

func (a *app) dbExport(open storeOpener) *cobra.Command {
	c := &cobra.Command{
		Use:   "export FILE",
		Short: "Write the current database to an archive, to carry to a site without network",
		Long: `Verifies the current database and writes it to an archive (.tar.zst) that 'assay db
import' takes, and prints the archive's sha256 checksum for its --checksum: carry
that by another way than the archive. Own advisories that are merged in go along;
--published leaves them out, for a site that has its own.`,
		Example: "  assay db export vulnerability-db.tar.zst",
		Args:    cobra.ExactArgs(1),
	}
	var published bool
	c.Flags().BoolVar(&published, "published", false, "leave out own advisories")
	out := outputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		store, err := open()
		if err != nil {
			return err
		}
		sum, st, err := store.Export(c.Context(), args[0], published)
		if err != nil {
			return err
		}
		info, err := os.Stat(args[0])
		if err != nil {
			return err
		}
		if *out == "json" {
			return writeJSON(a.out, exportReport{Schema: api.SchemaDatabaseExport, Path: args[0], Built: st.Built, Sum: sum, Bytes: info.Size()})
		}
		fmt.Fprintf(a.out, "%s: the database of %s (%.1f MB)\n%s\n", args[0], st.Built.Format(time.RFC3339), float64(info.Size())/1e6, sum)
		return nil
	}
	return c
}
