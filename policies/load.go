// Package policies turns a user's folder of policies into Rego: it parses the
// YAML kinds of package api and the user's own Rego, validates them with
// diagnostics that name file, line and column, and compiles them to modules
// that any OPA evaluates together with the library of package rego.
package policies

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"reflect"
	"slices"
	"strings"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/policies/query"
	"github.com/assay-dev/assay/policies/selector"
	"github.com/assay-dev/assay/stream"
	"go.yaml.in/yaml/v3"
)

// Diagnostic is one thing wrong with a file, Diagnostics an error of all of them.
type (
	Diagnostic  = stream.Diagnostic
	Diagnostics = stream.Diagnostics
)

// maxFiles bounds a policies folder.
const maxFiles = 10_000

// MaxFile is the largest file of a folder, in bytes.
const MaxFile = 4 << 20

// Bounds are those of a file of policies.
var Bounds = stream.Config{Document: MaxFile, Total: MaxFile, Nodes: 200_000, Depth: 64}

// MaxRules bounds the rules of all policies of a folder together: as many take
// 10 to 20 seconds and 700 MiB to compile.
const MaxRules = 20_000

// Set is a validated folder of policies. Its lists are sorted: policies in the
// order that they apply, exceptions by CVE, the others by name.
type Set struct {
	Policies   []Policy
	Thresholds api.ThresholdsSpec
	// ThresholdsOrigin is where they stand; the zero value when the folder has none.
	ThresholdsOrigin Origin
	Settings         api.AdmissionSettingsSpec
	Exceptions       []api.VulnerabilityException
	Alerts           []Alert
	Templates        []api.GlobalAlertTemplate
	// VerdictAlerts are not part of what compiles: they need to know what is new.
	VerdictAlerts []VerdictAlert
	// Custom holds the user's own modules, Tests their *_test.rego files, by file name.
	Custom map[string]string
	Tests  map[string]string
	// Foreign says what was left out, where that was asked for.
	Foreign Diagnostics
}

// Options say how a folder is read.
type Options struct {
	// SkipForeign leaves out objects of other tools, each of which is a fault otherwise.
	SkipForeign bool
}

// OnlyExceptions says that nothing else is in the set.
func (s *Set) OnlyExceptions() bool {
	return len(s.Policies)+len(s.Alerts)+len(s.Templates)+len(s.VerdictAlerts)+len(s.Custom)+len(s.Tests) == 0 &&
		s.ThresholdsOrigin == Origin{} && reflect.ValueOf(s.Settings).IsZero()
}

// Origin is where an object stands.
type Origin struct {
	File string
	Line int
}

// String is "file:line".
func (o Origin) String() string { return fmt.Sprintf("%s:%d", o.File, o.Line) }

// Policy is a ContainerAdmissionPolicy with its parsed selectors.
type Policy struct {
	api.ContainerAdmissionPolicy
	Origin            Origin
	RuleOrigins       []Origin
	Mode              string // api.Enforce, api.Warn or api.Audit
	selector          selector.Node
	namespaceSelector selector.Node
	rules             []rule
}

// Alert is a GlobalAlert with its parsed query.
type Alert struct {
	api.GlobalAlert
	Origin Origin
	query  query.Node
}

// LoadDir loads a folder and the folders below it. Names that start with a dot
// are left out, so a mounted ConfigMap's ..data is not read twice. A file that
// is no YAML, JSON or Rego is left out too. The error is [Diagnostics] when
// the fault is in the files.
func LoadDir(dir string) (*Set, error) { return Options{}.LoadDir(dir) }

// LoadDir is the function of this name, as the options say.
func (o Options) LoadDir(dir string) (*Set, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("reading policies: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("reading policies: %s is no folder", dir)
	}
	return o.Load(os.DirFS(dir))
}

// Load is [LoadDir] over any file system.
func Load(fsys fs.FS) (*Set, error) { return Options{}.Load(fsys) }

// Load is the function of this name, as the options say.
func (o Options) Load(fsys fs.FS) (*Set, error) {
	l := &loader{options: o, folder: true, set: &Set{Custom: map[string]string{}, Tests: map[string]string{}}, seen: map[[2]string]Origin{}}
	files := 0
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case name != "." && strings.HasPrefix(d.Name(), "."):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			return nil
		}
		ext := strings.ToLower(path.Ext(name))
		if !slices.Contains([]string{".yaml", ".yml", ".json", ".rego"}, ext) {
			return nil
		}
		if files++; files > maxFiles {
			return fmt.Errorf("the folder has more than %d files", maxFiles)
		}
		return l.file(fsys, name, ext == ".rego")
	})
	if err != nil {
		return nil, fmt.Errorf("reading policies: %w", err)
	}
	return l.finish()
}

// Parse loads one file's text, as a folder that holds only it.
func Parse(name string, text []byte) (*Set, error) {
	return ParseFiles(map[string][]byte{name: text})
}

// ParseFiles loads texts by file name, as a folder that holds them.
func ParseFiles(files map[string][]byte) (*Set, error) {
	l := &loader{set: &Set{Custom: map[string]string{}, Tests: map[string]string{}}, seen: map[[2]string]Origin{}}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		l.text(name, files[name], strings.HasSuffix(name, ".rego"))
	}
	return l.finish()
}

type loader struct {
	options Options
	folder  bool // that is read as the options say
	set     *Set
	diags   Diagnostics
	seen    map[[2]string]Origin // kind and name
}

func (l *loader) file(fsys fs.FS, name string, isRego bool) error {
	info, err := fs.Stat(fsys, name) // follows links
	if err != nil {
		return err
	}
	if info.IsDir() {
		return nil
	}
	if !info.Mode().IsRegular() {
		l.diags = append(l.diags, Diagnostic{File: name, Message: "is no regular file"})
		return nil
	}
	f, err := fsys.Open(name)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	l.text(name, text, isRego)
	return nil
}

func (l *loader) text(name string, text []byte, isRego bool) {
	if isRego {
		l.rego(newFile(name, text, &l.diags), text)
		return
	}
	if len(text) > MaxFile {
		l.diags = append(l.diags, Diagnostic{File: name, Message: fmt.Sprintf("the file has %d bytes; at most %d are read", len(text), MaxFile)})
		return
	}
	docs, err := stream.All(name, text, Bounds)
	l.add(err)
	for _, doc := range docs {
		objects, lists, err := doc.Objects()
		l.add(err)
		for _, n := range lists {
			var outer list
			doc.Decode(withoutItems(n), &outer, &l.diags)
		}
		for _, o := range objects {
			l.document(document{Document: doc, node: o.Node, diags: &l.diags}, o.APIVersion, o.Kind)
		}
	}
}

// add adds diagnostics; texts have no other errors.
func (l *loader) add(err error) {
	var diags Diagnostics
	if errors.As(err, &diags) {
		l.diags = append(l.diags, diags...)
	}
}

// document is an object of a file, with where its faults go.
type document struct {
	*stream.Document
	node  *yaml.Node
	diags *Diagnostics
}

func (d document) report(n *yaml.Node, path, format string, args ...any) {
	*d.diags = append(*d.diags, d.Fault(n, path, format, args...))
}

func (d document) decode(v any) stream.Places { return d.Decode(d.node, v, d.diags) }

// rego checks a user's module, and keeps it as a policy or as a test.
func (l *loader) rego(f *file, text []byte) {
	switch {
	case len(text) > MaxFile:
		f.report(0, 0, "", "the file has more than %d bytes", MaxFile)
	case strings.HasSuffix(f.name, "_test.rego"):
		l.set.Tests[f.name] = string(text)
	default:
		checkCustom(f, text)
		l.set.Custom[f.name] = string(text)
	}
}

func (l *loader) finish() (*Set, error) {
	s := l.set
	slices.SortFunc(s.Policies, func(a, b Policy) int {
		return cmp.Or(compareOrder(a.Spec.Order, b.Spec.Order), cmp.Compare(a.Metadata.Name, b.Metadata.Name))
	})
	total := 0
	for _, p := range s.Policies {
		if total += len(p.Spec.Rules); total > MaxRules {
			l.diags = append(l.diags, Diagnostic{File: p.Origin.File, Line: p.Origin.Line, Column: 1,
				Message: fmt.Sprintf("the policies have more than %d rules together, which take too long to compile; merge rules by giving them several values", MaxRules)})
			break
		}
	}
	slices.SortFunc(s.Exceptions, CompareExceptions)
	slices.SortFunc(s.Alerts, func(a, b Alert) int { return cmp.Compare(a.Metadata.Name, b.Metadata.Name) })
	slices.SortFunc(s.VerdictAlerts, func(a, b VerdictAlert) int { return cmp.Compare(a.Metadata.Name, b.Metadata.Name) })
	slices.SortFunc(s.Templates, func(a, b api.GlobalAlertTemplate) int { return cmp.Compare(a.Metadata.Name, b.Metadata.Name) })
	if len(l.diags) == 0 {
		l.diags = append(l.diags, checkModules(s.Custom)...)
	}
	if err := l.diags.Err(); err != nil {
		return nil, err
	}
	return s, nil
}

// CompareExceptions orders by CVE, then name.
func CompareExceptions(a, b api.VulnerabilityException) int {
	return cmp.Or(cmp.Compare(a.Spec.CVE, b.Spec.CVE), cmp.Compare(a.Metadata.Name, b.Metadata.Name))
}

func compareOrder(a, b *float64) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return 1
	case b == nil:
		return -1
	}
	return cmp.Compare(*a, *b)
}

// list is a kind: List, as kubectl get prints several objects.
type list struct {
	api.TypeMeta
	Metadata anything `json:"metadata,omitempty"`
	Items    anything `json:"items"`
}

type anything = json.RawMessage

func (l *loader) document(d document, version, kind string) {
	n := d.node
	if n.Kind != yaml.MappingNode {
		d.report(n, "", "must be an object with apiVersion and kind, not %s", d.Describe(n))
		return
	}
	if fault, is := foreign(d, version, kind); is {
		switch {
		case l.options.SkipForeign:
			l.set.Foreign = append(l.set.Foreign, fault)
			return
		case l.folder:
			fault.Message += "; --skip-foreign leaves it out"
		}
		*d.diags = append(*d.diags, fault)
		return
	}
	want, ok := groupOf[kind]
	switch {
	case kind == "":
		d.report(n, "kind", "is missing; known kinds are %s", knownKinds())
	case !ok:
		d.report(placeOf(n, "kind"), "kind", "unknown kind %q; known are %s", kind, knownKinds())
	case version != want:
		d.report(placeOf(n, "apiVersion"), "apiVersion", "must be %s for a %s, not %q", want, kind, version)
	default:
		l.object(d, kind)
	}
}

// placeOf is a member, or the object where it has none: an item may leave it to its list.
func placeOf(n *yaml.Node, name string) *yaml.Node {
	if m := stream.Member(n, name); m != nil {
		return m
	}
	return n
}

// withoutItems is a list whose items are not looked at.
func withoutItems(n *yaml.Node) *yaml.Node {
	outer := *n
	outer.Content = slices.Clone(n.Content)
	for i := 0; i+1 < len(outer.Content); i += 2 {
		if stream.Resolve(outer.Content[i]).Value == "items" {
			outer.Content[i+1] = &yaml.Node{Kind: yaml.SequenceNode, Line: n.Line, Column: n.Column}
		}
	}
	return &outer
}

var groupOf = map[string]string{
	api.KindContainerAdmissionPolicy: api.GroupPolicy,
	api.KindGlobalAlert:              api.GroupAlert,
	api.KindGlobalAlertTemplate:      api.GroupAlert,
	api.KindVulnerabilityException:   api.GroupAssay,
	api.KindThresholds:               api.GroupAssay,
	api.KindAdmissionSettings:        api.GroupAssay,
	api.KindVerdictAlert:             api.GroupAssay,
}

func knownKinds() string {
	var names []string
	for k := range groupOf {
		names = append(names, k)
	}
	slices.Sort(names)
	return strings.Join(names, ", ") + " and List"
}
