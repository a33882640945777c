package guarantees_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

// documented are the files whose promises are held: what users read.
var documented = []string{"README.md", "docs/*.md", "examples/*/README.md", "cmd/*/*.go"}

func TestGuarantees(t *testing.T) {
	tree := os.DirFS("../..")
	text, err := fs.ReadFile(tree, table)
	if err != nil {
		t.Fatal(err)
	}
	promises, faults := rows(string(text))
	if len(promises) < 50 {
		t.Fatalf("%d rows were read of %s", len(promises), table)
	}
	text, err = fs.ReadFile(tree, plainText)
	if err != nil {
		t.Fatal(err)
	}
	quotes, more := plain(string(text))
	faults = append(faults, more...)
	all := tests{tree: tree}
	for _, r := range promises {
		quotes = append(quotes, r.quotes...)
		faults = append(faults, all.missing(r)...)
	}
	faults = append(faults, uncovered(documents(t, tree), quotes)...)
	for _, f := range faults {
		t.Error(f)
	}
}

// A check that lets anything through would hold nothing.
func TestFaultsAreFound(t *testing.T) {
	tree := fstest.MapFS{
		"a/b/x_test.go":   {Data: []byte("package b\nfunc TestThere(t *testing.T) { t.Run(\"one case\", nil) }\nfunc (w world) TestMethod() {}\n")},
		"a/script.txtar":  {},
		"a/gone_test.txt": {},
	}
	for _, c := range []struct {
		table, want string
	}{
		{"| `x` | It holds. | here | `a/b.TestThere` |", ""},
		{"| `x` | It holds. | here | `a/b.TestThere/one case`, `a/script.txtar` |", ""},
		{"| `x` | It holds. | d.md “fails closed” | `a/b.TestThere/one_case` |", ""},
		{"| `x` | It holds. | here | `a/b.TestAway` |", "is not there"},
		{"| `x` | It holds. | here | `a/b.TestMethod` |", "is not there"},
		{"| `x` | It holds. | here | `a/b.TestThere/another` |", "has no such case"},
		{"| `x` | It holds. | here | `a/other.txtar` |", "is not there"},
		{"| `x` | It holds. | here | `a/b` |", "is neither"},
		{"| `x` | It holds. | here | by design |", "has no test"},
		{"| `x` | It holds. | here |", "3 cells"},
		{"| `x` | It holds. | d.md | `a/b.TestThere` |", "where it is promised"},
		{"| `x` | It holds. | d.md “Fails open” | `a/b.TestThere` |", "does not say"},
		{"| `X y` | It holds. | here | `a/b.TestThere` |", "words joined by -"},
		{"| `x` | It holds. | here | `a/b.TestThere` |\n| `x` | It holds. | here | `a/b.TestThere` |", "twice"},
	} {
		list, faults := rows(c.table)
		all := tests{tree: tree}
		var quotes []quote
		for _, r := range list {
			quotes = append(quotes, r.quotes...)
			faults = append(faults, all.missing(r)...)
		}
		faults = append(faults, uncovered(map[string][]string{"d.md": {"It fails closed: really."}}, append(quotes, quote{"d.md", "really"}))...)
		if got := strings.Join(faults, "\n"); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s\n%q, want %q", c.table, got, c.want)
		}
	}
	for sentence, found := range map[string]bool{"It never stops.": true, "Equal bytes.": true, "It FAILS CLOSED.": true, "Nevertheless sameness.": false} {
		if got := len(uncovered(map[string][]string{"d.md": {sentence}}, nil)) == 1; got != found {
			t.Errorf("%q is a promise: %t", sentence, got)
		}
	}
}

func TestSentences(t *testing.T) {
	got := sentences("# Head\nOne line\ngoes on. Two: `x`.\n\n```console\n$ never\n```\n- item; Last\n| a | never |\n<!-- never -->\n")
	want := []string{"# Head", "One line goes on.", "Two:", "`x`.", "- item;", "Last", "| a | never |"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// documents are the sentences of each documented file.
func documents(t *testing.T, tree fs.FS) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for _, pattern := range documented {
		files, err := fs.Glob(tree, pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, name := range files {
			if name == table || strings.HasSuffix(name, "_test.go") {
				continue
			}
			data, err := fs.ReadFile(tree, name)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(name, ".go") {
				all[name] = sentences(string(data))
				continue
			}
			for _, text := range help(t, name, data) {
				all[name] = append(all[name], sentences(text)...)
			}
		}
	}
	return all
}

var (
	hidden = regexp.MustCompile("(?s)```.*?```|<!--.*?-->")
	ends   = regexp.MustCompile("([.:;?!]) +([A-Z`*\\[])")
	starts = regexp.MustCompile(`\n(#|\||[-*] |\d+\. |\s*\n)`)
	// A heading ends with its line.
	heading = regexp.MustCompile(`(?m)^(#.*)$`)
)

// sentences are those of a Markdown text, each on one line; code in fences is left out.
func sentences(text string) (list []string) {
	text = hidden.ReplaceAllString(text, "\n\n")
	text = heading.ReplaceAllString(text, "$1\n")
	text = starts.ReplaceAllString(text, "\x00$1")
	text = starts.ReplaceAllString(text, "\x00$1")
	for _, block := range strings.Split(text, "\x00") {
		block = strings.Join(strings.Fields(block), " ")
		for _, s := range strings.Split(ends.ReplaceAllString(block, "$1\x00$2"), "\x00") {
			if s != "" {
				list = append(list, s)
			}
		}
	}
	return list
}

// help are the texts that --help shows: of commands, and of flags.
func help(t *testing.T, name string, data []byte) (list []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), name, data, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.KeyValueExpr:
			if key, ok := n.Key.(*ast.Ident); ok && (key.Name == "Short" || key.Name == "Long") {
				list = append(list, literal(n.Value))
			}
		case *ast.CallExpr:
			if f, ok := n.Fun.(*ast.SelectorExpr); ok && strings.Contains(f.Sel.Name, "Var") && len(n.Args) > 2 {
				list = append(list, literal(n.Args[len(n.Args)-1]))
			}
		}
		return true
	})
	return list
}

// literal is the text of a literal, or of literals that are added.
func literal(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BinaryExpr:
		return literal(e.X) + literal(e.Y)
	case *ast.BasicLit:
		if text, err := strconv.Unquote(e.Value); err == nil {
			return text
		}
	}
	return ""
}
