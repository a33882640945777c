package assay.admission_test

import data.assay.admission

now := "2026-06-01T00:00:00.000000000Z"

settings := {"default_action": "Allow", "controllers": set(), "excluded": set(), "platforms": ["linux/amd64"], "kinds": {}}

web := {"container": "web", "image": "web:1", "normal": "docker.io/library/web:1", "name": "docker.io/library/web", "tag": "1"}

pod := {
	"schema": "assay.dev/review/v1", "now": now,
	"operation": "CREATE", "group": "", "kind": "Pod", "subresource": "",
	"namespace": "shop", "name": "cart", "labels": {}, "namespaceLabels": {},
	"user": "alice", "owner": null, "hasOld": false, "oldDeleting": false, "templateChanged": true,
	"containers": [web], "oldImages": [], "malformed": [],
}

request := {"operation": "CREATE", "namespace": "shop", "kind": {"group": "", "kind": "Pod"}, "object": {"spec": {"containers": [{"name": "web", "image": "web:1"}]}}}

decided(review) := d if {
	d := admission.decision with input as review with data.assay.generated.settings as settings
}

explained(review) := x if {
	x := admission.explain with input as review with data.assay.generated.settings as settings
}

refusal := {
	"kind": "", "name": "", "allowed": false, "judged": false, "images": [],
	"message": "refused: no decision could be made of this input; it must be an AdmissionReview (admission.k8s.io/v1) or a flat review (assay.dev/review/v1), and the policies must evaluate without error",
}

test_refusal if {
	decided(pod).allowed
	every review in [null, {}, 1, object.union(pod, {"schema": "x"}), object.remove(pod, ["labels"])] {
		decided(review) == refusal
	}
}

# What says that it is something else is not taken for an AdmissionReview.
test_schema_of_a_review if {
	decided({"now": now, "request": request}).allowed
	every schema in ["x", "", null, false, 5] {
		decided({"now": now, "schema": schema, "request": request}) == refusal
		not explained({"now": now, "schema": schema, "request": request})
	}
}

# What gets no decision gets no explanation.
test_explanation_of_what_is_decided_alone if {
	explained(pod).explain[0].container == "web"
	explained({"now": now, "request": request}).explain[0].container == "web"
	not explained(object.union(pod, {"schema": "assay.dev/review/v2"}))
	not explained(object.remove(pod, ["labels"]))
	not explained({"request": 1})
}

# A schema decides what an input is, for explanations too.
test_explanation_of_a_flat_review_beside_a_request if {
	other := {"object": {"spec": {"containers": [{"name": "other", "image": "other:1"}]}}}
	explained(object.union(pod, {"request": object.union(request, other)})) == explained(pod)
}

# No such moment, though it has the width of one.
test_moment_of_what_is_not_judged if {
	decided(object.union(pod, {"operation": "DELETE", "now": "2026-13-01T00:00:00.000000000Z"})) == refusal
}

# Members are looked at where nothing is judged, too.
test_malformed_containers_of_what_is_not_judged if {
	decided(object.union(pod, {"operation": "DELETE"})).allowed
	every member in ["container", "image", "normal"] {
		decided(object.union(pod, {"operation": "DELETE", "containers": [web, object.union(web, {member: 5})]})) == refusal
		decided(object.union(pod, {"operation": "DELETE", "containers": [object.remove(web, [member])]})) == refusal
	}
	decided(object.union(pod, {"operation": "DELETE", "containers": {"web": web}})) == refusal
}
