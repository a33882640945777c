# METADATA
# title: Exceptions
# description: >-
#   Says whether the exceptions in force cover a vulnerability of an image.
#   A subject is {"name": repository, "keys": [name:tag, name@digest, ...]}.
package assay.covering

# METADATA
# description: >-
#   in_force(e) holds until the very moment that e expires. It is asked as two
#   positive rules: a negated comparison would hold for what has no end.
in_force(e) if not e.expires

in_force(e) if input.now < e.expires

# METADATA
# description: covered(subject, digest, image, id) holds when each record of a vulnerability is covered.
covered(subject, _, _, id) if excepted(subject, id)

covered(subject, _, image, id) if {
	some alias in image.a[id]
	excepted(subject, alias)
}

covered(subject, digest, image, id) if {
	members := data.assay.details[substring(digest, 7, 2)][digest][id]
	applicable := conditional(subject, image, id)
	count(applicable) > 0
	count(members) > 0
	every member in members {
		some e in applicable
		applies(e, member)
	}
}

# METADATA
# description: member_covered is covered for one record of a vulnerability.
member_covered(subject, _, id, _) if excepted(subject, id)

member_covered(subject, image, id, _) if {
	some alias in image.a[id]
	excepted(subject, alias)
}

member_covered(subject, image, id, member) if {
	some e in conditional(subject, image, id)
	applies(e, member)
}

# METADATA
# description: excepted(subject, id) holds when an exception without conditions names id.
excepted(_, id) if {
	some e in data.assay.exceptions.plain.any[id]
	in_force(e)
}

excepted(subject, id) if {
	some e in data.assay.exceptions.plain.repo[subject.name][id]
	in_force(e)
}

excepted(subject, id) if {
	some key in subject.keys
	some e in data.assay.exceptions.plain.image[key][id]
	in_force(e)
}

# METADATA
# description: conditional(subject, image, id) is the list of exceptions in force that packages or conditions limit.
conditional(subject, image, id) := [e |
	some name in array.concat([id], object.get(image, ["a", id], []))
	some e in reaching(data.assay.exceptions.conditional, subject, name)
	in_force(e)
]

# METADATA
# description: reaching(tree, subject, id) is the list of a tree's exceptions that name id and reach the subject.
reaching(tree, subject, id) := array.concat(
	array.concat(
		[e | some e in tree.any[id]],
		[e | some e in tree.repo[subject.name][id]],
	),
	[e | some key in subject.keys; some e in tree.image[key][id]],
)

applies(e, member) if {
	names_package(e, member)
	not ended(e, member)
}

names_package(e, _) if not e.packages

names_package(e, member) if {
	some p in e.packages
	p["package"] == member["package"]
	p.version in {"", member.version}
}

ended(e, member) if {
	e.until.fixable
	member.fixed
}

ended(e, member) if {
	e.until.kev
	member.kev
}

ended(e, member) if data.assay.classification.score_of(member) > e.until.cvss

ended(e, member) if member.epss > e.until.epss
