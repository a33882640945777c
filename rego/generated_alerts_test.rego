# METADATA
# title: Stand-in for compiled alerts
# description: >-
#   Tests give data.assay.mock.alerts: the parameters of each alert, and the
#   fields of its keys as "by": each the name of a function and of a field.
package assay.generated.alerts

rules[name] := object.remove(rule, ["by"]) if some name, rule in data.assay.mock.alerts

hits[name][i] contains j if {
	some name, _ in data.assay.mock.alerts
	some i, e in data.assay.alerts.events
	e.at > data.assay.alerts.since[name]
	e.at <= input.now
	some j, _ in data.assay.alerts.instances(e)
}

keys[name] contains {"key": {field: value}, "event": i} if {
	some name, rule in data.assay.mock.alerts
	["values", field] = rule.by
	some i, _ in hits[name]
	some value in data.assay.alerts.values(data.assay.alerts.events[i], field)
}

keys[name] contains {"key": {field: value}, "event": i} if {
	some name, rule in data.assay.mock.alerts
	["list_values", field] = rule.by
	some i, _ in hits[name]
	some value in data.assay.alerts.list_values(data.assay.alerts.events[i], field)
}

keys[name] contains {"key": {field: value}, "event": i} if {
	some name, rule in data.assay.mock.alerts
	["instances", field] = rule.by
	some i, instances in hits[name]
	some j in instances
	n := data.assay.alerts.instances(data.assay.alerts.events[i])[j]
	some value in data.assay.alerts.values(n, field)
}
