package agreement_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/test/reference"
)

// What tenants with bounded scopes tried against an image of another registry and cluster.
const shop = "registry.example.com/shop"

var (
	attacked = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	evil     = api.Scope{Registry: "evil.example.com"}
	dev      = api.Scope{Cluster: "dev"}

	failDigest, warnDigest = rawDigest(manifestOf("f")), rawDigest(manifestOf("b"))
	indexDigest            = rawDigest(indexOf())
)

func rawDigest(raw []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(raw)) }

func manifestOf(c string) []byte {
	return fmt.Appendf(nil, `{"config":{"digest":"sha256:%s"},"layers":[]}`, strings.Repeat(c, 64))
}

func indexOf() []byte {
	return fmt.Appendf(nil, `{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"%s","platform":{"os":"linux","architecture":"amd64"}}]}`, rawDigest(manifestOf("f")))
}

func scanned(image, digest string, scope api.Scope, at time.Time, scores ...float64) api.Scan {
	s := api.Scan{Image: image, Digest: digest, Scope: scope, ScannedAt: at, Packages: 1, Vulnerabilities: []api.Vulnerability{}}
	for i := range scores {
		s.Vulnerabilities = append(s.Vulnerabilities, api.Vulnerability{ID: fmt.Sprintf("CVE-2026-%d", i+1), CVSS: &scores[i]})
	}
	return s
}

// honest are the scans of the world that is attacked; bytes says whether those who scanned had them.
func honest(bytes bool) []api.Scan {
	before := attacked.Add(-24 * time.Hour)
	scans := []api.Scan{
		scanned(shop+":fail", failDigest, api.Scope{}, before, 9.8),
		scanned(shop+":warn", warnDigest, api.Scope{}, before, 7.5),
		scanned(shop+":multi", failDigest, api.Scope{}, before, 9.8),
	}
	scans[2].Index = &api.Index{Digest: indexDigest, Platforms: map[string]string{"linux/amd64": failDigest}}
	if bytes {
		scans[0].Manifest, scans[1].Manifest, scans[2].Index.Manifest = manifestOf("f"), manifestOf("b"), indexOf()
	}
	return scans
}

// attacks are what is handed in, the newest of all.
func attacks() map[string][]api.Scan {
	clean := func(image, digest string, scope api.Scope) api.Scan { return scanned(image, digest, scope, attacked) }
	claim := func(image, digest string, scope api.Scope, index, member string) api.Scan {
		s := clean(image, digest, scope)
		s.Index = &api.Index{Digest: index, Platforms: map[string]string{"linux/amd64": member}}
		return s
	}
	fresh := rawDigest(manifestOf("9"))
	failed := clean(shop+":warn", warnDigest, dev)
	failed.Error, failed.ScannedAt = "no such image", attacked.AddDate(10, 0, 0)
	ahead := clean(shop+":fail", failDigest, dev)
	ahead.ScannedAt = attacked.AddDate(10, 0, 0)
	return map[string][]api.Scan{
		"(a) a clean scan of the digest under a name of one's own": {clean("evil.example.com/x:1", failDigest, evil)},
		"(a) the same under the very name":                         {clean(shop+":fail", failDigest, evil)},
		"(a) of the index as if it were a manifest":                {clean("evil.example.com/x:1", indexDigest, evil), clean(shop+":multi", indexDigest, dev)},
		"(b) the digest as an index of a clean image":              {claim("evil.example.com/x:1", fresh, evil, failDigest, fresh)},
		"(b) the index with another member":                        {claim("evil.example.com/x:1", fresh, evil, indexDigest, fresh), claim(shop+":multi", fresh, dev, indexDigest, fresh)},
		"(b) the index without a member":                           {claim("evil.example.com/x:1", fresh, evil, indexDigest, "")},
		"(c) an SBOM of one package":                               {clean(shop+":fail", failDigest, dev)},
		"(c) the same, ahead of time":                              {ahead},
		"(c) of a cluster and a registry":                          {clean(shop+":fail", failDigest, api.Scope{Cluster: "dev", Registry: "registry.example.com"})},
		"(c) of a group":                                           {clean(shop+":fail", failDigest, api.Scope{Cluster: "dev", Group: "test"})},
		"(d) the tag runs with another digest":                     {clean(shop+":fail", warnDigest, dev), clean(shop+":multi", warnDigest, dev)},
		"(d) by who has another registry":                          {clean(shop+":fail", warnDigest, evil)},
		"(d) by who has nearly the registry":                       {clean(shop+":fail", warnDigest, api.Scope{Registry: "registry.example.com/sh"})},
		"(g) a failed scan ahead of time":                          {failed},
		"worse: a good image said to be bad":                       {scanned(shop+":warn", warnDigest, dev, attacked, 10), scanned("evil.example.com/x:1", warnDigest, evil, attacked, 10)},
	}
}

// asked are references to the attacked images with what is said of them, by tag, digest and index.
var asked = []struct {
	image, digest string
	want          api.Result
}{
	{shop + ":fail", "", api.Fail},
	{shop + "@" + failDigest, "", api.Fail},
	{shop + ":fail", failDigest, api.Fail},
	{shop + ":multi", "", api.Fail},
	{shop + "@" + indexDigest, "", api.Fail},
	{shop + ":warn", "", api.Warned},
	{shop + "@" + warnDigest, "", api.Warned},
}

func TestAttacksReachNoOther(t *testing.T) {
	ctx := context.Background()
	bin, dir := opa(t), t.TempDir()
	set, err := policies.Parse("p.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, attack := range attacks() {
		for _, bytes := range []bool{false, true} {
			for _, cluster := range []string{"", "prod"} {
				what := fmt.Sprintf("%s (bytes %v, cluster %q)", name, bytes, cluster)
				scans := slices.Concat(honest(bytes), attack)
				world := reference.World{Scans: scans, Cluster: cluster}
				for _, of := range []string{"", cluster} { // data of all clusters, and of the one
					b, err := bundles.Build(bundles.Content{Policies: set, Scans: scans, Cluster: of})
					if err != nil {
						t.Fatal(err)
					}
					e := engine.New(engine.Config{})
					if err := e.Load(ctx, b); err != nil {
						t.Fatal(err)
					}
					for _, a := range asked {
						want, _ := reference.Classify(world, a.image, a.digest, attacked)
						got, err := e.In(cluster).Classify(ctx, a.image, a.digest, attacked)
						if err != nil || got.Result != a.want || want != a.want {
							t.Errorf("%s: %s at %q is %s, the reference says %s, want %s (%v)", what, a.image, a.digest, got.Result, want, a.want, err)
						}
					}
					if bytes && of == "" {
						continue // the binary is slow
					}
					text, err := bundles.Bytes(b)
					if err != nil {
						t.Fatal(err)
					}
					for i, got := range classifyOPA(t, bin, dir, text, cluster) {
						if got != asked[i].want {
							t.Errorf("%s: opa says that %s at %q is %s, want %s", what, asked[i].image, asked[i].digest, got, asked[i].want)
						}
					}
				}
			}
		}
	}
}

func classifyOPA(t *testing.T, bin, dir string, bundle []byte, cluster string) []api.Result {
	t.Helper()
	file, inputFile := filepath.Join(dir, "b.tar.gz"), filepath.Join(dir, "i.json")
	if err := os.WriteFile(file, bundle, 0o644); err != nil {
		t.Fatal(err)
	}
	var inputs []map[string]any
	for _, a := range asked {
		input := map[string]any{"now": documents.Time(attacked), "image": a.image}
		if a.digest != "" {
			input["digest"] = a.digest
		}
		if cluster != "" {
			input["cluster"] = cluster
		}
		inputs = append(inputs, input)
	}
	writeJSON(t, inputFile, inputs)
	out, err := exec.Command(bin, "eval", "-b", file, "-i", inputFile, "--format", "raw",
		"[r | some i; c := input[i]; r := data.assay.classification.result.result with input as c]").CombinedOutput()
	var results []api.Result
	if err == nil {
		err = json.Unmarshal(out, &results)
	}
	if err != nil || len(results) != len(asked) {
		t.Fatalf("%v\n%s", err, out)
	}
	return results
}

// Within its scope each says what it likes: that is what a scope is.
func TestScopesDecideWithin(t *testing.T) {
	w := reference.World{Scans: append(honest(true), scanned(shop+":fail", failDigest, dev, attacked)), Cluster: "dev"}
	if got, _ := reference.Classify(w, shop+":fail", "", attacked); got != api.Pass {
		t.Errorf("in its cluster it is %s", got)
	}
	w.Scans = append(honest(true), scanned("evil.example.com/x:1", failDigest, evil, attacked))
	if got, _ := reference.Classify(w, "evil.example.com/x:1", "", attacked); got != api.Pass {
		t.Errorf("in its registry it is %s", got)
	}
}
