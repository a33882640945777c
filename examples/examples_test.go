package examples_test

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anchore/grype/grype/version"
	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/examples/quickstart/shop"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/policies/exceptions"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// advisory is an OSV record (https://ossf.github.io/osv-schema) with our extension.
type advisory struct {
	SchemaVersion string            `json:"schema_version"`
	ID            string            `json:"id"`
	Modified      time.Time         `json:"modified"`
	Published     *time.Time        `json:"published"`
	Aliases       []string          `json:"aliases"`
	Summary       string            `json:"summary"`
	Details       string            `json:"details"`
	Severity      []scored          `json:"severity"`
	Affected      []affected        `json:"affected"`
	References    []reference       `json:"references"`
	Specific      *databaseSpecific `json:"database_specific"`
}

type scored struct{ Type, Score string }

type reference struct{ Type, URL string }

type affected struct {
	Package struct{ Ecosystem, Name string } `json:"package"`
	Ranges  []struct {
		Type   string
		Events []struct{ Introduced, Fixed string }
	} `json:"ranges"`
	Specific struct {
		FixAvailable string `json:"fix_available"`
	} `json:"database_specific"`
}

type databaseSpecific struct {
	Severity string `json:"severity"`
	EPSS     *struct {
		Probability, Percentile float64
		Date                    string
	} `json:"epss"`
	KEV *struct {
		DateAdded string `json:"date_added"`
	} `json:"kev"`
}

// cve is the canonical id: the id or its only CVE alias, else the id.
func (a advisory) cve() string {
	var cves []string
	for _, id := range append([]string{a.ID}, a.Aliases...) {
		if strings.HasPrefix(id, "CVE-") {
			cves = append(cves, id)
		}
	}
	if len(cves) == 1 || a.ID != "" && strings.HasPrefix(a.ID, "CVE-") {
		return cves[0]
	}
	return a.ID
}

// score is the CVSS v3 base score; false without one.
func (a advisory) score(t *testing.T) (float64, bool) {
	for _, s := range a.Severity {
		if s.Type == "CVSS_V3" {
			score, err := baseScore(s.Score)
			if err != nil {
				t.Errorf("%s: %v", a.ID, err)
			}
			return score, true
		}
	}
	return 0, false
}

// baseScore computes a CVSS v3.1 base score, https://www.first.org/cvss/v3.1/specification-document.
func baseScore(vector string) (float64, error) {
	parts := strings.Split(vector, "/")
	weights := map[string]map[string]float64{
		"AV": {"N": .85, "A": .62, "L": .55, "P": .2}, "AC": {"L": .77, "H": .44}, "UI": {"N": .85, "R": .62},
		"PR": {"N": .85, "L": .62, "H": .27}, "S": {"U": 0, "C": 1},
		"C": {"N": 0, "L": .22, "H": .56}, "I": {"N": 0, "L": .22, "H": .56}, "A": {"N": 0, "L": .22, "H": .56},
	}
	order := []string{"AV", "AC", "PR", "UI", "S", "C", "I", "A"}
	if parts[0] != "CVSS:3.1" || len(parts) != len(order)+1 {
		return 0, fmt.Errorf("%q is no base vector of CVSS 3.1", vector)
	}
	v := map[string]float64{}
	letters := map[string]string{}
	for i, part := range parts[1:] {
		metric, letter, _ := strings.Cut(part, ":")
		w, ok := weights[metric][letter]
		if !ok || metric != order[i] {
			return 0, fmt.Errorf("%q: %q is not expected there", vector, part)
		}
		v[metric], letters[metric] = w, letter
	}
	changed := letters["S"] == "C"
	if changed {
		v["PR"] = map[string]float64{"N": .85, "L": .68, "H": .5}[letters["PR"]]
	}
	iss := 1 - (1-v["C"])*(1-v["I"])*(1-v["A"])
	impact := 6.42 * iss
	if changed {
		impact = 7.52*(iss-0.029) - 3.25*math.Pow(iss-0.02, 15)
	}
	if impact <= 0 {
		return 0, nil
	}
	score := impact + 8.22*v["AV"]*v["AC"]*v["PR"]*v["UI"]
	if changed {
		score *= 1.08
	}
	// Roundup of the specification.
	n := int(math.Round(math.Min(score, 10) * 100000))
	if n%10000 == 0 {
		return float64(n) / 100000, nil
	}
	return float64(n/10000+1) / 10, nil
}

func TestBaseScore(t *testing.T) {
	for vector, want := range map[string]float64{
		"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H": 9.8,
		"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H": 10,
		"CVSS:3.1/AV:N/AC:L/PR:N/UI:R/S:C/C:L/I:L/A:N": 6.1,
		"CVSS:3.1/AV:L/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H": 7.8,
		"CVSS:3.1/AV:N/AC:H/PR:N/UI:N/S:U/C:N/I:L/A:N": 3.7,
	} {
		if got, err := baseScore(vector); got != want || err != nil {
			t.Errorf("%s: %v, %v; want %v", vector, got, err, want)
		}
	}
}

func advisories(t *testing.T) []advisory {
	t.Helper()
	names, err := filepath.Glob("quickstart/advisories/*.json")
	if err != nil {
		t.Fatal(err)
	}
	var list []advisory
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.DisallowUnknownFields()
		var a advisory
		if err := dec.Decode(&a); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if a.ID+".json" != filepath.Base(name) {
			t.Errorf("%s is named for another id than %s", name, a.ID)
		}
		list = append(list, a)
	}
	return list
}

var idPattern = regexp.MustCompile(`^(CVE-\d{4}-\d{4,}|GHSA(-[23456789cfghjmpqrvwx]{4}){3}|GO-\d{4}-\d{4,}|PYSEC-\d{4}-\d+|DSA-\d{4}-\d)$`)

func TestAdvisories(t *testing.T) {
	list := advisories(t)
	if len(list) < 45 {
		t.Errorf("there are %d advisories, want at least 45", len(list))
	}
	ecosystems, exploited, texts := map[string]int{}, 0, map[string]string{}
	for _, a := range list {
		for _, id := range append([]string{a.ID}, a.Aliases...) {
			if !idPattern.MatchString(id) {
				t.Errorf("%s: %q is no id", a.ID, id)
			}
		}
		if a.SchemaVersion == "" || a.Modified.IsZero() || a.Summary == "" || a.Details == "" || len(a.References) == 0 || len(a.Affected) == 0 {
			t.Errorf("%s: a member is missing", a.ID)
		}
		if other, twice := texts[a.Details]; twice {
			t.Errorf("%s has the text of %s", a.ID, other)
		}
		texts[a.Details] = a.ID
		if score, ok := a.score(t); ok {
			if want := severity(score); a.Specific == nil || a.Specific.Severity == "" {
				t.Errorf("%s: has a score of %v and no severity", a.ID, score)
			} else if got := a.Specific.Severity; rank(want)-rank(got) > 1 || rank(got)-rank(want) > 1 {
				t.Errorf("%s: severity %s does not go with %v", a.ID, got, score)
			}
		}
		if s := a.Specific; s != nil && s.EPSS != nil && !(0 < s.EPSS.Probability && s.EPSS.Probability < 1 && s.EPSS.Percentile < 1 && isDay(s.EPSS.Date)) {
			t.Errorf("%s: EPSS %+v", a.ID, *s.EPSS)
		}
		if s := a.Specific; s != nil && s.KEV != nil {
			exploited++
			if !isDay(s.KEV.DateAdded) {
				t.Errorf("%s: KEV %+v", a.ID, *s.KEV)
			}
		}
		for _, f := range a.Affected {
			ecosystems[f.Package.Ecosystem]++
			if d := f.Specific.FixAvailable; d != "" && !isDay(d) {
				t.Errorf("%s: fix_available %q", a.ID, d)
			}
			for _, r := range f.Ranges {
				if want := map[bool]string{true: "SEMVER", false: "ECOSYSTEM"}[f.Package.Ecosystem == "Go"]; r.Type != want {
					t.Errorf("%s: range type %s, want %s", a.ID, r.Type, want)
				}
				if len(r.Events) == 0 || len(r.Events) > 2 || r.Events[0].Introduced == "" {
					t.Errorf("%s: events %v", a.ID, r.Events)
				}
			}
		}
	}
	if got := slices.Sorted(maps.Keys(ecosystems)); !slices.Equal(got, []string{"Debian:12", "Go", "PyPI", "npm"}) {
		t.Errorf("ecosystems are %v", got)
	}
	if exploited < 4 {
		t.Errorf("%d advisories are in KEV", exploited)
	}
}

func isDay(s string) bool {
	_, err := time.Parse(time.DateOnly, s)
	return err == nil
}

var words = []string{"NONE", "LOW", "MEDIUM", "HIGH", "CRITICAL"}

func rank(word string) int { return slices.Index(words, word) }

func severity(score float64) string {
	switch {
	case score >= 9:
		return "CRITICAL"
	case score >= 7:
		return "HIGH"
	case score >= 4:
		return "MEDIUM"
	}
	return "LOW"
}

// installed is a package as advisories name it.
type installed struct{ ecosystem, name, version string }

var formats = map[string]version.Format{
	"Go": version.GolangFormat, "npm": version.SemanticFormat, "PyPI": version.PythonFormat, "Debian:12": version.DebFormat,
}

func (a advisory) hits(t *testing.T, p installed) bool {
	t.Helper()
	for _, f := range a.Affected {
		if f.Package.Ecosystem != p.ecosystem || f.Package.Name != p.name {
			continue
		}
		for _, r := range f.Ranges {
			var terms []string
			for _, e := range r.Events {
				if e.Introduced != "" && e.Introduced != "0" {
					terms = append(terms, ">= "+e.Introduced)
				}
				if e.Fixed != "" {
					terms = append(terms, "< "+e.Fixed)
				}
			}
			if len(terms) == 0 {
				return true
			}
			c, err := version.GetConstraint(strings.Join(terms, ", "), formats[p.ecosystem])
			if err != nil {
				t.Fatalf("%s: %v", a.ID, err)
			}
			ok, err := c.Satisfied(version.New(p.version, formats[p.ecosystem]))
			if err != nil {
				t.Fatalf("%s: %v", a.ID, err)
			}
			if ok {
				return true
			}
		}
	}
	return false
}

// build builds an image once for all tests.
var build = func() func(*testing.T, shop.Image) v1.Image {
	var mu sync.Mutex
	done := map[string]v1.Image{}
	return func(t *testing.T, image shop.Image) v1.Image {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if img, ok := done[image.Name]; ok {
			return img
		}
		img, err := image.Build(context.Background(), "quickstart/image")
		if err != nil {
			t.Fatal(err)
		}
		done[image.Name] = img
		return img
	}
}()

// files are the regular files of an image.
func files(t *testing.T, img v1.Image) map[string][]byte {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]byte{}
	for _, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		for in := tar.NewReader(r); ; {
			h, err := in.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if h.Typeflag == tar.TypeReg {
				if found[h.Name], err = io.ReadAll(in); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return found
}

// contents reads an image as a scanner does: dpkg's status, package.json, METADATA and build information.
func contents(t *testing.T, img v1.Image, binary string) []installed {
	t.Helper()
	var list []installed
	for name, text := range files(t, img) {
		switch {
		case name == "var/lib/dpkg/status":
			for _, record := range strings.Split(strings.TrimSpace(string(text)), "\n\n") {
				p := installed{ecosystem: "Debian:12"}
				for _, line := range strings.Split(record, "\n") {
					key, value, _ := strings.Cut(line, ": ")
					switch key {
					case "Package":
						p.name = cmp.Or(p.name, value)
					case "Source":
						source, number, _ := strings.Cut(value, " (")
						p.name, p.version = source, strings.TrimSuffix(number, ")")
					case "Version":
						p.version = cmp.Or(p.version, value)
					}
				}
				list = append(list, p)
			}
		case strings.HasSuffix(name, "/package.json"):
			var p struct{ Name, Version string }
			if err := json.Unmarshal(text, &p); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			list = append(list, installed{"npm", p.Name, p.Version})
		case strings.HasSuffix(name, ".dist-info/METADATA"):
			p := installed{ecosystem: "PyPI"}
			for _, line := range strings.Split(string(text), "\n") {
				if v, ok := strings.CutPrefix(line, "Name: "); ok {
					p.name = strings.ToLower(v)
				}
				if v, ok := strings.CutPrefix(line, "Version: "); ok {
					p.version = v
				}
			}
			list = append(list, p)
		case name == binary:
			info, err := buildinfo.Read(bytes.NewReader(text))
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range info.Deps {
				if m.Replace != nil {
					t.Errorf("%s is replaced", m.Path)
				}
				list = append(list, installed{"Go", m.Path, m.Version})
			}
			list = append(list, installed{"Go", "stdlib", strings.TrimPrefix(info.GoVersion, "go")})
		}
	}
	return list
}

func TestImagesHoldTheirPackages(t *testing.T) {
	for image, want := range map[string][]installed{
		"frontend": {
			{"Go", "github.com/gin-gonic/gin", "v1.5.0"}, {"Go", "github.com/dgrijalva/jwt-go", "v3.2.0+incompatible"},
			{"Go", "golang.org/x/text", "v0.3.5"}, {"Go", "gopkg.in/yaml.v2", "v2.2.2"},
			{"Go", "golang.org/x/net", "v0.0.0-20190603091049-60506f45cf65"},
			{"Go", "golang.org/x/crypto", "v0.0.0-20190308221718-c2843e01d9a2"},
			{"Debian:12", "openssl", "3.0.9-1"}, {"Debian:12", "libssh2", "1.10.0-3"}, {"Debian:12", "zlib", "1:1.2.13.dfsg-1"},
			{"npm", "minimist", "1.2.0"}, {"PyPI", "pyyaml", "5.3"},
		},
		"backend": {{"Go", "golang.org/x/crypto", "v0.31.0"}, {"Debian:12", "openssl", "3.0.15-1~deb12u1"}, {"PyPI", "urllib3", "1.26.16"}},
	} {
		have := contents(t, build(t, imageNamed(image)), "usr/local/bin/"+image)
		for _, p := range want {
			if !slices.Contains(have, p) {
				t.Errorf("%s lacks %v", image, p)
			}
		}
	}
}

func imageNamed(name string) shop.Image {
	all := shop.Images()
	return all[slices.IndexFunc(all, func(i shop.Image) bool { return i.Name == name })]
}

// TestResults holds what the README says of the results, and the exceptions, to the advisories.
func TestResults(t *testing.T) {
	list := advisories(t)
	hit := map[string]bool{}
	results := map[string]map[string]float64{} // image, CVE: score
	for _, image := range shop.Images() {
		scores := map[string]float64{}
		for _, p := range contents(t, build(t, image), "usr/local/bin/"+image.Name) {
			for _, a := range list {
				if a.hits(t, p) {
					hit[a.ID] = true
					if score, ok := a.score(t); ok {
						scores[a.cve()] = max(scores[a.cve()], score)
					}
				}
			}
		}
		results[image.Name] = scores
	}
	if idle := len(list) - len(hit); idle < len(list)/5 || idle > len(list)/3 {
		t.Errorf("%d of %d advisories hit no image, want about a quarter", idle, len(list))
	}
	top := func(scores map[string]float64) (worst []string, highest float64) {
		for cve, score := range scores {
			if score >= api.DefaultFail {
				worst = append(worst, cve)
			}
			highest = max(highest, score)
		}
		slices.Sort(worst)
		return worst, highest
	}
	if worst, highest := top(results["backend"]); len(worst) > 0 || highest != 8.1 {
		t.Errorf("backend: %v, %v", worst, highest)
	}
	worst, highest := top(results["frontend"])
	if highest != 9.8 || len(worst) != 12 {
		t.Errorf("frontend: %v, %v", worst, highest)
	}
	f, err := os.Open("quickstart/exceptions.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fromCSV, err := exceptions.ReadCSV(f)
	if err != nil {
		t.Fatal(err)
	}
	set, err := policies.LoadDir("quickstart/exceptions")
	if err != nil {
		t.Fatal(err)
	}
	var asCSV, asYAML []string
	for _, e := range fromCSV {
		asCSV = append(asCSV, line(e))
		delete(results["frontend"], e.Spec.CVE)
	}
	for _, e := range set.Exceptions {
		asYAML = append(asYAML, line(e))
	}
	slices.Sort(asCSV)
	slices.Sort(asYAML)
	if !slices.Equal(asCSV, asYAML) {
		t.Errorf("the exceptions differ:\n%s\n\n%s", strings.Join(asCSV, "\n"), strings.Join(asYAML, "\n"))
	}
	if rest, highest := top(results["frontend"]); len(rest) > 0 || highest != 8.8 {
		t.Errorf("frontend with exceptions: %v, %v", rest, highest)
	}
	if len(fromCSV) != len(worst) {
		t.Errorf("%d exceptions for %d CVEs", len(fromCSV), len(worst))
	}
}

func line(e api.VulnerabilityException) string {
	s := e.Spec
	return fmt.Sprint(s.CVE, s.Scope, s.Registry, s.Repository, s.Tags, s.Digest, s.Justification)
}

func TestImagesAreReproducible(t *testing.T) {
	image := imageNamed("frontend")
	first := build(t, image)
	// A copy elsewhere: no path of the machine may reach the image.
	dir := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(dir, os.DirFS("quickstart/image")); err != nil {
		t.Fatal(err)
	}
	second, err := image.Build(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	var archives [2]bytes.Buffer
	for i, img := range []v1.Image{first, second} {
		if err := shop.Write(&archives[i], img, image.Reference()); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(archives[0].Bytes(), archives[1].Bytes()) {
		a, _ := first.Digest()
		b, _ := second.Digest()
		t.Errorf("two builds differ: %s and %s", a, b)
	}
}

// TestArchive reads the archive with nothing but tar, gzip and JSON.
func TestArchive(t *testing.T) {
	image := imageNamed("backend")
	var archive bytes.Buffer
	if err := shop.Write(&archive, build(t, image), image.Reference()); err != nil {
		t.Fatal(err)
	}
	entries := map[string][]byte{}
	for in := tar.NewReader(&archive); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if entries[h.Name], err = io.ReadAll(in); err != nil {
			t.Fatal(err)
		}
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(entries["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	d := index.Manifests[0]
	for _, name := range []string{"io.containerd.image.name", "org.opencontainers.image.ref.name"} {
		if d.Annotations[name] != "registry.example.com/shop/backend:2.0.0" {
			t.Errorf("%s is %q", name, d.Annotations[name])
		}
	}
	var manifest v1.Manifest
	if err := json.Unmarshal(entries["blobs/sha256/"+d.Digest.Hex], &manifest); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range manifest.Layers {
		z, err := gzip.NewReader(bytes.NewReader(entries["blobs/sha256/"+l.Digest.Hex]))
		if err != nil {
			t.Fatal(err)
		}
		for in := tar.NewReader(z); ; {
			h, err := in.Next()
			if err != nil {
				break
			}
			names = append(names, h.Name)
		}
	}
	for _, want := range []string{"etc/os-release", "var/lib/dpkg/status", "usr/local/lib/python3.11/site-packages/urllib3-1.26.16.dist-info/RECORD", "usr/local/bin/backend"} {
		if !slices.Contains(names, want) {
			t.Errorf("the archive lacks %s", want)
		}
	}
}

func TestPolicies(t *testing.T) {
	for dir, want := range map[string][2]int{ // policies, alerts
		"quickstart/policies": {2, 0}, "alerts/policies": {0, 5}, "selectors/policies": {4, 0}, "custom-rego/policies": {0, 0},
	} {
		set, err := policies.LoadDir(dir)
		if err != nil {
			t.Errorf("%s: %v", dir, err)
			continue
		}
		if got := [2]int{len(set.Policies), len(set.Alerts)}; got != want {
			t.Errorf("%s has %v policies and alerts, want %v", dir, got, want)
		}
		for _, p := range set.Policies {
			if got := p.Spec.NamespaceSelector; dir == "quickstart/policies" && got != "environment == 'production'" {
				t.Errorf("%s is for namespaces %q, not for production", p.Metadata.Name, got)
			}
		}
		if dir == "custom-rego/policies" && (len(set.Custom) != 1 || len(set.Tests) != 1) {
			t.Errorf("%s has %d modules and %d tests", dir, len(set.Custom), len(set.Tests))
		}
	}
}

func TestEvents(t *testing.T) {
	text, err := os.ReadFile("alerts/events.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		dec := json.NewDecoder(strings.NewReader(line))
		dec.DisallowUnknownFields()
		var e api.Event
		if err := errors.Join(dec.Decode(&e), e.Validate()); err != nil {
			t.Errorf("line %d: %v", i+1, err)
		}
		ref, err := api.ParseReference(e.Image)
		if err != nil || ref.Registry() != e.Registry || ref.Repository() != e.Repository || ref.Tag != e.Tag {
			t.Errorf("line %d: %s is not %s, %s, %s: %v", i+1, e.Image, e.Registry, e.Repository, e.Tag, err)
		}
	}
}

func TestVEX(t *testing.T) {
	f, err := os.Open("vex/frontend.openvex.json")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	list, err := exceptions.ReadVEX(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if e.Spec.Scope != api.ScopeImage || e.Spec.Author == "" || len(e.Spec.Packages) != 1 {
			t.Errorf("%+v", e.Spec)
		}
	}
	if len(list) != 4 {
		t.Errorf("%d exceptions", len(list))
	}
}

func TestReviewIsTheDeployment(t *testing.T) {
	text, err := os.ReadFile("quickstart/review.json")
	if err != nil {
		t.Fatal(err)
	}
	var review struct {
		Kind            string
		Now             time.Time
		NamespaceLabels map[string]string
		Request         struct {
			UID, Operation, Namespace, Name string
			Object                          struct {
				Metadata struct {
					ManagedFields []json.RawMessage
				}
				Spec struct {
					Template struct {
						Spec struct {
							Containers []struct{ Name, Image string }
						}
					}
				}
			}
		}
	}
	if err := json.Unmarshal(text, &review); err != nil {
		t.Fatal(err)
	}
	r := review.Request
	if review.Kind != "AdmissionReview" || r.UID == "" || r.Operation != "CREATE" || len(r.Object.Metadata.ManagedFields) == 0 ||
		review.Now.IsZero() || review.NamespaceLabels["environment"] != "production" {
		t.Errorf("%+v", review)
	}
	manifest, err := os.ReadFile("quickstart/deployments/" + r.Name + ".yaml")
	if err != nil {
		t.Fatal(err)
	}
	image := imageNamed(r.Name)
	if c := r.Object.Spec.Template.Spec.Containers; len(c) != 1 || c[0].Image != image.Reference() || !strings.Contains(string(manifest), "image: "+c[0].Image+"\n") {
		t.Errorf("containers %v", c)
	}
}

// TestReadmes: short, and free of what belongs to one machine.
func TestReadmes(t *testing.T) {
	for _, dir := range []string{".", "quickstart", "alerts", "selectors", "custom-rego", "vex"} {
		text, err := os.ReadFile(filepath.Join(dir, "README.md"))
		if err != nil {
			t.Error(err)
			continue
		}
		if n := strings.Count(string(text), "\n"); n > 30 {
			t.Errorf("%s/README.md has %d lines", dir, n)
		}
		if strings.Contains(string(text), "/tmp/") || strings.Contains(string(text), "/home/") {
			t.Errorf("%s/README.md names a path of a machine", dir)
		}
	}
}
