package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Each group of commands refuses words that are none of its commands, whatever flags
// stand beside them, and no word at all; each command refuses more words than it takes.
func TestUnknownWords(t *testing.T) {
	said := func(args ...string) string {
		t.Helper()
		var out, err bytes.Buffer
		if code := run(t.Context(), args, streams{in: strings.NewReader(""), out: &out, err: &err}); code != exitUsage || out.Len() > 0 {
			t.Errorf("assay %s: exit status %d: %s%s", strings.Join(args, " "), code, out.String(), err.String())
		}
		return err.String()
	}
	takesMore := []string{"assay scan", "assay priorities", "assay bundle sign", "assay db build", "assay help"}
	groups := 0
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		path := strings.Fields(c.CommandPath())[1:]
		with := func(words ...string) []string { return append(slices.Clone(path), words...) }
		if !c.HasSubCommands() {
			many := strings.Split(strings.Repeat("x", 9), "")
			if takes := slices.Contains(takesMore, c.CommandPath()); !takes && c.ValidateArgs(many) == nil {
				t.Errorf("%s takes nine words that it knows nothing of", c.CommandPath())
			}
			return
		}
		groups++
		if text := said(path...); !strings.Contains(text, "Available Commands:") {
			t.Errorf("%s alone does not say what it has: %s", c.CommandPath(), text)
		}
		const nonsense = "qqqqqqqqqqqqqqqq"
		for _, args := range [][]string{with(nonsense), with(nonsense, "-o", "json"), with(nonsense, "x", "--nosuch=1"), with("--", nonsense), append([]string{"help"}, with(nonsense)...)} {
			if text := said(args...); !strings.Contains(text, `"`+nonsense+`" is no command of '`+c.CommandPath()+`'; it has `) {
				t.Errorf("assay %s: %s", strings.Join(args, " "), text)
			}
		}
		for _, sub := range c.Commands() {
			if sub.Hidden {
				continue
			}
			// A letter left out, as in "chek".
			word := sub.Name()[:1] + sub.Name()[2:]
			for _, args := range [][]string{with(word), with(word, "x"), append([]string{"help"}, with(word)...)} {
				if text := said(args...); !strings.Contains(text, `did you mean "`) {
					t.Errorf("assay %s: %s", strings.Join(args, " "), text)
				}
			}
			walk(sub)
		}
	}
	root := (&app{}).root()
	walk(root)
	if groups < 6 {
		t.Errorf("%d groups were found", groups)
	}
	for _, c := range []struct{ args, want string }{
		{"policy chek x", `"chek" is no command of 'assay policy'; did you mean "check"?` + "\nSee 'assay policy --help'"},
		{"bundle bild", `did you mean "build"?`},
		{"db upate", `did you mean "update"?`},
		{"db --dir x upate", `did you mean "update"?`},
		{"exceptions exprot f", `did you mean "export"?`},
		{"completion bsh", `did you mean "bash"?`},
		{"scna nginx", `did you mean "scan"?`},
		{"help db upate", `"upate" is no command of 'assay db'; did you mean "update"?`},
		{"help scan x", `"x" is no command of 'assay scan'; it has none`},
	} {
		if text := said(strings.Fields(c.args)...); !strings.Contains(text, c.want) {
			t.Errorf("assay %s: %s", c.args, text)
		}
	}
	// Help is given where it is asked for.
	for _, args := range []string{"--help", "policy --help", "help policy", "db -h", "help db update"} {
		var out bytes.Buffer
		if code := run(t.Context(), strings.Fields(args), streams{in: strings.NewReader(""), out: &out, err: &out}); code != exitOK || !strings.Contains(out.String(), "Usage:") {
			t.Errorf("assay %s: exit status %d: %s", args, code, out.String())
		}
	}
}
