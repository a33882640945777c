package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/priority"
	"github.com/spf13/cobra"
)

func (a *app) prioritiesCommand() *cobra.Command {
	var in inputs
	var now moment
	top := 10
	c := &cobra.Command{
		Use:   "priorities REPORT...",
		Short: "What to fix first: upgrades and newer base images, in order, with reasons",
		Long: `Orders what can be done about the vulnerabilities of scanned images: the packages
to upgrade, and the images to rebuild on a newer base. A REPORT is the JSON of
'assay scan' ('-' is standard input).

First comes what is known to be exploited (KEV), then what is likely to be (EPSS
of 10% or more), then what makes an image Fail, then the rest; among equals what
is the most to be expected: EPSS times CVSS score, summed over the images. What
exceptions cover does not count. The server also knows what runs, and puts that
first: GET /api/v1/priorities. The whole order is in docs/priorities.md.

A base image is found where its own scan is among the reports, where images of
different repositories have their lowest layers in common, or by labels.

Exit status: 0; 2 usage or bad input.`,
		Example: `  assay scan nginx:1.27 redis:7 -o json=scans.json --fail-on never; assay priorities scans.json
  assay scan nginx:1.27 -o json | assay priorities - --exceptions exceptions.csv
  assay priorities scans.json --policies policies --top 0 -o json`,
		Args: cobra.MinimumNArgs(1),
	}
	in.policyFlags(c)
	c.Flags().IntVarP(&top, "top", "n", top, "how many to show, 0 for all")
	c.Flags().Var(&now, "now", "moment for exceptions to be in force, instead of the clock")
	out := outputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if top < 0 {
			return fmt.Errorf("--top must be 0 or more, not %d", top)
		}
		in.scans = args
		content, err := a.content(in)
		if err != nil {
			return err
		}
		scans := newestOfNames(content.Scans)
		content.Scans = nil
		return a.priorities(c.Context(), scans, content, now.or(time.Now()), top, *out)
	}
	return c
}

// newestOfNames leaves the newest scan without error of each name and digest.
func newestOfNames(scans []api.Scan) []api.Scan {
	newest := map[[2]string]api.Scan{}
	for _, s := range scans {
		key := [2]string{s.Image, s.Digest}
		if old, ok := newest[key]; s.Error == "" && (!ok || !s.ScannedAt.Before(old.ScannedAt)) {
			newest[key] = s
		}
	}
	return slices.SortedFunc(maps.Values(newest), func(a, b api.Scan) int {
		return strings.Compare(a.Image+"\x00"+a.Digest, b.Image+"\x00"+b.Digest)
	})
}

func (a *app) priorities(ctx context.Context, scans []api.Scan, content bundles.Content, now time.Time, top int, out format) error {
	if err := classify(ctx, scans, content, now); err != nil {
		return err
	}
	bases := findBases(scans)
	book := priority.NewBook()
	items := make([]priority.Item, len(scans))
	images := make([]*priority.Image, len(scans))
	for i := range scans {
		images[i] = book.Image(&scans[i])
	}
	for i, m := range images {
		var newer *priority.Contents
		if n := newerBase(scans, bases[i]); n >= 0 {
			newer = priority.NewContents(bases[i].Name, images[n])
		}
		items[i].Image = book.On(m, m.Result, bases[i], newer)
	}
	order := priority.NewOrder(items, api.DefaultFail) // the engine said of each what decides
	if top == 0 {
		top = order.Len()
	}
	list, _, err := order.Page("", top)
	if err != nil {
		return err
	}
	report := api.Priorities{Schema: api.SchemaPriorities, Images: len(items), Items: list}
	if out == "json" {
		return writeJSON(a.out, report)
	}
	a.printPriorities(a.out, report, order.Len())
	return nil
}

// findBases finds the base image of each scan, among the others and by labels.
func findBases(scans []api.Scan) []*api.BaseImage {
	bases := priority.NewBases()
	known := make([]*priority.Known, len(scans))
	for i := range scans {
		known[i] = priority.NewKnown(scans[i].Image, &scans[i])
		bases.Add(known[i])
	}
	found := make([]*api.BaseImage, len(scans))
	for i := range scans {
		found[i] = bases.Find(known[i])
	}
	return found
}

// newerBase is the newest scan under the name of a base, of another digest; -1 where there is none.
func newerBase(scans []api.Scan, base *api.BaseImage) int {
	newest, own := -1, -1
	if base == nil || base.Name == "" {
		return newest
	}
	for i := range scans {
		s := &scans[i]
		switch {
		case s.Digest == "" || !api.SameReference(s.Image, base.Name):
		case s.Digest == base.Digest:
			own = i
		case newest < 0 || scans[newest].ScannedAt.Before(s.ScannedAt):
			newest = i
		}
	}
	if newest < 0 || own < 0 || !scans[own].ScannedAt.Before(scans[newest].ScannedAt) || scans[own].Platform != scans[newest].Platform {
		return -1
	}
	return newest
}

func (a *app) printPriorities(w io.Writer, report api.Priorities, all int) {
	if len(report.Items) == 0 {
		fmt.Fprintf(w, "nothing to do in %d %s: no vulnerability that counts has a fix\n", report.Images, plural(report.Images, "image", "images"))
		return
	}
	for i, x := range report.Items {
		line := fmt.Sprintf("%d. %s", i+1, printable(x.Summary))
		if x.Tier <= api.TierLikely {
			line = a.paint(w, red, line)
		}
		fmt.Fprintln(w, line)
		for _, r := range x.Reasons {
			fmt.Fprintf(w, "     %s\n", printable(r))
		}
	}
	if more := all - len(report.Items); more > 0 {
		fmt.Fprintf(w, "… and %d more; --top 0 shows all\n", more)
	}
}
