package bundles_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/policies"
)

func content(t *testing.T) bundles.Content {
	t.Helper()
	set, err := policies.Parse("p.yaml", []byte("apiVersion: containersecurity.tigera.io/v1beta1\nkind: ContainerAdmissionPolicy\nmetadata: {name: x}\nspec: {rules: [{action: Reject}]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	score := 9.8
	return bundles.Content{Policies: set, Scans: []api.Scan{{
		Image: "nginx:1", Digest: "sha256:" + strings.Repeat("a", 64), ScannedAt: time.Unix(0, 0),
		Vulnerabilities: []api.Vulnerability{{ID: "CVE-2026-1", CVSS: &score}},
	}}}
}

// Equal content gives equal bytes; other content another revision.
func TestBuildIsDeterministic(t *testing.T) {
	var first []byte
	var revision string
	for range 3 {
		b, err := bundles.Build(content(t))
		if err != nil {
			t.Fatal(err)
		}
		text, err := bundles.Bytes(b)
		if err != nil {
			t.Fatal(err)
		}
		if first != nil && !bytes.Equal(first, text) {
			t.Fatal("two builds differ")
		}
		first, revision = text, b.Manifest.Revision
	}
	other := content(t)
	other.Scans = nil
	b, err := bundles.Build(other)
	if err != nil || b.Manifest.Revision == revision {
		t.Fatalf("another content has the same revision %s (%v)", revision, err)
	}
}

// What is read back from the bytes decides as what was built.
func TestRoundTrip(t *testing.T) {
	ctx := context.Background()
	built, err := bundles.Build(content(t))
	if err != nil {
		t.Fatal(err)
	}
	text, err := bundles.Bytes(built)
	if err != nil {
		t.Fatal(err)
	}
	read, err := bundles.Read(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	e := engine.New(engine.Config{})
	if err := e.Load(ctx, read); err != nil {
		t.Fatal(err)
	}
	c, err := e.Classify(ctx, "nginx:1", "", time.Unix(100, 0))
	if err != nil || c.Result != api.Fail || e.Revisions()[bundles.PartPolicies] == "" {
		t.Fatalf("%+v %v", c, err)
	}
	for n := 0; n < len(text)*9/10; n += 101 {
		if _, err := bundles.Read(bytes.NewReader(text[:n])); err == nil {
			t.Fatalf("a bundle cut at byte %d is read", n)
		}
	}
}
