package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/manifests"
	"github.com/assay-dev/assay/review"
	"github.com/assay-dev/assay/stream"
	"github.com/spf13/cobra"
)

func (a *app) admitCommand() *cobra.Command {
	var (
		in            inputs
		files         []string
		labels        map[string]string
		labelsUnknown bool
		explain       bool
		record        string
		namespace     string
		strict        bool
		now           moment
	)
	c := &cobra.Command{
		Use:   "admit -f FILE --policies DIR [--scans FILE]...",
		Short: "Decide whether manifests or an AdmissionReview would be admitted",
		Long: `Decides as the admission webhook does. FILE holds AdmissionReviews, or manifests of
any workload kind: YAML and JSON, documents one after another, lists and lists in
lists; '-' is standard input, and a folder is its .yaml, .yml and .json files and
those below it. A manifest counts as created by an ordinary user. A Namespace
among the manifests gives its labels to those that are in it.

All that a file holds is read, or is named with its file, document and line: one
document that cannot be read does not hide the others. Of a member that is given
twice the last counts, with a warning, as kubectl has it. What holds containers with
images and is not judged, for its kind, its namespace, or the place where they stand, is
named; --strict makes of that the exit status 1.

With --explain it also says which rules match, in which file and line, which
exceptions apply or just miss, and the smallest sets of changes (upgrades,
exceptions, a new scan) that would admit what is rejected: each was tried.

Exit status: 0 all are admitted; 1 one is rejected or, with --strict, not judged;
2 usage or bad input.`,
		Example: `  assay admit -f deployment.yaml --policies policies --scans scans.json
  assay admit -f deployment.yaml --policies policies --scans scans.json --explain
  kubectl get deploy -A -o yaml | assay admit -f - --policies policies --scans scans.json
  assay admit -f review.json --policies policies --scans scans.json \
      --namespace-labels env=prod,team=shop --now 2026-01-31T12:00:00Z -o json`,
		Args: cobra.NoArgs,
	}
	out := outputFlag(c)
	in.flags(c)
	must(c.MarkFlagRequired("policies"))
	c.Flags().StringSliceVarP(&files, "filename", "f", nil, "AdmissionReviews or manifests, or a folder of them; - is standard input; may be repeated")
	c.Flags().StringToStringVar(&labels, "namespace-labels", nil, "labels of the namespace, k=v,...; without it they are none but its name")
	c.Flags().BoolVar(&labelsUnknown, "namespace-labels-unknown", false, "decide as if the namespace's labels were not known")
	c.Flags().StringVarP(&namespace, "namespace", "n", "default", "namespace of manifests that name none")
	c.Flags().Var(&now, "now", "moment to decide for, instead of the clock or the review's own")
	c.Flags().BoolVar(&explain, "explain", false, "say why, and what would admit what is rejected")
	c.Flags().BoolVar(&strict, "strict", false, "exit with 1 where images are not judged")
	c.Flags().StringVar(&record, "record", "", "append a record of each decision (JSON lines) to this file, for 'assay replay'")
	must(c.MarkFlagRequired("filename"))
	c.MarkFlagsMutuallyExclusive("namespace-labels", "namespace-labels-unknown")

	c.RunE = func(c *cobra.Command, _ []string) error {
		set, e, scans, err := a.engine(c.Context(), in)
		if err != nil {
			return err
		}
		m := &manifests.Reader{Kinds: review.KindsOf(set.Settings), Namespace: namespace}
		if err := a.readManifests(m, files); err != nil {
			return err
		}
		reviews, faults := m.Found(), m.Faults()
		if len(reviews) == 0 && len(faults) == 0 {
			return fmt.Errorf("%s: there is no object to decide on", strings.Join(files, ", "))
		}
		result := api.Admission{Schema: api.SchemaAdmission, Allowed: len(faults) == 0, Revisions: e.Revisions(),
			Resources: []api.Resource{}, NotJudged: []api.NotJudged{}, Unreadable: unreadable(faults), Warnings: []string{}}
		for _, w := range m.Warnings() {
			result.Warnings = append(result.Warnings, w.String())
			fmt.Fprintf(a.err, "%s %s\n", a.paint(a.err, yellow, "Warning:"), printable(w.String()))
		}
		clock := time.Now()
		rejected := false
		var records []api.Record
		for _, r := range reviews {
			if c.Flags().Changed("namespace-labels") {
				r.Review.NamespaceLabels = review.WithName(labels, r.Review.Namespace)
			}
			if labelsUnknown {
				r.Review.NamespaceLabels = review.WithName(nil, r.Review.Namespace)
			}
			at, err := r.Now(clock)
			if err != nil {
				return fmt.Errorf("%s: %w", manifests.Place(r.FilePlace), err)
			}
			d, err := e.Admit(c.Context(), r.Review, now.or(at))
			if err != nil {
				return fmt.Errorf("%s: %w", manifests.Place(r.FilePlace), err)
			}
			records = append(records, recordOf(r.Review, d))
			if explain {
				x, err := e.Explain(c.Context(), r.Review, now.or(at), scansByDigest(scans))
				if err != nil {
					return fmt.Errorf("%s: %w", manifests.Place(r.FilePlace), err)
				}
				result.Explanations = append(result.Explanations, x)
			}
			rejected = rejected || !d.Allowed
			result.Resources = append(result.Resources, api.Resource{FilePlace: r.FilePlace, Decision: d})
			result.Warnings = append(result.Warnings, d.Warnings...)
			if left := r.NotJudged(d, e.Settings().Excluded); left != nil {
				result.NotJudged = append(result.NotJudged, api.NotJudged{FilePlace: r.FilePlace, Kind: r.Review.Group + "/" + r.Review.Kind,
					Namespace: r.Review.Namespace, Name: r.Review.Name, Unjudged: *left})
			}
		}
		result.Allowed = result.Allowed && !rejected
		if record != "" {
			if err := appendRecords(record, records); err != nil {
				return err
			}
		}
		if *out == "json" {
			err = writeJSON(a.out, result)
		} else {
			a.printAdmission(result)
		}
		switch {
		case err != nil:
			return err
		case len(faults) > 0:
			return faults
		case rejected, strict && len(result.NotJudged) > 0:
			return answer(exitNo)
		}
		return nil
	}
	return c
}

// readManifests reads files and folders.
func (a *app) readManifests(m *manifests.Reader, names []string) error {
	for _, name := range names {
		files, err := manifestFiles(name)
		if err != nil {
			return err
		}
		for _, file := range files {
			// In a folder, what is no file must not stop or feed the rest.
			if info, err := os.Stat(file); file != name && (err != nil || !info.Mode().IsRegular()) {
				m.Fault(stream.Diagnostic{File: file, Message: "is no regular file"})
				continue
			}
			in, err := a.open(file)
			if err != nil {
				return err
			}
			if err := errors.Join(m.Read(file, in), in.Close()); err != nil {
				return err
			}
		}
	}
	return nil
}

func unreadable(faults stream.Diagnostics) []api.Unreadable {
	list := []api.Unreadable{}
	for _, f := range faults {
		list = append(list, api.Unreadable{FilePlace: api.FilePlace{File: f.File, Document: f.Document, Line: f.Line, Path: f.Path}, Column: f.Column, Message: f.Message})
	}
	return list
}

func (a *app) printAdmission(result api.Admission) {
	for n, d := range result.Resources {
		verdict := a.paint(a.out, green, "admitted")
		if !d.Allowed {
			verdict = a.paint(a.out, red, "rejected")
		}
		name := d.Name
		if d.Namespace != "" {
			name = d.Namespace + "/" + d.Name
		}
		reason := ""
		if d.Reason != "" {
			reason = " (" + printable(d.Reason) + ")"
		}
		fmt.Fprintf(a.out, "%s %s: %s%s [%s]\n", printable(d.Kind), printable(name), verdict, reason, printable(manifests.Place(d.FilePlace)))
		for _, i := range d.Images {
			if i.Action == api.Reject {
				fmt.Fprintf(a.out, "  %s %s\n", a.paint(a.out, red, "✗"), printable(i.Message))
				continue
			}
			by := "no policy decides"
			if i.Policy != "" {
				by = fmt.Sprintf("policy %s rule %d", i.Policy, i.Rule)
			}
			fmt.Fprintf(a.out, "  %s %s (container %s): result %s; allowed: %s\n", a.paint(a.out, green, "✓"), printable(i.Image), printable(i.Container), i.Result, by)
		}
		if !d.Allowed && len(d.Images) == 0 {
			fmt.Fprintf(a.out, "  %s %s\n", a.paint(a.out, red, "✗"), printableLines(d.Message))
		}
		for _, w := range d.Warnings {
			fmt.Fprintf(a.out, "  %s %s\n", a.paint(a.out, yellow, "!"), printable(w))
		}
		if len(result.Explanations) > 0 {
			a.printExplanation(result.Explanations[n])
		}
	}
	for _, n := range result.NotJudged {
		name := n.Name
		if n.Namespace != "" {
			name = n.Namespace + "/" + n.Name
		}
		images := n.Images[0]
		if more := len(n.Images) - 1; more > 0 {
			images += fmt.Sprintf(" and %d more", more)
		}
		fmt.Fprintf(a.out, "%s %s %s: %s (%s) [%s]\n", a.paint(a.out, yellow, "not judged:"), printable(n.Kind), printable(name), printable(images), printable(n.Reason), printable(manifests.Place(n.FilePlace)))
	}
}
