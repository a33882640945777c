# METADATA
# title: AdmissionReview adapter
# description: >-
#   Flattens an AdmissionReview for stock OPA, in step with the Go package
#   review: a differential test holds the two together.
package assay.review

import data.assay.generated.settings

request := input.request if {
	is_object(input.request)
	known_version
}

# Both versions have the same members; what says nothing of itself is taken for one of them.
known_version if {
	object.get(input, "apiVersion", "admission.k8s.io/v1") in {"admission.k8s.io/v1", "admission.k8s.io/v1beta1"}
	object.get(input, "kind", "AdmissionReview") == "AdmissionReview"
}

flat := {
	"schema": "assay.dev/review/v1",
	"now": now,
	"operation": text(request, "operation"),
	"group": text(kind, "group"),
	"kind": text(kind, "kind"),
	"subresource": text(request, "subResource"),
	"namespace": namespace,
	"name": name,
	"labels": labels,
	"templateLabels": template_labels,
	"namespaceLabels": namespace_labels,
	"user": text(member(request, "userInfo"), "username"),
	"owner": owner,
	"ownerImages": owner_images,
	"hasOld": has_old,
	"oldDeleting": old_deleting,
	"templateChanged": template_changed,
	"containers": containers,
	"oldImages": sort({c.image | some c in old_containers}),
	"oldContainers": old_containers,
	"override": override,
	"malformed": sort(malformed),
}

# Only an absent "now" is the clock: one that does not parse leaves no decision.
now := fixed(time.parse_rfc3339_ns(input.now)) if {
	input.now
} else := fixed(time.now_ns()) if not "now" in object.keys(input)

fixed(ns) := time.format([ns, "UTC", "2006-01-02T15:04:05.000000000Z"])

# text and member read a member of a JSON object, "" and {} where it has another type.
text(x, key) := x[key] if {
	is_string(x[key])
} else := ""

member(x, key) := x[key] if {
	is_object(x[key])
} else := {}

items(x, key) := x[key] if {
	is_array(x[key])
} else := []

kind := member(request, "kind")

namespace := text(request, "namespace")

object_ := member(request, "object")

old := member(request, "oldObject")

metadata := member(object_, "metadata")

name := first_text([text(request, "name"), text(metadata, "name"), text(metadata, "generateName")])

first_text(list) := texts[0] if {
	texts := [s | some s in list; s != ""]
} else := ""

labels := {k: v | some k, v in member(metadata, "labels"); is_string(v)}

# --- Namespace labels: null is "not known" ---

default given_labels := {}

given_labels := input.namespaceLabels

namespace_labels := {} if {
	namespace == ""
	readable_labels
} else := null if {
	given_labels == null
} else := object.union({"kubernetes.io/metadata.name": namespace}, given_labels) if readable_labels

readable_labels if given_labels == null

readable_labels if {
	is_object(given_labels)
	every value in given_labels {
		is_string(value)
	}
}

# --- Owner ---

default owner := null

owner := {"group": group_of(text(owner_ref, "apiVersion")), "kind": text(owner_ref, "kind")}

owner_ref := [r | some r in items(metadata, "ownerReferences"); r.controller == true][0]

# The images that the owner names, where the input has the owner beside the request: the very
# object that the reference names. Null is "not known".
default owner_images := null

owner_images := sort({c.image | some c in containers_of(input.owner, at); c.image != ""}) if {
	judged_request
	is_owner(member(input, "owner"))
	at := places_of(concat("/", [owner.group, owner.kind]))
	names_images(input.owner, at)
}

names_images(object_, at) if {
	some found in reach(object_, at.templates)
	is_object(found.value.spec)
}

names_images(object_, at) if {
	some found in reach(object_, at.images)
	is_string(found.value)
}

is_owner(o) if {
	text(owner_ref, "uid") != ""
	group_of(text(o, "apiVersion")) == owner.group
	text(o, "kind") == owner.kind
	text(member(o, "metadata"), "uid") == text(owner_ref, "uid")
	text(member(o, "metadata"), "name") == text(owner_ref, "name")
	text(member(o, "metadata"), "namespace") in {"", namespace}
}

group_of(version) := split(version, "/")[0] if {
	contains(version, "/")
} else := ""

# --- Where the images are ---

default has_old := false

has_old if is_object(request.oldObject)

default old_deleting := false

old_deleting if old.metadata.deletionTimestamp != null

kind_id := concat("/", [text(kind, "group"), text(kind, "kind")])

# The pod templates of the built-in kinds, as api.BuiltinWorkloads has them.
template_paths := {
	"/Pod": [],
	"/ReplicationController": ["spec", "template"],
	"apps/DaemonSet": ["spec", "template"],
	"apps/Deployment": ["spec", "template"],
	"apps/ReplicaSet": ["spec", "template"],
	"apps/StatefulSet": ["spec", "template"],
	"batch/CronJob": ["spec", "jobTemplate", "spec", "template"],
	"batch/Job": ["spec", "template"],
	"extensions/DaemonSet": ["spec", "template"],
	"extensions/Deployment": ["spec", "template"],
	"extensions/ReplicaSet": ["spec", "template"],
}

# places_of(id) are the paths of a kind, in parts: between two parts of a path stands each item
# of a list, or member of an object.
places_of(id) := {"templates": [[template_paths[id]]], "images": [], "references": []} if {
	template_paths[id]
} else := settings.kinds[id]

places := places_of(kind_id)

# one_template(at) holds where containers are named as they are, and not after their place.
one_template(at) if {
	count(at.images) == 0
	count(at.templates) == 1
	count(at.templates[0]) == 1
}

# reach(object_, paths) are the values at some paths, each with its place.
reach(object_, paths) := [f | some path in paths; some f in follow(object_, path); f.value != null]

# follow(object_, path) are the values at a path, null where there is none, and faults where one on
# the way has a type with which it does not go on.
follow(object_, path) := at_members(fourth, path[last]) if {
	last := count(path) - 1
	first := step([{"place": "", "value": object_}], path, 0)
	second := step(first, path, 1)
	third := step(second, path, 2)
	fourth := step(third, path, 3)
}

# step(found, path, n) goes through the list behind a part of the path that is not the last.
step(found, path, n) := array.concat(
	[{"place": sprintf("%s[%v]", [f.place, i]), "value": value} |
		some f in members
		some i, value in f.value
	],
	[fault | some f in members; fault := lost(f)],
) if {
	n < count(path) - 1
	members := at_members(found, path[n])
} else := found

# lost(f) is why a path ends at f, which stands before a list.
lost(f) := f if {
	f.fault
} else := {"place": f.place, "fault": "is no list"} if {
	f.value != null
	not is_collection(f.value)
}

is_collection(x) if is_array(x)

is_collection(x) if is_object(x)

at_members(found, keys) := [at_member(f, keys) | some f in found]

at_member(f, keys) := f if {
	count(keys) == 0
} else := f if {
	f.fault
} else := {"place": dotted(f.place, concat(".", keys)), "value": object.get(f.value, keys, null)} if {
	is_object(f.value)
} else := {"place": f.place, "fault": "is no object"}

dotted(place, name) := concat(".", [p | some p in [place, name]; p != ""])

judged_request if {
	places
	text(request, "operation") in {"CREATE", "UPDATE"}
	text(request, "subResource") in {"", "ephemeralcontainers"}
}

found_templates := reach(object_, places.templates)

found_images := reach(object_, places.images)

default template_changed := false

template_changed if found_templates != reach(old, places.templates)

template_changed if found_images != reach(old, places.images)

# --- Labels of pod templates ---

default template_labels := []

template_labels := [{k: v | some k, v in member(member(f.value, "metadata"), "labels"); is_string(v)} |
	some f in found_templates
] if {
	judged_request
}

# --- Containers ---

lists := ["initContainers", "containers", "ephemeralContainers"]

# container is one as the flat form has it: the reference as written, and parsed
# where it can be.
container(label, image) := object.union({"container": label, "image": image, "normal": image}, parsed_image(image))

parsed_image(image) := parsed if {
	parsed := data.assay.reference.identity(image)
} else := {}

# containers_of(object_, at) are those of the pod templates at some places, then the images there.
containers_of(object_, at) := array.concat(
	[c |
		some f in reach(object_, at.templates)
		prefix := label_prefix(at, f.place)
		some c in containers_in(member(f.value, "spec"), prefix)
	],
	[container(f.place, f.value) | some f in reach(object_, at.images); is_string(f.value)],
)

label_prefix(at, place) := concat("", [place, "/"]) if {
	not one_template(at)
} else := ""

# containers_in(spec, prefix) are containers of each sort in their order, and then image volumes.
containers_in(spec, prefix) := array.concat(
	[container(concat("", [prefix, text(c, "name")]), text(c, "image")) |
		some list in lists
		some c in items(spec, list)
		is_object(c)
	],
	[container(concat("", [prefix, "volume/", text(v, "name")]), text(v.image, "reference")) |
		some v in items(spec, "volumes")
		is_object(v.image)
	],
)

default containers := []

containers := containers_of(object_, places) if judged_request

default old_containers := []

old_containers := containers_of(old, places) if judged_request

# --- Break-glass ---

annotations := member(metadata, "annotations")

override_reason := text(annotations, "assay.dev/override-reason")

override_until := text(annotations, "assay.dev/override-until")

default override := null

override := {"reason": override_reason, "until": until, "granted": granted} if {
	concat("", [override_reason, override_until]) != ""
}

default until := ""

until := fixed(time.parse_rfc3339_ns(override_until))

default granted := false

granted if input.overrideGranted == true

# --- What has the wrong shape ---

malformed contains "the object is missing" if {
	judged_request
	not is_object(object.get(request, "object", null))
}

malformed contains "metadata is no object" if {
	judged_request
	wrong(object_, "metadata", "object")
}

malformed contains "metadata.labels must map strings to strings" if {
	judged_request
	wrong_labels(metadata)
}

malformed contains "the pod template is missing" if {
	nothing_found
	one_template(places)
}

malformed contains "none of its pod templates and images is there" if {
	nothing_found
	not one_template(places)
}

nothing_found if {
	judged_request
	is_object(request.object)
	count(found_templates) + count(found_images) == 0
	not refers
}

# refers holds where the object says that it runs something else.
refers if {
	some path in places.references
	object.get(object_, path[0], null) != null
}

malformed contains sprintf("%s %s", [f.place, f.fault]) if {
	judged_request
	some path in array.concat(places.templates, places.images)
	some f in follow(object_, path)
}

malformed contains sprintf("%s is no string", [f.place]) if {
	judged_request
	some f in found_images
	not is_string(f.value)
}

# templates are those that are found, with what a fault in them begins with.
templates := [{"value": f.value, "at": fault_prefix(f.place), "place": f.place} |
	judged_request
	some f in found_templates
]

fault_prefix(place) := concat("", [place, ": "]) if {
	not one_template(places)
} else := ""

specs := [{"spec": t.value.spec, "at": t.at} | some t in templates; is_object(t.value.spec)]

malformed contains concat("", [t.at, "the pod template is missing"]) if {
	some t in templates
	not is_object(t.value)
}

malformed contains dotted(t.place, "metadata is no object") if {
	some t in templates
	wrong(t.value, "metadata", "object")
}

malformed contains dotted(t.place, "metadata.labels must map strings to strings") if {
	some t in templates
	wrong_labels(member(t.value, "metadata"))
}

wrong_labels(m) if wrong(m, "labels", "object")

wrong_labels(m) if {
	some value in member(m, "labels")
	not is_string(value)
}

malformed contains concat("", [t.at, "the pod spec is missing"]) if {
	some t in templates
	is_object(t.value)
	not is_object(object.get(t.value, "spec", null))
}

malformed contains concat("", [s.at, "the pod spec has no list of containers"]) if {
	some s in specs
	not is_array(object.get(s.spec, "containers", null))
}

malformed contains sprintf("%s%s is no list", [s.at, list]) if {
	some s in specs
	some list in ["initContainers", "ephemeralContainers", "volumes"]
	wrong(s.spec, list, "array")
}

malformed contains sprintf("%s%s[%d] is no object", [s.at, list, i]) if {
	some s in specs
	some list in array.concat(lists, ["volumes"])
	some i, c in items(s.spec, list)
	not is_object(c)
}

malformed contains sprintf("%s%s[%d].image is no string", [s.at, list, i]) if {
	some s in specs
	some list in lists
	some i, c in items(s.spec, list)
	wrong(c, "image", "string")
}

malformed contains sprintf("%svolumes[%d].image is no object", [s.at, i]) if {
	some s in specs
	some i, v in items(s.spec, "volumes")
	wrong(v, "image", "object")
}

malformed contains sprintf("%svolumes[%d].image.reference is no string", [s.at, i]) if {
	some s in specs
	some i, v in items(s.spec, "volumes")
	wrong(v.image, "reference", "string")
}

# wrong holds when a member is there, is not null, and has another type.
wrong(x, key, type) if {
	is_object(x)
	value := x[key]
	value != null
	type_name(value) != type
}
