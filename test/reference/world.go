// Package reference judges what Assay decides: a plain and slow reading of the
// specification, written without the compiler and the evaluator in view. The
// compiled Rego must agree with it on every case of package corpus.
package reference

import "github.com/assay-dev/assay/api"

// World is all that a verdict depends on, but for the moment and the request.
type World struct {
	Policies   []api.ContainerAdmissionPolicy
	Thresholds *api.Thresholds
	Settings   *api.AdmissionSettings
	Exceptions []api.VulnerabilityException
	Scans      []api.Scan
	Alerts     []api.GlobalAlert
	// Cluster is the one that is decided for, "" for none; it is in Groups beside those that
	// scopes of scans name together with it.
	Cluster string
	Groups  []string
}
