package assay.judge_test

# By which labels selectors choose: the mock matches rules by the label app.

by_label := {
	"rules": [in_mode(rule("noted", 0, 1, "Reject", []), "Warn"), rule("inner", 1, 1, "Reject", []), rule("outer", 2, 1, "Reject", [])],
	"labelled": {"hits": {"a": {1}, "b": {2}}, "notes": {"a": {0}}},
}

with_templates := {"settings": {"template_labels": true, "default_action": "Allow"}}

labelled_pod(labels, templates) := changed(pod, {"labels": labels, "templateLabels": templates, "containers": [good]})

test_labels_of_templates_count_where_settings_say_so if {
	inner := labelled_pod({}, [{"app": "x"}, {"app": "a"}])
	decide(inner, object.union(by_label, {"settings": {"default_action": "Allow"}})).allowed
	d := decide(inner, object.union(by_label, with_templates))
	not d.allowed
	d.images[0].policy == "inner"
	count(d.warnings) == 1
}

test_labels_of_the_object_count_beside_them if {
	d := decide(labelled_pod({"app": "b"}, [{"app": "x"}]), object.union(by_label, with_templates))
	not d.allowed
	d.images[0].policy == "outer"
	not "warnings" in object.keys(d)
	decide(labelled_pod({"app": "b"}, [{"app": "a"}]), object.union(by_label, with_templates)).images[0].policy == "inner"
	decide(labelled_pod({}, []), object.union(by_label, with_templates)).allowed
}

# What is not known of labels is never taken for none.
test_labels_of_templates_not_known if {
	every unknown in [changed(pod, {"templateLabels": null}), pod, changed(pod, {"templateLabels": {}})] {
		d := decide(unknown, object.union(allow_all, with_templates))
		not d.allowed
		startswith(d.message, "refused: no decision could be made")
		decide(unknown, allow_all).allowed
	}
}
