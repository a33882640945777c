package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/intake"
	"github.com/assay-dev/assay/server/rematch"
)

// peak is how much more of the heap is used while fn runs than before, at the most, in bytes.
func peak(fn func()) int64 {
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	before, most := int64(m.HeapAlloc), int64(0)
	done := make(chan struct{})
	go func() { defer close(done); fn() }()
	for {
		select {
		case <-done:
			return most
		case <-time.After(2 * time.Millisecond):
			runtime.ReadMemStats(&m)
			most = max(most, int64(m.HeapAlloc)-before)
		}
	}
}

// list is a JSON text with a piece n times, each with its number in place of #.
func list(before, piece string, n int, after string) string {
	var b strings.Builder
	b.WriteString(before)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strings.ReplaceAll(piece, "#", fmt.Sprint(i)))
	}
	b.WriteString(after)
	return b.String()
}

const (
	digestOfCosts = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
	cyclonedx     = `{"bomFormat":"CycloneDX","specVersion":"1.5","components":[`
	syft          = `{"schema":{"version":"16.0.0","url":"https://raw.githubusercontent.com/anchore/syft/main/schema/json/schema-16.0.0.json"},"descriptor":{"name":"syft"},"source":{"type":"image","metadata":{}},"artifacts":[`
	spdx          = `{"spdxVersion":"SPDX-2.3","dataLicense":"CC0-1.0","SPDXID":"SPDXRef-DOCUMENT","name":"x","documentNamespace":"https://example.com/x","creationInfo":{"creators":["Tool: x"],"created":"2026-01-01T00:00:00Z"},"packages":[`
	// component is what other tools write of a package: 1.7 KB.
	component = `{"bom-ref":"pkg:npm/%40scope/package-#@1.2.#?package-id=0123456789abcdef","type":"library","author":"Somebody <somebody@example.com>","publisher":"Somebody","group":"@scope","name":"package-#","version":"1.2.#","description":"A package that does one thing well, and says so at some length in its description","hashes":[{"alg":"SHA-512","content":"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}],"licenses":[{"license":{"id":"MIT"}}],"cpe":"cpe:2.3:a:scope:package-#:1.2.#:*:*:*:*:*:*:*","purl":"pkg:npm/%40scope/package-#@1.2.#","externalReferences":[{"url":"https://github.com/scope/package-#","type":"distribution"},{"url":"https://example.com/package-#","type":"website"}],"properties":[{"name":"syft:package:foundBy","value":"javascript-package-cataloger"},{"name":"syft:package:language","value":"javascript"},{"name":"syft:package:type","value":"npm"},{"name":"syft:package:metadataType","value":"javascript-npm-package"},{"name":"syft:cpe23","value":"cpe:2.3:a:package-#:package-#:1.2.#:*:*:*:*:*:*:*"},{"name":"syft:location:0:layerID","value":"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"},{"name":"syft:location:0:path","value":"/usr/src/app/node_modules/@scope/package-#/package.json"}]}`
	artifact  = `{"id":"#","name":"package-#","version":"1.2.#","type":"npm","foundBy":"javascript-package-cataloger","locations":[{"path":"/usr/src/app/node_modules/package-#/package.json","layerID":"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef","accessPath":"/usr/src/app/node_modules/package-#/package.json","annotations":{"evidence":"primary"}}],"licenses":[{"value":"MIT","spdxExpression":"MIT","type":"declared","urls":[],"locations":[]}],"language":"javascript","cpes":[{"cpe":"cpe:2.3:a:package-#:package-#:1.2.#:*:*:*:*:*:*:*","source":"syft-generated"}],"purl":"pkg:npm/package-#@1.2.#","metadataType":"javascript-npm-package","metadata":{"name":"package-#","version":"1.2.#","author":"Somebody","homepage":"https://example.com","description":"A package","url":"https://example.com","private":false}}`
)

// What a body takes to be read is no more than its cost says, whatever is in it.
func TestCosts(t *testing.T) {
	sbom := func(text io.Reader) { _, _ = rematch.Decode(text, "registry.example.com/a:1", digestOfCosts) }
	scan := func(text io.Reader) { _, _ = readScans(text) }
	anything := func(text io.Reader) {
		var v any
		_ = json.NewDecoder(text).Decode(&v)
	}
	instances := func(text io.Reader) {
		all, _ := io.ReadAll(text)
		var v InstanceReport
		_ = decodeStrict(all, &v)
	}
	scans := `{"schema":"assay.dev/scan/v1","images":[{"image":"registry.example.com/a:1","digest":"` + digestOfCosts + `","scanned_at":"2026-01-01T00:00:00Z","vulnerabilities":[`
	for _, x := range []struct {
		name, text string
		needs      cost
		read       func(io.Reader)
	}{
		{"CycloneDX of 15,000 packages", list(cyclonedx, component, 15_000, "]}"), sbomCost, sbom},
		{"Syft of 10,000 packages", list(syft, artifact, 10_000, "]}"), sbomCost, sbom},
		{"components", list(cyclonedx, `{"type":"library","name":"a#","version":"1"}`, 30_000, "]}"), sbomCost, sbom},
		{"components of nothing", list(cyclonedx, `{}`, 100_000, "]}"), sbomCost, sbom},
		{"properties", cyclonedx + list(`{"type":"library","name":"a","version":"1","properties":[`, `{}`, 200_000, "]}]}"), sbomCost, sbom},
		{"licenses", cyclonedx + list(`{"type":"library","name":"a","version":"1","licenses":[`, `{"license":{"id":"MIT-#"}}`, 50_000, "]}]}"), sbomCost, sbom},
		{"references", cyclonedx + list(`{"type":"library","name":"a","version":"1","externalReferences":[`, `{}`, 200_000, "]}]}"), sbomCost, sbom},
		{"dependencies", list(`{"bomFormat":"CycloneDX","specVersion":"1.5","components":[],"dependencies":[`, `{"ref":"a#","dependsOn":["b#"]}`, 100_000, "]}"), sbomCost, sbom},
		{"artifacts", list(syft, `{"id":"#","name":"a","version":"1","type":"deb"}`, 30_000, "]}"), sbomCost, sbom},
		{"locations", syft + list(`{"id":"1","name":"a","version":"1","type":"deb","locations":[`, `{"path":"/#"}`, 50_000, "]}]}"), sbomCost, sbom},
		{"files", list(strings.Replace(syft, `"artifacts":[`, `"artifacts":[],"files":[`, 1), `{"id":"#","location":{"path":"/#"}}`, 50_000, "]}"), sbomCost, sbom},
		{"relationships", list(strings.Replace(syft, `"artifacts":[`, `"artifacts":[],"artifactRelationships":[`, 1), `{"parent":"#","child":"b","type":"contains"}`, 50_000, "]}"), sbomCost, sbom},
		{"SPDX", list(spdx, `{"SPDXID":"SPDXRef-#","name":"a#","versionInfo":"1","downloadLocation":"NONE"}`, 30_000, "]}"), sbomCost, sbom},
		{"hashes", cyclonedx + list(`{"type":"library","name":"a","version":"1","hashes":[`, `{"alg":"a","content":"#"}`, 100_000, "]}]}"), sbomCost, sbom},
		{"references of a package", spdx + list(`{"SPDXID":"SPDXRef-1","name":"a","versionInfo":"1","downloadLocation":"NONE","externalRefs":[`, `{"referenceCategory":"PACKAGE-MANAGER","referenceType":"purl","referenceLocator":"pkg:deb/a#@1"}`, 30_000, "]}]}"), sbomCost, sbom},
		{"checksums", spdx + list(`{"SPDXID":"SPDXRef-1","name":"a","versionInfo":"1","downloadLocation":"NONE","checksums":[`, `{"algorithm":"SHA1","checksumValue":"#"}`, 50_000, "]}]}"), sbomCost, sbom},
		{"licenses of Syft", syft + list(`{"id":"1","name":"a","version":"1","type":"deb","licenses":[`, `{"value":"MIT-#","urls":["a"]}`, 30_000, "]}]}"), sbomCost, sbom},
		{"properties of a file", syft + list(`{"id":"1","name":"a","version":"1","type":"npm","metadataType":"javascript-npm-package","metadata":{"properties":[`, `{"#":{}}`, 50_000, "]}}]}"), sbomCost, sbom},
		{"annotations", syft + list(`{"id":"1","name":"a","version":"1","type":"deb","locations":[{"path":"/a","annotations":{`, `"#":""`, 150_000, "}}]}]}"), sbomCost, sbom},
		{"names of other cases", list(`{"bomFormat":"CycloneDX","specVersion":"1.5","Components":[`, `{}`, 25_000, "]}"), sbomCost, sbom},
		{"a long text", cyclonedx + `{"type":"library","version":"1","name":"` + strings.Repeat("a", 20<<20) + `"}]}`, sbomCost, sbom},
		{"numbers", `{"bomFormat":"CycloneDX","specVersion":"1.5","x":[0` + strings.Repeat(",0", 1_250_000) + "]}", sbomCost, sbom},
		{"vulnerabilities of nothing", list(scans, "{}", 50_000, "]}]}"), scanCost, scan},
		{"vulnerabilities", list(scans, `{"id":"CVE-2026-#","package":"openssl","version":"3.0.#","type":"deb","cvss":9.8,"severity":"Critical","aliases":["GHSA-#"],"fix":{"state":"fixed","versions":["3.#"]},"purl":"pkg:deb/debian/openssl@3.0.#"}`, 30_000, "]}]}"), scanCost, scan},
		{"aliases", list(scans+`{"id":"a","aliases":[`, `"#"`, 250_000, "]}]}]}"), scanCost, scan},
		{"a review of objects", list(`{"request":{"object":{"x":[`, `{"a":{}}`, 50_000, "]}}}"), documentCost, anything},
		{"a review of texts", list(`{"request":{"object":{"x":[`, `{"a":"#"}`, 50_000, "]}}}"), documentCost, anything},
		{"containers that run", list(`{"cluster":"c","instances":[`, `{}`, 50_000, "]}"), documentCost, instances},
		{"images", list(`{"schema":"assay.dev/scan/v1","images":[`, "{}", 9_999, "]}"), scanCost, scan},
		{"a member that is not known", list(`{"schema":"assay.dev/scan/v1","x":[`, `{"a":[]}`, 250_000, "]}"), scanCost, scan},
	} {
		shape, err := intake.Measure(strings.NewReader(x.text), 1<<30, x.needs.names, func(*intake.Shape) error { return nil })
		if err != nil {
			t.Fatal(x.name, err)
		}
		raw := []byte(x.text)
		used := peak(func() { x.read(bytes.NewReader(raw)) })
		allowed := x.needs.of(&shape)
		t.Logf("%-30s %6.1f MiB %8d elements %8d objects and %8d slight: %6.1f MiB of %6.1f, %5.1f a byte, %6.0f an object", x.name, float64(shape.Bytes)/(1<<20), shape.Elements, shape.Objects, shape.Slight, float64(used)/(1<<20), float64(allowed)/(1<<20), float64(used)/float64(shape.Bytes), float64(used)/float64(shape.Objects+shape.Slight))
		if used*10/11 > allowed { // peak lets a tenth of garbage lie
			t.Errorf("%s takes %d MiB, and %d are reckoned", x.name, used>>20, allowed>>20)
		}
	}
}
