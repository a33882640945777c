package assay.reference_test

import data.assay.reference

digest := "sha256:ab00000000000000000000000000000000000000000000000000000000000000"

with_digest(name) := concat("@", [name, digest])

test_parse if {
	reference.parse("nginx") == {"name": "docker.io/library/nginx", "normal": "docker.io/library/nginx:latest", "tag": "latest"}
	reference.parse("nginx:1.27").normal == "docker.io/library/nginx:1.27"
	reference.parse("org/app").name == "docker.io/org/app"
	reference.parse("index.docker.io/nginx").name == "docker.io/library/nginx"
	reference.parse("quay.io/a/b:c") == {"name": "quay.io/a/b", "normal": "quay.io/a/b:c", "tag": "c"}
	reference.parse("localhost/x").name == "localhost/x"
	reference.parse("localhost:5000/x:1").name == "localhost:5000/x"
	reference.parse("Host/x") == {"name": "host:443/x", "normal": "Host/x:latest", "tag": "latest"}
	reference.parse("[::1]:5000/x").name == "[::1]:5000/x"
	reference.parse("ex_ample.com/x").name == "ex_ample.com/x"
	reference.parse(with_digest("nginx")) == {"name": "docker.io/library/nginx", "normal": with_digest("docker.io/library/nginx"), "digest": digest}
}

test_one_name_for_one_host if {
	every s in ["R.example.com/x", "r.example.com:443/x", "R.EXAMPLE.com:00443/x", "r.example.com/x"] {
		reference.parse(s).name == "r.example.com/x"
		reference.parse(s).normal == concat("", [s, ":latest"])
	}
	every s in ["index.docker.io/a", "Docker.io:443/a", "registry-1.docker.io/a", "registry-1.docker.io/library/a", "registry.hub.docker.com/library/a"] {
		reference.parse(s).name == "docker.io/library/a"
	}
	reference.parse("r.example.com:05000/x").name == "r.example.com:5000/x"
	reference.parse("docker.io:80/a").name == "docker.io:80/a"
	reference.parse("a.b:000/x").name == "a.b:0/x"
	reference.parse("[FE80::443]:443/x").name == "[fe80::443]/x"
	reference.parse("LOCALHOST:443/x").name == "localhost/x"
}

# A host that would be read as a part of a path keeps its port.
test_canonical_names_are_their_own if {
	every s in ["Foo/x", "foo:443/x", "FOO:0443/x"] {
		reference.parse(s).name == "foo:443/x"
	}
	reference.parse("foo/x").name == "docker.io/foo/x"
}

# What follows a tag identifies the image alone, but the normalised form keeps the tag.
test_identity if {
	reference.identity("nginx:1").tag == "1"
	both := reference.identity(with_digest("nginx:1"))
	both == {"name": "docker.io/library/nginx", "normal": with_digest("docker.io/library/nginx:1"), "digest": digest}
	reference.parse(with_digest("nginx:1")).tag == "1"
	not reference.identity("NGINX")
}

test_what_does_not_parse if {
	every s in [
		"", "NGINX", "a//b", "a/", "/a", "nginx:", "nginx:-x", "nginx@", "nginx@sha256:abc", "@", ":", " nginx", "nginx\n",
		"a:b:c", "-a.b/c", "localhost:x/y", "a___b", "docker.io/", "a@b@c", concat("", ["a/", substring(digest, 7, -1), "@x"]),
		substring(digest, 7, -1), upper(with_digest("nginx")),
	] {
		not reference.parse(s)
	}
}

test_lengths if {
	long := concat("", ["p" | some i in numbers.range(1, 247)])
	reference.parse(long).name == concat("", ["docker.io/library/", long])
	not reference.parse(concat("", [long, "p"]))
	reference.parse(concat("", ["registry-1.docker.io/", long])).name == concat("", ["docker.io/library/", long])
	longer := concat("", ["registry-1.docker.io/", long, "p"])
	reference.parse(longer).name == longer
	tag := concat("", ["t" | some i in numbers.range(1, 128)])
	reference.parse(concat("", ["a:", tag])).tag == tag
	not reference.parse(concat("", ["a:", tag, "t"]))
}

test_what_is_no_text_does_not_parse if {
	every x in [null, 7, [], {}, true] {
		not reference.parse(x)
	}
}
