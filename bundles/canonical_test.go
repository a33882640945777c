package bundles

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"testing"

	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/util"
)

// agrees holds a JSON text in canonical form to OPA: its SHA-256 is what OPA signs
// for the document, and it says the same.
func agrees(t *testing.T, text, made []byte) {
	t.Helper()
	hasher, err := bundle.NewSignatureHasher(bundle.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	var hashes [2][]byte
	for i, of := range [][]byte{text, made} {
		var document any
		if err := util.UnmarshalJSON(of, &document); err != nil {
			t.Fatalf("%q: %v", of, err)
		}
		if hashes[i], err = hasher.HashFile(document); err != nil {
			t.Fatal(err)
		}
	}
	if sum := sha256.Sum256(made); !bytes.Equal(hashes[0], sum[:]) || !bytes.Equal(hashes[1], sum[:]) {
		t.Fatalf("%q became %q: OPA signs %x and %x, its hash is %x", text, made, hashes[0], hashes[1], sum)
	}
}

func TestCanonical(t *testing.T) {
	for text, want := range map[string]string{
		`{"b": 1, "a": [true, null, {}], "a": []}`:   `{"a":[],"b":1}`,
		`{"a":{"a":1,"b":-0.50e+7},"aa":[],"b":"<"}`: `{"a":{"a":1,"b":-0.50e+7},"aa":[],"b":"<"}`,
		`"\u003c\u2028\/\u0041é\ud800\n\u0000"`:      "\"<\\u2028/Aé\ufffd\\n\\u0000\"",
		`{"\u0061": 1, "A": 2}`:                      `{"A":2,"a":1}`,
		` [9.80, 1E2] `:                              `[9.80,1E2]`,
		"\"\xff\"":                                   "\"\ufffd\"",
	} {
		got, err := canonical(nil, json.RawMessage(text))
		if err != nil || string(got) != want {
			t.Errorf("%s became %s, want %s (%v)", text, got, want, err)
		}
		agrees(t, []byte(text), got)
	}
	for _, text := range []string{"", "{", "nul", "01", "-", "1.", "[1,]", `{"a":}`, `{"a" 1}`, "1 2", `"`, "\x00", `{"a":1}x`, "[1", `{"a"`, "1e", "tru", ",", "{]"} {
		if got, err := canonical(nil, json.RawMessage(text)); err == nil {
			t.Errorf("%q became %q", text, got)
		}
	}
}

// Values of Go are what encoding/json makes of them.
func TestCanonicalValues(t *testing.T) {
	for _, v := range []any{
		nil, true, 1, 0.5, "a", "<\x00\xff\u2029", json.Number("9.80"), []any{"a", json.Number("1")}, []string{"b", "a"},
		map[string]any{"b": nil, "a": map[string]any{"é": "x"}}, map[string]any{"\xff": 1},
		map[string]json.RawMessage{"b": json.RawMessage(`[1, 2]`), "a": json.RawMessage(`{"x":1}`)},
		map[string]map[string]json.RawMessage{"a": {"b": json.RawMessage("1")}},
		struct{ B, A string }{"b", "<"},
	} {
		got, err := canonical(nil, v)
		if err != nil {
			t.Fatal(err)
		}
		want, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		agrees(t, want, got)
	}
	for _, v := range []any{make(chan int), json.Number("one"), map[string]any{"a": json.RawMessage(nil)}, []any{func() {}}} {
		if got, err := canonical(nil, v); err == nil {
			t.Errorf("%#v became %s", v, got)
		}
	}
	for _, v := range []any{map[string]any(nil), []any(nil)} {
		if got, err := canonical(nil, v); err != nil || len(got) != 2 {
			t.Errorf("%#v became %s (%v), want it to be empty", v, got, err)
		}
	}
}

// Whatever is JSON gets the form that OPA signs, in one step; whatever is not is
// refused.
func FuzzCanonical(f *testing.F) {
	for _, text := range []string{`{"a":[1,-2.5e+10,"b"],"b":{"c":null}}`, `{"b":1,"a":2}`, `"\u003c"`, `[true,false]`, `{"":{}}`, `1.`, `"é"`, ``} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		made, err := canonical(nil, json.RawMessage(text))
		var document any
		if broken := util.UnmarshalJSON(text, &document); (broken == nil) != (err == nil) {
			t.Fatalf("%q: %v, and OPA says %v", text, err, broken)
		}
		if err != nil {
			return
		}
		agrees(t, text, made)
		if again, err := canonical(nil, json.RawMessage(made)); err != nil || !bytes.Equal(again, made) {
			t.Fatalf("%q became %q and then %q (%v)", text, made, again, err)
		}
	})
}
