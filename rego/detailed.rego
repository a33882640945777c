package assay.classification

import data.assay.covering
import data.assay.evidence
import data.assay.generated.thresholds

# The criteria beyond the score: they look at the records of each vulnerability,
# which are loaded only when a switch of the thresholds asks for them.

detailed(keys, digest, image) := object.union({"result": worst}, {"max_cvss": m | some m in highest}) if {
	open := open_groups(keys, digest, image)
	scores := [g.score | some g in open; g.score]
	highest := [max(scores) | count(scores) > 0]
	worst := detailed_grade(open, highest)
}

detailed_grade(open, highest) := "Fail" if {
	some group in open
	group.exploited
} else := grade(m) if {
	some m in highest
} else := "Pass"

# METADATA
# description: >-
#   open_groups(keys, digest, image) maps each vulnerability that counts and is not covered
#   to {"score", "exploited"}; score only where there is one.
open_groups(keys, digest, image) := {id: group |
	some id, members in evidence.details(image, digest)
	counted := [m | some m in members; counts(m)]
	uncovered := [m | some m in counted; not covering.member_covered(keys, image, id, m)]
	count(uncovered) > 0
	scores := [score | some m in counted; score := score_of(m)]
	group := object.union(
		{"exploited": count([m | some m in uncovered; exploited(m)]) > 0},
		{"score": max(scores) | count(scores) > 0},
	)
}

counts(member) if {
	not unfixable(member)
	not in_grace(member)
}

unfixable(member) if {
	thresholds.options.only_fixable
	not member.fixed
}

in_grace(member) if {
	since := member[thresholds.options.grace.from]
	input.now < grace_end(since)
}

grace_end(since) := time.format([
	time.parse_rfc3339_ns(since) + (((thresholds.options.grace.days * 86400) * 1000) * 1000000),
	"UTC",
	"2006-01-02T15:04:05.000000000Z",
])

score_of(member) := member.score

score_of(member) := severity_score[member.severity] if {
	not member.score
	thresholds.options.score_by_severity
}

severity_score := {"Critical": 9, "High": 7, "Medium": 4, "Low": 0.1}

exploited(member) if {
	thresholds.options.fail_on_kev
	member.kev
}

exploited(member) if member.epss >= thresholds.options.fail_on_epss

guilty(group, _, exploited) if {
	exploited
	group.exploited
}

guilty(group, limit, _) if group.score >= limit
