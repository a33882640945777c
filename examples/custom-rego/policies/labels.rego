# METADATA
# title: Owners and tags
# description: >-
#   Every workload names the team that owns it, and none runs a tag that moves.
#   The input is the flat review: operation, kind, namespace, labels, containers.
package assay.custom.labels

reject contains reason if {
	not input.labels["shop.example.com/owner"]
	reason := sprintf("%s %s needs the label shop.example.com/owner", [input.kind, input.name])
}

# A reason with a container refuses that image only, and is reported with it.
reject contains {"container": c.container, "message": reason} if {
	some c in input.containers
	moving(c)
	reason := sprintf("%s has a tag that moves; name a version or a digest", [c.image])
}

moving(c) if {
	c.digest == ""
	c.tag in {"latest", "main", "edge"}
}

moving(c) if {
	not c.digest
	c.tag in {"latest", "main", "edge"}
}
