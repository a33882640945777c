package assay.classification_test

import data.assay.classification

digest := "sha256:ab00000000000000000000000000000000000000000000000000000000000000"

other := "sha256:cd00000000000000000000000000000000000000000000000000000000000000"

now := "2026-06-01T00:00:00.000000000Z"

thresholds := {"warn": 7, "fail": 9, "options": {}}

images := {"ab": {digest: {"at": "2026-05-31T00:00:00.000000000Z", "db": "", "ids": ["CVE-1", "CVE-2", "CVE-3"], "s": [9.8, 7, 1], "a": {"CVE-1": ["GHSA-x"]}}}}

names := {"docker.io/library/nginx": {"1": {"digest": digest}, "new": {"digest": other}}}

classify(image, exceptions) := r if {
	r := classification.result with input as {"now": now, "image": image}
		with data.assay.generated.thresholds as thresholds
		with data.assay.generated.settings.platforms as ["linux/amd64"]
		with data.assay.images as images
		with data.assay.names as names
		with data.assay.indexes as {}
		with data.assay.details as {}
		with data.assay.exceptions as exceptions
}

# plain and limited are the document of exceptions without and with conditions, given by scope.
plain(scopes) := exceptions_document(tree(scopes), {})

limited(scopes) := exceptions_document({}, tree(scopes))

exceptions_document(plain_tree, conditional_tree) := {
	"plain": plain_tree,
	"conditional": conditional_tree,
	"ends": {key: {id: max([object.get(e, "expires", "9999") | some e in list]) | some id, list in by_id} | some key, by_id in plain_tree},
	"keys": {"docker.io/library/nginx": list | list := own; count(list) > 0},
} if {
	own := [key |
		some trees in [plain_tree, conditional_tree]
		some key, _ in trees
		startswith(key, "docker.io/library/nginx")
	]
}

tree(scopes) := object.union_n([
	{"*": scopes.any | scopes.any},
	object.get(scopes, "repo", {}),
	object.get(scopes, "image", {}),
])

test_by_tag if classify("nginx:1", {}) == {
	"result": "Fail", "digest": digest, "max_cvss": 9.8,
	"scanned_at": "2026-05-31T00:00:00.000000000Z", "database": "",
}

test_by_digest if classify(concat("@", ["quay.io/else", digest]), {}).result == "Fail"

# A digest that was never scanned must not fall to a default of 0, a Pass.
test_unknown_digest_is_unknown if classify(concat("@", ["nginx", other]), {}) == {"result": "Unknown", "digest": other}

test_tag_of_unscanned_digest_is_unknown if classify("nginx:new", {}).result == "Unknown"

test_unknown_tag_is_unknown if classify("nginx:2", {}) == {"result": "Unknown"}

test_bad_reference_is_unknown if classify("NGINX", {}).result == "Unknown"

test_exception_any if classify("nginx:1", plain({"any": {"CVE-1": [{}]}})).result == "Warn"

test_exception_by_alias if classify("nginx:1", plain({"any": {"GHSA-x": [{}]}})).result == "Warn"

test_exception_repo if classify("nginx:1", plain({"repo": {"docker.io/library/nginx": {"CVE-1": [{}]}}})).result == "Warn"

test_exception_tag if classify("nginx:1", plain({"image": {"docker.io/library/nginx:1": {"CVE-1": [{}]}}})).result == "Warn"

test_exception_digest if {
	key := concat("@", ["docker.io/library/nginx", digest])
	classify("nginx:1", plain({"image": {key: {"CVE-1": [{}]}}})).result == "Warn"
}

test_exception_of_another_name if classify("nginx:1", plain({"repo": {"docker.io/library/redis": {"CVE-1": [{}]}}})).result == "Fail"

test_tag_exception_not_beside_a_digest if {
	image := concat("@", ["nginx:1", digest])
	classify(concat("@", ["nginx", digest]), plain({"image": {"docker.io/library/nginx:1": {"CVE-1": [{}]}}})).result == "Fail"
	image != ""
}

test_everything_excepted_is_pass if {
	r := classify("nginx:1", plain({"any": {id: [{}] | some id in ["CVE-1", "CVE-2", "CVE-3"]}}))
	r.result == "Pass"
	not r.max_cvss
}

# An exception ends at the very second, and one that ended lends nothing to one that did not.
test_expiry_at_the_second if {
	classify("nginx:1", plain({"any": {"CVE-1": [{"expires": now}]}})).result == "Fail"
	classify("nginx:1", plain({"any": {"CVE-1": [{"expires": "2026-06-01T00:00:00.000000001Z"}]}})).result == "Warn"
	classify("nginx:1", plain({"any": {"CVE-1": [{"expires": now}, {}]}})).result == "Warn"
	classify("nginx:1", plain({"any": {"CVE-1": [{"expires": ""}]}})).result == "Fail"
}

# More exceptions than the unrolled chain is long.
test_beyond_the_unrolled_chain if {
	ids := [sprintf("CVE-%d", [i]) | some i in numbers.range(10, 29)]
	many := {"ab": {digest: {"at": now, "db": "", "ids": ids, "s": [s | some i, _ in ids; s := 10 - (i * 0.1)]}}}
	every covered in numbers.range(0, 19) {
		r := classification.result with input as {"now": now, "image": "nginx:1"}
			with data.assay.generated.thresholds as thresholds
			with data.assay.images as many
			with data.assay.names as names
			with data.assay.indexes as {}
			with data.assay.exceptions as plain({"any": {id: [{}] | some i, id in ids; i < covered}})
		r.max_cvss == 10 - (covered * 0.1)
	}
}

index := "sha256:ef00000000000000000000000000000000000000000000000000000000000000"

platforms_of(listed, wanted) := r if {
	r := classification.result with input as {"now": now, "image": concat("@", ["nginx", index])}
		with data.assay.generated.thresholds as thresholds
		with data.assay.generated.settings.platforms as wanted
		with data.assay.images as images
		with data.assay.indexes as {index: {"platforms": listed}}
		with data.assay.exceptions as {}
}

test_index_takes_the_worst if {
	platforms_of({"linux/amd64": digest, "linux/arm64": other}, ["linux/amd64", "linux/arm64"]).digest == digest
	platforms_of({"linux/amd64": digest, "linux/arm64": other}, ["linux/arm64"]).result == "Unknown"
	platforms_of({"linux/amd64": digest}, ["linux/amd64", "linux/arm64"]).result == "Fail"
	platforms_of({"linux/amd64": digest}, ["linux/s390x"]).result == "Unknown"
}

# --- The criteria beyond the score ---

detailed(options, members, exceptions) := r if {
	r := classification.result with input as {"now": now, "image": "nginx:1"}
		with data.assay.generated.thresholds as {"warn": 7, "fail": 9, "detailed": true, "options": options}
		with data.assay.images as images
		with data.assay.names as names
		with data.assay.indexes as {}
		with data.assay.details as {"ab": {digest: {"CVE-1": members}}}
		with data.assay.exceptions as exceptions
}

record := {"severity": "High", "fixed": false, "kev": false, "package": "deb/debian/x", "version": "1"}

test_severity_word if {
	detailed({"score_by_severity": true}, [record], {}).max_cvss == 7
	not detailed({"score_by_severity": true}, [object.union(record, {"severity": "Unknown"})], {}).max_cvss
	not detailed({"fail_on_kev": true}, [record], {}).max_cvss
	detailed({"score_by_severity": true}, [object.union(record, {"score": 3.1})], {}).max_cvss == 3.1
}

test_kev if {
	detailed({"fail_on_kev": true}, [object.union(record, {"kev": true})], {}) == {
		"result": "Fail", "digest": digest, "scanned_at": "2026-05-31T00:00:00.000000000Z", "database": "",
	}
	detailed({"only_fixable": false}, [object.union(record, {"kev": true})], {}).result == "Pass"
	detailed({"fail_on_kev": true}, [object.union(record, {"kev": true})], plain({"any": {"CVE-1": [{}]}})).result == "Pass"
}

test_epss if {
	detailed({"fail_on_epss": 0.5}, [object.union(record, {"epss": 0.5})], {}).result == "Fail"
	detailed({"fail_on_epss": 0.5}, [object.union(record, {"epss": 0.49})], {}).result == "Pass"
	detailed({"fail_on_epss": 0.5}, [record], {}).result == "Pass"
}

test_only_fixable if {
	detailed({"only_fixable": true}, [object.union(record, {"score": 9.9})], {}).result == "Pass"
	detailed({"only_fixable": true}, [object.union(record, {"score": 9.9, "fixed": true})], {}).result == "Fail"
}

test_grace if {
	grace := {"grace": {"days": 30, "from": "published"}}
	scored := object.union(record, {"score": 9.9})
	detailed(grace, [object.union(scored, {"published": "2026-05-02T00:00:00.000000001Z"})], {}).result == "Pass"
	detailed(grace, [object.union(scored, {"published": "2026-05-02T00:00:00.000000000Z"})], {}).result == "Fail"
	detailed(grace, [scored], {}).result == "Fail"
}

# --- Exceptions that packages or conditions limit ---

conditional(e, members) := r if {
	r := classification.result with input as {"now": now, "image": "nginx:1"}
		with data.assay.generated.thresholds as thresholds
		with data.assay.images as images
		with data.assay.names as names
		with data.assay.indexes as {}
		with data.assay.details as {"ab": {digest: {"CVE-1": members}}}
		with data.assay.exceptions as limited({"any": {"CVE-1": [e]}})
}

test_packages if {
	x := {"package": "deb/debian/x", "version": ""}
	conditional({"packages": [x]}, [record]).result == "Warn"
	conditional({"packages": [object.union(x, {"version": "1"})]}, [record]).result == "Warn"
	conditional({"packages": [object.union(x, {"version": "2"})]}, [record]).result == "Fail"
	conditional({"packages": [x]}, [record, object.union(record, {"package": "deb/debian/y"})]).result == "Fail"
	conditional({"packages": [x]}, []).result == "Fail"
	conditional({"packages": []}, [record]).result == "Fail"
}

test_until if {
	conditional({"until": {"fixable": true}}, [record]).result == "Warn"
	conditional({"until": {"fixable": true}}, [object.union(record, {"fixed": true})]).result == "Fail"
	conditional({"until": {"kev": true}}, [object.union(record, {"kev": true})]).result == "Fail"
	conditional({"until": {"kev": true}}, [object.union(record, {"fixed": true})]).result == "Warn"
	conditional({"until": {"cvss": 9}}, [object.union(record, {"score": 9})]).result == "Warn"
	conditional({"until": {"cvss": 9}}, [object.union(record, {"score": 9.1})]).result == "Fail"
	conditional({"until": {"epss": 0.5}}, [object.union(record, {"epss": 0.6})]).result == "Fail"
}

# --- Explain ---

explained(image, exceptions, members) := r if {
	r := classification.explain with input as {"now": now, "image": image}
		with data.assay.generated.thresholds as thresholds
		with data.assay.generated.settings.platforms as ["linux/amd64"]
		with data.assay.images as images
		with data.assay.names as names
		with data.assay.indexes as {}
		with data.assay.details as {"ab": {digest: {"CVE-1": members}}}
		with data.assay.exceptions as exceptions
}

test_explain if explained("nginx:1", {}, []) == {
	"result": "Fail", "digest": digest, "max_cvss": 9.8, "scanned_at": "2026-05-31T00:00:00.000000000Z", "database": "",
	"thresholds": {"warn": 7, "fail": 9},
	"vulnerabilities": [{"id": "CVE-1", "score": 9.8}],
	"exceptions": [], "evidence": {"scope": "all", "found": "2026-05-31T00:00:00.000000000Z"},
}

test_explain_plain_exceptions if {
	listed := explained("nginx:1", plain({"any": {"GHSA-x": [{"expires": now}], "CVE-1": [{"reason": "r"}], "CVE-9": [{}]}}), [record]).exceptions
	listed == [
		{"cve": "CVE-1", "key": "*", "reason": "r", "in_force": true, "reaches": true, "covers": true},
		{"cve": "CVE-1", "key": "*", "expires": now, "in_force": false, "reaches": true, "covers": false},
	]
}

test_explain_conditional_exceptions if {
	x := {"packages": [{"package": "deb/debian/x", "version": ""}]}
	y := {"packages": [{"package": "deb/debian/y", "version": ""}]}
	listed := explained("nginx:1", limited({"any": {"CVE-1": [x, y]}}), [record]).exceptions
	[[e.in_force, e.covers] | some e in listed] == [[true, true], [true, false]]
	[e.covers | some e in explained("nginx:1", limited({"any": {"CVE-1": [x]}}), []).exceptions] == [false]
}

# Those that miss by their tag or digest are listed, too, but not those of other names.
test_explain_exceptions_that_miss if {
	elsewhere := concat("@", ["docker.io/library/nginx", other])
	listed := explained(
		"nginx:1", plain({
			"repo": {"docker.io/library/redis": {"CVE-1": [{}]}},
			"image": {"docker.io/library/nginx:2": {"CVE-1": [{}]}, elsewhere: {"CVE-1": [{}]}, "docker.io/library/nginx:1": {"CVE-1": [{}]}},
		}),
		[record],
	).exceptions
	{[e.key, e.reaches, e.covers] | some e in listed} == {
		["docker.io/library/nginx:1", true, true],
		["docker.io/library/nginx:2", false, false],
		[elsewhere, false, false],
	}
	count(listed) == 3
}

test_explain_of_unknown if {
	explained("nginx:2", plain({"any": {"CVE-1": [{}]}}), []) == {
		"result": "Unknown", "thresholds": {"warn": 7, "fail": 9}, "vulnerabilities": [], "exceptions": [],
		"unknown": scan_it("no good scan of this tag is known"),
	}
	explained("nginx:new", {}, []).digest == other
}

entry(exceptions) := r if {
	r := classification.result.result with input as {"now": now, "image": "nginx:2", "digest": digest}
		with data.assay.generated.thresholds as thresholds
		with data.assay.images as images
		with data.assay.names as names
		with data.assay.indexes as {}
		with data.assay.exceptions as exceptions
}

# The digest of an entry of a scan report goes beside its tag, and exceptions for either apply.
test_given_digest if {
	entry({}) == "Fail"
	every key in ["docker.io/library/nginx:2", concat("@", ["docker.io/library/nginx", digest])] {
		entry(plain({"image": {key: {"CVE-1": [{}]}}})) == "Warn"
	}
}

# --- Thresholds and the list of vulnerabilities ---

graded(score) := r if {
	r := classification.explain with input as {"now": now, "image": "nginx:1"}
		with data.assay.generated.thresholds as thresholds
		with data.assay.images as {"ab": {digest: {"at": now, "db": "", "ids": ["CVE-1"], "s": [score]}}}
		with data.assay.names as names
		with data.assay.indexes as {}
		with data.assay.exceptions as {}
}

test_threshold_edges if {
	[graded(s).result | some s in [9.1, 9, 8.9, 7, 6.9, 0]] == ["Fail", "Fail", "Warn", "Warn", "Pass", "Pass"]
	[[v.id | some v in graded(s).vulnerabilities] | some s in [9, 8.9, 7, 6.9]] == [["CVE-1"], ["CVE-1"], ["CVE-1"], []]
}

test_covered_vulnerabilities_are_not_listed if {
	[v.id | some v in explained("nginx:1", plain({"any": {"CVE-1": [{}]}}), []).vulnerabilities] == ["CVE-2"]
	[v.id | some v in explained("nginx:1", plain({"any": {"CVE-2": [{}]}}), []).vulnerabilities] == ["CVE-1"]
}

# With the criteria beyond the score: the highest first, those without score last.
test_order_of_detailed_vulnerabilities if {
	members := {
		"CVE-1": [object.union(record, {"score": 9.1})],
		"CVE-2": [object.union(record, {"score": 9.9})],
		"CVE-3": [object.union(record, {"kev": true})],
		"CVE-0": [object.union(record, {"score": 8.9})],
		"CVE-4": [object.union(record, {"score": 1, "kev": true}), object.union(record, {"score": 9.5})],
	}
	r := classification.explain with input as {"now": now, "image": "nginx:1"}
		with data.assay.generated.thresholds as {"warn": 7, "fail": 9, "detailed": true, "options": {"fail_on_kev": true}}
		with data.assay.images as images
		with data.assay.names as names
		with data.assay.indexes as {}
		with data.assay.details as {"ab": {digest: members}}
		with data.assay.exceptions as {}
	r.result == "Fail"
	r.max_cvss == 9.9
	[v.id | some v in r.vulnerabilities] == ["CVE-2", "CVE-4", "CVE-1", "CVE-3"]
}

# Times compare as text: another form of the moment must not lend an exception life.
test_a_moment_of_another_form_is_unknown if {
	every moment in ["2026-05-31T23:00:00-05:00", "2026-06-01T00:00:00Z", "1 May", null, 5] {
		r := classification.result with input as {"now": moment, "image": "nginx:1"}
			with data.assay.generated.thresholds as thresholds
			with data.assay.images as images
			with data.assay.names as names
			with data.assay.indexes as {}
			with data.assay.exceptions as plain({"any": {"CVE-1": [{"expires": now}]}})
		r == {"result": "Unknown"}
	}
}

bare := "sha256:1200000000000000000000000000000000000000000000000000000000000000"

explained_unknown(s) := classification.unknown(s, classification.status(s))

unknown_of(s) := u if {
	u := explained_unknown(s) with input as {"now": now}
		with data.assay.generated.thresholds as thresholds
		with data.assay.generated.settings.platforms as ["linux/amd64", "linux/s390x"]
		with data.assay.images as images
		with data.assay.names as object.union(names, {"docker.io/library/nginx": {"multi": {"digest": index}, "gone": {"failed": {"at": now, "error": "no such image"}}}})
		with data.assay.indexes as {index: {"platforms": {"linux/amd64": other}}, bare: {"platforms": {"linux/arm64": other}}}
		with data.assay.details as {}
		with data.assay.exceptions as {}
}

# Why a result is Unknown, and what would make it known.
test_why_unknown if {
	unknown_of({}) == {"why": "the reference cannot be read", "remedy": "write one such as registry.example.com/shop/web:1.4"}
	unknown_of(nginx({"tag": "none"})) == scan_it("no good scan of this tag is known")
	unknown_of(nginx({})) == scan_it("no good scan of this tag is known")
	unknown_of(nginx({"tag": "new"})) == scan_it("its tag leads to sha256:cd0000000000…, of which no good scan is known")
	unknown_of(nginx({"digest": other})) == scan_it("no good scan of sha256:cd0000000000… is known")
	unknown_of(nginx({"tag": "multi"})) == scan_it("no good scan of sha256:cd0000000000… is known, its image for one of the platforms linux/amd64, linux/s390x")
	unknown_of(nginx({"digest": index})) == unknown_of(nginx({"tag": "multi"}))
	unknown_of(nginx({"digest": bare})) == {
		"why": "it is an index with an image for none of the platforms linux/amd64, linux/s390x",
		"remedy": "use one that has such an image, or name the platforms of the nodes in AdmissionSettings",
	}
	not unknown_of(nginx({"tag": "1"}))
}

# The error of the last scan is the reason, by digest before by tag.
test_why_a_scan_failed if {
	unknown_of(nginx({"tag": "gone"})) == failed_scan("no good scan of this tag is known; the last scan failed: no such image")
	of_failed({"new": {"digest": other, "at": "5", "failed": {"at": "6", "error": "denied"}}}) == failed_scan("its tag leads to sha256:cd0000000000…, of which no good scan is known; the last scan failed: denied")
	of_failed({
		"new": {"digest": other, "at": "5", "failed": {"at": "6", "error": "denied"}},
		"@cd00000000000000000000000000000000000000000000000000000000000000": {"failed": {"at": "1", "error": "a broken layer"}},
	}) == failed_scan("its tag leads to sha256:cd0000000000…, of which no good scan is known; the last scan failed: a broken layer")
}

# An SBOM that was not matched yet is the reason, before an error; one of another digest is none.
test_why_an_sbom_waits if {
	waiting := {"@cd00000000000000000000000000000000000000000000000000000000000000": {"waits": true, "failed": {"at": "1", "error": "a broken layer"}}}
	of_failed(object.union(waiting, {"new": {"digest": other, "at": "5"}})) == {
		"why": "its tag leads to sha256:cd0000000000…, of which no good scan is known; its SBOM is there, and was matched with no vulnerability database yet",
		"remedy": "see that the server has a vulnerability database, and wait until it has matched the SBOM",
	}
	of_failed(object.union(waiting, {"new": {"digest": bare, "at": "5"}})) == scan_it("its tag leads to sha256:120000000000…, of which no good scan is known")
}

of_failed(tags) := u if {
	u := explained_unknown(nginx({"tag": "new"})) with input as {"now": now}
		with data.assay.generated.thresholds as thresholds
		with data.assay.images as images
		with data.assay.names as {"docker.io/library/nginx": tags}
		with data.assay.indexes as {}
}

failed_scan(why) := {"why": why, "remedy": "put that right, and have it scanned again"}

nginx(more) := object.union({"name": "docker.io/library/nginx"}, more)

scan_it(why) := {"why": why, "remedy": "have it scanned, so that its result is known"}

# --- Packages of which nothing could be looked up ---

# of_unplaced(score, unplaced, options) is what is said of an image with one vulnerability.
of_unplaced(score, unplaced, options) := r if {
	r := classification.explain with input as {"now": now, "image": "nginx:1"}
		with data.assay.generated.thresholds as object.union(thresholds, options)
		with data.assay.images as {"ab": {digest: {"at": now, "db": "", "ids": ["CVE-1"], "s": [score], "unplaced": unplaced}}}
		with data.assay.names as names
		with data.assay.indexes as {}
		with data.assay.details as {"ab": {digest: {"CVE-1": [{"score": score, "fixed": true, "kev": false}]}}}
		with data.assay.exceptions as {}
}

some_unplaced := [["", 2], ["debian 99", 1]]

test_unplaced_packages_are_unknown if {
	every options in [{}, {"options": {"ignore_unplaced": false}}, {"detailed": true}] {
		every score, want in {9: "Fail", 8.9: "Unknown", 1: "Unknown"} {
			r := of_unplaced(score, some_unplaced, options)
			[r.result, r.max_cvss, r.scanned_at] == [want, score, now]
		}
	}
}

test_unplaced_packages_are_ignored if {
	every options in [{}, {"detailed": true}] {
		every score, want in {9: "Fail", 8.9: "Warn", 1: "Pass"} {
			r := of_unplaced(score, some_unplaced, object.union(options, {"options": {"ignore_unplaced": true}}))
			r.result == want
			not r.unknown
		}
	}
}

test_why_unplaced if {
	r := of_unplaced(8, [["", 2], ["debian 99", 1], ["a", 3], ["b", 4]], {})
	r.vulnerabilities == []
	r.unknown.why == concat("; ", [
		"nothing could be looked up for 2 packages of no known distribution",
		"nothing could be looked up for 1 package of debian 99, which the vulnerability database does not have",
		"nothing could be looked up for 3 packages of a, which the vulnerability database does not have",
	])
	r.unknown.remedy == "say what distribution its packages are of, as in assay scan --distro debian:12, or write unplaced: Ignore in the Thresholds"
	of_unplaced(8, [["debian 99", 1]], {}).unknown.remedy == concat("", [
		"have it scanned with a vulnerability database that has the distribution, or as the one that it is built from, ",
		"as in assay scan --distro debian:12, or write unplaced: Ignore in the Thresholds",
	])
	not of_unplaced(9, some_unplaced, {}).unknown
}

# Of an index, the platform that nobody scanned is told of although another one was scanned.
test_why_of_an_index_half_scanned if {
	r := classification.explain with input as {"now": now, "image": "nginx:multi"}
		with data.assay.generated.thresholds as thresholds
		with data.assay.generated.settings.platforms as ["linux/amd64", "linux/arm64"]
		with data.assay.images as {"ab": {digest: {"at": now, "db": "", "ids": [], "s": []}}}
		with data.assay.names as {"docker.io/library/nginx": {"multi": {"digest": index}}}
		with data.assay.indexes as {index: {"platforms": {"linux/amd64": digest, "linux/arm64": other}}}
		with data.assay.exceptions as {}
	[r.result, r.digest, r.scanned_at] == ["Unknown", other, now]
	r.unknown == scan_it("no good scan of sha256:cd0000000000… is known, its image for one of the platforms linux/amd64, linux/arm64")
}
