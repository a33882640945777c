// Package durations is about those that command lines take.
package durations

import (
	"errors"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// NotNegative has the flags of a command, and of those below it, refuse negative durations from
// wherever they are set: an age, a wait or a retention that is negative means nothing.
func NotNegative(c *cobra.Command) {
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Value.Type() != "duration" {
			return
		}
		f.Value = notNegative{f.Value}
		if f.DefValue == "0s" {
			f.DefValue = "0" // which --help does not show
		}
	})
	for _, sub := range c.Commands() {
		NotNegative(sub)
	}
}

type notNegative struct{ pflag.Value }

// Set implements [pflag.Value].
func (d notNegative) Set(text string) error {
	if v, err := time.ParseDuration(text); err == nil && v < 0 {
		return errors.New("it must not be negative")
	}
	return d.Value.Set(text)
}
