// Package rego holds the hand-written Rego library that every decision is
// evaluated with, in the embedded engine as in any OPA. The Rego tests lie
// beside the modules and run with go test.
package rego

import (
	"embed"
	"io/fs"
	"strings"
)

//go:embed *.rego
var files embed.FS

// Library returns the text of the library's modules by file name, without tests.
func Library() map[string]string {
	modules := map[string]string{}
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		panic(err) // embedded: cannot fail
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), "_test.rego") {
			continue
		}
		text, err := files.ReadFile(e.Name())
		if err != nil {
			panic(err)
		}
		modules[e.Name()] = string(text)
	}
	return modules
}
