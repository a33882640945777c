package assay.fresh_test

import data.assay.fresh

admits := {"kind": "Pod", "name": "web", "allowed": true, "judged": true, "images": [], "now": "2026-06-01T00:10:00.000000000Z"}

head := {"time": "2026-06-01T00:00:00.000000000Z", "until": "2026-06-01T00:10:00.000000001Z", "sequence": 7}

decided(of, change) := d if {
	d := fresh.decision with data.assay.admission.decision as object.union(admits, of)
		with data.assay.head as object.union(head, change)
}

test_until_its_end_a_head_changes_nothing if {
	decided({}, {}) == admits
}

test_from_its_end_on_what_is_admitted_is_refused if {
	every until in ["2026-06-01T00:10:00.000000000Z", "2026-06-01T00:09:59.999999999Z", "2025-12-31T23:59:59.999999999Z", ""] {
		d := decided({}, {"until": until})
		not d.allowed
		object.remove(d, ["allowed", "message"]) == object.remove(admits, ["allowed"])
		d.message == sprintf("Pod web: the policies and scan results are of 2026-06-01T00:00:00.000000000Z, and were good until %v", [until])
	}
}

test_an_end_that_is_no_moment_is_past if {
	every until in [null, true, 9e9, ["9"], {"a": 1}] {
		not decided({}, {"until": until}).allowed
	}
}

test_without_a_head_what_is_admitted_is_refused if {
	d := fresh.decision with data.assay.admission.decision as admits
	not d.allowed
	d.message == "Pod web: there is no head of the bundles, so that nobody knows how old they are"
}

test_what_is_rejected_not_judged_or_overridden_stays if {
	every of in [{"allowed": false, "message": "no"}, {"judged": false, "reason": "kind"}, {"override": {"by": "alice"}}] {
		decided(of, {"until": "2026-01-01T00:00:00.000000000Z"}) == object.union(admits, of)
	}
}

test_any_input_has_a_decision if {
	not fresh.decision.allowed with input as "nonsense"
}
