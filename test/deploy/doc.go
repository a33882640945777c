// Package deploy tests what is installed: custom resource definitions, chart and manifests.
// Go does not see when files outside of a module change: run it with -count=1.
package deploy

//go:generate go test -run AreTheChart|IsTheChart -update
