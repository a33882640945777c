# METADATA
# title: Image references
# description: >-
#   Parses and normalises image references as Docker does, and gives them their
#   canonical name, in step with ParseReference of package api: a Go test holds the
#   two together.
package assay.reference

host_pattern := `^(?:(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?$`

path_pattern := `^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`

tag_pattern := `^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`

digest_pattern := `^(?:sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128}|sha384:[a-f0-9]{96})$`

# METADATA
# description: >-
#   {"name", "normal", "tag", "digest"} of a reference, tag and digest only
#   where there is one. The name is canonical: one for all spellings of a registry's
#   host, which "normal" has as written. Undefined when the reference does not parse.
parse(s) := parsed if {
	not regex.match(`^[a-f0-9]{64}$`, s)
	at := split_first(s, "@")
	well_formed_digest(at.after)
	located := locate(at.before)
	colon := split_first(located.path, ":")
	well_formed_tag(colon.after)
	path := official(located.host, colon.before)
	well_formed_host(located.host)
	regex.match(path_pattern, path)
	count(path) <= 255
	tag := default_tag(colon.after, at.after)
	parsed := object.union_n([
		{"name": canonical_name(located.host, path)},
		{"normal": concat("", [located.host, "/", path, prefixed(":", tag), prefixed("@", at.after)])},
		present("tag", tag),
		present("digest", at.after),
	])
}

# METADATA
# description: >-
#   identity(s) is what identifies an image: in name:tag@digest that is the digest
#   alone, so the tag is left out.
identity(s) := object.remove(parsed, ["tag"]) if {
	parsed := parse(s)
	parsed.digest
} else := parse(s)

# split_first cuts s around the first separator; "after" is null without one.
split_first(s, separator) := {"before": s, "after": null} if not contains(s, separator)

split_first(s, separator) := {"before": substring(s, 0, i), "after": substring(s, i + 1, -1)} if {
	i := indexof(s, separator)
	i >= 0
}

locate(name) := {"host": "docker.io", "path": name} if not has_host(name)

locate(name) := {"host": normal_host(first), "path": substring(name, count(first) + 1, -1)} if {
	has_host(name)
	first := split(name, "/")[0]
}

has_host(name) if {
	parts := split(name, "/")
	count(parts) > 1
	looks_like_host(parts[0])
}

looks_like_host("localhost")

looks_like_host(first) if contains(first, ".")

looks_like_host(first) if contains(first, ":")

looks_like_host(first) if lower(first) != first

normal_host(host) := "docker.io" if host == "index.docker.io"

normal_host(host) := host if host != "index.docker.io"

# The names of Docker Hub's registry.
hub := {"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"}

# canonical_name(host, path) has the one spelling of a host: in lower case, without the
# port of HTTPS, Docker Hub's as docker.io with the library of official images. One that
# would be read as a part of a path without its port keeps that: so the canonical form of
# a reference is its own.
canonical_name(host, path) := concat("/", ["docker.io", official("docker.io", path)]) if {
	without_https(host) in hub
	count(official("docker.io", path)) <= 255
} else := concat("/", [without_https(host), path]) if {
	looks_like_host(without_https(host))
} else := concat("", [without_https(host), ":443/", path])

without_https(host) := regex.replace(short_port(lower(host)), `:443$`, "")

short_port(host) := regex.replace(host, `:0+([0-9]+)$`, ":$1")

official(host, path) := concat("/", ["library", path]) if {
	host == "docker.io"
	not contains(path, "/")
} else := path

well_formed_host(host) if regex.match(host_pattern, host)

well_formed_host(host) if regex.match(path_pattern, host)

well_formed_digest(null)

well_formed_digest(digest) if regex.match(digest_pattern, digest)

well_formed_tag(null)

well_formed_tag(tag) if regex.match(tag_pattern, tag)

default_tag(null, null) := "latest"

default_tag(null, digest) := null if digest != null

default_tag(tag, _) := tag if tag != null

prefixed(_, null) := ""

prefixed(prefix, value) := concat("", [prefix, value]) if value != null

present(_, null) := {}

present(key, value) := {key: value} if value != null
