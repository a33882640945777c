# METADATA
# title: Admission of a flat review
# description: >-
#   Decides for one resource in the flat form (api.Review), all of whose members are
#   there and of their types: the engine's always are, and package assay.admission
#   sees to the others. Which images are judged, which rule decides, and what a
#   rejection says: all of it is here, for every surface.
package assay.judge

import data.assay.classification
import data.assay.generated.custom
import data.assay.generated.policies
import data.assay.generated.settings

decision := object.union(
	{
		"kind": input.kind,
		"namespace": input.namespace,
		"name": input.name,
		"allowed": allowed,
		"judged": judged,
		"images": images,
		"now": input.now,
		"revisions": revisions,
	},
	remarks,
) if {
	# Not one verdict is missing, whatever is undefined: what is not known must not count as allowed.
	count(verdicts) == count(subjects)
}

remarks["reason"] := unjudged

remarks["message"] := concat("\n", messages) if not allowed

remarks["override"] := {"by": input.user, "reason": input.override.reason, "until": input.override.until} if overridden

remarks["warnings"] := texts if {
	policies.has_notes
	texts := reported("Warn")
	count(texts) > 0
}

remarks["audit"] := texts if {
	policies.has_notes
	texts := reported("Audit")
	count(texts) > 0
}

# The revisions of the bundles: anyone can say which data a decision saw.
default revisions := {}

revisions := data.assay.revisions

default judged := false

judged if not unjudged

# What is malformed is judged, and refused, without looking at an image.
judging if {
	judged
	clean
}

clean if {
	count(input.malformed) == 0
	understood
	placed
}

# understood holds where it is known what is asked: nothing else can be out of scope.
understood if {
	input.operation in operations
	input.kind != ""
}

operations := {"CREATE", "UPDATE", "DELETE", "CONNECT"}

# placed holds where a namespace is named, or may be missing.
placed if input.namespace != ""

placed if not kind_id in builtin_kinds

# faults are what the adapter found in the object, and what the request itself lacks.
faults contains fault if some fault in input.malformed

faults contains "the kind is missing" if input.kind == ""

faults contains "the operation must be CREATE, UPDATE, DELETE or CONNECT" if not input.operation in operations

faults contains "the namespace is missing" if not placed

default allowed := false

allowed if unjudged

allowed if admitted

allowed if overridden

admitted if {
	judging
	every v in verdicts {
		v.action == "Allow"
	}
	count(refusals) == 0
}

# --- Break-glass ---

# overridden holds where a right, a reason and an end admit what policies reject.
overridden if {
	glass_broken
	judged
	not admitted
}

glass_broken if {
	input.override.granted == true
	input.override.reason != ""
	input.override.until > input.now
}

messages contains sprintf("the override does not count: %v", [fault]) if {
	is_object(input.override)
	not glass_broken
	fault := glass_fault
}

glass_fault := sprintf("%v does not have the verb override on containeradmissionpolicies.containersecurity.tigera.io in namespace %v", [input.user, input.namespace]) if {
	input.override.granted != true
} else := "the annotation assay.dev/override-reason is missing" if {
	input.override.reason == ""
} else := "the annotation assay.dev/override-until must be a moment in RFC 3339" if {
	input.override.until == ""
} else := sprintf("it ended at %v", [input.override.until])

# --- Which images are judged ---

# As api.BuiltinWorkloads has them.
builtin_kinds := {
	"/Pod", "/ReplicationController",
	"apps/DaemonSet", "apps/Deployment", "apps/ReplicaSet", "apps/StatefulSet",
	"batch/CronJob", "batch/Job",
	"extensions/DaemonSet", "extensions/Deployment", "extensions/ReplicaSet",
}

kind_id := concat("/", [input.group, input.kind])

is_judged_kind(id) if id in builtin_kinds

is_judged_kind(id) if settings.kinds[id]

unjudged := out_of_scope if understood

unjudged := settled if {
	not out_of_scope
	clean
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
	settings.children == "trusted"
	is_child
} else := sprintf("made by %v for a judged %v, whose pod template names all of its images", [input.user, input.owner.kind]) if {
	count(foreign_containers) == 0
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
	input.templateChanged == false
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

is_child if {
	input.operation == "CREATE"
	made_by_controller
}

# foreign_containers are those of a child whose image the pod template of its owner does not name.
# Where that is not known there are no such containers, and all are judged.
foreign_containers := [c |
	some c in input.containers
	not c.image in input.ownerImages
] if {
	settings.children == "sameImages"
	is_child
	is_array(input.ownerImages)
}

new_containers := [c |
	some c in input.containers
	not c.image in input.oldImages
] if {
	is_array(input.oldImages)
}

subjects := [] if {
	not judging
} else := foreign_containers if {
	true
} else := new_containers if {
	input.operation == "UPDATE"
	kind_id == "/Pod"
	input.hasOld
} else := input.containers

# --- What the policies say of each ---

# The cut-off moments of imageLastScan, once for a review: all of them, or none
# is known and nothing is decided. A number of days is a number of nanoseconds in UTC.
cuts := moments if {
	policies.spans
	now := time.parse_rfc3339_ns(input.now)
	moments := {span: time.format([moment(now, before), "UTC", "2006-01-02T15:04:05.000000000Z"]) | some span, before in policies.spans}
	count(moments) == count(policies.spans)
} else := {} if {
	not policies.spans
}

moment(now, before) := now - before if {
	is_number(before)
} else := time.add_date(now, 0 - before[0], 0 - before[1], 0 - before[2])

verdicts := [verdict(c) | some c in subjects]

# verdict(c) is what is decided of a container: "hits" are the rules that match, of
# which the first in the order of policies and rules decides, and "image" is what
# the decision shows. "forms" are the reference as written, as normalised and as
# canonical; "from" has the rest of each of them from the offsets at which patterns
# have literals, so that the rule index sees these.
verdict(c) := {"subject": c, "fact": fact, "status": status, "hits": hits, "action": ruling.action, "image": image} if {
	status := classification.status(c)
	fact := fact_of(c, status)
	hits := hits_of(fact)
	ruling := tolerated(c, status, ruling_of(c, hits))
	image := object.union_n([shown(c, status, ruling), status, ruling.by])
}

# --- By which labels selectors choose ---

# hits_of(fact) and notes_of(fact) are the rules that match what is known of an image: of policies
# whose selector matches the labels of the object or, where settings say so, those of one of its
# pod templates. Labels of different objects are never taken together.
hits_of(fact) := numbers if {
	not by_templates
	numbers := policies.hits with input.c as fact
} else := union({numbers |
	some labels in label_sets
	numbers := policies.hits with input.c as fact with input.labels as labels
}) if {
	label_sets
}

notes_of(fact) := numbers if {
	not by_templates
	numbers := policies.notes with input.c as fact
} else := union({numbers |
	some labels in label_sets
	numbers := policies.notes with input.c as fact with input.labels as labels
})

by_templates if settings.template_labels

# Undefined where the labels of templates are not known, so that nothing is decided.
label_sets := {input.labels} | {labels | some labels in input.templateLabels} if is_array(input.templateLabels)

fact_of(c, status) := {
	"forms": {written, normal},
	"from": {offset: {substring(written, offset, -1), substring(normal, offset, -1)} | some offset in policies.offsets},
	"result": status.result, "status": status, "cuts": cuts,
} if {
	written := c.image
	normal := c.normal
	startswith(normal, c.name) # it is canonical, as most are
} else := {
	"forms": forms,
	"from": {offset: {substring(form, offset, -1) | some form in forms} | some offset in policies.offsets},
	"result": status.result, "status": status, "cuts": cuts,
} if {
	forms := {c.image, c.normal, canonical(c)}
}

# canonical(c) is the reference under its canonical name, so that no spelling of a
# registry's host gets past a pattern. What does not parse has no name.
canonical(c) := c.normal if {
	not c.name
} else := concat("", [c.name, regex.replace(c.normal, `^.*/[^:@]*`, "")])

# --- No worse than what runs ---

# tolerated turns a rejection round where settings allow what is no worse than the
# image that it replaces.
tolerated(c, status, ruling) := {"action": "Allow", "by": ruling.by, "reason": reason} if {
	settings.allow_no_worse
	ruling.action == "Reject"
	ruling.rule > 0
	input.operation == "UPDATE"
	before := [b | some o in input.oldContainers; b := no_better(c, status, ruling, o)][0]
	reason := sprintf("%v rule %v would reject it; it is no worse than %v, which it replaces (%v)", [ruling.policy, ruling.rule, before.image, describe(c, before.status, [])])
} else := ruling

# no_better is the old container o where the same rule rejects it, and the new one
# is a build of the same repository whose result and maximum are no worse.
no_better(c, status, ruling, o) := {"image": o.image, "status": before} if {
	o.container == c.container
	o.name == c.name
	before := classification.status(o)
	known_rank[status.result] <= known_rank[before.result]
	no_higher(status, before)
	hits := hits_of(fact_of(o, before))
	ruling_of(o, hits).by == ruling.by
}

known_rank := {"Pass": 1, "Warn": 2, "Fail": 3}

no_higher(status, _) if not status.max_cvss

no_higher(status, before) if status.max_cvss <= before.max_cvss

# A user's own refusal comes before what policies say.
ruling_of(c, hits) := {"action": "Reject", "by": {}, "refusals": list} if {
	custom.present
	list := refused(c)
	count(list) > 0
} else := policies.rules[min(hits)] if {
	true
} else := {"action": settings.default_action, "by": {}}

images := [v.image | some v in verdicts]

# shown is what a decision says of an image beside its status; one that is refused
# is told its CVEs over the threshold, and why.
shown(c, status, ruling) := {"container": c.container, "image": c.image, "action": "Allow", "cves": []} if {
	ruling.action == "Allow"
	not ruling.reason
} else := {"container": c.container, "image": c.image, "action": "Allow", "cves": [], "reason": ruling.reason} if {
	ruling.action == "Allow"
} else := object.union(
	{
		"container": c.container, "image": c.image, "action": "Reject",
		"cves": [v.id | some v in array.slice(list, 0, 10)], "message": message(c, status, ruling, list),
	},
	{"more_cves": n | n := count(list) - 10; n > 0},
) if {
	list := classification.over_threshold(c, status)
}

# --- A user's own refusals ---

refusals contains r if {
	custom.present
	clean
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

enriched := [object.union(c, classification.status(c)) | some c in subjects]

refused(c) := [r |
	some r in refusals
	object.get(r, "container", c.container) == c.container
]

# --- What a rejected user reads ---

messages contains m if {
	some image in images
	image.action == "Reject"
	m := image.message
}

messages contains m if {
	some r in refusals
	every c in subjects {
		not r in refused(c)
	}
	m := sprintf("%v %v: %v (package %v)", [input.kind, input.name, r.message, r.package])
}

messages contains sprintf("%v %v: malformed: %v", [input.kind, input.name, m]) if some m in faults

# message tells why a container's image is refused, with its list of CVEs over the
# threshold, and what would turn it round.
message(c, status, ruling, list) := concat("", [c.image, " (container ", c.container, "): ", by_author(ruling), cause(c, status, ruling, list)])

# by_author is what the author of a policy says to who is refused by it.
by_author(ruling) := concat("", [ruling.message, "; "]) if {
	ruling.message
} else := ""

cause(c, status, ruling, list) := concat("; ", [sprintf("%v (package %v)", [r.message, r.package]) | some r in ruling.refusals]) if {
	ruling.refusals
} else := sprintf("policy %v rejects it: the labels of namespace %v are not known; to admit it, make the namespace's labels known", [ruling.policy, input.namespace]) if {
	ruling.rule == 0
} else := sprintf("policy %v rule %v rejects it: %v; to admit it, %v", [ruling.policy, ruling.rule, describe(c, status, list), remedy(c, status, ruling, list)]) if {
	ruling.rule > 0
} else := sprintf("no policy allows it: %v; to admit it, a policy must have a rule that allows it", [describe(c, status, list)])

describe(c, status, list) := concat("", [
	sprintf("result %v", [status.result]),
	concat("", [sprintf(", since %v", [u.why]) | u := classification.unknown(c, status)]),
	concat("", [sprintf(", maximum CVSS %v", [m]) | m := status.max_cvss]),
	concat("", [sprintf(", last scanned %v", [t]) | t := substring(status.scanned_at, 0, 19)]),
	listed(list, classification.packages(c, status)),
])

listed(list, packages) := "" if {
	count(list) == 0
} else := concat("", [": ", concat(", ", [cited(v, packages) | some v in array.slice(list, 0, 10)]), more(list)])

# cited(v, packages) is "CVE-2021-44228 (9.8: log4j-core 2.14.1, fixed in 2.15.0)", as far as it is known.
cited(v, packages) := sprintf("%v (%v)", [v.id, concat(": ", facts)]) if {
	facts := array.concat([sprintf("%v", [score]) | score := v.score], [text | text := packages[v.id]])
	count(facts) > 0
} else := v.id

more(list) := sprintf(" and %v more", [n]) if {
	n := count(list) - 10
	n > 0
} else := ""

remedy(c, status, ruling, list) := classification.unknown(c, status).remedy if {
	"status" in ruling.criteria
} else := "upgrade the packages with these CVEs, or add exceptions for them" if {
	"status" in ruling.criteria
	count(list) > 0
} else := "have it scanned again" if {
	"time" in ruling.criteria
} else := "use an image that this rule does not name" if {
	"path" in ruling.criteria
} else := "use an image that this rule names" if {
	"path not" in ruling.criteria
} else := "a policy or rule before it must allow the image"

# --- Policies in Warn and Audit mode ---

notes := [n |
	policies.has_notes
	some v in verdicts
	n := notes_of(v.fact)
]

# The first matching rule of each such policy, unless an enforcing policy
# before it decided.
reported(mode) := [text |
	some i, h in notes
	v := verdicts[i]
	some policy in sort({policies.rules[n].position | some n in h})
	first := min({n | some n in h; policies.rules[n].position == policy})
	rule := policies.rules[first]
	rule.mode == mode
	rule.action == "Reject"
	not decided_before(v, first)
	text := sprintf("%v (container %v): %vpolicy %v (%v) would reject it%v: %v", [
		v.subject.image, v.subject.container, by_author(rule), rule.policy, mode, by_rule(rule),
		describe(v.subject, v.status, classification.over_threshold(v.subject, v.status)),
	])
]

decided_before(v, n) if min(v.hits) < n

by_rule(rule) := sprintf(" by rule %v", [rule.rule]) if {
	rule.rule > 0
} else := ", since the namespace's labels are not known"

# --- Explain ---

explained := [object.union_n([v.status, classification.grounds(v.subject, v.status), {
	"container": v.subject.container,
	"image": v.subject.image,
	"normal": v.subject.normal,
	"matched": [object.remove(policies.rules[n], ["by"]) | some n in sort(v.hits)],
	"noted": [object.remove(policies.rules[n], ["by"]) | some n in sort({m | some m in notes[i]})],
}]) |
	some i, v in verdicts
]
