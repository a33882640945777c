package assay.judge_test

import data.assay.judge

digest := "sha256:ab00000000000000000000000000000000000000000000000000000000000000"

other := "sha256:cd00000000000000000000000000000000000000000000000000000000000000"

now := "2026-06-01T00:00:00.000000000Z"

at := "2026-05-31T12:00:00.000000000Z"

built := "2026-05-31T06:00:00.000000000Z"

settings := {
	"default_action": "Reject",
	"controllers": {"system:serviceaccount:kube-system:replicaset-controller", "system:kube-controller-manager"},
	"excluded": {"kube-system", "assay-system"},
	"children": "trusted",
	"platforms": ["linux/amd64"],
	"kinds": {"argoproj.io/Rollout": {"templates": [[["spec", "template"]]], "images": [], "references": [[["spec", "workloadRef"]]], "controllers": ["system:serviceaccount:argo:rollouts"]}},
}

thresholds := {"warn": 7, "fail": 9, "options": {}}

images := {
	"ab": {digest: {"at": at, "db": built, "ids": ["CVE-2", "CVE-1", "CVE-3"], "s": [9.8, 9, 1]}},
	"cd": {other: {"at": at, "db": built, "ids": [], "s": []}},
}

names := {"docker.io/library/bad": {"1": {"digest": digest}}, "docker.io/library/good": {"1": {"digest": other}}}

bad := {"container": "web", "image": "bad:1", "normal": "docker.io/library/bad:1", "name": "docker.io/library/bad", "tag": "1"}

good := {"container": "side", "image": "good:1", "normal": "docker.io/library/good:1", "name": "docker.io/library/good", "tag": "1"}

unparsed := {"container": "odd", "image": "ODD", "normal": "ODD"}

pod := {
	"schema": "assay.dev/review/v1", "now": now,
	"operation": "CREATE", "group": "", "kind": "Pod", "subresource": "",
	"namespace": "shop", "name": "cart", "labels": {}, "namespaceLabels": {"kubernetes.io/metadata.name": "shop"},
	"user": "alice", "owner": null, "hasOld": false, "oldDeleting": false, "templateChanged": true,
	"containers": [bad, good], "oldImages": [], "malformed": [],
}

deployment := object.union(pod, {"group": "apps", "kind": "Deployment"})

rule(policy, position, n, action, criteria) := {
	"policy": policy, "position": position, "rule": n,
	"action": action, "mode": "Enforce", "criteria": criteria, "by": by(policy, n),
}

by(policy, 0) := {"policy": policy}

by(policy, n) := {"policy": policy, "rule": n} if n > 0

in_mode(r, mode) := object.union(r, {"mode": mode})

allow_all := {"rules": [rule("all", 0, 1, "Allow", [])], "hits": {c.image: {0} | some c in [bad, good, unparsed]}}

# world has what a test changes: rules, hits and notes by image, reject, settings, images.
decide(review, world) := d if {
	d := data.assay.admission.decision with input as review
		with data.assay.generated.thresholds as thresholds
		with data.assay.generated.settings as object.union(settings, object.get(world, "settings", {}))
		with data.assay.generated.policies.rules as object.get(world, "rules", [])
		with data.assay.generated.policies.has_notes as true
		with data.assay.generated.policies.spans as object.get(world, "spans", {})
		with data.assay.mock as object.filter(world, ["hits", "notes", "labelled"])
		with data.assay.generated.custom as {"present": true, "reject": object.get(world, "reject", set())}
		with data.assay.images as object.union(images, object.get(world, "images", {}))
		with data.assay.names as names
		with data.assay.indexes as {}
		with data.assay.details as {}
		with data.assay.exceptions as {}
		with data.assay.revisions as {"policies": "r1"}
}

changed(review, change) := object.union(review, change)

reason(review) := decide(review, allow_all).reason

judged(review) := decide(review, allow_all).judged

containers(d) := [i.container | some i in d.images]

# --- Which requests are judged ---

test_judged_pod if {
	d := decide(pod, allow_all)
	d.allowed
	d.judged
	not d.reason
	not d.message
	not d.warnings
	not d.audit
	d.kind == "Pod"
	d.namespace == "shop"
	d.name == "cart"
	d.revisions == {"policies": "r1"}
	d.now == now
	d.images == [
		{
			"container": "web", "image": "bad:1", "action": "Allow", "policy": "all", "rule": 1, "result": "Fail",
			"digest": digest, "max_cvss": 9.8, "scanned_at": at, "database": built, "cves": [],
		},
		{
			"container": "side", "image": "good:1", "action": "Allow", "policy": "all", "rule": 1, "result": "Pass",
			"digest": other, "scanned_at": at, "database": built, "cves": [],
		},
	]
}

test_unjudged_operations if {
	every operation in ["DELETE", "CONNECT"] {
		d := decide(changed(pod, {"operation": operation}), {})
		d.allowed
		not d.judged
		d.images == []
		d.reason == sprintf("%s is not judged", [operation])
	}
}

# What does not say what is asked is malformed, whatever else would let it pass.
test_unknown_operation_is_malformed if {
	every operation in ["", "create", "Delete"] {
		every kind in ["Pod", "Service"] {
			every namespace in ["shop", "kube-system"] {
				d := decide(changed(pod, {"operation": operation, "kind": kind, "namespace": namespace}), allow_all)
				d.judged
				not d.allowed
				d.message == sprintf("%v cart: malformed: the operation must be CREATE, UPDATE, DELETE or CONNECT", [kind])
			}
		}
	}
}

test_missing_kind_is_malformed if {
	every operation in ["CREATE", "UPDATE", "DELETE", "CONNECT"] {
		every change in [{}, {"namespace": "kube-system"}, {"subresource": "status"}] {
			d := decide(changed(pod, object.union({"operation": operation, "kind": ""}, change)), allow_all)
			d.judged
			not d.allowed
			d.message == " cart: malformed: the kind is missing"
		}
	}
}

test_missing_namespace_is_malformed if {
	every id in judge.builtin_kinds {
		[group, kind] := split(id, "/")
		d := decide(changed(pod, {"group": group, "kind": kind, "namespace": ""}), allow_all)
		not d.allowed
		d.message == sprintf("%v cart: malformed: the namespace is missing", [kind])
	}
}

test_kinds_without_namespace if {
	decide(changed(pod, {"group": "argoproj.io", "kind": "Rollout", "namespace": ""}), allow_all).allowed
	decide(changed(pod, {"kind": "Node", "namespace": ""}), {}).allowed
	decide(changed(pod, {"operation": "DELETE", "namespace": ""}), {}).allowed
	decide(changed(pod, {"operation": "UPDATE", "subresource": "status", "namespace": ""}), {}).allowed
}

test_unjudged_subresource if {
	reason(changed(pod, {"operation": "UPDATE", "subresource": "status"})) == "subresource status is not judged"
	judged(changed(pod, {"operation": "UPDATE", "subresource": "ephemeralcontainers"}))
}

test_unjudged_kind if {
	reason(changed(pod, {"group": "", "kind": "Service"})) == "kind /Service is not judged"
	reason(changed(pod, {"group": "policy", "kind": "Deployment"})) == "kind policy/Deployment is not judged"
	reason(changed(pod, {"group": "apps"})) == "kind apps/Pod is not judged"
}

test_each_built_in_kind_is_judged if {
	every id in judge.builtin_kinds {
		[group, kind] := split(id, "/")
		d := decide(changed(pod, {"group": group, "kind": kind}), {})
		d.judged
		not d.allowed
	}
}

test_custom_kind_is_judged if {
	judged(changed(pod, {"group": "argoproj.io", "kind": "Rollout"}))
	not decide(changed(pod, {"group": "argoproj.io", "kind": "Rollout"}), {}).allowed
}

test_excluded_namespace if {
	reason(changed(pod, {"namespace": "kube-system"})) == "namespace kube-system is excluded by AdmissionSettings"
	judged(changed(pod, {"namespace": "kube-system-2"}))
	judged(changed(pod, {"namespace": ""}))
}

# Of several reasons the first is given.
test_order_of_reasons if {
	reason(changed(pod, {"operation": "DELETE", "subresource": "x", "kind": "Y", "namespace": "kube-system"})) == "DELETE is not judged"
	reason(changed(pod, {"subresource": "x", "kind": "Y", "namespace": "kube-system"})) == "subresource x is not judged"
	reason(changed(pod, {"kind": "Y", "namespace": "kube-system"})) == "kind /Y is not judged"
}

# --- What controllers make ---

replica_set := {"group": "apps", "kind": "ReplicaSet"}

rollout := {"group": "argoproj.io", "kind": "Rollout"}

owned(owner, user) := changed(pod, {"owner": owner, "user": user})

test_made_by_each_controller if {
	every user in settings.controllers {
		reason(owned(replica_set, user)) == sprintf("made by %v for a judged ReplicaSet", [user])
	}
}

test_forged_owner_is_judged if {
	judged(owned(replica_set, "alice"))
	judged(owned(rollout, "alice"))
	judged(owned(replica_set, ""))
}

test_controller_without_judged_owner_is_judged if {
	every user in settings.controllers {
		judged(owned(null, user))
		judged(owned({"group": "example.com", "kind": "ReplicaSet"}, user))
		judged(owned({"group": "", "kind": "Node"}, user))
		judged(owned({}, user))
	}
}

test_owner_of_custom_kind_has_its_own_controllers if {
	reason(owned(rollout, "system:serviceaccount:argo:rollouts")) == "made by system:serviceaccount:argo:rollouts for a judged Rollout"
	judged(owned(replica_set, "system:serviceaccount:argo:rollouts"))
	judged(owned(rollout, "system:kube-controller-manager"))
}

child(images) := changed(owned(replica_set, "system:kube-controller-manager"), {"ownerImages": images})

children(mode) := object.union(allow_all, {"settings": {"children": mode}})

test_children_are_judged_where_asked if {
	every mode in ["judged", "other", ""] {
		d := decide(child([bad.image, good.image]), children(mode))
		d.judged
		containers(d) == ["web", "side"]
	}
	not decide(child([]), children("trusted")).judged
}

test_images_that_the_owner_does_not_name_are_judged if {
	d := decide(child([good.image]), children("sameImages"))
	d.judged
	containers(d) == ["web"]
	containers(decide(child([]), children("sameImages"))) == ["web", "side"]
	containers(decide(child([bad.normal, ""]), children("sameImages"))) == ["web", "side"]
	not decide(child([good.image]), object.union(reject_all, {"settings": {"children": "sameImages"}})).allowed
}

test_images_that_the_owner_names_are_not if {
	d := decide(child([bad.image, good.image, "other"]), object.union(reject_all, {"settings": {"children": "sameImages"}}))
	d.allowed
	not d.judged
	d.images == []
	d.reason == "made by system:kube-controller-manager for a judged ReplicaSet, whose pod template names all of its images"
}

test_all_are_judged_where_the_owner_is_not_known if {
	every images in [null, "bad:1", {"a": bad.image}, 7] {
		containers(decide(child(images), children("sameImages"))) == ["web", "side"]
	}
	containers(decide(owned(replica_set, "system:kube-controller-manager"), children("sameImages"))) == ["web", "side"]
}

test_same_images_need_a_controller if {
	every user in ["alice", ""] {
		containers(decide(changed(child([bad.image, good.image]), {"user": user}), children("sameImages"))) == ["web", "side"]
	}
	containers(decide(changed(child([bad.image, good.image]), {"owner": null}), children("sameImages"))) == ["web", "side"]
	decide(changed(child([bad.image, good.image]), {"operation": "UPDATE"}), children("sameImages")).judged
}

test_a_malformed_child_is_refused if {
	every mode in ["trusted", "sameImages", "judged"] {
		not decide(changed(child([bad.image, good.image]), {"malformed": ["x"]}), children(mode)).allowed
	}
}

test_controller_updates_are_judged if {
	judged(changed(owned(replica_set, "system:kube-controller-manager"), {"operation": "UPDATE"}))
}

# --- Updates ---

update(review, change) := changed(review, object.union({"operation": "UPDATE", "hasOld": true}, change))

test_update_of_pod_judges_new_images if {
	containers(decide(update(pod, {"oldImages": ["good:1"]}), allow_all)) == ["web"]
	containers(decide(update(pod, {"oldImages": ["good:1"], "templateChanged": false}), allow_all)) == ["web"]
	containers(decide(update(pod, {"oldImages": []}), allow_all)) == ["web", "side"]
	reason(update(pod, {"oldImages": ["bad:1", "good:1"]})) == "no image is new"
}

# Images are compared as written: another way to write one is new.
test_update_of_pod_compares_strings if {
	containers(decide(update(pod, {"oldImages": ["docker.io/library/bad:1", "good:1"]}), allow_all)) == ["web"]
}

test_update_of_ephemeral_containers if {
	containers(decide(update(pod, {"subresource": "ephemeralcontainers", "oldImages": ["bad:1"]}), allow_all)) == ["side"]
}

test_update_of_pod_without_old_object_judges_all if {
	containers(decide(update(pod, {"hasOld": false, "oldImages": ["bad:1", "good:1"]}), allow_all)) == ["web", "side"]
}

test_update_of_workload if {
	containers(decide(update(deployment, {"oldImages": ["bad:1", "good:1"]}), allow_all)) == ["web", "side"]
	reason(update(deployment, {"templateChanged": false})) == "the pod template is unchanged"
	judged(update(deployment, {"templateChanged": false, "hasOld": false}))
}

test_update_of_what_is_being_deleted if {
	deleted := "the object is being deleted, and no image is new"
	reason(update(pod, {"oldDeleting": true, "oldImages": ["bad:1", "good:1"]})) == deleted
	reason(update(deployment, {"oldDeleting": true, "oldImages": ["bad:1", "good:1"]})) == deleted
	containers(decide(update(pod, {"oldDeleting": true, "oldImages": ["bad:1"]}), allow_all)) == ["side"]
	containers(decide(update(deployment, {"oldDeleting": true, "oldImages": ["bad:1"]}), allow_all)) == ["web", "side"]
	judged(changed(pod, {"oldDeleting": true, "oldImages": ["bad:1", "good:1"]}))
}

# The rules of updates are for updates: an old object beside a CREATE changes nothing.
test_create_with_an_old_object_judges_all if {
	old := {"hasOld": true, "templateChanged": false, "oldImages": ["bad:1"]}
	containers(decide(changed(pod, old), allow_all)) == ["web", "side"]
	containers(decide(changed(pod, object.union(old, {"oldImages": ["bad:1", "good:1"]})), allow_all)) == ["web", "side"]
	containers(decide(changed(deployment, old), allow_all)) == ["web", "side"]
}

# --- What is malformed ---

test_malformed_is_refused if {
	d := decide(changed(pod, {"malformed": ["the pod spec is missing", "another"]}), allow_all)
	not d.allowed
	d.judged
	d.images == []
	d.message == "Pod cart: malformed: another\nPod cart: malformed: the pod spec is missing"
}

# No rule about the lifecycle lets what is malformed pass.
test_malformed_update_and_owner_are_refused if {
	wrong := {"malformed": ["x"]}
	not decide(object.union(owned(replica_set, "system:kube-controller-manager"), wrong), allow_all).allowed
	not decide(object.union(update(deployment, {"templateChanged": false}), wrong), allow_all).allowed
	not decide(object.union(update(pod, {"oldDeleting": true, "oldImages": ["bad:1", "good:1"]}), wrong), allow_all).allowed
}

test_malformed_out_of_scope_is_allowed if {
	decide(changed(pod, {"operation": "DELETE", "malformed": ["x"]}), {}).allowed
}

test_malformed_is_not_given_to_users if {
	d := decide(changed(pod, {"malformed": ["x"]}), {"reject": {{"package": "p", "message": "m"}}})
	d.message == "Pod cart: malformed: x"
}

test_without_containers if {
	d := decide(changed(deployment, {"containers": []}), {})
	d.allowed
	d.judged
	d.images == []
}

# --- Inputs without a decision ---

refusal := d if {
	d := data.assay.admission.decision with input as {}
}

test_default_refuses if {
	not refusal.allowed
	not refusal.judged
	refusal.images == []
	startswith(refusal.message, "refused: ")
}

test_each_missing_member_is_refused if {
	members := object.keys(pod) - {"schema", "owner"}
	count(members) == 16
	every key in members {
		decide(object.remove(pod, [key]), allow_all) == refusal
	}
}

test_each_member_of_wrong_type_is_refused if {
	every key in object.keys(pod) - {"schema", "owner"} {
		decide(object.union(pod, {key: 7}), allow_all) == refusal
	}
	every key in object.keys(pod) - {"schema", "owner", "namespaceLabels"} {
		decide(object.union(pod, {key: null}), allow_all) == refusal
	}
}

test_bad_now_is_refused if {
	every value in ["", "today", "2026-06-01T00:00:00Z", "2026-06-01T00:00:00.00000000000Z", "2026-13-01T00:00:00.000000000Z"] {
		decide(object.union(pod, {"now": value}), allow_all) == refusal
	}
}

test_bad_container_is_refused if {
	every c in [null, "nginx", {}, object.remove(bad, ["container"]), object.remove(bad, ["image"]), object.remove(bad, ["normal"])] {
		decide(object.union(pod, {"containers": [good, c]}), allow_all) == refusal
	}
}

test_foreign_schema_is_refused if {
	decide(object.union(pod, {"schema": "assay.dev/review/v2"}), allow_all) == refusal
}

# A schema decides what an input is, whatever else it holds.
test_schema_beside_a_request if {
	review := {"request": {"operation": "DELETE", "kind": {"group": "", "kind": "Pod"}}}
	decide(review, allow_all).allowed
	every schema in ["assay.dev/review/v1", "assay.dev/review/v2", "", 7, null] {
		doc := object.union(review, {"schema": schema})
		decide(doc, allow_all) == refusal
	}
}

test_inputs_of_other_types_are_refused if {
	every x in [null, 1, "x", [], true, {}, {"request": 1}, {"request": null}] {
		not decide(x, allow_all).allowed
	}
}

test_decision_of_an_admission_review if {
	review := {"now": "2026-06-01T02:00:00+02:00", "request": {
		"operation": "CREATE", "kind": {"group": "", "kind": "Pod"}, "namespace": "shop", "name": "cart",
		"userInfo": {"username": "alice"},
		"object": {"spec": {"containers": [{"name": "web", "image": "bad:1"}, {"name": "side", "image": "good:1"}]}},
	}}
	decide(review, allow_all) == decide(pod, allow_all)
}

# --- Which rule decides ---

test_default_is_reject if {
	d := decide(pod, {"hits": {"bad:1": {0}}, "rules": allow_all.rules})
	not d.allowed
	[i.action | some i in d.images] == ["Allow", "Reject"]
	not d.images[1].policy
	not d.images[1].rule
	d.message == "good:1 (container side): no policy allows it: result Pass, last scanned 2026-05-31T12:00:00; to admit it, a policy must have a rule that allows it"
}

test_default_of_the_settings if {
	d := decide(pod, {"settings": {"default_action": "Allow"}})
	d.allowed
	not d.images[0].policy
}

test_first_rule_decides if {
	rules := [
		rule("a", 0, 1, "Allow", []),
		rule("a", 0, 2, "Reject", ["status"]),
		rule("b", 1, 1, "Allow", []),
	]
	d := decide(pod, {"rules": rules, "hits": {"bad:1": {1, 2}, "good:1": {2, 0}}})
	[[i.action, i.policy, i.rule] | some i in d.images] == [["Reject", "a", 2], ["Allow", "a", 1]]
	not d.allowed
}

test_unknown_namespace_labels if {
	d := decide(changed(pod, {"namespaceLabels": null}), {
		"rules": [rule("prod", 0, 0, "Reject", []), rule("prod", 0, 1, "Allow", [])],
		"hits": {"bad:1": {0, 1}, "good:1": {0, 1}},
	})
	not d.allowed
	d.images[0].policy == "prod"
	not d.images[0].rule
	d.images[0].message == "bad:1 (container web): policy prod rejects it: the labels of namespace shop are not known; to admit it, make the namespace's labels known"
}

test_image_that_does_not_parse_is_unknown if {
	d := decide(changed(pod, {"containers": [unparsed]}), allow_all)
	d.allowed
	d.images == [{"container": "odd", "image": "ODD", "action": "Allow", "policy": "all", "rule": 1, "result": "Unknown", "cves": []}]
}

# The cuts of imageLastScan are those of the calendar.
test_cuts if {
	cuts := judge.cuts with input as {"now": "2024-02-29T12:00:00.000000000Z"}
		with data.assay.generated.policies.spans as {"1y": [1, 0, 0], "1m2d": [0, 1, 2], "0": 0, "3d": ((3 * 24) * 3600) * 1000000000}
	cuts == {"1y": "2023-03-01T12:00:00.000000000Z", "1m2d": "2024-01-27T12:00:00.000000000Z", "0": "2024-02-29T12:00:00.000000000Z", "3d": "2024-02-26T12:00:00.000000000Z"}
}

# --- Users' refusals ---

test_refusal_of_the_whole_resource if {
	d := decide(pod, object.union(allow_all, {"reject": {{"package": "assay.user.x", "message": "not on Fridays"}}}))
	not d.allowed
	[i.action | some i in d.images] == ["Reject", "Reject"]
	not d.images[0].policy
	not d.images[0].rule
	d.images[0].message == "bad:1 (container web): not on Fridays (package assay.user.x)"
	d.message == "bad:1 (container web): not on Fridays (package assay.user.x)\ngood:1 (container side): not on Fridays (package assay.user.x)"
}

test_refusal_of_one_container if {
	d := decide(pod, object.union(allow_all, {"reject": {{"package": "p", "container": "side", "message": "no"}}}))
	not d.allowed
	[i.action | some i in d.images] == ["Allow", "Reject"]
	d.images[0].policy == "all"
	d.message == "good:1 (container side): no (package p)"
}

test_refusal_of_a_container_that_does_not_exist if {
	d := decide(pod, object.union(allow_all, {"reject": {{"package": "p", "container": "nosuch", "message": "no"}}}))
	not d.allowed
	[i.action | some i in d.images] == ["Allow", "Allow"]
	d.message == "Pod cart: no (package p)"
}

test_several_refusals_of_one_image if {
	d := decide(pod, object.union(allow_all, {"reject": {
		{"package": "p", "container": "web", "message": "one"},
		{"package": "q", "container": "web", "message": "two"},
	}}))
	d.images[0].message == "bad:1 (container web): one (package p); two (package q)"
}

test_refusal_of_what_has_no_containers if {
	d := decide(changed(deployment, {"containers": []}), {"reject": {{"package": "p", "message": "no"}}})
	not d.allowed
	d.message == "Deployment cart: no (package p)"
}

# What passes unjudged is allowed whatever users refuse.
test_refusal_of_what_is_not_judged if {
	d := decide(changed(pod, {"operation": "DELETE"}), {"reject": {{"package": "p", "message": "no"}}})
	d.allowed
	not d.message
}

test_refusal_outweighs_the_policy_that_rejects if {
	d := decide(changed(pod, {"containers": [bad]}), {
		"rules": [rule("a", 0, 1, "Reject", ["status"])], "hits": {"bad:1": {0}},
		"reject": {{"package": "p", "message": "no"}},
	})
	d.message == "bad:1 (container web): no (package p)"
}

test_forms_of_a_reason if {
	judge.refusal("p", "text") == {"package": "p", "message": "text"}
	judge.refusal("p", {"message": "m", "container": "c"}) == {"package": "p", "message": "m", "container": "c"}
	judge.refusal("p", {"message": "m", "package": "forged"}) == {"package": "p", "message": "m"}
	judge.refusal("p", {"why": 1}) == {"package": "p", "message": `{"why":1}`, "why": 1}
	judge.refusal("p", 7) == {"package": "p", "message": "7"}
	judge.refusal("p", ["a"]) == {"package": "p", "message": `["a"]`}
	judge.refusal("p", false) == {"package": "p", "message": "false"}
	judge.refusal("p", null) == {"package": "p", "message": "null"}
}

test_what_users_see if {
	seen := judge.enriched with input as pod
		with data.assay.generated.thresholds as thresholds
		with data.assay.generated.settings as settings
		with data.assay.images as images
		with data.assay.names as names
		with data.assay.indexes as {}
		with data.assay.exceptions as {}
	seen == [
		object.union(bad, {"result": "Fail", "max_cvss": 9.8, "digest": digest, "scanned_at": at, "database": built}),
		object.union(good, {"result": "Pass", "digest": other, "scanned_at": at, "database": built}),
	]
}

# --- What a rejection says ---

rejected(c, criteria, world) := d.images[0].message if {
	d := decide(changed(pod, {"containers": [c]}), object.union(world, {
		"rules": [rule("a", 0, 3, "Reject", criteria)], "hits": {c.image: {0}},
	}))
	d.message == d.images[0].message
}

bad_facts := "result Fail, maximum CVSS 9.8, last scanned 2026-05-31T12:00:00: CVE-2 (9.8), CVE-1 (9)"

bad_start := concat("", ["bad:1 (container web): policy a rule 3 rejects it: ", bad_facts, "; to admit it, "])

test_remedies if {
	rejected(unparsed, ["status"], {}) == "ODD (container odd): policy a rule 3 rejects it: result Unknown, since the reference cannot be read; to admit it, write one such as registry.example.com/shop/web:1.4"
	rejected(bad, ["status"], {}) == concat("", [bad_start, "upgrade the packages with these CVEs, or add exceptions for them"])
	rejected(bad, ["status", "time"], {}) == rejected(bad, ["status"], {})
	rejected(bad, ["time"], {}) == concat("", [bad_start, "have it scanned again"])
	rejected(bad, ["path", "time"], {}) == rejected(bad, ["time"], {})
	rejected(bad, ["path"], {}) == concat("", [bad_start, "use an image that this rule does not name"])
	rejected(bad, ["path not"], {}) == concat("", [bad_start, "use an image that this rule names"])
	rejected(bad, ["time after"], {}) == rejected(bad, [], {})
	rejected(bad, [], {}) == concat("", [bad_start, "a policy or rule before it must allow the image"])
	endswith(rejected(unparsed, ["path"], {}), "; to admit it, use an image that this rule does not name")
	endswith(rejected(unparsed, ["time"], {}), "; to admit it, have it scanned again")
	good_message := rejected(good, ["status"], {})
	good_message == "good:1 (container side): policy a rule 3 rejects it: result Pass, last scanned 2026-05-31T12:00:00; to admit it, a policy or rule before it must allow the image"
}

# Packages of which nothing could be looked up are the reason, with their number.
test_a_rejection_tells_of_unplaced_packages if {
	image := object.union(images.ab[digest], {"ids": ["CVE-1"], "s": [8], "unplaced": [["", 12]]})
	rejected(bad, ["status"], {"images": {"ab": {digest: image}}}) == concat("", [
		"bad:1 (container web): policy a rule 3 rejects it: result Unknown, since nothing could be looked up for 12 packages of no known distribution, ",
		"maximum CVSS 8, last scanned 2026-05-31T12:00:00; to admit it, ",
		"say what distribution its packages are of, as in assay scan --distro debian:12, or write unplaced: Ignore in the Thresholds",
	])
}

# The highest CVEs are named with their packages and what fixes them.
test_a_rejection_names_packages if {
	image := object.union(images.ab[digest], {"p": {"CVE-2": "libssl3 3.0.7-1, fixed in 3.0.8-1", "CVE-9": "zlib 1, no fix"}})
	contains(rejected(bad, ["status"], {"images": {"ab": {digest: image}}}), ": CVE-2 (9.8: libssl3 3.0.7-1, fixed in 3.0.8-1), CVE-1 (9); to admit it")
}

# What the author of a policy says comes first.
test_the_authors_message if {
	worded := object.union(rule("a", 0, 3, "Reject", ["path"]), {"message": "ask #platform: https://wiki.example.com/images"})
	d := decide(changed(pod, {"containers": [good]}), {"rules": [worded], "hits": {"good:1": {0}}})
	startswith(d.message, "good:1 (container side): ask #platform: https://wiki.example.com/images; policy a rule 3 rejects it: result Pass")
}

many(n) := {"ab": {digest: {"at": at, "db": built, "ids": [sprintf("CVE-%d", [i]) | some i in numbers.range(1, n)], "s": [9.5 | some i in numbers.range(1, n)]}}}

test_ten_cves_at_most if {
	ten := rejected(bad, ["status"], {"images": many(10)})
	contains(ten, ": CVE-1 (9.5), CVE-2 (9.5),")
	contains(ten, "CVE-10 (9.5); to admit it")
	not contains(ten, "more")
	eleven := rejected(bad, ["status"], {"images": many(11)})
	contains(eleven, "CVE-10 (9.5) and 1 more; to admit it")
	not contains(eleven, "CVE-11")
	contains(rejected(bad, ["status"], {"images": many(1010)}), "CVE-10 (9.5) and 1000 more; to admit it")
}

test_more_cves if {
	refuse := {"rules": [rule("a", 0, 1, "Reject", [])], "hits": {"bad:1": {0}, "good:1": {0}}}
	ten := decide(pod, object.union(refuse, {"images": many(10)}))
	count(ten.images[0].cves) == 10
	not ten.images[0].more_cves
	twelve := decide(pod, object.union(refuse, {"images": many(12)}))
	count(twelve.images[0].cves) == 10
	twelve.images[0].more_cves == 2
}

# A vulnerability that fails by KEV alone has no score to cite.
test_cve_without_score if {
	d := data.assay.judge.decision with input as changed(pod, {"containers": [bad]})
		with data.assay.generated.thresholds as {"warn": 7, "fail": 9, "detailed": true, "options": {"fail_on_kev": true}}
		with data.assay.generated.settings as settings
		with data.assay.generated.policies as {"rules": [], "hits": set(), "notes": set(), "offsets": []}
		with data.assay.generated.custom as {}
		with data.assay.images as images
		with data.assay.names as names
		with data.assay.indexes as {}
		with data.assay.details as {"ab": {digest: {"CVE-1": [{"severity": "High", "fixed": false, "kev": true, "package": "deb/debian/x", "version": "1"}]}}}
		with data.assay.exceptions as {}
		with data.assay.revisions as {"policies": "r1"}
	d.images[0].message == "bad:1 (container web): no policy allows it: result Fail, last scanned 2026-05-31T12:00:00: CVE-1; to admit it, a policy must have a rule that allows it"
	not d.images[0].max_cvss
}

# --- Policies in Warn and Audit mode ---

warned := "bad:1 (container web): policy w (Warn) would reject it by rule 1: "

with_notes(rules, hits, notes) := decide(changed(pod, {"containers": [bad]}), {
	"rules": rules,
	"hits": {"bad:1": hits},
	"notes": {"bad:1": notes},
})

test_notes_before_the_enforcing_decision if {
	d := with_notes(
		[
			in_mode(rule("w", 0, 1, "Reject", ["status"]), "Warn"),
			in_mode(rule("x", 1, 1, "Reject", ["status"]), "Audit"),
			rule("e", 2, 1, "Allow", []),
		],
		{2}, {0, 1},
	)
	d.allowed
	not d.message
	d.warnings == [concat("", [warned, bad_facts])]
	d.audit == [concat("", ["bad:1 (container web): policy x (Audit) would reject it by rule 1: ", bad_facts])]
}

# Decided is decided, by Allow or by Reject.
test_notes_after_the_enforcing_decision if {
	every action in ["Allow", "Reject"] {
		d := with_notes([rule("e", 0, 1, action, []), in_mode(rule("w", 1, 1, "Reject", []), "Warn")], {0}, {1})
		not d.warnings
		not d.audit
	}
}

test_notes_where_no_policy_decides if {
	d := with_notes([in_mode(rule("w", 0, 1, "Reject", []), "Warn")], set(), {0})
	not d.allowed
	d.warnings == [concat("", [warned, bad_facts])]
}

# Only the first rule that matches counts, and an Allow gives nothing.
test_notes_first_rule_of_a_policy if {
	rules := [in_mode(rule("w", 0, 1, "Allow", []), "Warn"), in_mode(rule("w", 0, 2, "Reject", []), "Warn"), rule("e", 1, 1, "Allow", [])]
	not with_notes(rules, {2}, {0, 1}).warnings
	count(with_notes(rules, {2}, {1}).warnings) == 1
	both := [in_mode(rule("w", 0, 1, "Reject", []), "Warn"), in_mode(rule("w", 0, 2, "Reject", []), "Warn"), rule("e", 1, 1, "Allow", [])]
	with_notes(both, {2}, {0, 1}).warnings == [concat("", [warned, bad_facts])]
}

# One policy in Warn mode does not shadow the next.
test_notes_of_several_policies if {
	rules := [in_mode(rule("v", 0, 1, "Allow", []), "Warn"), in_mode(rule("w", 1, 1, "Reject", []), "Warn"), in_mode(rule("x", 2, 1, "Reject", []), "Warn")]
	count(with_notes(rules, set(), {0, 1, 2}).warnings) == 2
}

test_notes_of_unknown_namespace_labels if {
	d := with_notes([in_mode(rule("w", 0, 0, "Reject", []), "Warn"), rule("e", 1, 1, "Allow", [])], {1}, {0})
	d.allowed
	d.warnings == [concat("", ["bad:1 (container web): policy w (Warn) would reject it, since the namespace's labels are not known: ", bad_facts])]
}

# --- Explain ---

test_explain if {
	rules := [in_mode(rule("w", 0, 1, "Reject", []), "Warn"), rule("e", 1, 1, "Allow", []), rule("e", 1, 2, "Reject", [])]
	review := changed(pod, {"containers": [bad]})
	e := data.assay.admission.explain with input as review
		with data.assay.generated.thresholds as thresholds
		with data.assay.generated.settings as settings
		with data.assay.generated.policies.rules as rules
		with data.assay.generated.policies.has_notes as true
		with data.assay.mock as {"hits": {"bad:1": {1, 2}}, "notes": {"bad:1": {0}}}
		with data.assay.generated.custom as {}
		with data.assay.images as images
		with data.assay.names as names
		with data.assay.indexes as {}
		with data.assay.exceptions as {}
		with data.assay.revisions as {"policies": "r1"}
	e.allowed
	e.explain == [{
		"container": "web", "image": "bad:1", "normal": "docker.io/library/bad:1", "result": "Fail",
		"digest": digest, "max_cvss": 9.8, "scanned_at": at, "database": built, "exceptions": [], "evidence": {"scope": "all", "found": at},
		"matched": [object.remove(rules[1], ["by"]), object.remove(rules[2], ["by"])], "noted": [object.remove(rules[0], ["by"])],
		"vulnerabilities": [{"id": "CVE-2", "score": 9.8}, {"id": "CVE-1", "score": 9}],
	}]
}

test_explain_of_an_admission_review if {
	e := data.assay.admission.explain with input as {"now": "2026-06-01T00:00:00Z", "request": {
		"operation": "CREATE", "kind": {"group": "", "kind": "Pod"}, "namespace": "shop", "name": "cart",
		"userInfo": {"username": "alice"}, "object": {"spec": {"containers": [{"name": "odd", "image": "ODD"}]}},
	}}
		with data.assay.generated.settings as settings
		with data.assay.generated.policies as {"rules": [], "hits": set(), "notes": set(), "offsets": []}
		with data.assay.generated.custom as {}
		with data.assay.revisions as {"policies": "r1"}
	e.explain == [{"container": "odd", "image": "ODD", "normal": "ODD", "result": "Unknown", "matched": [], "noted": [], "vulnerabilities": [], "exceptions": [], "unknown": {
		"why": "the reference cannot be read",
		"remedy": "write one such as registry.example.com/shop/web:1.4",
	}}]
}

# Hits are evaluated for each image, whatever the module that holds them.
# --- The forms of a reference ---

spelled := {
	"container": "web", "image": "Registry-1.docker.io:443/bad:1", "normal": "Registry-1.docker.io:443/bad:1",
	"name": "docker.io/library/bad", "tag": "1",
}

test_rules_see_the_reference_as_written_normalised_and_canonical if {
	every form in ["Registry-1.docker.io:443/bad:1", "docker.io/library/bad:1"] {
		d := decide(changed(pod, {"containers": [spelled]}), {"rules": [rule("a", 0, 1, "Reject", ["path"])], "hits": {form: {0}}})
		not d.allowed
		d.images[0].result == "Fail"
	}
	every form in ["bad:1", "docker.io/library/bad:1"] {
		not decide(changed(pod, {"containers": [bad]}), {"rules": [rule("a", 0, 1, "Reject", ["path"])], "hits": {form: {0}}}).allowed
	}
}

test_the_canonical_form_keeps_tag_and_digest if {
	both := changed(object.remove(spelled, ["tag"]), {
		"image": concat("@", [spelled.image, digest]), "normal": concat("@", [spelled.normal, digest]), "digest": digest,
	})
	form := concat("@", ["docker.io/library/bad:1", digest])
	not decide(changed(pod, {"containers": [both]}), {"rules": [rule("a", 0, 1, "Reject", ["path"])], "hits": {form: {0}}}).allowed
}

# A name that is none gives no form, hence no decision but a refusal.
test_a_name_that_is_no_text_is_refused if {
	d := decide(changed(pod, {"containers": [changed(bad, {"name": 7})]}), allow_all)
	not d.allowed
	d.images == []
}

test_mocked_hits if {
	d := data.assay.judge.decision with input as pod
		with data.assay.generated.thresholds as thresholds
		with data.assay.generated.settings as settings
		with data.assay.generated.policies as {"rules": [rule("e", 0, 1, "Allow", [])], "hits": {0}, "notes": set(), "offsets": []}
		with data.assay.generated.custom as {}
		with data.assay.images as images
		with data.assay.names as names
		with data.assay.indexes as {}
		with data.assay.exceptions as {}
		with data.assay.revisions as {"policies": "r1"}
	d.allowed
	count(d.images) == 2
}
