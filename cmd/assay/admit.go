package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/review"
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
		now           moment
	)
	c := &cobra.Command{
		Use:   "admit -f FILE --policies DIR [--scans FILE]...",
		Short: "Decide whether manifests or an AdmissionReview would be admitted",
		Long: `Decides as the admission webhook does. FILE holds an AdmissionReview (JSON), or
manifests of any workload kind (YAML or JSON, several documents, lists); '-' is
standard input. A manifest counts as created by an ordinary user.

With --explain it also says which rules match, in which file and line, which
exceptions apply or just miss, and the smallest sets of changes (upgrades,
exceptions, a new scan) that would admit what is rejected: each was tried.

Exit status: 0 all are admitted; 1 one is rejected; 2 usage or bad input.`,
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
	c.Flags().StringSliceVarP(&files, "filename", "f", nil, "AdmissionReview or manifests; - is standard input; may be repeated")
	c.Flags().StringToStringVar(&labels, "namespace-labels", nil, "labels of the namespace, k=v,...; without it they are none but its name")
	c.Flags().BoolVar(&labelsUnknown, "namespace-labels-unknown", false, "decide as if the namespace's labels were not known")
	c.Flags().StringVarP(&namespace, "namespace", "n", "default", "namespace of manifests that name none")
	c.Flags().Var(&now, "now", "moment to decide for, instead of the clock or the review's own")
	c.Flags().BoolVar(&explain, "explain", false, "say why, and what would admit what is rejected")
	c.Flags().StringVar(&record, "record", "", "append a record of each decision (JSON lines) to this file, for 'assay replay'")
	must(c.MarkFlagRequired("filename"))
	c.MarkFlagsMutuallyExclusive("namespace-labels", "namespace-labels-unknown")

	c.RunE = func(c *cobra.Command, _ []string) error {
		set, e, scans, err := a.engine(c.Context(), in)
		if err != nil {
			return err
		}
		var reviews []review.Input
		for _, f := range files {
			more, err := a.readReviews(f, review.KindsOf(set.Settings), namespace)
			if err != nil {
				return err
			}
			reviews = append(reviews, more...)
		}
		if len(reviews) == 0 {
			return fmt.Errorf("%s: there is no object to decide on", strings.Join(files, ", "))
		}
		result := api.Admission{Schema: api.SchemaAdmission, Allowed: true, Revisions: e.Revisions(), Resources: []api.Decision{}, Warnings: []string{}}
		clock := time.Now()
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
				return err
			}
			d, err := e.Admit(c.Context(), r.Review, now.or(at))
			if err != nil {
				return err
			}
			records = append(records, recordOf(r.Review, d))
			if explain {
				x, err := e.Explain(c.Context(), r.Review, now.or(at), scansByDigest(scans))
				if err != nil {
					return err
				}
				result.Explanations = append(result.Explanations, x)
			}
			result.Allowed = result.Allowed && d.Allowed
			result.Resources = append(result.Resources, d)
			result.Warnings = append(result.Warnings, d.Warnings...)
		}
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
		if err == nil && !result.Allowed {
			return answer(exitNo)
		}
		return err
	}
	return c
}

// readReviews reads an AdmissionReview, or the manifests of a YAML stream.
func (a *app) readReviews(name string, kinds review.Kinds, namespace string) ([]review.Input, error) {
	text, err := a.readInput(name, review.MaxReview)
	if err != nil {
		return nil, err
	}
	if review.IsAdmissionReview(text) {
		in, err := review.FromAdmissionReview(text, kinds)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return []review.Input{in}, nil
	}
	docs, err := policies.YAMLToJSON(name, text)
	if err != nil {
		return nil, err
	}
	var all []review.Input
	for _, d := range docs {
		if review.IsAdmissionReview(d.JSON) {
			in, err := review.FromAdmissionReview(d.JSON, kinds)
			if err != nil {
				return nil, fmt.Errorf("%s:%d: %w", name, d.Line, err)
			}
			all = append(all, in)
			continue
		}
		more, err := review.FromManifest(d.JSON, kinds, namespace)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, d.Line, err)
		}
		all = append(all, more...)
	}
	return all, nil
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
		fmt.Fprintf(a.out, "%s %s: %s%s\n", printable(d.Kind), printable(name), verdict, reason)
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
}
