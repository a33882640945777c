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

# The images of the owner's pod template, where the input has the owner beside the request: the very
# object that the reference names. Null is "not known".
default owner_images := null

owner_images := sort({c.image | some c in containers_of(spec); c.image != ""}) if {
	judged_request
	is_owner(member(input, "owner"))
	spec := object.get(input.owner, array.concat(path_of(concat("/", [owner.group, owner.kind])), ["spec"]), null)
	is_object(spec)
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

# --- Where the pod spec is ---

default has_old := false

has_old if is_object(request.oldObject)

default old_deleting := false

old_deleting if old.metadata.deletionTimestamp != null

kind_id := concat("/", [text(kind, "group"), text(kind, "kind")])

template_paths := {
	"/Pod": [],
	"/ReplicationController": ["spec", "template"],
	"apps/ReplicaSet": ["spec", "template"],
	"apps/Deployment": ["spec", "template"],
	"apps/StatefulSet": ["spec", "template"],
	"apps/DaemonSet": ["spec", "template"],
	"batch/Job": ["spec", "template"],
	"batch/CronJob": ["spec", "jobTemplate", "spec", "template"],
}

path_of(id) := template_paths[id] if {
	template_paths[id]
} else := settings.kinds[id].path

template_path := path_of(kind_id)

judged_request if {
	template_path
	text(request, "operation") in {"CREATE", "UPDATE"}
	text(request, "subResource") in {"", "ephemeralcontainers"}
}

template := object.get(object_, template_path, null)

old_template := object.get(old, template_path, null)

default template_changed := false

template_changed if template != old_template

# --- Containers ---

lists := ["initContainers", "containers", "ephemeralContainers"]

pod_spec := member(template, "spec")

# container is one as the flat form has it: the reference as written, and parsed
# where it can be.
container(label, image) := object.union({"container": label, "image": image, "normal": image}, parsed_image(image))

parsed_image(image) := parsed if {
	parsed := data.assay.reference.identity(image)
} else := {}

# containers_of(spec) are containers of each sort in their order, and then image volumes.
containers_of(spec) := array.concat(
	[container(text(c, "name"), text(c, "image")) |
		judged_request
		some list in lists
		some c in items(spec, list)
		is_object(c)
	],
	[container(concat("/", ["volume", text(v, "name")]), text(v.image, "reference")) |
		judged_request
		some v in items(spec, "volumes")
		is_object(v.image)
	],
)

default containers := []

containers := containers_of(pod_spec)

default old_containers := []

old_containers := containers_of(member(old_template, "spec"))

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
	wrong(metadata, "labels", "object")
}

malformed contains "metadata.labels must map strings to strings" if {
	judged_request
	some value in member(metadata, "labels")
	not is_string(value)
}

malformed contains "the pod template is missing" if {
	judged_request
	is_object(request.object)
	not is_object(template)
}

malformed contains "the pod spec is missing" if {
	judged_request
	is_object(template)
	not is_object(object.get(template, "spec", null))
}

malformed contains "the pod spec has no list of containers" if {
	judged_request
	is_object(template.spec)
	not is_array(object.get(pod_spec, "containers", null))
}

malformed contains sprintf("%s is no list", [list]) if {
	judged_request
	some list in ["initContainers", "ephemeralContainers", "volumes"]
	wrong(pod_spec, list, "array")
}

malformed contains sprintf("%s[%d] is no object", [list, i]) if {
	judged_request
	some list in array.concat(lists, ["volumes"])
	is_array(pod_spec[list])
	some i, c in pod_spec[list]
	not is_object(c)
}

malformed contains sprintf("%s[%d].image is no string", [list, i]) if {
	judged_request
	some list in lists
	is_array(pod_spec[list])
	some i, c in pod_spec[list]
	wrong(c, "image", "string")
}

malformed contains sprintf("volumes[%d].image is no object", [i]) if {
	judged_request
	is_array(pod_spec.volumes)
	some i, v in pod_spec.volumes
	wrong(v, "image", "object")
}

malformed contains sprintf("volumes[%d].image.reference is no string", [i]) if {
	judged_request
	is_array(pod_spec.volumes)
	some i, v in pod_spec.volumes
	wrong(v.image, "reference", "string")
}

# wrong holds when a member is there, is not null, and has another type.
wrong(x, key, type) if {
	is_object(x)
	value := x[key]
	value != null
	type_name(value) != type
}
