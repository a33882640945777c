package vulndb

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestBuildSameBytes(t *testing.T) {
	dir := t.TempDir()
	one, two, three := filepath.Join(dir, "1.tar.zst"), filepath.Join(dir, "2.tar.zst"), filepath.Join(dir, "3.tar.zst")
	res, err := Build(t.Context(), []string{advisories}, one, builtAt())
	if err != nil {
		t.Fatal(err)
	}
	if res.Advisories != 6 || res.CVEs != 7 || !res.Database.Built.Equal(builtAt()) {
		t.Errorf("result: %+v", res)
	}
	// The same advisories in files of their own, in another order, with another clock.
	var list []json.RawMessage
	if err := json.Unmarshal(read(t, advisories), &list); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(dir, "advisories", "deeper")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	for i, a := range list {
		if err := os.WriteFile(filepath.Join(folder, string(rune('z'-i))+".json"), a, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(folder, "README.md"), []byte("no advisory"), 0o644); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond)
	if _, err := Build(t.Context(), []string{filepath.Dir(folder)}, two, builtAt()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, one), read(t, two)) {
		t.Error("the same advisories gave other bytes")
	}
	if _, err := Build(t.Context(), []string{advisories}, three, builtAt().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(read(t, one), read(t, three)) {
		t.Error("another time gave the same bytes")
	}
	left, err := filepath.Glob(filepath.Join(dir, ".assay-build-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestBuildDirectory(t *testing.T) {
	out := filepath.Join(t.TempDir(), "db")
	for range 2 { // the second replaces the first
		if _, err := Build(t.Context(), []string{advisories}, out, builtAt()); err != nil {
			t.Fatal(err)
		}
	}
	taken := t.TempDir()
	if err := os.WriteFile(filepath.Join(taken, "thesis.txt"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Build(t.Context(), []string{advisories}, taken, builtAt()); err == nil || !strings.Contains(err.Error(), "thesis.txt") {
		t.Errorf("a directory of something else: %v", err)
	}
	if _, err := Build(t.Context(), []string{t.TempDir()}, out, builtAt()); !errors.Is(err, ErrAdvisory) {
		t.Errorf("no advisories: %v", err)
	}
	if _, err := Build(t.Context(), []string{advisories}, out, time.Time{}); err == nil {
		t.Error("no time: no error")
	}
}

func TestBuildRefusesAllAtOnce(t *testing.T) {
	dir := t.TempDir()
	put := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	affects := `"affected":[{"package":{"ecosystem":"npm","name":"a"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"}]}]}]`
	put("a-fine.json", `{"id":"A-1",`+affects+`}`)
	put("b-garbage.json", "{\n\n\"id\" 7}")
	put("c-empty.json", ``)
	put("d-twice.json", `{"id":"A-1",`+affects+`}`)
	put("e-noid.json", `{`+affects+`}`)
	put("f-array.json", `[{"id":"A-2",`+affects+`},{"id":"A-3"},`+"\n\n"+`7,null]`)
	put("g-score.json", `{"id":"A-4","severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N"}],`+affects+`}`)
	put("h-epss.json", `{"id":"A-5","database_specific":{"epss":{"probability":0.5}},`+affects+`}`)
	put("i-kev.json", `{"id":"CVE-2021-44228","database_specific":{"kev":"yes"},`+affects+`}`)
	put("j-packagist.json", `{"id":"A-6","affected":[{"package":{"ecosystem":"Packagist","name":"a/b"},"versions":["1"]}]}`)
	put("k-debian.json", `{"id":"A-7","affected":[{"package":{"ecosystem":"Debian","name":"a"},"versions":["1"]}]}`)
	put("l-events.json", `{"id":"A-8","affected":[{"package":{"ecosystem":"npm","name":"a"},"ranges":[{"type":"SEMVER","events":[{"fixed":"1.0.0"}]}]}]}`)
	put("m-version.json", `{"id":"A-9","affected":[{"package":{"ecosystem":"Go","name":"a"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"},{"fixed":"1 || 2"}]}]}]}`)
	put("n-time.json", `{"id":"A-10","published":"yesterday","database_specific":{"severity":"AWFUL"},`+affects+`}`)
	out := filepath.Join(t.TempDir(), "db.tar.zst")
	_, err := Build(t.Context(), []string{dir, "/nowhere"}, out, builtAt())
	if !errors.Is(err, ErrAdvisory) {
		t.Fatalf("error: %v", err)
	}
	want := []string{
		"b-garbage.json:3: it is no", "c-empty.json: the file is empty", "A-1: it is also in", "e-noid.json: the id",
		"f-array.json: A-3: it names no affected", "f-array.json:3: advisory 3: ", "f-array.json: advisory 4: it is null",
		"A-4: the CVSS vector", "A-5: epss is about a CVE", "CVE-2021-44228: kev is true", `A-6: affected[0]: the ecosystem "Packagist"`,
		"A-7: affected[0]: the ecosystem \"Debian\" names no release", "A-8: affected[0]: ranges[0]: 1.0.0 comes without introduced",
		"is no version", "A-10: published is no time", "A-10: the severity", "there is no /nowhere",
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("no %q in:\n%v", w, err)
		}
	}
	if lines := strings.Count(err.Error(), "\n") + 1; lines != len(want) {
		t.Errorf("%d lines, not %d:\n%v", lines, len(want), err)
	}
	if exists(out) {
		t.Error("something was written")
	}
}

func TestIntervals(t *testing.T) {
	for name, c := range map[string]struct {
		affected string
		want     []interval
	}{
		"all":         {`"ranges":[{"type":"SEMVER","events":[{"introduced":"0"}]}]`, []interval{{"", ""}}},
		"fixed":       {`"ranges":[{"type":"SEMVER","events":[{"introduced":"0"},{"fixed":"1.2.3"}]}]`, []interval{{"< 1.2.3", "1.2.3"}}},
		"two":         {`"ranges":[{"type":"SEMVER","events":[{"introduced":"1.0.0"},{"fixed":"1.2.3"},{"introduced":"2.0.0"}]}]`, []interval{{">= 1.0.0, < 1.2.3", "1.2.3"}, {">= 2.0.0", ""}}},
		"unordered":   {`"ranges":[{"type":"SEMVER","events":[{"fixed":"2.10.0"},{"fixed":"1.2.3"},{"introduced":"2.9.0"},{"introduced":"0"}]}]`, []interval{{"< 1.2.3", "1.2.3"}, {">= 2.9.0, < 2.10.0", "2.10.0"}}},
		"last":        {`"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"last_affected":"1.2.3"}]}]`, []interval{{"<= 1.2.3", ""}}},
		"versions":    {`"versions":["1.0.0","2.0.0"]`, []interval{{"= 1.0.0", ""}, {"= 2.0.0", ""}}},
		"union":       {`"ranges":[{"type":"GIT","events":[{"introduced":"0"}]},{"type":"SEMVER","events":[{"introduced":"0"},{"fixed":"1.2.3"}]}],"versions":["1.0.0","2.0.0"]`, []interval{{"< 1.2.3", "1.2.3"}, {"= 2.0.0", ""}}},
		"all covered": {`"ranges":[{"type":"SEMVER","events":[{"introduced":"0"}]}],"versions":["1.0.0"]`, []interval{{"", ""}}},
	} {
		list, errs := parseOSV("f", []byte(`{"id":"A-1","affected":[{"package":{"ecosystem":"npm","name":"a"},`+c.affected+`}]}`))
		if len(errs) > 0 {
			t.Errorf("%s: %v", name, errs)
			continue
		}
		if got := list[0].affected[0].intervals; !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, not %v", name, got, c.want)
		}
	}
}

func FuzzParseOSV(f *testing.F) {
	content, err := os.ReadFile(advisories)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(content)
	var list []json.RawMessage
	if err := json.Unmarshal(content, &list); err != nil {
		f.Fatal(err)
	}
	for _, a := range list {
		f.Add([]byte(a))
	}
	f.Add([]byte(`[null,{}]`))
	f.Add([]byte(`{"id":"x","affected":[{"package":{"ecosystem":"Alpine:edge","name":"a"},"ranges":[{"type":"GIT"}],"versions":["1"]}]}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		got, errs := parseOSV("f", content)
		for _, err := range errs {
			if !errors.Is(err, ErrAdvisory) || err.Error() == "" {
				t.Errorf("error of another kind: %v", err)
			}
		}
		for _, a := range got {
			if !validID(a.id) || len(a.affected) == 0 {
				t.Errorf("an advisory of nothing: %+v", a)
			}
			for _, af := range a.affected {
				if len(af.spans()) == 0 || af.provider() == "" {
					t.Errorf("an affected package without versions: %+v", af)
				}
			}
		}
		// What was read can always be written.
		if _, err := json.Marshal(recordsOf(got, "2026-01-02")); err != nil {
			t.Error(err)
		}
	})
}
