package assay.classification_test

import data.assay.classification
import data.assay.covering

# Each condition of classification alone; the data are those of classification_test.rego.

test_score_of_each_severity if {
	scores := {severity: score |
		some severity in ["Critical", "High", "Medium", "Low", "Negligible", "Unknown"]
		score := detailed({"score_by_severity": true}, [object.union(record, {"severity": severity})], {}).max_cvss
	}
	scores == {"Critical": 9, "High": 7, "Medium": 4, "Low": 0.1}
}

# All records covered, no score counts.
test_covered_records_have_no_score if {
	scored := object.union(record, {"score": 9.9})
	r := detailed({"fail_on_kev": true}, [scored], plain({"any": {"CVE-1": [{}]}}))
	r.result == "Pass"
	not r.max_cvss
	detailed({"fail_on_kev": true}, [scored], limited({"any": {"CVE-1": [{"packages": [{"package": "deb/debian/x", "version": ""}]}]}})).result == "Pass"
}

test_condition_of_another_kind if {
	conditional({"until": {"fixable": true}}, [object.union(record, {"kev": true})]).result == "Warn"
	conditional({"until": {}}, [object.union(record, {"kev": true, "fixed": true})]).result == "Warn"
	conditional({"until": {"epss": 0.5}}, [object.union(record, {"epss": 0.5})]).result == "Warn"
}

# An exception on conditions for what has no alias.
test_condition_on_what_has_no_alias if {
	covering.names({"a": {"CVE-1": ["GHSA-x"]}}, "CVE-1") == ["CVE-1", "GHSA-x"]
	covering.names({"a": {"CVE-1": ["GHSA-x"]}}, "CVE-2") == ["CVE-2"]
	covering.names({}, "CVE-2") == ["CVE-2"]
	r := classification.result with input as {"now": now, "image": "nginx:1"}
		with data.assay.generated.thresholds as thresholds
		with data.assay.images as {"ab": {digest: {"at": now, "db": "", "ids": ["CVE-9"], "s": [9.9]}}}
		with data.assay.names as names
		with data.assay.indexes as {}
		with data.assay.details as {"ab": {digest: {"CVE-9": [record]}}}
		with data.assay.exceptions as limited({"any": {"CVE-9": [{"packages": [{"package": "deb/debian/x", "version": ""}]}]}})
	r.result == "Pass"
}

listed(options, members) := r if {
	r := classification.explain with input as {"now": now, "image": "nginx:1"}
		with data.assay.generated.thresholds as {"warn": 7, "fail": 9, "detailed": true, "options": options}
		with data.assay.images as images
		with data.assay.names as names
		with data.assay.indexes as {}
		with data.assay.details as {"ab": {digest: members}}
		with data.assay.exceptions as {}
}

test_vulnerabilities_at_the_limit if {
	listed({}, {"CVE-1": [object.union(record, {"score": 9})]}).vulnerabilities == [{"id": "CVE-1", "score": 9}]
	listed({}, {"CVE-1": [object.union(record, {"score": 7})], "CVE-2": [object.union(record, {"score": 6.9})]}).vulnerabilities == [{"id": "CVE-1", "score": 7}]
}

# What has no score comes after all that have one.
test_unscored_come_last if {
	r := listed({"fail_on_kev": true}, {
		"CVE-1": [object.union(record, {"kev": true})],
		"CVE-2": [object.union(record, {"kev": true, "score": 0})],
		"CVE-3": [object.union(record, {"kev": true, "score": 0.1})],
		"CVE-4": [object.union(record, {"kev": true, "score": 10})],
	})
	r.vulnerabilities == [{"id": "CVE-4", "score": 10}, {"id": "CVE-3", "score": 0.1}, {"id": "CVE-2", "score": 0}, {"id": "CVE-1"}]
}

test_without_thresholds_nothing_is_known if {
	classification.grade(5) == "Unknown" with data.assay.generated.thresholds as {}
	classification.grade(5) == "Pass" with data.assay.generated.thresholds as thresholds
}

test_condition_by_an_alias if {
	x := {"packages": [{"package": "deb/debian/x", "version": ""}]}
	[r.result |
		some id in ["CVE-1", "GHSA-x", "GHSA-y"]
		r := classification.result with input as {"now": now, "image": "nginx:1"}
			with data.assay.generated.thresholds as thresholds
			with data.assay.images as images
			with data.assay.names as names
			with data.assay.indexes as {}
			with data.assay.details as {"ab": {digest: {"CVE-1": [record]}}}
			with data.assay.exceptions as limited({"any": {id: [x]}})
	] == ["Warn", "Warn", "Fail"]
}

# --- Indexes ---

third := "sha256:0100000000000000000000000000000000000000000000000000000000000000"

scanned := {
	"ab": {digest: {"at": "2026-05-31T00:00:00.000000000Z", "db": "", "ids": ["CVE-1"], "s": [9.8]}},
	"cd": {other: {"at": "2026-05-30T00:00:00.000000000Z", "db": "", "ids": ["CVE-1"], "s": [7]}},
	"01": {third: {"at": "2026-05-29T00:00:00.000000000Z", "db": "", "ids": ["CVE-1"], "s": [1]}},
}

of_index(platforms, shards) := r if {
	r := classification.result with input as {"now": now, "image": concat("@", ["nginx", index])}
		with data.assay.generated.thresholds as thresholds
		with data.assay.generated.settings.platforms as ["a", "b"]
		with data.assay.images as shards
		with data.assay.indexes as {index: {"platforms": platforms}}
		with data.assay.exceptions as {}
}

test_worst_of_two_platforms if {
	result := {digest: "Fail", "sha256:none": "Unknown", other: "Warn", third: "Pass"}
	order := [digest, "sha256:none", other, third]
	every i, j in {0: 1, 1: 2, 2: 3} {
		worse := order[i]
		better := order[j]
		every platforms in [{"a": worse, "b": better}, {"a": better, "b": worse}] {
			r := of_index(platforms, scanned)
			r.result == result[worse]
			r.digest == worse
		}
	}
}

# Its scan is as old as the oldest.
test_oldest_scan_of_an_index if {
	every platforms in [{"a": digest, "b": third}, {"a": third, "b": digest}] {
		of_index(platforms, scanned) == {
			"result": "Fail", "digest": digest, "max_cvss": 9.8,
			"scanned_at": "2026-05-29T00:00:00.000000000Z", "database": "",
		}
	}
	not of_index({"a": "sha256:none"}, scanned).scanned_at
}

test_index_without_such_platforms if {
	of_index({}, scanned) == {"result": "Unknown"}
	of_index({"c": digest}, scanned) == {"result": "Unknown"}
}

# --- Subjects ---

of_subject(s, exceptions) := r if {
	r := classification.explain with input as object.union({"now": now}, s)
		with data.assay.generated.thresholds as thresholds
		with data.assay.generated.settings.platforms as ["linux/amd64"]
		with data.assay.images as images
		with data.assay.names as names
		with data.assay.indexes as {index: {"platforms": {"linux/amd64": digest}}}
		with data.assay.details as {}
		with data.assay.exceptions as exceptions
}

# The engine gives a reference parsed.
test_subject_given_parsed if {
	name := "docker.io/library/nginx"
	of_subject({"name": name, "tag": "1"}, {}).result == "Fail"
	of_subject({"name": name, "digest": digest}, {}).result == "Fail"
	of_subject({"name": name}, {}).result == "Unknown"
	of_subject({"name": name, "tag": "1", "image": "redis:1"}, {}).result == "Fail"
}

# An exception for the index reaches the manifest that it led to, by its digest or its tag.
test_exceptions_of_an_index_are_explained if {
	key := concat("@", ["docker.io/library/nginx", index])
	document := plain({"image": {key: {"CVE-1": [{}]}}})
	by_digest := of_subject({"name": "docker.io/library/nginx", "digest": index}, document)
	by_digest.result == "Warn"
	[v.id | some v in by_digest.vulnerabilities] == ["CVE-2"]
	[[e.key, e.reaches, e.covers] | some e in by_digest.exceptions] == [[key, true, true]]
	by_tag := of_subject({"name": "docker.io/library/nginx", "tag": "1"}, document)
	by_tag.result == "Fail"
	[[e.key, e.reaches, e.covers] | some e in by_tag.exceptions] == [[key, false, false]]
}

test_explain_of_what_is_not_classified if {
	unknown := {"result": "Unknown", "thresholds": {"warn": 7, "fail": 9}, "vulnerabilities": [], "exceptions": []}
	of_subject({"image": "NGINX"}, {}) == object.union(unknown, {"unknown": {
		"why": "the reference cannot be read",
		"remedy": "write one such as registry.example.com/shop/web:1.4",
	}})
	of_subject({"name": "docker.io/library/nginx", "tag": "1", "now": "today"}, {}) == unknown
}

# --- What keeps an image from a better result ---

blocked(change, options, exceptions) := b if {
	b := classification.blocking with input as object.union({"now": now, "image": "nginx:1", "limit": 9, "exploited": true}, change)
		with data.assay.generated.thresholds as object.union(thresholds, options)
		with data.assay.images as images
		with data.assay.names as names
		with data.assay.indexes as {}
		with data.assay.details as {"ab": {digest: {"CVE-1": [
			object.union(record, {"score": 9.8}),
			object.union(record, {"score": 3, "kev": true, "fixed": true, "package": "deb/debian/y"}),
			record,
		]}}}
		with data.assay.exceptions as exceptions
}

test_blocking if {
	plainly := {"counts": true, "covered": false, "exploited": false}
	scored := [object.union(plainly, {"score": 9.8}), object.union(plainly, {"score": 3}), plainly]
	blocked({}, {}, {}) == [{"id": "CVE-1", "members": scored}]
	blocked({"limit": 7}, {}, {}) == [{"id": "CVE-1", "members": scored}, {"id": "CVE-2", "members": []}]
	blocked({"limit": 11}, {}, {}) == []
	blocked({"now": "today"}, {}, {}) == []
	blocked({"image": "NGINX"}, {}, {}) == []
	blocked({"image": "nginx:2"}, {}, {}) == []
}

said(word, options, exceptions) := [m[word] | some m in blocked({}, options, exceptions)[0].members]

test_blocking_says_of_each_record if {
	options := {"detailed": true, "options": {"only_fixable": true, "fail_on_kev": true}}
	said("counts", options, {}) == [false, true, false]
	said("exploited", options, {}) == [false, true, false]
	said("covered", options, limited({"any": {"CVE-1": [{"packages": [{"package": "deb/debian/x", "version": ""}]}]}})) == [true, false, true]
}

# What fails by itself blocks where that is asked for, whatever its score.
test_blocking_of_exploited if {
	options := {"detailed": true, "options": {"fail_on_kev": true}}
	[b.id | some b in blocked({"limit": 11}, options, {})] == ["CVE-1"]
	blocked({"limit": 11, "exploited": false}, options, {}) == []
	[b.id | some b in blocked({"limit": 9, "exploited": false}, options, {})] == ["CVE-1"]
}

# However many are covered, the first that is not makes the result.
test_beyond_what_is_looked_at_first if {
	ids := [sprintf("CVE-%d", [i]) | some i in numbers.range(100, 139)]
	every covered in [8, 9, 31, 32, 33, 39] {
		r := classification.result with input as {"now": now, "image": "nginx:1"}
			with data.assay.generated.thresholds as thresholds
			with data.assay.images as {"ab": {digest: {"at": now, "db": "", "ids": ids, "s": [s | some i, _ in ids; s := 10 - (i * 0.1)]}}}
			with data.assay.names as names
			with data.assay.indexes as {}
			with data.assay.exceptions as plain({"any": {id: [{}] | some i, id in ids; i < covered}})
		r.max_cvss == 10 - (covered * 0.1)
	}
}
