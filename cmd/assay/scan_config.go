package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
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
	file, name, err := readConfig(f.config, ".assay.yaml", ".tigera-scanner.yaml")
	if err != nil {
		return err
	}
	var errs []error
	f.given, err = a.fill(c, file, name, lookupEnv)
	errs = append(errs, err)
	if !slices.Contains([]string{"fail", "warn", "never"}, f.failOn) {
		errs = append(errs, fmt.Errorf("--fail-on must be fail, warn or never, not %q", f.failOn))
	}
	if f.every < 0 || f.parallel < 1 {
		errs = append(errs, errors.New("--every must not be negative, and --parallel at least 1"))
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
		delete(file, flag.Name)
	})
	for key := range file {
		a.log.Warn("the configuration has a key that is no flag of "+c.CommandPath(), "file", name, "key", key)
	}
	return given, errors.Join(errs...)
}

// lookupEnv finds CC_WARN_THRESHOLD for warn-threshold, and CC_API_URL for apiurl.
func lookupEnv(flag string) (value, name string) {
	names := []string{"CC_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))}
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

// readConfig reads a YAML file of flag names and values, or lists of values. Without a name, the
// first of the default files in the user's home that exists is read.
func readConfig(name string, defaults ...string) (map[string][]string, string, error) {
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
		text, err := os.ReadFile(n)
		if errors.Is(err, os.ErrNotExist) && name == "" {
			continue
		}
		if err != nil {
			return nil, "", fmt.Errorf("reading the configuration: %w", err)
		}
		var values map[string]any
		if err := yaml.Unmarshal(text, &values); err != nil {
			return nil, "", fmt.Errorf("%s: must map flag names to values: %w", n, err)
		}
		out := map[string][]string{}
		for k, v := range values {
			list, ok := v.([]any)
			if !ok {
				list = []any{v}
			}
			for _, v := range list {
				switch v.(type) {
				case string, int, float64, bool:
					flag := string(calicoNames(nil, k))
					out[flag] = append(out[flag], fmt.Sprint(v))
				default:
					return nil, "", fmt.Errorf("%s: %s must be a text, a number, a boolean, or a list of these", n, k)
				}
			}
		}
		return out, n, nil
	}
	return nil, "", nil
}
