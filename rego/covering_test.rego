package assay.covering_test

import data.assay.covering

now := "2026-06-01T00:00:00.000000000Z"

later := "2026-06-01T00:00:00.000000001Z"

digest := "sha256:ab00000000000000000000000000000000000000000000000000000000000000"

subject := {"name": "docker.io/library/nginx", "tag": "1"}

keys := ["*", "docker.io/library/nginx", "docker.io/library/nginx:1"]

image := {"ids": ["CVE-1"], "a": {"CVE-1": ["GHSA-x"]}}

record := {"severity": "High", "fixed": false, "kev": false, "package": "deb/debian/x", "version": "1"}

own := {"keys": {"docker.io/library/nginx": ["docker.io/library/nginx"]}}

# A name without exceptions of its own has only those for every image.
test_keys if {
	covering.keys(subject, digest, digest) == ["*"] with data.assay.exceptions as {"keys": {"docker.io/library/redis": ["docker.io/library/redis"]}}
	covering.keys(subject, digest, digest) == ["*"] with data.assay.exceptions as {}
	name := "docker.io/library/nginx"
	at := concat("@", [name, digest])
	covering.keys(subject, digest, digest) == ["*", name, at, at, "docker.io/library/nginx:1"] with data.assay.exceptions as own
	covering.keys({"name": name}, "sha256:index", digest) == ["*", name, at, "docker.io/library/nginx@sha256:index"] with data.assay.exceptions as own
}

excepted(plain, id) if {
	covering.covered(keys, digest, image, [id]) == {id} with input as {"now": now} with data.assay.exceptions as {"ends": plain}
}

test_reach if {
	every key in keys {
		excepted({key: {"CVE-1": later}}, "CVE-1")
		excepted({key: {"GHSA-x": later}}, "CVE-1")
	}
	not excepted({"*": {"CVE-1": later}}, "CVE-2")
	not excepted({"*": {"GHSA-x": later}}, "CVE-2")
	not excepted({"*": {"CVE-1": ""}}, "CVE-1")
	not excepted({"docker.io/library/nginx:2": {"CVE-1": later}}, "CVE-1")
	not excepted({"*": {"CVE-1": now, "GHSA-x": now}}, "CVE-1")
	not excepted({}, "CVE-1")
}

in_force(e) if {
	covering.in_force(e) with input as {"now": now}
}

# Without a moment, what has an end is over.
test_in_force if {
	in_force({})
	in_force({"expires": later})
	not in_force({"expires": now})
	not in_force({"expires": ""})
	not in_force({"expires": null})
	covering.in_force({}) with input as {}
	not covering.in_force({"expires": later}) with input as {}
}

member_covered(exceptions, member) if {
	covering.member_covered(keys, image, "CVE-1", member) with input as {"now": now}
		with data.assay.exceptions as exceptions
		with data.assay.generated.thresholds as {"warn": 7, "fail": 9, "options": {}}
}

# All of a group is covered when each member is, by whichever exception.
covered(exceptions, members) if {
	covering.covered(keys, digest, image, ["CVE-1"]) == {"CVE-1"} with input as {"now": now}
		with data.assay.exceptions as exceptions
		with data.assay.details as {"ab": {digest: {"CVE-1": members}}}
		with data.assay.generated.thresholds as {"warn": 7, "fail": 9, "options": {}}
}

x := {"packages": [{"package": "deb/debian/x", "version": ""}]}

y := {"packages": [{"package": "deb/debian/y", "version": ""}]}

in_y := object.union(record, {"package": "deb/debian/y"})

limited(list) := {"conditional": {"*": {"CVE-1": list}}}

test_members_covered_by_different_exceptions if {
	covered(limited([x, y]), [record, in_y])
	covered({"conditional": {"*": {"CVE-1": [x]}, keys[1]: {"GHSA-x": [y]}}}, [record, in_y])
	covered({"conditional": {"*": {"CVE-1": [x]}, keys[2]: {"CVE-1": [y]}}}, [record, in_y])
	not covered({"conditional": {"*": {"CVE-1": [x]}, "docker.io/library/nginx:2": {"CVE-1": [y]}}}, [record, in_y])
	not covered(limited([x]), [record, in_y])
	not covered(limited([]), [record])
	not covered(limited([x]), [])
}

test_limited_exceptions_expire if {
	covered(limited([object.union(x, {"expires": later})]), [record])
	not covered(limited([object.union(x, {"expires": now})]), [record])
	not covered(limited([object.union(x, {"expires": now}), y]), [record])
}

test_each_end if {
	member_covered(limited([{"until": {"fixable": true, "kev": true, "cvss": 9, "epss": 0.5}}]), object.union(record, {"score": 9, "epss": 0.5}))
	every change in [{"fixed": true}, {"kev": true}, {"score": 9.1}, {"epss": 0.51}] {
		not member_covered(limited([{"until": {"fixable": true, "kev": true, "cvss": 9, "epss": 0.5}}]), object.union(record, change))
	}
}

test_member_covered if {
	member_covered({"ends": {"*": {"CVE-1": later}}}, record)
	member_covered({"ends": {keys[2]: {"GHSA-x": later}}}, record)
	not member_covered({"ends": {"*": {"CVE-1": now}}}, record)
	member_covered(limited([x]), record)
	not member_covered(limited([y]), record)
	not member_covered({}, record)
}
