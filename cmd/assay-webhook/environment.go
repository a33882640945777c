package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/assay-dev/assay/cmd/environment"
)

// fromEnvironment takes flags that were not given from ASSAY_WEBHOOK_<FLAG>.
func fromEnvironment(c *cobra.Command) error {
	const prefix = "ASSAY_WEBHOOK_"
	errs := []error{environment.Unknown(c, prefix, os.Environ())}
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if value, name := environment.Lookup(prefix, f.Name); !f.Changed && name != "" {
			if err := c.Flags().Set(f.Name, value); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
			}
		}
	})
	return errors.Join(errs...)
}

// hideRareAudit leaves the usual ones of kube-apiserver's audit flags in the help.
func hideRareAudit(f *pflag.Flag) {
	switch f.Name {
	case "audit-policy-file", "audit-log-path", "audit-log-maxsize", "audit-log-maxbackup", "audit-log-maxage":
		return
	}
	if strings.HasPrefix(f.Name, "audit-") {
		f.Hidden = true
	}
}
