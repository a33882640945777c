// Package deploy tests what is installed: custom resource definitions, chart and manifests.
package deploy

//go:generate go test -run TestManifestsAreTheChart -update
