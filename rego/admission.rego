# METADATA
# title: Admission
# description: >-
#   The public entry points of admission. The input is an AdmissionReview
#   (admission.k8s.io/v1) with "now" and "namespaceLabels" beside "request" if
#   wanted, or the flat form (schema assay.dev/review/v1).
package assay.admission

# METADATA
# title: decision
# description: >-
#   api.Decision. It is defined for any input: what is not understood is refused.
# entrypoint: true
default decision := {
	"kind": "",
	"name": "",
	"allowed": false,
	"judged": false,
	"images": [],
	"message": "refused: no decision could be made of this input; it must be an AdmissionReview (admission.k8s.io/v1) or a flat review (assay.dev/review/v1), and the policies must evaluate without error",
}

decision := data.assay.judge.decision if input.schema == "assay.dev/review/v1"

decision := d if {
	not input.schema
	d := data.assay.judge.decision with input as data.assay.review.flat
}

# METADATA
# title: explain
# description: >-
#   The decision, and for each image the values that the criteria saw and every
#   rule that matched, the one that decided first.
# entrypoint: true
explain := object.union(decision, {"explain": data.assay.judge.explained}) if input.schema == "assay.dev/review/v1"

explain := object.union(decision, {"explain": e}) if {
	not input.schema
	e := data.assay.judge.explained with input as data.assay.review.flat
}
