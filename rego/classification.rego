# METADATA
# title: Classification
# description: >-
#   Pass, Warn, Fail or Unknown for a subject: a repository name, at most one
#   tag, and a digest. What is not known for certain is Unknown, never Pass.
package assay.classification

import data.assay.covering
import data.assay.evidence
import data.assay.generated.settings
import data.assay.generated.thresholds

# METADATA
# title: result
# description: >-
#   Classifies input.image, at input.digest where that is given, at the moment
#   input.now: {"result", "digest", "max_cvss", "scanned_at", "database"}, the last
#   four only where known.
# entrypoint: true
result := status(subject) if {
	timed
} else := {"result": "Unknown"}

# METADATA
# title: explain
# description: >-
#   The result, and why it is Unknown where it is; the vulnerabilities that make it so, the
#   origin of the evidence for them, and the exceptions that name a vulnerability of the
#   image: those that reach it, and those that miss it by their end, tag, or digest.
# entrypoint: true
explain := object.union_n([result, grounds(subject, result), {"thresholds": {"warn": thresholds.warn, "fail": thresholds.fail}}]) if {
	classified
}

explain := object.union_n([result, {"unknown": cause | timed; cause := unknown({}, result)}, {
	"thresholds": {"warn": thresholds.warn, "fail": thresholds.fail},
	"vulnerabilities": [], "exceptions": [],
}]) if {
	not classified
}

classified if {
	timed
	subject
}

# METADATA
# description: >-
#   grounds(s, judged) are what explains the status judged of a subject: {"vulnerabilities",
#   "exceptions", "evidence", "unknown"}: evidence where there is some, and unknown,
#   {"why", "remedy"}, where the result is.
grounds(s, judged) := object.union_n([
	{"vulnerabilities": over_threshold(s, judged), "exceptions": exceptions_of(s, judged)},
	{"evidence": origin | origin := evidence.origin(s.name, judged.digest)},
	{"unknown": cause | cause := unknown(s, judged)},
])

# METADATA
# title: blocking
# description: >-
#   What keeps the image's maximum from being less than input.limit and, where
#   input.exploited is true, what fails by itself: each such vulnerability with its
#   records, in the order of the image's details, and for each record whether it counts,
#   is covered, fails by itself, and its score.
# entrypoint: true
blocking := [{"id": v.id, "members": members} |
	timed
	judged := status(subject)
	digest := judged.digest
	image := evidence.of(subject.name, digest)
	keys := keys_of(subject, judged)
	some v in reaching(subject, judged, input.limit, input.exploited)
	records := records_of(image, digest, v.id)
	members := [object.union(said, {"score": score_of(m) | score_of(m)}) |
		some m in records
		said := {
			"counts": count({true | counts(m)}) > 0,
			"covered": count({true | covering.member_covered(keys, image, v.id, m)}) > 0,
			"exploited": count({true | exploited(m)}) > 0,
		}
	]
]

records_of(image, digest, id) := evidence.details(image, digest)[id] if {
	true
} else := []

# METADATA
# title: manifests
# description: >-
#   The evidence of each manifest that the image may be judged by, by digest: {"image",
#   "details"}, details only where something looks at them.
manifests := {digest: object.union({"image": image}, {"details": d | d := evidence.details(image, digest)}) |
	some digest in members(subject.name, named(subject))
	image := evidence.of(subject.name, digest)
}

members(name, digest) := {member | some member in evidence.platforms(name, digest)} if {
	evidence.platforms(name, digest)
} else := {digest}

# METADATA
# description: >-
#   exceptions_of(s, judged) lists the exceptions that name a vulnerability of the image
#   judged, each with its key, whether it is in force, reaches the subject, and covers.
exceptions_of(s, judged) := [said |
	image := evidence.of(s.name, judged.digest)
	reach := keys_of(s, judged)
	some key in array.concat(reach, near(s.name, reach))
	some id in image.ids
	some name in covering.names(image, id)
	some kind in ["plain", "conditional"]
	some e in data.assay.exceptions[kind][key][name]
	force := {true | covering.in_force(e)}
	reaches := {true | key in reach}
	covers := {true | some true in force; some true in reaches; covers_all(kind, image, judged.digest, id, e)}
	said := object.union(e, {
		"cve": id, "key": key,
		"in_force": count(force) > 0, "reaches": count(reaches) > 0, "covers": count(covers) > 0,
	})
]

# near(name, reach) are the keys of exceptions for other tags and digests of a name.
near(name, reach) := [key |
	some key in data.assay.exceptions.keys[name]
	not key in reach
]

covers_all("plain", _, _, _, _)

covers_all("conditional", image, digest, id, e) if covering.all_members_covered(image, digest, id, [e])

# The engine gives the reference parsed: its name, and tag or digest.
subject := input if {
	input.name
} else := object.union(data.assay.reference.identity(input.image), object.filter(input, ["digest"]))

# keys_of(s, judged) are those of the exceptions for a subject as it was judged.
keys_of(s, judged) := covering.keys(s, named(s), judged.digest)

# named(s) is the digest that a subject's reference led to.
named(s) := s.digest if {
	s.digest
} else := evidence.tagged(s.name, s.tag)

# Without a moment that compares as text with those of the data, nothing is known.
timed if regex.match(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z$`, input.now)

# METADATA
# description: >-
#   status(s) of s = {"name", "tag", "digest"}, at most one of the last two and
#   perhaps none, is {"result", "digest", "max_cvss", "scanned_at", "database"};
#   all but the result only where known. It is total for any s. A tag means the
#   digest of its newest observation, whatever was scanned before.
status(s) := of_reference(s, s.digest) if {
	s.digest
} else := of_reference(s, evidence.tagged(s.name, s.tag)) if {
	true
} else := {"result": "Unknown"}

of_reference(s, digest) := of_image(covering.keys(s, digest, digest), digest, evidence.manifest(s.name, digest)) if {
	true
} else := of_platforms(s, digest, evidence.platforms(s.name, digest)) if {
	true
} else := {"result": "Unknown", "digest": digest}

of_platforms(s, index, platforms) := worst if {
	judged := [of_digest(s, index, digest) |
		some platform in settings.platforms
		digest := platforms[platform]
	]
	count(judged) > 0
	order := sort([[0 - rank[j.result], i] | some i, j in judged])
	times := sort([j.scanned_at | some j in judged])
	worst := object.union(judged[order[0][1]], {"scanned_at": t | some t in array.slice(times, 0, 1)})
} else := {"result": "Unknown"}

rank := {"Fail": 4, "Unknown": 3, "Warn": 2, "Pass": 1}

of_digest(s, named, digest) := of_image(covering.keys(s, named, digest), digest, evidence.of(s.name, digest)) if {
	true
} else := {"result": "Unknown", "digest": digest}

# Of packages of which nothing could be looked up it is not known that they have no vulnerabilities.
of_image(keys, digest, image) := object.union(placed, {"result": "Unknown"}) if {
	image.unplaced # most have none
	unplaced(image)
	placed := of_placed(keys, digest, image)
	placed.result != "Fail"
} else := of_placed(keys, digest, image)

unplaced(image) if {
	image.unplaced
	not thresholds.options.ignore_unplaced
}

of_placed(keys, digest, image) := {
	"result": grade(highest), "max_cvss": highest,
	"digest": digest, "scanned_at": image.at, "database": image.db,
} if {
	not thresholds.detailed
	highest := image.s[top(keys, digest, image)]
} else := {"result": "Pass", "digest": digest, "scanned_at": image.at, "database": image.db} if {
	not thresholds.detailed
} else := object.union(detailed(keys, digest, image), {"digest": digest, "scanned_at": image.at, "database": image.db})

# METADATA
# description: grade(score) is the result of a maximum score, Unknown without thresholds.
grade(score) := "Fail" if {
	score >= thresholds.fail
} else := "Warn" if {
	score >= thresholds.warn
} else := "Pass" if {
	score < thresholds.warn
} else := "Unknown"

# top is the position of the first CVE that is not covered. Of most images it is
# among the first eight.
top(keys, digest, image) := first_open(keys, digest, image, 8) if {
	true
} else := first_open(keys, digest, image, 32) if {
	true
} else := first_open(keys, digest, image, count(image.ids))

# first_open is that position among the first n, undefined when all are covered.
first_open(keys, digest, image, n) := first_not_in(ids, covering.covered(keys, digest, image, ids)) if {
	ids := array.slice(image.ids, 0, n)
}

# Beside k that are covered, it is one of the first k + 1.
first_not_in(ids, covered) := 0 if {
	count(covered) == 0
	ids[0]
} else := open[0] if {
	count(covered) < count(ids)
	open := [i |
		some i, id in array.slice(ids, 0, count(covered) + 1)
		not id in covered
	]
}

# METADATA
# description: >-
#   over_threshold(s, judged) lists {"id", "score"} of the uncovered vulnerabilities
#   that make the status judged of s Fail or Warn, the highest first.
over_threshold(s, judged) := reaching(s, judged, limits[judged.result], true) if {
	true
} else := []

# reaching lists those whose score is at or over a limit and, where exploited is true,
# those that fail by themselves.
reaching(s, judged, limit, exploited) := [{"id": id, "score": image.s[i]} |
	image := evidence.of(s.name, judged.digest)
	keys := keys_of(s, judged)
	digest := judged.digest
	over := count([1 | some score in image.s; score >= limit])
	first := array.slice(image.ids, 0, over)
	covered := covering.covered(keys, digest, image, first)
	some i, id in first
	not id in covered
] if {
	not thresholds.detailed
} else := [object.union({"id": id}, {"score": score | score := open[id].score}) |
	image := evidence.of(s.name, judged.digest)
	open := open_groups(keys_of(s, judged), judged.digest, image)
	some [_, id] in sort([[sort_key(group), id] | some id, group in open; guilty(group, limit, exploited)])
]

# METADATA
# description: >-
#   packages(s, judged) are those of the highest vulnerabilities of the image judged, with
#   what fixes them, in words, by the id of the vulnerability.
packages(s, judged) := evidence.of(s.name, judged.digest).p if {
	true
} else := {}

# METADATA
# description: >-
#   unknown(s, judged) is why the status judged of a subject is Unknown, and what would
#   make it known: {"why", "remedy"}. It is undefined where the evidence gives a result.
unknown(s, judged) := {
	"why": concat("; ", [unplaced_text(of) | some of in array.slice(image.unplaced, 0, 3)]),
	"remedy": concat("", [place_them(image.unplaced), ", or write unplaced: Ignore in the Thresholds"]),
} if {
	judged.result == "Unknown"
	image := evidence.of(s.name, judged.digest)
	unplaced(image)
} else := unscanned(s, judged) if {
	judged.result == "Unknown"
	not evident(s, judged)
}

evident(s, judged) if evidence.of(s.name, judged.digest)

unplaced_text(of) := sprintf("nothing could be looked up for %v of no known distribution", [counted(of[1])]) if {
	of[0] == ""
} else := sprintf("nothing could be looked up for %v of %v, which the vulnerability database does not have", [counted(of[1]), of[0]])

place_them(unplaced) := "say what distribution its packages are of, as in assay scan --distro debian:12" if {
	some of in unplaced
	of[0] == ""
} else := "have it scanned with a vulnerability database that has the distribution, or as the one that it is built from, as in assay scan --distro debian:12"

counted(n) := "1 package" if {
	n == 1
} else := sprintf("%v packages", [n])

# What became of the SBOM, or the error of the scan, says more than that there is no good one.
unscanned(s, judged) := {
	"why": concat("", [cause.why, "; its SBOM is there, and was matched with no vulnerability database yet"]),
	"remedy": "see that the server has a vulnerability database, and wait until it has matched the SBOM",
} if {
	evidence.waits(s.name, digest_key(judged))
	cause := without_result(s, judged)
} else := {
	"why": concat("", [cause.why, "; the last scan failed: ", failure(s, judged)]),
	"remedy": "put that right, and have it scanned again",
} if {
	cause := without_result(s, judged)
} else := without_result(s, judged)

# failure is that of the digest judged, or else of the tag.
failure(s, judged) := evidence.failure(s.name, digest_key(judged)) if {
	true
} else := evidence.failure(s.name, s.tag)

digest_key(judged) := concat("", ["@", substring(judged.digest, 7, -1)])

without_result(s, judged) := {"why": "the reference cannot be read", "remedy": "write one such as registry.example.com/shop/web:1.4"} if {
	object.get(s, "name", "") == ""
} else := scan_it(sprintf("no good scan of %v is known", [short(judged.digest)])) if {
	judged.digest == s.digest
} else := scan_it(sprintf("its tag leads to %v, of which no good scan is known", [short(judged.digest)])) if {
	judged.digest == evidence.tagged(s.name, s.tag)
} else := scan_it(sprintf("no good scan of %v is known, its image for one of the platforms %v", [short(judged.digest), concat(", ", settings.platforms)])) if {
	judged.digest
} else := {
	"why": sprintf("it is an index with an image for none of the platforms %v", [concat(", ", settings.platforms)]),
	"remedy": "use one that has such an image, or name the platforms of the nodes in AdmissionSettings",
} if {
	named(s)
} else := scan_it("no good scan of this tag is known")

scan_it(why) := {"why": why, "remedy": "have it scanned, so that its result is known"}

# short(digest) is as much of a digest as tells it from others.
short(digest) := concat("", [substring(digest, 0, 19), "…"])

limits["Fail"] := thresholds.fail

limits["Warn"] := thresholds.warn

sort_key(group) := 0 - group.score if {
	group.score
} else := 1
