package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/stream"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/spf13/cobra"
)

// recordOf is the receipt of a decision.
func recordOf(r api.Review, d api.Decision) api.Record {
	return api.Record{Schema: api.SchemaRecord, Input: api.FlatReview{Schema: api.SchemaReview, Now: d.Now, Review: r}, Decision: d}
}

func appendRecords(name string, records []api.Record) error {
	var text bytes.Buffer
	for _, r := range records {
		if err := json.NewEncoder(&text).Encode(r); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text.Bytes())
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

func (a *app) replayCommand() *cobra.Command {
	var in inputs
	var files, keys []string
	var anyRevision bool
	c := &cobra.Command{
		Use:   "replay RECORD (--bundle FILE... | --policies DIR [--scans FILE]...)",
		Short: "Make recorded decisions again and compare",
		Long: `Reads records of decisions (JSON lines, as 'assay admit --record' and the webhook
write them) and makes each again for its own moment, from the bundles that it was
made with or the files that these were built of. The bundles must have the
revisions that the record names; --any-revision compares with others, which shows
what these would change.

Any OPA does the same: the member "input" of a record is its input.

Exit status: 0 all decisions are the same; 1 one differs; 2 usage, bad input or
another revision.`,
		Example: `  assay admit -f review.json --policies policies --scans scans.json --record records.jsonl
  assay replay records.jsonl --policies policies --scans scans.json
  assay replay records.jsonl --bundle bundle.tar.gz
  assay replay records.jsonl --bundle next.tar.gz --any-revision
  jq .input records.jsonl | opa eval -b bundle.tar.gz -I data.assay.admission.decision`,
		Args: cobra.ExactArgs(1),
	}
	out := outputFlag(c)
	in.flags(c)
	c.Flags().StringSliceVar(&files, "bundle", nil, "bundle (tar.gz) to decide with; may be repeated")
	c.Flags().StringSliceVar(&keys, "verification-key", nil, "public key (PEM) of signed bundles; may be repeated")
	c.Flags().BoolVar(&anyRevision, "any-revision", false, "decide with other revisions, too")
	c.MarkFlagsMutuallyExclusive("bundle", "policies")
	c.MarkFlagsOneRequired("bundle", "policies")

	c.RunE = func(c *cobra.Command, args []string) error {
		records, err := a.readRecords(args[0])
		if err != nil {
			return err
		}
		e := engine.New(engine.Config{})
		if len(files) > 0 {
			loaded, err := a.readBundles(files, keys)
			if err != nil {
				return err
			}
			if err := e.Load(c.Context(), loaded...); err != nil {
				return err
			}
		} else if _, e, _, err = a.engine(c.Context(), in); err != nil {
			return err
		}
		if !anyRevision {
			for i, r := range records {
				if err := sameRevisions(r.Decision.Revisions, e.Revisions()); err != nil {
					return fmt.Errorf("%s: record %d: %w", args[0], i+1, err)
				}
			}
		}
		report := api.Replay{Schema: api.SchemaReplay, Records: []api.Replayed{}, Same: true}
		for i, r := range records {
			now, err := time.Parse(time.RFC3339Nano, r.Input.Now)
			if err != nil {
				return fmt.Errorf("%s: record %d: now must be RFC 3339, not %.40q", args[0], i+1, r.Input.Now)
			}
			got, err := e.In(r.Input.Cluster).Admit(c.Context(), r.Input.Review, now)
			if err != nil {
				return fmt.Errorf("%s: record %d: %w", args[0], i+1, err)
			}
			same := sameDecision(got, r.Decision, anyRevision)
			report.Same = report.Same && same
			report.Records = append(report.Records, api.Replayed{Same: same, Recorded: r.Decision, Replayed: got})
		}
		if *out == "json" {
			err = writeJSON(a.out, report)
		} else {
			a.printReplay(report)
		}
		if err == nil && !report.Same {
			return answer(exitNo)
		}
		return err
	}
	return c
}

// readRecords reads JSON values one after another, each a record.
func (a *app) readRecords(name string) ([]api.Record, error) {
	var records []api.Record
	err := a.documents(name, lineBounds, func(d *stream.Document) error {
		var r api.Record
		if err := d.Unmarshal(&r); err != nil {
			return err
		}
		if r.Schema != api.SchemaRecord {
			return fmt.Errorf("not a record: its schema is %.60q, not %s", r.Schema, api.SchemaRecord)
		}
		records = append(records, r)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(records) == 0 {
		return nil, fmt.Errorf("%s: there is no record in it", name)
	}
	return records, nil
}

// readBundles reads bundles, signed ones by one of the keys.
func (a *app) readBundles(files, keyFiles []string) ([]*bundle.Bundle, error) {
	var keys []*bundles.VerificationKey
	for _, name := range keyFiles {
		text, err := a.readInput(name, 1<<20)
		if err != nil {
			return nil, err
		}
		key, err := bundles.ParseVerificationKey(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		keys = append(keys, key)
	}
	var all []*bundle.Bundle
	for _, name := range files {
		text, err := a.readInput(name, bundles.MaxBundle)
		if err != nil {
			return nil, err
		}
		var b *bundle.Bundle
		if len(keys) > 0 {
			b, err = bundles.Verify(text, time.Now(), keys...)
		} else {
			b, err = bundles.Read(bytes.NewReader(text))
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, b)
	}
	return all, nil
}

func sameRevisions(recorded, have map[string]string) error {
	var wrong []string
	for _, name := range slices.Sorted(maps.Keys(recorded)) {
		if have[name] != recorded[name] {
			wrong = append(wrong, fmt.Sprintf("%s %s, and here is %s", name, recorded[name], orDash(have[name])))
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("it was decided with %s; --any-revision compares all the same", strings.Join(wrong, "; "))
	}
	return nil
}

func sameDecision(a, b api.Decision, anyRevision bool) bool {
	if anyRevision {
		a.Revisions, b.Revisions = nil, nil
	}
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

func (a *app) printReplay(report api.Replay) {
	for i, r := range report.Records {
		verdict := a.paint(a.out, green, "the same")
		if !r.Same {
			verdict = a.paint(a.out, red, "differs")
		}
		fmt.Fprintf(a.out, "record %d, %s %s at %s: %s\n", i+1, printable(r.Recorded.Kind), printable(r.Recorded.Name), printable(r.Recorded.Now), verdict)
		if !r.Same {
			fmt.Fprintf(a.out, "  recorded: %s\n  replayed: %s\n", printableLines(outcome(r.Recorded)), printableLines(outcome(r.Replayed)))
		}
	}
}

// outcome tells a decision in a few words.
func outcome(d api.Decision) string {
	if !d.Allowed {
		return "rejected: " + d.Message
	}
	var images []string
	for _, i := range d.Images {
		images = append(images, fmt.Sprintf("%s %s", i.Image, i.Result))
	}
	return strings.TrimSuffix("allowed: "+strings.Join(images, ", "), ": ")
}
