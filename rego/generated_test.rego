# METADATA
# title: Stand-in for compiled policies
# description: >-
#   Tests give data.assay.mock.hits and data.assay.mock.notes: rule numbers by image, and
#   data.assay.mock.labelled: those of both by the label app.
package assay.generated.policies

hits contains n if {
	some form in input.c.forms
	some n in data.assay.mock.hits[form]
}

notes contains n if {
	some form in input.c.forms
	some n in data.assay.mock.notes[form]
}

hits contains n if some n in data.assay.mock.labelled.hits[input.labels.app]

notes contains n if some n in data.assay.mock.labelled.notes[input.labels.app]

offsets := []
