package durations_test

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-dev/assay/cmd/durations"
)

func TestNotNegative(t *testing.T) {
	for text, want := range map[string]string{"-1h": "--wait", "-1ns": "must not be negative", "0": "", "-0s": "", "3m": "", "x": "invalid duration"} {
		var wait, keep time.Duration
		root := &cobra.Command{Use: "root", SilenceErrors: true, SilenceUsage: true}
		sub := &cobra.Command{Use: "sub", RunE: func(*cobra.Command, []string) error { return nil }}
		sub.Flags().DurationVar(&wait, "wait", time.Hour, "how long to wait")
		sub.Flags().DurationVar(&keep, "keep", 0, "how long to keep")
		root.AddCommand(sub)
		durations.NotNegative(root)
		root.SetArgs([]string{"sub", "--wait", text})
		err := root.Execute()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
		if want == "" {
			if got, err := time.ParseDuration(text); err != nil || got != wait {
				t.Errorf("%s: %v", text, wait)
			}
		} else if err := sub.Flags().Set("wait", text); err == nil { // as an environment does
			t.Errorf("%s was set", text)
		}
		if usage := sub.UsageString(); strings.Contains(usage, "default 0") || !strings.Contains(usage, "default 1h") {
			t.Error(usage)
		}
	}
}
