# METADATA
# title: Admission of a flat review
# description: >-
#   Decides for one resource in the flat form (api.Review). Which images are
#   judged, which rule decides, and what a rejection says: all of it is here,
#   for every surface.
package assay.judge

import data.assay.classification
import data.assay.generated.custom
import data.assay.generated.policies
import data.assay.generated.settings

decision := object.union_n([
	{
		"kind": input.kind,
		"namespace": input.namespace,
		"name": input.name,
		"allowed": allowed,
		"judged": judged,
		"images": images,
		"now": input.now,
		"revision": revision,
	},
	{"reason": reason | reason := unjudged},
	{"message": concat("\n", messages) | not allowed},
	{"warnings": notices.Warn | count(notices.Warn) > 0},
	{"audit": notices.Audit | count(notices.Audit) > 0},
]) if {
	well_formed
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
	is_object(input.labels)
	is_object_or_null(input.namespaceLabels)
	time.parse_rfc3339_ns(input.now)
	count(input.now) == 30
}

is_object_or_null(x) if is_object(x)

is_object_or_null(null)

revision := data.assay.revision

default judged := false

judged if not unjudged

# What is malformed is judged, and refused, without looking at an image.
judging if {
	judged
	not malformed
}

malformed if count(input.malformed) > 0

default allowed := false

allowed if unjudged

allowed if {
	judging
	every image in images {
		image.action == "Allow"
	}
	count(refusals) == 0
}

# --- Which images are judged ---

builtin_kinds := {
	"/Pod", "/ReplicationController",
	"apps/ReplicaSet", "apps/Deployment", "apps/StatefulSet", "apps/DaemonSet",
	"batch/Job", "batch/CronJob",
}

kind_id := concat("/", [input.group, input.kind])

is_judged_kind(id) if id in builtin_kinds

is_judged_kind(id) if settings.kinds[id]

unjudged := out_of_scope

unjudged := settled if {
	not out_of_scope
	not malformed
}

out_of_scope := sprintf("%v is not judged", [input.operation]) if {
	input.operation in {"CONNECT", "DELETE"}
} else := sprintf("subresource %v is not judged", [input.subresource]) if {
	not input.subresource in {"", "ephemeralcontainers"}
} else := sprintf("kind %v is not judged", [kind_id]) if {
	not is_judged_kind(kind_id)
} else := sprintf("namespace %v is excluded by AdmissionSettings", [input.namespace]) if {
	input.namespace in settings.excluded
}

# What the lifecycle of the object makes unnecessary to judge.
settled := sprintf("made by %v for a judged %v", [input.user, input.owner.kind]) if {
	input.operation == "CREATE"
	made_by_controller
} else := "the object is being deleted, and no image is new" if {
	input.operation == "UPDATE"
	input.oldDeleting
	count(new_containers) == 0
} else := "no image is new" if {
	input.operation == "UPDATE"
	kind_id == "/Pod"
	input.hasOld
	count(new_containers) == 0
} else := "the pod template is unchanged" if {
	input.operation == "UPDATE"
	kind_id != "/Pod"
	input.hasOld
	not input.templateChanged
}

# An owner reference alone proves nothing, since any user can write one: the
# request must come from an identity that makes resources for that kind of owner.
made_by_controller if {
	owner := concat("/", [input.owner.group, input.owner.kind])
	owner in builtin_kinds
	input.user in settings.controllers
}

made_by_controller if {
	owner := concat("/", [input.owner.group, input.owner.kind])
	input.user in settings.kinds[owner].controllers
}

new_containers := [c |
	some c in input.containers
	not c.image in input.oldImages
]

default subjects := []

subjects := new_containers if {
	judging
	input.operation == "UPDATE"
	kind_id == "/Pod"
	input.hasOld
} else := input.containers if {
	judging
}

# --- What the policies say of each ---

# The cut-off moments of imageLastScan, once for a review.
cuts[span] := at if {
	some span, parts in policies.spans
	[years, months, days] := parts
	moment := time.add_date(time.parse_rfc3339_ns(input.now), 0 - years, 0 - months, 0 - days)
	at := time.format([moment, "UTC", "2006-01-02T15:04:05.000000000Z"])
}

statuses := [object.union({"result": "Unknown"}, status_of(c)) | some c in subjects]

status_of(c) := classification.status(c) if {
	c.name
} else := {"result": "Unknown"}

facts := [object.union_n([
	{"image": c.image, "normal": c.normal, "forms": {c.image, c.normal}, "result": s.result, "cuts": cuts},
	object.filter(s, ["at"]),
]) |
	some i, c in subjects
	s := statuses[i]
]

hits := [h |
	some f in facts
	h := policies.hits with input.c as f
]

notes := [h |
	policies.has_notes
	some f in facts
	h := policies.notes with input.c as f
]

# decider[i] is the first rule, in the order of policies and rules, that matched.
decider[i] := min(h) if some i, h in hits

images := [image |
	some i, c in subjects
	image := object.union_n([
		{
			"container": c.container,
			"image": c.image,
			"action": action(i),
			"result": statuses[i].result,
			"cves": array.slice(guilty[i], 0, 10),
		},
		{name: statuses[i][key] | some key, name in {"digest": "digest", "max": "max_cvss", "at": "scanned_at"}},
		{"more_cves": n | n := count(guilty[i]) - 10; n > 0},
		{"policy": rule.policy | rule := deciding[i]},
		{"rule": rule.rule | rule := deciding[i]; rule.rule > 0},
		{"message": message(i) | action(i) == "Reject"},
	])
]

deciding[i] := policies.rules[decider[i]] if {
	some i, _ in subjects
	count(refused(i)) == 0
}

action(i) := "Reject" if {
	count(refused(i)) > 0
} else := policies.rules[decider[i]].action if {
	decider[i]
} else := settings.default_action

guilty := [[v.id | some v in list] | some list in findings]

findings := [classification.over_threshold(s) | some s in statuses]

# --- A user's own refusals ---

refusals contains r if {
	count(input.malformed) == 0
	some r in custom.reject with input.containers as enriched
}

# METADATA
# description: >-
#   refusal(package, reason) is a reason of a user's rule in one form: a reason is a
#   text, or an object with a message and, to refuse one image only, a container.
refusal(name, reason) := {"package": name, "message": reason} if is_string(reason)

refusal(name, reason) := object.union({"message": json.marshal(reason)}, object.union(reason, {"package": name})) if {
	is_object(reason)
}

refusal(name, reason) := {"package": name, "message": json.marshal(reason)} if {
	not is_string(reason)
	not is_object(reason)
}

enriched := [object.union(c, object.filter(statuses[i], ["result", "digest", "max", "at"])) |
	some i, c in subjects
]

refused(i) := [r |
	some r in refusals
	object.get(r, "container", subjects[i].container) == subjects[i].container
]

# --- What a rejected user reads ---

messages contains m if {
	some image in images
	image.action == "Reject"
	m := image.message
}

messages contains m if {
	some r in refusals
	every i, _ in subjects {
		not r in refused(i)
	}
	m := sprintf("%v %v: %v (package %v)", [input.kind, input.name, r.message, r.package])
}

messages contains sprintf("%v %v: malformed: %v", [input.kind, input.name, m]) if some m in input.malformed

message(i) := concat("", [subjects[i].image, " (container ", subjects[i].container, "): ", cause(i)])

cause(i) := concat("; ", [sprintf("%v (package %v)", [r.message, r.package]) | some r in refused(i)]) if {
	count(refused(i)) > 0
} else := sprintf("policy %v rejects it: the labels of namespace %v are not known; to admit it, make the namespace's labels known", [rule.policy, input.namespace]) if {
	rule := policies.rules[decider[i]]
	rule.rule == 0
} else := sprintf("policy %v rule %v rejects it: %v; to admit it, %v", [rule.policy, rule.rule, describe(i), remedy(rule, i)]) if {
	rule := policies.rules[decider[i]]
} else := sprintf("no policy allows it: %v; to admit it, a policy must have a rule that allows it", [describe(i)])

describe(i) := concat("", [
	sprintf("result %v", [statuses[i].result]),
	concat("", [sprintf(", maximum CVSS %v", [m]) | m := statuses[i].max]),
	concat("", [sprintf(", last scanned %v", [t]) | t := substring(statuses[i].at, 0, 19)]),
	listed(i),
])

listed(i) := "" if {
	count(findings[i]) == 0
} else := concat("", [": ", concat(", ", [cited(v) | some v in array.slice(findings[i], 0, 10)]), more(i)])

cited(v) := sprintf("%v (%v)", [v.id, v.score]) if {
	v.score
} else := v.id

more(i) := sprintf(" and %v more", [n]) if {
	n := count(findings[i]) - 10
	n > 0
} else := ""

remedy(rule, i) := "have it scanned, so that its result is known" if {
	"status" in rule.criteria
	statuses[i].result == "Unknown"
} else := "upgrade the packages with these CVEs, or add exceptions for them" if {
	"status" in rule.criteria
	count(findings[i]) > 0
} else := "have it scanned again" if {
	"time" in rule.criteria
} else := "use an image that this rule does not name" if {
	"path" in rule.criteria
} else := "a policy or rule before it must allow the image"

# --- Policies in Warn and Audit mode ---

notices := {mode: reported(mode) | some mode in ["Warn", "Audit"]}

# The first matching rule of each such policy, unless an enforcing policy
# before it decided.
reported(mode) := [text |
	some i, h in notes
	some policy in sort({policies.rules[n].position | some n in h})
	first := min({n | some n in h; policies.rules[n].position == policy})
	rule := policies.rules[first]
	rule.mode == mode
	rule.action == "Reject"
	not decided_before(i, first)
	text := sprintf("%v (container %v): policy %v (%v) would reject it%v: %v", [subjects[i].image, subjects[i].container, rule.policy, mode, by_rule(rule), describe(i)])
]

decided_before(i, n) if decider[i] < n

by_rule(rule) := sprintf(" by rule %v", [rule.rule]) if {
	rule.rule > 0
} else := ", since the namespace's labels are not known"

# --- Explain ---

explained := [object.union_n([
	object.filter(facts[i], ["image", "normal", "result", "at"]),
	{
		"container": c.container,
		"matched": [policies.rules[n] | some n in sort(hits[i])],
		"noted": [policies.rules[n] | some n in sort({m | some m in notes[i]})],
		"vulnerabilities": findings[i],
	},
]) |
	some i, c in subjects
]
