package assay.alerts_test

import data.assay.alerts

now := "2026-06-01T00:00:00.000000000Z"

# alert is what compilation gives for one that has only a description.
alert := {
	"severity": 50, "lookback": 600000000000, "summary": ["s"], "description": ["d"],
	"aggregated": false, "metric": "", "field": "", "condition": "", "threshold": 0,
}

event := {
	"time": "2026-05-31T23:59:00Z", "image": "nginx:1", "digest": "sha256:ab", "registry": "docker.io", "changed": true,
	"max_cvss_score": 9.8, "cve": ["CVE-1", "CVE-2"], "package": [], "instances": [],
}

fire(table, events) := fired if {
	fired := alerts.firing with input as {"now": now, "events": events}
		with data.assay.mock.alerts as table
}

one(change, events) := fire({"a": object.union(alert, change)}, events)

scored(score) := object.union(event, {"max_cvss_score": score})

values(list) := [a.value | some a in list]

# --- Without metric ---

test_one_alert_per_event if one({"summary": [{"field": "image"}, " has ", {"field": "cve"}]}, [event]) == [{
	"name": "a", "severity": 50, "count": 1, "summary": "nginx:1 has CVE-1, CVE-2", "description": "d",
	"key": {"image": "nginx:1", "digest": "sha256:ab", "time": "2026-05-31T23:59:00Z"},
}]

test_no_events if {
	one({}, []) == []
	one({"aggregated": true, "by": ["values", "registry"]}, []) == []
	fire({}, [event]) == []
}

test_absent_members_of_the_key_are_empty if {
	one({}, [object.remove(event, ["digest", "image"])])[0].key == {"image": "", "digest": "", "time": "2026-05-31T23:59:00Z"}
}

# --- Windows ---

in_window(time) := count(one({}, [object.union(event, {"time": time})])) == 1

test_window_edges if {
	not in_window("2026-05-31T23:50:00Z")
	in_window("2026-05-31T23:50:00.000000001Z")
	in_window("2026-06-01T00:00:00Z")
	not in_window("2026-06-01T00:00:00.000000001Z")
}

test_window_of_times_elsewhere if {
	in_window("2026-06-01T02:00:00+02:00")
	not in_window("2026-06-01T02:00:01+02:00")
	not in_window("2026-05-31T18:50:00-05:00")
	in_window("2026-05-31T18:50:00.5-05:00")
}

test_each_alert_has_its_window if {
	table := {"short": object.union(alert, {"lookback": 60000000000}), "long": object.union(alert, {"lookback": 86400000000000})}
	[a.name | some a in fire(table, [event])] == ["long"]
}

test_times_that_are_made_already if {
	fired := alerts.firing with input as {"now": now, "timed": true, "events": [object.union(event, {"at": "2026-05-31T23:59:00.000000000Z"})]}
		with data.assay.mock.alerts as {"a": alert}
	count(fired) == 1
}

# --- Metrics ---

metric(name, scores) := values(one({"metric": name, "field": "max_cvss_score", "condition": "gte", "threshold": -100}, [scored(s) | some s in scores]))

test_metrics if {
	metric("min", [7, 9.8, 3]) == [3]
	metric("max", [7, 9.8, 3]) == [9.8]
	metric("sum", [7, 9.8, 3.1]) == [19.9]
	metric("avg", [7, 9]) == [8]
	metric("count", [7, 9, 1]) == [3]
}

test_six_decimals if {
	metric("avg", [1, 1, 2]) == [1.333333]
	metric("avg", [2, 2, 1]) == [1.666667]
	metric("avg", [0.1, 0.1]) == [0.1]
	metric("sum", [0.1, 0.2]) == [0.3]
	metric("sum", [5, 5.5]) == [10.5]
	metric("avg", [100, 300]) == [200]
	metric("avg", [0, 0.0000003]) == [0]
	metric("avg", [0, 0]) == [0]
}

test_rounded_before_it_is_compared if {
	third := {"metric": "avg", "field": "max_cvss_score", "threshold": 1.333333}
	events := [scored(1), scored(1), scored(2)]
	count(one(object.union(third, {"condition": "eq"}), events)) == 1
	count(one(object.union(third, {"condition": "gt"}), events)) == 0
}

test_absent_fields_are_left_out if {
	none := object.remove(event, ["max_cvss_score"])
	rule := {"metric": "avg", "field": "max_cvss_score", "condition": "gt", "threshold": 0}
	fired := one(rule, [scored(8), none, object.union(event, {"max_cvss_score": null})])
	values(fired) == [8]
	fired[0].count == 3
	one(rule, [none]) == []
}

test_over_nothing if {
	one({"metric": "count", "condition": "eq"}, []) == [{"name": "a", "severity": 50, "key": {}, "count": 0, "value": 0, "summary": "s", "description": "d"}]
	one({"metric": "count", "condition": "gt"}, []) == []
	every name in ["min", "max", "sum", "avg"] {
		one({"metric": name, "field": "max_cvss_score", "condition": "gte"}, []) == []
	}
	one({"metric": "count", "condition": "eq", "aggregated": true, "by": ["values", "registry"]}, []) == []
}

# --- Conditions ---

conditions := {
	"eq": {2}, "not_eq": {1, 3}, "lt": {1}, "lte": {1, 2}, "gt": {3}, "gte": {2, 3},
}

test_conditions if {
	every name, holding in conditions {
		holding == {n |
			some n in {1, 2, 3}
			count(one({"metric": "count", "condition": name, "threshold": 2}, [event | some i in numbers.range(1, n)])) == 1
		}
	}
}

# --- Keys ---

keyed(by, events) := [[a.key, a.count] | some a in one({"aggregated": true, "by": by}, events)]

test_key_of_a_field if {
	keyed(["values", "registry"], [event, event, object.union(event, {"registry": "quay.io"})]) == [[{"registry": "docker.io"}, 2], [{"registry": "quay.io"}, 1]]
	keyed(["values", "tag"], [event]) == [[{"tag": ""}, 1]]
	keyed(["values", "changed"], [event, object.union(event, {"changed": false})]) == [[{"changed": "false"}, 1], [{"changed": "true"}, 1]]
	keyed(["values", "max_cvss_score"], [event, scored(7)]) == [[{"max_cvss_score": "7"}, 1], [{"max_cvss_score": "9.8"}, 1]]
}

test_key_of_a_list if {
	second := object.union(event, {"cve": ["CVE-2", "CVE-2", "CVE-3"]})
	every function in ["values", "list_values"] {
		keyed([function, "cve"], [event, second]) == [[{"cve": "CVE-1"}, 1], [{"cve": "CVE-2"}, 2], [{"cve": "CVE-3"}, 1]]
		keyed([function, "package"], [event]) == []
	}
	keyed(["list_values", "cve"], [object.remove(event, ["cve"])]) == []
}

test_key_of_instances if {
	running := object.union(event, {"instances": [{"namespace": "a", "pod": "p"}, {"namespace": "b"}, {"namespace": "a", "pod": "q"}]})
	keyed(["instances", "namespace"], [running]) == [[{"namespace": "a"}, 1], [{"namespace": "b"}, 1]]
	keyed(["instances", "pod"], [running]) == [[{"pod": ""}, 1], [{"pod": "p"}, 1], [{"pod": "q"}, 1]]
	keyed(["instances", "namespace"], [event]) == [[{"namespace": ""}, 1]]
	keyed(["instances", "namespace"], [object.remove(event, ["instances"])]) == [[{"namespace": ""}, 1]]
}

test_metric_of_each_key if {
	rule := {"aggregated": true, "by": ["values", "registry"], "metric": "max", "field": "max_cvss_score", "condition": "gt", "threshold": 8, "summary": [{"field": "registry"}, ": ", {"field": "max"}]}
	fired := one(rule, [event, scored(7), object.union(event, {"registry": "quay.io", "max_cvss_score": 7.9})])
	fired == [{"name": "a", "severity": 50, "key": {"registry": "docker.io"}, "value": 9.8, "count": 2, "summary": "docker.io: 9.8", "description": "d"}]
}

test_sorted_by_name_then_key if {
	table := {name: object.union(alert, {"aggregated": true, "by": ["values", "registry"]}) | some name in ["b", "a"]}
	events := [object.union(event, {"registry": r}) | some r in ["z", "y"]]
	[[a.name, a.key.registry] | some a in fire(table, events)] == [["a", "y"], ["a", "z"], ["b", "y"], ["b", "z"]]
}

# --- Templates ---

summary(template, change) := one({"summary": template}, [object.union(event, change)])[0].summary

test_templates if {
	summary([], {}) == ""
	summary(["just text"], {}) == "just text"
	summary([{"field": "nosuch"}, "|", {"field": "max_cvss_score"}, "|", {"field": "changed"}], {}) == "|9.8|true"
	summary([{"field": "package"}], {}) == ""
	summary([{"field": "cve"}], {"cve": ["b", "a"]}) == "b, a"
	summary(
		[{"field": "namespace"}, " ", {"field": "node"}, " ", {"field": "pod"}],
		{"instances": [{"namespace": "b", "node": "n"}, {"namespace": "a", "node": ""}, {"namespace": "b"}]},
	) == "a, b n "
	summary([{"field": "instances"}], {"instances": [{"namespace": "a", "pod": "p"}]}) == `{"namespace":"a","pod":"p"}`
	summary(["$", "{", {"field": "image"}, "}"], {"image": "${digest}"}) == "${${digest}}"
}

test_template_of_a_metric if {
	one({"metric": "count", "condition": "gt", "summary": [{"field": "count"}, " scans"]}, [event, event])[0].summary == "2 scans"
	one({"metric": "avg", "field": "max_cvss_score", "condition": "gt", "summary": [{"field": "avg"}]}, [scored(1), scored(1), scored(2)])[0].summary == "1.333333"
}

# --- Explain ---

test_explain if {
	explained := alerts.explain with input as {"now": now, "events": [object.union(event, {"time": "2026-01-01T00:00:00Z"}), event]}
		with data.assay.mock.alerts as {"a": alert, "none": object.union(alert, {"lookback": 1})}
	count(explained.firing) == 1
	explained.rules == {
		"a": {"since": "2026-05-31T23:50:00.000000000Z", "events": [1]},
		"none": {"since": "2026-05-31T23:59:59.999999999Z", "events": []},
	}
}

# --- Groups that a store has made ---

grouped(change, groups) := fired if {
	fired := alerts.firing with input as {"now": now, "events": [event], "groups": {"a": groups}}
		with data.assay.mock.alerts as {"a": object.union(alert, change)}
}

measure(metric, threshold) := {"metric": metric, "field": "epss", "condition": "gt", "threshold": threshold}

test_groups_take_the_place_of_events if {
	grouped({"aggregated": true, "by": ["values", "registry"], "summary": [{"field": "kev"}]}, [
		{"key": {"kev": true}, "count": 3}, {"key": {"kev": null}, "count": 2},
	]) == [
		{"name": "a", "severity": 50, "count": 2, "summary": "", "description": "d", "key": {"kev": ""}},
		{"name": "a", "severity": 50, "count": 3, "summary": "true", "description": "d", "key": {"kev": "true"}},
	]
	grouped({"aggregated": true, "by": ["values", "registry"]}, []) == []
	grouped(measure("count", 0), []) == []
}

test_groups_are_measured if {
	of := {"key": {}, "count": 4, "taken": 3, "min": 100000000, "max": 900000000, "sum": 2000000000}
	values(grouped(measure("count", 3), [of])) == [4]
	values(grouped(measure("min", 0), [of])) == [0.1]
	values(grouped(measure("max", 0), [of])) == [0.9]
	values(grouped(measure("sum", 0), [of])) == [2]
	values(grouped(measure("avg", 0), [of])) == [0.666667]
	grouped(measure("avg", 0.666667), [of]) == []
}

test_groups_without_values_do_not_fire if {
	every metric in ["min", "max", "sum", "avg"] {
		grouped(measure(metric, -1), [{"key": {}, "count": 4, "taken": 0}]) == []
	}
}

test_rules_that_are_asked_for if {
	both := {"a": alert, "b": alert}
	judged := [a.name |
		some a in alerts.firing with input as {"now": now, "events": [event], "rules": ["b", "c"]}
			with data.assay.mock.alerts as both
	]
	judged == ["b"]
	alerts.firing == [] with input as {"now": now, "events": [event], "rules": []} with data.assay.mock.alerts as both
}

test_numbers_as_texts if {
	texts := {value: text |
		some value in [0, 1, 9.8, 0.0001, 0.00043, 0.00001, 0.000000001]
		change := {"aggregated": true, "by": ["values", "epss"]}
		text := one(change, [object.union(event, {"epss": value})])[0].key.epss
	}
	texts == {
		0: "0", 1: "1", 9.8: "9.8", 0.0001: "0.0001", 0.00043: "0.00043",
		0.00001: "0.00001", 0.000000001: "0.000000001",
	}
}

averaged(scores) := fired[0].value if {
	change := {"metric": "avg", "field": "max_cvss_score", "condition": "gte", "threshold": 0}
	fired := one(change, [object.union(scored(score), {"tag": i}) | some i, score in scores])
}

test_values_are_rounded_in_decimals if {
	averaged([0.76, 0.000003]) == 0.380002
	averaged([0.000001, 0.000002]) == 0.000002
	averaged([0.000000499]) == 0
	averaged([9.999999, 10]) == 10
	averaged([2.7, 0, 0]) == 0.9
}

# --- Each condition alone ---

# A moment of another form gives no answer, rather than that nothing fires.
test_moments_of_other_forms if {
	every value in [null, "", "2026-06-01T00:00:00Z", "2026-06-01T00:00:00.0000000+00:00", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxZ", "2026-13-01T00:00:00.000000000Z"] {
		not fires_at(value)
	}
	fires_at(now)
}

fires_at(value) if {
	alerts.firing with input as {"now": value, "events": [event]} with data.assay.mock.alerts as {"a": alert}
}

# The engine's moments are taken as they are.
test_events_with_their_moment if {
	timed := object.union(event, {"time": "not looked at", "at": "2026-05-31T23:59:00.000000000Z"})
	fired := alerts.firing with input as {"now": now, "events": [timed], "timed": true} with data.assay.mock.alerts as {"a": alert}
	count(fired) == 1
}

# Keys count for an alert that aggregates alone.
test_keys_without_aggregation if {
	fired := one({"by": ["values", "registry"]}, [event])
	[object.get(a.key, "image", "none") | some a in fired] == ["nginx:1"]
}

test_groups_without_values_are_not_nothing if {
	every metric in ["min", "max", "sum", "avg"] {
		grouped(measure(metric, -1), [{"key": {}, "count": 4, "taken": 0, "min": 0, "max": 0, "sum": 0}]) == []
	}
}

test_one_value_and_one_instance if {
	values(grouped(measure("sum", 0), [{"key": {}, "count": 1, "taken": 1, "sum": 2000000000}])) == [2]
	fired := one({"aggregated": true, "by": ["instances", "pod"]}, [object.union(event, {"instances": [{"pod": "p"}]})])
	[a.key | some a in fired] == [{"pod": "p"}]
}

# Values are written without needless digits.
test_values_are_short if {
	[json.marshal(averaged(list)) | some list in [[2.7, 0, 0], [2, 2], [10], [0]]] == ["0.9", "2", "10", "0"]
}
