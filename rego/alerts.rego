# METADATA
# title: Alerts
# description: >-
#   Which alerts fire over input.events (api.Event, times of fixed width) at the
#   moment input.now. The generated module holds the predicates and the keys.
package assay.alerts

import data.assay.generated.alerts as compiled

# METADATA
# title: firing
# description: The alerts that fire (api.Alert), sorted by name and key.
# entrypoint: true
firing := [alert | some [_, _, alert] in sort([[name, alert.key, alert] | some name; some alert in of_rule[name]])] if {
	# Times compare as text: a moment of another form gives no answer, not a wrong one.
	time.parse_rfc3339_ns(input.now)
	regex.match(`^.{29}Z$`, input.now)
}

# METADATA
# title: explain
# description: The alerts that fire, each rule's window, and the events that its query holds for.
# entrypoint: true
explain := {"firing": firing, "rules": {name: {"since": since[name], "events": [i | some i, _ in compiled.hits[name]]} |
	some name, _ in compiled.rules
}}

# METADATA
# description: since[name] is the start of a rule's window, which is outside it.
since[name] := time.format([time.parse_rfc3339_ns(input.now) - rule.lookback, "UTC", "2006-01-02T15:04:05.000000000Z"]) if {
	some name, rule in compiled.rules
}

# METADATA
# description: >-
#   The events, each with its time in fixed width as "at". The engine gives them
#   so (input.timed); for others they are made here.
events := input.events if {
	input.timed
} else := [object.union(e, {"at": time.format([time.parse_rfc3339_ns(e.time), "UTC", "2006-01-02T15:04:05.000000000Z"])}) |
	some e in input.events
]

# METADATA
# description: An event without instances is tried once, with no instance.
instances(event) := event.instances if {
	count(event.instances) > 0
} else := [{}]

# METADATA
# description: values(x, field) are what a field contributes to keys, as texts.
values(x, field) := {text(member) | some member in x[field]} if {
	is_array(x[field])
} else := {text(x[field])} if {
	field in object.keys(x)
} else := {""}

# METADATA
# description: list_values(x, field) are the members of a list, none when it is absent.
list_values(x, field) := {text(member) | some member in x[field]}

text(x) := x if {
	is_string(x)
} else := concat(", ", [text_of_member(m) | some m in x]) if {
	is_array(x)
} else := trim_right(sprintf("%.15f", [x]), "0") if {
	# Without an exponent, as other numbers.
	is_number(x)
	abs(x) < 0.0001
	x != 0
} else := sprintf("%v", [x])

text_of_member(m) := m if {
	is_string(m)
} else := json.marshal(m)

# METADATA
# description: >-
#   The rules to judge: all, or those that input.rules lists. A store that has
#   grouped the events itself gives input.groups[name], a list of {"key", "count"}
#   with, for a metric of a field, "taken" (how many values) and "min", "max" and
#   "sum" of them in billionths. Such a rule does not look at input.events.
rules[name] := rule if {
	some name, rule in compiled.rules
	asked(name)
}

asked(name) if name in input.rules

asked(_) if not input.rules

# of_key[name][key] is the set of events behind a key.
of_key[name][key] contains row.event if {
	some name, rows in compiled.keys
	some row in rows
	key := row.key
}

# The groups of a store.
of_rule[name] contains alert(name, rule, key, of.count, measure) if {
	some name, rule in rules
	some of in input.groups[name]
	measure := measures(rule, of)
	key := {f: key_text(v) | some f, v in of.key}
}

# A metric, or one alert per key.
of_rule[name] contains alert(name, rule, key, of.count, measure) if {
	some name, rule in rules
	rule.aggregated
	not input.groups[name]
	some key, events in of_key[name]
	of := summary(rule, events)
	measure := measures(rule, of)
}

# A metric over all events, of which there may be none.
of_rule[name] contains alert(name, rule, {}, of.count, measure) if {
	some name, rule in rules
	not rule.aggregated
	rule.metric != ""
	not input.groups[name]
	of := summary(rule, {i | some i, _ in compiled.hits[name]})
	measure := measures(rule, of)
}

# event_fields(event) are what a template may name where an alert is about one event: of instances, what any has.
event_fields(event) := object.union(
	{f: text(v) | some f, v in event},
	{f: concat(", ", {i[f] | some i in event.instances; i[f] != ""}) |
		some f in ["cluster", "namespace", "pod", "container", "node"]
	},
)

key_text(v) := "" if {
	is_null(v)
} else := text(v)

summary(rule, events) := {"count": count(events)} if {
	rule.metric in {"", "count"}
} else := {"count": count(events), "taken": count(taken), "min": min(taken), "max": max(taken), "sum": sum(taken)} if {
	# Of no values there is no minimum, hence no summary, and nothing fires.
	taken := [round(v * 1000000000) | some i in events; v := data.assay.alerts.events[i][rule.field]; is_number(v)]
}

# One alert per event.
of_rule[name] contains alert if {
	some name, rule in rules
	not rule.aggregated
	rule.metric == ""
	some i, _ in compiled.hits[name]
	event := data.assay.alerts.events[i]
	fields := event_fields(event)
	alert := {
		"name": name,
		"severity": rule.severity,
		"key": {f: object.get(fields, f, "") | some f in ["image", "digest", "time"]},
		"count": 1,
		"summary": rendered(rule.summary, fields),
		"description": rendered(rule.description, fields),
	}
}

alert(name, rule, key, n, measure) := object.union(measure, {
	"name": name,
	"severity": rule.severity,
	"key": key,
	"count": n,
	"summary": rendered(rule.summary, variables),
	"description": rendered(rule.description, variables),
}) if {
	variables := object.union(key, {rule.metric: text(v) | some v in measure})
}

# measures(rule, of) has the value of the metric, if there is one, where the condition holds.
measures(rule, _) := {} if rule.metric == ""

measures(rule, of) := {"value": value} if {
	value := measured(rule.metric, of)
	holds(rule.condition, value, rule.threshold)
}

measured("count", of) := of.count

measured(metric, of) := six_decimals(of[metric], 1) if {
	metric in {"min", "max", "sum"}
	of.taken > 0
}

measured("avg", of) := six_decimals(of.sum, of.taken) if of.taken > 0

# six_decimals(n, d) is n billionths by d, half a millionth rounded up. In whole
# numbers: a quotient is not always the decimal that it looks like, and "eq" must
# hold where it is seen to.
six_decimals(n, d) := to_number(trim_right(trim_right(decimal, "0"), ".")) if {
	twice := (2 * n) + (1000 * d)
	millionths := (twice - (twice % (2000 * d))) / (2000 * d)
	rest := millionths % 1000000
	decimal := sprintf("%d.%06d", [(millionths - rest) / 1000000, rest])
}

holds("eq", value, threshold) if value == threshold

holds("not_eq", value, threshold) if value != threshold

holds("lt", value, threshold) if value < threshold

holds("lte", value, threshold) if value <= threshold

holds("gt", value, threshold) if value > threshold

holds("gte", value, threshold) if value >= threshold

# A template is a list of texts and {"field": name}.
rendered(template, variables) := concat("", [piece(part, variables) | some part in template])

piece(part, _) := part if is_string(part)

piece(part, variables) := object.get(variables, part.field, "")
