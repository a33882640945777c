package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/assay-dev/assay/cmd/environment"
	"github.com/assay-dev/assay/stream"
)

// calicoNames lets flags be written with underscores, as Calico's scanner had
// them, and by the names that Assay has changed.
func calicoNames(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	name = strings.ReplaceAll(name, "_", "-")
	switch name {
	case "output-file":
		name = "output"
	case "db":
		name = "vulnerability-db-path"
	case "api-url":
		name = "apiurl"
	}
	return pflag.NormalizedName(name)
}

// complete fills in the flags that were not given, from the environment, then
// from the configuration file.
func (f *scanFlags) complete(c *cobra.Command, a *app) error {
	set, _ := lookupEnv("config")
	file, name, err := a.readConfig(c, leniently, cmp.Or(f.config, set), ".assay.yaml", ".tigera-scanner.yaml")
	if err != nil {
		return err
	}
	var errs []error
	f.given, err = a.fill(c, file, name, lookupEnv)
	errs = append(errs, err)
	if !slices.Contains([]string{"fail", "warn", "never"}, f.failOn) {
		errs = append(errs, fmt.Errorf("--fail-on must be fail, warn or never, not %q", f.failOn))
	}
	if f.parallel < 1 {
		errs = append(errs, errors.New("--parallel must be at least 1"))
	}
	if f.apiURL == "" && f.token != "" {
		a.log.Warn("--token is for --apiurl, which is not given: nothing is uploaded")
	}
	return errors.Join(errs...)
}

// fill gives the flags that were not given values from the environment, then from a
// configuration file, and says which flags have a value.
func (a *app) fill(c *cobra.Command, file map[string][]string, name string, env func(flag string) (value, name string)) (given map[string]bool, err error) {
	var errs []error
	given = map[string]bool{}
	c.Flags().VisitAll(func(flag *pflag.Flag) {
		if flag.Name == "help" || flag.Name == "config" {
			return
		}
		if !flag.Changed {
			value, from := env(flag.Name)
			values := []string{value}
			if from == "" {
				if v, ok := file[flag.Name]; ok {
					values, from = v, name
				}
			}
			if _, list := flag.Value.(pflag.SliceValue); from != "" && len(values) != 1 && !list {
				errs = append(errs, fmt.Errorf("%s: %s takes one value, not %d", from, flag.Name, len(values)))
				from = ""
			}
			for _, value := range values {
				if from == "" || value == "" {
					continue
				}
				if err := c.Flags().Set(flag.Name, value); err != nil {
					errs = append(errs, fmt.Errorf("%s: %s: %w", from, flag.Name, err))
				}
			}
		}
		given[flag.Name] = flag.Changed
	})
	return given, errors.Join(errs...)
}

// lookupEnv finds CC_WARN_THRESHOLD for warn-threshold, and CC_API_URL for apiurl.
func lookupEnv(flag string) (value, name string) {
	names := []string{environment.Variable("CC_", flag)}
	switch flag {
	case "apiurl":
		names = append(names, "CC_API_URL", "IMAGE_ASSURANCE_API_URL")
	case "token":
		names = append(names, "IMAGE_ASSURANCE_API_TOKEN")
	case "output":
		names = append(names, "CC_OUTPUT_FILE")
	}
	for _, n := range names {
		if v := os.Getenv(n); v != "" {
			return v, n
		}
	}
	return "", ""
}

// Keys of a configuration file that are no flags stop what runs as a service. Those of a scanner's
// file may be of Calico's, and are told of; only one that is a flag but for a letter or two stops it.
const (
	strictly  = true
	leniently = false
)

// unknownKey says what is wrong with a key of a configuration file; "" where it may stand there.
func (a *app) unknownKey(c *cobra.Command, file, key string, strict bool) string {
	near := environment.Nearest(c.Flags(), key)
	switch {
	case key == "config" || key == "help":
		return "is not for a file"
	case c.Flags().Lookup(key) != nil:
		return ""
	case near != "":
		return fmt.Sprintf("is no flag of %s; did you mean %s?", c.CommandPath(), near)
	case strict:
		return fmt.Sprintf("is no flag of %s", c.CommandPath())
	}
	a.log.Warn("the configuration has a key that is no flag of "+c.CommandPath(), "file", file, "key", key)
	return ""
}

// readConfig reads a YAML file of flag names and values, or lists of values. Without a name, the
// first of the default files in the user's home that exists is read.
func (a *app) readConfig(c *cobra.Command, strict bool, name string, defaults ...string) (map[string][]string, string, error) {
	names := []string{name}
	if name == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, "", nil // no home, no file
		}
		names = nil
		for _, d := range defaults {
			names = append(names, filepath.Join(home, d))
		}
	}
	for _, n := range names {
		text, err := readSmall(n)
		if errors.Is(err, os.ErrNotExist) && name == "" {
			continue
		}
		if err != nil {
			return nil, "", fmt.Errorf("reading the configuration: %w", err)
		}
		out, err := parseConfig(n, text, func(key string) string { return a.unknownKey(c, n, key, strict) })
		return out, n, err
	}
	return nil, "", nil
}

// readSmall reads a file of settings.
func readSmall(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, int64(configBounds.Total)+1))
	if err == nil && len(text) > configBounds.Total {
		err = fmt.Errorf("%s is larger than %d bytes", name, configBounds.Total)
	}
	return text, err
}

var configBounds = stream.Config{Document: 1 << 20, Total: 1 << 20, Nodes: 10_000, Depth: 16, Secret: true}

// parseConfig reads flag names and values; wrong tells what is wrong with a name. Nothing but comments sets nothing.
func parseConfig(name string, text []byte, wrong func(flag string) string) (map[string][]string, error) {
	docs, err := stream.All(name, text, configBounds)
	if err != nil || len(docs) == 0 {
		return map[string][]string{}, err
	}
	d, err := stream.One(name, text, configBounds)
	if err != nil {
		return nil, err
	}
	n, err := d.Node()
	if err != nil {
		return nil, err
	}
	if n.Kind != yaml.MappingNode {
		return nil, stream.Diagnostics{d.Fault(n, "", "must map flag names to values, not %s", d.Describe(n))}
	}
	out := map[string][]string{}
	var faults stream.Diagnostics
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], stream.Resolve(n.Content[i+1])
		flag := string(calicoNames(nil, key.Value))
		_, twice := out[flag]
		switch {
		case key.Kind != yaml.ScalarNode:
			faults = append(faults, d.Fault(key, "", "must be the name of a flag, not %s", d.Describe(key)))
		case twice:
			faults = append(faults, d.Fault(key, key.Value, "is given twice"))
		default:
			if fault := wrong(flag); fault != "" {
				faults = append(faults, d.Fault(key, key.Value, "%s", fault))
			}
			list := []*yaml.Node{value}
			if value.Kind == yaml.SequenceNode {
				list = value.Content
			}
			out[flag] = []string{}
			for _, v := range list {
				if v = stream.Resolve(v); v.Kind != yaml.ScalarNode || v.ShortTag() == "!!null" {
					faults = append(faults, d.Fault(v, key.Value, "must be a text, a number, a boolean, or a list of these"))
				}
				out[flag] = append(out[flag], v.Value)
			}
		}
	}
	return out, faults.Err()
}
