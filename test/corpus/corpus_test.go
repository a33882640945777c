package corpus

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/test/reference"
)

const seeds = 300

func TestGenerateIsDeterministic(t *testing.T) {
	for seed := range uint64(20) {
		if !reflect.DeepEqual(Generate(seed), Generate(seed)) {
			t.Errorf("seed %d gives two cases", seed)
		}
	}
}

func TestCorpusIsValid(t *testing.T) {
	for seed := range uint64(seeds) {
		c := Generate(seed)
		for _, s := range c.World.Scans {
			if err := s.Validate(); err != nil {
				t.Errorf("seed %d: %v", seed, err)
			}
		}
		for _, e := range c.Events {
			if err := e.Validate(); err != nil {
				t.Errorf("seed %d: %v", seed, err)
			}
		}
		for _, e := range c.World.Exceptions {
			s := e.Spec
			named := s.Registry+s.Repository != ""
			if named == (s.Scope == api.ScopeAny) || (len(s.Tags) > 0 || s.Digest != "") != (s.Scope == api.ScopeImage) || len(s.Tags) > 0 && s.Digest != "" {
				t.Errorf("seed %d: exception %+v", seed, s)
			}
		}
		seen := map[string]bool{}
		for _, p := range c.World.Policies {
			if seen[p.Metadata.Name] {
				t.Errorf("seed %d: two policies %s", seed, p.Metadata.Name)
			}
			seen[p.Metadata.Name] = true
		}
		if th := c.World.Thresholds; th != nil {
			if warn, fail := th.Spec.Warn, th.Spec.Fail; warn != nil && fail != nil && *warn > *fail {
				t.Errorf("seed %d: warn %v, fail %v", seed, *warn, *fail)
			}
		}
	}
}

// TestCorpusIsVaried counts what the reference says over many seeds: each
// outcome that the specification knows has to occur.
func TestCorpusIsVaried(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(seeds) {
		c := Generate(seed)
		for _, r := range c.Reviews {
			countDecision(seen, c.World, reference.Admit(c.World, r, c.Now))
		}
		countAlerts(seen, c)
	}
	t.Log(seen)
	for _, want := range []string{
		"Allow by rule", "Reject by rule", "Allow by default", "Reject by default", "unknown labels", "malformed", "no containers",
		"allowed", "refused", "warning", "audit", "result Pass", "result Warn", "result Fail", "result Unknown", "fail without a score over it",
		"overridden", "no worse", "more cves", "volume", "init", "no digest", "unscored",
		"unjudged operation", "unjudged subresource", "unjudged kind", "unjudged namespace", "unjudged owner",
		"unjudged being deleted", "unjudged no new image", "unjudged template unchanged",
		"metric none", "metric count", "metric min", "metric max", "metric sum", "metric avg",
		"key of an event", "key of a list", "key of an instance", "empty key", "count 0",
	} {
		if seen[want] < 5 {
			t.Errorf("%s: %d times in %d seeds", want, seen[want], seeds)
		}
	}
}

func countDecision(seen map[string]int, w reference.World, d api.Decision) {
	fail := api.DefaultFail
	if w.Thresholds != nil && w.Thresholds.Spec.Fail != nil {
		fail = *w.Thresholds.Spec.Fail
	}
	switch {
	case !d.Judged:
		seen["unjudged "+d.Reason]++
	case strings.HasPrefix(d.Message, "malformed"):
		seen["malformed"]++
	case len(d.Images) == 0:
		seen["no containers"]++
	case d.Override != nil:
		seen["overridden"]++
	case d.Allowed:
		seen["allowed"]++
	default:
		seen["refused"]++
	}
	seen["warning"] += len(d.Warnings)
	seen["audit"] += len(d.Audit)
	for _, i := range d.Images {
		switch {
		case i.Policy == "":
			seen[i.Action+" by default"]++
		case i.Rule == 0:
			seen["unknown labels"]++
		default:
			seen[i.Action+" by rule"]++
		}
		seen["result "+string(i.Result)]++
		if i.Reason != "" {
			seen["no worse"]++
		}
		if i.Result == api.Fail && (i.MaxCVSS == nil || *i.MaxCVSS < fail) {
			seen["fail without a score over it"]++
		}
		if i.MoreCVEs > 0 {
			seen["more cves"]++
		}
		if strings.HasPrefix(i.Container, "volume/") {
			seen["volume"]++
		}
		if strings.HasPrefix(i.Container, "init") {
			seen["init"]++
		}
		if i.Digest == "" {
			seen["no digest"]++
		}
		if i.Result == api.Pass && i.MaxCVSS == nil {
			seen["unscored"]++
		}
	}
}

func countAlerts(seen map[string]int, c Case) {
	metric := map[string]string{}
	for _, a := range c.World.Alerts {
		metric[a.Metadata.Name] = a.Spec.Metric
	}
	for _, a := range reference.Alerts(c.World, c.Events, c.Now) {
		if a.Value == nil {
			seen["metric none"]++
		} else {
			seen["metric "+metric[a.Name]]++
			if *a.Value == 0 && metric[a.Name] == "count" {
				seen["count 0"]++
			}
		}
		if len(a.Key) == 0 {
			seen["empty key"]++
		}
		if _, ok := a.Key["time"]; ok {
			seen["key of an event"]++
		}
		if a.Key["cve"]+a.Key["package"] != "" {
			seen["key of a list"]++
		}
		if a.Key["pod"]+a.Key["cluster"]+a.Key["namespace"]+a.Key["container"] != "" {
			seen["key of an instance"]++
		}
	}
}

func TestWriteFolder(t *testing.T) {
	dir := t.TempDir()
	c := Generate(7)
	if err := WriteFolder(dir, c); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "scans.json"))
	if err != nil {
		t.Fatal(err)
	}
	var report api.ScanReport
	if err := json.Unmarshal(b, &report); err != nil || report.Schema != api.SchemaScan || len(report.Images) != len(c.World.Scans) {
		t.Errorf("scans.json: %v, %s", err, report.Schema)
	}
	b, err = os.ReadFile(filepath.Join(dir, "review-0.json"))
	if err != nil {
		t.Fatal(err)
	}
	var review struct{ Now string }
	if err := json.Unmarshal(b, &review); err != nil || review.Now == "" {
		t.Errorf("review-0.json: %v, now %q", err, review.Now)
	}
	// What stands in the files decides as the case does.
	if got, want := reference.Admit(c.World, b, c.Now), reference.Admit(c.World, c.Reviews[0], c.Now); !reflect.DeepEqual(got, want) {
		t.Errorf("from the file %+v, from the case %+v", got, want)
	}
}
