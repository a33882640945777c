// Package guarantees_test holds docs/guarantees.md to the tests, and the documentation
// to docs/guarantees.md: what is promised has a test that attacks it.
package guarantees_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const (
	table     = "docs/guarantees.md"
	plainText = "test/guarantees/not-promises.txt"
)

// row is one promise.
type row struct {
	line   int
	id     string
	quotes []quote  // the words that make it; none where the table alone makes it
	tests  []string // folder.TestName, folder.TestName/case, a transcript or a test of Rego
}

// quote is words of a document.
type quote struct {
	file, words string
}

var (
	// promising are words that a sentence about safety, equality or loss is rarely without.
	promising = regexp.MustCompile(`(?i)\b(never|always|cannot|nothing|nobody|no one|no other|fails? closed|lost|loses?|equal|same|identical|exactly|byte for byte|refused?|refuses)\b`)
	quotation = regexp.MustCompile(`(\S+) “([^”]+)”`)
	code      = regexp.MustCompile("`([^`]+)`")
	identity  = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	goTest    = regexp.MustCompile(`^([a-z0-9_/-]+)\.((?:Test|Fuzz)\w+)(?:/(.+))?$`)
)

// rows reads the tables of the document: id, promise, where, test.
func rows(document string) (list []row, faults []string) {
	seen := map[string]bool{}
	for i, line := range strings.Split(document, "\n") {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		fault := func(format string, args ...any) {
			faults = append(faults, fmt.Sprintf("%s:%d: ", table, i+1)+fmt.Sprintf(format, args...))
		}
		cells := strings.Split(strings.TrimSuffix(strings.TrimPrefix(line, "| "), " |"), " | ")
		if len(cells) != 4 {
			fault("%d cells, not the four of id, promise, where and test", len(cells))
			continue
		}
		r := row{line: i + 1, id: strings.Trim(cells[0], "`")}
		if !identity.MatchString(r.id) {
			fault("the id %q is not words joined by -", r.id)
		}
		if seen[r.id] {
			fault("the id %s is there twice", r.id)
		}
		seen[r.id] = true
		if strings.TrimSpace(cells[1]) == "" {
			fault("%s promises nothing", r.id)
		}
		for _, m := range quotation.FindAllStringSubmatch(cells[2], -1) {
			r.quotes = append(r.quotes, quote{file: m[1], words: m[2]})
		}
		if len(r.quotes) == 0 && cells[2] != "here" {
			fault("%s: where it is promised is the word here, or a file and its words in “ ”", r.id)
		}
		for _, m := range code.FindAllStringSubmatch(cells[3], -1) {
			r.tests = append(r.tests, m[1])
		}
		if len(r.tests) == 0 {
			fault("%s has no test", r.id)
		}
		list = append(list, r)
	}
	return list, faults
}

// plain reads the sentences that only sound like promises: a file, a colon and words on each line.
func plain(document string) (list []quote, faults []string) {
	for i, line := range strings.Split(document, "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		file, words, ok := strings.Cut(line, ": ")
		if !ok {
			faults = append(faults, fmt.Sprintf("%s:%d: not a file, a colon and words", plainText, i+1))
			continue
		}
		list = append(list, quote{file: file, words: words})
	}
	return list, faults
}

// uncovered says which words the documents do not have, and which of their sentences
// promise something and are quoted nowhere.
func uncovered(documents map[string][]string, quotes []quote) (faults []string) {
	found := make([]bool, len(quotes))
	for _, file := range slices.Sorted(maps.Keys(documents)) {
		for _, sentence := range documents[file] {
			covered := false
			for i, q := range quotes {
				if q.file == file && strings.Contains(sentence, q.words) {
					found[i], covered = true, true
				}
			}
			if !covered && promising.MatchString(sentence) {
				faults = append(faults, fmt.Sprintf("%s: no row of %s has %q: add one with a test that attacks it, or take it out, or name it in %s where it promises nothing",
					file, table, sentence, plainText))
			}
		}
	}
	for i, q := range quotes {
		if !found[i] {
			faults = append(faults, fmt.Sprintf("%s does not say %q in one sentence: quote it as it stands, or take the row out", q.file, q.words))
		}
	}
	return faults
}

// tests looks tests up in a tree, and reads each folder once.
type tests struct {
	tree    fs.FS
	folders map[string]*folder
}

// folder is what the test files of one have: functions, and texts, of which cases are named.
type folder struct {
	functions, texts map[string]bool
	err              error
}

// missing says which tests of a row the tree does not have.
func (t *tests) missing(r row) (faults []string) {
	for _, name := range r.tests {
		fault := func(why string) {
			faults = append(faults, fmt.Sprintf("%s:%d: %s: the test %s %s", table, r.line, r.id, name, why))
		}
		if strings.HasSuffix(name, ".txtar") || strings.HasSuffix(name, "_test.rego") {
			if _, err := fs.Stat(t.tree, name); err != nil {
				fault("is not there")
			}
			continue
		}
		m := goTest.FindStringSubmatch(name)
		if m == nil {
			fault("is neither folder.TestName, folder.TestName/case, a .txtar nor a _test.rego")
			continue
		}
		switch f := t.folder(m[1]); {
		case f.err != nil:
			fault("cannot be looked for: " + f.err.Error())
		case !f.functions[m[2]]:
			fault("is not there")
		case m[3] != "" && !f.texts[m[3]] && !f.texts[strings.ReplaceAll(m[3], "_", " ")]:
			fault("has no such case")
		}
	}
	return faults
}

func (t *tests) folder(name string) *folder {
	if f := t.folders[name]; f != nil {
		return f
	}
	f := &folder{functions: map[string]bool{}, texts: map[string]bool{}}
	if t.folders == nil {
		t.folders = map[string]*folder{}
	}
	t.folders[name] = f
	files, err := fs.Glob(t.tree, path.Join(name, "*_test.go"))
	f.err = err
	for _, name := range files {
		data, err := fs.ReadFile(t.tree, name)
		if err != nil {
			f.err = err
			break
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, data, parser.SkipObjectResolution)
		if err != nil {
			f.err = err
			break
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Recv == nil {
					f.functions[n.Name.Name] = true
				}
			case *ast.BasicLit:
				if n.Kind == token.STRING {
					if text, err := strconv.Unquote(n.Value); err == nil {
						f.texts[text] = true
					}
				}
			}
			return true
		})
	}
	return f
}
