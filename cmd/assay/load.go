package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/policies/exceptions"
	"github.com/assay-dev/assay/stream"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Bounds on the files that a command reads.
var (
	lineBounds  = stream.Config{Document: 16 << 20, Total: 2 << 30, Nodes: 1_000_000, Depth: 1000} // events, records
	smallBounds = stream.Config{Document: policies.MaxFile, Total: policies.MaxFile, Nodes: 400_000, Depth: 64}
	vexBounds   = stream.Config{Document: exceptions.MaxBytes, Total: exceptions.MaxBytes, Nodes: 10_000_000, Depth: 100}
)

// documents gives fn each document of a file. What is wrong with one does not hide the
// others: the error has all that was found.
func (a *app) documents(name string, bounds stream.Config, fn func(*stream.Document) error) error {
	in, err := a.open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	return stream.Each(name, in, bounds, fn)
}

// inputs are the flags of commands that decide by policies and data.
type inputs struct {
	policies   string
	options    policies.Options
	scans      []string
	exceptions []string
	cluster    string
	groups     []string
}

// folderFlags adds how a policies folder is read.
func folderFlags(flags *pflag.FlagSet, o *policies.Options) {
	flags.BoolVar(&o.SkipForeign, "skip-foreign", false, "leave out objects of other tools among the policies, with a warning")
}

// folder reads a policies folder, and warns of what is left out.
func (a *app) folder(dir string, o policies.Options) (*policies.Set, error) {
	set, err := o.LoadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, f := range set.Foreign {
		fmt.Fprintf(a.err, "%s left out: %s\n", a.paint(a.err, yellow, "Warning:"), printable(f.String()))
	}
	return set, nil
}

// policyFlags adds --policies and --exceptions.
func (in *inputs) policyFlags(c *cobra.Command) {
	c.Flags().StringVar(&in.policies, "policies", "", "folder of policies, thresholds, exceptions, settings and Rego")
	c.Flags().StringSliceVar(&in.exceptions, "exceptions", nil, "further exceptions: CSV in Calico's columns, YAML, or OpenVEX JSON; may be repeated")
	folderFlags(c.Flags(), &in.options)
	must(c.MarkFlagDirname("policies"))
}

// flags adds --scans to them.
func (in *inputs) flags(c *cobra.Command) {
	in.policyFlags(c)
	c.Flags().StringSliceVar(&in.scans, "scans", nil, "scan report (JSON of 'assay scan'); may be repeated")
	c.Flags().StringVar(&in.cluster, "cluster", "", "cluster that is decided for: scans whose scope is of another do not count; without it, those of any cluster alone do")
	c.Flags().StringSliceVar(&in.groups, "group", nil, "trust group that the cluster is in, beside those that scopes of scans name with it; may be repeated")
}

// must reports a mistake of ours in wiring a flag.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// content reads the policies and data.
func (a *app) content(in inputs) (bundles.Content, error) {
	c := bundles.Content{Policies: &policies.Set{}, Cluster: in.cluster, Groups: in.groups}
	var err error
	if len(in.groups) > 0 && in.cluster == "" {
		return c, errors.New("--group is of a cluster: name it with --cluster")
	}
	if in.policies != "" {
		if c.Policies, err = a.folder(in.policies, in.options); err != nil {
			return c, err
		}
	}
	if c.Scans, err = a.readScans(in.scans); err != nil {
		return c, err
	}
	c.Exceptions, err = a.readExceptions(in.exceptions)
	return c, err
}

// bundle builds the bundle of the policies and data.
func (a *app) bundle(in inputs) (*bundle.Bundle, error) {
	content, err := a.content(in)
	if err != nil {
		return nil, err
	}
	return bundles.Build(content)
}

// engine loads the bundle of the policies and data.
func (a *app) engine(ctx context.Context, in inputs) (*policies.Set, *engine.Engine, []api.Scan, error) {
	content, err := a.content(in)
	if err != nil {
		return nil, nil, nil, err
	}
	b, err := bundles.Build(content)
	if err != nil {
		return nil, nil, nil, err
	}
	e := engine.New(engine.Config{})
	return content.Policies, e, content.Scans, e.Load(ctx, b)
}

// readScans reads scan reports. What they claim as results does not count.
func (a *app) readScans(files []string) ([]api.Scan, error) {
	var scans []api.Scan
	for _, name := range files {
		in, err := a.open(name)
		if err != nil {
			return nil, err
		}
		list, err := bundles.ReadScans(name, in)
		if err := errors.Join(err, in.Close()); err != nil {
			return nil, err
		}
		scans = append(scans, list...)
	}
	return scans, nil
}

// readExceptions reads exceptions by the kind of file.
func (a *app) readExceptions(files []string) ([]api.VulnerabilityException, error) {
	var all []api.VulnerabilityException
	for _, name := range files {
		text, err := a.readInput(name, policies.MaxFile*16)
		if err != nil {
			return nil, err
		}
		list, err := parseExceptions(name, text)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	return all, nil
}

// parseExceptions reads CSV, or YAML and JSON of VulnerabilityExceptions or of OpenVEX.
func parseExceptions(name string, text []byte) ([]api.VulnerabilityException, error) {
	ext := strings.ToLower(filepath.Ext(name))
	if ext != ".yaml" && ext != ".yml" && ext != ".json" && !bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		list, err := exceptions.ReadCSV(bytes.NewReader(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return list, nil
	}
	if bytes.Contains(text, []byte("openvex")) {
		return readVEX(name, text)
	}
	set, err := policies.Parse(name, text)
	if err != nil {
		return nil, err
	}
	if set.OnlyExceptions() {
		return set.Exceptions, nil
	}
	return nil, fmt.Errorf("%s: it holds other objects than VulnerabilityExceptions, which belong in the policies folder", name)
}

// readVEX reads OpenVEX documents, one after another.
func readVEX(name string, text []byte) ([]api.VulnerabilityException, error) {
	docs, err := stream.All(name, text, vexBounds)
	if err != nil {
		return nil, err
	}
	var all []api.VulnerabilityException
	for _, d := range docs {
		var raw json.RawMessage
		if err := d.Unmarshal(&raw); err != nil {
			return nil, err
		}
		list, err := exceptions.ReadVEX(bytes.NewReader(raw))
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, d.Line, err)
		}
		all = append(all, list...)
	}
	return all, nil
}

// readEvents reads events, one after another.
func (a *app) readEvents(name string) ([]api.Event, error) {
	var events []api.Event
	err := a.documents(name, lineBounds, func(d *stream.Document) error {
		var e api.Event
		if err := d.Unmarshal(&e); err != nil {
			return err
		}
		events = append(events, e)
		return e.Validate()
	})
	return events, err
}
