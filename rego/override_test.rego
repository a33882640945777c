package assay.judge_test

# Break-glass, and what is no worse than what runs; the mocks are those of judge_test.rego.

reject_all := {"rules": [rule("all", 0, 1, "Reject", ["status"])], "hits": {c.image: {0} | some c in [bad, good, newer, unparsed]}}

glass := {"reason": "outage", "until": "2026-06-01T00:00:00.000000001Z", "granted": true}

broken(change) := decide(changed(pod, {"override": object.union(glass, change)}), reject_all)

test_override_admits if {
	d := broken({})
	d.allowed
	d.judged
	d.override == {"by": "alice", "reason": "outage", "until": "2026-06-01T00:00:00.000000001Z"}
	[i.action | some i in d.images] == ["Reject", "Reject"]
	not d.message
}

test_override_admits_what_is_malformed if {
	d := decide(changed(pod, {"override": glass, "malformed": ["x"]}), reject_all)
	d.allowed
	d.override.by == "alice"
}

test_override_of_what_is_allowed_says_nothing if {
	d := decide(changed(pod, {"override": glass}), allow_all)
	d.allowed
	not d.override
	excluded := decide(changed(pod, {"override": glass, "namespace": "kube-system"}), reject_all)
	excluded.allowed
	not excluded.override
}

test_override_that_does_not_count if {
	every change, fault in {
		{"granted": false}: "alice does not have the verb override on containeradmissionpolicies.containersecurity.tigera.io in namespace shop",
		{"reason": ""}: "the annotation assay.dev/override-reason is missing",
		{"until": ""}: "the annotation assay.dev/override-until must be a moment in RFC 3339",
		{"until": now}: "it ended at 2026-06-01T00:00:00.000000000Z",
	} {
		d := broken(change)
		not d.allowed
		not d.override
		contains(d.message, concat("", ["the override does not count: ", fault]))
	}
}

test_every_fault_of_an_override_refuses if {
	every change in [{"granted": false}, {"granted": "true"}, {"reason": ""}, {"until": ""}, {"until": now}, {"until": "2026-05-31T23:59:59.999999999Z"}] {
		d := broken(change)
		not d.allowed
		contains(d.message, "the override does not count")
	}
}

test_no_override_is_not_spoken_of if {
	not contains(decide(changed(pod, {"override": null}), reject_all).message, "override")
	not contains(decide(pod, reject_all).message, "override")
}

# --- No worse than what runs ---

newest := "sha256:ef00000000000000000000000000000000000000000000000000000000000000"

newer := {"container": "web", "image": "bad:2", "normal": "docker.io/library/bad:2", "name": "docker.io/library/bad", "digest": newest}

# upgrade is an update from bad:1 (Fail, 9.8) to an image with these scores.
upgrade(new, old, scores, change) := decide(
	update(deployment, {"containers": [new], "oldContainers": [old], "oldImages": [old.image]}),
	object.union(
		object.union(reject_all, {
			"settings": {"allow_no_worse": true},
			"images": {"ef": {newest: {"at": at, "db": built, "ids": [sprintf("CVE-%v", [i]) | some i, _ in scores], "s": scores}}},
		}),
		change,
	),
)

test_no_worse_is_let_through if {
	d := upgrade(newer, bad, [9.8], {})
	d.allowed
	d.images[0].action == "Allow"
	d.images[0].policy == "all"
	d.images[0].reason == "all rule 1 would reject it; it is no worse than bad:1, which it replaces (result Fail, maximum CVSS 9.8, last scanned 2026-05-31T12:00:00)"
	upgrade(newer, bad, [7.5, 7], {}).allowed
	upgrade(newer, bad, [], {}).allowed
}

test_worse_is_not if {
	not upgrade(newer, bad, [9.9], {}).allowed
	not upgrade(newer, changed(bad, {"digest": other, "image": "bad@x"}), [1], {"hits": {"bad:2": {0}, "bad@x": {0}}}).allowed
}

test_tolerance_is_asked_for if {
	not upgrade(newer, bad, [9], {"settings": {"allow_no_worse": false}}).allowed
}

test_tolerance_is_for_the_same_container_and_repository if {
	not upgrade(newer, changed(bad, {"container": "other"}), [9], {}).allowed
	not upgrade(changed(newer, {"name": "docker.io/library/evil"}), bad, [9], {}).allowed
	not upgrade(object.remove(changed(newer, {"image": "ODD"}), ["name"]), object.remove(bad, ["name"]), [9], {"hits": {"ODD": {0}, "bad:1": {0}}}).allowed
}

test_tolerance_is_for_what_the_same_rule_rejects if {
	two := {"rules": [rule("all", 0, 1, "Reject", ["status"]), rule("all", 0, 2, "Reject", ["path"])], "hits": {"bad:1": {1}, "bad:2": {0}}}
	not upgrade(newer, bad, [9], two).allowed
	not upgrade(newer, bad, [9], {"rules": [rule("all", 0, 1, "Reject", []), rule("all", 0, 2, "Allow", [])], "hits": {"bad:1": {1}, "bad:2": {0}}}).allowed
}

test_no_tolerance_of_what_no_rule_rejects if {
	not upgrade(newer, bad, [9], {"hits": {"bad:1": set(), "bad:2": set()}}).allowed
	not upgrade(newer, bad, [9], {"rules": [rule("all", 0, 0, "Reject", [])]}).allowed
	not upgrade(newer, bad, [9], {"reject": {{"package": "p", "message": "no"}}}).allowed
}

test_no_tolerance_of_what_is_unknown if {
	unknown := {"digest": concat("", ["sha256:99", substring(digest, 9, -1)])}
	not upgrade(changed(newer, unknown), bad, [9], {}).allowed
	not upgrade(newer, changed(bad, unknown), [9], {}).allowed
}

test_no_tolerance_of_a_creation if {
	d := decide(
		changed(deployment, {"containers": [newer], "oldContainers": [bad], "hasOld": true}),
		object.union(reject_all, {"settings": {"allow_no_worse": true}, "images": {"ef": {newest: {"at": at, "db": built, "ids": [], "s": []}}}}),
	)
	not d.allowed
}
