# METADATA
# title: Admission
# description: >-
#   The public entry points of admission. The input is an AdmissionReview
#   (admission.k8s.io/v1 or v1beta1) with "now" and "namespaceLabels" beside "request" if
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

decision := data.assay.judge.decision if {
	input.schema == "assay.dev/review/v1"
	well_formed
} else := d if {
	not "schema" in object.keys(input)
	d := data.assay.judge.decision with input as data.assay.review.flat
}

# METADATA
# title: explain
# description: >-
#   The decision, and for each image the values that the criteria saw and every
#   rule that matched, the one that decided first.
# entrypoint: true
explain := object.union(decision, {"explain": data.assay.judge.explained}) if {
	input.schema == "assay.dev/review/v1"
	well_formed
}

explain := object.union(decision, {"explain": e}) if {
	not "schema" in object.keys(input)
	e := data.assay.judge.explained with input as data.assay.review.flat
}

# A flat review that lacks a member gets no decision, hence a refusal, rather
# than one about fewer images than there are.
well_formed if {
	every key in ["now", "operation", "group", "kind", "subresource", "namespace", "name", "user"] {
		is_string(input[key])
	}
	every key in ["hasOld", "oldDeleting", "templateChanged"] {
		is_boolean(input[key])
	}
	every key in ["containers", "oldImages", "malformed"] {
		is_array(input[key])
	}
	every c in input.containers {
		is_string(c.container)
		is_string(c.image)
		is_string(c.normal)
	}
	is_string(object.get(input, "cluster", ""))
	is_object(input.labels)
	type_name(input.namespaceLabels) in {"null", "object"}
	time.parse_rfc3339_ns(input.now)
	count(input.now) == 30
}
