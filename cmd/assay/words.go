package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// refuseUnknownWords has each group of commands refuse words that are none of its
// commands, and no word at all: cobra shows the help of a group, and succeeds.
func refuseUnknownWords(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	// A group is not used without a command, though it can be run to say so.
	root.SetUsageTemplate(strings.Replace(root.UsageTemplate(), "{{if .Runnable}}", "{{if and .Runnable (not .HasAvailableSubCommands)}}", 1))
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		switch {
		case c.Parent() == root && c.Name() == "help":
			c.Args = aCommand
		case c.HasSubCommands():
			c.Args, c.RunE = cobra.ArbitraryArgs, group
			c.FParseErrWhitelist.UnknownFlags = true // those of the command that was meant
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
}

// group is run where no command of a group was found.
func group(c *cobra.Command, words []string) error {
	if len(words) > 0 {
		return unknownWord(c, words[0])
	}
	c.SetOut(c.ErrOrStderr())
	if err := c.Help(); err != nil {
		return err
	}
	return answer(exitUsage)
}

// aCommand holds the words of `assay help` to be a command.
func aCommand(help *cobra.Command, words []string) error {
	c := help.Root()
	for _, w := range words {
		i := slices.IndexFunc(c.Commands(), func(sub *cobra.Command) bool { return sub.Name() == w || sub.HasAlias(w) })
		if i < 0 {
			return unknownWord(c, w)
		}
		c = c.Commands()[i]
	}
	return nil
}

// unknownWord says that a word is none of a group's commands, and which is the nearest.
func unknownWord(c *cobra.Command, word string) error {
	hint := ""
	for distance := 1; distance <= 3 && hint == ""; distance++ {
		c.SuggestionsMinimumDistance = distance
		if near := c.SuggestionsFor(word); len(near) > 0 {
			hint = fmt.Sprintf("; did you mean %q?", near[0])
		}
	}
	if hint == "" {
		var names []string
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() {
				names = append(names, sub.Name())
			}
		}
		hint = "; it has " + strings.Join(names, ", ")
		if len(names) == 0 {
			hint = "; it has none"
		}
	}
	return fmt.Errorf("%q is no command of '%s'%s\nSee '%s --help'", word, c.CommandPath(), hint, c.CommandPath())
}
