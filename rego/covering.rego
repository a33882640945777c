# METADATA
# title: Exceptions
# description: >-
#   Says whether the exceptions in force cover a vulnerability of an image. keys
#   are those under which exceptions for the image are found.
package assay.covering

import data.assay.evidence

# METADATA
# description: >-
#   keys(s, named, digest) are the keys of exceptions for the subject s =
#   {"name", "tag"}, whose reference led to the digest named (an index or the
#   manifest itself) and so to the manifest digest. Most names have no exceptions
#   of their own, and only "*".
keys(s, named, digest) := array.concat(
	["*", s.name, concat("@", [s.name, digest]), concat("@", [s.name, named])],
	[concat(":", [s.name, s.tag]) | s.tag],
) if {
	data.assay.exceptions.keys[s.name]
} else := ["*"]

# METADATA
# description: >-
#   in_force(e) holds until the very moment that e expires. It is asked as two
#   positive rules: a negated comparison would hold for what has no end.
in_force(e) if not e.expires

in_force(e) if input.now < e.expires

# METADATA
# description: >-
#   covered(keys, digest, image, ids) is the set of those ids each record of which is
#   covered. It starts from the exceptions that name one of them, which are few;
#   those without conditions are known by the end of the one that lasts longest.
covered(keys, digest, image, ids) := union({
	{id |
		some key in keys
		some id, end in object.filter(data.assay.exceptions.ends[key], ids)
		input.now < end
	},
	{id |
		some id, aliases in object.filter(image.a, ids)
		some alias in aliases
		some key in keys
		input.now < data.assay.exceptions.ends[key][alias]
	},
	{id |
		some key in keys
		some id in named(data.assay.exceptions.conditional[key], image, ids)
		all_members_covered(image, digest, id, conditional(keys, image, id))
	},
})

# named(tree, image, ids) are the ids that the tree's exceptions name, or an alias of them.
named(tree, image, ids) := object.keys(object.filter(tree, ids)) | {id |
	some id, aliases in object.filter(object.get(image, "a", {}), ids)
	some alias in aliases
	tree[alias]
}

# METADATA
# description: all_members_covered(image, digest, id, list) holds when the exceptions of the list cover each record.
all_members_covered(image, digest, id, list) if {
	count(list) > 0
	members := evidence.details(image, digest)[id]
	count(members) > 0
	every member in members {
		some e in list
		applies(e, member)
	}
}

# METADATA
# description: member_covered is covered for one record of a vulnerability.
member_covered(keys, image, id, _) if {
	some name in names(image, id)
	some key in keys
	input.now < data.assay.exceptions.ends[key][name]
}

member_covered(keys, image, id, member) if {
	some e in conditional(keys, image, id)
	applies(e, member)
}

# METADATA
# description: conditional(keys, image, id) is the list of exceptions in force that packages or conditions limit.
conditional(keys, image, id) := [e |
	some key in keys
	some name in names(image, id)
	some e in data.assay.exceptions.conditional[key][name]
	in_force(e)
]

# METADATA
# description: names(image, id) are the id and its aliases in the image.
names(image, id) := array.concat([id], image.a[id]) if {
	image.a[id]
} else := [id]

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
