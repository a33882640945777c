# METADATA
# title: Evidence
# description: >-
#   What is known of an image, and by whom: which observation of a tag, which members of
#   an index and which evidence count for a subject, a name in a cluster at a digest.
#   Ids, scores, aliases and details are read through this package and nowhere else.
#   docs/design/021-origin.md says which scopes speak of which subjects.
package assay.evidence

import data.assay.generated.settings

# METADATA
# description: >-
#   The spaces that are read: the shared one, and those of the cluster that is decided
#   for. That is the one which the data was made for; in data of several, the one that
#   the input names, which package review never takes from an AdmissionReview.
spaces := array.concat(["shared"], data.assay.cluster.spaces) if {
	data.assay.cluster
} else := array.concat(["shared"], data.assay.clusters[input.cluster].spaces) if {
	not data.assay.cluster
} else := ["shared"]

# Where nothing has a scope, and every way counts, one look-up finds what is known.
unscoped if {
	not data.assay.spaces
	not settings.evidence
}

# Where only what all share is read, one look-up finds most.
lone if {
	count(spaces) == 1
	not settings.evidence
}

# Those of the spaces that hold anything, and the only one.
present := [space | some space in spaces; data.assay.spaces[space]]

only := present[0] if count(present) == 1

# It, where it has no claims of indexes either, and every way counts.
sole := only if {
	not data.assay.spaces[only].indexes
	not settings.evidence
}

# The ways that count: all of them where the settings name none, that which is not known too.
ways := settings.evidence if {
	settings.evidence
} else := {"", "attested", "node", "server", "upload"}

# METADATA
# description: tagged(name, tag) is the digest of the newest observation of a tag.
tagged(name, tag) := data.assay.names[name][tag].digest if {
	unscoped
} else := data.assay.names[name][tag].digest if {
	lone
} else := data.assay.spaces[only].names[name][tag].digest if {
	not data.assay.names[name][tag]
} else := max([[o.at, o.digest] | some space in spaces; o := seen(space, name, tag)])[1]

# A comprehension must not look up by a variable from outside it, here and below: OPA
# would index it, which reads everything.
seen(space, name, tag) := data.assay.names[name][tag] if {
	space == "shared"
} else := data.assay.spaces[space].names[name][tag]

# METADATA
# description: >-
#   failure(name, key) is the error of the last scan under a name that is told, where it
#   failed: by tag, or by "@" and the digits of a digest.
failure(name, key) := max([[o.failed.at, o.failed.error] | some space in spaces; o := seen(space, name, key)])[1]

# METADATA
# description: >-
#   waits(name, key) says that an SBOM handed in under a name was matched with no
#   vulnerability database yet; by "@" and the digits of a digest.
waits(name, key) if {
	some space in spaces
	seen(space, name, key).waits
}

# METADATA
# description: >-
#   platforms(name, digest) are the members of an index. Its bytes prove what they are,
#   and that a digest is one; without them the newest claim counts that speaks of the
#   name. Claims about digests whose bytes are known are not in the data.
platforms(name, digest) := index.platforms if {
	index := data.assay.indexes[digest]
	settled(index)
} else := newest(claims).platforms if {
	claims_are_read
	claims := array.concat(
		[c | c := index_of(digest)],
		[c | some space in present; some c in claims_of(space, digest); speaks(c, name)],
	)
}

settled(index) if index.proven

settled(_) if not claims_are_read

claims_are_read if {
	some space in present
	data.assay.spaces[space].indexes
}

index_of(digest) := data.assay.indexes[digest]

claims_of(space, digest) := data.assay.spaces[space].indexes[digest]

# METADATA
# description: >-
#   manifest(name, digest) is the evidence that counts for a digest which is no index.
manifest(name, digest) := data.assay.images[substring(digest, 7, 2)][digest] if {
	unscoped
	not data.assay.indexes[digest]
} else := data.assay.images[shard][digest] if {
	lone
	not data.assay.indexes[digest]
	shard := substring(digest, 7, 2)
	not data.assay.spaces.shared.indexes[digest]
	not data.assay.spaces.shared.evidence[shard][digest]
} else := piece if {
	not data.assay.indexes[digest]
	shard := substring(digest, 7, 2)
	[piece] = data.assay.spaces[sole].evidence[shard][digest]
	not data.assay.images[shard][digest]
	speaks(piece, name)
} else := of(name, digest) if not platforms(name, digest)

# METADATA
# description: >-
#   of(name, digest) is the evidence that counts for a manifest: of the pieces whose
#   scope speaks of the name and whose way counts, the one that was found last.
of(name, digest) := newest(array.concat(
	[p | p := image_of(digest); object.get(p, "way", "") in ways],
	[p | some space in present; some p in pieces_of(space, digest); p.way in ways; speaks(p, name)],
))

image_of(digest) := data.assay.images[substring(digest, 7, 2)][digest]

pieces_of(space, digest) := data.assay.spaces[space].evidence[substring(digest, 7, 2)][digest]

speaks(piece, name) if startswith(concat("", [name, "/"]), piece.prefix)

# newest(list) is what was found last; of equally old ones, that of the scope whose
# text is less.
newest(list) := list[0] if {
	count(list) == 1
} else := first if {
	last := max([found(p) | some p in list])
	scope := min([object.get(p, "scope", "all") | some p in list; found(p) == last])
	first := [p | some p in list; found(p) == last; object.get(p, "scope", "all") == scope][0]
}

found(piece) := piece.found if {
	piece.found
} else := object.get(piece, "at", "")

# METADATA
# description: >-
#   details(piece, digest) are the records of each vulnerability of evidence for a
#   digest, as far as something looks at them.
details(piece, digest) := piece.d if {
	piece.scope
} else := data.assay.details[substring(digest, 7, 2)][digest]

# METADATA
# description: >-
#   origin(name, digest) is where the evidence that counts comes from: {"scope", "way",
#   "found"}, way only where it is known.
origin(name, digest) := object.union(
	{"scope": object.get(piece, "scope", "all"), "found": found(piece)},
	{"way": way | way := piece.way; way != ""},
) if {
	piece := of(name, digest)
}
