// Package api holds Assay's wire types: the kinds that users write, and the
// documents that its programs exchange. It imports only the standard library,
// so that every other package can share it.
//
// The JSON tags are the contract. A document that other programs read carries
// a "schema" member such as [SchemaScan]; its version changes only when a
// member is removed or changes meaning.
package api

// Schema names of the machine-readable documents.
const (
	SchemaScan       = "assay.dev/scan/v1"
	SchemaAdmission  = "assay.dev/admission/v1"
	SchemaAlerts     = "assay.dev/alerts/v1"
	SchemaCheck      = "assay.dev/check/v1"
	SchemaExceptions = "assay.dev/exceptions/v1"
	SchemaDatabase   = "assay.dev/database/v1"
	// SchemaGenerations is of the databases that are kept.
	SchemaGenerations = "assay.dev/database-generations/v1"
	// SchemaDatabaseState is of all that is known of them.
	SchemaDatabaseState = "assay.dev/database-state/v1"
	// SchemaDatabaseDiff is of what one database changed against another.
	SchemaDatabaseDiff = "assay.dev/database-diff/v1"
	// SchemaDatabaseExport is of the archive that was written.
	SchemaDatabaseExport = "assay.dev/database-export/v1"
	SchemaBackup         = "assay.dev/backup/v1"
	SchemaPriorities     = "assay.dev/priorities/v1"
)

// API groups and kinds that a policies folder may hold.
const (
	GroupPolicy = "containersecurity.tigera.io/v1beta1"
	GroupAlert  = "projectcalico.org/v3"
	GroupAssay  = "assay.dev/v1alpha1"

	KindContainerAdmissionPolicy = "ContainerAdmissionPolicy"
	KindGlobalAlert              = "GlobalAlert"
	KindGlobalAlertTemplate      = "GlobalAlertTemplate"
	KindVulnerabilityException   = "VulnerabilityException"
	KindThresholds               = "Thresholds"
	KindAdmissionSettings        = "AdmissionSettings"
	KindVerdictAlert             = "VerdictAlert"
)

// Backup is the document of `assay backup -o json`.
type Backup struct {
	Schema string `json:"schema"`
	File   string `json:"file"`
	Bytes  int64  `json:"bytes"`
}
