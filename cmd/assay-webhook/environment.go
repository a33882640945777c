package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// fromEnvironment takes flags that were not given from ASSAY_WEBHOOK_<FLAG>.
func fromEnvironment(c *cobra.Command) (err error) {
	c.Flags().VisitAll(func(f *pflag.Flag) {
		key := "ASSAY_WEBHOOK_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value := os.Getenv(key)
		if f.Changed || value == "" || err != nil {
			return
		}
		if set := c.Flags().Set(f.Name, value); set != nil {
			err = fmt.Errorf("%s: %w", key, set)
		}
	})
	return err
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
