# METADATA
# title: Admission by data that is not too old
# description: >-
#   For an OPA that follows a server, in the place of data.assay.admission: what that admits
#   is refused here once the head of the bundles is past its end, or while there is none.
#   OPA remembers nothing: it cannot know that a head, or a part, is older than
#   another one that it had.
package assay.fresh

import data.assay.admission

# METADATA
# title: decision
# description: api.Decision. It is defined for any input, as that of admission.
# entrypoint: true
decision := refused if {
	admission.decision.allowed
	admission.decision.judged
	not admission.decision.override
	not current
} else := admission.decision

refused := object.union(admission.decision, {"allowed": false, "message": sprintf(
	"%v %v: %v",
	[admission.decision.kind, admission.decision.name, fault],
)})

# Moments are texts of a fixed width, in UTC.
current if {
	is_string(data.assay.head.until)
	data.assay.head.until > admission.decision.now
}

default fault := "there is no head of the bundles, so that nobody knows how old they are"

fault := sprintf(
	"the policies and scan results are of %v, and were good until %v",
	[data.assay.head.time, data.assay.head.until],
)
