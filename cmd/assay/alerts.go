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
		Use:   "alerts --policies DIR --events FILE.jsonl",
		Short: "Show the alerts that fire over a file of events",
		Long: `Evaluates the GlobalAlerts of a policies folder over events, one JSON object a
line ('-' is standard input), at a moment. Each alert looks back over its own
window, which ends now.

Exit status: 0 whether or not alerts fire; 2 usage or bad input.`,
		Example: `  assay alerts --policies policies --events events.jsonl
  assay alerts --policies policies --events events.jsonl --now 2026-01-31T12:00:00Z -o json`,
		Args: cobra.NoArgs,
	}
	out := outputFlag(c)
	c.Flags().StringVar(&in.policies, "policies", "", "folder with GlobalAlerts")
	folderFlags(c.Flags(), &in.options)
	c.Flags().StringVar(&events, "events", "", "events as JSON lines; - is standard input")
	c.Flags().Var(&now, "now", "moment to evaluate at, instead of the clock")
	must(c.MarkFlagRequired("policies"))
	must(c.MarkFlagDirname("policies"))
	must(c.MarkFlagRequired("events"))
	c.RunE = func(c *cobra.Command, _ []string) error {
		_, e, _, err := a.engine(c.Context(), in)
		if err != nil {
			return err
		}
		list, err := a.readEvents(events)
		if err != nil {
			return err
		}
		alerts, err := e.Alerts(c.Context(), list, now.or(time.Now()))
		if err != nil {
			return err
		}
		if *out == "json" {
			return writeJSON(a.out, api.AlertList{Schema: api.SchemaAlerts, Alerts: alerts})
		}
		a.printAlerts(alerts)
		return nil
	}
	return c
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
