package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/spf13/cobra"
)

func (a *app) alertsCommand() *cobra.Command {
	var (
		in     inputs
		events string
		now    moment
	)
	c := &cobra.Command{
		Use:   "alerts --policies DIR [--events FILE.jsonl] [--scans FILE…]",
		Short: "Show the alerts that fire over a file of events, and over scans",
		Long: `Evaluates the GlobalAlerts of a policies folder over events, one JSON object a
line ('-' is standard input), at a moment. Each alert looks back over its own
window, which ends now.

VerdictAlerts are about what later scans of an image found: they are evaluated
over scan reports, with the exceptions and thresholds of the folder and of
--exceptions. Where an image runs is what its last event says. Without --scans
they are left out, with a warning.

Exit status: 0 whether or not alerts fire; 2 usage or bad input.`,
		Example: `  assay alerts --policies policies --events events.jsonl
  assay alerts --policies policies --events events.jsonl --now 2026-01-31T12:00:00Z -o json
  assay alerts --policies policies --scans monday.json --scans tuesday.json`,
		Args: cobra.NoArgs,
	}
	out := outputFlag(c)
	in.flags(c)
	c.Flags().StringVar(&events, "events", "", "events as JSON lines; - is standard input")
	c.Flags().Var(&now, "now", "moment to evaluate at, instead of the clock")
	must(c.MarkFlagRequired("policies"))
	c.MarkFlagsOneRequired("events", "scans")
	c.RunE = func(c *cobra.Command, _ []string) error {
		set, e, scans, err := a.engine(c.Context(), in)
		if err != nil {
			return err
		}
		var list []api.Event
		alerts := []api.Alert{}
		at := now.or(time.Now())
		if events != "" {
			if list, err = a.readEvents(events); err != nil {
				return err
			}
			if alerts, err = e.Alerts(c.Context(), list, at); err != nil {
				return err
			}
		} else if len(set.Alerts) > 0 {
			a.leftOut("GlobalAlerts", len(set.Alerts), "--events")
		}
		if len(in.scans) > 0 {
			more, err := verdictAlerts(c.Context(), e, set.VerdictAlerts, scans, list, at)
			if err != nil {
				return err
			}
			alerts = append(alerts, more...)
			slices.SortStableFunc(alerts, func(x, y api.Alert) int { return strings.Compare(x.Name, y.Name) })
		} else if len(set.VerdictAlerts) > 0 {
			a.leftOut("VerdictAlerts", len(set.VerdictAlerts), "--scans")
		}
		if *out == "json" {
			return writeJSON(a.out, api.AlertList{Schema: api.SchemaAlerts, Alerts: alerts})
		}
		a.printAlerts(alerts)
		return nil
	}
	return c
}

// leftOut warns of rules that are not evaluated.
func (a *app) leftOut(kind string, n int, flag string) {
	fmt.Fprintf(a.err, "%s %d %s not evaluated: they need %s\n", a.paint(a.err, yellow, "Warning:"), n, kind, flag)
}

func (a *app) printAlerts(alerts []api.Alert) {
	if len(alerts) == 0 {
		fmt.Fprintln(a.out, "No alert fires.")
		return
	}
	t := table{}
	t.add("ALERT", "SEVERITY", "VALUE", "EVENTS", "KEY", "SUMMARY")
	for _, al := range alerts {
		value := "-"
		if al.Value != nil {
			value = strconv.FormatFloat(*al.Value, 'f', -1, 64)
		}
		var key []string
		for _, k := range slices.Sorted(maps.Keys(al.Key)) {
			key = append(key, k+"="+al.Key[k])
		}
		t.add(al.Name, strconv.Itoa(al.Severity), value, strconv.Itoa(al.Count), strings.Join(key, ","), al.Summary)
	}
	t.write(a.out, nil)
}
