package bundles_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/review"
	"github.com/assay-dev/assay/test/corpus"
	"github.com/open-policy-agent/opa/v1/bundle"
)

// manyScans are n images, one in each shard before there are two in one.
func manyScans(n int) []api.Scan {
	score := 9.8
	var scans []api.Scan
	for i := range n {
		scans = append(scans, api.Scan{
			Image: fmt.Sprintf("registry.example.com/app-%d:1", i), Digest: fmt.Sprintf("sha256:%02x%062x", i%256, i), ScannedAt: time.Unix(1e9, 0),
			Vulnerabilities: []api.Vulnerability{{ID: fmt.Sprintf("CVE-2026-%d", i), CVSS: &score, Severity: "Critical"}},
		})
	}
	return scans
}

func split(t *testing.T, c bundles.Content) map[string]*bundle.Bundle {
	t.Helper()
	parts, err := bundles.Split(c)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := slices.Sorted(maps.Keys(parts)), slices.Sorted(slices.Values(bundles.Parts())); !slices.Equal(got, want) || len(got) != 19 {
		t.Fatalf("the parts are %v, want %v", got, want)
	}
	return parts
}

// The parts are the one bundle in pieces: the same documents, modules and revisions,
// below roots that do not overlap and that every part's documents are in.
func TestSplit(t *testing.T) {
	c := content(t)
	c.Policies.Thresholds.FailOnKEV = true // gives details
	c.Scans = manyScans(300)
	whole, err := bundles.Build(c)
	if err != nil {
		t.Fatal(err)
	}
	parts := split(t, c)
	merged := map[string]any{}
	var roots []string
	for name, b := range parts {
		if got := b.Data["assay"].(map[string]any)["revisions"]; !reflect.DeepEqual(got, map[string]any{name: b.Manifest.Revision}) {
			t.Errorf("%s has the revision %s and the revisions %v", name, b.Manifest.Revision, got)
		}
		text, err := bundles.Bytes(b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := bundles.Read(bytes.NewReader(text)); err != nil { // it holds documents to roots
			t.Fatalf("%s: %v", name, err)
		}
		merge(merged, b.Data)
		roots = append(roots, *b.Manifest.Roots...)
	}
	slices.Sort(roots)
	for i, r := range roots {
		for _, other := range roots[i+1:] {
			if other == r || strings.HasPrefix(other, r+"/") {
				t.Errorf("the roots %s and %s overlap", r, other)
			}
		}
	}
	if !reflect.DeepEqual(merged, map[string]any(whole.Data)) {
		t.Error("the parts together have other documents than the whole")
	}
	if !reflect.DeepEqual(parts[bundles.PartPolicies].Modules, whole.Modules) {
		t.Error("the parts together have other modules than the whole")
	}
}

// merge adds documents to an object. Shards that are empty are left out.
func merge(to, from map[string]any) {
	for key, value := range from {
		object, ok := value.(map[string]any)
		if !ok {
			to[key] = value
			continue
		}
		if len(object) == 0 && len(key) == 2 {
			continue
		}
		below, ok := to[key].(map[string]any)
		if !ok {
			below = map[string]any{}
			to[key] = below
		}
		merge(below, object)
	}
}

// One scan changes the part of its image and that of names, and no other.
func TestOneScanChangesItsPart(t *testing.T) {
	c := content(t)
	c.Scans = manyScans(100)
	before := split(t, c)
	c.Scans = append(c.Scans, api.Scan{Image: "registry.example.com/new:1", Digest: "sha256:ff" + strings.Repeat("0", 62), ScannedAt: time.Unix(1e9, 0)})
	for name, b := range split(t, c) {
		changed := b.Manifest.Revision != before[name].Manifest.Revision
		if want := name == bundles.PartNames || name == bundles.PartImages(15); changed != want {
			t.Errorf("%s changed: %v, want %v", name, changed, want)
		}
	}
}

// Images that are gone from their bundle are gone from the engine, the last of a
// shard too.
func TestRemoval(t *testing.T) {
	ctx := context.Background()
	c := content(t)
	c.Scans = manyScans(40)
	e := engine.New(engine.Config{})
	if err := e.Load(ctx, slices.Collect(maps.Values(split(t, c)))...); err != nil {
		t.Fatal(err)
	}
	results := func() (scanned int) {
		for _, s := range c.Scans {
			got, err := e.Classify(ctx, s.Image, s.Digest, time.Unix(2e9, 0))
			if err != nil {
				t.Fatal(err)
			}
			if got.Result != api.Unknown {
				scanned++
			}
		}
		return scanned
	}
	if n := results(); n != 40 {
		t.Fatalf("%d of 40 images are known", n)
	}
	none, err := bundles.Images(0, "empty", nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Replace(ctx, none); err != nil {
		t.Fatal(err)
	}
	if n := results(); n != 24 {
		t.Errorf("%d images are known after those of 16 shards are gone, want 24", n)
	}
	if r := e.Revisions()[bundles.PartImages(0)]; r != "empty" {
		t.Errorf("the revision is %q", r)
	}
}

// A bundle of texts is that of the documents which they say, however they say it.
func TestImagesOfTexts(t *testing.T) {
	c := content(t)
	c.Scans = manyScans(300)
	c.Policies.Thresholds.FailOnKEV = true
	data := documents.Data(c.Scans, nil, documents.Needs{All: true})
	for n := range documents.ImageParts {
		of := func(kind string, encode func(any) any) map[string]any {
			all := map[string]any{}
			for _, shard := range data[kind].(map[string]any) {
				for digest, d := range shard.(map[string]any) {
					if documents.ImagePart(digest) == bundles.PartImages(n) {
						all[digest] = encode(d)
					}
				}
			}
			return all
		}
		var first []byte
		for _, encode := range []func(any) any{
			func(d any) any { return d },
			func(d any) any { return raw(t, d, "") },
			func(d any) any { return raw(t, d, "  ") },
			func(d any) any {
				members := map[string]json.RawMessage{}
				for name, m := range d.(map[string]any) {
					members[name] = raw(t, m, "")
				}
				return members
			},
		} {
			b, err := bundles.Images(n, "r", of("images", encode), of("details", encode), nil)
			if err != nil {
				t.Fatal(err)
			}
			text, err := bundles.Bytes(b)
			if err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = text
			}
			if !bytes.Equal(first, text) {
				t.Fatalf("part %d differs", n)
			}
		}
	}
}

func raw(t testing.TB, v any, indent string) json.RawMessage {
	t.Helper()
	text, err := json.MarshalIndent(v, "", indent)
	if err != nil {
		t.Fatal(err)
	}
	if indent == "" {
		var compact bytes.Buffer
		if err := json.Compact(&compact, text); err != nil {
			t.Fatal(err)
		}
		return compact.Bytes()
	}
	return text
}

func TestImagesRefuses(t *testing.T) {
	digest := "sha256:a0" + strings.Repeat("0", 62)
	for name, c := range map[string]struct {
		part            int
		images, details map[string]any
	}{
		"an image of another part":  {3, map[string]any{digest: map[string]any{}}, nil},
		"details of another part":   {3, nil, map[string]any{digest: map[string]any{}}},
		"no hexadecimal digest":     {0, map[string]any{"sha256:0z": map[string]any{}}, nil},
		"a text that is cut short":  {0, map[string]any{"sha256:00": json.RawMessage(`{"at":`)}, nil},
		"a text of two documents":   {0, map[string]any{"sha256:00": json.RawMessage(`{} {}`)}, nil},
		"a text that ends the file": {0, map[string]any{"sha256:00": json.RawMessage(`{}}`)}, nil},
	} {
		b, err := bundles.Images(c.part, "r", c.images, c.details, nil)
		if err == nil {
			_, err = bundles.Bytes(b)
		}
		if err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
	if _, err := bundles.Documents("x", "r", map[string]any{"images": map[string]any{}, "images-x": 1, "images/00": map[string]any{}}); err == nil {
		t.Error("documents one below another are taken")
	}
}

// Signing while packing is packing and then signing, and OPA's own writer says the
// same.
func TestPack(t *testing.T) {
	private, public, err := bundles.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := bundles.ParseSigningKey(private)
	if err != nil {
		t.Fatal(err)
	}
	verification, err := bundles.ParseVerificationKey(public)
	if err != nil {
		t.Fatal(err)
	}
	c := content(t)
	c.Scans = manyScans(60)
	c.Exceptions = []api.VulnerabilityException{{Spec: api.VulnerabilityExceptionSpec{CVE: "CVE-2026-1", Scope: api.ScopeAny, Justification: "<é\u2028\x00>"}}}
	for name, b := range split(t, c) {
		signed, err := bundles.Pack(b, key)
		if err != nil {
			t.Fatal(err)
		}
		text, err := bundles.Bytes(b)
		if err != nil {
			t.Fatal(err)
		}
		later, err := key.Sign(text)
		if err != nil {
			t.Fatal(err)
		}
		var opa bytes.Buffer
		if err := bundle.NewWriter(&opa).Write(*b); err != nil {
			t.Fatal(err)
		}
		ofOPA, err := key.Sign(opa.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(signed, later) {
			t.Errorf("%s: signing later gives other bytes", name)
		}
		var read [2]*bundle.Bundle
		for i, text := range [][]byte{signed, ofOPA} {
			if read[i], err = bundles.Verify(text, time.Now(), verification); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if !reflect.DeepEqual(read[0].Signatures, read[1].Signatures) || !reflect.DeepEqual(read[0].Data, read[1].Data) ||
			!reflect.DeepEqual(read[0].Manifest, read[1].Manifest) || len(read[0].Modules) != len(b.Modules) {
			t.Errorf("%s: OPA's writer says something else", name)
		}
	}
}

// BenchmarkImages makes one of the 16 bundles of 10,000 images of 8 KB, as the
// server does: from texts to signed bytes.
func BenchmarkImages(b *testing.B) {
	private, _, err := bundles.GenerateKey()
	if err != nil {
		b.Fatal(err)
	}
	key, err := bundles.ParseSigningKey(private)
	if err != nil {
		b.Fatal(err)
	}
	images := map[string]any{}
	size := 0
	for i := range 625 {
		var ids, scores []any
		for k := range 390 {
			ids = append(ids, fmt.Sprintf("CVE-20%02d-%d", 10+(i*7+k)%16, 1000+(i*i+k*7919)%30000))
			scores = append(scores, json.Number(fmt.Sprintf("%d.%d", 9-k*9/390, (i+k)%10)))
		}
		text := raw(b, map[string]any{"at": documents.Time(time.Unix(1e9+int64(i), 0)), "db": "", "ids": ids, "s": scores}, "")
		size += len(text)
		images[fmt.Sprintf("sha256:a%x%062x", i%16, i)] = text
	}
	var packed []byte
	b.ReportAllocs()
	b.SetBytes(int64(size))
	for b.Loop() {
		made, err := bundles.Images(10, "r", images, nil, nil)
		if err != nil {
			b.Fatal(err)
		}
		if packed, err = bundles.Pack(made, key); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(size)/625, "B/image")
	b.ReportMetric(float64(len(packed)), "B/bundle")
}

// An engine with the parts, read back from their bytes in any order, decides as one
// with all in one bundle, over generated worlds.
func TestPartsDecideAsTheWhole(t *testing.T) {
	ctx := context.Background()
	decided, rejected, classified := 0, 0, 0
	for seed := range uint64(20) {
		world := corpus.Generate(seed)
		dir := t.TempDir()
		if err := corpus.WriteFolder(dir, world); err != nil {
			t.Fatal(err)
		}
		set, err := policies.LoadDir(filepath.Join(dir, "policies"))
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(dir, "scans.json"))
		if err != nil {
			t.Fatal(err)
		}
		var report api.ScanReport
		if err := json.Unmarshal(text, &report); err != nil {
			t.Fatal(err)
		}
		c := bundles.Content{Policies: set, Scans: report.Images}
		built, err := bundles.Build(c)
		if err != nil {
			t.Fatal(err)
		}
		var read []*bundle.Bundle
		for _, b := range split(t, c) {
			text, err := bundles.Bytes(b)
			if err != nil {
				t.Fatal(err)
			}
			again, err := bundles.Read(bytes.NewReader(text))
			if err != nil {
				t.Fatal(err)
			}
			read = append(read, again)
		}
		whole, parts := engine.New(engine.Config{}), engine.New(engine.Config{})
		if err := whole.Load(ctx, built); err != nil {
			t.Fatal(err)
		}
		if err := parts.Load(ctx, read...); err != nil {
			t.Fatal(err)
		}
		for i, r := range world.Reviews {
			in, err := review.FromAdmissionReview(r, review.KindsOf(set.Settings))
			if err != nil {
				t.Fatal(err)
			}
			want, err := whole.Admit(ctx, in.Review, world.Now)
			if err != nil {
				t.Fatal(err)
			}
			got, err := parts.Admit(ctx, in.Review, world.Now)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("seed %d review %d:\nparts %+v\nwhole %+v (%v)", seed, i, got, want, err)
			}
			decided++
			if !want.Allowed {
				rejected++
			}
		}
		for _, s := range report.Images {
			want, err := whole.Classify(ctx, s.Image, s.Digest, world.Now)
			if err != nil {
				continue // a failed scan without a reference
			}
			got, err := parts.Classify(ctx, s.Image, s.Digest, world.Now)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("seed %d, %s:\nparts %+v\nwhole %+v (%v)", seed, s.Image, got, want, err)
			}
			classified++
		}
	}
	t.Logf("%d decisions, %d rejections, %d classifications agree", decided, rejected, classified)
	if rejected == 0 || rejected == decided || classified == 0 {
		t.Error("the corpus shows nothing")
	}
}
