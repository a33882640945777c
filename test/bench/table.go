package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"

	"github.com/assay-dev/assay/test/bench/fleet"
)

// table is the one result of a run.
type table struct {
	Go       string       `json:"go"`
	Platform string       `json:"platform"`
	CPUs     int          `json:"cpus"`
	Fleet    fleet.Config `json:"fleet"`
	Rows     []row        `json:"rows"`
}

// row is one measure: the median of each contender that has it, in a unit.
type row struct {
	Measure string             `json:"measure"`
	Unit    string             `json:"unit"`
	Values  map[string]float64 `json:"values"`
	// ToPlain and ToCEL are Assay's value divided by theirs; 0 where they have none.
	ToPlain float64 `json:"assay_to_plain,omitempty"`
	ToCEL   float64 `json:"assay_to_cel,omitempty"`
}

const (
	assay = "Assay"
	plain = "plain Go"
)

// columns are the contenders as the table shows them.
var columns = []string{plain, assay, "Assay, from JSON", "CEL", "Gatekeeper"}

// add appends a row and says so on standard error: a run takes minutes.
func (t *table) add(unit string, values map[string]float64, format string, args ...any) {
	r := row{Measure: fmt.Sprintf(format, args...), Unit: unit, Values: values}
	if v := values[plain]; v != 0 {
		r.ToPlain = values[assay] / v
	}
	if v := values["CEL"]; v != 0 {
		r.ToCEL = values[assay] / v
	}
	t.Rows = append(t.Rows, r)
	fmt.Fprintf(os.Stderr, "%s: %s %s\n", r.Measure, number(values[assay]), unit)
}

// write prints the table, numbers to the right.
func (t *table) write(w io.Writer) error {
	fmt.Fprintf(w, "%s, %s, %d CPUs; %d images of %d CVEs, %d exceptions, 10 rules a policy; medians\n\n", t.Go, t.Platform, t.CPUs, t.Fleet.Images, t.Fleet.CVEs, t.Fleet.Exceptions)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(tw, "measure\tunit\t")
	for _, c := range columns {
		fmt.Fprintf(tw, "%s\t", c)
	}
	fmt.Fprint(tw, "Assay/plain Go\tAssay/CEL\t\n")
	for _, r := range t.Rows {
		fmt.Fprintf(tw, "%s\t%s\t", r.Measure, r.Unit)
		for _, c := range columns {
			fmt.Fprintf(tw, "%s\t", number(r.Values[c]))
		}
		fmt.Fprintf(tw, "%s\t%s\t\n", number(r.ToPlain), number(r.ToCEL))
	}
	return tw.Flush()
}

// number writes three digits; nothing for 0, which is no measurement.
func number(v float64) string {
	switch {
	case v == 0:
		return ""
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// quantile sorts the list.
func quantile(list []float64, q float64) float64 {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return list[min(len(list)-1, int(q*float64(len(list))))]
}
