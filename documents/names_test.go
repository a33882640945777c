package documents

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
)

// However hosts are written, tags, exceptions and scopes have canonical names in the data.
func TestNamesAreCanonical(t *testing.T) {
	scope, err := api.ParseScope("cluster=prod,registry=Registry.example.com:443")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	scan := func(image, digest string, day int, scope api.Scope) api.Scan {
		return api.Scan{Image: image, Digest: digest, ScannedAt: at.AddDate(0, 0, day), Scope: scope}
	}
	data := Data([]api.Scan{
		scan("Registry.example.com/shop:1", "sha256:a", 0, api.Scope{}), scan("registry.example.com:443/shop:1", "sha256:b", 1, api.Scope{}),
		scan("REGISTRY.example.com/shop:2", "sha256:c", 0, scope), scan("registry-1.docker.io/nginx:1", "sha256:d", 0, api.Scope{}),
	}, []api.VulnerabilityException{{Spec: api.VulnerabilityExceptionSpec{CVE: "CVE-2026-1", Scope: api.ScopeImage, Registry: "Registry.example.com:443", Repository: "shop", Tags: []string{"1"}}}}, Needs{})
	get := func(path ...string) string {
		var v any = data
		for _, key := range path {
			m, _ := v.(map[string]any)
			v = m[key]
		}
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if got, want := get("names"), `{"docker.io/library/nginx":{"1":{"at":"2026-01-01T00:00:00.000000000Z","digest":"sha256:d"}},"registry.example.com/shop":{"1":{"at":"2026-01-02T00:00:00.000000000Z","digest":"sha256:b"}}}`; got != want {
		t.Errorf("names: %s", got)
	}
	if got := get("spaces", "cluster:prod", "names", "registry.example.com/shop", "2", "digest"); got != `"sha256:c"` {
		t.Errorf("names of the cluster: %s", got)
	}
	if got := get("exceptions", "keys"); got != `{"registry.example.com/shop":["registry.example.com/shop:1"]}` {
		t.Errorf("keys of exceptions: %s", got)
	}
	if piece := Piece(scan("registry.example.com/shop:2", "sha256:c", 0, scope), Needs{}); piece["prefix"] != "registry.example.com/" {
		t.Errorf("the prefix of a piece: %v", piece)
	}
}
