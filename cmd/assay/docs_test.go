package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var commandLine = regexp.MustCompile(`(?m)^\s*(?:\$ )?(?:bin/)?assay ([a-z].*?)(?:\s{2,}#.*)?$`)

// Every assay command line in the documentation names a command and flags that exist.
func TestDocumentedCommands(t *testing.T) {
	files, err := filepath.Glob("../../examples/*/README.md")
	if err != nil {
		t.Fatal(err)
	}
	guides, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	files = append(append(files, guides...), "../../README.md")
	checked := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		joined := strings.ReplaceAll(string(text), "\\\n", " ")
		for _, m := range commandLine.FindAllStringSubmatch(joined, -1) {
			args := strings.Fields(m[1])
			for i, a := range args {
				if a == ">" || a == "|" || a == "&&" || a == ";" {
					args = args[:i]
					break
				}
			}
			root := (&app{}).root()
			c, rest, err := root.Find(args)
			if err != nil || c == root {
				t.Errorf("%s: assay %s: no such command", file, m[1])
				continue
			}
			if err := c.ParseFlags(rest); err != nil {
				t.Errorf("%s: assay %s: %v", file, m[1], err)
			}
			if err := c.ValidateRequiredFlags(); err != nil {
				t.Errorf("%s: assay %s: %v", file, m[1], err)
			}
			checked++
		}
	}
	if checked < 10 {
		t.Errorf("only %d command lines were found in the documentation", checked)
	}
}

var link = regexp.MustCompile(`\]\(([^)#:]+)\)`)

// Links between files lead somewhere.
func TestDocumentedLinks(t *testing.T) {
	for _, file := range []string{"../../README.md", "../../CONTRIBUTING.md"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join("../..", m[1])); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
}

// Every command that users see has help with an example, and -o json or a file.
func TestHelp(t *testing.T) {
	for _, c := range (&app{}).root().Commands() {
		for _, c := range append(c.Commands(), c) {
			if c.Hidden || c.Name() == "help" || c.Name() == "completion" || c.Parent().Name() == "completion" {
				continue
			}
			if c.Short == "" || c.Example == "" {
				t.Errorf("%s: no help or no example", c.CommandPath())
			}
			if !c.HasSubCommands() && c.Flags().Lookup("output") == nil {
				t.Errorf("%s: no --output", c.CommandPath())
			}
		}
	}
}
