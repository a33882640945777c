// Package environment is about variables that stand for the flags of a command, such as
// ASSAY_SERVE_LISTEN for the flag --listen of assay serve.
package environment

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Variable is that of a flag: a prefix with "_" at its end, and the flag in capitals.
func Variable(prefix, flag string) string {
	return prefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Lookup gives the value and the name of a flag's variable; both are "" where it is empty or not set.
func Lookup(prefix, flag string) (value, name string) {
	name = Variable(prefix, flag)
	if value = os.Getenv(name); value == "" {
		return "", ""
	}
	return value, name
}

// link are the ends of variables that Kubernetes sets in each container for the Services of its
// namespace: for the Service assay-serve they begin with ASSAY_SERVE_, too.
var (
	link  = regexp.MustCompile(`(^|_)SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)$`)
	port  = regexp.MustCompile(`(^|_)PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$`)
	bound = regexp.MustCompile(`^((tcp|udp|sctp)(://.*)?|[0-9]+|[0-9a-f.:]+)$`)
	bare  = regexp.MustCompile(`(^|_)PORT$`)
)

// Unknown is an error about each variable of environ (NAME=VALUE, as [os.Environ] gives them) that
// has the prefix and stands for no flag of the command: what was meant to be set, such as who may
// sign in or what must be approved, would not be. Variables that Kubernetes sets for Services are
// left out. The error says no value.
func Unknown(c *cobra.Command, prefix string, environ []string) error {
	var errs []error
	for _, entry := range slices.Sorted(slices.Values(environ)) {
		name, value, _ := strings.Cut(entry, "=")
		rest, ok := strings.CutPrefix(name, prefix)
		flag := c.Flags().Lookup(strings.ToLower(strings.ReplaceAll(rest, "_", "-")))
		if !ok || flag != nil && flag.Name != "help" || ofService(rest, value) {
			continue
		}
		hint := "; 'unset " + name + "' takes it away"
		if flag := Nearest(c.Flags(), strings.ToLower(rest)); flag != "" {
			hint = "; did you mean " + Variable(prefix, flag) + "?"
		}
		errs = append(errs, fmt.Errorf("%s stands for no flag of %s%s", name, c.CommandPath(), hint))
	}
	return errors.Join(errs...)
}

func ofService(rest, value string) bool {
	if bare.MatchString(rest) && !link.MatchString(rest) && !port.MatchString(rest) {
		return strings.Contains(value, "://") && bound.MatchString(value)
	}
	return (link.MatchString(rest) || port.MatchString(rest)) && bound.MatchString(value)
}

// Nearest is the flag whose name is not more than two letters away from another; "" for none.
func Nearest(flags *pflag.FlagSet, name string) (nearest string) {
	name = strings.ReplaceAll(name, "_", "-")
	if len(name) < 4 {
		return ""
	}
	best := 3
	flags.VisitAll(func(f *pflag.Flag) {
		if d := levenshtein.ComputeDistance(f.Name, name); d > 0 && d < best {
			best, nearest = d, f.Name
		}
	})
	return nearest
}
