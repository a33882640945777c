package assay.custom.labels_test

import data.assay.custom.labels

owned := {"shop.example.com/owner": "team-checkout"}

review(workload_labels, containers) := {"kind": "Deployment", "name": "frontend", "labels": workload_labels, "containers": containers}

pinned := {"container": "frontend", "image": "registry.example.com/shop/frontend:1.4.2", "tag": "1.4.2"}

latest := {"container": "frontend", "image": "registry.example.com/shop/frontend", "tag": "latest"}

test_owned_and_pinned_passes if {
	count(labels.reject) == 0 with input as review(owned, [pinned])
}

test_no_owner if {
	labels.reject == {"Deployment frontend needs the label shop.example.com/owner"} with input as review({}, [pinned])
}

test_moving_tag_is_refused_by_container if {
	some reason in labels.reject with input as review(owned, [pinned, latest])
	reason.container == "frontend"
	contains(reason.message, "shop/frontend has a tag that moves")
}

test_digest_beats_tag if {
	image := object.union(latest, {"digest": concat("", ["sha256:", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"])})
	count(labels.reject) == 0 with input as review(owned, [image])
}
