package assay.evidence_test

import data.assay.classification
import data.assay.evidence

digest := "sha256:ab00000000000000000000000000000000000000000000000000000000000000"

other := "sha256:cd00000000000000000000000000000000000000000000000000000000000000"

third := "sha256:ef00000000000000000000000000000000000000000000000000000000000000"

now := "2026-06-01T00:00:00.000000000Z"

image(at, score) := {"at": at, "db": "", "ids": ["CVE-1"], "s": [score]}

piece(scope, prefix, found, score) := object.union(image("9", score), {"scope": scope, "prefix": prefix, "found": found, "way": "upload", "d": {}})

claim(scope, prefix, found, member) := {"scope": scope, "prefix": prefix, "found": found, "platforms": {"linux/amd64": member}}

shop := "registry.example.com/shop"

evil := "evil.example.com/x"

# score_in(cluster, name, images, spaces) is that of the evidence which counts.
score_in(cluster, name, images, spaces) := score_by(cluster, name, images, spaces, {"platforms": []})

score_by(cluster, name, images, spaces, settings) := score if {
	score := evidence.manifest(name, digest).s[0] with input as {"cluster": cluster}
		with data.assay.indexes as {}
		with data.assay.images as {"ab": {digest: i | some i in images}}
		with data.assay.clusters as {"prod": {"spaces": ["cluster:prod", "group:live"]}, "dev": {"spaces": ["cluster:dev"]}}
		with data.assay.spaces as {space: {"evidence": {"ab": {digest: list}}} | some space, list in spaces}
		with data.assay.generated.settings as settings
}

test_without_scopes if score_in("prod", shop, [image("5", 9)], {}) == 9

test_without_evidence if {
	every cluster in ["prod", "dev", "", "none"] {
		not score_in(cluster, shop, [], {})
		not score_in(cluster, shop, [], {"cluster:other": [piece("cluster=other", "", "7", 1)]})
	}
}

# A registry speaks of its names by whole components, newer or older than all.
test_registry if {
	evils := {"shared": [piece("registry=evil.example.com", "evil.example.com/", "7", 1)]}
	every cluster in ["", "prod"] {
		score_in(cluster, shop, [image("5", 9)], evils) == 9
		score_in(cluster, evil, [image("5", 9)], evils) == 1
		score_in(cluster, "evil.example.com.cn/x", [image("5", 9)], evils) == 9
		score_in(cluster, evil, [image("8", 9)], evils) == 9
	}
}

# A cluster reads its own, its groups' and what all share; without one only the last.
test_clusters if {
	spaces := {
		"cluster:dev": [piece("cluster=dev", "", "8", 1)],
		"cluster:prod": [piece("cluster=prod", "", "6", 2)],
		"group:live": [piece("group=live", "", "7", 3)],
		"group:other": [piece("group=other", "", "9", 4)],
	}
	score_in("dev", shop, [image("5", 9)], spaces) == 1
	score_in("prod", shop, [image("5", 9)], spaces) == 3
	score_in("none", shop, [image("5", 9)], spaces) == 9
	score_in("", shop, [image("5", 9)], spaces) == 9
}

# Of what was found at one time, the scope whose text is less.
test_ties if {
	spaces := {"cluster:prod": [piece("cluster=prod", "", "5", 2)], "group:live": [piece("group=live", "", "5", 3)]}
	score_in("prod", shop, [], spaces) == 2
	score_in("prod", shop, [image("5", 9)], spaces) == 9
	score_in("prod", shop, [object.union(image("7", 9), {"found": "4"})], spaces) == 2
	score_in("prod", shop, [object.union(image("7", 9), {"found": "6"})], spaces) == 9
}

test_ways if {
	spaces := {"shared": [object.union(piece("registry=a", "", "6", 1), {"way": "node"}), piece("registry=b", "", "7", 2)]}
	score_by("", shop, [image("8", 9)], spaces, {"evidence": {"node"}}) == 1
	score_by("", shop, [image("8", 9)], spaces, {"evidence": {"node", "upload"}}) == 2
	score_by("", shop, [object.union(image("8", 9), {"way": "server"})], spaces, {"evidence": {"server"}}) == 9
	not score_by("", shop, [image("8", 9)], spaces, {"evidence": {"attested"}})
	not score_by("", shop, [image("8", 9)], {}, {"evidence": {"attested"}})
	score_by("", shop, [object.union(image("8", 9), {"way": "attested"})], {}, {"evidence": {"attested"}}) == 9
}

# The data of one cluster decides for it, whatever the input says.
test_the_cluster_of_the_data if {
	every asked in [{"cluster": "dev"}, {}] {
		spaces := evidence.spaces with input as asked
			with data.assay.cluster as {"name": "prod", "spaces": ["cluster:prod"]}
			with data.assay.clusters as {"dev": {"spaces": ["cluster:dev"]}}
		spaces == ["shared", "cluster:prod"]
	}
	evidence.spaces == ["shared"] with input as {"cluster": "dev"}
		with data.assay.cluster as {"name": "prod"}
		with data.assay.clusters as {"dev": {"spaces": ["cluster:dev"]}}
}

# --- Tags ---

tagged(cluster, shared, own) := at if {
	at := evidence.tagged(shop, "1") with input as {"cluster": cluster}
		with data.assay.names as {shop: {"1": o | some o in shared}}
		with data.assay.clusters as {"prod": {"spaces": ["cluster:prod"]}}
		with data.assay.spaces as {"cluster:prod": {"names": {shop: {"1": o | some o in own}}}}
}

test_newest_tag if {
	old := {"digest": digest, "at": "5"}
	new := {"digest": other, "at": "6"}
	tagged("prod", [old], []) == digest
	tagged("prod", [], [old]) == digest
	tagged("prod", [old], [new]) == other
	tagged("prod", [new], [old]) == other
	tagged("prod", [old], [{"digest": other, "at": "5"}]) == other
	tagged("dev", [old], [new]) == digest
	not tagged("dev", [], [new])
	not tagged("prod", [], [])
}

# --- Indexes ---

members(cluster, indexes, spaces) := platforms if {
	platforms := evidence.platforms(shop, third) with input as {"cluster": cluster}
		with data.assay.indexes as {third: x | some x in indexes}
		with data.assay.clusters as {"prod": {"spaces": ["cluster:prod"]}}
		with data.assay.spaces as {space: {"indexes": {third: list}} | some space, list in spaces}
}

test_index_by_its_bytes if {
	proven := {"platforms": {"linux/amd64": digest}, "proven": true}
	claims := {"cluster:prod": [claim("cluster=prod", "", "9", other)]}
	every cluster in ["", "prod"] {
		members(cluster, [proven], claims) == {"linux/amd64": digest}
		members(cluster, [proven], {}) == {"linux/amd64": digest}
	}
}

test_newest_claim_of_an_index if {
	claims := {"shared": [claim("registry=evil.example.com", "evil.example.com/", "9", other)], "cluster:prod": [claim("cluster=prod", "", "7", other)]}
	members("prod", [], claims) == {"linux/amd64": other}
	members("prod", [{"platforms": {"linux/amd64": digest}, "found": "6"}], claims) == {"linux/amd64": other}
	members("prod", [{"platforms": {"linux/amd64": digest}}], claims) == {"linux/amd64": other}
	members("prod", [{"platforms": {"linux/amd64": digest}, "found": "8"}], claims) == {"linux/amd64": digest}
	members("", [{"platforms": {"linux/amd64": digest}}], claims) == {"linux/amd64": digest}
	not members("", [], claims)
}

# --- What a classification makes of it ---

record := {"severity": "High", "fixed": false, "kev": false, "package": "deb/debian/x", "version": "1", "score": 9.8}

classified(exceptions) := r if {
	r := classification.explain with input as {"now": now, "image": concat(":", [shop, "1"]), "cluster": "prod"}
		with data.assay.generated.thresholds as {"warn": 7, "fail": 9, "options": {}}
		with data.assay.generated.settings as {"platforms": ["linux/amd64"]}
		with data.assay.images as {"ab": {digest: image("5", 1)}}
		with data.assay.details as {"ab": {digest: {"CVE-1": [object.union(record, {"package": "deb/debian/y"})]}}}
		with data.assay.names as {shop: {"1": {"digest": digest, "at": "5"}}}
		with data.assay.indexes as {}
		with data.assay.clusters as {"prod": {"spaces": ["cluster:prod"]}}
		with data.assay.spaces as {"cluster:prod": {"evidence": {"ab": {digest: [object.union(piece("cluster=prod", "", "7", 9.8), {"d": {"CVE-1": [record]}, "a": {"CVE-1": ["GHSA-x"]}})]}}}}
		with data.assay.exceptions as exceptions
}

# Scores, aliases and details are those of the evidence that counts.
test_all_is_read_of_one_piece if {
	r := classified({})
	r.result == "Fail"
	r.max_cvss == 9.8
	r.evidence == {"scope": "cluster=prod", "way": "upload", "found": "7"}
	classified({"ends": {"*": {"GHSA-x": "9"}}}).result == "Pass"
	x := {"packages": [{"package": "deb/debian/x", "version": ""}]}
	y := {"packages": [{"package": "deb/debian/y", "version": ""}]}
	classified({"conditional": {"*": {"CVE-1": [x]}}}).result == "Pass"
	classified({"conditional": {"*": {"CVE-1": [y]}}}).result == "Fail"
}

manifests(indexes, scanned) := m if {
	m := classification.manifests with input as {"now": now, "image": concat("@", [shop, third])}
		with data.assay.generated.settings as {"platforms": ["linux/amd64"]}
		with data.assay.images as scanned
		with data.assay.details as {"ab": {digest: {"CVE-1": [record]}}}
		with data.assay.indexes as indexes
		with data.assay.names as {}
}

test_manifests if {
	index := {third: {"platforms": {"a": digest, "b": other, "c": "sha256:none"}}}
	scanned := {"ab": {digest: image("5", 1)}, "cd": {other: image("6", 2)}, "ef": {third: image("7", 3)}}
	manifests(index, scanned) == {digest: {"image": image("5", 1), "details": {"CVE-1": [record]}}, other: {"image": image("6", 2)}}
	manifests({}, scanned) == {third: {"image": image("7", 3)}}
	manifests({}, {}) == {}
}

# --- Scans that failed ---

failure_in(cluster, names, spaces, key) := e if {
	e := evidence.failure(shop, key) with input as {"cluster": cluster}
		with data.assay.names as {shop: names}
		with data.assay.clusters as {"prod": {"spaces": ["cluster:prod"]}, "dev": {"spaces": ["cluster:dev"]}}
		with data.assay.spaces as {space: {"names": {shop: of}} | some space, of in spaces}
}

failed(at, error) := {"failed": {"at": at, "error": error}}

# An error is told where its scope is read: the last one.
test_failure if {
	names := {"1": failed("5", "no such image"), "2": {"digest": digest, "at": "9"}, "@ab": failed("4", "broken layer")}
	every cluster in ["", "prod"] {
		failure_in(cluster, names, {}, "1") == "no such image"
		failure_in(cluster, names, {}, "@ab") == "broken layer"
		not failure_in(cluster, names, {}, "2")
		not failure_in(cluster, names, {}, "3")
	}
	spaces := {"cluster:prod": {"1": failed("6", "timeout")}, "cluster:dev": {"1": failed("7", "denied"), "2": failed("1", "late")}}
	failure_in("prod", names, spaces, "1") == "timeout"
	failure_in("dev", names, spaces, "1") == "denied"
	failure_in("dev", names, spaces, "2") == "late"
	failure_in("", names, spaces, "1") == "no such image"
	not failure_in("prod", names, spaces, "2")
}

waits_in(cluster, names, spaces, key) if {
	evidence.waits(shop, key) with input as {"cluster": cluster}
		with data.assay.names as {shop: names}
		with data.assay.clusters as {"prod": {"spaces": ["cluster:prod"]}, "dev": {"spaces": ["cluster:dev"]}}
		with data.assay.spaces as {space: {"names": {shop: of}} | some space, of in spaces}
}

# That an SBOM waits is told where its scope is read.
test_waits if {
	spaces := {"cluster:prod": {"@cd": {"waits": true}}}
	every cluster in ["", "prod", "dev"] {
		waits_in(cluster, {"@ab": {"waits": true}}, spaces, "@ab")
		not waits_in(cluster, {"@ab": failed("4", "broken layer")}, spaces, "@ab")
		not waits_in(cluster, {}, spaces, "@ab")
	}
	waits_in("prod", {}, spaces, "@cd")
	not waits_in("dev", {}, spaces, "@cd")
	not waits_in("", {}, spaces, "@cd")
}

# A tag that only failed leads nowhere.
test_failure_is_no_observation if {
	every spaces in [{}, {"cluster:prod": {"x": {"digest": other, "at": "1"}}}, {"cluster:prod": {"1": failed("9", "x")}}] {
		not tagged_in("prod", {"1": failed("5", "no such image")}, spaces, "1")
	}
	tagged_in("prod", {"1": failed("5", "x")}, {"cluster:prod": {"1": {"digest": other, "at": "1"}}}, "1") == other
	tagged_in("prod", {"1": object.union(failed("5", "x"), {"digest": digest, "at": "1"})}, {}, "1") == digest
}

tagged_in(cluster, names, spaces, tag) := d if {
	d := evidence.tagged(shop, tag) with input as {"cluster": cluster}
		with data.assay.names as {shop: names}
		with data.assay.clusters as {"prod": {"spaces": ["cluster:prod"]}}
		with data.assay.spaces as {space: {"names": {shop: of}} | some space, of in spaces}
}
