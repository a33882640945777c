package assay.review_test

import data.assay.review

settings := {
	"default_action": "Reject",
	"controllers": {"c"},
	"excluded": set(),
	"platforms": ["linux/amd64"],
	"kinds": {"argoproj.io/Rollout": {"templates": [[["spec", "template"]]], "images": [], "references": [[["spec", "workloadRef"]]], "controllers": []}, "example.com/Fleet": {"templates": [[["spec", "member", "pod"]]], "images": [], "references": [], "controllers": []}},
}

digest := "sha256:ab00000000000000000000000000000000000000000000000000000000000000"

now := "2026-06-01T00:00:00Z"

spec := {"containers": [{"name": "web", "image": "nginx:1"}]}

web := {"container": "web", "image": "nginx:1", "normal": "docker.io/library/nginx:1", "name": "docker.io/library/nginx", "tag": "1"}

pod_object := {"metadata": {"name": "cart", "labels": {"app": "cart"}}, "spec": spec}

request := {
	"operation": "CREATE",
	"kind": {"group": "", "version": "v1", "kind": "Pod"},
	"namespace": "shop",
	"name": "cart",
	"userInfo": {"username": "alice", "groups": ["g"]},
	"object": pod_object,
}

flat(doc) := r if {
	r := review.flat with input as doc with data.assay.generated.settings as settings
}

of(change) := flat({"now": now, "request": object.union(request, change)})

of_object(obj) := flat({"now": now, "request": object.union(object.remove(request, ["object"]), {"object": obj})})

of_spec(s) := flat({"now": now, "request": object.union(object.remove(request, ["object"]), {"object": {"spec": s}})})

test_pod if of({}) == {
	"schema": "assay.dev/review/v1", "now": "2026-06-01T00:00:00.000000000Z",
	"operation": "CREATE", "group": "", "kind": "Pod", "subresource": "",
	"namespace": "shop", "name": "cart", "labels": {"app": "cart"}, "templateLabels": [{"app": "cart"}],
	"namespaceLabels": {"kubernetes.io/metadata.name": "shop"},
	"user": "alice", "owner": null, "ownerImages": null, "hasOld": false, "oldDeleting": false, "templateChanged": true,
	"containers": [web], "oldImages": [], "oldContainers": [], "override": null, "malformed": [],
}

# --- Kinds ---

kinds := {
	"/Pod": [],
	"/ReplicationController": ["spec", "template"],
	"apps/ReplicaSet": ["spec", "template"],
	"apps/Deployment": ["spec", "template"],
	"apps/StatefulSet": ["spec", "template"],
	"apps/DaemonSet": ["spec", "template"],
	"batch/Job": ["spec", "template"],
	"batch/CronJob": ["spec", "jobTemplate", "spec", "template"],
	"extensions/DaemonSet": ["spec", "template"],
	"extensions/Deployment": ["spec", "template"],
	"extensions/ReplicaSet": ["spec", "template"],
	"argoproj.io/Rollout": ["spec", "template"],
	"example.com/Fleet": ["spec", "member", "pod"],
}

# at(path, value) is an object that has the value there.
at(path, value) := value if count(path) == 0

at(path, value) := {path[0]: value} if count(path) == 1

at(path, value) := {path[0]: {path[1]: value}} if count(path) == 2

at(path, value) := {path[0]: {path[1]: {path[2]: value}}} if count(path) == 3

at(path, value) := {path[0]: {path[1]: {path[2]: {path[3]: value}}}} if count(path) == 4

of_kind(id, change) := flat({"now": now, "request": object.union(object.remove(request, ["kind", "object"]), object.union({"kind": {"group": group, "kind": kind}}, change))}) if {
	[group, kind] := split(id, "/")
}

test_each_kind if {
	every id, path in kinds {
		r := of_kind(id, {"object": at(path, {"spec": spec})})
		r.containers == [web]
		r.malformed == []
		concat("/", [r.group, r.kind]) == id
	}
}

missing(path) := ["the pod spec is missing"] if {
	count(path) == 0
} else := ["the pod template is missing"]

test_each_kind_without_template if {
	every id, path in kinds {
		r := of_kind(id, {"object": {"x": 1}})
		r.containers == []
		r.malformed == missing(path)
	}
}

test_each_kind_changed_or_not if {
	every id, path in kinds {
		template := {"metadata": {"labels": {"a": "b"}}, "spec": spec}
		r := of_kind(id, {"operation": "UPDATE", "object": at(path, template), "oldObject": at(path, template)})
		not r.templateChanged
		r.hasOld
		r.oldImages == ["nginx:1"]
		relabelled := object.union(template, {"metadata": {"labels": {"a": "c"}}})
		of_kind(id, {"operation": "UPDATE", "object": at(path, template), "oldObject": at(path, relabelled)}).templateChanged
	}
}

# What lies beside the template, such as replicas, does not change it.
test_template_of_scaled_deployment_is_unchanged if {
	not of_kind("apps/Deployment", {
		"operation": "UPDATE",
		"object": {"spec": {"replicas": 2, "template": {"spec": spec}}},
		"oldObject": {"spec": {"replicas": 1, "template": {"spec": spec}}},
	}).templateChanged
}

test_unjudged_kind if {
	r := of_kind("/Service", {"object": {"spec": 7}})
	r.containers == []
	r.malformed == []
	not r.templateChanged
}

test_unjudged_operation_and_subresource if {
	every change in [{"operation": "DELETE"}, {"operation": "CONNECT"}, {"subResource": "status"}] {
		r := of(object.union(change, {"object": pod_object, "oldObject": pod_object}))
		r.containers == []
		r.oldImages == []
		r.malformed == []
		r.hasOld
	}
}

test_ephemeral_containers if {
	s := object.union(spec, {"ephemeralContainers": [{"name": "debug", "image": "busybox"}]})
	r := of({"operation": "UPDATE", "subResource": "ephemeralcontainers", "object": {"spec": s}, "oldObject": pod_object})
	r.subresource == "ephemeralcontainers"
	[c.container | some c in r.containers] == ["web", "debug"]
	r.oldImages == ["nginx:1"]
}

# --- Names, labels, users ---

named(metadata) := flat({"now": now, "request": object.union(unnamed, {"object": {"metadata": metadata, "spec": spec}})}).name if {
	unnamed := object.remove(request, ["name", "object"])
}

test_name if {
	named({"name": "a", "generateName": "b-"}) == "a"
	named({"generateName": "b-"}) == "b-"
	named({"name": "", "generateName": "b-"}) == "b-"
	named({"name": 7}) == ""
	named({}) == ""
}

test_members_of_wrong_type_are_empty if {
	r := flat({"now": now, "request": {"operation": 1, "kind": "Pod", "namespace": null, "userInfo": [], "subResource": {}}})
	[r.operation, r.group, r.kind, r.namespace, r.user, r.subresource, r.name] == ["", "", "", "", "", "", ""]
	r.containers == []
	r.malformed == []
}

# Both versions are read, and what says nothing of itself; nothing else is.
test_versions if {
	every doc in [{}, {"apiVersion": "admission.k8s.io/v1"}, {"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview"}, {"kind": "AdmissionReview"}] {
		flat(object.union(doc, {"now": now, "request": request})).kind == "Pod"
	}
	every doc in [{"apiVersion": "admission.k8s.io/v2"}, {"apiVersion": ""}, {"apiVersion": null}, {"apiVersion": ["admission.k8s.io/v1"]}, {"kind": "Pod"}, {"kind": ""}, {"kind": null}] {
		not flat(object.union(doc, {"now": now, "request": request}))
	}
}

# --- Namespace labels ---

labelled(doc) := flat(object.union({"now": now, "request": request}, doc)).namespaceLabels

test_namespace_labels if {
	labelled({}) == {"kubernetes.io/metadata.name": "shop"}
	labelled({"namespaceLabels": {}}) == {"kubernetes.io/metadata.name": "shop"}
	labelled({"namespaceLabels": null}) == null
	labelled({"namespaceLabels": {"env": "prod"}}) == {"kubernetes.io/metadata.name": "shop", "env": "prod"}
	labelled({"namespaceLabels": {"kubernetes.io/metadata.name": "given"}}) == {"kubernetes.io/metadata.name": "given"}
}

test_namespace_labels_of_what_has_no_namespace if {
	every given in [{}, {"env": "prod"}, null] {
		flat({"now": now, "request": object.union(request, {"namespace": ""}), "namespaceLabels": given}).namespaceLabels == {}
	}
}

test_namespace_labels_of_wrong_type_leave_no_review if {
	every given in ["prod", 1, ["a"], false, true] {
		not flat({"now": now, "request": request, "namespaceLabels": given})
	}
}

# --- The moment ---

test_now if {
	flat({"now": "2026-06-01T02:00:00.5+02:00", "request": request}).now == "2026-06-01T00:00:00.500000000Z"
	every bad in ["", "today", 7, null, false, true, {}, "2026-06-01", "2026-02-30T00:00:00Z"] {
		not flat({"now": bad, "request": request})
	}
}

test_now_is_the_clock_when_absent if {
	r := flat({"request": request})
	count(r.now) == 30
	r.now == time.format([time.now_ns(), "UTC", "2006-01-02T15:04:05.000000000Z"])
}

test_what_is_no_review if {
	every doc in [{}, {"request": null}, {"request": []}, {"request": "x"}] {
		not flat(object.union({"now": now}, doc))
	}
}

# --- Owner ---

# --- The owner beside the request ---

owner_ref := {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "u", "controller": true}

owner_spec := {
	"initContainers": [{"name": "i", "image": "init:1"}],
	"containers": [{"name": "web", "image": "nginx:1"}, {"name": "again", "image": "nginx:1"}, {"name": "none"}, 7],
	"volumes": [{"name": "v", "image": {"reference": "data:1"}}, {"name": "w"}],
}

owner_object := {
	"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "rs", "namespace": "shop", "uid": "u"},
	"spec": {"template": {"spec": owner_spec}},
}

owner_images(ref, beside) := flat(object.union({"now": now, "request": object.union(request, {"object": {"metadata": {"ownerReferences": [ref]}}})}, beside)).ownerImages

changed_owner(path, value) := json.patch(owner_object, [{"op": "add", "path": path, "value": value}])

test_owner_images if {
	owner_images(owner_ref, {"owner": owner_object}) == ["data:1", "init:1", "nginx:1"]
	owner_images(owner_ref, {"owner": json.remove(owner_object, ["metadata/namespace"])}) == ["data:1", "init:1", "nginx:1"]
	owner_images(owner_ref, {"owner": changed_owner("/spec/template/spec", {})}) == []
}

test_owner_images_of_custom_kind if {
	ref := {"apiVersion": "example.com/v1", "kind": "Fleet", "name": "f", "uid": "u", "controller": true}
	beside := {"apiVersion": "example.com/v2", "kind": "Fleet", "metadata": {"name": "f", "uid": "u"}, "spec": {"member": {"pod": {"spec": owner_spec}}}}
	owner_images(ref, {"owner": beside}) == ["data:1", "init:1", "nginx:1"]
}

test_owner_images_not_known if {
	owner_images(owner_ref, {}) == null
	every beside in [
		null, "x", {}, [owner_object],
		changed_owner("/apiVersion", "extensions/v1beta1"), changed_owner("/kind", "Deployment"),
		changed_owner("/metadata/name", "other"), changed_owner("/metadata/uid", "v"), changed_owner("/metadata/namespace", "elsewhere"),
		changed_owner("/metadata", "x"), changed_owner("/spec/template/spec", "x"), changed_owner("/spec", {}),
	] {
		owner_images(owner_ref, {"owner": beside}) == null
	}
	owner_images(object.union(owner_ref, {"controller": false}), {"owner": owner_object}) == null
	owner_images(object.union(owner_ref, {"uid": ""}), {"owner": changed_owner("/metadata/uid", "")}) == null
	owner_images(object.union(owner_ref, {"kind": "Other"}), {"owner": changed_owner("/kind", "Other")}) == null
	flat({"now": now, "owner": owner_object, "request": object.union(request, {"operation": "DELETE", "object": {"metadata": {"ownerReferences": [owner_ref]}}})}).ownerImages == null
}

owner(references) := flat({"now": now, "request": object.union(request, {"object": {"metadata": {"ownerReferences": references}}})}).owner

test_owner if {
	owner([]) == null
	owner(null) == null
	owner("x") == null
	owner([{"apiVersion": "apps/v1", "kind": "ReplicaSet"}]) == null
	owner([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "controller": false}]) == null
	owner([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "controller": "true"}]) == null
	owner([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "controller": true}]) == {"group": "apps", "kind": "ReplicaSet"}
	owner([{"apiVersion": "v1", "kind": "ReplicationController", "controller": true}]) == {"group": "", "kind": "ReplicationController"}
	owner([{"controller": true}]) == {"group": "", "kind": ""}
	owner([1, {"apiVersion": "a/b", "kind": "C"}, {"apiVersion": "batch/v1", "kind": "Job", "controller": true}]) == {"group": "batch", "kind": "Job"}
}

# --- Containers ---

test_order_of_containers if {
	r := of_spec({
		"volumes": [{"name": "data", "image": {"reference": "v"}}, {"name": "other", "emptyDir": {}}, {"name": "blank", "image": {"reference": ""}}],
		"ephemeralContainers": [{"name": "e", "image": "e"}],
		"containers": [{"name": "b", "image": "b"}, {"name": "a", "image": "a"}],
		"initContainers": [{"name": "i", "image": "i"}],
	})
	[c.container | some c in r.containers] == ["i", "b", "a", "e", "volume/data", "volume/blank"]
	r.malformed == []
}

test_references if {
	tagged := concat("@", ["nginx:1", digest])
	r := of_spec({"containers": [{"name": "a", "image": tagged}, {"name": "b", "image": "NGINX"}, {"name": "c"}, {"image": "a.b/c"}]})
	r.containers == [
		{"container": "a", "image": tagged, "normal": concat("", ["docker.io/library/", tagged]), "name": "docker.io/library/nginx", "digest": digest},
		{"container": "b", "image": "NGINX", "normal": "NGINX"},
		{"container": "c", "image": "", "normal": ""},
		{"container": "", "image": "a.b/c", "normal": "a.b/c:latest", "name": "a.b/c", "tag": "latest"},
	]
}

test_null_lists_are_empty if {
	of_spec(object.union(spec, {"initContainers": null, "ephemeralContainers": null, "volumes": null})).malformed == []
}

test_old_images_are_sorted_without_repeats if {
	old := {"spec": {
		"containers": [{"image": "z"}, {"image": "a"}, 7, {"name": "none"}],
		"initContainers": [{"image": "a"}],
		"ephemeralContainers": "x",
		"volumes": [{"image": {"reference": "v"}}, {"image": {"reference": 1}}, {"image": {"reference": ""}}, "x"],
	}}
	r := of({"operation": "UPDATE", "oldObject": old})
	r.oldImages == ["", "a", "v", "z"]
	[c.container | some c in r.oldContainers] == ["", "", "", "none", "volume/", "volume/", "volume/"]
	r.oldContainers[1] == {"container": "", "image": "z", "normal": "docker.io/library/z:latest", "name": "docker.io/library/z", "tag": "latest"}
}

asked(annotations, granted) := flat(object.union(
	{"now": now, "request": object.union(request, {"object": object.union(pod_object, {"metadata": {"annotations": annotations}})})},
	granted,
)).override

test_override if {
	asked({}, {"overrideGranted": true}) == null
	asked({"assay.dev/override-reason": "", "assay.dev/override-until": 5}, {}) == null
	asked({"assay.dev/override-reason": "outage"}, {}) == {"reason": "outage", "until": "", "granted": false}
	asked({"assay.dev/override-until": "2026-06-01T02:00:00+02:00"}, {"overrideGranted": true}) == {"reason": "", "until": "2026-06-01T00:00:00.000000000Z", "granted": true}
	asked({"assay.dev/override-reason": "x", "assay.dev/override-until": "tomorrow"}, {"overrideGranted": 1}) == {"reason": "x", "until": "", "granted": false}
}

deleting(old) := of({"operation": "UPDATE", "oldObject": old}).oldDeleting

test_old_deleting if {
	deleting({"metadata": {"deletionTimestamp": now}})
	not deleting({"metadata": {"deletionTimestamp": null}})
	not deleting({"metadata": {}})
	not deleting({"metadata": []})
	not deleting(null)
}

test_old_object_that_is_none if {
	every old in [null, "x", [], 1] {
		r := of({"operation": "UPDATE", "oldObject": old})
		not r.hasOld
		r.oldImages == []
		r.templateChanged
	}
}

# --- What has the wrong shape ---

test_missing_object if {
	flat({"now": now, "request": object.remove(request, ["object"])}).malformed == ["the object is missing", "the pod spec is missing"]
	every obj in [null, "x", [], 1, false] {
		of_object(obj).malformed == ["the object is missing", "the pod spec is missing"]
	}
}

test_wrong_metadata if {
	of_object({"metadata": 1, "spec": spec}).malformed == ["metadata is no object"]
	of_object({"metadata": {"labels": []}, "spec": spec}).malformed == ["metadata.labels must map strings to strings"]
	r := of_object({"metadata": {"labels": {"a": 1, "b": "c"}}, "spec": spec})
	r.malformed == ["metadata.labels must map strings to strings"]
	r.labels == {"b": "c"}
	of_object({"metadata": {"labels": null}, "spec": spec}).malformed == []
	of_object({"metadata": null, "spec": spec}).malformed == []
}

test_wrong_template if {
	every template in [null, "x", [], 1] {
		of_kind("apps/Deployment", {"object": {"spec": {"template": template}}}).malformed == ["the pod template is missing"]
	}
}

test_wrong_spec if {
	every s in [null, "x", [], 1, false] {
		of_spec(s).malformed == ["the pod spec is missing"]
	}
}

test_wrong_containers if {
	every s in [{}, {"containers": null}, {"containers": {}}, {"containers": "x"}] {
		of_spec(s).malformed == ["the pod spec has no list of containers"]
	}
	of_spec({"containers": []}).malformed == []
}

test_wrong_lists if {
	every list in ["initContainers", "ephemeralContainers", "volumes"] {
		of_spec(object.union(spec, {list: {}})).malformed == [sprintf("%s is no list", [list])]
	}
}

test_wrong_items if {
	of_spec({"containers": ["x", null]}).malformed == ["containers[0] is no object", "containers[1] is no object"]
	of_spec(object.union(spec, {"volumes": [1]})).malformed == ["volumes[0] is no object"]
	of_spec({"containers": [{"image": 1}]}).malformed == ["containers[0].image is no string"]
	of_spec({"containers": [{"image": null}]}).malformed == []
	of_spec(object.union(spec, {"initContainers": [{"image": {}}]})).malformed == ["initContainers[0].image is no string"]
	of_spec(object.union(spec, {"volumes": [{"image": "x"}]})).malformed == ["volumes[0].image is no object"]
	of_spec(object.union(spec, {"volumes": [{"image": {"reference": 1}}]})).malformed == ["volumes[0].image.reference is no string"]
	of_spec(object.union(spec, {"volumes": [{"image": null}, {"image": {"reference": null}}]})).malformed == []
}

# --- Each condition alone ---

# What is not judged is not looked at: nothing in it can be malformed.
test_unjudged_is_never_malformed if {
	every obj in [
		null, {"metadata": 5}, {"metadata": {"labels": 5}}, {"metadata": {"labels": {"a": 5}}}, {}, {"spec": 5}, {"spec": {"containers": 5}},
		{"spec": {"template": {"spec": 5}}}, {"spec": {"template": 5}},
		{"spec": {"containers": [5, {"image": 5}], "initContainers": 5, "volumes": [5, {"image": 5}, {"image": {"reference": 5}}]}},
	] {
		every change in [{"operation": "DELETE"}, {"operation": "DELETE", "kind": {"group": "apps", "kind": "Deployment"}}, {"subResource": "status"}, {"kind": {"group": "", "kind": "ConfigMap"}}] {
			doc := of(object.union(object.union(object.remove(request, ["object"]), {"object": obj}), change))
			doc.malformed == []
			doc.containers == []
			doc.oldImages == []
		}
	}
}

test_unjudged_has_no_volumes if {
	volumes := [{"name": "v", "image": {"reference": "nginx:1"}}]
	of({"object": {"spec": {"volumes": volumes}}, "subResource": "status"}).containers == []
	count(of({"object": {"spec": {"volumes": volumes}}}).containers) == 2
}

# What is wrong with the operation is decided by the judge, for flat reviews too.
test_operations if {
	every operation in ["CREATE", "UPDATE", "DELETE", "CONNECT", "", "create"] {
		r := of({"operation": operation})
		r.operation == operation
		r.malformed == []
	}
}

# One fault is told once, by its own words.
test_each_fault_alone if {
	deployment := {"kind": {"group": "apps", "kind": "Deployment"}}
	every absent in [null, 5, []] {
		faults(deployment, absent) == ["the object is missing"]
	}
	every template in [null, 5, []] {
		faults(deployment, {"spec": {"template": template}}) == ["the pod template is missing"]
	}
	faults(deployment, {"spec": {"template": {"spec": 5}}}) == ["the pod spec is missing"]
	faults(deployment, {"spec": {"template": {}}}) == ["the pod spec is missing"]
}

faults(change, obj) := flat({"now": now, "request": object.union(object.remove(request, ["object"]), object.union(change, {"object": obj}))}).malformed

# An object in the place of a list is no list, whatever its members are.
test_objects_are_no_lists if {
	odd := {"a": 5, "b": {"image": 5}, "c": {"image": {"reference": 5}}, "d": {"name": "d", "image": "nginx:1"}, "e": {"name": "e", "image": {"reference": "nginx:1"}}}
	of_spec({"containers": odd}).malformed == ["the pod spec has no list of containers"]
	of_spec({"containers": odd}).containers == []
	every list in ["initContainers", "ephemeralContainers", "volumes"] {
		doc := of_spec(object.union(spec, {list: odd}))
		doc.malformed == [sprintf("%s is no list", [list])]
		doc.containers == [web]
	}
	of_object(object.union(pod_object, {"metadata": {"ownerReferences": {"a": {"apiVersion": "apps/v1", "kind": "X", "controller": true}}}})).owner == null
	old := of({"operation": "UPDATE", "oldObject": {"spec": {"containers": odd, "volumes": odd}}})
	old.oldImages == []
}

test_items_that_are_no_objects if {
	of_spec({"containers": [5, {"name": "x", "image": "nginx:1"}]}).containers == [object.union(web, {"container": "x"})]
	of_spec(object.union(spec, {"volumes": [5, {"name": "v", "image": 5}]})).containers == [web]
	old := of({"operation": "UPDATE", "oldObject": {"spec": {"containers": [5, {"image": "nginx:1"}], "volumes": [5, {"image": 5}]}}})
	old.oldImages == ["nginx:1"]
}

# Namespace labels that cannot be read leave no review, for what has no namespace too.
test_unreadable_namespace_labels if {
	every labels in [5, "x", ["x"], {"a": 5}, {"a": null}, true] {
		not flat({"now": now, "namespaceLabels": labels, "request": request})
		not flat({"now": now, "namespaceLabels": labels, "request": object.union(request, {"namespace": ""})})
	}
}
