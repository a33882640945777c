package stream_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"go.yaml.in/yaml/v3"
	kubernetes "sigs.k8s.io/yaml"

	"github.com/assay-dev/assay/stream"
)

var config = stream.Config{Document: 1 << 20, Total: 4 << 20, Nodes: 10_000, Depth: 100}

// read gives the kinds of the documents of a text, and "!line:column: message" for what cannot be read.
func read(t testing.TB, in io.Reader) []string {
	t.Helper()
	var out []string
	for r := stream.NewReader("f", in, config); ; {
		d, err := r.Next()
		var bad stream.Diagnostics
		switch {
		case errors.Is(err, io.EOF):
			return out
		case errors.As(err, &bad):
			out = append(out, fmt.Sprintf("!%d:%d: %s", bad[0].Line, bad[0].Column, bad[0].Message))
			continue
		case err != nil:
			return append(out, "error: "+err.Error())
		}
		n, err := d.Node()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%d:%d:%s", d.Number, n.Line, stream.MemberText(n, "kind")))
	}
}

func TestNothingIsDropped(t *testing.T) {
	for text, want := range map[string]string{
		`{"kind":"A"}{"kind":"B"}`:                               "1:1:A 2:1:B",
		"{\"kind\":\"A\"}\n{\"kind\":\"B\"}\n":                   "1:1:A 2:2:B",
		"{\n \"kind\": \"A\"\n}\n{\n \"kind\": \"B\"\n}":         "1:1:A 2:4:B",
		"\x1e{\"kind\":\"A\"}\n\x1e{\"kind\":\"B\"}\n":           "1:1:A 2:2:B",
		"kind: A\n---\nkind: B\n":                                "1:1:A 2:3:B",
		"kind: A\n...\nkind: B\n":                                "1:1:A 2:3:B",
		"kind: A\n...\n---\nkind: B\n":                           "1:1:A 2:4:B",
		"---\nkind: A\n---\n# nothing\n---\nkind: B":             "1:2:A 2:6:B",
		"kind: A\r---\rkind: B\r":                                "1:1:A 2:3:B",
		"kind: A\r\n---\r\nkind: B\r\n":                          "1:1:A 2:3:B",
		"\xef\xbb\xbfkind: A\n---\n\xef\xbb\xbfkind: B\n":        "1:1:A 2:3:B",
		"--- {kind: A}\n--- {kind: B} # c\n":                     "1:1:A 2:2:B",
		"--- # a comment\nkind: A\n---   \nkind: B":              "1:2:A 2:4:B",
		"kind: A\n--- \nkind: B\n---\tx: y":                      "1:1:A 2:3:B !4:5: not YAML: mapping values are not allowed in this context",
		"%YAML 1.2\n---\nkind: A\n":                              "1:3:A",
		"  kind: A\n  spec: {}\n---\n  kind: B":                  "1:1:A 2:4:B",
		"kind: A\nt: |\n  --- x\n ---\n---\nkind: B":             "!4:2: not YAML: did not find expected key 2:6:B",
		"kind: A\nt: |\n  ---\n---\nkind: B":                     "1:1:A 2:5:B",
		"kind: A\u2028---\u2028kind: B":                          "1:1:A 2:3:B",
		"{kind: A}\n{kind: B}":                                   "1:1:A 2:2:B",
		"{kind: A, t: 'it''s }'} # }\n{kind: B, t: \"{\\\"\"}":   "1:1:A 2:2:B",
		"{\"kind\":\"A\"}\n{\"kind\":]}\n{\"kind\":\"B\"}":       "1:1:A !2:9: not JSON: invalid character ']' looking for beginning of value 3:3:B",
		"{\"kind\":\"A\"}\nkind: B\n---\nkind: C":                "1:1:A !2:1: nothing reads the text after a JSON value; a line --- separates documents 3:4:C",
		"{\"kind\":\"A\"},{\"kind\":\"B\"}":                      "1:1:A !1:13: nothing reads the text after a JSON value; a line --- separates documents",
		"{\"kind\":\"A\"\n---\nkind: B":                          "!1:12: not JSON: unexpected end of JSON input 2:3:B",
		"\"text\" more\n---\nkind: B":                            "!1:1: there is text after the end of the document, which nothing reads; a line --- separates documents 2:3:B",
		"a: b: c\n---\nkind: B\n---\n\tx: 1\n":                   "!1:1: not YAML: mapping values are not allowed in this context 2:3:B !5:2: not YAML: found character that cannot start any token",
		"{{- if .Values.x }}\nkind: A\n{{- end }}\n---\nkind: B": "!1:1: not YAML: did not find expected node content; it looks like a template: render it first, as helm template does (line 1) 2:5:B",
		"kind: A\n---\na\x00b":                                   "1:1:A !3:1: is no text: it has the byte 0x00",
		"\xff\xfek\x00":                                          "!1:1: is UTF-16, as PowerShell writes it; save it as UTF-8",
		"":                                                       "",
		"# nothing\n---\n\n...\n~\n---\nnull\n":                  "",
		`{"t":"\ud83d\ude00\/","kind":"A"}`:                      "1:1:A",
		"{\t\"kind\":\t\"A\"\t}":                                 "1:1:A",
	} {
		for name, in := range map[string]io.Reader{"at once": strings.NewReader(text), "by byte": iotest.OneByteReader(strings.NewReader(text))} {
			if got := strings.Join(read(t, in), " "); got != want {
				t.Errorf("%s, %q:\ngot  %s\nwant %s", name, text, got, want)
			}
		}
	}
}

func TestBounds(t *testing.T) {
	large := strings.Repeat("x", 1<<20+10)
	got := read(t, strings.NewReader("kind: A\n---\nx: "+large+"\n---\nkind: B\n---\n{\"x\":\""+large+"\"}{\"kind\":\"C\"}\n---\nkind: D\n"))
	want := []string{"1:1:A", "!3:1: the document is larger than 1048576 bytes", "3:5:B", "!7:1: the document is larger than 1048576 bytes", "5:9:D"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q", got)
	}
	got = read(t, strings.NewReader(strings.Repeat("x: 1\n---\n# "+strings.Repeat("c", 4000)+"\n", 1200)))
	if last := got[len(got)-1]; !strings.Contains(last, "the file is larger than 4194304 bytes") {
		t.Error(last)
	}
	var endless endless
	if got := read(t, &endless); len(got) != 1 || !strings.Contains(got[0], "larger than 4194304 bytes") {
		t.Errorf("%q", got)
	}
	if got := read(t, iotest.ErrReader(context.Canceled)); len(got) != 1 || got[0] != "error: context canceled" {
		t.Errorf("%q", got)
	}
	if got := read(t, io.MultiReader(strings.NewReader("kind: A\n---\nkind: B"), iotest.ErrReader(io.ErrUnexpectedEOF))); strings.Join(got, " ") != "1:1:A error: unexpected EOF" {
		t.Errorf("%q", got)
	}
	for name, text := range map[string]string{
		"deep JSON": strings.Repeat("[", 5000) + strings.Repeat("]", 5000),
		"deep YAML": strings.Repeat("- ", 500) + "x",
		"aliases":   "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n",
		"itself":    "a: &a [*a]",
		"merge":     "a: &a\n  <<: *a\n  b: c",
		"wide":      strings.Repeat("- x\n", 20_000),
	} {
		docs, err := stream.All("f", []byte(text), config)
		for _, d := range docs {
			n, nodeErr := d.Node()
			if nodeErr == nil {
				_, _, nodeErr = d.Value(n)
			}
			err = errors.Join(err, nodeErr)
		}
		if err == nil || !strings.Contains(err.Error(), "nested more than 100 deep") && !strings.Contains(err.Error(), "more than 10000 values") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Lists in lists by aliases, and many objects that are few together.
	for name, text := range map[string]string{
		"a list in itself": "kind: List\nitems: &a\n- kind: List\n  items: *a\n- kind: List\n  items: *a\n",
		"a list of itself": "&a {kind: List, items: [*a, *a]}",
		"one many times":   "kind: List\nx: &x [" + strings.Repeat("1,", 500) + "]\nitems: [" + strings.Repeat("{x: *x},", 200) + "]",
	} {
		docs, err := stream.All("f", []byte(text), config)
		if err != nil {
			t.Fatal(err)
		}
		objects, _, err := docs[0].Objects()
		for _, o := range objects {
			_, _, valueErr := docs[0].Value(o.Node)
			err = errors.Join(err, valueErr)
		}
		if err == nil || !strings.Contains(err.Error(), "nested more than 100 deep") && !strings.Contains(err.Error(), "more than 10000 values") {
			t.Errorf("%s: %d objects, %v", name, len(objects), err)
		}
	}
}

type endless struct{}

func (*endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '-'
	}
	return len(p), nil
}

func TestExcerpt(t *testing.T) {
	for text, want := range map[string]string{
		"a: 1\n---\nb: [1\n": "f:3:1: document 2: not YAML: did not find expected ',' or ']'\n    b: [1\n    ^",
		`{"a":1} {"b":]}`:    "f:1:14: document 2: not JSON: invalid character ']' looking for beginning of value\n    {\"a\":1} {\"b\":]}\n                 ^",
		"a: b: c":            "f:1:1: not YAML: mapping values are not allowed in this context\n    a: b: c\n    ^",
	} {
		_, err := stream.All("f", []byte(text), config)
		if err == nil || err.Error() != want {
			t.Errorf("%q:\ngot  %v\nwant %s", text, err, want)
		}
	}
	secret := config
	secret.Secret = true
	docs, err := stream.All("f", []byte("password: hunter2\n"), secret)
	if err != nil {
		t.Fatal(err)
	}
	n, err := docs[0].Node()
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Password int `json:"password"`
	}
	var diags stream.Diagnostics
	docs[0].Decode(n, &v, &diags)
	if got := diags.Error(); got != "f:1:11: password: must be a whole number, not a text\n    password: …\n              ^" {
		t.Error(got)
	}
}

func TestUnmarshal(t *testing.T) {
	var v struct {
		List []struct {
			Name string `json:"name"`
		} `json:"list"`
	}
	for text, want := range map[string]string{
		`{"list":[{"name":"a"}],"other":1}`: "",
		"list:\n- name: a\n- name: yes\n":   "f:1:1: list.name: must not be of the type bool",
		"{\"list\":[\n {\"name\":5}]}":      "f:2:11: list.name: must not be of the type number",
		`"x"`:                               "f:1:4: must not be of the type string",
	} {
		d, err := stream.One("f", []byte(text), config)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if err := d.Unmarshal(&v); err != nil {
			got, _, _ = strings.Cut(err.Error(), "\n")
		}
		if got != want {
			t.Errorf("%s: %s", text, got)
		}
	}
	for text, want := range map[string]string{"": "f: there is nothing in it", "# x\n---\n": "f: there is nothing in it", "a: 1\n...\nb: 2\n": "f:3:1: document 2: there must be one document, and this is another one", "a: [": "f:1:1: not YAML"} {
		if _, err := stream.One("f", []byte(text), config); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A document with secrets shows the name of a member at the most.
func TestSecretLines(t *testing.T) {
	secret := config
	secret.Secret = true
	for text, want := range map[string]string{
		"- a:\n    password: x\n":                      "    password: …",
		"{user: hunter2, password: x}\n":               "",
		"{\"user\": \"hunter2\", \"password\": \"x\"}": "",
	} {
		d, err := stream.One("f", []byte(text), secret)
		if err != nil {
			t.Fatal(err)
		}
		n, err := d.Node()
		if err != nil {
			t.Fatal(err)
		}
		for n.Kind != yaml.MappingNode || stream.Member(n, "password") == nil {
			n = n.Content[len(n.Content)-1]
		}
		if got := d.Fault(stream.Member(n, "password"), "", "x"); got.Source != want || strings.Contains(got.Excerpt(), "hunter2") {
			t.Errorf("%q: %q", text, got.Source)
		}
	}
}

func TestObjects(t *testing.T) {
	text := `{"apiVersion":"v1","kind":"List","items":[
 {"apiVersion":"v1","kind":"PodList","items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b"}}]},
 {"kind":"List","items":null},
 {"apiVersion":"apps/v1","kind":"DeploymentList","items":[{"kind":"Other"}]},
 {"apiVersion":"x/v1","kind":"AllowList","items":["a"]},
 7, {"kind":"List"}, {"metadata":{}}, {"kind":"PodList","items":[7,{}]}, {"kind":"PodList","items":[]}]}`
	docs, err := stream.All("f", []byte(text), config)
	if err != nil {
		t.Fatal(err)
	}
	objects, lists, err := docs[0].Objects()
	var got []string
	for _, o := range objects {
		got = append(got, fmt.Sprintf("%s %s/%s %d", o.Path, o.APIVersion, o.Kind, o.Node.Line))
	}
	want := []string{"items[0].items[0] v1/Pod 2", "items[0].items[1] v1/Pod 2", "items[2].items[0] apps/v1/Other 4", "items[3] x/v1/AllowList 5", "items[4] / 6", "items[6] / 6", "items[7].items[0] /Pod 6", "items[7].items[1] /Pod 6"}
	if !reflect.DeepEqual(got, want) || len(lists) != 7 {
		t.Errorf("%d lists, %q", len(lists), got)
	}
	if err == nil || !strings.HasPrefix(err.Error(), "f:6:5: items[5].items: a List needs a list of items") {
		t.Errorf("%v", err)
	}
}

// Values are those of sigs.k8s.io/yaml, which kubectl reads with.
func TestValuesAreKubectls(t *testing.T) {
	for _, text := range []string{
		"a: yes\nb: no\nc: on\nd: Off\ne: y\nf: 'yes'\ng: \"on\"\nh: !!str yes\ni: True\nj: ~\nk: null\nl:\n",
		"a: 1\nb: 0x1F\nc: 017\nd: 0o17\ne: 0b11\nf: 1_000\ng: -5\nh: 1e3\ni: 1.50\nj: .5\nk: 18446744073709551615\nl: +1\nm: 0777\nn: 1e400\n",
		"a: 2001-01-01\nb: 2001-12-14t21:59:43.10Z\nc: 12:30\nd: 1.2.3\ne: 1.10\nf: '1.10'\n",
		"1: a\ntrue: b\non: c\n1.5: d\n'x': e\n2001-01-01: f\n",
		"a: 1\na: 2\nb: {c: 1, c: 3}\n",
		"x: &x {a: 1, b: 2}\ny:\n  a: 0\n  <<: *x\n  c: 3\nz:\n  <<: [*x, {b: 9, d: 4}]\n  b: 5\n",
		"a: |\n  x\n  y\nb: >-\n  x\n  y\nc: 'it''s'\nd: \"\\u00e9\\n\"\n",
		"a: !custom x\nb: !!binary aGVsbG8=\nc: !!int 5\nd: !!float 5\ne: !!bool yes\n",
		"- 1\n- [a, {b: c}]\n- &r x\n- *r\n",
		"y\n", "5\n", "'x'\n", "\"<<\": 1\n",
		"{\"a\": [1, 2.0, true, null, \"\\u00e9\"], \"b\": {\"c\": {}}, \"d\": []}",
	} {
		want, err := kubernetes.YAMLToJSON([]byte(text))
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if got, err := convert(text); err != nil || !same(got, want) {
			t.Errorf("%q\ngot  %s (%v)\nwant %s", text, got, err, want)
		}
	}
	docs, err := stream.All("f", []byte("a:\n  b: 1\n  b: 2\n"), config)
	if err != nil {
		t.Fatal(err)
	}
	n, _ := docs[0].Node()
	if _, warnings, _ := docs[0].Value(n); len(warnings) != 1 || warnings[0].String() != "f:3:3: a.b: is given twice; the last one counts" {
		t.Error(warnings)
	}
	for _, text := range []string{"a: .nan", "? [a]\n: b", "~: a", "a: !!binary '%'", "<<: 5", "image: {{ .Values.image }}"} {
		if got, err := convert(text); err == nil {
			t.Errorf("%q gives %s", text, got)
		} else if strings.Contains(text, "{{") != strings.Contains(err.Error(), "render it first") {
			t.Error(err)
		}
	}
}

func convert(text string) ([]byte, error) {
	docs, err := stream.All("f", []byte(text), config)
	if err != nil || len(docs) != 1 {
		return nil, errors.Join(err, fmt.Errorf("%d documents", len(docs)))
	}
	n, err := docs[0].Node()
	if err != nil {
		return nil, err
	}
	v, _, err := docs[0].Value(n)
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

func same(a, b []byte) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}

// FuzzValues holds what one document gives to sigs.k8s.io/yaml: what both read is the same.
func FuzzValues(f *testing.F) {
	for _, text := range []string{"a: yes", "a: &x {b: 1}\nc: {<<: *x, b: 2}\n", "{\"a\": [1, 2]}", "a: 0o17\n1: b\n", "a: 'x'\na: 1_0\n"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.ContainsAny(text, "\u2028\u2029\u0085\x1e%!") || strings.Contains(text, "---") || strings.Contains(text, "...") {
			return
		}
		got, err := convert(text)
		if err != nil {
			return // refused
		}
		want, err := kubernetes.YAMLToJSON([]byte(text))
		if err == nil && !same(got, want) {
			t.Errorf("%q\ngot  %s\nwant %s", text, got, want)
		}
	})
}

// pieces are documents and what may stand between them, and the kinds to expect.
var pieces = []struct {
	text string
	kind string // "" is none, "!" is a fault
	json bool
}{
	{"kind: K\nspec:\n  a: |\n    --- x\n    {\n", "K", false},
	{"kind: K\nlist:\n- a\n- {b: \"}\"}\n", "K", false},
	{"  kind: K\n  a: 'x\n    y'\n", "K", false},
	{"{\"kind\": \"K\", \"a\": \"}{\\\"\"}", "K", true},
	{"{\n  \"kind\": \"K\",\n  \"b\": [1, {\"c\": \"---\"}]\n}", "K", true},
	{"{kind: K, a: 'it''s'}\n", "K", true},
	{"[{\"kind\": \"L\"}]", "", true},
	{"# nothing\n", "none", false},
	{"", "none", false},
	{"kind: K: x\n", "!", false},
	{"kind: [K\n", "!", false},
}

// FuzzReader builds a file of pieces, and holds what is read to what was put in: no
// document is dropped, whatever stands beside it. The plain splitter is the list of pieces.
func FuzzReader(f *testing.F) {
	for seed := range uint64(50) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		g := rand.New(rand.NewPCG(seed, 1))
		var b strings.Builder
		var want []string
		if g.IntN(4) == 0 {
			b.WriteString("\xef\xbb\xbf")
		}
		beforeJSON, faults := false, 0
		for i := range 1 + g.IntN(12) {
			p := pieces[g.IntN(len(pieces))]
			text := p.text
			if p.kind != "" {
				text = strings.ReplaceAll(text, "K", fmt.Sprintf("K%d", i))
			}
			switch between := g.IntN(6); {
			case i == 0 && between < 3:
			case beforeJSON && p.json && between < 3:
				b.WriteString([]string{"", "\n", " \n\x1e"}[between])
			case between == 4:
				b.WriteString("\n...\n---\n")
			case between == 5:
				b.WriteString("\n--- # here\n")
			case i == 0:
				b.WriteString("---\n")
			default:
				b.WriteString([]string{"\n---\n", "\n...\n"}[between%2])
			}
			b.WriteString(text)
			beforeJSON = p.json
			switch p.kind {
			case "none":
			case "!":
				faults++
			case "":
				want = append(want, "")
			default:
				want = append(want, fmt.Sprintf("K%d", i))
			}
		}
		text := b.String()
		switch g.IntN(3) {
		case 0:
			text = strings.ReplaceAll(text, "\n", "\r\n")
		case 1:
			text = strings.ReplaceAll(text, "\n", "\r")
		}
		var got []string
		found := 0
		for _, s := range read(t, strings.NewReader(text)) {
			if strings.HasPrefix(s, "!") {
				found++
				continue
			}
			got = append(got, s[strings.LastIndex(s, ":")+1:])
		}
		if fmt.Sprint(got) != fmt.Sprint(want) || found != faults {
			t.Errorf("%q\ngot  %q and %d faults\nwant %q and %d", text, got, found, want, faults)
		}
	})
}

// FuzzText reads any bytes: nothing panics, and all that is no blank or comment is in a
// document, in a marker or in a fault.
func FuzzText(f *testing.F) {
	for _, text := range []string{"a: 1\n---\nb: 2\n", "{}{}", "[1]\n# x\n[2] y\n", "--- a\n...\n--- |\n b\n", "\xef\xbb\xbf{\"a\":1}\x1e{}"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if bytes.ContainsRune(text, '#') {
			return // a comment can have the text of a document
		}
		rest := bytes.Clone(text)
		for r := stream.NewReader("f", bytes.NewReader(text), config); ; {
			d, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return // it says where it stopped
			}
			i := bytes.Index(rest, d.Text)
			if i < 0 {
				continue // several of one text
			}
			blank(t, text, rest[:i])
			rest = rest[i+len(d.Text):]
			if n, err := d.Node(); err == nil {
				_, _, _ = d.Value(n)
			}
			_, _, _ = d.Objects()
		}
		if len(bytes.Trim(rest, " \t\r\n\x1e")) > 0 && !bytes.ContainsAny(rest, "#-.%~n\"'!&|>\u2028\u2029\u0085\xef") {
			t.Errorf("%q: nothing reads %q", text, rest)
		}
	})
}

func blank(t *testing.T, text, skipped []byte) {
	t.Helper()
	for line := range bytes.Lines(skipped) {
		line = bytes.Trim(line, " \t\r\n\x1e\xef\xbb\xbf")
		if len(line) > 0 && !bytes.ContainsAny(line, "#-.%~n\"'!&|>") {
			t.Errorf("%q: nothing reads %q", text, line)
		}
	}
}
