package assay.judge_test

import data.assay.judge

# Each condition of the verdicts alone; the mocks are those of judge_test.rego.

test_built_in_kinds if {
	judge.builtin_kinds == {
		"/Pod", "/ReplicationController",
		"apps/ReplicaSet", "apps/Deployment", "apps/StatefulSet", "apps/DaemonSet",
		"batch/Job", "batch/CronJob",
		"extensions/ReplicaSet", "extensions/Deployment", "extensions/DaemonSet",
	}
}

# What is out of scope is so whatever its lifecycle says.
test_one_reason_alone if {
	reason(update(pod, {"subresource": "status", "oldImages": ["bad:1", "good:1"]})) == "subresource status is not judged"
	reason(changed(owned(replica_set, "system:kube-controller-manager"), {"namespace": "kube-system"})) == "namespace kube-system is excluded by AdmissionSettings"
}

test_revisions_of_data_without_any if {
	decided_of(pod, {}).revisions == {}
	decided_of(pod, {}).allowed
}

decided_of(review, spans) := d if {
	d := judge.decision with input as review
		with data.assay.generated.thresholds as thresholds
		with data.assay.generated.settings as object.union(settings, {"default_action": "Allow"})
		with data.assay.generated.policies.rules as []
		with data.assay.generated.policies.spans as spans
		with data.assay.images as images
		with data.assay.names as names
}

# Asked for by itself, without package assay.admission, what lacks a member is not decided
# on, or judged whole.
test_no_verdict_is_no_decision if {
	not decided_of(changed(pod, {"containers": [bad, object.remove(good, ["image"])]}), {})
	count(decided_of(object.remove(update(pod, {}), ["oldImages"]), {}).images) == 2
	decided_of(pod, {"0-0-1": [0, 0, 1]}).allowed
	not decided_of(changed(pod, {"now": "today"}), {"0-0-1": [0, 0, 1]})
	not decided_of(pod, {"0-0-1": [0, 0, 1], "odd": ["x", 0, 0]})
}

# All that conditions of policies may look at.
test_fact_of_a_verdict if {
	list := judge.verdicts with input as changed(pod, {"containers": [bad]})
		with data.assay.generated.thresholds as thresholds
		with data.assay.generated.settings as settings
		with data.assay.generated.policies.rules as []
		with data.assay.generated.policies.offsets as [1, 10]
		with data.assay.generated.policies.spans as {"0-1-0": [0, 1, 0]}
		with data.assay.images as images
		with data.assay.names as names
	[v.fact | some v in list] == [{
		"forms": {"bad:1", "docker.io/library/bad:1"},
		"from": {1: {"ad:1", "ocker.io/library/bad:1"}, 10: {"", "library/bad:1"}},
		"result": "Fail",
		"status": {"result": "Fail", "max_cvss": 9.8, "digest": digest, "scanned_at": at, "database": built},
		"cuts": {"0-1-0": "2026-05-01T00:00:00.000000000Z"},
	}]
}

# A user's own refusal, and what is shown of each image.
test_action_of_a_refusal if {
	d := decide(pod, object.union(allow_all, {"reject": {{"package": "p", "message": "m", "container": "web"}}}))
	[[i.container, i.image, i.action] | some i in d.images] == [["web", "bad:1", "Reject"], ["side", "good:1", "Allow"]]
	not d.images[0].policy
	d.images[0].cves == ["CVE-2", "CVE-1"]
	d.images[1].cves == []
}

# Policies that are in no such mode leave no notes.
test_notes_only_where_a_policy_has_them if {
	review := changed(pod, {"containers": [bad]})
	world := {"rules": [in_mode(rule("w", 0, 1, "Reject", []), "Warn")], "notes": {"bad:1": {0}}}
	decide(review, world).warnings
	x := data.assay.admission.explain with input as review
		with data.assay.generated.thresholds as thresholds
		with data.assay.generated.settings as settings
		with data.assay.generated.policies.rules as world.rules
		with data.assay.mock as {"notes": world.notes}
		with data.assay.images as images
		with data.assay.names as names
	not x.warnings
	not x.audit
	x.explain[0].noted == []
}

# The eleventh CVE is one more; one is enough to speak of them.
test_numbers_of_cves if {
	rejects := {"rules": [rule("p", 0, 1, "Reject", ["status"])], "hits": {"bad:1": {0}}}
	one := decide(changed(pod, {"containers": [bad]}), object.union(rejects, {"images": many(1)})).images[0]
	one.cves == ["CVE-1"]
	not one.more_cves
	contains(one.message, "upgrade the packages with these CVEs")
	eleven := decide(changed(pod, {"containers": [bad]}), object.union(rejects, {"images": many(11)})).images[0]
	eleven.more_cves == 1
}
