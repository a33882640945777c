# METADATA
# title: Stand-in for compiled policies
# description: >-
#   Tests give data.assay.mock.hits and data.assay.mock.notes: rule numbers by image.
package assay.generated.policies

hits contains n if some n in data.assay.mock.hits[input.c.image]

notes contains n if some n in data.assay.mock.notes[input.c.image]
