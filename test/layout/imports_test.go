// Package layout_test holds the import rules of docs/design/003-layout.md.
package layout_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/assay-dev/assay"

// deps are the packages that a package links, tests left out.
func deps(t *testing.T, pkg string) []string {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", module+"/"+pkg).CombinedOutput()
	if err != nil {
		t.Fatalf("go list -deps %s: %v\n%s", pkg, err, out)
	}
	list := strings.Fields(string(out))
	if len(list) < 2 {
		t.Fatalf("%s links only %v", pkg, list)
	}
	return list
}

func isStandard(pkg string) bool {
	first, _, _ := strings.Cut(pkg, "/")
	return !strings.Contains(first, ".")
}

// Packages that everything may import, import the standard library and api only.
func TestLeavesImportLittle(t *testing.T) {
	for _, pkg := range []string{"api", "review", "documents", "rego", "policies/selector", "policies/query", "outgoing"} {
		for _, d := range deps(t, pkg) {
			if !isStandard(d) && d != module+"/"+pkg && d != module+"/api" {
				t.Errorf("%s links %s", pkg, d)
			}
		}
	}
}

// What reads files knows nothing of what they hold.
func TestStreamLinksLittle(t *testing.T) {
	for pkg, own := range map[string][]string{"stream": {"stream"}, "manifests": {"stream", "manifests", "review", "api"}} {
		for _, d := range deps(t, pkg) {
			if path, ours := strings.CutPrefix(d, module+"/"); !isStandard(d) && d != "go.yaml.in/yaml/v3" && !(ours && slices.Contains(own, path)) {
				t.Errorf("%s links %s", pkg, d)
			}
		}
	}
}

// The order of what to do is the same for the command and the server: it knows neither.
func TestPriorityLinksLittle(t *testing.T) {
	for _, d := range deps(t, "priority") {
		if !isStandard(d) && d != module+"/priority" && d != module+"/documents" && d != module+"/api" {
			t.Errorf("priority links %s", d)
		}
	}
}

// What bounds the listeners of all programs is in each of them.
func TestIntakeLinksLittle(t *testing.T) {
	for _, d := range deps(t, "intake") {
		if !isStandard(d) && d != module+"/intake" {
			t.Errorf("intake links %s", d)
		}
	}
}

// The admission path must link neither the scanners nor Kubernetes.
func TestEvaluatorLinksNoScanner(t *testing.T) {
	for _, pkg := range []string{"engine", "policies", "bundles", "review"} {
		for _, d := range deps(t, pkg) {
			for _, banned := range []string{"github.com/anchore/", "k8s.io/", module + "/scanner", "modernc.org/sqlite"} {
				if strings.HasPrefix(d, banned) {
					t.Errorf("%s links %s", pkg, d)
				}
			}
		}
	}
}

// The admission server is small: it scans nothing, and keeps nothing but bundles.
func TestWebhookLinksLittle(t *testing.T) {
	for _, d := range deps(t, "cmd/assay-webhook") {
		for _, banned := range []string{"github.com/anchore/", "github.com/go-git/", "github.com/glebarez/", "modernc.org/", "github.com/jackc/", "github.com/riverqueue/", "github.com/sigstore/",
			module + "/scanner", module + "/store", module + "/server/daemon", module + "/test/"} {
			if strings.HasPrefix(d, banned) {
				t.Errorf("cmd/assay-webhook links %s", d)
			}
		}
	}
}

// The reference is the judge: it must not see what it judges, and nothing but
// tests may use it.
func TestReferenceIsIndependent(t *testing.T) {
	for _, d := range deps(t, "test/reference") {
		if strings.HasPrefix(d, module+"/") && d != module+"/api" && d != module+"/test/reference" {
			t.Errorf("test/reference links %s", d)
		}
	}
	for _, d := range deps(t, "cmd/assay") {
		if strings.HasPrefix(d, module+"/test/") {
			t.Errorf("cmd/assay links %s", d)
		}
	}
}

// Only the scanner and the command that wires it import Syft and Grype.
func TestOnlyTheScannerImportsAnchore(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", "{{.ImportPath}}: {{join .Imports \" \"}}", module+"/...").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		pkg, imports, _ := strings.Cut(line, ": ")
		if strings.Contains(imports, "github.com/anchore/") && !strings.HasPrefix(pkg, module+"/scanner") {
			t.Errorf("%s imports Anchore's modules", pkg)
		}
	}
}

// The store knows what it keeps, and no evaluator; what sends to a server knows the
// wire types; the API scans nothing.
func TestServerLinksLittle(t *testing.T) {
	for pkg, banned := range map[string][]string{
		"store":           {"github.com/open-policy-agent/", "k8s.io/", "github.com/anchore/", module + "/policies", module + "/engine", module + "/server"},
		"server/client":   {"github.com/", "k8s.io/", "modernc.org/"},
		"server":          {"github.com/anchore/", module + "/scanner", "github.com/go-git/"},
		"server/follow":   {"github.com/anchore/", module + "/scanner", "k8s.io/", "github.com/go-git/"},
		"server/alerting": {"github.com/anchore/", module + "/scanner"},
		"server/reports":  {"github.com/anchore/", "github.com/open-policy-agent/", module + "/scanner", module + "/engine", module + "/policies"},
		"server/jobs":     {"github.com/anchore/", module + "/engine", module + "/store"},
	} {
		for _, d := range deps(t, pkg) {
			for _, b := range banned {
				if strings.HasPrefix(d, b) && d != module+"/api" && d != module+"/outgoing" && d != module+"/"+pkg {
					t.Errorf("%s links %s", pkg, d)
				}
			}
		}
	}
}
