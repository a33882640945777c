// Package deploy tests what is installed: custom resource definitions, chart, manifests and images.
package deploy
