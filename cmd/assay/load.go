package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/policies/exceptions"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/spf13/cobra"
)

// Bounds on the files that a command reads.
const (
	maxScans  = 2 << 30
	maxEvents = 2 << 30
)

// inputs are the flags of commands that decide by policies and data.
type inputs struct {
	policies   string
	scans      []string
	exceptions []string
	cluster    string
	groups     []string
}

// policyFlags adds --policies and --exceptions.
func (in *inputs) policyFlags(c *cobra.Command) {
	c.Flags().StringVar(&in.policies, "policies", "", "folder of policies, thresholds, exceptions, settings and Rego")
	c.Flags().StringSliceVar(&in.exceptions, "exceptions", nil, "further exceptions: CSV in Calico's columns, YAML, or OpenVEX JSON; may be repeated")
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
		if c.Policies, err = policies.LoadDir(in.policies); err != nil {
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
		text, err := a.readInput(name, maxScans)
		if err != nil {
			return nil, err
		}
		list, err := api.ParseScanReport(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
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
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, list...)
	}
	return all, nil
}

func parseExceptions(name string, text []byte) ([]api.VulnerabilityException, error) {
	switch ext := strings.ToLower(filepath.Ext(name)); {
	case ext == ".yaml" || ext == ".yml":
		set, err := policies.Parse(filepath.Base(name), text)
		if err != nil {
			return nil, err
		}
		return set.Exceptions, nil
	case ext == ".json" || bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")):
		if bytes.Contains(text, []byte("openvex")) {
			return exceptions.ReadVEX(bytes.NewReader(text))
		}
		set, err := policies.Parse(filepath.Base(name), text)
		if err != nil {
			return nil, err
		}
		return set.Exceptions, nil
	}
	return exceptions.ReadCSV(bytes.NewReader(text))
}

// readEvents reads JSON lines.
func (a *app) readEvents(name string) ([]api.Event, error) {
	r := a.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	const maxLine = 16 << 20
	var events []api.Event
	lines := bufio.NewScanner(io.LimitReader(r, maxEvents))
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		var e api.Event
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("%s: line %d: not an event: %w", name, n, err)
		}
		if err := e.Validate(); err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", name, n, err)
		}
		events = append(events, e)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return events, nil
}
