# METADATA
# title: Classification
# description: >-
#   Pass, Warn, Fail or Unknown for a subject: a repository name, at most one
#   tag, and a digest. What is not known for certain is Unknown, never Pass.
package assay.classification

import data.assay.covering
import data.assay.generated.settings
import data.assay.generated.thresholds

# METADATA
# title: result
# description: >-
#   Classifies input.image, at input.digest where that is given, at the moment
#   input.now: {"result", "digest", "max_cvss", "scanned_at", "cves"}.
# entrypoint: true
result := object.union(shown(judged), {"cves": [c.id | some c in over_threshold(judged)]}) if {
	judged := status(subject)
} else := {"result": "Unknown", "cves": []}

# METADATA
# title: explain
# description: The result, each vulnerability at or over the threshold, and the exceptions that apply.
# entrypoint: true
explain := object.union(result, {
	"thresholds": {"warn": thresholds.warn, "fail": thresholds.fail},
	"vulnerabilities": over_threshold(judged),
	"exceptions": exceptions,
}) if {
	judged := status(subject)
}

exceptions := [object.union(e, {"cve": id, "in_force": holds(force), "covers": holds(covers)}) |
	judged := status(subject)
	image := data.assay.images[substring(judged.digest, 7, 2)][judged.digest]
	some id in image.ids
	some name in array.concat([id], object.get(image, ["a", id], []))
	some kind in ["plain", "conditional"]
	some e in covering.reaching(data.assay.exceptions[kind], judged.subject, name)
	force := {true | covering.in_force(e)}
	covers := {true | some true in force; every m in members_of(kind, judged.digest, id) { covering.applies(e, m) }}
]

holds(set) := count(set) > 0

members_of("plain", _, _) := []

members_of("conditional", digest, id) := data.assay.details[substring(digest, 7, 2)][digest][id]

# Without a moment that compares as text with those of the data, nothing is known.
subject := object.union(parsed, given) if {
	time.parse_rfc3339_ns(input.now)
	regex.match(`^.{29}Z$`, input.now)
	parsed := data.assay.reference.identity(input.image)
	given := object.filter(input, ["digest"])
}

shown(judged) := object.union_n([
	{"result": judged.result},
	{name: judged[key] | some key, name in {"digest": "digest", "max": "max_cvss", "at": "scanned_at"}},
])

# METADATA
# description: >-
#   status(s) of s = {"name", "tag", "digest"} is {"result", "subject", "digest",
#   "at", "max"}; digest, at and max only where known. Total for any s.
status(s) := of_targets(s, digest, data.assay.indexes[digest].platforms) if {
	digest := resolved(s)
	data.assay.indexes[digest]
} else := of_digest(s, digest, digest) if {
	digest := resolved(s)
} else := {"result": "Unknown"}

# A tag means the digest of its newest observation, whatever was scanned before.
resolved(s) := s.digest if {
	s.digest
} else := data.assay.names[s.name][s.tag].digest

of_targets(s, index, platforms) := worst if {
	judged := [of_digest(s, index, digest) |
		some platform in settings.platforms
		digest := platforms[platform]
	]
	count(judged) > 0
	order := sort([[0 - rank[j.result], i] | some i, j in judged])
	times := sort([j.at | some j in judged; j.at])
	worst := object.union(judged[order[0][1]], {"at": t | some t in array.slice(times, 0, 1)})
} else := {"result": "Unknown"}

rank := {"Fail": 4, "Unknown": 3, "Warn": 2, "Pass": 1}

of_digest(s, named, digest) := object.union({"subject": who, "digest": digest, "at": image.at}, verdict(who, digest, image)) if {
	image := data.assay.images[substring(digest, 7, 2)][digest]
	who := {"name": s.name, "keys": keys(s, named, digest)}
} else := {"result": "Unknown", "digest": digest}

keys(s, named, digest) := array.concat(
	[concat(":", [s.name, s.tag]) | s.tag],
	[concat("@", [s.name, d]) | some d in {named, digest}],
)

verdict(who, digest, image) := scored(who, digest, image) if {
	not thresholds.detailed
} else := detailed(who, digest, image)

scored(who, digest, image) := {"result": grade(highest), "max": highest} if {
	highest := image.s[top(who, digest, image)]
} else := {"result": "Pass"}

# METADATA
# description: grade(score) is the result of a maximum score, Unknown without thresholds.
grade(score) := "Fail" if {
	score >= thresholds.fail
} else := "Warn" if {
	score >= thresholds.warn
} else := "Pass" if {
	score < thresholds.warn
} else := "Unknown"

# top is the position of the first CVE that is not covered. The first eight are
# tried one by one, since most images stop there; what is left, all at once.
top(who, digest, image) := 0 if {
	id := image.ids[0]
	not covering.covered(who, digest, image, id)
} else := 1 if {
	id := image.ids[1]
	not covering.covered(who, digest, image, id)
} else := 2 if {
	id := image.ids[2]
	not covering.covered(who, digest, image, id)
} else := 3 if {
	id := image.ids[3]
	not covering.covered(who, digest, image, id)
} else := 4 if {
	id := image.ids[4]
	not covering.covered(who, digest, image, id)
} else := 5 if {
	id := image.ids[5]
	not covering.covered(who, digest, image, id)
} else := 6 if {
	id := image.ids[6]
	not covering.covered(who, digest, image, id)
} else := 7 if {
	id := image.ids[7]
	not covering.covered(who, digest, image, id)
} else := rest[0] if {
	rest := [i |
		some i, id in image.ids
		i > 7
		not covering.covered(who, digest, image, id)
	]
}

# METADATA
# description: >-
#   over_threshold(judged) lists {"id", "score"} of the uncovered vulnerabilities
#   that make a status Fail or Warn, the highest first.
over_threshold(judged) := [{"id": id, "score": image.s[i]} |
	limit := limits[judged.result]
	image := data.assay.images[substring(judged.digest, 7, 2)][judged.digest]
	some i, id in image.ids
	image.s[i] >= limit
	not covering.covered(judged.subject, judged.digest, image, id)
] if {
	not thresholds.detailed
} else := [object.union({"id": id}, {"score": score | score := open[id].score}) |
	open := open_groups(judged.subject, judged.digest)
	some [_, id] in sort([[sort_key(group), id] | some id, group in open; guilty(group, judged.result)])
]

limits["Fail"] := thresholds.fail

limits["Warn"] := thresholds.warn

sort_key(group) := 0 - group.score if {
	group.score
} else := 1
