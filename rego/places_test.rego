package assay.review_test

import data.assay.review

# Kinds with several templates, lists of them, and paths of images.
many := {
	"jobset.x-k8s.io/JobSet": {"templates": [[["spec", "replicatedJobs"], ["template", "spec", "template"]]], "images": [], "references": []},
	"tekton.dev/Task": {"templates": [], "images": [[["spec", "steps"], ["image"]], [["spec", "stepTemplate", "image"]]], "references": [[["spec", "steps"]]]},
	"example.com/Pair": {"templates": [[["spec", "leader"]], [["spec", "worker"]]], "images": [[["spec", "image"]]], "references": [[["spec", "ref"]], [["spec", "other"]]]},
	"example.com/Deep": {"templates": [], "images": [[["a"], ["b"], [], ["c"], ["image"]], [["list"], []]], "references": []},
	"example.com/Two": {"templates": [[["spec", "a"]], [["spec", "b"]]], "images": [], "references": []},
	"example.com/Mixed": {"templates": [[["spec", "a"]]], "images": [[["spec", "image"]]], "references": []},
	"argoproj.io/Rollout": {"templates": [[["spec", "template"]]], "images": [], "references": [[["spec", "workloadRef"]]]},
}

of_many(id, change) := r if {
	[group, kind] := split(id, "/")
	doc := object.union(object.remove(request, ["kind", "object"]), object.union({"kind": {"group": group, "kind": kind}}, change))
	r := review.flat with input as {"now": now, "request": doc} with data.assay.generated.settings as object.union(settings, {"kinds": many})
}

holds(id, obj) := [[c.container, c.image] | some c in r.containers] if {
	r := of_many(id, {"object": obj})
	r.malformed == []
}

wrong_in(id, obj) := of_many(id, {"object": obj}).malformed

job(name) := {"template": {"spec": {"template": {"metadata": {"labels": {"job": name}}, "spec": {"containers": [{"name": "c", "image": name}]}}}}}

test_lists_of_templates if {
	id := "jobset.x-k8s.io/JobSet"
	r := of_many(id, {"object": {"spec": {"replicatedJobs": [job("a"), job("b")]}}})
	[c.container | some c in r.containers] == ["spec.replicatedJobs[0].template.spec.template/c", "spec.replicatedJobs[1].template.spec.template/c"]
	[c.name | some c in r.containers] == ["docker.io/library/a", "docker.io/library/b"]
	r.templateLabels == [{"job": "a"}, {"job": "b"}]
	r.malformed == []
	holds(id, {"spec": {"replicatedJobs": {"y": job("b"), "x": job("a")}}}) == [["spec.replicatedJobs[x].template.spec.template/c", "a"], ["spec.replicatedJobs[y].template.spec.template/c", "b"]]
}

test_image_paths if {
	id := "tekton.dev/Task"
	holds(id, {"spec": {"steps": [{"image": "b"}, {"ref": {}}, {"image": null}, {"image": ""}], "stepTemplate": {"image": "a"}}}) == [["spec.steps[0].image", "b"], ["spec.steps[3].image", ""], ["spec.stepTemplate.image", "a"]]
	of_many(id, {"object": {"spec": {"steps": []}}}).templateLabels == []
	holds("example.com/Deep", {"a": [{"b": [[{"c": [{"image": "x"}]}], [{"c": [{"image": "y"}]}]]}], "list": ["z"]}) == [["a[0].b[0][0].c[0].image", "x"], ["a[0].b[1][0].c[0].image", "y"], ["list[0]", "z"]]
}

test_templates_and_images if {
	id := "example.com/Pair"
	with_volume := {"spec": {"containers": [{"name": "c", "image": "c"}], "volumes": [{"name": "v", "image": {"reference": "v"}}]}}
	holds(id, {"spec": {"leader": with_volume, "image": "i"}}) == [["spec.leader/c", "c"], ["spec.leader/volume/v", "v"], ["spec.image", "i"]]
	holds(id, {"spec": {"worker": with_volume}}) == [["spec.worker/c", "c"], ["spec.worker/volume/v", "v"]]
}

test_names_where_there_is_more_than_one_template if {
	holds("example.com/Two", {"spec": {"a": {"spec": spec}}}) == [["spec.a/web", "nginx:1"]]
	holds("example.com/Mixed", {"spec": {"a": {"spec": spec}}}) == [["spec.a/web", "nginx:1"]]
	wrong_in("example.com/Two", {"spec": {}}) == ["none of its pod templates and images is there"]
	wrong_in("example.com/Mixed", {"spec": {"a": {}}}) == ["spec.a: the pod spec is missing"]
}

# What is not judged is not looked at, whatever is at its places.
test_places_of_what_is_not_judged if {
	every change in [{"operation": "DELETE"}, {"operation": "UPDATE", "subResource": "status"}] {
		every id, obj in {
			"tekton.dev/Task": {"spec": {"steps": [{"image": 5}, {"image": "a"}]}},
			"jobset.x-k8s.io/JobSet": {"spec": {"replicatedJobs": [job("a"), 5]}},
			"example.com/Pair": {},
		} {
			r := of_many(id, object.union(change, {"object": obj}))
			r.malformed == []
			r.containers == []
			r.templateLabels == []
		}
	}
}

test_references if {
	rollout := "argoproj.io/Rollout"
	holds(rollout, {"spec": {"workloadRef": {"kind": "Deployment", "name": "x"}}}) == []
	holds(rollout, {"spec": {"workloadRef": {}, "template": {"spec": spec}}}) == [["web", "nginx:1"]]
	every obj in [{}, {"spec": {}}, {"spec": {"workloadRef": null}}, {"spec": 5}, {"spec": {"template": null}}] {
		wrong_in(rollout, obj) == ["the pod template is missing"]
	}
	holds("example.com/Pair", {"spec": {"other": 1}}) == []
	every obj in [{}, {"spec": {"leader": null, "image": null}}] {
		wrong_in("example.com/Pair", obj) == ["none of its pod templates and images is there"]
	}
	wrong_in(rollout, {"spec": {"workloadRef": {}, "template": 5}}) == ["the pod template is missing"]
	wrong_in("jobset.x-k8s.io/JobSet", {"spec": {"replicatedJobs": []}}) == ["none of its pod templates and images is there"]
}

test_what_a_path_cannot_follow if {
	set := "jobset.x-k8s.io/JobSet"
	nothing := "none of its pod templates and images is there"
	wrong_in(set, {"spec": {"replicatedJobs": "x"}}) == [nothing, "spec.replicatedJobs is no list"]
	wrong_in(set, {"spec": {"replicatedJobs": [job("a"), "x", null]}}) == ["spec.replicatedJobs[1] is no object", "spec.replicatedJobs[2] is no object"]
	wrong_in("tekton.dev/Task", {"spec": {"steps": [{"image": 5}]}}) == ["spec.steps[0].image is no string"]
	of_many("tekton.dev/Task", {"object": {"spec": {"steps": [{"image": 5}]}}}).containers == []
	wrong_in("example.com/Deep", {"list": ["z"], "a": [{"b": [5, null, [{"c": 5}]]}]}) == ["a[0].b[0] is no list", "a[0].b[2][0].c is no list"]
	wrong_in("example.com/Deep", {"list": [5, null]}) == ["list[0] is no string"]
	wrong_in("example.com/Pair", {"spec": {"leader": 5, "image": "i"}}) == ["spec.leader: the pod template is missing"]
	wrong_in("example.com/Pair", {"spec": {"leader": {}, "worker": {"spec": {}}}}) == ["spec.leader: the pod spec is missing", "spec.worker: the pod spec has no list of containers"]
	wrong_in("example.com/Pair", {"spec": {"leader": {"spec": {"containers": [5, {"image": 5}], "volumes": [{"image": 5}, {"image": {"reference": 5}}], "initContainers": 5}}}}) == [
		"spec.leader: containers[0] is no object", "spec.leader: containers[1].image is no string", "spec.leader: initContainers is no list",
		"spec.leader: volumes[0].image is no object", "spec.leader: volumes[1].image.reference is no string",
	]
}

deployment(metadata) := of_kind("apps/Deployment", {"object": {"metadata": {"labels": {"app": "outer"}}, "spec": {"template": {"metadata": metadata, "spec": spec}}}})

test_labels_of_templates if {
	r := deployment({"labels": {"app": "inner"}})
	r.labels == {"app": "outer"}
	r.templateLabels == [{"app": "inner"}]
	r.malformed == []
	deployment(null).templateLabels == [{}]
	deployment(5).malformed == ["spec.template.metadata is no object"]
	deployment({"labels": 5}).malformed == ["spec.template.metadata.labels must map strings to strings"]
	deployment({"labels": {"a": 5}}).malformed == ["spec.template.metadata.labels must map strings to strings"]
	deployment({"labels": {"a": 5, "b": "c"}}).templateLabels == [{"b": "c"}]
	of({"operation": "DELETE"}).templateLabels == []
	of({"subResource": "status"}).templateLabels == []
}

changed_to(id, old, new) := of_many(id, {"operation": "UPDATE", "oldObject": old, "object": new}).templateChanged

task(images) := {"spec": {"steps": [{"image": i} | some i in images], "x": count(images)}}

pair(leader, worker, image) := {"spec": {"leader": {"x": leader}, "worker": {"x": worker}, "image": image}}

test_changes_at_any_place if {
	not changed_to("tekton.dev/Task", task(["a", "b"]), task(["a", "b"]))
	changed_to("tekton.dev/Task", task(["a", "b"]), task(["a"]))
	changed_to("tekton.dev/Task", task(["a"]), task(["b"]))
	not changed_to("example.com/Pair", pair(1, 2, "i"), pair(1, 2, "i"))
	changed_to("example.com/Pair", pair(1, 2, "i"), pair(1, 3, "i"))
	changed_to("example.com/Pair", pair(1, 2, "i"), pair(1, 2, "j"))
	r := of_many("tekton.dev/Task", {"operation": "UPDATE", "oldObject": task(["a", "b"]), "object": task(["c"])})
	r.oldImages == ["a", "b"]
	r.oldContainers[1].container == "spec.steps[1].image"
}

owned_by(obj) := images if {
	[group, kind] := split(obj.id, "/")
	ref := {"apiVersion": concat("/", [group, "v1"]), "kind": kind, "name": "o", "uid": "u", "controller": true}
	beside := {"apiVersion": concat("/", [group, "v2"]), "kind": kind, "metadata": {"name": "o", "uid": "u"}, "spec": obj.spec}
	flat_ := review.flat with input as {"now": now, "owner": beside, "request": object.union(request, {"object": {"metadata": {"ownerReferences": [ref]}}})}
		with data.assay.generated.settings as object.union(settings, {"kinds": many})
	images := flat_.ownerImages
}

test_owner_images_of_many_places if {
	owned_by({"id": "jobset.x-k8s.io/JobSet", "spec": {"replicatedJobs": [job("b"), job("a"), 5]}}) == ["a", "b"]
	owned_by({"id": "tekton.dev/Task", "spec": {"steps": [{"image": "s"}, {"image": ""}, {"image": 5}]}}) == ["s"]
	owned_by({"id": "tekton.dev/Task", "spec": {"steps": []}}) == null
	owned_by({"id": "jobset.x-k8s.io/JobSet", "spec": {"replicatedJobs": [{}]}}) == null
	owned_by({"id": "tekton.dev/Task", "spec": {"steps": [{"image": 5}]}}) == null
	owned_by({"id": "argoproj.io/Rollout", "spec": {"workloadRef": {}}}) == null
}
