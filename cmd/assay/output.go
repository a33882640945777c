package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// ANSI colours.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
	grey   = "90"
)

// isTerminal says whether w is one that shows colours.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}

// paint colours a text where w is a terminal.
func (a *app) paint(w io.Writer, colour, text string) string {
	if !isTerminal(w) {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// printable replaces control characters, so that hostile names neither move the
// cursor nor forge lines.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '\uFFFD'
		}
		return r
	}, s)
}

// printableLines is printable that keeps line ends.
func printableLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = printable(lines[i])
	}
	return strings.Join(lines, "\n")
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// format is the value of -o where a command has text and JSON.
type format string

func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "text|json" }
func (f *format) Set(s string) error {
	if s != "text" && s != "json" {
		return fmt.Errorf("must be text or json, not %q", s)
	}
	*f = format(s)
	return nil
}

// outputFlag adds -o text|json.
func outputFlag(c *cobra.Command) *format {
	f := format("text")
	c.Flags().VarP(&f, "output", "o", "output format")
	must(c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp)))
	return &f
}

// moment is the value of --now.
type moment struct{ time.Time }

func (m *moment) String() string {
	if m.IsZero() {
		return ""
	}
	return m.Format(time.RFC3339)
}
func (m *moment) Type() string { return "RFC3339" }
func (m *moment) Set(s string) error {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return fmt.Errorf("must be RFC 3339, such as 2026-01-31T00:00:00Z, not %q", s)
	}
	m.Time = t
	return nil
}

// or is the moment given, or another.
func (m *moment) or(t time.Time) time.Time {
	if m.IsZero() {
		return t
	}
	return m.Time
}

// table writes rows in columns.
type table struct{ rows [][]string }

func (t *table) add(cells ...string) {
	for i := range cells {
		cells[i] = printable(cells[i])
	}
	t.rows = append(t.rows, cells)
}

// write pads each column; colour paints a cell after it was padded, so that
// colours do not count as width.
func (t *table) write(w io.Writer, colour func(column int, text string) string) {
	var widths []int
	for _, row := range t.rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	for n, row := range t.rows {
		var b strings.Builder
		for i, cell := range row {
			padded := cell
			if i < len(row)-1 {
				padded += strings.Repeat(" ", widths[i]-len([]rune(cell))+2)
			}
			if n > 0 && colour != nil {
				padded = colour(i, padded)
			}
			b.WriteString(padded)
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}

// resultColour paints the results.
func (a *app) resultColour(w io.Writer) func(int, string) string {
	return func(_ int, text string) string {
		switch strings.TrimSpace(text) {
		case "Pass", "Allow":
			return a.paint(w, green, text)
		case "Warn":
			return a.paint(w, yellow, text)
		case "Fail", "Reject":
			return a.paint(w, red, text)
		case "Unknown":
			return a.paint(w, grey, text)
		}
		return text
	}
}
